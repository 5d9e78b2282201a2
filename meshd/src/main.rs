//! `meshd`: the command line of a node, and its daemon.
//!
//! This file only parses, dispatches and turns an error into a message and an exit status.

mod approval;
mod cli;
mod client;
mod clock;
mod cmd;
mod output;
mod service;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let json = cli.json;
    match cmd::run(cli) {
        Ok(code) => code,
        Err(error) => {
            match json {
                true => eprintln!("{:#}", output::failure_json(&error)),
                false => eprint!("{}", output::failure(&error, output::stderr_style())),
            }
            ExitCode::from(output::exit_code(&error))
        }
    }
}
