//! Cells: nodes that the policy cannot tell apart.

use super::access::{Access, Parties};
use super::horizon::Horizon;
use super::names::Shown;
use super::{Model, Sealed, is_member, peer_entry};
use crate::exposing::Link;
use crate::model::{NodeRecord, Served};
use meshd_proto::netmap::PeerKind;
use meshd_proto::{ClassId, MapDigest, MeshAddrs, NodeId, Prefix, Version};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A cell within one chain of views. Means nothing outside of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct CellId(pub(super) u32);

/// What makes nodes one cell.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct CellKey {
    pub(super) class: ClassId,
    /// Set when the policy names one of its addresses, or it has links: then it is a cell of its own.
    pub(super) named: Option<MeshAddrs>,
    /// Active routes, and the addresses of services that it serves; sorted.
    pub(super) routes: Vec<Prefix>,
    /// Plain WireGuard devices behind it, with the version that last touched each.
    pub(super) devices: Vec<(NodeId, Version)>,
    /// Whom it reaches, or lets in, for what is published on exits.
    pub(super) links: Vec<Link>,
}

impl CellKey {
    pub(super) fn of(
        node: &NodeRecord,
        devices: &[Arc<NodeRecord>],
        access: &Access,
        links: &[Link],
        served: Option<&Served>,
    ) -> Self {
        let served = served.into_iter().flat_map(|s| s.prefixes.iter().copied());
        Self {
            class: node.class,
            named: (access.names(&node.addrs) || !links.is_empty()).then_some(node.addrs),
            routes: super::sorted(node.active_routes().chain(served)),
            devices: devices.iter().map(|d| (d.id, d.changed)).collect(),
            links: links.to_vec(),
        }
    }
}

/// What one cell may see of another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Sight {
    /// Whether the other nodes themselves may be reached.
    pub(super) reaches: bool,
    /// Visible prefixes behind them, each with whether it may be reached.
    pub(super) routes: Vec<(Prefix, bool)>,
    /// Visible devices behind them, each with whether it may be reached.
    pub(super) devices: Vec<(NodeId, bool)>,
}

/// Nodes that the policy cannot tell apart, and what they see.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) key: Arc<CellKey>,
    /// Any member: stands for all of them where the policy is asked.
    pub(super) sample: Arc<NodeRecord>,
    pub(super) devices: Arc<Vec<Device>>,
    /// As the policy sees it and what lies behind it.
    pub(super) parties: Arc<Parties>,
    pub(super) members: Arc<BTreeMap<NodeId, Arc<Sealed>>>,
    /// Digest over the members' peer entries.
    pub(super) digest: MapDigest,
    pub(super) sees: Arc<BTreeMap<CellId, Sight>>,
    pub(super) rules: Arc<Rules>,
    /// What its class is told of names.
    pub(super) horizon: Arc<Horizon>,
    /// Records that every member sees, with the values that it sees.
    pub(super) records: Arc<Shown>,
}

/// A plain WireGuard device behind the nodes of a cell (there is one such node).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) record: Arc<NodeRecord>,
    pub(super) peer: Sealed,
}

impl Device {
    pub(super) fn new(record: Arc<NodeRecord>) -> Self {
        let peer = Sealed::new(peer_entry(&record));
        Self { record, peer }
    }
}

/// The filter rules of a cell.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Rules {
    pub(super) entries: Vec<Sealed>,
    pub(super) digest: MapDigest,
}

impl Rules {
    pub(super) fn new(entries: Vec<Sealed>) -> Self {
        let mut digest = MapDigest::EMPTY;
        entries.iter().for_each(|e| digest.join(e.digest));
        Self { entries, digest }
    }
}

impl Cell {
    pub(super) fn insert(&mut self, id: NodeId, peer: Arc<Sealed>) {
        self.digest.join(peer.digest);
        if let Some(old) = Arc::make_mut(&mut self.members).insert(id, peer) {
            self.digest.part(old.digest);
        }
    }

    pub(super) fn remove(&mut self, id: NodeId) {
        if let Some(old) = Arc::make_mut(&mut self.members).remove(&id) {
            self.digest.part(old.digest);
        }
    }

    /// Whether the cell sees the same things; members apart.
    pub(super) fn same_sight(&self, other: &Self) -> bool {
        (Arc::ptr_eq(&self.sees, &other.sees) || self.sees == other.sees)
            && (Arc::ptr_eq(&self.rules, &other.rules) || self.rules == other.rules)
            && (Arc::ptr_eq(&self.records, &other.records) || self.records == other.records)
            && self.devices == other.devices
            && (Arc::ptr_eq(&self.horizon, &other.horizon) || self.horizon.config == other.horizon.config)
    }
}

/// The devices behind each node, in the order of their ids.
pub(super) fn devices_by_via(model: &Model) -> BTreeMap<NodeId, Vec<Arc<NodeRecord>>> {
    let mut out: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for node in model.nodes.values().filter(|n| n.kind == PeerKind::PlainWireguard && is_member(n)) {
        if let Some(via) = node.via {
            out.entry(via).or_default().push(node.clone());
        }
    }
    out
}
