//! `meshd-coordinator serve`: puts the service on its sockets and keeps it there.
//!
//! One TCP port for control channel and API (TLS told from plain HTTP by the first byte), a unix socket
//! for the admin on this host, relay and STUN on UDP. It prints what a person needs next; on a terminal
//! that includes a join token, elsewhere only the command that makes one.

mod acme;
mod ask;
mod banner;
mod check;
mod connection;
mod listen;
mod notify;
mod options;
mod outside;
mod relay;
mod slots;
mod tls;
mod unix;

pub use acme::{AcmeOptions, Challenge};
pub use options::ServeOptions;

use crate::api::{self, Api, TrustedProxies};
use crate::clock;
use crate::control::Hub;
use crate::entropy;
use crate::service::{Actor, Founding, Service};
use crate::store::{StateDir, Store};
use acme::Acme;
use anyhow::{Context, Result, bail};
use connection::Shared;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long open connections may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// How often ephemeral nodes are looked at.
const SWEEP: Duration = Duration::from_secs(20);
/// How often the logs are looked at.
const COMPACTION: Duration = Duration::from_secs(600);

/// Serves until a signal ends it.
///
/// # Errors
/// When the state cannot be opened or a socket cannot be bound; the text says what to do.
pub async fn run(options: ServeOptions) -> Result<()> {
    let options = options.with_file()?;
    // A mesh that was made by a mistaken command keeps its name and range.
    outside::check(&options.public)?;
    outside::stun_servers(&options.stun_server)?;
    options.acme.check()?;
    let service = Arc::new(open(&options).await?);
    let listener = listen::bind(&options, service.last_port().await?)?;
    let port = listener.local_addr().context("the listening socket has no address")?.port();
    let mut told = if options.public.is_empty() { service.public().await? } else { options.public.clone() };
    outside::add_names(&mut told, &options.acme.acme);
    let mesh = service.model().mesh.clone();
    let mut outside = outside::find(&told, port, &mesh.prefixes)?;
    let mut servers = outside::stun_servers(&options.stun_server)?;
    if outside::uses_exit(&mesh.prefixes) {
        servers.clear();
    }
    if !listener.local_addr().is_ok_and(|at| at.ip().is_loopback()) {
        outside = outside.seen_from_outside(&servers, &mesh.addresses, port).await;
    }
    let relay = relay::start(&options, &service, &outside, port)?;
    let relays = relay.as_ref().map(|r| r.record.clone());
    let said = Some(options.public.as_slice()).filter(|p| !p.is_empty());
    let now = clock::unix_now();
    service.keep_port(&Actor::System, port, now).await?;
    service.set_reachability(&Actor::System, &outside.addresses, said, relays.as_ref(), now).await?;

    let state_dir = state_dir(&options)?;
    let certificates = Arc::new(tls::prepare(&options, &state_dir, &outside)?);
    let acme = Acme::prepare(&options.acme, &state_dir, &outside, &certificates)?;
    let unix = unix::bind(&options.socket)?;
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().ok();
    let stop = CancellationToken::new();
    let proxies = TrustedProxies::new(&options.trusted_proxy);
    let stopped = stop.clone();
    let api = Api {
        metrics,
        certificates: certificates.clone(),
        proxies: proxies.clone(),
        stop: stopped,
        ..Api::new(service.clone())
    };
    let router = api::router(api);
    let shared = Arc::new(Shared {
        control: Hub::new(service.clone()),
        relay: relay.as_ref().map(|r| r.handle.control()),
        router,
        proxies,
        tls: tls::acceptor(&certificates)?,
        certificates: certificates.clone(),
        tasks: TaskTracker::new(),
        stop: stop.clone(),
    });

    let mut tasks = JoinSet::new();
    tasks.spawn(shared.control.clone().run());
    tasks.spawn(listen::accept_loop(listener, shared.clone()));
    tasks.spawn(unix::accept_loop(unix, shared.clone()));
    let ordered_from = acme.as_ref().map(|a| a.challenge());
    if let Some(acme) = acme {
        tasks.spawn(acme.run(shared.clone()));
    }
    tasks.spawn(maintain(service.clone(), stop.clone()));
    if let Some(relay) = &relay {
        tasks.spawn(relay::follow(relay.handle.control(), service.clone(), stop.clone()));
    }

    let facts = banner::Facts {
        mesh: &service.model().mesh,
        outside: &outside,
        port,
        udp_ports: relay.as_ref().map(|r| r.ports),
        certificates: &certificates,
        proof: ordered_from,
    };
    banner::print(&options, &service, &facts).await?;
    notify::ready();
    let checking = check::own_addresses(outside.addresses.clone());
    shared.tasks.spawn(stop.clone().run_until_cancelled_owned(checking));

    until_stopped(wait_for_signal(), &mut tasks).await?;
    tracing::info!("stopping");
    notify::stopping();
    stop.cancel();
    shared.tasks.close();
    if tokio::time::timeout(DRAIN, shared.tasks.wait()).await.is_err() {
        tracing::info!("some connections did not end in time and are cut");
    }
    tasks.shutdown().await;
    if let Some(relay) = relay {
        relay.handle.shutdown().await;
    }
    let _ = std::fs::remove_file(&options.socket);
    tracing::info!("stopped");
    Ok(())
}

/// The state directory is locked by the store; its path alone is needed for further files.
fn state_dir(options: &ServeOptions) -> Result<std::path::PathBuf> {
    std::path::absolute(&options.state_dir).context("the state directory has no absolute path")
}

async fn open(options: &ServeOptions) -> Result<Service> {
    let now = clock::unix_now();
    let dir = StateDir::open(&options.state_dir)?;
    let mut store = Store::open(dir, now).await?;
    let loaded = match store.load().await? {
        Some(loaded) => {
            options.warn_about_settled(&loaded.model.mesh);
            loaded
        }
        None => {
            let founding = Founding {
                name: options.name.clone().unwrap_or_else(options::default_name),
                prefix: options.prefix,
                in_use: outside::networks_in_use(),
                entropy: std::array::from_fn(|_| entropy::random()),
            };
            founding.run(&mut store, now).await?
        }
    };
    Ok(Service::new(store, loaded, now))
}

async fn maintain(service: Arc<Service>, stop: CancellationToken) {
    let recover = async {
        loop {
            service.recover_interrupted().await;
        }
    };
    let sweep = async {
        let mut tick = tokio::time::interval(SWEEP);
        loop {
            tick.tick().await;
            match service.sweep(clock::unix_now()).await {
                Ok(0) => {}
                Ok(n) => tracing::info!(nodes = n, "forgot ephemeral nodes that stayed away"),
                Err(error) => tracing::error!(%error, "cannot remove ephemeral nodes"),
            }
        }
    };
    let compact = async {
        let mut tick = tokio::time::interval(COMPACTION);
        loop {
            tick.tick().await;
            if let Err(error) = service.compact(clock::unix_now()).await {
                tracing::error!(%error, "the logs cannot be shortened; they grow until that works");
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = recover => {}
        () = sweep => {}
        () = compact => {}
    }
}

/// Waits for the signal. None of the coordinator's own tasks ends before it: better to be started anew by
/// who supervises us than to serve by half.
async fn until_stopped(signal: impl Future<Output = Result<()>>, tasks: &mut JoinSet<()>) -> Result<()> {
    tokio::select! {
        signal = signal => signal,
        Some(ended) = tasks.join_next() => match ended {
            Ok(()) => bail!("a part of the coordinator ended by itself; this is a fault of the program"),
            Err(error) => Err(error).context("a part of the coordinator broke; this is a fault of the program"),
        },
    }
}

async fn wait_for_signal() -> Result<()> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_by_itself_ends_the_coordinator_with_an_error() {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        until_stopped(async { Ok(()) }, &mut tasks).await.unwrap();
        tasks.spawn(async {});
        let error = until_stopped(std::future::pending(), &mut tasks).await.unwrap_err();
        assert!(error.to_string().contains("ended by itself"), "{error}");
        tasks.spawn(async { panic!("on purpose") });
        assert!(until_stopped(std::future::pending(), &mut tasks).await.is_err());
    }
}
