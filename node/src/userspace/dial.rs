//! From a name or an address to a connection: through the mesh where the mesh has a way, through the
//! host where it has none and that is allowed.
//!
//! Names of the mesh, of split domains and of records that an admin set are answered by our own zones
//! and by the resolvers they name, asked through the mesh where those lie in it; all others by the
//! host's resolver. A name from outside never leads into the mesh (DNS rebinding).

mod ask;

use super::netstack::Netstack;
use super::stream::TcpStream as MeshStream;
use super::target::{Host, Target};
use crate::data::Snapshot;
use ask::ask;
use hickory_proto::rr::{LowerName, Name, RData, RecordType};
use meshd_dns::{Decision, Names, Route};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream as HostStream;

/// How long one address may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried.
const MAX_TRIED: usize = 4;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The node has no map yet, or is down.
    #[error("this node is not in its mesh yet: see `meshd status`")]
    Down,
    /// No such name, as far as this node may know.
    #[error("no host `{0}` is known here; a node that policy hides is not known either")]
    NoName(String),
    /// Its resolver does not answer.
    #[error("`{0}` cannot be resolved now: {1}")]
    NoAnswer(String, String),
    /// Nobody in the mesh has a way there, and it may not be taken outside.
    #[error("no node of the mesh has a way to {0}")]
    NoRoute(SocketAddr),
    /// The other side, or the way to it.
    #[error("{to}: {source}")]
    Io {
        /// The address.
        to: SocketAddr,
        /// What happened.
        source: io::Error,
    },
}

impl DialError {
    /// The kind of error, as a socket would say it.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Down => io::ErrorKind::NotConnected,
            Self::NoName(_) | Self::NoAnswer(..) => io::ErrorKind::HostUnreachable,
            Self::NoRoute(_) => io::ErrorKind::NetworkUnreachable,
            Self::Io { source, .. } => source.kind(),
        }
    }
}

/// What the mesh has a way to.
#[derive(Clone)]
pub struct Reach {
    snapshot: Arc<Snapshot>,
    /// Nothing may leave beside the mesh: an exit node was chosen, and what it does not carry stays here.
    closed: Arc<AtomicBool>,
}

/// Where a packet to an address goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the mesh.
    Mesh,
    /// Nowhere in the mesh: it is the host's business.
    Host,
    /// Nowhere at all: it is in the mesh, and nobody there has it, or nothing may leave beside it.
    Nowhere,
}

impl Reach {
    /// Looks into what the engine publishes.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, closed: Arc::new(AtomicBool::new(false)) }
    }

    /// Whether nothing may leave beside the mesh.
    pub fn close_outside(&self, closed: bool) {
        self.closed.store(closed, Ordering::Relaxed);
    }

    /// Where packets to `ip` go. `None`: the node has no map.
    pub fn way(&self, ip: IpAddr) -> Option<Way> {
        let snapshot = self.snapshot.load();
        let own = snapshot.own.as_ref()?;
        Some(if !snapshot.routes.owners(ip).is_empty() {
            Way::Mesh
        } else if own.mesh.contains(ip) || (self.closed.load(Ordering::Relaxed) && !ip.is_loopback()) {
            Way::Nowhere
        } else {
            Way::Host
        })
    }

    fn is_in_mesh_range(&self, ip: IpAddr) -> bool {
        self.snapshot.load().own.as_ref().is_some_and(|own| own.mesh.contains(ip))
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reach")
    }
}

/// A connection, wherever it goes.
#[derive(Debug)]
pub enum Dialed {
    /// Through the mesh.
    Mesh(MeshStream),
    /// Through the host.
    Host(HostStream),
}

/// Finds the way. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    stack: Netstack,
    names: Arc<Names>,
    reach: Reach,
}

impl Dialer {
    /// A dialer over a running stack.
    pub fn new(stack: Netstack, names: Arc<Names>, reach: Reach) -> Self {
        Self { stack, names, reach }
    }

    /// The stack it dials through.
    pub const fn stack(&self) -> &Netstack {
        &self.stack
    }

    /// What the mesh has a way to.
    pub const fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Connects. `outside`: what the mesh has no way to may be reached through the host.
    ///
    /// # Errors
    /// See [`DialError`]; of several addresses, what the last one said.
    pub async fn dial(&self, target: &Target, outside: bool) -> Result<Dialed, DialError> {
        let mut last = DialError::NoName(target.host.to_string());
        for ip in self.addresses(&target.host).await?.into_iter().take(MAX_TRIED) {
            match self.connect(SocketAddr::new(ip, target.port), outside).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect(&self, to: SocketAddr, outside: bool) -> Result<Dialed, DialError> {
        let failed = |source| DialError::Io { to, source };
        match self.reach.way(to.ip()).ok_or(DialError::Down)? {
            Way::Mesh => self.stack.connect(to, PATIENCE).await.map(Dialed::Mesh).map_err(failed),
            Way::Host if outside => {
                let stream = tokio::time::timeout(PATIENCE, HostStream::connect(to)).await;
                let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                stream.map(Dialed::Host).map_err(failed)
            }
            Way::Host | Way::Nowhere => Err(DialError::NoRoute(to)),
        }
    }

    /// The addresses of a host, in the order to try them.
    ///
    /// # Errors
    /// When there is none.
    pub async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, DialError> {
        match host {
            Host::Ip(ip) => Ok(vec![*ip]),
            Host::Name(name) => self.resolve(name).await,
        }
    }

    /// The addresses of a name, IPv4 first.
    ///
    /// # Errors
    /// When it has none, or its resolver does not answer.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, DialError> {
        if let Ok(ip) = name.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![ip]);
        }
        let (v4, v6) = tokio::join!(self.lookup(name, RecordType::A), self.lookup(name, RecordType::AAAA));
        let (mut found, other) = match (v4, v6) {
            (Ok(v4), Ok(v6)) => (v4, v6),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => (one, Vec::new()),
            (Err(error), Err(_)) => return Err(error),
        };
        found.extend(other);
        if found.is_empty() { Err(DialError::NoName(name.to_owned())) } else { Ok(found) }
    }

    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Vec<IpAddr>, DialError> {
        let view = self.names.view();
        let bare = name.trim_end_matches('.');
        let no_name = || DialError::NoName(name.to_owned());
        let full = Name::from_ascii(format!("{bare}.")).map(LowerName::from).map_err(|_| no_name())?;
        let (target, route, mut found) = match view.decide(&full, kind, hickory_proto::rr::DNSClass::IN) {
            Decision::Answer(answer) => {
                return Ok(answer.records.iter().filter_map(|r| address(&r.data)).collect());
            }
            Decision::Chase { target, route, .. } => (Name::from(&target).to_ascii(), route, Vec::new()),
            Decision::Forward(route) => (bare.to_owned(), route, Vec::new()),
        };
        let target = target.trim_end_matches('.');
        let no_answer = |e: String| DialError::NoAnswer(name.to_owned(), e);
        // Resolvers for everything may be away while the host's own answer.
        let global = match &route {
            Route::Global(servers) => ask(self, servers, target, kind).await.ok(),
            Route::Host | Route::Split(_) => None,
        };
        match route {
            Route::Global(_) if global.is_some() => found.extend(global.into_iter().flatten()),
            Route::Host | Route::Global(_) => {
                let found_by_host =
                    tokio::net::lookup_host((target, 0)).await.map_err(|e| match e.kind() {
                        io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => no_answer(e.to_string()),
                        _ => no_name(),
                    })?;
                let wanted = |ip: &IpAddr| ip.is_ipv4() == (kind == RecordType::A);
                found.extend(found_by_host.map(|at| at.ip()).filter(wanted));
                // A name that strangers own does not lead into the mesh.
                found.retain(|ip| !self.reach.is_in_mesh_range(*ip));
            }
            Route::Split(servers) => {
                found.extend(ask(self, &servers, target, kind).await.map_err(no_answer)?);
            }
        }
        Ok(found)
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(a.0.into()),
        RData::AAAA(aaaa) => Some(aaaa.0.into()),
        _ => None,
    }
}

impl Dialed {
    /// This side's address, as the other side sees it before any NAT.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Mesh(stream) => Some(stream.local_addr()),
            Self::Host(stream) => stream.local_addr().ok(),
        }
    }

    /// Makes the end of the connection a reset.
    pub fn abort(&self) {
        match self {
            Self::Mesh(stream) => stream.abort(),
            // Linger 0: close sends a reset.
            Self::Host(stream) => {
                drop(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)));
            }
        }
    }
}

impl AsyncRead for Dialed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Mesh(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Host(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Dialed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Mesh(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Host(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Mesh(stream) => Pin::new(stream).poll_flush(cx),
            Self::Host(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Mesh(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Host(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_engine::data::conntrack::Conntrack;
    use meshd_engine::data::routes::{PeerRef, RouteTable};
    use meshd_engine::data::{Counters, DataSnapshot, Own, RuleCounters};
    use meshd_proto::{MeshAddrs, MeshPrefixes, Prefix};
    use std::collections::HashMap;

    /// Node 100.71.0.2, with routes by one peer.
    fn reach(routes: &[Prefix]) -> Reach {
        let mut table = RouteTable::default();
        routes.iter().for_each(|prefix| table.add(*prefix, PeerRef(0)));
        let own = Own {
            addrs: MeshAddrs { v4: "100.71.0.2".parse().unwrap(), v6: "fd7a:1:2::2".parse().unwrap() },
            mesh: MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() },
            prefixes: vec![],
            exit_v4: false,
            exit_v6: false,
            devices: vec![],
        };
        Reach::new(Arc::new(Snapshot::from_pointee(DataSnapshot {
            generation: 0,
            routes: table,
            filter: Default::default(),
            rules: RuleCounters::default(),
            own: Some(own),
            peers: vec![],
            sources: vec![],
            by_index: HashMap::new(),
            conntrack: Arc::new(Conntrack::new([0; 16])),
            counters: Arc::new(Counters::default()),
            epoch: crate::clock::now(),
        })))
    }

    #[test]
    fn beside_a_chosen_exit_nothing_leaves_neither_what_it_lacks_nor_what_nobody_carries() {
        let way = |reach: &Reach, ip: &str| reach.way(ip.parse().unwrap()).unwrap();
        let exit = reach(&[Prefix::DEFAULT_V4]);
        assert_eq!((way(&exit, "93.184.215.14"), way(&exit, "2a01:7e01::1")), (Way::Mesh, Way::Host));
        exit.close_outside(true);
        assert_eq!(way(&exit, "93.184.215.14"), Way::Mesh);
        assert_eq!(way(&exit, "2a01:7e01::1"), Way::Nowhere, "a family that it lacks");
        let none = reach(&[]);
        assert_eq!((way(&none, "93.184.215.14"), way(&none, "100.71.0.9")), (Way::Host, Way::Nowhere));
        none.close_outside(true);
        assert_eq!(way(&none, "93.184.215.14"), Way::Nowhere, "a node that offers no exit");
        assert_eq!(way(&none, "127.0.0.1"), Way::Host, "this host itself");
    }
}
