//! The small internet: places, home NATs, blocked paths.

use meshd_proto::Endpoint;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// A home router forgets a mapping that sent nothing for this long.
const MAPPING: Duration = Duration::from_secs(30);
/// Every node's UDP port.
pub(crate) const PORT: u16 = 41820;

/// A home with a NAT, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Home(pub u8);

/// How a home's router maps and filters (RFC 4787 §4.1, §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NatKind {
    /// Endpoint-independent mapping, filtering by address and port.
    #[default]
    Home,
    /// Endpoint-independent mapping, filtering by address.
    AddressRestricted,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// A random port for every destination, filtering by address and port.
    Symmetric,
}

/// Where a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// With a public address of its own: 198.51.100.n.
    Public(u8),
    /// In a home: 192.168.h.n behind 203.0.113.h.
    Home(Home, u8),
}

impl Place {
    /// Whether both are in one home.
    pub fn same_home(self, other: Self) -> bool {
        matches!((self, other), (Self::Home(a, _), Self::Home(b, _)) if a == b)
    }

    /// The address of the node's own interface.
    pub fn local(self) -> Endpoint {
        let ip = match self {
            Self::Public(n) => Ipv4Addr::new(198, 51, 100, n),
            Self::Home(Home(h), n) => Ipv4Addr::new(192, 168, h, n),
        };
        Endpoint(SocketAddr::new(ip.into(), PORT))
    }
}

/// Inside, and for a NAT that maps by destination that.
type Flow = (Endpoint, Option<Endpoint>);

#[derive(Debug, Default)]
struct Nat {
    kind: NatKind,
    /// Inside, and for a symmetric one destination → outside port and when it was last used outwards.
    mappings: HashMap<Flow, (u16, Instant)>,
    /// The same by outside port.
    by_port: HashMap<u16, Flow>,
    /// Outside port → whom the inside has sent to from it, and when.
    sent_to: HashMap<u16, HashMap<Endpoint, Instant>>,
    /// Of the last mapping.
    draw: u64,
}

/// All NATs.
#[derive(Debug, Default)]
pub(crate) struct Net {
    nats: HashMap<Home, Nat>,
}

/// Where a datagram ends up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The source that the receiver sees.
    pub(crate) source: Endpoint,
    /// The receiving interface.
    pub(crate) to: Endpoint,
    /// Whether it never left the LAN.
    pub(crate) lan: bool,
}

fn outside(home: Home, port: u16) -> Endpoint {
    Endpoint(SocketAddr::new(Ipv4Addr::new(203, 0, 113, home.0).into(), port))
}

fn home_of(ip: IpAddr) -> Option<Home> {
    match ip {
        IpAddr::V4(v4) if v4.octets()[..3] == [203, 0, 113] => Some(Home(v4.octets()[3])),
        _ => None,
    }
}

fn is_private(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.is_private())
}

impl Net {
    /// What kind of router a home has from now on.
    pub(crate) fn set_kind(&mut self, home: Home, kind: NatKind) {
        self.nats.entry(home).or_default().kind = kind;
    }

    /// Sends a datagram from `place` and `port` to `to`; `None`: a NAT dropped it, or there is no such host.
    pub(crate) fn route(&mut self, place: Place, port: u16, to: Endpoint, now: Instant) -> Option<Arrival> {
        let local = Endpoint((place.local().0.ip(), port).into());
        let source = match place {
            Place::Public(_) => local,
            Place::Home(home, _) if is_private(to.0.ip()) => {
                let same = Place::Home(home, 0).local().0.ip();
                let (IpAddr::V4(a), IpAddr::V4(b)) = (same, to.0.ip()) else { return None };
                let lan = a.octets()[..3] == b.octets()[..3];
                return lan.then_some(Arrival { source: local, to, lan: true });
            }
            Place::Home(home, _) => {
                let port = self.nats.entry(home).or_default().outbound(local, to, now);
                outside(home, port)
            }
        };
        if is_private(to.0.ip()) {
            return None;
        }
        let to = match home_of(to.0.ip()) {
            // No hairpin: half of the home routers do not do it.
            Some(home) if matches!(place, Place::Home(h, _) if h == home) => return None,
            Some(home) => self.nats.get_mut(&home)?.inbound(to.0.port(), source, now)?,
            None => to,
        };
        Some(Arrival { source, to, lan: false })
    }

    /// A router restarts and forgets everything.
    pub(crate) fn forget(&mut self, home: Home) {
        if let Some(nat) = self.nats.get_mut(&home) {
            nat.mappings.clear();
            nat.by_port.clear();
            nat.sent_to.clear();
        }
    }
}

impl Nat {
    fn outbound(&mut self, inside: Endpoint, to: Endpoint, now: Instant) -> u16 {
        let fresh = |at: Instant| now.saturating_duration_since(at) < MAPPING;
        let key = (inside, (self.kind == NatKind::Symmetric).then_some(to));
        let port = match self.mappings.get(&key) {
            Some((port, at)) if fresh(*at) => *port,
            _ => loop {
                self.draw =
                    self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let port = 1024 + ((self.draw >> 33) % 64_512) as u16;
                if !self.by_port.contains_key(&port) {
                    break port;
                }
            },
        };
        if let Some((old, _)) = self.mappings.insert(key, (port, now)).filter(|(old, _)| *old != port) {
            self.by_port.remove(&old);
            self.sent_to.remove(&old);
        }
        self.by_port.insert(port, key);
        self.sent_to.entry(port).or_default().insert(to, now);
        port
    }

    fn inbound(&self, port: u16, from: Endpoint, now: Instant) -> Option<Endpoint> {
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < MAPPING;
        let flow = self.by_port.get(&port)?;
        self.mappings.get(flow).filter(|(_, at)| fresh(at))?;
        let inside = &flow.0;
        let passes = match (self.kind, self.sent_to.get(&port)) {
            (NatKind::FullCone, _) => true,
            (_, None) => false,
            (NatKind::AddressRestricted, Some(sent)) => {
                sent.iter().any(|(to, at)| to.0.ip() == from.0.ip() && fresh(at))
            }
            (NatKind::Home | NatKind::Symmetric, Some(sent)) => sent.get(&from).is_some_and(fresh),
        };
        passes.then_some(*inside)
    }
}
