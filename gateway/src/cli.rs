//! The command line of `meshd-gateway`, one file per command.

mod check;
mod exit;
mod process;
mod serve;
mod shell;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// L4 and L7 gateway of a mesh: in a cluster, or as a public exit.
#[derive(Parser)]
#[command(name = "meshd-gateway", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a configuration, and follow its changes
    Serve(serve::ServeArgs),
    /// Be a public exit of a mesh: join with a token, serve what the mesh publishes
    #[command(long_flag = "exit")]
    Exit(exit::ExitArgs),
    /// Say whether a configuration is right
    Check(check::CheckArgs),
    /// Print completions for a shell
    Completions(shell::CompletionsArgs),
    /// Write man pages
    Man(shell::ManArgs),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Exit(args) => exit::run(args),
        Command::Check(args) => return check::run(&args),
        Command::Completions(args) => shell::completions(&args, Arguments::command()),
        Command::Man(args) => shell::man(&args, Arguments::command()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshd-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}
