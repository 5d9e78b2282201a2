//! Our own endpoints, and the relays.

use super::{Engine, Timer};
use crate::event::{Event, Source};
use crate::session::SessionFactory;
use crate::stun;
use meshd_proto::limits::MAX_ENDPOINTS;
use meshd_proto::{Endpoint, NodeId, RelayId};
use std::time::{Duration, Instant};

impl<F: SessionFactory> Engine<F> {
    /// A link event. Everything is tried again; no session is touched.
    pub(super) fn set_local_endpoints(&mut self, local: Vec<Endpoint>, now: Instant) {
        let mut local: Vec<_> = local.into_iter().map(|e| Endpoint::canonical(e.0)).collect();
        local.truncate(MAX_ENDPOINTS);
        if self.local == local {
            return;
        }
        let first = self.local.is_empty();
        self.local = local;
        if first {
            self.stun.start(now);
            self.poll_stun(now);
            self.endpoints_changed(now);
        } else {
            self.link_changed(now);
        }
    }

    /// Acts on the leading edge: asks STUN again and proves every path in use again, while data goes on.
    pub(super) fn link_changed(&mut self, now: Instant) {
        self.stun.forget();
        self.stun.start(now);
        self.poll_stun(now);
        self.endpoints_changed(now);
        for id in self.peers_in_use(now) {
            let Some(state) = self.peers.get_mut(id) else { continue };
            if state.is_meshd() {
                let change = state.paths.link_changed(now);
                self.sync_path(id, change, now);
                self.timers.set_earlier(Timer::Path(id), now + super::SOON);
            }
        }
    }

    fn peers_in_use(&self, now: Instant) -> Vec<NodeId> {
        self.peers.ids().into_iter().filter(|id| self.in_use(*id, now)).collect()
    }

    /// Reports our endpoints if they changed, to the coordinator and to the peers in use.
    fn endpoints_changed(&mut self, now: Instant) {
        let mut all = self.local.clone();
        all.extend(self.stun.mapped().into_iter().filter(|e| !self.local.contains(e)));
        all.truncate(MAX_ENDPOINTS);
        if all == self.endpoints {
            return;
        }
        self.endpoints.clone_from(&all);
        self.events.push_back(Event::EndpointsChanged(all));
        for id in self.peers_in_use(now) {
            self.tell_candidates_now(id, now);
        }
    }

    pub(super) fn set_relay_addresses(&mut self, relay: RelayId, addrs: &[Endpoint], now: Instant) {
        if !self.map.relays.contains_key(&relay) {
            return;
        }
        self.stun.set_relay(relay, addrs, now);
        self.poll_stun(now);
    }

    pub(super) fn handle_stun(&mut self, from: Source, datagram: &[u8], now: Instant) {
        let Source::Udp(server) = from else { return };
        if self.stun.handle(server, datagram, now) {
            self.endpoints_changed(now);
        }
        self.choose_home_relay();
    }

    /// Sends the requests that are due.
    pub(super) fn poll_stun(&mut self, now: Instant) {
        for (server, request) in self.stun.poll(&mut self.entropy, now) {
            self.send(Source::Udp(server), request);
        }
        if let Some(next) = self.stun.next() {
            self.timers.set(Timer::Stun, next.max(now + super::SOON));
        }
    }

    /// Asks again if the last answers are old: something is about to use our endpoints.
    pub(super) fn refresh_stun(&mut self, now: Instant) {
        self.stun.refresh(now);
        self.poll_stun(now);
        if !self.timers.is_set(Timer::StunRound) {
            self.timers.set(Timer::StunRound, now + stun::EVERY);
        }
    }

    /// The next round, as long as there is traffic.
    pub(super) fn next_stun_round(&mut self, now: Instant) {
        let busy = self.peers.iter().any(|p| p.activity(self.epoch).idle_for(now) < Duration::from_secs(120));
        if busy {
            self.refresh_stun(now);
            self.timers.set(Timer::StunRound, now + stun::EVERY);
        }
    }

    pub(super) fn relay_up(&mut self, relay: RelayId, now: Instant) {
        if !self.map.relays.contains_key(&relay) {
            return;
        }
        self.relays_wanted.remove(&relay);
        if !self.relays_up.insert(relay) {
            return;
        }
        self.refresh_relays(now);
        for id in self.peers.ids() {
            let attempting = self.peers.get(id).is_some_and(|s| s.attempt.is_some());
            if attempting && !self.is_ready(id, now) {
                self.spread(id);
                self.tell_candidates_now(id, now);
            }
        }
    }

    pub(super) fn relay_down(&mut self, relay: RelayId, now: Instant) {
        if self.relays_up.remove(&relay) {
            self.refresh_relays(now);
        }
    }

    fn refresh_relays(&mut self, now: Instant) {
        for id in self.peers.ids() {
            self.refresh_relay(id, now);
        }
    }

    /// The map's relays may be others.
    pub(super) fn relays_changed(&mut self, now: Instant) {
        let map = std::sync::Arc::clone(&self.map);
        self.stun.retain(|relay| map.relays.contains_key(&relay));
        self.relays_up.retain(|relay| map.relays.contains_key(relay));
        self.relays_wanted.retain(|relay| map.relays.contains_key(relay));
        self.choose_home_relay();
        self.refresh_relays(now);
    }

    /// The relay that answers fastest; before any has answered, the first.
    fn choose_home_relay(&mut self) {
        let rtt = |id: RelayId| self.stun.relay(id).0;
        let measured = self.map.relays.keys().filter_map(|id| Some((rtt(*id)?, *id))).min();
        let current = self.home_relay.filter(|id| self.map.relays.contains_key(id));
        let chosen = match (current, measured) {
            (None, Some((_, best))) => Some(best),
            (None, None) => self.map.relays.keys().next().copied(),
            (Some(current), None) => Some(current),
            (Some(current), Some((new, best))) => {
                let better = rtt(current).is_none_or(|old| crate::path::is_better(new, old));
                Some(if better { best } else { current })
            }
        };
        if chosen != self.home_relay {
            self.home_relay = chosen;
            if let Some(relay) = chosen {
                self.events.push_back(Event::HomeRelay(relay));
            }
        }
    }
}
