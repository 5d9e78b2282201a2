//! Everything the coordinator knows, as one immutable value per version.
//!
//! The store writes it, the service publishes it, API, CLI and the map compiler read it. A model is
//! never changed in place: [`Model::apply`] makes the next one from the writes of one commit, and what
//! the store reads back after a restart equals it.
//!
//! Invariants:
//! - `version` grows by one with every commit that a node could notice;
//! - names, mesh addresses, node keys and machine keys are unique among nodes;
//! - every `NodeRecord::class` is in `classes`, and a class keeps its id for ever.

mod apply;
mod bound;
mod cluster;
mod publish;
mod publishing;
pub mod roles;

pub use apply::Write;
pub(crate) use bound::MAX_SEARCH;
pub use bound::{Audience, AudienceError, Bound, Records};
pub use cluster::{Cluster, Served, Serving};
pub use publish::{HISTORY, Published, Step};
pub use publishing::{Publishing, StoredClaim};

use meshd_policy::Policy;
use meshd_proto::netmap::{DnsConfig, PeerKind, RecordSet, RecordType, Relay, SplitRoute};
use meshd_proto::{
    ClassId, CoordinatorKey, DnsName, Endpoint, Epoch, Hostname, MachineKey, MeshAddrs, MeshPrefixes,
    NetworkId, NodeId, NodeKey, Prefix, RelayId, Tag, UnixSeconds, VerifyingKey, Version,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything the coordinator knows at one version. Nodes are shared, so that a clone is cheap.
#[derive(Clone, Debug)]
pub struct Model {
    /// Which mesh.
    pub network: NetworkId,
    /// Which life of the log; a restore starts a new one.
    pub epoch: Epoch,
    /// How far in that log.
    pub version: Version,
    /// Names, ranges and keys of the mesh.
    pub mesh: MeshSettings,
    /// Every member, plain WireGuard devices too.
    pub nodes: BTreeMap<NodeId, Arc<NodeRecord>>,
    /// Every class that a node ever was in.
    pub classes: BTreeMap<ClassId, ClassKey>,
    /// The policy in force.
    pub policy: Arc<Policy>,
    /// The version at which that policy was set.
    pub policy_version: Version,
    /// DNS records that an admin made.
    pub records: BTreeMap<(DnsName, RecordType), RecordSet>,
    /// Names that hold for some only.
    pub bound: BTreeMap<Audience, Arc<Bound>>,
    /// The relays of the mesh.
    pub relays: BTreeMap<RelayId, Relay>,
    /// Clusters whose operators publish services.
    pub clusters: BTreeMap<Hostname, Arc<Cluster>>,
}

/// Names, ranges and keys of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// Display name, the first label of the domain.
    pub name: Hostname,
    /// `<mesh>.internal`.
    pub domain: DnsName,
    /// The ranges mesh addresses come from.
    pub prefixes: MeshPrefixes,
    /// How long a node may use a stored map without the coordinator, in seconds.
    pub map_lease: u64,
    /// `host:port` where nodes reach the coordinator, tried in order.
    pub addresses: Vec<String>,
    /// Control-channel key.
    pub key: CoordinatorKey,
    /// Signing key of permits.
    pub signing_key: VerifyingKey,
    /// Key that follows `key`, once a rotation is planned.
    pub next_key: Option<CoordinatorKey>,
    /// Key that follows `signing_key`.
    pub next_signing_key: Option<VerifyingKey>,
    /// Further search domains of nodes.
    pub search: Vec<DnsName>,
    /// Per-domain upstreams.
    pub split: Vec<SplitRoute>,
    /// Resolvers for everything else; empty: the node's own.
    pub nameservers: Vec<Endpoint>,
    /// Seconds that answers about mesh names may be cached.
    pub dns_ttl: u32,
}

impl MeshSettings {
    /// The DNS section of every node's map.
    pub fn dns_config(&self) -> DnsConfig {
        DnsConfig {
            domain: self.domain.clone(),
            search: self.search.clone(),
            split: self.split.clone(),
            nameservers: self.nameservers.clone(),
            ttl: self.dns_ttl,
        }
    }
}

/// Who a node belongs to. Equality is by identity: the display name is not part of it.
#[derive(Clone, Debug)]
pub enum Owner {
    /// A person: `(issuer, subject)` is the identity, never an e-mail address.
    User {
        /// Who vouches for the subject; [`Owner::LOCAL_ISSUER`] for users made on this coordinator.
        issuer: String,
        /// The person's id there.
        subject: String,
        /// How the person is shown.
        display: String,
    },
    /// Nobody: the node's tags say what it is.
    Tagged,
}

impl Owner {
    /// Issuer of users that were named on this coordinator.
    pub const LOCAL_ISSUER: &'static str = "local";

    /// A user named on this coordinator, without an identity provider.
    pub fn local(name: &str) -> Self {
        Self::User {
            issuer: Self::LOCAL_ISSUER.to_owned(),
            subject: name.to_owned(),
            display: name.to_owned(),
        }
    }

    /// For display; empty for tagged nodes.
    pub fn display(&self) -> &str {
        match self {
            Self::User { display, .. } => display,
            Self::Tagged => "",
        }
    }

    /// The name by which a policy text names the owner; `None` for tagged nodes. Two people never have
    /// the same one: a user of another issuer carries it behind the subject.
    pub fn policy_name(&self) -> Option<String> {
        match self {
            Self::User { issuer, subject, .. } if issuer == Self::LOCAL_ISSUER => Some(subject.clone()),
            Self::User { issuer, subject, .. } => Some(format!("{subject}@{issuer}")),
            Self::Tagged => None,
        }
    }

    fn identity(&self) -> Option<(&str, &str)> {
        match self {
            Self::User { issuer, subject, .. } => Some((issuer, subject)),
            Self::Tagged => None,
        }
    }
}

impl PartialEq for Owner {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}
impl Eq for Owner {}
impl PartialOrd for Owner {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Owner {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.identity().cmp(&other.identity())
    }
}

/// What makes nodes one policy class: same owner and tags (groups follow from the owner).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassKey {
    /// Who the nodes belong to.
    pub owner: Owner,
    /// Their tags.
    pub tags: BTreeSet<Tag>,
}

impl ClassKey {
    /// The class as the policy knows it.
    pub fn for_policy(&self) -> meshd_policy::ClassKey {
        meshd_policy::ClassKey { owner: self.owner.policy_name(), tags: self.tags.iter().cloned().collect() }
    }
}

/// A member of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Never reused.
    pub id: NodeId,
    /// Key on the control channel; `None` for a plain WireGuard device.
    pub machine_key: Option<MachineKey>,
    /// WireGuard key.
    pub node_key: NodeKey,
    /// Name in the mesh.
    pub name: Hostname,
    /// Whether an admin gave the name: then the node's own wish no longer changes it.
    pub renamed: bool,
    /// Mesh addresses; kept as long as the node exists.
    pub addrs: MeshAddrs,
    /// Who it belongs to.
    pub owner: Owner,
    /// What it is.
    pub tags: BTreeSet<Tag>,
    /// Its policy class.
    pub class: ClassId,
    /// Prefixes it says lie behind it; never a default route.
    pub advertised: BTreeSet<Prefix>,
    /// Prefixes an admin or a policy approved for it; a route counts when it is in both.
    pub approved: BTreeSet<Prefix>,
    /// It offers itself as exit node.
    pub exit_advertised: bool,
    /// It may be one.
    pub exit_approved: bool,
    /// When its node key ends; `None`: never.
    pub key_expires: Option<UnixSeconds>,
    /// It is removed when it stays away.
    pub ephemeral: bool,
    /// It may talk to others; otherwise it waits for an admin.
    pub admitted: bool,
    /// An admin cut it off; it stays listed so that it cannot come back by itself.
    pub revoked: bool,
    /// Hash of the machine's own id, to notice a cloned disk; `None` where a machine has none.
    pub machine_id_hash: Option<[u8; 32]>,
    /// Operating system, for display.
    pub os: String,
    /// Version of its client, for display.
    pub client_version: String,
    /// When it joined.
    pub created: UnixSeconds,
    /// What runs there.
    pub kind: PeerKind,
    /// The node a plain WireGuard device is joined through.
    pub via: Option<NodeId>,
    /// What it publishes, or offers as a public exit.
    pub publishing: Publishing,
    /// The version that last touched it.
    pub changed: Version,
}

impl NodeRecord {
    /// Whether it takes part in the mesh at `now`: admitted, not revoked, key not expired.
    pub fn is_live(&self, now: UnixSeconds) -> bool {
        self.admitted && !self.revoked && !self.is_expired(now)
    }

    /// Whether its key has ended at `now`.
    pub fn is_expired(&self, now: UnixSeconds) -> bool {
        self.key_expires.is_some_and(|end| end <= now)
    }

    /// Advertised and approved, default routes included when it is an approved exit node.
    pub fn active_routes(&self) -> impl Iterator<Item = Prefix> + '_ {
        let exit = self.exit_advertised && self.exit_approved;
        let defaults = [Prefix::DEFAULT_V4, Prefix::DEFAULT_V6].into_iter().filter(move |_| exit);
        self.advertised.intersection(&self.approved).copied().chain(defaults)
    }

    /// Advertised and waiting for an admin.
    pub fn pending_routes(&self) -> impl Iterator<Item = Prefix> + '_ {
        let exit = self.exit_advertised && !self.exit_approved;
        let defaults = [Prefix::DEFAULT_V4, Prefix::DEFAULT_V6].into_iter().filter(move |_| exit);
        self.advertised.difference(&self.approved).copied().chain(defaults)
    }

    /// The key of its class.
    pub fn class_key(&self) -> ClassKey {
        ClassKey { owner: self.owner.clone(), tags: self.tags.clone() }
    }
}

/// What one version of the log touched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A node joined or changed.
    Node(NodeId),
    /// A node left.
    NodeGone(NodeId),
    /// The policy text.
    Policy,
    /// A record set was set or removed.
    Record(DnsName, RecordType),
    /// Mesh settings.
    Mesh,
    /// What is bound to an audience.
    Bound(Audience),
    /// A relay was set or removed.
    Relay(RelayId),
    /// A cluster, its ranges or what it publishes.
    Cluster(Hostname),
}

impl Model {
    /// The node of that machine key.
    pub fn node_by_machine_key(&self, key: &MachineKey) -> Option<&Arc<NodeRecord>> {
        self.nodes.values().find(|n| n.machine_key.as_ref() == Some(key))
    }

    /// The node of that WireGuard key.
    pub fn node_by_key(&self, key: &NodeKey) -> Option<&Arc<NodeRecord>> {
        self.nodes.values().find(|n| n.node_key == *key)
    }

    /// The node of that name (a bare host name, in any case).
    pub fn node_by_name(&self, name: &str) -> Option<&Arc<NodeRecord>> {
        self.nodes.values().find(|n| n.name.as_str().eq_ignore_ascii_case(name))
    }

    /// The id of a class, when a node ever was in it.
    pub fn class_of(&self, key: &ClassKey) -> Option<ClassId> {
        self.classes.iter().find(|(_, k)| *k == key).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests;
