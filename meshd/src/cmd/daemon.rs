//! `meshd run`: the daemon in the foreground.

use super::Globals;
use crate::cli::Run;
use crate::output::CliError;
use anyhow::Context;
use meshd_node::logs::{LogRing, LogWriter};
use meshd_node::{DaemonConfig, daemon};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

pub(crate) fn run(globals: &Globals, args: &Run) -> anyhow::Result<ExitCode> {
    let config = DaemonConfig::load(&args.config)
        .map_err(|e| CliError::usage(e.to_string(), "see `man meshd-run` for the keys of the file"))?
        .with_paths(args.state_dir.clone(), globals.socket.clone());
    let ring = LogRing::default();
    let writer = LogWriter(ring.clone());
    let filter = EnvFilter::try_from_env("MESHD_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,zbus=warn,hickory_server=warn,boringtun=off"));
    // The journal adds the time itself.
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(false)
        .with_writer(move || writer.clone());
    if under_systemd {
        subscriber.without_time().init();
    } else {
        subscriber.init();
    }
    // Control only: packets have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(daemon::run(config, ring))?;
    Ok(ExitCode::SUCCESS)
}
