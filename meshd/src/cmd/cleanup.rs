//! `meshd cleanup`: what a killed daemon left on the host is undone. Run by the unit's `ExecStopPost`
//! and safe at any time when no daemon runs.

use super::{Globals, print_json};
use crate::cli::Cleanup;
use crate::client;
use crate::output::CliError;
use meshd_node::DaemonConfig;
use std::process::ExitCode;

pub(crate) fn run(globals: &Globals, args: &Cleanup) -> anyhow::Result<ExitCode> {
    if client::daemon_runs(&globals.socket) {
        return Err(CliError::usage(
            "a daemon is running: it looks after the host itself",
            "use `meshd down`",
        )
        .into());
    }
    // A file that cannot be read is the daemon's trouble: the host is put back all the same.
    if let Ok(config) = DaemonConfig::load(&args.config) {
        meshd_node::steps::watch(config.stop_file);
    }
    meshd_node::cleanup(&args.state_dir)?;
    match globals.json {
        true => print_json(&serde_json::json!({ "cleaned": true }))?,
        false => println!("nothing that meshd set is left on this host"),
    }
    Ok(ExitCode::SUCCESS)
}
