//! A running gateway: sockets, the configuration in use, and how one follows the other.
//!
//! A new configuration is compiled, its files are read and its new ports are bound before anything changes;
//! then it is swapped in at once. Ports that stay keep their sockets and connections, ports that go drain.
//!
//! Invariants: a configuration is taken whole or refused whole · a swap drops no connection and no request ·
//! every task belongs to one tracker.

use crate::clock;
use crate::conn::{self, Peer};
use crate::dial::Dialers;
use crate::health;
use crate::http;
use crate::limit::Counts;
use crate::log::AccessLog;
use crate::stats::Stats;
use crate::stream::{Prefixed, Raw, Stream};
use crate::table::{Backend, BindKey, Endpoint, Reach, Table, contains};
use crate::tls::{Issued, Material};
use crate::wire::proxy_v2;
use crate::{acme::Challenges, udp};
use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use meshd_proto::expose::Transport;
use meshd_proto::gateway::{GatewayConfig, GatewayConfigError};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// The configuration in use.
#[derive(Debug, Default)]
pub struct Active {
    /// Compiled.
    pub table: Table,
    /// Its certificates.
    pub material: Material,
}

/// What every task of a gateway shares.
#[derive(Debug)]
pub struct Shared {
    /// The configuration in use.
    pub active: ArcSwap<Active>,
    /// Which networks there are.
    pub dialers: Dialers,
    /// Counters.
    pub stats: Stats,
    /// The access log.
    pub log: AccessLog,
    /// Answers to challenges of a certificate authority.
    pub challenges: Challenges,
    pub(crate) tasks: TaskTracker,
}

impl Shared {
    /// A connection to `endpoint`, with PROXY header and TLS as its backend wants them.
    ///
    /// Boxed, since it is rare beside requests on kept connections, and large.
    pub(crate) fn connect<'a>(
        &'a self,
        backend: &'a Backend,
        endpoint: &'a Endpoint,
        addresses: Option<(SocketAddr, SocketAddr)>,
    ) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(self.open(backend, endpoint, addresses))
    }

    async fn open(
        &self,
        backend: &Backend,
        endpoint: &Endpoint,
        addresses: Option<(SocketAddr, SocketAddr)>,
    ) -> io::Result<Stream> {
        let limit = Duration::from_millis(backend.config.connect_timeout_ms);
        let open = async {
            let mut raw = self.dialers.of(endpoint.addr)?.connect(endpoint.addr.socket_addr()).await?;
            if backend.config.send_proxy {
                let header = match addresses {
                    Some((client, local)) => proxy_v2::encode(client, local, false),
                    // A check of our own speaks for nobody: LOCAL.
                    None => [&proxy_v2::SIGNATURE[..], &[0x20, 0, 0, 0]].concat(),
                };
                raw.write_all(&header).await?;
            }
            let stream = Prefixed::new(raw);
            let Some(tls) = &backend.config.tls else { return Ok(Stream::Plain(stream)) };
            let config = self.active.load().material.clients.get(&backend.config.name).cloned();
            let config = config.ok_or_else(|| io::Error::other("this backend is no longer configured"))?;
            let name = rustls::pki_types::ServerName::try_from(tls.server_name.as_str().to_owned())
                .map_err(io::Error::other)?;
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            Ok(Stream::Tls(Box::new(stream.into())))
        };
        tokio::time::timeout(limit, open).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Why a configuration is not in use.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It says something wrong.
    #[error("the configuration is refused: {0}")]
    Refused(#[from] GatewayConfigError),
    /// A port cannot be had.
    #[error("cannot listen on {what}: {source}; is another program using it, or does it need more rights?")]
    Listen {
        /// TCP or UDP.
        transport: Transport,
        /// The port.
        port: u16,
        /// Address, port and transport.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A running gateway.
pub struct Gateway {
    shared: Arc<Shared>,
    ports: HashMap<BindKey, CancellationToken>,
    reach: Reach,
}

enum Bound {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Gateway {
    /// A gateway without a configuration: it listens on nothing.
    pub fn new(dialers: Dialers, log: AccessLog, reach: Reach) -> Self {
        let shared = Shared {
            active: ArcSwap::default(),
            dialers,
            stats: Stats::default(),
            log,
            challenges: Challenges::default(),
            tasks: TaskTracker::new(),
        };
        let shared = Arc::new(shared);
        shared.tasks.spawn(sweep(Arc::downgrade(&shared)));
        Self { shared, ports: HashMap::new(), reach }
    }

    /// What its tasks share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Changes to `config`, whole or not at all.
    ///
    /// # Errors
    /// What is wrong with it, or which port cannot be had; then everything stays as it was.
    pub fn apply(&mut self, config: &GatewayConfig, issued: &dyn Issued) -> Result<(), ApplyError> {
        let result = self.try_apply(config, issued);
        let count = if result.is_ok() { &self.shared.stats.applied } else { &self.shared.stats.rejected };
        count.fetch_add(1, Relaxed);
        result
    }

    fn try_apply(&mut self, config: &GatewayConfig, issued: &dyn Issued) -> Result<(), ApplyError> {
        let previous = self.shared.active.load_full();
        let table = Table::build(config, self.reach, Some(&previous.table))?;
        let material = Material::load(config, issued, Some(&previous.material))?;
        let mut bound = Vec::new();
        for key in table.binds.keys().filter(|key| !self.ports.contains_key(key)) {
            let socket = bind(key).map_err(|source| ApplyError::Listen {
                transport: if key.udp { Transport::Udp } else { Transport::Tcp },
                port: key.port,
                what: format!("{} ({})", key.socket_addr(), if key.udp { "UDP" } else { "TCP" }),
                source,
            })?;
            bound.push((*key, socket));
        }
        for warning in &table.warnings {
            tracing::warn!("{warning}");
        }
        let kept = |name: &str, backend: &Arc<Backend>| {
            previous.table.backends.get(name).is_some_and(|old| Arc::ptr_eq(old, backend))
        };
        let watched: Vec<_> = table
            .backends
            .iter()
            .filter(|(name, backend)| backend.config.health.is_some() && !kept(name, backend))
            .map(|(_, backend)| Arc::clone(backend))
            .collect();
        let gone: Vec<BindKey> =
            self.ports.keys().filter(|key| !table.binds.contains_key(key)).copied().collect();
        self.shared.active.store(Arc::new(Active { table, material }));
        for backend in watched {
            self.shared.tasks.spawn(health::watch(Arc::clone(&self.shared), backend));
        }
        for key in gone {
            if let Some(stop) = self.ports.remove(&key) {
                stop.cancel();
            }
        }
        for (key, socket) in bound {
            let stop = CancellationToken::new();
            self.ports.insert(key, stop.clone());
            let shared = Arc::clone(&self.shared);
            match socket {
                Bound::Tcp(listener) => self.shared.tasks.spawn(accept(shared, key, listener, stop)),
                Bound::Udp(socket) => {
                    self.shared.tasks.spawn(udp::serve(shared, key, Arc::new(socket), stop))
                }
            };
        }
        Ok(())
    }

    /// Stops accepting and lets what is under way end, for at most `limit`. Returns whether all of it did.
    pub async fn drain(mut self, limit: Duration) -> bool {
        for (_, stop) in self.ports.drain() {
            stop.cancel();
        }
        self.shared.tasks.close();
        let shared = Arc::clone(&self.shared);
        drop(self);
        let deadline = clock::now() + limit;
        while shared.stats.open.load(Relaxed) > 0 {
            if clock::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

/// Closes idle connections to backends in time, as long as the gateway lives.
async fn sweep(shared: std::sync::Weak<Shared>) {
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let Some(shared) = shared.upgrade() else { return };
        let active = shared.active.load_full();
        let Some(limit) = clock::now().checked_sub(http::KEEP) else { continue };
        for endpoint in active.table.backends.values().flat_map(|b| b.endpoints()) {
            endpoint.pool.sweep(limit);
        }
    }
}

fn bind(key: &BindKey) -> io::Result<Bound> {
    match bind_to(key, key.socket_addr()) {
        // A host without IPv6 has its IPv4 wildcard.
        Err(_) if key.address.is_none() => bind_to(key, SocketAddr::from(([0, 0, 0, 0], key.port))),
        result => result,
    }
}

fn bind_to(key: &BindKey, addr: SocketAddr) -> io::Result<Bound> {
    let kind = if key.udp { Type::DGRAM } else { Type::STREAM };
    let protocol = if key.udp { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.is_ipv6() {
        socket.set_only_v6(key.address.is_some())?;
    }
    socket.set_nonblocking(true)?;
    if key.udp {
        socket.bind(&addr.into())?;
        return Ok(Bound::Udp(UdpSocket::from_std(socket.into())?));
    }
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(Bound::Tcp(TcpListener::from_std(socket.into())?))
}

async fn accept(shared: Arc<Shared>, key: BindKey, listener: TcpListener, stop: CancellationToken) {
    let counts = Arc::new(Counts::default());
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => take(&shared, key, stream, client, &counts, &stop),
            Err(error) => {
                // Out of file descriptors: others have to end first.
                tracing::warn!(port = key.port, %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn take(
    shared: &Arc<Shared>,
    key: BindKey,
    stream: TcpStream,
    client: SocketAddr,
    counts: &Arc<Counts>,
    stop: &CancellationToken,
) {
    shared.stats.accepted.fetch_add(1, Relaxed);
    let active = shared.active.load();
    let Some(bind) = active.table.binds.get(&key) else { return };
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let by_proxy = contains(&bind.proxy_from, client.ip());
    let permit = counts.admit(bind.limits.connections).and_then(|mut permit| {
        (by_proxy || permit.claim(client.ip(), bind.limits.per_source)).then_some(permit)
    });
    let Some(permit) = permit else {
        shared.stats.over_limit.fetch_add(1, Relaxed);
        return;
    };
    let _ = stream.set_nodelay(true);
    let Ok(local) = stream.local_addr() else { return };
    let peer = Peer {
        shared: Arc::clone(shared),
        key,
        bind: Arc::clone(bind),
        client,
        local: SocketAddr::new(local.ip().to_canonical(), local.port()),
        tls: false,
        server_name: None,
    };
    shared.stats.open.fetch_add(1, Relaxed);
    let stop = stop.clone();
    let counted = Arc::clone(shared);
    shared.tasks.spawn(async move {
        conn::serve(peer, Raw::Tcp(stream), permit, stop).await;
        counted.stats.open.fetch_sub(1, Relaxed);
    });
}
