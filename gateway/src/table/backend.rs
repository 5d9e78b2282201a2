//! Backends and their endpoints: who takes the next request, who is well.

use crate::health::Wellness;
use crate::http::Pool;
use crate::table::Reach;
use meshd_proto::MeshAddr;
use meshd_proto::gateway::{Backend as Config, Balance, Network, ServiceEndpoint};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Where an endpoint is. An exit's table holds [`BackendAddr::Mesh`] only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendAddr {
    /// In the host's own network.
    Host(SocketAddr),
    /// In the mesh.
    Mesh(MeshAddr, u16),
}

impl BackendAddr {
    /// The address of a configured endpoint.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub(super) fn of(endpoint: &ServiceEndpoint, reach: Reach) -> Result<Self, (String, String)> {
        let ip = endpoint.address.to_canonical();
        match endpoint.network {
            Network::Host if reach == Reach::MeshOnly => Err((
                format!("{ip} is in the host's network, and an exit reaches the mesh only"),
                "give the service's mesh address and `\"network\": \"mesh\"`".to_owned(),
            )),
            Network::Host => Ok(Self::Host(SocketAddr::new(ip, endpoint.port))),
            Network::Mesh if !in_mesh_space(ip) => Err((
                format!("{ip} is no mesh address"),
                "mesh addresses lie in 100.64.0.0/10 or fc00::/7".to_owned(),
            )),
            Network::Mesh => Ok(Self::Mesh(MeshAddr(ip), endpoint.port)),
        }
    }

    /// Address and port.
    pub fn socket_addr(&self) -> SocketAddr {
        match self {
            Self::Host(addr) => *addr,
            Self::Mesh(addr, port) => SocketAddr::new(addr.0, *port),
        }
    }
}

/// The ranges that meshes choose their prefixes from.
fn in_mesh_space(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64,
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

impl fmt::Display for BackendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket_addr().fmt(f)
    }
}

impl fmt::Debug for BackendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(addr) => write!(f, "host {addr}"),
            Self::Mesh(addr, port) => write!(f, "mesh {addr} {port}"),
        }
    }
}

/// What makes two configured endpoints the same one, connections included.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    /// Name of the backend.
    pub backend: String,
    /// Where.
    pub addr: BackendAddr,
}

/// One endpoint, as long as some table names it.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is.
    pub addr: BackendAddr,
    /// Requests and connections under way.
    pub active: AtomicUsize,
    /// Whether it is well.
    pub wellness: Wellness,
    /// Connections kept for reuse.
    pub pool: Pool,
}

/// An endpoint with its place in one configuration.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) weight: u16,
    pub(crate) ready: bool,
}

/// Endpoints that do the same.
#[derive(Debug)]
pub struct Backend {
    /// What was configured.
    pub config: Config,
    pub(crate) members: Vec<Member>,
    turn: AtomicU64,
}

impl Backend {
    pub(super) fn build(
        config: &Config,
        reach: Reach,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, (usize, (String, String))> {
        if let Some(same) = previous.filter(|p| p.config == *config) {
            return Ok(Arc::clone(same));
        }
        // Connections are taken over only when they would be made the same way again.
        let alike = previous.filter(|p| {
            p.config.protocol == config.protocol
                && p.config.tls == config.tls
                && p.config.send_proxy == config.send_proxy
        });
        let mut members = Vec::with_capacity(config.endpoints.len());
        for (i, one) in config.endpoints.iter().enumerate() {
            let addr = BackendAddr::of(one, reach).map_err(|why| (i, why))?;
            let known = alike.and_then(|p| p.members.iter().find(|m| m.endpoint.addr == addr));
            let endpoint = known.map_or_else(
                || {
                    Arc::new(Endpoint {
                        addr,
                        active: AtomicUsize::new(0),
                        wellness: Wellness::default(),
                        pool: Pool::new(config.idle_connections as usize),
                    })
                },
                |m| Arc::clone(&m.endpoint),
            );
            members.push(Member { endpoint, weight: one.weight, ready: one.ready });
        }
        Ok(Arc::new(Self { config: config.clone(), members, turn: AtomicU64::new(0) }))
    }

    /// All endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.members.iter().map(|m| &m.endpoint)
    }

    /// The endpoint for the next request of `client`, not one of `tried` while there is another. An unwell
    /// endpoint is used only when no ready one is well.
    pub fn pick(&self, client: IpAddr, tried: &[BackendAddr], now: Instant) -> Option<Arc<Endpoint>> {
        let ready = |m: &&Member| m.ready;
        let fresh = |m: &&Member| m.ready && !tried.contains(&m.endpoint.addr);
        let well = |m: &&Member| fresh(m) && m.endpoint.wellness.is_well(now);
        // The usual case without allocation: everybody is ready and well.
        self.choose(client, well)
            .or_else(|| self.choose(client, fresh))
            .or_else(|| self.choose(client, ready))
    }

    fn choose(&self, client: IpAddr, fits: impl Fn(&&Member) -> bool) -> Option<Arc<Endpoint>> {
        let eligible = || self.members.iter().filter(&fits);
        let member = match self.config.balance {
            Balance::RoundRobin => {
                let total: u64 = eligible().map(|m| u64::from(m.weight)).sum();
                let mut point = spread(self.turn.fetch_add(1, Ordering::Relaxed), total)?;
                eligible().find(|m| {
                    let here = point < u64::from(m.weight);
                    point = point.saturating_sub(u64::from(m.weight));
                    here
                })
            }
            Balance::LeastRequest => {
                let count = eligible().count() as u64;
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                let first = eligible().nth(spread(turn, count)? as usize)?;
                // The second of the two is another one by construction, where there is another.
                let step = 1 + mix(turn) % count.max(2).saturating_sub(1);
                let second = eligible().nth(((spread(turn, count)? + step) % count) as usize)?;
                let load = |m: &Member| {
                    (m.endpoint.active.load(Ordering::Relaxed) as u64 + 1) * 1000 / u64::from(m.weight)
                };
                Some(if load(second) < load(first) { second } else { first })
            }
            // Rendezvous hashing: an endpoint that goes moves its own clients only.
            Balance::SourceHash => eligible().max_by_key(|m| {
                let mut hasher = DefaultHasher::new();
                (client, m.endpoint.addr).hash(&mut hasher);
                // -w/ln(u) orders by weight; integers serve for ranking.
                let unit = (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64;
                let score = -f64::from(m.weight) / unit.max(f64::MIN_POSITIVE).ln();
                (score * 1e6) as u64
            }),
        };
        member.map(|m| Arc::clone(&m.endpoint))
    }
}

/// `turn` spread evenly over `0..total`: a Weyl sequence, so that shares are met in short runs, too.
fn spread(turn: u64, total: u64) -> Option<u64> {
    if total == 0 {
        return None;
    }
    let unit = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Some(((u128::from(unit) * u128::from(total)) >> 64) as u64)
}

fn mix(value: u64) -> u64 {
    let x = value.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 31)
}

/// The backends of a rule with their shares.
#[derive(Debug, Default)]
pub struct Targets {
    pub(super) shares: Vec<(Arc<Backend>, u64)>,
    pub(super) total: u64,
    turn: AtomicU64,
}

impl Targets {
    pub(super) fn new(shares: Vec<(Arc<Backend>, u64)>) -> Self {
        let total = shares.iter().map(|(_, weight)| weight).sum();
        Self { shares, total, turn: AtomicU64::new(0) }
    }

    /// Whether no backend is named at all.
    pub fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// The backend for the next request; nothing when all shares are 0.
    pub fn pick(&self) -> Option<&Arc<Backend>> {
        if let [(only, weight)] = self.shares.as_slice() {
            return (*weight > 0).then_some(only);
        }
        let mut point = spread(self.turn.fetch_add(1, Ordering::Relaxed), self.total)?;
        for (backend, weight) in &self.shares {
            if point < *weight {
                return Some(backend);
            }
            point -= weight;
        }
        None
    }

    /// The backends.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.shares.iter().map(|(backend, _)| backend)
    }
}
