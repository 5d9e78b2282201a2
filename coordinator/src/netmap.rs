//! The map compiler: what each node may see of a [`Model`], and how that changed.
//!
//! Pure: a [`View`] is a function of its model. Nodes that the policy cannot tell apart share a *cell*;
//! who sees whom is kept cell × cell and sparse, so that a change costs with those it concerns:
//! [`View::next`] says whom, and [`View::diff`] makes each of them its update.
//!
//! Visibility. A peer is visible when traffic is allowed between the two in either direction, or between
//! one of them and a prefix or a plain WireGuard device behind the other. A route is visible when traffic
//! with it is allowed in either direction. A plain device is a peer for the node it is joined through
//! alone; for others it is a host route behind that node, with its name as a record.
//! Who serves a service's address owns its host route: it is seen and judged like a prefix behind the node.
//! A record with addresses is visible when the node may reach one of them, or it is public; a value that
//! leads to a name of the mesh, when that name is. What is bound to users, groups or tags is there for those
//! alone, in the place of what everybody gets.
//!
//! Invariants (tested on random histories):
//! - [`View::next`] equals [`View::new`] on the same model, whatever came before;
//! - applying diffs equals a fresh snapshot, and the digests agree;
//! - a node that [`Concern`] leaves out has the same entries before and after;
//! - time is no input: nodes enforce the end of keys themselves, from the entries.

mod access;
mod cell;
mod diff;
mod exposed;
mod horizon;
mod names;
mod step;

pub use diff::{Delta, ViewChange};
pub use step::Concern;

use crate::model::{Model, NodeRecord, Serving};
use access::Access;
use cell::{Cell, CellId, CellKey};
use exposed::Exposed;
use horizon::Horizons;
use meshd_proto::control::MapPosition;
use meshd_proto::netmap::{CoordinatorInfo, Entry, Peer, PeerKind, RecordType, SelfNode};
use meshd_proto::{DnsName, Hostname, MapDigest, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// An entry with the digest of its bytes, made once and shared by everybody who sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sealed {
    entry: Entry,
    digest: MapDigest,
}

impl Sealed {
    fn new(entry: Entry) -> Self {
        let digest = MapDigest::of(&entry.encode());
        Self { entry, digest }
    }
}

type RecordKey = (DnsName, RecordType);

/// What everybody may see of one model.
#[derive(Clone, Debug)]
pub struct View {
    model: Arc<Model>,
    access: Arc<Access>,
    cells: BTreeMap<CellId, Arc<Cell>>,
    ids: BTreeMap<Arc<CellKey>, CellId>,
    /// Members with a map of their own; plain devices are part of the node they are joined through.
    cell_of: BTreeMap<NodeId, CellId>,
    /// Mesh addresses of members and devices, with the member to go through.
    by_ip: Arc<BTreeMap<IpAddr, NodeId>>,
    horizons: Arc<Horizons>,
    /// The nodes and devices that records lead to by name.
    hosts: Arc<BTreeMap<Hostname, NodeId>>,
    common: Arc<Common>,
    /// What is published on public exits, and what that means for each node.
    exposed: Arc<Exposed>,
    /// What nodes serve on addresses of services.
    serving: Arc<Serving>,
    next_id: u32,
}

/// What every node gets.
#[derive(Debug, PartialEq, Eq)]
struct Common {
    entries: Vec<Sealed>,
    digest: MapDigest,
}

impl Common {
    fn new(model: &Model) -> Self {
        let mesh = &model.mesh;
        let info = CoordinatorInfo {
            key: mesh.key,
            signing_key: mesh.signing_key,
            next_key: mesh.next_key,
            next_signing_key: mesh.next_signing_key,
            addresses: mesh.addresses.clone(),
            mesh_name: mesh.name.to_string(),
        };
        let fixed = [Entry::Coordinator(info), Entry::FilterPresent];
        let relays = model.relays.values().cloned().map(Entry::Relay);
        let entries: Vec<_> = fixed.into_iter().chain(relays).map(Sealed::new).collect();
        let mut digest = MapDigest::EMPTY;
        entries.iter().for_each(|e| digest.join(e.digest));
        Self { entries, digest }
    }
}

impl View {
    /// The model this is a view of.
    pub const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Whether `node` has a map: it is a member, admitted and not revoked.
    pub fn has_map(&self, node: NodeId) -> bool {
        self.cell_of.contains_key(&node)
    }

    /// Where `node`'s map should be; `None` when it has none.
    pub fn position(&self, node: NodeId) -> Option<MapPosition> {
        let digest = self.digest(node)?;
        Some(MapPosition {
            network: self.model.network,
            epoch: self.model.epoch,
            version: self.model.version,
            digest,
        })
    }

    /// Whether two nodes see each other as peers; `false` for a node and itself.
    pub fn are_peers(&self, a: NodeId, b: NodeId) -> bool {
        let cell = |n: NodeId| self.cell_of.get(&n);
        let sees = |a: &CellId, b: &CellId| self.cells.get(a).is_some_and(|c| c.sees.contains_key(b));
        a != b && matches!((cell(a), cell(b)), (Some(a), Some(b)) if sees(a, b))
    }

    fn cell(&self, node: NodeId) -> Option<&Arc<Cell>> {
        self.cells.get(self.cell_of.get(&node)?)
    }

    fn record(&self, node: NodeId) -> Option<&Arc<NodeRecord>> {
        self.model.nodes.get(&node)
    }

    fn self_entry(&self, node: &NodeRecord) -> Entry {
        Entry::Me(SelfNode {
            id: node.id,
            name: node.name.clone(),
            addrs: node.addrs,
            class: node.class,
            tags: node.tags.iter().cloned().collect(),
            prefixes: self.model.mesh.prefixes,
            approved_routes: sorted(node.active_routes()),
            pending_routes: sorted(node.pending_routes()),
            key_expires: node.key_expires,
            map_lease: self.model.mesh.map_lease,
        })
    }
}

/// Whether a node takes part. Expiry is not looked at: it needs a clock, and nodes enforce it.
fn is_member(node: &NodeRecord) -> bool {
    node.admitted && !node.revoked
}

/// Whether it holds control sessions of its own.
fn has_session(node: &NodeRecord) -> bool {
    node.kind == PeerKind::Meshd
}

fn peer_entry(node: &NodeRecord) -> Entry {
    Entry::Peer(Peer {
        id: node.id,
        key: node.node_key,
        name: node.name.clone(),
        addrs: node.addrs,
        class: node.class,
        tags: node.tags.iter().cloned().collect(),
        owner: node.owner.display().to_owned(),
        key_expires: node.key_expires,
        kind: node.kind,
    })
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests;
