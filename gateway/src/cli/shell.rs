//! `meshd-gateway completions` and `meshd-gateway man`.

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use std::fs;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Args)]
pub(super) struct ManArgs {
    /// The folder that gets one page per command
    #[arg(long)]
    dir: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> Result<()> {
    clap_complete::generate(args.shell, &mut command, "meshd-gateway", &mut std::io::stdout());
    Ok(())
}

pub(super) fn man(args: &ManArgs, command: Command) -> Result<()> {
    fs::create_dir_all(&args.dir)?;
    clap_mangen::generate_to(command, &args.dir)
        .with_context(|| format!("cannot write to {}", args.dir.display()))
}
