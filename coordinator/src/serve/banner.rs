//! What `serve` says once it is ready. A join token goes to a terminal and nowhere else.

use super::outside::{Outside, Reach};
use super::{Challenge, ServeOptions};
use crate::certificate::Certificates;
use crate::clock;
use crate::model::MeshSettings;
use crate::service::{Actor, Service, TokenRequest};
use anyhow::Result;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

const FIRST_TOKEN_LIFETIME: u64 = 24 * 3600;
const FIRST_TOKEN_USES: u32 = 10;
const TOKEN_COMMAND: &str = "meshd-coordinator token create";
const LINK_COMMAND: &str = "meshd-coordinator admin-link";

/// What is served.
pub(super) struct Facts<'a> {
    pub(super) mesh: &'a MeshSettings,
    pub(super) outside: &'a Outside,
    pub(super) port: u16,
    pub(super) udp_ports: Option<(u16, Option<u16>)>,
    pub(super) certificates: &'a Certificates,
    /// How names are proved to an authority, where a certificate is ordered.
    pub(super) proof: Option<Challenge>,
}

pub(super) async fn print(options: &ServeOptions, service: &Service, facts: &Facts<'_>) -> Result<()> {
    let mesh = facts.mesh;
    tracing::info!(
        mesh = %mesh.name, domain = %mesh.domain, prefix = %mesh.prefixes.v4, prefix6 = %mesh.prefixes.v6,
        addresses = ?mesh.addresses, "ready"
    );
    let mut out = std::io::stdout().lock();
    if options.json {
        writeln!(out, "{}", json(facts))?;
        return Ok(out.flush()?);
    }
    if !out.is_terminal() {
        drop(out);
        tracing::info!(tcp = facts.port, udp = %udp_text(facts.udp_ports), "open these ports");
        if let Some(note) = note(facts) {
            tracing::warn!("{note}");
        }
        tracing::info!("join a machine: `{TOKEN_COMMAND}` prints the command");
        tracing::info!("administer the mesh: `{LINK_COMMAND}` prints a link for an owner");
        return Ok(());
    }
    drop(out);
    let token = first_token(service).await?;
    let link = first_link(service).await?;
    let text = text(facts, token.as_deref().map(String::as_str), link.as_deref().map(String::as_str));
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// A token for the first machines, when none was ever made.
async fn first_token(service: &Service) -> Result<Option<zeroize::Zeroizing<String>>> {
    if !service.tokens(&Actor::System).await?.is_empty() {
        return Ok(None);
    }
    let request = TokenRequest {
        uses: FIRST_TOKEN_USES,
        lifetime: FIRST_TOKEN_LIFETIME,
        note: "first token".to_owned(),
        ..TokenRequest::default()
    };
    let new = service.create_token(&Actor::System, &request, clock::unix_now()).await?;
    Ok(Some(new.token.to_text()))
}

/// The secret of a link that makes the first owner, while nobody has an account.
async fn first_link(service: &Service) -> Result<Option<zeroize::Zeroizing<String>>> {
    if !service.has_no_account().await? {
        return Ok(None);
    }
    Ok(Some(service.create_admin_link(&Actor::System, clock::unix_now()).await?.secret))
}

fn text(facts: &Facts<'_>, token: Option<&str>, link: Option<&str>) -> String {
    let (mesh, mut out) = (facts.mesh, String::new());
    let _ =
        writeln!(out, "Mesh `{}`: {}, {}, {}", mesh.name, mesh.domain, mesh.prefixes.v4, mesh.prefixes.v6);
    let _ = writeln!(out, "Reached at {}", facts.outside.addresses.join(", "));
    let _ = writeln!(out, "\nOpen these ports to the internet:");
    let _ = writeln!(out, "  TCP {:<12} control channel, API and pages", facts.port);
    if facts.udp_ports.is_some() {
        let _ = writeln!(out, "  UDP {:<12} relay and STUN", udp_text(facts.udp_ports));
    }
    if let Some(note) = note(facts) {
        let _ = writeln!(out, "\n{note}");
    }
    let place = facts.outside.addresses.first().cloned().unwrap_or_default();
    match link {
        Some(link) => {
            let _ =
                writeln!(out, "\nAdminister the mesh (one use, one hour):\n  https://{place}/welcome/{link}");
        }
        None => {
            let _ = writeln!(out, "\nAdminister the mesh: https://{place}/");
        }
    }
    let fingerprint = facts.certificates.own_fingerprint();
    let names = facts.certificates.wanted().join(", ");
    match (facts.proof, facts.certificates.issued(clock::unix_now())) {
        (None, _) => {
            let _ = writeln!(out, "  Certificate, SHA-256: {fingerprint}");
        }
        (Some(_), Some(issued)) => {
            let _ = writeln!(
                out,
                "  Certificate for {names}: by an authority, until {}",
                clock::show(issued.ends)
            );
        }
        (Some(proof), None) => {
            let _ = writeln!(
                out,
                "  Certificate for {names}: being ordered ({proof}; `meshd-coordinator status` tells).\n  Until it is there, a self-made one, SHA-256: {fingerprint}"
            );
        }
    }
    match token {
        Some(token) => {
            let _ = writeln!(out, "\nJoin a machine (24 hours, 10 machines):\n  sudo meshd up {token}");
        }
        None => {
            let _ = writeln!(out, "\nJoin a machine: `{TOKEN_COMMAND}` prints the command.");
        }
    }
    let _ = writeln!(out);
    out
}

/// What stands between this machine and the internet, said honestly.
fn note(facts: &Facts<'_>) -> Option<String> {
    let ports = match facts.udp_ports {
        Some(_) => format!("TCP {} and UDP {}", facts.port, udp_text(facts.udp_ports)),
        None => format!("TCP {}", facts.port),
    };
    match facts.outside.reach {
        Reach::Told | Reach::Public => None,
        Reach::Private(ip) => Some(format!(
            "This machine has only the private address {ip}: machines elsewhere do not reach it there. If it is behind \
             a router or a 1:1 NAT, forward {ports} to {ip} and start it with --public and its public name or address."
        )),
        Reach::Mapped { own, outside } => Some(format!(
            "This machine has only the private address {own}; the internet sees it as {outside}. Behind a 1:1 NAT, as \
             most clouds have it, let {ports} in there; behind a router, forward them to {own}. If {outside} changes \
             from time to time, start it with --public and a name that follows it."
        )),
        Reach::LoopbackOnly => Some(
            "This machine has no address but loopback: only programs on it can join. Start it with --public and the \
             name or address others reach it at."
                .to_owned(),
        ),
    }
}

fn udp_text(ports: Option<(u16, Option<u16>)>) -> String {
    match ports {
        None => "none".to_owned(),
        Some((relay, None)) => relay.to_string(),
        Some((relay, Some(stun))) => format!("{relay}, {stun}"),
    }
}

fn json(facts: &Facts<'_>) -> serde_json::Value {
    let udp: Vec<u16> = facts.udp_ports.map_or(Vec::new(), |(a, b)| std::iter::once(a).chain(b).collect());
    serde_json::json!({
        "ready": true,
        "mesh": facts.mesh.name,
        "domain": facts.mesh.domain,
        "prefix_v4": facts.mesh.prefixes.v4,
        "prefix_v6": facts.mesh.prefixes.v6,
        "addresses": facts.outside.addresses,
        "reachable": matches!(facts.outside.reach, Reach::Told | Reach::Public),
        "tcp_ports": [facts.port],
        "udp_ports": udp,
        "certificate_sha256": facts.certificates.own_fingerprint(),
        "token_command": TOKEN_COMMAND,
        "admin_link_command": LINK_COMMAND,
    })
}

#[cfg(test)]
mod tests;
