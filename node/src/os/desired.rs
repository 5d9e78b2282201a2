//! What the host should look like: a pure value computed from the network map and the host's settings.
//!
//! It never looks at the host. What is locally connected comes in with the settings.
//!
//! Invariants:
//! - own rules never apply to packets that carry [`FWMARK`]: our own sockets use the host's routing;
//! - with an exit chosen and no `exit_fallback`, each family ends either in the mesh or as unreachable;
//! - a prefix that is connected here is never routed into the mesh, unless it is in `prefer_mesh`.

use super::nft::{Nat, NftTable, mesh_table};
use ipnet::IpNet;
use meshd_proto::netmap::SelfNode;
use meshd_proto::{MeshAddrs, NetworkMap, NodeId, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The mark on our own sockets ("mesh" in ASCII).
pub const FWMARK: u32 = 0x6d65_7368;
/// Our routing table.
pub const TABLE: u32 = 5200;
/// Route and rule protocol number by which we know our own routes and rules ("m" in ASCII).
pub const PROTOCOL: u8 = 109;
/// Priorities of our rules.
pub const PRIORITIES: std::ops::RangeInclusive<u32> = 5200..=5230;
/// MTU of the mesh interface: 1500 less IPv6, UDP, WireGuard and room for an outer tunnel.
pub const DEFAULT_MTU: u32 = 1380;

/// The name of a network interface, valid for the kernel and safe inside an nft script.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(String);

/// A text is no interface name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an interface name: 1 to 15 letters, digits, `-`, `_` or `.`")]
pub struct BadIfName(String);

impl IfName {
    /// The default name, `mesh0`.
    pub fn mesh0() -> Self {
        Self("mesh0".into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = BadIfName;
    fn from_str(text: &str) -> Result<Self, BadIfName> {
        let fine = (1..=15).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && text != "."
            && text != "..";
        if fine { Ok(Self(text.into())) } else { Err(BadIfName(text.chars().take(32).collect())) }
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the user chose for this host, and what is connected to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSettings {
    /// The TUN interface; the caller makes it.
    pub interface: IfName,
    /// Its MTU.
    pub mtu: u32,
    /// Our UDP port, once bound: needed where an exit is used and reverse-path filters are strict.
    pub udp_port: Option<u16>,
    /// Whether subnet routes of peers are installed.
    pub accept_routes: bool,
    /// Whether traffic from the mesh to our advertised subnets is masqueraded.
    pub snat: bool,
    /// The exit node in use.
    pub exit: Option<ExitChoice>,
    /// Let traffic out directly when the exit is down or lacks the family.
    pub exit_fallback: bool,
    /// Prefixes for which the mesh wins although they are connected here.
    pub prefer_mesh: BTreeSet<Prefix>,
    /// Add accept rules to the hooks other firewalls offer.
    pub firewall_assist: bool,
    /// What is connected here: [`super::links::connected`].
    pub connected: Vec<Connected>,
}

impl Default for HostSettings {
    fn default() -> Self {
        Self {
            interface: IfName::mesh0(),
            mtu: DEFAULT_MTU,
            udp_port: None,
            accept_routes: true,
            snat: true,
            exit: None,
            exit_fallback: false,
            prefer_mesh: BTreeSet::new(),
            firewall_assist: false,
            connected: Vec::new(),
        }
    }
}

/// The exit node in use, and whether it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitChoice {
    /// Which node.
    pub node: NodeId,
    /// Whether it is reachable now.
    pub up: bool,
}

/// A prefix that is directly connected to this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connected {
    /// The prefix.
    pub prefix: Prefix,
    /// The interface it is on.
    pub interface: String,
}

/// What the host should look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The mesh interface.
    pub interface: IfName,
    /// Its MTU.
    pub mtu: u32,
    /// Its addresses, each a host prefix; `true`: never chosen as a source (the resolver's).
    pub addresses: BTreeMap<IpAddr, bool>,
    /// Routes in [`TABLE`].
    pub routes: BTreeMap<Prefix, RouteKind>,
    /// Rules, in priority order.
    pub rules: BTreeSet<Rule>,
    /// Forward IPv4.
    pub forward_v4: bool,
    /// Forward IPv6.
    pub forward_v6: bool,
    /// Reverse-path filters must look at marks (an exit is in use).
    pub marks_valid_for_source: bool,
    /// Our nftables table; `None`: it should not exist.
    pub nft: Option<NftTable>,
    /// Use the hooks other firewalls offer.
    pub firewall_assist: bool,
    /// Where accepted routes and connected networks overlap.
    pub overlaps: Vec<Overlap>,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where a route of ours leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// Into the mesh interface, with this source address.
    Mesh {
        /// Preferred source.
        source: Option<IpAddr>,
    },
    /// Not by our table: the host's own routing decides.
    Throw,
}

/// One policy-routing rule. None of them is for packets of our own sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Smaller is earlier.
    pub priority: u32,
    /// Which family.
    pub family: Family,
    /// What it does.
    pub action: RuleAction,
}

/// What a rule of ours does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleAction {
    /// Look into [`TABLE`], default routes ignored.
    MeshPrefixes,
    /// Look into the main table, default routes ignored: the LAN stays reachable.
    MainPrefixes,
    /// Look into [`TABLE`] with its default route: the exit.
    MeshDefault,
    /// Refuse what is left: nothing leaks.
    Unreachable,
    /// Refuse questions to resolvers, those on the LAN included: they would ask the internet for us. Of
    /// this rule's packets none carries a mark, rather than not ours: the kernel has no "and not".
    RefuseDns {
        /// TCP, else UDP.
        tcp: bool,
    },
}

/// An accepted route and a connected network share addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The accepted route.
    pub accepted: Prefix,
    /// Names of its owners.
    pub owners: Vec<String>,
    /// What is connected here.
    pub connected: Connected,
    /// Whether the mesh wins.
    pub mesh_wins: bool,
}

impl Family {
    /// The family of a prefix.
    pub const fn of(prefix: Prefix) -> Self {
        match prefix.net() {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// The family of an address.
    pub const fn of_addr(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl Desired {
    /// Nothing of ours on the host.
    pub fn nothing(interface: IfName) -> Self {
        Self {
            interface,
            mtu: DEFAULT_MTU,
            addresses: BTreeMap::new(),
            routes: BTreeMap::new(),
            rules: BTreeSet::new(),
            forward_v4: false,
            forward_v6: false,
            marks_valid_for_source: false,
            nft: None,
            firewall_assist: false,
            overlaps: Vec::new(),
        }
    }

    /// Nothing of ours but the closed door: no internet traffic of either family leaves this host, and no
    /// question to a resolver. For a host whose user chose an exit while this node is in no mesh.
    pub fn exit_block(interface: IfName) -> Self {
        let mut desired = Self::nothing(interface);
        for family in [Family::V4, Family::V6] {
            for (priority, action) in [
                (5215, RuleAction::RefuseDns { tcp: false }),
                (5215, RuleAction::RefuseDns { tcp: true }),
                (5220, RuleAction::MainPrefixes),
                (5230, RuleAction::Unreachable),
            ] {
                desired.rules.insert(Rule { priority, family, action });
            }
        }
        desired
    }

    /// Whether nothing of ours is wanted on the host.
    pub fn is_nothing(&self) -> bool {
        *self == Self { mtu: self.mtu, ..Self::nothing(self.interface.clone()) }
    }

    /// What the host should look like with this map and these settings.
    pub fn from(map: &NetworkMap, settings: &HostSettings) -> Self {
        let mut desired = Self::nothing(settings.interface.clone());
        desired.mtu = settings.mtu;
        let Some(me) = &map.me else { return desired };
        let resolver = me.prefixes.resolver();
        for addr in me.addrs.iter() {
            desired.addresses.insert(addr, false);
        }
        for addr in resolver.iter() {
            desired.addresses.entry(addr).or_insert(true);
        }
        for mesh in [IpNet::V4(me.prefixes.v4), IpNet::V6(me.prefixes.v6)] {
            desired.add_route(mesh, me.addrs);
        }
        if settings.accept_routes {
            desired.accept_routes(map, me, settings);
        }
        for family in [Family::V4, Family::V6] {
            desired.rules.insert(Rule { priority: 5210, family, action: RuleAction::MeshPrefixes });
            desired.route_to_exit(map, me, settings, family);
        }
        desired.marks_valid_for_source = settings.exit.is_some();
        let offered = |family| {
            me.approved_routes
                .iter()
                .copied()
                .filter(move |p| Family::of(*p) == family)
                .collect::<BTreeSet<_>>()
        };
        let (v4, v6) = (offered(Family::V4), offered(Family::V6));
        let serves = |v4: bool| map.forwards.values().any(|f| f.address.is_ipv4() == v4);
        desired.forward_v4 = !v4.is_empty() || serves(true);
        desired.forward_v6 = !v6.is_empty() || serves(false);
        let mark_port = settings.exit.map(|_| settings.udp_port.unwrap_or(0));
        let forwards = map.forwards.values().collect();
        let nat = Nat { v4: &v4, v6: &v6, snat: settings.snat, forwards };
        desired.nft = Some(mesh_table(&settings.interface, &me.prefixes, &nat, mark_port));
        desired.firewall_assist = settings.firewall_assist;
        desired
    }

    /// Accepted routes that are not used at all because the network is connected here. A wider route
    /// that only leaves out what is connected inside it is not among them.
    pub fn refused_routes(&self) -> Vec<Prefix> {
        let refused = self.overlaps.iter().map(|o| o.accepted).filter(|p| !self.routes.contains_key(p));
        let mut refused: Vec<Prefix> = refused.collect();
        refused.dedup();
        refused
    }

    fn add_route(&mut self, net: IpNet, own: MeshAddrs) {
        let Ok(prefix) = Prefix::new(net.trunc()) else { return };
        let source = own.iter().find(|a| Family::of_addr(*a) == Family::of(prefix));
        self.routes.insert(prefix, RouteKind::Mesh { source });
    }

    fn accept_routes(&mut self, map: &NetworkMap, me: &SelfNode, settings: &HostSettings) {
        let mut accepted: BTreeMap<Prefix, Vec<String>> = BTreeMap::new();
        for route in &map.routes {
            let covered = |net: IpNet| net.contains(&route.prefix.net());
            let of_mesh = covered(me.prefixes.v4.into()) || covered(me.prefixes.v6.into());
            // Also an address of a service that this node serves, beside others.
            let mine = me.approved_routes.contains(&route.prefix)
                || map.owners(route.prefix).any(|owner| owner == me.id);
            if route.prefix.is_default() || of_mesh || mine {
                continue;
            }
            let Some(peer) = map.peers.get(&route.owner) else { continue };
            accepted.entry(route.prefix).or_default().push(peer.name.to_string());
        }
        for (prefix, owners) in accepted {
            let mut local_wins = false;
            for connected in settings.connected.iter().filter(|c| c.prefix.overlaps(&prefix)) {
                let mesh_wins = settings.prefer_mesh.contains(&prefix);
                let inside = connected.prefix != prefix && prefix.net().contains(&connected.prefix.net());
                match (mesh_wins, inside) {
                    (true, _) => {}
                    (false, true) => drop(self.routes.insert(connected.prefix, RouteKind::Throw)),
                    (false, false) => local_wins = true,
                }
                self.overlaps.push(Overlap {
                    accepted: prefix,
                    owners: owners.clone(),
                    connected: connected.clone(),
                    mesh_wins,
                });
            }
            if !local_wins {
                self.add_route(prefix.net(), me.addrs);
            }
        }
    }

    fn route_to_exit(&mut self, map: &NetworkMap, me: &SelfNode, settings: &HostSettings, family: Family) {
        let Some(exit) = settings.exit.filter(|e| e.node != me.id) else { return };
        let default = match family {
            Family::V4 => Prefix::DEFAULT_V4,
            Family::V6 => Prefix::DEFAULT_V6,
        };
        let offers =
            map.peers.contains_key(&exit.node) && map.owners(default).any(|owner| owner == exit.node);
        let usable = exit.up && offers;
        if !usable && settings.exit_fallback {
            return;
        }
        let mut rule = |priority, action| self.rules.insert(Rule { priority, family, action });
        rule(5220, RuleAction::MainPrefixes);
        if !settings.exit_fallback {
            rule(5230, RuleAction::Unreachable);
        }
        if usable {
            rule(5225, RuleAction::MeshDefault);
            self.add_route(default.net(), me.addrs);
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            RuleAction::MeshPrefixes => format!("lookup {TABLE} suppress_prefixlength 0"),
            RuleAction::MainPrefixes => "lookup main suppress_prefixlength 0".into(),
            RuleAction::MeshDefault => format!("lookup {TABLE}"),
            RuleAction::Unreachable => "unreachable".into(),
            RuleAction::RefuseDns { tcp } => {
                let transport = if tcp { "tcp" } else { "udp" };
                return write!(
                    f,
                    "{} {}: no fwmark ipproto {transport} dport 53 unreachable",
                    self.family, self.priority
                );
            }
        };
        write!(f, "{} {}: not fwmark {FWMARK:#x} {action}", self.family, self.priority)
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh { source: Some(source) } => write!(f, "into the mesh from {source}"),
            Self::Mesh { source: None } => f.write_str("into the mesh"),
            Self::Throw => f.write_str("left to the host's own routing"),
        }
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, owners, connected, mesh_wins } = self;
        let Connected { prefix, interface } = connected;
        write!(
            f,
            "route {accepted} of {} overlaps {prefix}, connected here on {interface}: ",
            owners.join(", ")
        )?;
        let inside = *accepted != *prefix && accepted.net().contains(&prefix.net());
        match (mesh_wins, inside) {
            (true, _) => write!(f, "the mesh wins, as set; hosts on {interface} may be unreachable"),
            (false, true) => write!(f, "{prefix} stays local, the rest goes to the mesh"),
            (false, false) => write!(f, "local wins; `meshd set --prefer-mesh {accepted}` reverses it"),
        }
    }
}

#[cfg(test)]
mod tests;
