//! The network map: all that one node knows of the mesh, as a whole, numbered, immutable value.
//!
//! The coordinator computes it, the control channel carries it as updates ([`MapUpdate`]), the node
//! applies an update to the map it has, stores the result and hands it on. Whoever uses a map compares
//! it with the one it had before: nobody is told "what changed".
//!
//! Invariants:
//! - an entry is unique by its [`EntryKey`];
//! - an absent filter is not an empty one: absent means "not received yet", and both deny;
//! - [`NetworkMap::digest`] covers every entry, and equals the coordinator's for the same version.

mod apply;
mod entry;

pub use apply::{ApplyError, MapUpdate};
pub use entry::{Entry, EntryKey};

use crate::{
    ClassId, DnsName, Endpoint, Epoch, Hostname, MapDigest, MeshAddrs, MeshPrefixes, NetworkId, NodeId,
    NodeKey, Prefix, RelayId, RuleId, Tag, UnixSeconds, VerifyingKey, Version, keys::CoordinatorKey,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// All that one node knows of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkMap {
    /// Which mesh.
    pub network: NetworkId,
    /// Which life of the coordinator's log.
    pub epoch: Epoch,
    /// How far in that log.
    pub version: Version,
    /// What the coordinator says of this node itself.
    pub me: Option<SelfNode>,
    /// The nodes this one may talk to.
    pub peers: BTreeMap<NodeId, Peer>,
    /// Prefixes behind nodes: an ordered set of owners for each prefix.
    pub routes: BTreeSet<Route>,
    /// Whether the filter was received: with no rule beside it, it denies everything on purpose.
    pub filter_present: bool,
    /// What this node lets in; read it through [`NetworkMap::filter`].
    pub rules: BTreeMap<RuleId, FilterRule>,
    /// How names are answered here.
    pub dns: Dns,
    /// Where ciphertext can be relayed.
    pub relays: BTreeMap<RelayId, Relay>,
    /// Services with addresses of their own.
    pub services: BTreeMap<DnsName, Service>,
    /// What this node serves on addresses that are not its own.
    pub forwards: BTreeMap<(IpAddr, u8, u16), Forward>,
    /// Configuration for a gateway that runs on this node: JSON of [`crate::gateway::GatewayConfig`].
    pub gateways: BTreeMap<String, String>,
    /// How the coordinator is reached from now on.
    pub coordinator: Option<CoordinatorInfo>,
    digest: MapDigest,
}

/// What the coordinator says of the node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfNode {
    /// This node.
    pub id: NodeId,
    /// Its name in the mesh; not always what it asked for.
    pub name: Hostname,
    /// Its addresses.
    pub addrs: MeshAddrs,
    /// Its policy class.
    pub class: ClassId,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// The ranges of the mesh.
    pub prefixes: MeshPrefixes,
    /// Advertised and approved.
    pub approved_routes: Vec<Prefix>,
    /// Advertised, waiting for an admin.
    pub pending_routes: Vec<Prefix>,
    /// When its node key ends; `None`: never.
    pub key_expires: Option<UnixSeconds>,
    /// How long a stored map may be used without the coordinator, in seconds.
    pub map_lease: u64,
}

/// A node that this one may talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub id: NodeId,
    /// Its WireGuard key.
    pub key: NodeKey,
    /// Its name.
    pub name: Hostname,
    /// Its addresses.
    pub addrs: MeshAddrs,
    /// Its policy class: filter rules name classes, not addresses.
    pub class: ClassId,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// Who it belongs to, for display; empty for tagged nodes.
    pub owner: String,
    /// When its node key ends; a node enforces this itself.
    pub key_expires: Option<UnixSeconds>,
    /// What runs there.
    pub kind: PeerKind,
}

/// What software a peer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// Ours: understands probes, relays and candidate lists.
    Meshd,
    /// A plain WireGuard device joined through this node: endpoint roaming only.
    PlainWireguard,
}

/// A prefix behind a node. The same prefix may have several owners; lower `rank` is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// The prefix.
    pub prefix: Prefix,
    /// Preference among owners, lowest first.
    pub rank: u32,
    /// The node it lies behind; may be this node itself.
    pub owner: NodeId,
}

/// One rule of a node's packet filter. Everything that no rule allows is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// Line of the policy text this came from, so that a verdict can be explained.
    pub line: u32,
    /// Who may send.
    pub srcs: Vec<RuleSource>,
    /// To what.
    pub dsts: Vec<RuleTarget>,
}

/// Who a rule lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleSource {
    /// Every node of the mesh (by its own mesh addresses; not hosts behind subnet routers).
    AnyNode,
    /// Nodes of one class.
    Class(ClassId),
    /// Addresses, inside or outside the mesh range: hosts behind a router count by address.
    Prefix(Prefix),
}

/// What a rule lets them reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleTarget {
    /// Which addresses.
    pub to: TargetAddr,
    /// Which IP protocol; `None`: every one, with ports ignored for those that have none.
    pub protocol: Option<u8>,
    /// First allowed destination port.
    pub first_port: u16,
    /// Last allowed destination port (0–65535: all).
    pub last_port: u16,
}

/// The destination addresses of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetAddr {
    /// This node's own mesh addresses (with the resolver's).
    Myself,
    /// A prefix behind this node.
    Prefix(Prefix),
    /// Public unicast addresses: traffic through this node as exit node.
    Internet,
}

/// How names are answered on this node.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Dns {
    /// Absent until received: then no name of the mesh is answered.
    pub config: Option<DnsConfig>,
    /// Records that an admin made, visible to this node. Names of peers come from [`NetworkMap::peers`].
    pub records: BTreeMap<(DnsName, RecordType), RecordSet>,
}

/// The mesh's own zone and where other names go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// `<mesh>.internal`.
    pub domain: DnsName,
    /// Further search domains.
    pub search: Vec<DnsName>,
    /// Per-domain upstreams.
    pub split: Vec<SplitRoute>,
    /// Resolvers for everything else; empty: the host's own.
    pub nameservers: Vec<Endpoint>,
    /// Seconds that answers about mesh names may be cached.
    pub ttl: u32,
}

/// Names under `suffix` are asked of `upstreams`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SplitRoute {
    /// The domain.
    pub suffix: DnsName,
    /// Its resolvers.
    pub upstreams: Vec<Endpoint>,
}

/// DNS record types an admin can set (RFC 1035, 3596, 2782, 8659, 9460).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordType {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Another name.
    Cname,
    /// Text.
    Txt,
    /// Where mail goes.
    Mx,
    /// Where a service is.
    Srv,
    /// The name of an address.
    Ptr,
    /// Who may issue certificates.
    Caa,
    /// How to reach a service.
    Svcb,
    /// How to reach a web service.
    Https,
    /// Name servers that a part of the tree is delegated to.
    Ns,
}

/// The values of one name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSet {
    /// Seconds to cache.
    pub ttl: u32,
    /// Values in text form, each valid for the type.
    pub values: Vec<RecordValue>,
}

/// One value of a record set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordValue {
    /// For [`RecordType::A`] and [`RecordType::Aaaa`].
    Address(IpAddr),
    /// For [`RecordType::Cname`].
    Name(DnsName),
    /// For [`RecordType::Txt`], the text; for the types behind it the value as in a zone file, with
    /// absolute names (RFC 1035 §5.1). At most 255 bytes.
    Text(String),
}

/// A relay: forwards ciphertext between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// The relay.
    pub id: RelayId,
    /// For display.
    pub name: String,
    /// Its X25519 key: nodes prove their node key against it.
    pub key: NodeKey,
    /// Host names or addresses, tried in order; resolved by the host, never by our own resolver.
    pub hosts: Vec<String>,
    /// Relay and STUN over UDP.
    pub udp_port: u16,
    /// A second STUN port for NAT classification; 0: none.
    pub alt_udp_port: u16,
    /// TLS and WebSocket; 0: none.
    pub tls_port: u16,
}

/// A service with addresses of its own (a Kubernetes LoadBalancer, an exposed port).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: DnsName,
    /// Its addresses; each is also a [`Route`] to its owners.
    pub addrs: Vec<IpAddr>,
    /// `(protocol, port)` pairs.
    pub ports: Vec<(u8, u16)>,
}

/// What a node serves on an address of a service: packets for the address go to one of the endpoints, which
/// are on this node. The address is also a [`Route`] of this node, and the filter judges it as destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The service's address.
    pub address: IpAddr,
    /// IP protocol: TCP, UDP or SCTP.
    pub protocol: u8,
    /// The port on the address.
    pub port: u16,
    /// Where it ends, all of the address's family; never empty.
    pub endpoints: Vec<SocketAddr>,
    /// A client stays with its endpoint.
    pub sticky: bool,
    /// Who may use it; none: everybody whom the filter lets.
    pub sources: Vec<Prefix>,
}

/// How the coordinator is reached, and its keys for permits and rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorInfo {
    /// Control-channel key.
    pub key: CoordinatorKey,
    /// Signing key of permits.
    pub signing_key: VerifyingKey,
    /// The keys that follow, once a rotation is planned.
    pub next_key: Option<CoordinatorKey>,
    /// See `next_key`.
    pub next_signing_key: Option<VerifyingKey>,
    /// `host:port` or `address:port`, tried in order.
    pub addresses: Vec<String>,
    /// The mesh's display name, the first label of its domain.
    pub mesh_name: String,
}

impl NetworkMap {
    /// The map of a node that has heard nothing yet.
    pub fn empty(network: NetworkId) -> Self {
        Self {
            network,
            epoch: Epoch(0),
            version: Version(0),
            me: None,
            peers: BTreeMap::new(),
            routes: BTreeSet::new(),
            filter_present: false,
            rules: BTreeMap::new(),
            dns: Dns::default(),
            relays: BTreeMap::new(),
            services: BTreeMap::new(),
            forwards: BTreeMap::new(),
            gateways: BTreeMap::new(),
            coordinator: None,
            digest: MapDigest::EMPTY,
        }
    }

    /// The digest over all entries.
    pub const fn digest(&self) -> MapDigest {
        self.digest
    }

    /// What this node lets in; `None`: not received yet, which denies as well.
    pub fn filter(&self) -> Option<&BTreeMap<RuleId, FilterRule>> {
        self.filter_present.then_some(&self.rules)
    }

    /// The peer that holds `key`.
    pub fn peer_by_key(&self, key: &NodeKey) -> Option<&Peer> {
        self.peers.values().find(|p| p.key == *key)
    }

    /// The peer of that name (without domain).
    pub fn peer_by_name(&self, name: &str) -> Option<&Peer> {
        self.peers.values().find(|p| p.name.as_str().eq_ignore_ascii_case(name))
    }

    /// The owners of exactly `prefix`, most preferred first.
    pub fn owners(&self, prefix: Prefix) -> impl Iterator<Item = NodeId> {
        self.routes.iter().filter(move |r| r.prefix == prefix).map(|r| r.owner)
    }
}

impl RuleTarget {
    /// Every protocol and port of `to`.
    pub const fn all(to: TargetAddr) -> Self {
        Self { to, protocol: None, first_port: 0, last_port: u16::MAX }
    }
}

impl RecordType {
    /// Every type.
    pub const ALL: [Self; 11] = [
        Self::A,
        Self::Aaaa,
        Self::Cname,
        Self::Txt,
        Self::Mx,
        Self::Srv,
        Self::Ptr,
        Self::Caa,
        Self::Svcb,
        Self::Https,
        Self::Ns,
    ];

    /// The type of that name, in any letter case.
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(text))
    }

    /// The type's number in the DNS itself.
    pub const fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Ns => 2,
            Self::Cname => 5,
            Self::Ptr => 12,
            Self::Mx => 15,
            Self::Txt => 16,
            Self::Aaaa => 28,
            Self::Srv => 33,
            Self::Svcb => 64,
            Self::Https => 65,
            Self::Caa => 257,
        }
    }

    /// The name in zone files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Cname => "CNAME",
            Self::Txt => "TXT",
            Self::Mx => "MX",
            Self::Srv => "SRV",
            Self::Ptr => "PTR",
            Self::Caa => "CAA",
            Self::Svcb => "SVCB",
            Self::Https => "HTTPS",
            Self::Ns => "NS",
        }
    }
}

#[cfg(test)]
mod tests;
