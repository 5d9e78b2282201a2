//! A node's entries, its digest, and the difference between two views of it.

use super::cell::{Cell, CellId, Device, Sight};
use super::names::End;
use super::{Sealed, View};
use meshd_proto::netmap::{Entry, EntryKey, RecordSet, RecordType, RecordValue, Route};
use meshd_proto::{DnsName, MapDigest, NodeId, Prefix};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What a node's map needs to come from one view to another.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Delta {
    /// New and changed entries.
    pub upserts: Vec<Entry>,
    /// Entries that are gone or no longer visible.
    pub removes: Vec<EntryKey>,
    /// The digest afterwards.
    pub digest: MapDigest,
}

impl Delta {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removes.is_empty()
    }

    /// Records the change of one entry, in the digest too.
    fn put(&mut self, old: Option<&Entry>, new: Option<&Entry>) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.digest.remove(&old.encode());
        }
        match (old, new) {
            (Some(old), None) => self.removes.push(old.key()),
            (_, Some(new)) => {
                self.digest.add(&new.encode());
                self.upserts.push(new.clone());
            }
            (None, None) => {}
        }
    }

    fn put_all<'a, K: Ord>(&mut self, old: &BTreeMap<K, &'a Entry>, new: &BTreeMap<K, &'a Entry>) {
        for (key, entry) in old {
            if !new.contains_key(key) {
                self.put(Some(entry), None);
            }
        }
        for (key, entry) in new {
            self.put(old.get(key).copied(), Some(entry));
        }
    }
}

/// The step from an older view to a newer one.
#[derive(Clone, Debug)]
pub struct ViewChange {
    /// The older view.
    pub before: Arc<View>,
    /// Cells with other members.
    cells: BTreeSet<CellId>,
}

/// A node's part of a view.
struct Sees<'a> {
    view: &'a View,
    id: NodeId,
    cell: &'a Cell,
}

impl View {
    /// All entries of `node`; `None` when it has no map.
    pub fn snapshot(&self, node: NodeId) -> Option<Delta> {
        let sees = self.sees(node)?;
        let mut upserts = vec![sees.me()];
        upserts.extend(self.common.entries.iter().chain(&sees.cell.rules.entries).map(|e| e.entry.clone()));
        upserts.push(sees.cell.horizon.config.entry.clone());
        upserts.extend(sees.peers().map(|p| p.entry.clone()));
        upserts.extend(sees.routes().into_iter().map(Entry::Route));
        upserts.extend(sees.records().iter().map(|r| r.entry.clone()));
        upserts.extend(sees.device_records().into_values());
        upserts.extend(self.exposed.sections(node).iter().map(|s| s.entry.clone()));
        upserts.extend(sees.forwards().into_values());
        Some(Delta { upserts, removes: Vec::new(), digest: self.digest(node)? })
    }

    /// The digest of `node`'s map; `None` when it has none.
    pub fn digest(&self, node: NodeId) -> Option<MapDigest> {
        let sees = self.sees(node)?;
        let mut digest = self.common.digest;
        digest.join(sees.cell.horizon.config.digest);
        digest.join(sees.cell.rules.digest);
        digest.add(&sees.me().encode());
        let own_cell = self.cell_of.get(&node);
        for (id, _, cell) in sees.cells() {
            digest.join(cell.digest);
            if Some(&id) == own_cell
                && let Some(me) = cell.members.get(&node)
            {
                digest.part(me.digest);
            }
        }
        sees.cell.devices.iter().for_each(|d| digest.join(d.peer.digest));
        sees.routes().into_iter().for_each(|route| digest.add(&Entry::Route(route).encode()));
        sees.records().iter().for_each(|r| digest.join(r.digest));
        sees.device_records().values().for_each(|r| digest.add(&r.encode()));
        self.exposed.sections(node).iter().for_each(|s| digest.join(s.digest));
        sees.forwards().values().for_each(|f| digest.add(&f.encode()));
        Some(digest)
    }

    /// What brings `node`'s map, whose digest is `digest`, from `change.before` to this view; `None` when it
    /// has no map now. Cells that are the same in both are not looked into.
    pub fn diff(&self, change: &ViewChange, node: NodeId, digest: MapDigest) -> Option<Delta> {
        let new = self.sees(node)?;
        let before = &*change.before;
        let Some(old) = before.sees(node) else { return self.snapshot(node) };
        let mut delta = Delta { digest, ..Delta::default() };
        delta.put(Some(&old.me()), Some(&new.me()));
        if !Arc::ptr_eq(&self.common, &before.common) {
            delta.put_all(&by_key(&before.common.entries), &by_key(&self.common.entries));
        }
        if !Arc::ptr_eq(&old.cell.horizon, &new.cell.horizon) {
            delta.put(Some(&old.cell.horizon.config.entry), Some(&new.cell.horizon.config.entry));
        }
        if !Arc::ptr_eq(&old.cell.rules, &new.cell.rules) {
            delta.put_all(&by_key(&old.cell.rules.entries), &by_key(&new.cell.rules.entries));
        }
        new.diff_cells(&old, &change.cells, &mut delta);
        new.diff_records(&old, &mut delta);
        if !Arc::ptr_eq(&self.exposed, &before.exposed) {
            let (was, is) = (before.exposed.sections(node), self.exposed.sections(node));
            delta.put_all(&by_key(was), &by_key(is));
        }
        new.diff_forwards(&old, &mut delta);
        Some(delta)
    }

    /// What changed since `before`, for everybody's [`View::diff`].
    pub fn change_since(&self, before: Arc<Self>) -> ViewChange {
        let same = |id: &CellId, cell: &Cell| {
            let was = before.cells.get(id);
            was.is_some_and(|was| Arc::ptr_eq(&was.members, &cell.members) || was.members == cell.members)
        };
        let new = self.cells.iter().filter(|(id, cell)| !same(id, cell)).map(|(id, _)| *id);
        let gone = before.cells.keys().filter(|id| !self.cells.contains_key(id)).copied();
        let cells = new.chain(gone).collect();
        ViewChange { before, cells }
    }

    fn sees(&self, node: NodeId) -> Option<Sees<'_>> {
        Some(Sees { view: self, id: node, cell: self.cell(node)? })
    }
}

impl<'a> Sees<'a> {
    fn me(&self) -> Entry {
        match self.view.record(self.id) {
            Some(record) => self.view.self_entry(record),
            // A cell's members are nodes of the model.
            None => Entry::FilterPresent,
        }
    }

    fn cells(&self) -> impl Iterator<Item = (CellId, &'a Sight, &'a Arc<Cell>)> + use<'a> {
        let view = self.view;
        self.cell.sees.iter().filter_map(move |(id, sight)| Some((*id, sight, view.cells.get(id)?)))
    }

    fn peers(&self) -> impl Iterator<Item = &'a Sealed> + use<'a> {
        let id = self.id;
        let others = self.cells().flat_map(|(_, _, cell)| cell.members.iter());
        let others = others.filter(move |(other, _)| **other != id).map(|(_, peer)| &**peer);
        others.chain(self.cell.devices.iter().map(|d| &d.peer))
    }

    /// Visible routes of others, host routes of visible devices, and its own routes.
    fn routes(&self) -> BTreeSet<Route> {
        let mut out: BTreeSet<Route> = self.cell.key.routes.iter().map(|p| route(*p, self.id)).collect();
        for (_, sight, cell) in self.cells() {
            self.routes_of(sight, cell, &mut out);
        }
        out
    }

    fn routes_of(&self, sight: &Sight, cell: &Cell, out: &mut BTreeSet<Route>) {
        if sight.routes.is_empty() && sight.devices.is_empty() {
            return;
        }
        for owner in cell.members.keys().filter(|owner| **owner != self.id) {
            out.extend(sight.routes.iter().map(|(prefix, _)| route(*prefix, *owner)));
            for device in visible_devices(sight, cell) {
                out.extend(device.record.addrs.iter().map(|ip| route(Prefix::host(ip), *owner)));
            }
        }
    }

    /// What it and its devices are for records that lead to them.
    fn own_ends(&self) -> Vec<End> {
        let own = self.view.record(self.id).into_iter().chain(self.cell.devices.iter().map(|d| &d.record));
        own.flat_map(|node| {
            let ips = node.addrs.iter().map(End::Ip).collect::<Vec<_>>();
            ips.into_iter().chain([End::Host(node.name.clone())])
        })
        .collect()
    }

    fn records(&self) -> Vec<Arc<Sealed>> {
        let names = &self.cell.horizon.names;
        if !names.has_ends() {
            return self.cell.records.values().cloned().collect();
        }
        names.with_own(&self.cell.records, &self.own_ends())
    }

    /// Names of devices that are no peers here, unless an admin gave the name to something else.
    fn device_records(&self) -> BTreeMap<EntryKey, Entry> {
        let mesh = &self.view.model.mesh;
        let mut out = BTreeMap::new();
        for (id, sight, cell) in self.cells() {
            if sight.devices.is_empty() || self.view.cell_of.get(&self.id) == Some(&id) {
                continue;
            }
            for device in visible_devices(sight, cell) {
                let Ok(name) = mesh.domain.child(&device.record.name) else { continue };
                let records = device.record.addrs.iter().map(|ip| record(&name, ip, mesh.dns_ttl));
                out.extend(records.map(|e| (e.key(), e)));
            }
        }
        if !out.is_empty() {
            self.records().iter().for_each(|r| drop(out.remove(&r.entry.key())));
        }
        out
    }

    /// What it serves on addresses of services.
    fn forwards(&self) -> BTreeMap<EntryKey, Entry> {
        let served = self.view.serving.by(self.id).into_iter();
        served.flat_map(|s| s.forwards.iter().cloned().map(Entry::Forward)).map(|e| (e.key(), e)).collect()
    }

    fn diff_forwards(&self, old: &Self, delta: &mut Delta) {
        if self.view.serving.by(self.id) == old.view.serving.by(self.id) {
            return;
        }
        let (was, is) = (old.forwards(), self.forwards());
        for (_, entry) in was.iter().filter(|(key, _)| !is.contains_key(*key)) {
            delta.put(Some(entry), None);
        }
        for (key, entry) in &is {
            delta.put(was.get(key), Some(entry));
        }
    }

    /// Peers and routes, cell by cell. Both rows are walked once, in step.
    fn diff_cells(&self, old: &Self, changed: &BTreeSet<CellId>, delta: &mut Delta) {
        let (mut was, mut is) = (Side::default(), Side::default());
        if Arc::ptr_eq(&old.cell.sees, &self.cell.sees) {
            for id in changed {
                if let Some(sight) = self.cell.sees.get(id) {
                    was.add(old, *id, sight);
                    is.add(self, *id, sight);
                }
            }
        } else {
            let (mut a, mut b) = (old.cell.sees.iter().peekable(), self.cell.sees.iter().peekable());
            loop {
                let order = match (a.peek(), b.peek()) {
                    (None, None) => break,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some((x, _)), Some((y, _))) => x.cmp(y),
                };
                let old_sight = if order.is_le() { a.next() } else { None };
                let new_sight = if order.is_ge() { b.next() } else { None };
                let same =
                    matches!((old_sight, new_sight), (Some(x), Some(y)) if x == y && !changed.contains(x.0));
                if same {
                    continue;
                }
                if let Some((id, sight)) = old_sight {
                    was.add(old, *id, sight);
                }
                if let Some((id, sight)) = new_sight {
                    is.add(self, *id, sight);
                }
            }
        }
        was.add_own(old);
        is.add_own(self);
        for (id, peer) in &was.peers {
            if !is.peers.contains_key(id) {
                delta.put(Some(&peer.entry), None);
            }
        }
        for (id, peer) in &is.peers {
            let before = was.peers.get(id);
            if !before.is_some_and(|b| std::ptr::eq(*b, *peer)) {
                delta.put(before.map(|b| &b.entry), Some(&peer.entry));
            }
        }
        for gone in was.routes.difference(&is.routes) {
            delta.put(Some(&Entry::Route(*gone)), None);
        }
        for new in is.routes.difference(&was.routes) {
            delta.put(None, Some(&Entry::Route(*new)));
        }
    }

    fn diff_records(&self, old: &Self, delta: &mut Delta) {
        let horizons = (&self.cell.horizon, &old.cell.horizon);
        let (ours, theirs) = (self.device_records(), old.device_records());
        let same = Arc::ptr_eq(horizons.0, horizons.1)
            && Arc::ptr_eq(&old.cell.records, &self.cell.records)
            && (!horizons.0.names.has_ends() || old.own_ends() == self.own_ends())
            && ours == theirs;
        if !same {
            let (before, after) = (old.records(), self.records());
            let was = before.iter().map(|r| &r.entry).chain(theirs.values()).map(|e| (e.key(), e)).collect();
            let is = after.iter().map(|r| &r.entry).chain(ours.values()).map(|e| (e.key(), e)).collect();
            delta.put_all(&was, &is);
        }
    }
}

/// What one side of a comparison has.
#[derive(Default)]
struct Side<'a> {
    peers: BTreeMap<NodeId, &'a Sealed>,
    routes: BTreeSet<Route>,
}

impl<'a> Side<'a> {
    fn add(&mut self, sees: &Sees<'a>, id: CellId, sight: &Sight) {
        if let Some(cell) = sees.view.cells.get(&id) {
            self.peers.extend(cell.members.iter().filter(|(n, _)| **n != sees.id).map(|(n, p)| (*n, &**p)));
            sees.routes_of(sight, cell, &mut self.routes);
        }
    }

    /// Its own routes and devices.
    fn add_own(&mut self, sees: &Sees<'a>) {
        self.routes.extend(sees.cell.key.routes.iter().map(|p| route(*p, sees.id)));
        self.peers.extend(sees.cell.devices.iter().map(|d| (d.record.id, &d.peer)));
    }
}

fn visible_devices<'a>(sight: &'a Sight, cell: &'a Cell) -> impl Iterator<Item = &'a Device> {
    let seen = |id: NodeId| sight.devices.iter().any(|(d, _)| *d == id);
    cell.devices.iter().filter(move |d| seen(d.record.id))
}

fn route(prefix: Prefix, owner: NodeId) -> Route {
    Route { prefix, rank: 0, owner }
}

fn record(name: &DnsName, ip: IpAddr, ttl: u32) -> Entry {
    let kind = if ip.is_ipv4() { RecordType::A } else { RecordType::Aaaa };
    Entry::Record(name.clone(), kind, RecordSet { ttl, values: vec![RecordValue::Address(ip)] })
}

fn by_key(entries: &[Sealed]) -> BTreeMap<EntryKey, &Entry> {
    entries.iter().map(|e| (e.entry.key(), &e.entry)).collect()
}
