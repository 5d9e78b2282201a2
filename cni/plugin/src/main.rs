//! `meshd-cni`: the CNI plugin (CNI spec 1.1). A runtime starts it for one command, with the command in
//! `CNI_COMMAND` and the network configuration on standard input; result or error go to standard output.
//!
//! This release answers `VERSION`, and `DEL` with success since it never set anything up. Every other
//! command is answered with an error object. It touches no interface and no file.

mod reply;

use reply::{Reply, reply_to};
use std::io::Read;
use std::process::ExitCode;

/// A network configuration is small; the rest is not read.
const MAX_INPUT: u64 = 1 << 20;

fn main() -> ExitCode {
    let mut input = Vec::new();
    let read = std::io::stdin().take(MAX_INPUT).read_to_end(&mut input);
    let reply = match read {
        Ok(_) => reply_to(std::env::var("CNI_COMMAND").ok().as_deref(), &input),
        Err(e) => Reply::io_failure(&e),
    };
    if let Some(json) = reply.output() {
        println!("{json}");
    }
    if reply.is_error() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
