//! `meshd logs`.

use super::{Globals, print_json};
use crate::cli::Logs;
use crate::client;
use meshd_proto::localapi::{self, Ask, Tell};
use std::process::ExitCode;

pub(crate) fn run(globals: &Globals, args: &Logs) -> anyhow::Result<ExitCode> {
    let ask = Ask::Logs(localapi::Logs { lines: args.lines, follow: args.follow });
    let mut answers = client::ask(&globals.socket, ask)?;
    while let Some(tell) = answers.next()? {
        match tell {
            Tell::LogLine(line) if globals.json => print_json(&serde_json::json!({ "line": line }))?,
            Tell::LogLine(line) => println!("{line}"),
            _ => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}
