//! `meshd version`.

use super::{Globals, print_json};
use std::process::ExitCode;

pub(crate) fn run(globals: &Globals, self_test: bool) -> anyhow::Result<ExitCode> {
    let checked = if self_test { Some(meshd_node::self_test::run()?) } else { None };
    let version = env!("CARGO_PKG_VERSION");
    let protocol = meshd_proto::control::PROTOCOL_VERSION;
    if globals.json {
        let mut said = serde_json::json!({
            "version": version, "protocol": protocol, "os": std::env::consts::OS, "arch": std::env::consts::ARCH,
        });
        if let Some(checked) = checked {
            said["self_test"] = serde_json::json!(checked);
        }
        print_json(&said)?;
    } else {
        println!(
            "meshd {version} ({} {}, protocol {protocol})",
            std::env::consts::OS,
            std::env::consts::ARCH
        );
        if let Some(checked) = checked {
            println!("self-test passed: {}", checked.join(", "));
        }
    }
    Ok(ExitCode::SUCCESS)
}
