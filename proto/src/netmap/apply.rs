//! Applying an update to a map.

use super::{Entry, EntryKey, NetworkMap, Route};
use crate::{Epoch, MapDigest, NetworkId, Version, limits};

/// A change of a map, or a whole one.
///
/// The coordinator may send it in parts; [`MapUpdate::append`] joins them, and only a complete update
/// is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUpdate {
    /// Which mesh.
    pub network: NetworkId,
    /// Which life of the log.
    pub epoch: Epoch,
    /// The version this builds on; `None`: a snapshot that replaces everything.
    pub from: Option<Version>,
    /// The version it leads to.
    pub to: Version,
    /// New and changed entries.
    pub upserts: Vec<Entry>,
    /// Entries that are gone or no longer visible.
    pub removes: Vec<EntryKey>,
    /// Digest of the map afterwards.
    pub digest: MapDigest,
    /// Whether further parts follow.
    pub more: bool,
}

/// Why an update was not applied. The map stays as it was; the node asks for a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Another mesh.
    #[error("the update is for mesh {theirs}, this node is in {ours}")]
    OtherNetwork {
        /// The update's.
        theirs: NetworkId,
        /// This map's.
        ours: NetworkId,
    },
    /// A gap: an update was missed.
    #[error(
        "the update builds on version {theirs} of epoch {their_epoch}, this map is at {ours} of epoch {our_epoch}"
    )]
    Gap {
        /// The update's base.
        theirs: Version,
        /// The update's epoch.
        their_epoch: Epoch,
        /// This map's version.
        ours: Version,
        /// This map's epoch.
        our_epoch: Epoch,
    },
    /// The result is not what the coordinator has.
    #[error("after the update the digest differs from the coordinator's")]
    Diverged,
    /// More than a node accepts.
    #[error("the map would hold more than {max} entries", max = limits::MAX_MAP_ENTRIES)]
    TooLarge,
    /// Parts of different updates were joined.
    #[error("a part of another update arrived in between")]
    MixedParts,
}

impl MapUpdate {
    /// Joins the next part of the same update to this one.
    ///
    /// # Errors
    /// When the parts do not belong together or grow too large.
    pub fn append(&mut self, next: Self) -> Result<(), ApplyError> {
        if (self.network, self.epoch, self.from, self.to) != (next.network, next.epoch, next.from, next.to) {
            return Err(ApplyError::MixedParts);
        }
        self.upserts.extend(next.upserts);
        self.removes.extend(next.removes);
        if self.upserts.len() + self.removes.len() > limits::MAX_MAP_ENTRIES {
            return Err(ApplyError::TooLarge);
        }
        self.digest = next.digest;
        self.more = next.more;
        Ok(())
    }
}

impl NetworkMap {
    /// The map after `update`. The map itself stays as it is: a refused update loses nothing.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub fn apply(&self, update: &MapUpdate) -> Result<Self, ApplyError> {
        if update.network != self.network {
            return Err(ApplyError::OtherNetwork { theirs: update.network, ours: self.network });
        }
        let mut next = match update.from {
            None => Self::empty(self.network),
            Some(from) if from == self.version && update.epoch == self.epoch => self.clone(),
            Some(from) => {
                return Err(ApplyError::Gap {
                    theirs: from,
                    their_epoch: update.epoch,
                    ours: self.version,
                    our_epoch: self.epoch,
                });
            }
        };
        for key in &update.removes {
            next.remove(key);
        }
        for entry in &update.upserts {
            next.upsert(entry.clone());
        }
        next.epoch = update.epoch;
        next.version = update.to;
        if next.len() > limits::MAX_MAP_ENTRIES {
            return Err(ApplyError::TooLarge);
        }
        if next.digest == update.digest { Ok(next) } else { Err(ApplyError::Diverged) }
    }

    /// Puts `entry` in the place of the one with its key.
    pub fn upsert(&mut self, entry: Entry) {
        self.remove(&entry.key());
        self.digest.add(&entry.encode());
        match entry {
            Entry::Me(me) => self.me = Some(me),
            Entry::Peer(p) => drop(self.peers.insert(p.id, p)),
            Entry::Route(r) => drop(self.routes.insert(r)),
            Entry::FilterPresent => self.filter_present = true,
            Entry::Rule(id, rule) => drop(self.rules.insert(id, rule)),
            Entry::DnsConfig(c) => self.dns.config = Some(c),
            Entry::Record(name, kind, set) => drop(self.dns.records.insert((name, kind), set)),
            Entry::Relay(r) => drop(self.relays.insert(r.id, r)),
            Entry::Service(s) => drop(self.services.insert(s.name.clone(), s)),
            Entry::Gateway(name, config) => drop(self.gateways.insert(name, config)),
            Entry::Coordinator(c) => self.coordinator = Some(c),
            Entry::Forward(f) => drop(self.forwards.insert((f.address, f.protocol, f.port), f)),
        }
    }

    /// Removes the entry with `key`, if there is one.
    pub fn remove(&mut self, key: &EntryKey) {
        if let Some(old) = self.entry(key) {
            self.digest.remove(&old.encode());
        }
        match key {
            EntryKey::Me => self.me = None,
            EntryKey::Peer(id) => drop(self.peers.remove(id)),
            EntryKey::Route(prefix, owner) => {
                if let Some(route) = self.find_route(*prefix, *owner) {
                    self.routes.remove(&route);
                }
            }
            EntryKey::FilterPresent => self.filter_present = false,
            EntryKey::Rule(id) => drop(self.rules.remove(id)),
            EntryKey::DnsConfig => self.dns.config = None,
            EntryKey::Record(name, kind) => drop(self.dns.records.remove(&(name.clone(), *kind))),
            EntryKey::Relay(id) => drop(self.relays.remove(id)),
            EntryKey::Service(name) => drop(self.services.remove(name)),
            EntryKey::Gateway(name) => drop(self.gateways.remove(name)),
            EntryKey::Coordinator => self.coordinator = None,
            EntryKey::Forward(ip, protocol, port) => drop(self.forwards.remove(&(*ip, *protocol, *port))),
        }
    }

    /// All entries, in the order of their keys within each section.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let marker = self.filter_present.then_some(Entry::FilterPresent).into_iter();
        let filter = marker.chain(self.rules.iter().map(|(id, r)| Entry::Rule(*id, r.clone())));
        (self.me.iter().cloned().map(Entry::Me))
            .chain(self.coordinator.iter().cloned().map(Entry::Coordinator))
            .chain(self.peers.values().cloned().map(Entry::Peer))
            .chain(self.routes.iter().copied().map(Entry::Route))
            .chain(filter)
            .chain(self.dns.config.iter().cloned().map(Entry::DnsConfig))
            .chain(self.dns.records.iter().map(|((n, t), s)| Entry::Record(n.clone(), *t, s.clone())))
            .chain(self.relays.values().cloned().map(Entry::Relay))
            .chain(self.services.values().cloned().map(Entry::Service))
            .chain(self.gateways.iter().map(|(n, c)| Entry::Gateway(n.clone(), c.clone())))
            .chain(self.forwards.values().cloned().map(Entry::Forward))
    }

    /// How many entries the map holds.
    pub fn len(&self) -> usize {
        usize::from(self.me.is_some())
            + usize::from(self.coordinator.is_some())
            + self.peers.len()
            + self.routes.len()
            + usize::from(self.filter_present)
            + self.rules.len()
            + usize::from(self.dns.config.is_some())
            + self.dns.records.len()
            + self.relays.len()
            + self.services.len()
            + self.gateways.len()
            + self.forwards.len()
    }

    /// Whether the map holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn entry(&self, key: &EntryKey) -> Option<Entry> {
        match key {
            EntryKey::Me => self.me.clone().map(Entry::Me),
            EntryKey::Peer(id) => self.peers.get(id).cloned().map(Entry::Peer),
            EntryKey::Route(prefix, owner) => self.find_route(*prefix, *owner).map(Entry::Route),
            EntryKey::FilterPresent => self.filter_present.then_some(Entry::FilterPresent),
            EntryKey::Rule(id) => Some(Entry::Rule(*id, self.rules.get(id)?.clone())),
            EntryKey::DnsConfig => self.dns.config.clone().map(Entry::DnsConfig),
            EntryKey::Record(name, kind) => {
                let set = self.dns.records.get(&(name.clone(), *kind))?;
                Some(Entry::Record(name.clone(), *kind, set.clone()))
            }
            EntryKey::Relay(id) => self.relays.get(id).cloned().map(Entry::Relay),
            EntryKey::Service(name) => self.services.get(name).cloned().map(Entry::Service),
            EntryKey::Gateway(name) => Some(Entry::Gateway(name.clone(), self.gateways.get(name)?.clone())),
            EntryKey::Coordinator => self.coordinator.clone().map(Entry::Coordinator),
            EntryKey::Forward(ip, protocol, port) => {
                self.forwards.get(&(*ip, *protocol, *port)).cloned().map(Entry::Forward)
            }
        }
    }

    fn find_route(&self, prefix: crate::Prefix, owner: crate::NodeId) -> Option<Route> {
        let first = Route { prefix, rank: 0, owner: crate::NodeId(0) };
        self.routes.range(first..).take_while(|r| r.prefix == prefix).find(|r| r.owner == owner).copied()
    }
}
