//! Shell completions and man pages, made from the one definition of the command line.

use crate::cli::Cli;
use anyhow::Context;
use clap::CommandFactory;
use std::path::Path;
use std::process::ExitCode;

#[expect(clippy::unnecessary_wraps, reason = "every command has this signature")]
pub(crate) fn shell(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    clap_complete::generate(shell, &mut Cli::command(), "meshd", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(dir: &Path) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir).context("cannot write the man pages")?;
    Ok(ExitCode::SUCCESS)
}
