//! `meshd export wg-quick NAME`: a configuration for a device with the plain WireGuard app.
//!
//! The key pair is made here and shown once; the coordinator learns the public key only.

use super::{Globals, print_json};
use crate::cli::Export;
use crate::client;
use crate::output::{self, CliError};
use meshd_proto::NodeSecret;
use meshd_proto::localapi::{Ask, Device, DeviceConfig, Tell};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;
use zeroize::Zeroizing;

/// Seconds between keepalives: below the usual lifetime of a NAT mapping.
const KEEPALIVE: u32 = 25;

pub(crate) fn run(globals: &Globals, what: &Export) -> anyhow::Result<ExitCode> {
    let Export::WgQuick { name, no_qr, preshared_key } = what;
    let secret = NodeSecret::from_bytes(*random()?);
    let preshared = if *preshared_key { Some(random()?) } else { None };
    let ask = Ask::CreateDevice(Device {
        name: name.clone(),
        public_key: secret.public().to_string(),
        preshared_key: preshared.as_ref().map(|key| key.to_vec()),
    });
    let mut answers = client::ask(&globals.socket, ask)?.with_timeout(Duration::from_secs(15));
    let mut config = None;
    while let Some(tell) = answers.next()? {
        if let Tell::Device(found) = tell {
            config = Some(found);
            break;
        }
    }
    let config = config.ok_or_else(|| CliError::new("the daemon gave no configuration", ""))?;
    let private = Zeroizing::new(secret.to_base64());
    let preshared = preshared.map(|key| Zeroizing::new(NodeSecret::from_bytes(*key).to_base64()));
    let text = Zeroizing::new(wg_quick(&config, &private, preshared.as_ref().map_or("", |key| key)));
    if globals.json {
        print_json(&serde_json::json!({ "name": name, "config": *text, "device": config }))?;
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", *text);
    if !no_qr && std::io::stdout().is_terminal() {
        println!("\n{}", output::qr(&text)?);
        eprintln!(
            "Scan it with the WireGuard app, or save the text as {name}.conf. It is stored nowhere: keep it secret."
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn random() -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|e| anyhow::anyhow!("no entropy from the kernel: {e}"))?;
    Ok(bytes)
}

fn wg_quick(config: &DeviceConfig, private_key: &str, preshared_key: &str) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{key} = {value}");
        }
    };
    let mut dns = config.dns.clone();
    if !config.search.is_empty() {
        dns.push(config.search.clone());
    }
    line("[Interface]\nPrivateKey", private_key);
    line("Address", &config.addresses.join(", "));
    line("DNS", &dns.join(", "));
    line("\n[Peer]\nPublicKey", &config.peer_key);
    line("PresharedKey", preshared_key);
    line("AllowedIPs", &config.allowed_ips.join(", "));
    line("Endpoint", &config.endpoint);
    line("PersistentKeepalive", &KEEPALIVE.to_string());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_what_wg_quick_reads() {
        let config = DeviceConfig {
            addresses: vec!["100.71.0.9/32".into(), "fd7a::9/128".into()],
            peer_key: "PEERKEY=".into(),
            endpoint: "198.51.100.7:41820".into(),
            allowed_ips: vec!["100.71.0.0/16".into(), "192.168.1.0/24".into()],
            dns: vec!["100.71.0.53".into()],
            search: "home.internal".into(),
        };
        insta::assert_snapshot!(wg_quick(&config, "SECRET=", ""));
        let shared = wg_quick(&config, "SECRET=", "SHARED=");
        assert!(shared.contains("[Peer]\nPublicKey = PEERKEY=\nPresharedKey = SHARED=\n"), "{shared}");
        assert!(output::qr(&shared).unwrap().lines().count() > 20);
    }
}
