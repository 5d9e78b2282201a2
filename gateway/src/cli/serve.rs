//! `meshd-gateway serve`: a gateway from a configuration file, which it follows.

use crate::acme::{Orders, Store};
use crate::admin;
use crate::dial::{Dialers, MeshInterface};
use crate::log::{self, AccessLog, Format};
use crate::runtime::Gateway;
use crate::table::Reach;
use crate::tls;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(super) struct ServeArgs {
    /// The configuration, JSON; a change of it or of a certificate is taken at once
    file: PathBuf,
    /// Be a public exit: backends in the mesh only, through the mesh interface only
    #[arg(long)]
    exit: bool,
    /// The interface of `meshd` that mesh addresses are reached through
    #[arg(long, default_value = "mesh0")]
    mesh_interface: String,
    /// Where /metrics, /healthz and /readyz are; `off` for nowhere
    #[arg(long, default_value = "127.0.0.1:9180")]
    admin: String,
    /// One line for each request
    #[arg(long, value_enum, default_value_t = LogFormat::Off)]
    access_log: LogFormat,
    /// The file that lines go to; standard output when left out
    #[arg(long)]
    access_log_file: Option<PathBuf>,
    /// How long running connections may go on after SIGTERM, in seconds
    #[arg(long, default_value_t = 30)]
    drain: u64,
    /// Where ordered certificates and their keys are kept
    #[arg(long, default_value = "/var/lib/meshd-gateway")]
    state: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Off,
    Json,
    Text,
}

pub(super) fn run(args: ServeArgs) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: ServeArgs) -> Result<()> {
    let mut tasks = JoinSet::new();
    let log = start_log(args.access_log, args.access_log_file.as_deref(), &mut tasks)?;
    let (dialers, reach) = if args.exit {
        let mesh = MeshInterface::new(&args.mesh_interface);
        (Dialers { host: None, mesh: Some(Arc::new(mesh)) }, Reach::MeshOnly)
    } else {
        (Dialers::host(), Reach::HostAndMesh)
    };
    let mut gateway = Gateway::new(dialers, log, reach);
    let ready = Arc::new(AtomicBool::new(true));
    if args.admin != "off" {
        let addr: SocketAddr = args.admin.parse().context("--admin is address:port, or off")?;
        let listener =
            TcpListener::bind(addr).await.with_context(|| format!("cannot listen on {addr} (--admin)"))?;
        tasks.spawn(admin::serve(Arc::clone(gateway.shared()), listener, Arc::clone(&ready)));
    }
    let store = Store::new(&args.state);
    let mut config = crate::load(&args.file)?;
    gateway.apply(&config, &store)?;
    tracing::info!(
        generation = config.generation,
        listeners = config.listeners.len(),
        exit = args.exit,
        "serving"
    );
    let (mut hangup, mut term, mut int) =
        (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut seen = stamps(&args.file, &config, &store);
    let orders = Orders::start(&config, &store, gateway.shared(), &mut tasks);
    loop {
        let forced = tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hangup.recv() => true,
            () = tokio::time::sleep(LOOK) => false,
        };
        let now = stamps(&args.file, &config, &store);
        if !forced && now == seen {
            continue;
        }
        match crate::load(&args.file) {
            Ok(next) => match gateway.apply(&next, &store) {
                Ok(()) => {
                    tracing::info!(generation = next.generation, "configuration taken");
                    orders.follow(&next);
                    config = next;
                }
                Err(error) => tracing::error!("{error}; the one before stays in use"),
            },
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|c| format!(": {c}")).unwrap_or_default();
                tracing::error!("{error}{cause}; the one before stays in use");
            }
        }
        seen = stamps(&args.file, &config, &store);
    }
    ready.store(false, Relaxed);
    tracing::info!(seconds = args.drain, "draining");
    if !gateway.drain(Duration::from_secs(args.drain)).await {
        tracing::warn!("connections were still open after {} s", args.drain);
    }
    Ok(())
}

/// The access log, written by a task of its own.
pub(super) fn start_log(
    format: LogFormat,
    file: Option<&Path>,
    tasks: &mut JoinSet<()>,
) -> Result<AccessLog> {
    match format {
        LogFormat::Off => Ok(AccessLog::default()),
        LogFormat::Json => open_log(Format::Json, file, tasks),
        LogFormat::Text => open_log(Format::Text, file, tasks),
    }
}

fn open_log(format: Format, file: Option<&Path>, tasks: &mut JoinSet<()>) -> Result<AccessLog> {
    let (log, lines) = AccessLog::open(format);
    let out: Box<dyn std::io::Write + Send> = match file {
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

/// What changes when one of the files does.
fn stamps(file: &Path, config: &crate::GatewayConfig, store: &Store) -> Vec<Option<(u64, i64, i64, u64)>> {
    let stamp = |path: &Path| fs::metadata(path).ok().map(|m| (m.ino(), m.mtime(), m.mtime_nsec(), m.len()));
    let files = tls::files(config);
    let ordered = store.files(config);
    let named = files.iter().map(|f| stamp(Path::new(f)));
    std::iter::once(stamp(file)).chain(named).chain(ordered.iter().map(|f| stamp(f))).collect()
}
