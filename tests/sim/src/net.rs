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

/// Where a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// With a public address of its own: 198.51.100.n.
    Public(u8),
    /// In a home: 192.168.h.n behind 203.0.113.h.
    Home(Home, u8),
}

impl Place {
    /// The address of the node's own interface.
    pub fn local(self) -> Endpoint {
        let ip = match self {
            Self::Public(n) => Ipv4Addr::new(198, 51, 100, n),
            Self::Home(Home(h), n) => Ipv4Addr::new(192, 168, h, n),
        };
        Endpoint(SocketAddr::new(ip.into(), PORT))
    }
}

/// A NAT with endpoint-independent mapping and address-and-port-dependent filtering (RFC 4787 §4.1, §5).
#[derive(Debug, Default)]
struct Nat {
    /// Inside → outside port and when it was last used outwards.
    mappings: HashMap<Endpoint, (u16, Instant)>,
    /// (Outside port, remote) that the inside has sent to.
    sent_to: HashMap<(u16, Endpoint), Instant>,
    next_port: u16,
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
    /// Sends a datagram from `place` to `to`; `None`: a NAT dropped it, or there is no such host.
    pub(crate) fn route(&mut self, place: Place, to: Endpoint, now: Instant) -> Option<Arrival> {
        let local = place.local();
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
            nat.sent_to.clear();
        }
    }
}

impl Nat {
    fn outbound(&mut self, inside: Endpoint, to: Endpoint, now: Instant) -> u16 {
        let fresh = |at: Instant| now.saturating_duration_since(at) < MAPPING;
        let port = match self.mappings.get(&inside) {
            Some((port, at)) if fresh(*at) => *port,
            _ => {
                self.next_port += 1;
                20_000 + self.next_port
            }
        };
        self.mappings.insert(inside, (port, now));
        self.sent_to.insert((port, to), now);
        port
    }

    fn inbound(&self, port: u16, from: Endpoint, now: Instant) -> Option<Endpoint> {
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < MAPPING;
        let (inside, _) = self.mappings.iter().find(|(_, (p, at))| *p == port && fresh(at))?;
        self.sent_to.get(&(port, from)).filter(|at| fresh(at)).map(|_| *inside)
    }
}
