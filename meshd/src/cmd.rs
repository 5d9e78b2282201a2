//! One file per command. Each gets its arguments and the globals, and returns an exit status or an error.

mod cleanup;
mod completions;
mod daemon;
mod dns;
mod down;
mod drain;
mod export;
mod expose;
mod logs;
mod netcheck;
mod path;
mod paths;
mod ping;
mod propose;
mod set;
mod status;
mod up;
mod version;

use crate::cli::{Cli, Command};
use std::path::PathBuf;
use std::process::ExitCode;

/// What every command may need.
pub(crate) struct Globals {
    pub(crate) json: bool,
    pub(crate) socket: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Whatever the command reports; `main` prints it.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let socket = paths::socket(cli.socket, &cli.command);
    let globals = Globals { json: cli.json, socket };
    match cli.command {
        Command::Up(args) => up::run(&globals, args),
        Command::Down(args) => down::run(&globals, &args),
        Command::Status(args) => status::run(&globals, status::View::of(&args)),
        Command::Routes => status::run(&globals, status::View::Routes),
        Command::Ping(args) => ping::run(&globals, &args),
        Command::Netcheck => netcheck::run(&globals),
        Command::Path(args) => path::run(&globals, &args),
        Command::Drain(args) => drain::run(&globals, &args),
        Command::Set(args) => set::run(&globals, args),
        Command::Dns(what) => dns::run(&globals, &what),
        Command::Logs(args) => logs::run(&globals, &args),
        Command::Expose(args) => expose::run(&globals, *args),
        Command::Export(what) => export::run(&globals, &what),
        Command::Version { self_test } => version::run(&globals, self_test),
        Command::Run(args) => daemon::run(&globals, &args),
        Command::Cleanup(args) => cleanup::run(&globals, &args),
        Command::Completions { shell } => completions::shell(shell),
        Command::SuperviseDns { state_dir, lease } => {
            meshd_node::supervise_dns(&state_dir, &lease)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { dir } => completions::man(&dir),
    }
}

/// Prints a value as JSON on one line of its own, pretty on a terminal.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
