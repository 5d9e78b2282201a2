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

    /// A router has opened a port for us, or has closed it.
    pub(super) fn set_port_mapped(&mut self, outside: Option<Endpoint>, now: Instant) {
        self.port_mapped = outside.map(|e| Endpoint::canonical(e.0)).filter(Endpoint::is_sendable);
        self.endpoints_changed(now);
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
        for outside in self.port_mapped.into_iter().chain(self.stun.mapped()) {
            if !all.contains(&outside) {
                all.push(outside);
            }
        }
        all.truncate(MAX_ENDPOINTS);
        if all == self.endpoints {
            return;
        }
        self.endpoints.clone_from(&all);
        self.events.push_back(Event::EndpointsChanged(all));
        self.tell_all(now);
    }

    /// Tells the peers in use where we are.
    fn tell_all(&mut self, now: Instant) {
        for id in self.peers_in_use(now) {
            self.tell_candidates_now(id, now);
        }
    }

    pub(super) fn set_relay_addresses(&mut self, relay: RelayId, addrs: &[Endpoint], now: Instant) {
        if !self.map.relays.contains_key(&relay) {
            return;
        }
        let second_port = self.map.relays.get(&relay).map_or(0, |r| r.alt_udp_port);
        self.stun.set_relay(relay, addrs, second_port, now);
        self.poll_stun(now);
    }

    pub(super) fn handle_stun(&mut self, from: Source, datagram: &[u8], now: Instant) {
        let Source::Udp(server) = from else { return };
        let before = self.stun.mapping(false);
        if self.stun.handle(server, datagram, now) {
            self.endpoints_changed(now);
        }
        if self.stun.mapping(false) != before {
            self.tell_all(now);
        }
        self.choose_relays(now);
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
        self.relays.wanted.remove(&relay);
        if !self.relays.up.insert(relay) {
            return;
        }
        self.relays.doubtful.remove(&relay);
        self.relays.lost.remove(&relay);
        self.choose_relays(now);
        self.refresh_relays(now);
        // Peers send to us where we say that we are.
        self.tell_all(now);
        for id in self.peers.ids() {
            let attempting = self.peers.get(id).is_some_and(|s| s.attempt.is_some());
            if attempting && !self.is_ready(id, now) {
                self.spread(id);
                self.tell_candidates_now(id, now);
            }
        }
    }

    pub(super) fn relay_down(&mut self, relay: RelayId, now: Instant) {
        self.relays.doubtful.remove(&relay);
        self.relays.lost.insert(relay);
        if self.relays.up.remove(&relay) {
            self.choose_relays(now);
            self.refresh_relays(now);
        }
    }

    /// A relay is silent under traffic: what goes over it goes over another one, too.
    pub(super) fn relay_doubtful(&mut self, relay: RelayId, doubtful: bool, now: Instant) {
        let changed = match doubtful {
            true => self.relays.up.contains(&relay) && self.relays.doubtful.insert(relay),
            false => self.relays.doubtful.remove(&relay),
        };
        if changed {
            self.refresh_relays(now);
        }
    }

    /// The relays that data went over in the last moment: their clients should know.
    pub fn relays_in_use(&self, now: Instant) -> Vec<RelayId> {
        let mut used: Vec<RelayId> = self
            .peers
            .iter()
            .filter(|p| {
                let sent = p.activity(self.epoch).sent;
                sent.is_some_and(|at| now.saturating_duration_since(at) < Duration::from_millis(400))
            })
            .flat_map(|p| {
                let choice = p.paths.choice();
                [choice.to, choice.also]
            })
            .filter_map(|to| match to {
                Some(Source::Relay { relay, .. }) => Some(relay),
                Some(Source::Udp(_)) | None => None,
            })
            .collect();
        used.sort_unstable();
        used.dedup();
        used
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
        self.relays.retain(|relay| map.relays.contains_key(relay));
        self.choose_relays(now);
        self.refresh_relays(now);
    }

    /// The relay that answers fastest is home; before any has answered, the first. One that was attached
    /// and is not any more gives way to one that is.
    fn choose_relays(&mut self, now: Instant) {
        let rtt = |id: RelayId| self.stun.relay(id).0;
        let lost = |id: &RelayId| self.relays.lost.contains(id) && !self.relays.up.is_empty();
        let held = self.relays.home.filter(|id| self.map.relays.contains_key(id));
        let only = |id: &RelayId| held.is_none() || !lost(id);
        let known = self.map.relays.keys().filter(|id| only(id));
        let measured = known.clone().filter_map(|id| Some((rtt(*id)?, *id))).min();
        let current = held.filter(only);
        let chosen = match (current, measured) {
            (None, Some((_, best))) => Some(best),
            (None, None) => known.clone().next().copied(),
            (Some(current), None) => Some(current),
            (Some(current), Some((new, best))) => {
                let better = rtt(current).is_none_or(|old| crate::path::is_better(new, old));
                Some(if better { best } else { current })
            }
        };
        if chosen != self.relays.home {
            self.relays.home = chosen;
            if let Some(relay) = chosen {
                self.events.push_back(Event::HomeRelay(relay));
                self.tell_all(now);
            }
        }
        self.choose_backup();
    }

    /// The next fastest one is kept warm.
    fn choose_backup(&mut self) {
        let others = self.map.relays.keys().filter(|id| Some(**id) != self.relays.home);
        let best = others.min_by_key(|id| {
            let current = Some(**id) == self.relays.backup;
            let rtt = self.stun.relay(**id).0.unwrap_or(Duration::MAX);
            (!self.relays.up.contains(id), if current { rtt / 2 } else { rtt }, **id)
        });
        self.relays.backup = best.copied();
        if let Some(relay) = self.relays.backup
            && !self.relays.up.contains(&relay)
            && self.relays.wanted.insert(relay)
        {
            self.events.push_back(Event::WantRelay(relay));
        }
    }
}
