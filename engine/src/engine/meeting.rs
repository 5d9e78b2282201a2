//! Crossing a NAT that maps by destination: who opens many sockets, who probes many ports, and when.
//!
//! Only the pair *dependent mapping × independent mapping* is tried (RFC 4787 terms): two independent ones
//! meet by ordinary candidates, two dependent ones would need millions of probes and use the relay.

use super::{Engine, SOON, Timer};
use crate::event::{Destination, Event, Source};
use crate::nat::Mapping;
use crate::path::birthday::{SOCKETS, Sweep};
use crate::path::candidate::Origin;
use crate::path::probe::{self, Content, TxId};
use crate::path::{Health, RECENT, Way};
use crate::session::SessionFactory;
use meshd_proto::{Endpoint, NodeId};
use std::time::Instant;

impl<F: SessionFactory> Engine<F> {
    /// Our NAT maps by destination, the peer's does not, and nothing direct is proved: open many sockets
    /// towards it and tell it to probe.
    pub(super) fn consider_meeting(&mut self, id: NodeId, now: Instant) {
        let ours = self.stun.mapping(false);
        let Some(state) = self.peers.get_mut(id) else { return };
        if state.paths.holds_direct() {
            state.meeting.done();
            state.sweep = None;
            return;
        }
        let used = state.activity(self.epoch).idle_for(now) < RECENT;
        let fits = ours == Mapping::Dependent && state.said.mapping == Mapping::Independent;
        let (Some(to), Some(over), true) = (state.said.mapped, state.paths.over_relay(), fits && used) else {
            return;
        };
        let due = state.meeting.due(now);
        if let Some(next) = state.meeting.next() {
            self.timers.set_earlier(Timer::Path(id), next.max(now + SOON));
        }
        let Some(round) = due.filter(|_| self.rules().allow_listed(to)) else { return };
        tracing::debug!(peer = %id, round, "opens many sockets towards a peer");
        let txid = TxId(self.entropy_bytes());
        let Some(payload) = self.sealed(id, txid, Content::Ping, now) else { return };
        self.events.push_back(Event::Scatter { to, payload, sockets: SOCKETS });
        let txid = TxId(self.entropy_bytes());
        self.send_probe(id, over, txid, Content::Meet { round }, now);
    }

    fn entropy_bytes(&mut self) -> [u8; 12] {
        self.entropy.bytes()
    }

    /// The peer has opened many sockets towards us: probe random ports of its NAT.
    pub(super) fn begin_sweep(&mut self, id: NodeId, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        let direct = state.paths.holds_direct();
        let target = state.said.mapped.filter(|_| !direct && state.said.mapping == Mapping::Dependent);
        let Some(target) = target.filter(|_| state.grant.take(now)) else { return };
        if !self.rules().allow_listed(target) || self.stun.mapping(false) == Mapping::Dependent {
            return;
        }
        let txid = TxId(self.entropy_bytes());
        tracing::debug!(peer = %id, at = %target.0.ip(), "probes random ports of a peer's NAT");
        let sweep = Sweep::new(target.0.ip(), txid, &mut self.entropy, now);
        if let Some(state) = self.peers.get_mut(id) {
            state.sweep = Some(sweep);
        }
        self.timers.set(Timer::Sweep(id), now + SOON);
    }

    /// The next probes of a sweep.
    pub(super) fn sweep(&mut self, id: NodeId, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        let Some(sweep) = &mut state.sweep else { return };
        let (batch, txid, next) = (sweep.batch(), sweep.txid, sweep.next(now));
        if let Some(next) = next {
            self.timers.set(Timer::Sweep(id), next);
        }
        for endpoint in batch {
            self.send_probe(id, Destination::Udp(endpoint), txid, Content::Ping, now);
        }
    }

    /// One of the ports answered.
    pub(super) fn swept(&mut self, id: NodeId, endpoint: Endpoint, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        let Some(sweep) = &state.sweep else { return };
        let rtt = now.saturating_duration_since(sweep.began);
        state.paths.add(endpoint, Origin::Learned, now);
        state.paths.proved_by_handshake(endpoint, rtt, now);
        let change = state.paths.select(endpoint, now);
        if state.paths.holds_direct() {
            state.sweep = None;
        }
        self.timers.clear(Timer::Sweep(id));
        self.sync_path(id, change, now);
        self.timers.set_earlier(Timer::Path(id), now + SOON);
    }

    /// From now on `endpoint` is reached by one of our many sockets.
    fn adopt(&mut self, id: NodeId, socket: u64, endpoint: Endpoint) {
        let Some(state) = self.peers.get_mut(id) else { return };
        if let Some(old) = state.adopted.replace(endpoint).filter(|old| *old != endpoint) {
            self.events.push_back(Event::Release { endpoint: old });
        }
        self.events.push_back(Event::Adopt { socket, endpoint });
    }

    /// `endpoint` answered none of its tries. If it was reached by one of our many sockets, the hole of that
    /// one is gone: the node has moved, or its router has forgotten it. Our first socket is the one that
    /// everybody knows of, so it is tried by that.
    pub(super) fn release(&mut self, id: NodeId, endpoint: Endpoint, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        if state.adopted == Some(endpoint) {
            state.adopted = None;
            state.paths.retry(endpoint, now);
            self.events.push_back(Event::Release { endpoint });
            self.tell_candidates(id, now);
        }
    }

    /// A datagram came to one of our many sockets. Only what a peer has sealed makes us keep that socket.
    pub(super) fn scattered(&mut self, socket: u64, from: Endpoint, payload: &[u8], now: Instant) {
        let from = Endpoint::canonical(from.0);
        let sender = probe::sender(payload).ok().and_then(|tag| self.peers.by_tag(tag));
        let authentic = sender.is_some_and(|id| {
            let meant = self.peers.get(id).is_some_and(|s| s.said.mapped == Some(from));
            let probe = self.probe_key(id).filter(|_| meant).and_then(|key| probe::open(&key, payload).ok());
            let guard = self.peers.get(id).map(|s| &s.guard);
            probe.zip(guard).is_some_and(|(probe, guard)| guard.is_new(probe.stamp))
        });
        if let (true, Some(id)) = (authentic, sender) {
            let Some(state) = self.peers.get(id) else { return };
            if !matches!(state.paths.way(), Way::Direct { health, .. } if health == Health::Good) {
                self.adopt(id, socket, from);
            }
            self.handle_datagram(Source::Udp(from), payload, now);
            return;
        }
        self.count(crate::data::DropReason::BadProbe);
    }
}
