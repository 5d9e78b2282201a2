//! `meshd-gateway serve`: a gateway from a configuration file, which it follows.

use super::process::{self, ProcessArgs};
use crate::acme::{Orders, Store};
use crate::dial::{Dialers, MeshInterface};
use crate::runtime::Gateway;
use crate::table::Reach;
use crate::tls;
use anyhow::Result;
use clap::Args;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
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
    #[command(flatten)]
    process: ProcessArgs,
}

pub(super) fn run(args: ServeArgs) -> Result<()> {
    process::run(serve(args))
}

async fn serve(args: ServeArgs) -> Result<()> {
    let mut tasks = JoinSet::new();
    let log = args.process.access_log(&mut tasks)?;
    let (dialers, reach) = if args.exit {
        let mesh = MeshInterface::new(&args.mesh_interface);
        (Dialers { host: None, mesh: Some(Arc::new(mesh)) }, Reach::MeshOnly)
    } else {
        (Dialers::host(), Reach::HostAndMesh)
    };
    let mut gateway = Gateway::new(dialers, log, reach);
    let ready = args.process.admin(&gateway, &mut tasks).await?;
    let store = Store::new(&args.process.state);
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
    args.process.drain(gateway, &ready).await;
    Ok(())
}

/// What changes when one of the files does.
fn stamps(file: &Path, config: &crate::GatewayConfig, store: &Store) -> Vec<Option<(u64, i64, i64, u64)>> {
    let stamp = |path: &Path| fs::metadata(path).ok().map(|m| (m.ino(), m.mtime(), m.mtime_nsec(), m.len()));
    let files = tls::files(config);
    let ordered = store.files(config);
    let named = files.iter().map(|f| stamp(Path::new(f)));
    std::iter::once(stamp(file)).chain(named).chain(ordered.iter().map(|f| stamp(f))).collect()
}
