//! `meshd-cni`: the CNI plugin (CNI specification 1.1; 1.0.0 and 0.4.0 are spoken, too). A runtime starts it
//! for one command, with the command in `CNI_COMMAND` and the network configuration on standard input;
//! result or error go to standard output as JSON.
//!
//! It gives a pod addresses of the node's pod CIDRs, a veth pair and routes ([`net`]), and keeps its books
//! in a file ([`store`]). It runs no daemon, asks nobody over a network and reads no clock.

mod command;
mod config;
mod failure;
mod ledger;
mod net;
mod range;
mod request;
mod result;
mod store;

use config::{Input, MAX_INPUT, Version};
use failure::Failure;
use request::Request;
use serde_json::Value;
use std::io::{Read, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let (output, status) = match answer() {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(json)) => (json, ExitCode::SUCCESS),
        Err(json) => (json, ExitCode::FAILURE),
    };
    match writeln!(std::io::stdout(), "{output}") {
        Ok(()) => status,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The object for standard output, or the error's.
fn answer() -> Result<Option<Value>, Value> {
    let newest = Version::V1_1_0.text();
    let tell = |version: &str, failure: Failure| failure.to_json(version);
    let request = Request::parse(|name| std::env::var_os(name)).map_err(|f| tell(newest, f))?;
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(MAX_INPUT as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| tell(newest, Failure::io("cannot read standard input", &e)))?;
    let input = Input::parse(&bytes).map_err(|f| tell(newest, f))?;
    let version = input.version.clone();
    command::run(&request, input).map_err(|f| tell(&version, f))
}
