//! `meshd version`.

use super::{Globals, print_json};
use std::process::ExitCode;

pub(crate) fn run(globals: &Globals) -> anyhow::Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let protocol = meshd_proto::control::PROTOCOL_VERSION;
    if globals.json {
        print_json(&serde_json::json!({
            "version": version, "protocol": protocol, "os": std::env::consts::OS, "arch": std::env::consts::ARCH,
        }))?;
    } else {
        println!(
            "meshd {version} ({} {}, protocol {protocol})",
            std::env::consts::OS,
            std::env::consts::ARCH
        );
    }
    Ok(ExitCode::SUCCESS)
}
