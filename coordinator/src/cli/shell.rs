//! `completions` and `man`, made from the command line's own definition.

use super::output::{Failure, Output};
use clap::{Args, Command};
use clap_complete::Shell;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write the page of every command there
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> Output {
    let mut bytes = Vec::new();
    clap_complete::generate(args.shell, &mut command, "meshd-coordinator", &mut bytes);
    Output::raw(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn man(args: &ManArgs, command: Command) -> Result<Output, Failure> {
    let failed = |e: std::io::Error| Failure::new(format!("cannot write manual pages: {e}"));
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).map_err(failed)?;
        clap_mangen::generate_to(command, dir).map_err(failed)?;
        return Ok(Output::done(format!("manual pages are in {}", dir.display())));
    }
    let mut bytes = Vec::new();
    clap_mangen::Man::new(command).render(&mut bytes).map_err(failed)?;
    Ok(Output::raw(String::from_utf8_lossy(&bytes).into_owned()))
}
