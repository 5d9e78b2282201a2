//! What every running gateway has, whatever it serves: log, state, the admin page, an end that drains.

use crate::admin;
use crate::log::{self, AccessLog, Format};
use crate::runtime::Gateway;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Options of a gateway as a process.
#[derive(Args)]
pub(super) struct ProcessArgs {
    /// Where /metrics, /healthz and /readyz are; `off` for nowhere
    #[arg(long, default_value = "127.0.0.1:9180", value_name = "ADDRESS:PORT")]
    admin: Admin,
    /// One line for each connection or request
    #[arg(long, value_enum, default_value_t = LogFormat::Off)]
    access_log: LogFormat,
    /// The file that lines go to; standard output when left out
    #[arg(long)]
    access_log_file: Option<PathBuf>,
    /// How long running connections may go on after SIGTERM, in seconds
    #[arg(long, default_value_t = 30)]
    drain: u64,
    /// Where keys, certificates and what else has to outlive a restart are kept
    #[arg(long, default_value = "/var/lib/meshd-gateway")]
    pub(super) state: PathBuf,
}

#[derive(Clone, Copy)]
struct Admin(Option<SocketAddr>);

impl FromStr for Admin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self(None)),
            _ => text.parse().map(|at| Self(Some(at))).map_err(|_| "wanted: ADDRESS:PORT, or off"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Off,
    Json,
    Text,
}

/// Runs what serves, with the program's own log on standard error.
pub(super) fn run(serve: impl Future<Output = Result<()>>) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve)
}

impl ProcessArgs {
    /// The access log, written by a task of its own.
    pub(super) fn access_log(&self, tasks: &mut JoinSet<()>) -> Result<AccessLog> {
        let format = match self.access_log {
            LogFormat::Off => return Ok(AccessLog::default()),
            LogFormat::Json => Format::Json,
            LogFormat::Text => Format::Text,
        };
        let (log, lines) = AccessLog::open(format);
        let out: Box<dyn std::io::Write + Send> = match &self.access_log_file {
            None => Box::new(std::io::stdout()),
            Some(path) => Box::new(
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o640)
                    .open(path)
                    .with_context(|| format!("cannot write the access log {}", path.display()))?,
            ),
        };
        tasks.spawn(log::writer(lines, out));
        Ok(log)
    }

    /// Serves the admin page; what it says is ready as long as the flag is set.
    pub(super) async fn admin(&self, gateway: &Gateway, tasks: &mut JoinSet<()>) -> Result<Arc<AtomicBool>> {
        let ready = Arc::new(AtomicBool::new(true));
        if let Some(addr) = self.admin.0 {
            let listener = TcpListener::bind(addr)
                .await
                .with_context(|| format!("cannot listen on {addr} (--admin)"))?;
            tasks.spawn(admin::serve(Arc::clone(gateway.shared()), listener, Arc::clone(&ready)));
        }
        Ok(ready)
    }

    /// Ends in peace: not ready any more, and running connections have their time.
    pub(super) async fn drain(&self, gateway: Gateway, ready: &AtomicBool) {
        ready.store(false, Relaxed);
        tracing::info!(seconds = self.drain, "draining");
        if !gateway.drain(Duration::from_secs(self.drain)).await {
            tracing::warn!("connections were still open after {} s", self.drain);
        }
    }
}
