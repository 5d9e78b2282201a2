//! `meshd status` and `meshd routes`.

use super::{Globals, print_json};
use crate::client;
use crate::output::{self, CliError};
use meshd_proto::localapi::{Ask, Empty, Status, Tell};
use std::process::ExitCode;
use std::time::Duration;

/// Which part to show.
pub(crate) enum View {
    Whole,
    Counters,
    Routes,
}

impl View {
    /// The view that the command line asks for.
    pub(crate) const fn of(args: &crate::cli::Status) -> Self {
        if args.counters { Self::Counters } else { Self::Whole }
    }
}

pub(crate) fn run(globals: &Globals, view: View) -> anyhow::Result<ExitCode> {
    let status = fetch(globals)?;
    let style = output::stdout_style();
    match (globals.json, view) {
        (true, View::Whole) => print_json(&status)?,
        (true, View::Counters) => print_json(&counters_json(&status))?,
        (true, View::Routes) => print_json(&routes_json(&status))?,
        (false, View::Whole) => print!("{}", output::status(&status, style)),
        (false, View::Counters) => print!("{}", output::counters(&status, style)),
        (false, View::Routes) => print!("{}", output::routes(&status, style)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the daemon how it is.
pub(crate) fn fetch(globals: &Globals) -> Result<Status, CliError> {
    let mut answers =
        client::ask(&globals.socket, Ask::Status(Empty {}))?.with_timeout(Duration::from_secs(10));
    while let Some(tell) = answers.next()? {
        if let Tell::Status(status) = tell {
            return Ok(*status);
        }
    }
    Err(CliError::new("the daemon gave no status", "after an upgrade, restart it: `systemctl restart meshd`"))
}

fn counters_json(status: &Status) -> serde_json::Value {
    serde_json::json!({
        "peers": status.peers.iter().map(|p| {
            serde_json::json!({ "name": p.name, "rx_bytes": p.rx_bytes, "tx_bytes": p.tx_bytes })
        }).collect::<Vec<_>>(),
        "rules": status.rules,
        "drops": status.drops,
    })
}

fn routes_json(status: &Status) -> serde_json::Value {
    let me = status.me.as_ref();
    serde_json::json!({
        "approved": me.map(|m| m.approved_routes.clone()).unwrap_or_default(),
        "draining": me.is_some_and(|m| m.draining),
        "pending": me.map(|m| m.pending_routes.clone()).unwrap_or_default(),
        "peers": status.peers.iter().filter(|p| !p.routes.is_empty()).map(|p| {
            serde_json::json!({ "name": p.name, "routes": p.routes, "unused": p.unused_routes, "path": p.path })
        }).collect::<Vec<_>>(),
    })
}
