//! Prefix → ordered owners, and what each peer may send as.

use ipnet::{Ipv4Net, Ipv6Net};
use meshd_proto::{MeshAddrs, Prefix, addr::is_public_unicast};
use prefix_trie::PrefixMap;
use std::net::IpAddr;

/// A peer within one snapshot: an index into its `peers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerRef(pub u32);

/// The longest prefix wins; its owners are in order of preference.
#[derive(Clone, Default)]
pub struct RouteTable {
    v4: PrefixMap<Ipv4Net, Vec<PeerRef>>,
    v6: PrefixMap<Ipv6Net, Vec<PeerRef>>,
}

impl RouteTable {
    /// Adds `owner` behind those that `prefix` has already.
    pub fn add(&mut self, prefix: Prefix, owner: PeerRef) {
        let owners = match prefix.net() {
            ipnet::IpNet::V4(net) => self.v4.entry(net).or_default(),
            ipnet::IpNet::V6(net) => self.v6.entry(net).or_default(),
        };
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }

    /// The owners of the longest prefix that holds `dst`; empty: no route. A default route holds public
    /// unicast only: an exit node forwards nothing else (DESIGN §9), so nothing else is shown to it.
    pub fn owners(&self, dst: IpAddr) -> &[PeerRef] {
        let found = match dst {
            IpAddr::V4(ip) => self.v4.get_lpm(&Ipv4Net::from(ip)).map(|(net, o)| (net.prefix_len(), o)),
            IpAddr::V6(ip) => self.v6.get_lpm(&Ipv6Net::from(ip)).map(|(net, o)| (net.prefix_len(), o)),
        };
        match found {
            Some((0, _)) if !is_public_unicast(dst) => &[],
            Some((_, owners)) => owners,
            None => &[],
        }
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RouteTable({} prefixes)", self.len())
    }
}

/// The source addresses that one peer is entitled to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Its own.
    pub addrs: MeshAddrs,
    /// Behind it: routes that this node accepts, without default routes.
    pub prefixes: Vec<Prefix>,
    /// It is the chosen exit node for IPv4: any public source.
    pub exit_v4: bool,
    /// The same for IPv6.
    pub exit_v6: bool,
}

impl Sources {
    /// Whether a packet from that peer may have the source `src`.
    pub fn allow(&self, src: IpAddr) -> bool {
        self.addrs.contains(src)
            || self.prefixes.iter().any(|p| p.net().contains(&src))
            || ((if src.is_ipv4() { self.exit_v4 } else { self.exit_v6 }) && is_public_unicast(src))
    }
}
