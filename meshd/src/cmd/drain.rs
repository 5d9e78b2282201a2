//! `meshd drain`: this router takes no new flows for the networks behind it.

use super::Globals;
use crate::cli::Drain;
use crate::client;
use meshd_proto::localapi::{self, Ask};
use std::process::ExitCode;

pub(crate) fn run(globals: &Globals, args: &Drain) -> anyhow::Result<ExitCode> {
    let mut answers = client::ask(&globals.socket, Ask::Drain(localapi::Drain { on: !args.off }))?;
    while answers.next()?.is_some() {}
    if !globals.json {
        println!(
            "{}",
            if args.off {
                "This router takes new flows again."
            } else {
                "Nodes that have another router for the same networks send new flows there; flows that \
                 run stay here until they end. `meshd drain --off` takes it back."
            }
        );
    }
    Ok(ExitCode::SUCCESS)
}
