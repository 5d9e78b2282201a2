//! What the person sees: where it is, as text with a QR code or as JSON, and why it is nowhere.

use super::config::Ports;
use super::wish::{Speaks, Wish};
use super::{Globals, Me};
use crate::cli;
use crate::cmd::print_json;
use crate::output::{self, CliError};
use meshd_proto::expose::{Place, Published, WEB_PORT};
use meshd_proto::localapi::Exposed;
use serde_json::json;
use std::io::IsTerminal;

/// Where it is in the mesh.
pub(super) fn in_mesh(
    globals: &Globals,
    wish: &Wish,
    ports: &Ports,
    me: &Me,
    args: &cli::Expose,
) -> anyhow::Result<()> {
    let scheme = scheme(wish.speaks);
    let url = match (wish.speaks, ports.stream) {
        (Speaks::Http, 80) => format!("http://{}/", me.fqdn),
        (_, port) => format!("{scheme}://{}:{port}", me.fqdn),
    };
    show(globals, &[url], wish, args)?;
    if !globals.json {
        println!("Members of the mesh reach it, as far as the policy lets them. For others: --public");
    }
    Ok(())
}

/// What was said last.
#[derive(Default)]
pub(super) struct Said {
    urls: Vec<String>,
    refused: Vec<String>,
    ever: bool,
}

impl Said {
    /// Tells what is new. A first answer that refuses everything is an error: nothing comes of it.
    pub(super) fn tell(
        &mut self,
        globals: &Globals,
        wish: &Wish,
        exposed: &Exposed,
        args: &cli::Expose,
    ) -> anyhow::Result<()> {
        if exposed.claims.len() < wish.public.len() {
            return Ok(());
        }
        let refused: Vec<&Published> = exposed.claims.iter().filter(|c| !c.refused.is_empty()).collect();
        if let (Some(first), false, true) =
            (refused.first(), self.ever, refused.len() == exposed.claims.len())
        {
            return Err(CliError::new(first.refused.clone(), first.hint.clone()).into());
        }
        self.ever = true;
        let urls = urls(wish, exposed);
        if urls != self.urls {
            show(globals, &urls, wish, args)?;
            if !globals.json {
                advice(wish, exposed);
            }
            self.urls = urls;
        }
        let reasons: Vec<String> = refused.iter().map(|p| format!("{}\n  {}", p.refused, p.hint)).collect();
        if reasons != self.refused {
            reasons.iter().for_each(|reason| eprintln!("Not published: {reason}"));
            self.refused = reasons;
        }
        Ok(())
    }
}

fn scheme(speaks: Speaks) -> &'static str {
    match speaks {
        Speaks::Http => "http",
        Speaks::Tcp => "tcp",
        Speaks::Udp => "udp",
        Speaks::Tls => "https",
    }
}

fn urls(wish: &Wish, exposed: &Exposed) -> Vec<String> {
    let mut out = Vec::new();
    let by_name = matches!(wish.speaks, Speaks::Http | Speaks::Tls);
    if by_name && exposed.claims.iter().any(|c| c.places.iter().any(|p| p.port == u32::from(WEB_PORT))) {
        out.extend(wish.names().iter().map(|name| format!("https://{name}/")));
    }
    let ports =
        exposed.claims.iter().flat_map(|c| &c.places).filter(|p| !by_name || p.port != u32::from(WEB_PORT));
    out.extend(ports.map(|p| format!("{}://{}:{}", scheme(wish.speaks), host(p), p.port)));
    out
}

fn host(place: &Place) -> String {
    match place.addrs.first() {
        _ if !place.name.is_empty() => place.name.clone(),
        Some(v6) if v6.contains(':') => format!("[{v6}]"),
        Some(v4) => v4.clone(),
        None => place.exit.clone(),
    }
}

fn show(globals: &Globals, urls: &[String], wish: &Wish, args: &cli::Expose) -> anyhow::Result<()> {
    if globals.json {
        print_json(&json!({ "urls": urls, "target": wish.target.to_string() }))?;
        return Ok(());
    }
    for url in urls {
        println!("{url}  →  {}", wish.target);
    }
    if let (Some(url), false, true) = (urls.first(), args.no_qr, std::io::stdout().is_terminal()) {
        println!("\n{}", output::qr(url)?);
    }
    Ok(())
}

/// What a person does next.
fn advice(wish: &Wish, exposed: &Exposed) {
    let addrs: Vec<&str> =
        exposed.claims.iter().flat_map(|c| &c.places).flat_map(|p| &p.addrs).map(String::as_str).collect();
    let first = addrs.first().copied().unwrap_or("the exit's address");
    if wish.names().is_empty() {
        if wish.speaks == Speaks::Http {
            println!(
                "This is plain HTTP: the exit and the networks on the way can read it. For HTTPS, point a name \
                 of yours at {first} and run it with --public that.name"
            );
        }
    } else {
        let mut unique: Vec<&str> = addrs.clone();
        unique.sort_unstable();
        unique.dedup();
        println!("The name has to lead to {} in the DNS.", unique.join(" and "));
    }
}
