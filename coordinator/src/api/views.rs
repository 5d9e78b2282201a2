//! What the API says, as types: the server writes them, the CLI reads them. JSON field names are stable.

mod clusters;
mod paths;
mod people;
mod publish;
mod relays;
mod tokens;

pub use clusters::*;
pub use paths::*;
pub use people::*;
pub use publish::*;
pub use relays::*;
pub use tokens::*;

use crate::clock;
use crate::model::{Model, NodeRecord, Owner};
use crate::service::{Presence, RouteView};
use crate::store::audit::AuditEntry;
use crate::store::tokens::{ApiTokenRecord, TokenRecord};
use meshd_proto::netmap::{PeerKind, RecordSet, RecordType};
use meshd_proto::{DnsName, Hostname, Prefix, Tag, UnixSeconds};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: Hostname,
    /// Its full name.
    pub fqdn: String,
    /// `online`, `offline`, `waiting`, `expired`, `revoked` or `device`.
    pub state: String,
    /// IPv4 mesh address.
    pub v4: Ipv4Addr,
    /// IPv6 mesh address.
    pub v6: Ipv6Addr,
    /// Who it belongs to; empty with tags.
    pub owner: String,
    /// What it is.
    pub tags: Vec<Tag>,
    /// Routes that count.
    pub routes: Vec<Prefix>,
    /// Routes that wait for approval.
    pub pending_routes: Vec<Prefix>,
    /// Public key, in the form of `wg`.
    pub key: String,
    /// When its key ends, in seconds since 1970; absent: never.
    pub key_expires: Option<UnixSeconds>,
    /// It is forgotten when it stays away.
    pub ephemeral: bool,
    /// When it joined.
    pub created: UnixSeconds,
    /// Since when it is online or offline, as far as this process knows.
    pub since: Option<UnixSeconds>,
    /// Where its control session comes from.
    pub remote: Option<String>,
    /// The newest version it said it applied.
    pub applied_version: Option<u64>,
    /// Operating system.
    pub os: String,
    /// Version of its client.
    pub client_version: String,
    /// For a plain WireGuard device: the node it is joined through.
    pub via: Option<Hostname>,
}

impl NodeView {
    /// A node as the API shows it.
    pub fn new(model: &Model, node: &NodeRecord, presence: Option<Presence>, now: UnixSeconds) -> Self {
        let online = presence.is_some_and(|p| p.online);
        let state = match () {
            () if node.revoked => "revoked",
            () if !node.admitted => "waiting",
            () if node.is_expired(now) => "expired",
            () if node.kind == PeerKind::PlainWireguard => "device",
            () if online => "online",
            () => "offline",
        };
        let domain = &model.mesh.domain;
        Self {
            id: node.id.0,
            name: node.name.clone(),
            fqdn: domain.child(&node.name).map(|n| n.to_string()).unwrap_or_default(),
            state: state.to_owned(),
            v4: node.addrs.v4,
            v6: node.addrs.v6,
            owner: node.owner.display().to_owned(),
            tags: node.tags.iter().cloned().collect(),
            routes: node.active_routes().collect(),
            pending_routes: node.pending_routes().collect(),
            key: node.node_key.to_string(),
            key_expires: node.key_expires,
            ephemeral: node.ephemeral,
            created: node.created,
            since: presence.map(|p| p.since),
            remote: presence.filter(|p| p.online).and_then(|p| p.remote).map(|r| r.to_string()),
            applied_version: presence.map(|p| p.applied.0).filter(|v| *v > 0),
            os: node.os.clone(),
            client_version: node.client_version.clone(),
            via: node.via.and_then(|id| model.nodes.get(&id)).map(|n| n.name.clone()),
        }
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteBody {
    /// The prefix.
    pub prefix: Prefix,
    /// The node it lies behind.
    pub node: Hostname,
    /// The node offers it now.
    pub advertised: bool,
    /// It may count.
    pub approved: bool,
    /// `active`, `pending` or `absent` (approved, and not advertised now).
    pub state: String,
}

impl From<RouteView> for RouteBody {
    fn from(route: RouteView) -> Self {
        let state = match (route.advertised, route.approved) {
            (true, true) => "active",
            (true, false) => "pending",
            (false, _) => "absent",
        };
        Self {
            prefix: route.prefix,
            node: route.name,
            advertised: route.advertised,
            approved: route.approved,
            state: state.to_owned(),
        }
    }
}

/// Which routes to decide on; none: all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutesInput {
    /// The prefixes.
    #[serde(default)]
    pub prefixes: Vec<Prefix>,
}

/// What to change of a node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEdit {
    /// Another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Hostname>,
    /// Other tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<Tag>>,
}

/// A device to join through a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceInput {
    /// Its name.
    pub name: Hostname,
    /// Its WireGuard public key.
    pub key: meshd_proto::NodeKey,
}

/// A record set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordView {
    /// The name.
    pub name: DnsName,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Seconds to cache.
    pub ttl: u32,
    /// The values.
    pub values: Vec<String>,
    /// Who it is for; none: everybody.
    #[serde(default, rename = "for", skip_serializing_if = "Vec::is_empty")]
    pub who: Vec<String>,
}

impl RecordView {
    /// A record set as the API shows it.
    pub fn new(name: &DnsName, kind: RecordType, set: &RecordSet) -> Self {
        Self {
            name: name.clone(),
            kind: kind.as_str().to_owned(),
            ttl: set.ttl,
            values: set.values.iter().map(crate::service::show_value).collect(),
            who: Vec::new(),
        }
    }

    /// Every record set, those for everybody first.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn all(
        service: &crate::service::Service,
        actor: &crate::service::Actor,
    ) -> Result<Vec<Self>, crate::service::ServiceError> {
        let general = service.records(actor)?;
        let mut all: Vec<Self> = general.iter().map(|(n, k, s)| Self::new(n, *k, s)).collect();
        for bound in service.bound_names(actor)? {
            let of = |(n, k, s): &(DnsName, RecordType, RecordSet)| Self {
                who: bound.who.clone(),
                ..Self::new(n, *k, s)
            };
            all.extend(bound.records.iter().map(of));
        }
        Ok(all)
    }
}

/// A value to add to a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordBody {
    /// The name; a bare label means one in the mesh's domain.
    pub name: String,
    /// Its type; absent: as the value tells.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The value.
    pub value: String,
    /// Seconds to cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// Users, groups and tags that it is for; none: everybody.
    #[serde(default, rename = "for", skip_serializing_if = "Vec::is_empty")]
    pub who: Vec<String>,
}

/// How many values went.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Removed {
    /// Values.
    pub removed: usize,
}

/// The policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyBody {
    /// As the admin wrote it.
    pub text: String,
    /// The version that brought it.
    pub version: u64,
    /// Parts of the text that have no effect here.
    pub warnings: Vec<String>,
}

/// A policy to set or check.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyInput {
    /// The text.
    pub text: String,
    /// Only when the policy in force is still that of this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<u64>,
    /// Also when it cuts most of the mesh, or your own machines, off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Which past policy to put back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackInput {
    /// The version that brought it.
    pub version: u64,
    /// Also when it cuts most of the mesh, or your own machines, off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// One thing that the policy allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessEdge {
    /// Who: an owner, tags, a node, addresses.
    pub from: String,
    /// What.
    pub to: String,
    /// Which ports: `tcp:22`, `*`.
    pub ports: String,
    /// Line of the rule.
    pub line: u32,
    /// How the source comes to be named by it.
    pub source: String,
    /// How the destination comes to be named by it.
    pub destination: String,
    /// How many nodes the source has.
    pub from_nodes: usize,
    /// How many nodes the destination has.
    pub to_nodes: usize,
}

/// A policy text that passed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyChecked {
    /// Parts of the text that have no effect here.
    pub warnings: Vec<String>,
}

/// Whether a flow passes, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyExplained {
    /// It passes.
    pub allowed: bool,
    /// The node that gets it.
    pub receiver: Option<String>,
    /// One sentence for each step.
    pub steps: Vec<String>,
}

/// A policy that was in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyVersion {
    /// The version that brought it.
    pub version: u64,
    /// Who set it.
    pub set_by: String,
    /// When.
    pub at: UnixSeconds,
    /// The text.
    pub text: String,
}

/// An audit entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// Counted from 1.
    pub id: u64,
    /// When.
    pub at: UnixSeconds,
    /// Who did it.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// What else matters.
    pub detail: String,
    /// Hash over this entry and the hash before, in hexadecimal.
    pub hash: String,
}

impl From<AuditEntry> for AuditView {
    fn from(entry: AuditEntry) -> Self {
        Self {
            id: entry.id,
            at: entry.at,
            actor: entry.actor,
            action: entry.action,
            subject: entry.subject,
            detail: entry.detail,
            hash: hex(&entry.hash),
        }
    }
}

/// Whether the audit chain holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditChain {
    /// Every entry fits the one before.
    pub whole: bool,
    /// Number of the newest entry that fits.
    pub entries: u64,
    /// Number of the oldest entry in the database; those before it are in files. 0 when broken.
    #[serde(default)]
    pub first: u64,
    /// Hash of the newest entry, in hexadecimal; empty when broken.
    pub head: String,
}

/// The mesh at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Version of this program.
    pub version: String,
    /// The mesh's name.
    pub mesh: Hostname,
    /// Its domain.
    pub domain: DnsName,
    /// Its id.
    pub network: String,
    /// Its IPv4 range.
    pub prefix_v4: String,
    /// Its IPv6 range.
    pub prefix_v6: String,
    /// Which life of the log.
    pub epoch: u64,
    /// How far in that log.
    pub map_version: u64,
    /// Nodes in all, devices included.
    pub nodes: usize,
    /// Nodes with a control session.
    pub online: usize,
    /// Nodes that wait for approval.
    pub waiting: usize,
    /// Routes that wait for approval.
    pub pending_routes: usize,
    /// Where nodes reach the coordinator.
    pub addresses: Vec<String>,
    /// The coordinator's control key.
    pub key: String,
    /// When this process started.
    pub started: UnixSeconds,
    /// How long nodes use a stored map without the coordinator, in seconds.
    pub map_lease: u64,
    /// What an authority certifies, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateView>,
}

/// A certificate ordered by ACME.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateView {
    /// The names.
    pub names: Vec<String>,
    /// When it ends; without it there is none yet, and a self-made one is shown.
    pub ends: Option<UnixSeconds>,
    /// Why there is none, or no newer one.
    pub trouble: Option<String>,
    /// When it is tried again.
    pub again: Option<UnixSeconds>,
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A time as people read it, for tables.
pub fn when(at: UnixSeconds) -> String {
    clock::show(at)
}
