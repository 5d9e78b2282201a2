//! A configuration compiled for use: which listener, which rule, which backend.
//!
//! It is built once from a checked [`GatewayConfig`] and never changed; a new configuration is a new table.
//! It opens no socket and reads no file or clock. What outlives a change (connections, health, counters)
//! lives in [`Backend`]s and their endpoints, which a new table takes over from the old one where they are
//! the same.
//!
//! Invariants: a request is served by exactly one listener, the one whose host name fits best · a rule is
//! chosen only among the routes attached to that listener · precedence is that of Gateway API, and a tie
//! goes to what stands first.

mod backend;
mod compile;
mod filter;
mod hosts;
mod matcher;

pub use backend::{Backend, BackendAddr, Endpoint, EndpointKey, Targets};
pub use compile::CompileError;
pub use filter::{Edits, HeaderEdits, PathEdit, RedirectTo};
pub use hosts::{Hosts, Pattern};
pub use matcher::{Candidate, Precedence, RequestLine};

use crate::stats::RouteStats;
use ipnet::IpNet;
use meshd_proto::gateway::{GatewayConfig, ListenerLimits, ListenerProtocol};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A whole configuration, compiled.
#[derive(Debug, Default)]
pub struct Table {
    /// The number of the configuration.
    pub generation: u64,
    /// Every port, with what is served there.
    pub binds: BTreeMap<BindKey, Arc<Bind>>,
    /// Every backend by name.
    pub backends: HashMap<String, Arc<Backend>>,
    /// Counters of routes by name; they go on over changes.
    pub stats: BTreeMap<String, Arc<RouteStats>>,
    /// What is odd but no fault: routes that can never match and the like.
    pub warnings: Vec<String>,
}

impl Table {
    /// Compiles `config`, taking over what lives on from `previous`.
    ///
    /// # Errors
    /// When the configuration does not fit together, or names an address that `reach` does not allow.
    pub fn build(
        config: &GatewayConfig,
        reach: Reach,
        previous: Option<&Self>,
    ) -> Result<Self, CompileError> {
        compile::table(config, reach, previous)
    }

    /// All listeners, in order of their ports.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.binds.values().flat_map(|bind| bind.listeners.iter())
    }
}

/// Which networks backends may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The host's own and the mesh.
    HostAndMesh,
    /// The mesh alone: an exit.
    MeshOnly,
}

/// A local socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BindKey {
    /// The local address; nothing means all of them.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// UDP, not TCP.
    pub udp: bool,
}

impl BindKey {
    /// The address to bind. Without one it is the IPv6 wildcard, which takes IPv4 as well.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), self.port)
    }
}

/// One port and everything that is served there.
#[derive(Debug)]
pub struct Bind {
    /// Where.
    pub key: BindKey,
    /// What its connections start with.
    pub kind: BindKind,
    /// Its listeners, in the order of the configuration.
    pub listeners: Vec<Arc<Listener>>,
    /// Which of them serves a host name.
    pub names: Hosts<usize>,
    /// Sources whose connections begin with a PROXY v2 header.
    pub proxy_from: Vec<IpNet>,
    /// Bounds on what clients may take.
    pub limits: Limits,
}

impl Bind {
    /// The listener for `host` (lower case, without port), or the one for every name.
    pub fn listener(&self, host: Option<&str>) -> Option<&Arc<Listener>> {
        self.names.find(host).next().map(|index| &self.listeners[*index])
    }

    /// The listener whose default certificate a client without a known name is shown.
    pub fn fallback_tls(&self) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|l| l.protocol == ListenerProtocol::Https)
    }
}

/// What the connections of a port start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindKind {
    /// Anything; it is forwarded.
    Tcp,
    /// Datagrams.
    Udp,
    /// A ClientHello.
    Tls,
    /// An HTTP request, or the HTTP/2 preface.
    Http,
}

/// [`ListenerLimits`] with durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections or sessions in total.
    pub connections: u32,
    /// Open connections or sessions of one source.
    pub per_source: u32,
    /// For a request's header, a ClientHello, a handshake.
    pub header_timeout: Duration,
    /// Without a byte in either direction.
    pub idle_timeout: Duration,
    /// Bytes of a request's header.
    pub header_bytes: u32,
    /// Bytes of a request's body.
    pub body_bytes: Option<u64>,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams: u32,
}

impl From<&ListenerLimits> for Limits {
    fn from(limits: &ListenerLimits) -> Self {
        Self {
            connections: limits.connections,
            per_source: limits.connections_per_source,
            header_timeout: Duration::from_millis(limits.header_timeout_ms),
            idle_timeout: Duration::from_millis(limits.idle_timeout_ms),
            header_bytes: limits.header_bytes,
            body_bytes: limits.body_bytes,
            streams: limits.streams,
        }
    }
}

/// One listener with its routes.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Its port.
    pub port: u16,
    /// What it speaks.
    pub protocol: ListenerProtocol,
    /// Names of its certificates, the default one first.
    pub certificates: Vec<String>,
    /// Proxies whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// HTTP: the rules by host name, best first.
    pub rules: Hosts<Vec<Candidate>>,
    /// TCP, UDP, TLS: where connections go, by host name.
    pub streams: Hosts<Arc<StreamRoute>>,
}

impl Listener {
    /// The rule for a request, with the match that decided.
    pub fn route<'a>(&'a self, host: Option<&str>, request: &RequestLine<'_>) -> Option<&'a Candidate> {
        self.rules.find(host).flatten().find(|candidate| candidate.fits(request))
    }

    /// Where a stream goes that named `host`.
    pub fn stream(&self, host: Option<&str>) -> Option<&Arc<StreamRoute>> {
        self.streams.find(host).next()
    }
}

/// Where connections without HTTP go.
#[derive(Debug)]
pub struct StreamRoute {
    /// Name of the route, for logs.
    pub route: Arc<str>,
    /// Its counters.
    pub stats: Arc<RouteStats>,
    /// The backends.
    pub targets: Targets,
}

/// What happens to the requests of a rule.
#[derive(Debug)]
pub struct RuleAction {
    /// Name of the route, for logs.
    pub route: Arc<str>,
    /// Its counters.
    pub stats: Arc<RouteStats>,
    /// Changes on the way.
    pub edits: Edits,
    /// Where they go.
    pub targets: Targets,
    /// Until the response's header, all tries.
    pub request_timeout: Option<Duration>,
    /// Until the response's header, one try.
    pub backend_timeout: Option<Duration>,
    /// More tries for what was surely not acted on.
    pub retries: u8,
}

/// Whether `ip` lies in one of `nets`. IPv4-mapped addresses count as IPv4.
pub fn contains(nets: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    nets.iter().any(|net| net.contains(&ip))
}

#[cfg(test)]
mod tests;
