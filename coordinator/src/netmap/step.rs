//! From one view to the next, and whom the step concerns.

use super::access::Access;
use super::cell::{Cell, CellId, CellKey, Device, Rules, Sight, devices_by_via};
use super::exposed::Exposed;
use super::horizon::Horizons;
use super::names::{self, End, Shown};
use super::{Common, Sealed, View, has_session, is_member, peer_entry};
use crate::model::{Change, Model, NodeRecord, Serving};
use meshd_proto::netmap::Entry;
use meshd_proto::{Hostname, MapDigest, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Whose entries a step may have changed. Nobody outside of it has a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Everybody's.
    All,
    /// These nodes' and nobody else's.
    Nodes(BTreeSet<NodeId>),
}

impl Concern {
    /// Whether `node` is in it.
    pub fn includes(&self, node: NodeId) -> bool {
        match self {
            Self::All => true,
            Self::Nodes(nodes) => nodes.contains(&node),
        }
    }
}

/// The row of each cell whose sight is new.
#[derive(Default)]
struct Touched {
    /// Their rows changed, so their rules and records may have.
    rows: BTreeSet<CellId>,
    /// Nodes whose own entry or cell changed.
    nodes: BTreeSet<NodeId>,
}

impl View {
    /// The view of a model, from nothing.
    pub fn new(model: Arc<Model>) -> Self {
        let access = Arc::new(Access::new(&model));
        let mut view = Self {
            horizons: Arc::new(Horizons::new(&model)),
            hosts: Arc::default(),
            common: Arc::new(Common::new(&model)),
            exposed: Arc::new(Exposed::new(&model)),
            serving: Arc::new(Serving::of(&model)),
            model,
            access,
            cells: BTreeMap::new(),
            ids: BTreeMap::new(),
            cell_of: BTreeMap::new(),
            by_ip: Arc::default(),
            next_id: 0,
        };
        view.fill(None);
        view
    }

    /// The view of the model that `changes` led to, with whom they concern.
    #[must_use]
    pub fn next(&self, model: Arc<Model>, changes: &[Change]) -> (Self, Concern) {
        let everybody = changes.iter().any(|c| matches!(c, Change::Mesh | Change::Relay(_)));
        let mut view = Self { model, ..self.clone() };
        if everybody {
            view.common = Arc::new(Common::new(&view.model));
        }

        // Which domain is the mesh's, and what of it is asked of others, is in the settings.
        let record_changed = changes
            .iter()
            .any(|c| matches!(c, Change::Record(..) | Change::Bound(_) | Change::Mesh))
            // Which groups a user is in, is in the policy.
            || (changes.contains(&Change::Policy) && !view.model.bound.is_empty())
            || names::service_records(&self.model) != names::service_records(&view.model);
        if record_changed {
            view.horizons = Arc::new(Horizons::new(&view.model));
        } else if view.model.classes.len() != self.model.classes.len()
            && let Some(horizons) = view.horizons.with_classes_of(&view.model)
        {
            view.horizons = Arc::new(horizons);
        }
        let mut nodes: BTreeSet<NodeId> = changes.iter().filter_map(node_of).collect();
        // Whether a node may serve is said by its tags, too.
        if !(view.model.clusters.is_empty() && self.serving.is_empty()) {
            let serving = Serving::of(&view.model);
            if serving != *self.serving {
                view.serving = Arc::new(serving);
                nodes.extend(view.serving.differing(&self.serving));
            }
        }
        view.refresh_exposed(self, changes, &nodes);
        let retold = view.exposed.retold(&self.exposed);
        if changes.contains(&Change::Policy) {
            view.access = Arc::new(Access::new(&view.model));
            view.fill(Some(self));
            if everybody {
                return (view, Concern::All);
            }
            let mut concern = view.differing(self);
            concern.extend(retold.into_iter().filter(|id| view.has_map(*id)));
            return (view, Concern::Nodes(concern));
        }
        if !nodes.is_empty() && !view.access.knows_classes_of(&view.model) {
            // Only rules name classes, and only those of cells that see the new or gone one: `replace` makes
            // them anew. What was said of the other cells holds, the policy is the same.
            view.access = Arc::new(Access::new(&view.model));
        }
        nodes.extend(view.exposed.relinked(&self.exposed));
        // A device is part of the node it is joined through, before and after.
        for id in nodes.clone() {
            nodes.extend(self.record(id).and_then(|n| n.via));
            nodes.extend(view.record(id).and_then(|n| n.via));
        }
        let touched = view.replace(self, &nodes);
        let moved = view.update_addresses(self, &nodes);
        let renamed = view.update_hosts(self, &nodes);
        let records_for_all = record_changed || everybody || moved || renamed;
        let cells: Vec<CellId> = if records_for_all {
            view.cells.keys().copied().collect()
        } else {
            touched.rows.iter().copied().collect()
        };
        for id in cells {
            view.refresh_records(id);
        }
        if everybody {
            return (view, Concern::All);
        }
        let mut concern = view.concerned(self, &touched, records_for_all);
        concern.extend(retold.into_iter().filter(|id| view.has_map(*id)));
        (view, Concern::Nodes(concern))
    }

    /// Makes cells, rows, rules and records of the whole model. Cells that `before` knew keep their ids.
    fn fill(&mut self, before: Option<&Self>) {
        let mut devices = devices_by_via(&self.model);
        self.cells.clear();
        self.ids.clear();
        self.cell_of.clear();
        let mut by_ip = BTreeMap::new();
        let model = self.model.clone();
        for node in model.nodes.values().filter(|n| is_member(n) && has_session(n)) {
            let behind = devices.remove(&node.id).unwrap_or_default();
            by_ip.extend(addresses(node, &behind));
            let known = before.and_then(|b| b.sealed_peer(node));
            self.place(node, behind, known, before);
        }
        self.by_ip = Arc::new(by_ip);
        self.hosts = Arc::new(self.find_hosts());
        let ids: Vec<CellId> = self.cells.keys().copied().collect();
        let mut rows: BTreeMap<CellId, BTreeMap<CellId, Sight>> = BTreeMap::new();
        for (i, a) in ids.iter().enumerate() {
            for b in &ids[i..] {
                let (Some(x), Some(y)) = (self.cells.get(a), self.cells.get(b)) else { continue };
                if let Some((ab, ba)) = Access::sight(x, y) {
                    rows.entry(*a).or_default().insert(*b, ab);
                    rows.entry(*b).or_default().insert(*a, ba);
                }
            }
        }
        for id in &ids {
            let row = rows.remove(id).unwrap_or_default();
            if let Some(cell) = self.cells.get_mut(id) {
                Arc::make_mut(cell).sees = Arc::new(row);
            }
        }
        for id in ids {
            self.refresh_rules(id);
            self.refresh_records(id);
        }
    }

    /// The peer entry that this view made of exactly that record.
    fn sealed_peer(&self, node: &Arc<NodeRecord>) -> Option<Arc<Sealed>> {
        let same = self.record(node.id).is_some_and(|n| Arc::ptr_eq(n, node));
        same.then(|| self.cell(node.id)?.members.get(&node.id).cloned()).flatten()
    }

    /// Puts a node into its cell, which is made when it is the first; says whether it was.
    fn place(
        &mut self,
        node: &Arc<NodeRecord>,
        behind: Vec<Arc<NodeRecord>>,
        known: Option<Arc<Sealed>>,
        before: Option<&Self>,
    ) -> (CellId, bool) {
        let served = self.serving.by(node.id).map(|served| &**served);
        let key = CellKey::of(node, &behind, &self.access, self.exposed.links(node.id), served);
        let sealed = known.unwrap_or_else(|| Arc::new(Sealed::new(peer_entry(node))));
        let (id, fresh) = match self.ids.get(&key) {
            Some(id) => (*id, false),
            None => (self.new_cell(key, node, behind, before), true),
        };
        if let Some(cell) = self.cells.get_mut(&id) {
            Arc::make_mut(cell).insert(node.id, sealed);
        }
        self.cell_of.insert(node.id, id);
        (id, fresh)
    }

    fn new_cell(
        &mut self,
        key: CellKey,
        node: &Arc<NodeRecord>,
        behind: Vec<Arc<NodeRecord>>,
        before: Option<&Self>,
    ) -> CellId {
        let key = Arc::new(key);
        let id = before.and_then(|b| b.ids.get(&key).copied()).unwrap_or_else(|| {
            let id = CellId(self.next_id);
            self.next_id += 1;
            id
        });
        let devices: Vec<_> = behind.into_iter().map(Device::new).collect();
        let cell = Cell {
            parties: Arc::new(self.access.parties(node, &key, &devices)),
            key: key.clone(),
            sample: node.clone(),
            devices: Arc::new(devices),
            members: Arc::default(),
            digest: MapDigest::EMPTY,
            sees: Arc::default(),
            rules: Arc::default(),
            horizon: self.horizons.of(node.class).clone(),
            records: Arc::default(),
        };
        self.cells.insert(id, Arc::new(cell));
        self.ids.insert(key, id);
        id
    }

    /// Takes the nodes out of their cells and puts them where they belong now.
    fn replace(&mut self, before: &Self, nodes: &BTreeSet<NodeId>) -> Touched {
        let mut touched = Touched { nodes: nodes.clone(), ..Touched::default() };
        let mut left = BTreeSet::new();
        for id in nodes {
            let Some(cell) = self.cell_of.remove(id) else { continue };
            left.insert(cell);
            if let Some(cell) = self.cells.get_mut(&cell) {
                Arc::make_mut(cell).remove(*id);
            }
        }
        let mut devices = devices_by_via(&self.model);
        let mut fresh = Vec::new();
        for id in nodes {
            let Some(node) = self.record(*id).filter(|n| is_member(n) && has_session(n)).cloned() else {
                continue;
            };
            let behind = devices.remove(id).unwrap_or_default();
            let entry = peer_entry(&node);
            let known =
                before.cell(*id).and_then(|c| c.members.get(id)).filter(|s| s.entry == entry).cloned();
            let (cell, is_new) = self.place(&node, behind, known, None);
            if is_new {
                fresh.push(cell);
            }
        }
        for id in left {
            self.settle(id, &mut touched);
        }
        for id in fresh {
            self.connect(id, &mut touched);
        }
        for id in touched.rows.clone() {
            self.refresh_rules(id);
        }
        touched
    }

    /// Drops an empty cell, or gives it another sample.
    fn settle(&mut self, id: CellId, touched: &mut Touched) {
        let Some(cell) = self.cells.get_mut(&id) else { return };
        let next = cell.members.keys().next().copied();
        match next.and_then(|n| self.model.nodes.get(&n)) {
            Some(node) => Arc::make_mut(cell).sample = node.clone(),
            None => {
                let Some(gone) = self.cells.remove(&id) else { return };
                self.ids.remove(&gone.key);
                touched.rows.remove(&id);
                for neighbour in gone.sees.keys().filter(|n| **n != id) {
                    if let Some(cell) = self.cells.get_mut(neighbour) {
                        Arc::make_mut(&mut Arc::make_mut(cell).sees).remove(&id);
                        touched.rows.insert(*neighbour);
                    }
                }
            }
        }
    }

    /// Finds out whom a new cell sees.
    fn connect(&mut self, id: CellId, touched: &mut Touched) {
        let Some(cell) = self.cells.get(&id).cloned() else { return };
        let mut row = BTreeMap::new();
        for (other, their) in &mut self.cells {
            if let Some((mine, theirs)) = Access::sight(&cell, their) {
                row.insert(*other, mine);
                if *other != id {
                    Arc::make_mut(&mut Arc::make_mut(their).sees).insert(id, theirs);
                    touched.rows.insert(*other);
                }
            }
        }
        if let Some(cell) = self.cells.get_mut(&id) {
            Arc::make_mut(cell).sees = Arc::new(row);
        }
        touched.rows.insert(id);
    }

    fn refresh_rules(&mut self, id: CellId) {
        let Some(cell) = self.cells.get(&id).cloned() else { return };
        let seen = cell.sees.iter().filter_map(|(id, sight)| Some((&**self.cells.get(id)?, sight)));
        let entries = self.access.rules(&cell, seen).into_iter();
        let rules = Rules::new(entries.map(|(id, rule)| Sealed::new(Entry::Rule(id, rule))).collect());
        if rules != *cell.rules
            && let Some(cell) = self.cells.get_mut(&id)
        {
            Arc::make_mut(cell).rules = Arc::new(rules);
        }
    }

    fn refresh_records(&mut self, id: CellId) {
        let Some(cell) = self.cells.get(&id) else { return };
        let horizon = self.horizons.of(cell.key.class).clone();
        if !Arc::ptr_eq(&horizon, &cell.horizon)
            && let Some(cell) = self.cells.get_mut(&id)
        {
            Arc::make_mut(cell).horizon = horizon;
        }
        let Some(cell) = self.cells.get(&id) else { return };
        let nothing = cell.horizon.names.all.is_empty();
        let records = if nothing { Shown::new() } else { names::visible(self, cell) };
        if records != *cell.records
            && let Some(cell) = self.cells.get_mut(&id)
        {
            Arc::make_mut(cell).records = Arc::new(records);
        }
    }

    /// Keeps the index of addresses; says whether a record names one that came, went or moved to
    /// another cell.
    fn update_addresses(&mut self, before: &Self, nodes: &BTreeSet<NodeId>) -> bool {
        let gather = |view: &Self| {
            let members = nodes.iter().filter_map(|id| {
                let cell = view.cell(*id)?;
                let behind: Vec<_> = cell.devices.iter().map(|d| d.record.clone()).collect();
                let at = view.cell_of.get(id).copied();
                Some(addresses(view.record(*id)?, &behind).map(|(ip, id)| (ip, (id, at))).collect::<Vec<_>>())
            });
            members.flatten().collect::<BTreeMap<_, _>>()
        };
        let (old, new) = (gather(before), gather(self));
        if old == new {
            return false;
        }
        if !old.iter().map(|(ip, (id, _))| (ip, id)).eq(new.iter().map(|(ip, (id, _))| (ip, id))) {
            let by_ip = Arc::make_mut(&mut self.by_ip);
            for ip in old.keys() {
                by_ip.remove(ip);
            }
            by_ip.extend(new.iter().map(|(ip, (id, _))| (*ip, *id)));
        }
        self.horizons.ips().any(|ip| old.get(&ip) != new.get(&ip))
    }

    fn find_hosts(&self) -> BTreeMap<Hostname, NodeId> {
        if !self.horizons.has_ends() {
            return BTreeMap::new();
        }
        names::hosts_of(self, self.cell_of.keys().copied()).map(|(name, id, _)| (name, id)).collect()
    }

    /// Keeps the index of names; says whether a record leads to one that came, went or moved to another
    /// cell.
    fn update_hosts(&mut self, before: &Self, nodes: &BTreeSet<NodeId>) -> bool {
        if !Arc::ptr_eq(&self.horizons, &before.horizons) {
            self.hosts = Arc::new(self.find_hosts());
            return true;
        }
        let gather = |view: &Self| {
            let hosts = names::hosts_of(view, nodes.iter().copied());
            let placed = hosts.map(|(name, id, via)| (name, (id, view.cell_of.get(&via).copied())));
            placed.collect::<BTreeMap<_, _>>()
        };
        let (old, new) = (gather(before), gather(self));
        if old == new {
            return false;
        }
        let hosts = Arc::make_mut(&mut self.hosts);
        for name in old.keys() {
            hosts.remove(name);
        }
        hosts.extend(new.into_iter().map(|(name, (id, _))| (name, id)));
        true
    }

    fn concerned(&self, before: &Self, touched: &Touched, all_cells: bool) -> BTreeSet<NodeId> {
        let mut out = touched.nodes.clone();
        let changed = |id: &NodeId| {
            let peer = |v: &Self| v.cell(*id).and_then(|c| c.members.get(id).cloned());
            before.cell_of.get(id) != self.cell_of.get(id) || peer(before) != peer(self)
        };
        for id in touched.nodes.iter().filter(|id| changed(id)) {
            for view in [before, self] {
                let seen = view.cell(*id).into_iter().flat_map(|c| c.sees.keys());
                for cell in seen.filter_map(|c| view.cells.get(c)) {
                    out.extend(cell.members.keys());
                }
            }
        }
        let candidates: Vec<CellId> = if all_cells {
            self.cells.keys().copied().collect()
        } else {
            touched.rows.iter().copied().collect()
        };
        for id in candidates {
            let (old, new) = (before.cells.get(&id), self.cells.get(&id));
            let same = matches!((old, new), (Some(a), Some(b)) if a.same_sight(b));
            if !same {
                out.extend(old.into_iter().chain(new).flat_map(|c| c.members.keys()));
            }
        }
        if all_cells {
            out.extend(self.own_records_changed(before));
        }
        out
    }

    /// Nodes that a changed record leads to: they see it whatever the policy says.
    fn own_records_changed(&self, before: &Self) -> BTreeSet<NodeId> {
        if Arc::ptr_eq(&self.horizons, &before.horizons) {
            return BTreeSet::new();
        }
        let node = |view: &Self, end: &End| match end {
            End::Ip(ip) => view.by_ip.get(ip).copied(),
            End::Host(host) => {
                let record = view.record(*view.hosts.get(host)?)?;
                Some(record.via.unwrap_or(record.id))
            }
        };
        let moved = self.horizons.moved(&before.horizons);
        moved.into_iter().flat_map(|end| [node(before, end), node(self, end)]).flatten().collect()
    }

    /// The nodes whose sight differs from `before`, after everything was made anew.
    fn differing(&self, before: &Self) -> BTreeSet<NodeId> {
        let mut out = BTreeSet::new();
        let ids: BTreeSet<_> = self.cells.keys().chain(before.cells.keys()).collect();
        for id in ids {
            let (old, new) = (before.cells.get(id), self.cells.get(id));
            let same = matches!((old, new), (Some(a), Some(b)) if a.same_sight(b));
            let members = |c: &Arc<Cell>| c.members.clone();
            let (old_members, new_members) = (old.map(members), new.map(members));
            if !same {
                out.extend(old_members.iter().chain(&new_members).flat_map(|m| m.keys()));
            }
            if old_members != new_members {
                for (view, cell) in [(before, old), (self, new)] {
                    let seen = cell.into_iter().flat_map(|c| c.sees.keys()).filter_map(|c| view.cells.get(c));
                    out.extend(seen.flat_map(|c| c.members.keys()));
                }
                let (old, new) = (old_members.unwrap_or_default(), new_members.unwrap_or_default());
                out.extend(old.keys().chain(new.keys()));
            }
        }
        let own = |id: &&NodeId| {
            self.record(**id).map(|n| self.self_entry(n)) != before.record(**id).map(|n| before.self_entry(n))
        };
        out.extend(self.cell_of.keys().filter(own));
        out.extend(self.serving.differing(&before.serving));
        out.extend(self.own_records_changed(before));
        out
    }
}

fn node_of(change: &Change) -> Option<NodeId> {
    match change {
        Change::Node(id) | Change::NodeGone(id) => Some(*id),
        Change::Policy
        | Change::Record(..)
        | Change::Bound(_)
        | Change::Mesh
        | Change::Relay(_)
        | Change::Cluster(_) => None,
    }
}

/// The mesh addresses of a node and its devices, each with the node.
fn addresses(node: &NodeRecord, devices: &[Arc<NodeRecord>]) -> impl Iterator<Item = (IpAddr, NodeId)> {
    let id = node.id;
    let own = node.addrs.iter().collect::<Vec<_>>().into_iter();
    let behind = devices.iter().flat_map(|d| d.addrs.iter().collect::<Vec<_>>()).collect::<Vec<_>>();
    own.chain(behind).map(move |ip| (ip, id))
}
