//! `meshd-gateway`: checks a gateway configuration. Serving one is not part of this release.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Status for what this release does not do, so that a script can tell it from a bad configuration.
const NOT_IN_THIS_RELEASE: u8 = 2;

/// L4 and L7 gateway of a mesh: in a cluster, or as a public exit.
#[derive(Parser)]
#[command(name = "meshd-gateway", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load a configuration and say whether it is right
    Check {
        /// The configuration, JSON
        file: PathBuf,
    },
    /// Not part of this release: ends with status 2
    Serve {
        /// The configuration, JSON
        file: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Check { file } => match check(&file) {
            Ok(summary) => {
                println!("{summary}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("meshd-gateway: {error:#}");
                ExitCode::FAILURE
            }
        },
        Command::Serve { .. } => {
            eprintln!(
                "meshd-gateway: serving is not part of this release; `meshd-gateway check FILE` is all it does"
            );
            ExitCode::from(NOT_IN_THIS_RELEASE)
        }
    }
}

fn check(file: &Path) -> Result<String> {
    let config = meshd_gateway::load(file)?;
    Ok(format!("right: generation {}, {} listeners", config.generation, config.listeners.len()))
}
