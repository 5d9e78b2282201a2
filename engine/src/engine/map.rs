//! Maps, settings and key expiry: which peers there are, and what the data threads may do.

use super::owners::Owners;
use super::{Engine, Timer};
use crate::data::conntrack::Judgement;
use crate::data::routes::{PeerRef, RouteTable, Sources};
use crate::data::{DataSnapshot, Own, PeerSlot, stamp};
use crate::event::{Event, PathReason, Settings};
use crate::path::probe::SenderTag;
use crate::peers::PeerState;
use crate::session::{SessionFactory, SessionIndex};
use meshd_policy::Filter;
use meshd_proto::netmap::{NetworkMap, Peer, PeerKind, Route, SelfNode};
use meshd_proto::{NodeId, Prefix, UnixSeconds};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl<F: SessionFactory> Engine<F> {
    pub(super) fn apply_map(&mut self, map: Arc<NetworkMap>, now: Instant) {
        if map.network != self.config.network {
            tracing::warn!(theirs = %map.network, ours = %self.config.network, "a map of another mesh was refused");
            return;
        }
        self.map = map;
        self.reconcile(now);
        self.relays_changed(now);
    }

    pub(super) fn apply_settings(&mut self, settings: Settings, now: Instant) {
        if self.settings != settings {
            self.settings = settings;
            self.publish(now);
        }
    }

    pub(super) fn set_wall_clock(&mut self, seconds: UnixSeconds, now: Instant) {
        self.wall = Some((seconds, now));
        self.check_expiry(now);
    }

    /// Drops peers whose key has ended (and takes back those whose key has not, after the clock went
    /// back), and waits for the next.
    pub(super) fn check_expiry(&mut self, now: Instant) {
        let stale = |p: &Peer| self.is_expired(p, now) == self.peers.get(p.id).is_some();
        let free = |p: &Peer| self.peers.by_key(&p.key).is_none_or(|id| id == p.id);
        if self.map.peers.values().any(|p| stale(p) && free(p) && self.is_acceptable(p)) {
            self.reconcile(now);
        }
        let Some(wall) = self.wall_at(now) else { return };
        let ends = self.map.peers.values().filter_map(|p| p.key_expires).filter(|at| *at > wall);
        if let Some(next) = ends.min() {
            // Not further than a day: the wall clock may be set meanwhile.
            let wait = Duration::from_secs((next.0 - wall.0).min(86_400));
            self.timers.set(Timer::Expiry, now + wait);
        }
    }

    fn wall_at(&self, now: Instant) -> Option<UnixSeconds> {
        let (seconds, at) = self.wall?;
        Some(UnixSeconds(seconds.0 + now.saturating_duration_since(at).as_secs()))
    }

    /// Without a wall clock nothing is expired: the coordinator has left out what was when it sent the
    /// map, and the host sends the clock right after the start.
    fn is_expired(&self, peer: &Peer, now: Instant) -> bool {
        let ends = peer.key_expires;
        ends.is_some_and(|at| self.wall_at(now).is_some_and(|wall| at <= wall))
    }

    /// Not this node itself, under whatever id.
    fn is_acceptable(&self, peer: &Peer) -> bool {
        peer.key != self.public && self.map.me.as_ref().is_none_or(|me| me.id != peer.id)
    }

    /// Makes the peers those of the map, without touching those that stay.
    fn reconcile(&mut self, now: Instant) {
        let map = Arc::clone(&self.map);
        let wanted: BTreeMap<NodeId, &Peer> = map
            .peers
            .iter()
            .filter(|(_, p)| self.is_acceptable(p) && !self.is_expired(p, now))
            .map(|(id, p)| (*id, p))
            .collect();
        for id in self.peers.ids() {
            let same =
                wanted.get(&id).is_some_and(|w| self.peers.get(id).is_some_and(|p| p.peer.key == w.key));
            if !same {
                self.remove_peer(id);
            }
        }
        for (id, peer) in wanted {
            if let Some(state) = self.peers.get_mut(id) {
                if state.peer != *peer {
                    state.peer = peer.clone();
                }
            } else if self.peers.by_key(&peer.key).is_none() {
                // One key, one node: the second claim on a key is not believed.
                self.add_peer(peer.clone());
            }
        }
        self.publish(now);
        self.check_expiry_timer(now);
    }

    fn check_expiry_timer(&mut self, now: Instant) {
        if !self.timers.is_set(Timer::Expiry) && self.wall.is_some() {
            self.timers.set(Timer::Expiry, now + super::SOON);
        }
    }

    fn add_peer(&mut self, peer: Peer) {
        let index = loop {
            let index = SessionIndex::new(self.entropy.below(1 << SessionIndex::BITS) as u32);
            if !self.indexes.contains_key(&index) {
                break index;
            }
        };
        self.indexes.insert(index, peer.id);
        let tag = SenderTag::of(&self.config.network, &peer.key);
        let slot = PeerSlot::new(peer.id, peer.key, index);
        self.peers.insert(PeerState::new(peer, slot, tag));
    }

    fn remove_peer(&mut self, id: NodeId) {
        let Some(state) = self.peers.remove(id) else { return };
        for timer in {
            let own: [fn(NodeId) -> Timer; 5] =
                [Timer::Session, Timer::Handshake, Timer::Confirm, Timer::Path, Timer::Sweep];
            own.map(|timer| timer(id))
        } {
            self.timers.clear(timer);
        }
        self.indexes.remove(&state.slot.index);
        let from = {
            let mut live = state.slot.lock();
            live.session = None;
            std::mem::take(&mut live.path).to
        };
        if state.up {
            if from.is_some() {
                self.events.push_back(Event::PathChanged { peer: id, from, to: None, why: PathReason::Gone });
            }
            self.events.push_back(Event::PeerDown(id));
        }
    }

    /// Publishes a new snapshot, then judges the live flows under it.
    pub(super) fn publish(&mut self, now: Instant) {
        self.generation += 1;
        let old = self.data.load_full();
        let own = self.map.me.as_ref().map(|me| own(&self.map, me));
        let mut snapshot = DataSnapshot {
            generation: self.generation,
            routes: RouteTable::default(),
            filter: Filter::compile(&self.map),
            rules: old.rules.renewed(&self.map.rules),
            own,
            peers: Vec::new(),
            sources: Vec::new(),
            by_index: HashMap::new(),
            conntrack: Arc::clone(&old.conntrack),
            counters: Arc::clone(&self.counters),
            epoch: self.epoch,
        };
        let mut refs = HashMap::new();
        for state in self.peers.iter() {
            let peer = PeerRef(u32::try_from(snapshot.peers.len()).unwrap_or(u32::MAX));
            refs.insert(state.peer.id, peer);
            snapshot.by_index.insert(state.slot.index, peer);
            snapshot.peers.push(Arc::clone(&state.slot));
            snapshot.sources.push(Sources {
                addrs: state.peer.addrs,
                prefixes: Vec::new(),
                exit_v4: false,
                exit_v6: false,
            });
            for ip in state.peer.addrs.iter() {
                snapshot.routes.add(Prefix::host(ip), peer);
            }
        }
        let map = Arc::clone(&self.map);
        for route in &map.routes {
            let Some(peer) = refs.get(&route.owner) else { continue };
            if !self.accepts_route(route) {
                continue;
            }
            snapshot.routes.add(route.prefix, *peer);
            if let Some(sources) = snapshot.sources.get_mut(peer.0 as usize) {
                match (route.prefix.is_default(), route.prefix.net()) {
                    (true, ipnet::IpNet::V4(_)) => sources.exit_v4 = true,
                    (true, ipnet::IpNet::V6(_)) => sources.exit_v6 = true,
                    (false, _) => sources.prefixes.push(route.prefix),
                }
            }
        }
        self.owners = self.shared_prefixes();
        let snapshot = Arc::new(snapshot);
        self.data.store(Arc::clone(&snapshot));
        let when = Judgement { generation: self.generation, stamp: stamp(self.epoch, now) };
        let count = snapshot.conntrack.sweep(when, |flow, owner| {
            let entitled = refs
                .get(&owner)
                .and_then(|peer| snapshot.sources.get(peer.0 as usize))
                .is_some_and(|sources| sources.allow(flow.src));
            let ours = snapshot.own.as_ref().is_some_and(|own| own.accepts(flow.dst));
            if entitled && ours { snapshot.admits(flow) } else { None }
        });
        if count > 0 {
            self.flows_cut += count as u64;
            self.events.push_back(Event::FlowsCut { count });
        }
    }

    /// The peers behind which the same prefix lies.
    fn shared_prefixes(&self) -> Owners {
        let mut by_prefix: BTreeMap<Prefix, Vec<NodeId>> = BTreeMap::new();
        for route in self.map.routes.iter().filter(|r| self.peers.get(r.owner).is_some()) {
            if self.accepts_route(route) {
                by_prefix.entry(route.prefix).or_default().push(route.owner);
            }
        }
        Owners::new(by_prefix.into_values())
    }

    /// Whether packets may go to, and come from, a prefix behind a peer.
    fn accepts_route(&self, route: &Route) -> bool {
        let Some(me) = &self.map.me else { return false };
        if route.prefix.is_default() {
            return self.settings.exit_node == Some(route.owner);
        }
        let mine =
            me.approved_routes.contains(&route.prefix) || self.map.owners(route.prefix).any(|o| o == me.id);
        self.settings.accept_routes
            && !mine
            && !self.settings.refused_routes.contains(&route.prefix)
            && self.spares_nodes(route.prefix, me)
    }

    /// A route never covers nodes' own addresses: inside the mesh's ranges only single addresses that
    /// no node has (services) may be routed.
    fn spares_nodes(&self, prefix: Prefix, me: &SelfNode) -> bool {
        let mesh = [ipnet::IpNet::V4(me.prefixes.v4), ipnet::IpNet::V6(me.prefixes.v6)];
        let net = prefix.net();
        if !mesh.iter().any(|m| m.contains(&net) || net.contains(m)) {
            return true;
        }
        let ip: IpAddr = net.addr();
        prefix == Prefix::host(ip)
            && !me.addrs.contains(ip)
            && !me.prefixes.resolver().contains(ip)
            && !self.map.peers.values().any(|p| p.addrs.contains(ip))
    }
}

fn own(map: &NetworkMap, me: &SelfNode) -> Own {
    let devices = map.peers.values().filter(|p| p.kind == PeerKind::PlainWireguard);
    let routed = map.routes.iter().filter(|r| r.owner == me.id).map(|r| r.prefix);
    let mut all: Vec<Prefix> = me.approved_routes.iter().copied().chain(routed).collect();
    all.sort_unstable();
    all.dedup();
    Own {
        addrs: me.addrs,
        mesh: me.prefixes,
        exit_v4: all.contains(&Prefix::DEFAULT_V4),
        exit_v6: all.contains(&Prefix::DEFAULT_V6),
        devices: devices.map(|p| p.addrs).collect(),
        prefixes: all.into_iter().filter(|p| !p.is_default()).collect(),
    }
}

#[cfg(test)]
mod tests;
