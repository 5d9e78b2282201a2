//! Proving paths: probes out and in, lists of endpoints, and the look at what is selected.

use super::{Engine, SOON, Timer};
use crate::data::DropReason;
use crate::event::{Destination, Event, Source};
use crate::path::candidate::{Origin, Rules};
use crate::path::probe::{self, Content, MAX_CANDIDATES, Probe, ProbeKey, TxId, Whereabouts};
use crate::path::replay::{Held, Verdict};
use crate::path::{BUSY, Look, MAX_PER_FAMILY};
use crate::peers::Said;
use crate::session::SessionFactory;
use meshd_proto::{Endpoint, Hint, NodeId, NodeKey, RelayId};
use std::time::{Duration, Instant};

/// A peer is told our candidates at most this often, unless they changed.
const TELL: Duration = Duration::from_secs(2);
/// While there is no direct path they are told again, so long after the last time.
const RETELL: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(1500)];
/// A relay that does not know a peer is tried last for this long: a peer that restarts attaches sooner.
const GONE: Duration = Duration::from_secs(5);
/// A person who asked for a ping waits no longer than this.
const ASKING: Duration = Duration::from_secs(10);

impl<F: SessionFactory> Engine<F> {
    pub(super) fn rules(&self) -> Rules<'_> {
        Rules {
            mesh: self.map.me.as_ref().map(|me| me.prefixes),
            advertised: &self.settings.advertised,
            servers: self.stun.servers(),
            allow_loopback: self.config.allow_loopback,
        }
    }

    /// At most 8 endpoints of each family that a peer's list may make us try.
    fn listed(&self, endpoints: &[Endpoint]) -> Vec<Endpoint> {
        let rules = self.rules();
        let mut counts = [0; 2];
        let mut out = Vec::new();
        for endpoint in endpoints.iter().map(|e| Endpoint::canonical(e.0)) {
            let count = &mut counts[usize::from(endpoint.0.is_ipv6())];
            if *count < MAX_PER_FAMILY && rules.allow_listed(endpoint) && !out.contains(&endpoint) {
                *count += 1;
                out.push(endpoint);
            }
        }
        out
    }

    pub(super) fn apply_hint(&mut self, hint: Hint, now: Instant) {
        let list = self.listed(&hint.endpoints);
        let id = hint.node;
        let Some(state) = self.peers.get_mut(id) else { return };
        if state.hint.as_ref().is_some_and(|old| old.seq >= hint.seq) {
            return;
        }
        let news = state.paths.set_list(Origin::Hint, &list, now);
        let online = hint.online;
        state.hint = Some(hint);
        let attempting = state.attempt.is_some();
        let known = state.up || attempting;
        if (online && !state.duty.dead) || !known {
            state.slot.set_alive(online);
        }
        self.refresh_relay(id, now);
        if news && self.in_use(id, now) {
            self.timers.set_earlier(Timer::Path(id), now + SOON);
            if attempting && !self.is_ready(id, now) {
                self.spread(id);
            }
        }
    }

    /// The key for probes with a peer.
    pub(super) fn probe_key(&mut self, id: NodeId) -> Option<ProbeKey> {
        let (secret, network, public) = (&self.config.secret, &self.config.network, &self.public);
        let state = self.peers.get_mut(id)?;
        let key = state.peer.key;
        let made = state.probe_key.get_or_insert_with(|| {
            let shared = secret.diffie_hellman(key.as_bytes())?;
            Some(ProbeKey::derive(&shared, network, public, &key))
        });
        made.clone()
    }

    pub(super) fn send_probe(
        &mut self,
        id: NodeId,
        to: Destination,
        txid: TxId,
        content: Content,
        now: Instant,
    ) {
        if let Some(datagram) = self.sealed(id, txid, content, now) {
            self.send(to, datagram);
        }
    }

    /// A probe for a peer, which no other one is like.
    pub(super) fn sealed(
        &mut self,
        id: NodeId,
        txid: TxId,
        content: Content,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let has_session = self.is_ready(id, now);
        let key = self.probe_key(id)?;
        let nonce = self.entropy.bytes();
        let stamp = self.peers.get_mut(id)?.guard.stamp(&mut self.entropy);
        let probe = Probe { txid, stamp, has_session, fitness: self.fitness, content };
        Some(probe::seal(&key, self.tag, &nonce, &probe))
    }

    pub(super) fn ping(&mut self, id: NodeId, to: Destination, now: Instant) {
        let txid = TxId(self.entropy.bytes());
        let Some(state) = self.peers.get_mut(id).filter(|s| s.is_meshd()) else { return };
        state.paths.pinged(to, txid, now);
        self.send_probe(id, to, txid, Content::Ping, now);
    }

    /// Tells a peer over the relay (and the direct path, if there is one) where we are, unless that was done
    /// a moment ago.
    pub(super) fn tell_candidates(&mut self, id: NodeId, now: Instant) {
        let Some(state) = self.peers.get(id) else { return };
        if state.told.is_none_or(|at| now.saturating_duration_since(at) >= TELL) {
            self.tell_candidates_now(id, now);
        }
    }

    /// The same, to a peer that has just said where it is: not again and again, or two of them never end.
    fn answer_candidates(&mut self, id: NodeId, now: Instant) {
        let told = self.peers.get(id).and_then(|state| state.told);
        if told.is_none_or(|at| now.saturating_duration_since(at) >= TELL) {
            self.say_candidates(id, now);
        }
    }

    /// The same, whenever that was. It is said again while there is no direct path: a datagram may be lost.
    pub(super) fn tell_candidates_now(&mut self, id: NodeId, now: Instant) {
        if let Some(state) = self.peers.get_mut(id) {
            state.retold = 0;
        }
        self.say_candidates(id, now);
    }

    /// Says again where we are, if that is due and there is no direct path that would show that it was heard.
    fn retell_candidates(&mut self, id: NodeId, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        let wait = RETELL.get(usize::from(state.retold)).filter(|_| !state.paths.holds_direct());
        if state.told.zip(wait).is_some_and(|(at, wait)| now.saturating_duration_since(at) >= *wait) {
            state.retold += 1;
            self.say_candidates(id, now);
        }
    }

    fn say_candidates(&mut self, id: NodeId, now: Instant) {
        let up = |r: &RelayId| self.relays.up.contains(r);
        let at = Whereabouts {
            home_relay: self.relays.home.filter(up),
            backup_relay: self.relays.backup.filter(up),
            mapping: self.stun.mapping(false),
            mapped: self.stun.mapped_v4(),
            endpoints: self.endpoints.iter().copied().take(MAX_CANDIDATES).collect(),
        };
        let Some(state) = self.peers.get_mut(id).filter(|s| s.is_meshd()) else { return };
        let direct = state.paths.selected().map(Destination::Udp);
        let ways: Vec<_> = state.paths.over_relay().into_iter().chain(direct).collect();
        if ways.is_empty() {
            return;
        }
        state.told = Some(now);
        for to in ways {
            let txid = TxId(self.entropy.bytes());
            self.send_probe(id, to, txid, Content::Candidates(at.clone()), now);
        }
    }

    pub(super) fn handle_probe(&mut self, from: Source, datagram: &[u8], now: Instant) {
        let id = probe::sender(datagram).ok().and_then(|tag| self.peers.by_tag(tag));
        let id = id.filter(|id| self.peers.get(*id).is_some_and(|s| s.is_meshd()));
        let opened = id.and_then(|id| Some((id, probe::open(&self.probe_key(id)?, datagram).ok()?)));
        let Some((id, probe)) = opened else {
            self.count(DropReason::BadProbe);
            return;
        };
        let Some(state) = self.peers.get_mut(id) else { return };
        match state.guard.take(probe.stamp) {
            Verdict::New => self.act_on_probe(id, from, probe, false, now),
            Verdict::Replayed => self.count(DropReason::Replayed),
            Verdict::Stranger => self.handle_stranger(id, from, probe, now),
        }
    }

    /// A probe of a run that is not known. It may have been recorded long ago: a ping is answered, but
    /// nothing is believed before the sender has answered a question of ours.
    fn handle_stranger(&mut self, id: NodeId, from: Source, probe: Probe, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        match probe.content {
            Content::Pong { .. } => {
                let swept = state.sweep.as_ref().is_some_and(|s| s.txid == probe.txid);
                let open = swept
                    || state.paths.is_open(probe.txid)
                    || state.duty.is_open(probe.txid)
                    || state.guard.is_open(probe.txid, now);
                if !open {
                    self.count(DropReason::BadProbe);
                    return;
                }
                state.guard.adopt(probe.stamp);
                let held = state.guard.release(now);
                self.act_on_probe(id, from, probe, false, now);
                for Held { from, probe, .. } in held {
                    self.act_on_probe(id, from, probe, true, now);
                }
                return;
            }
            Content::Ping => self.pong(id, from, probe.txid, now),
            Content::Candidates(_) | Content::Meet { .. } => {}
        }
        let may_answer = match from {
            Source::Udp(endpoint) => self.rules().allow_learned(endpoint),
            Source::Relay { .. } => true,
        };
        if let Some(state) = self.peers.get_mut(id).filter(|_| may_answer) {
            state.guard.hold(from, probe, now);
            self.ask_stranger(id, now);
        }
    }

    /// Asks a stranger back, now or when it is time.
    fn ask_stranger(&mut self, id: NodeId, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        if let Some(to) = state.guard.ask(now) {
            let txid = TxId(self.entropy.bytes());
            state.guard.asked(txid, to, now);
            self.send_probe(id, to, txid, Content::Ping, now);
        } else if let Some(at) = state.guard.next_question(now) {
            self.timers.set_earlier(Timer::Path(id), at);
        }
    }

    fn pong(&mut self, id: NodeId, from: Source, txid: TxId, now: Instant) {
        let observed = match from {
            Source::Udp(endpoint) => Some(endpoint),
            Source::Relay { .. } => None,
        };
        self.send_probe(id, from, txid, Content::Pong { observed }, now);
    }

    /// Does what a new probe asks for. One that was `held` has got its pong already.
    fn act_on_probe(&mut self, id: NodeId, from: Source, probe: Probe, held: bool, now: Instant) {
        self.heard_probe(id, from, now);
        self.heard_fitness(id, probe.fitness, now);
        match probe.content {
            Content::Ping if held => {}
            Content::Ping => self.pong(id, from, probe.txid, now),
            Content::Pong { .. } => self.handle_pong(id, from, probe.txid, now),
            Content::Meet { .. } => self.begin_sweep(id, now),
            Content::Candidates(at) => {
                let list = self.listed(&at.endpoints);
                let Some(state) = self.peers.get_mut(id) else { return };
                state.said = Said {
                    home_relay: at.home_relay.or(state.said.home_relay),
                    backup_relay: at.backup_relay,
                    mapping: at.mapping,
                    mapped: at.mapped,
                };
                state.paths.set_list(Origin::Exchanged, &list, now);
                // The peer is trying now: so do we, or the NATs in between never see both of us.
                if state.guard.may_restart(now) {
                    state.paths.restart(now);
                }
                self.refresh_relay(id, now);
                self.answer_candidates(id, now);
                self.timers.set_earlier(Timer::Path(id), now + SOON);
            }
        }
        // The peer has a session that we have lost (a restart): make a new one before it has to notice.
        if probe.has_session && !self.is_ready(id, now) {
            self.begin(id, now);
        }
    }

    /// An authentic probe came that way.
    fn heard_probe(&mut self, id: NodeId, from: Source, now: Instant) {
        match from {
            Source::Relay { relay, .. } => {
                if let Some(state) = self.peers.get_mut(id) {
                    state.relay_heard = Some((relay, now));
                    state.relay_gone = state.relay_gone.filter(|(gone, _)| *gone != relay);
                    state.slot.set_alive(true);
                    state.duty.dead = false;
                }
                self.refresh_relay(id, now);
            }
            Source::Udp(endpoint) => {
                if !self.rules().allow_learned(endpoint) {
                    return;
                }
                let Some(state) = self.peers.get_mut(id) else { return };
                state.slot.set_alive(true);
                state.duty.dead = false;
                if state.paths.hear(endpoint, now) {
                    self.timers.set_earlier(Timer::Path(id), now + SOON);
                }
            }
        }
    }

    fn handle_pong(&mut self, id: NodeId, from: Source, txid: TxId, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        state.duty.answered(txid, now);
        if let Some(question) = state.guard.answered(txid, now).filter(|q| q.to == from) {
            // It was asked as a stranger: the answer proves that way like any other.
            if let Source::Udp(endpoint) = from {
                state.paths.add(endpoint, Origin::Learned, now);
            }
            state.paths.pinged(from, txid, question.at);
        }
        let swept = state.sweep.as_ref().is_some_and(|s| s.txid == txid);
        if let (true, Source::Udp(endpoint)) = (swept, from) {
            self.swept(id, endpoint, now);
            return;
        }
        let Some(rtt) = state.paths.ponged(from, txid, now) else { return };
        // Whatever way the first answer comes: while nothing is proved, candidates are pinged anyway.
        let asked = state.asking.take();
        if asked.is_some_and(|at| now.saturating_duration_since(at) < ASKING) {
            self.events.push_back(Event::Pong { peer: id, via: from, rtt });
        }
        if let Source::Udp(endpoint) = from {
            let change = state.paths.select(endpoint, now);
            self.sync_path(id, change, now);
            self.timers.set_earlier(Timer::Path(id), now + SOON);
        }
    }

    /// The look at a peer's paths that is due.
    pub(super) fn look_at_paths(&mut self, id: NodeId, now: Instant) {
        self.ask_stranger(id, now);
        let Some(state) = self.peers.get_mut(id).filter(|s| s.is_meshd()) else { return };
        let activity = state.activity(self.epoch);
        let busy = activity.idle_for(now) < BUSY;
        let Look { ping, ping_relay, reachable, change, silent, exchange, next } =
            state.paths.look(activity, now);
        // What was heard before its probes went unanswered does not bring a router back.
        if let Some(reachable) = reachable.filter(|reachable| !(*reachable && state.duty.dead)) {
            state.slot.set_alive(reachable);
        }
        let relay = state.paths.over_relay().filter(|_| ping_relay);
        self.sync_path(id, change, now);
        for endpoint in silent {
            self.release(id, endpoint, now);
        }
        for endpoint in ping {
            self.ping(id, Destination::Udp(endpoint), now);
        }
        if let Some(relay) = relay {
            self.ping(id, relay, now);
        }
        self.consider_meeting(id, now);
        if busy {
            self.retell_candidates(id, now);
        }
        if exchange {
            self.show_interest(id, now);
            self.tell_candidates(id, now);
        }
        // Pings just sent have moved their own times: look again for the next one.
        let Some(state) = self.peers.get(id) else { return };
        let next = state.paths.next_look(activity, now).or(next);
        let next = next.into_iter().chain(state.guard.next_question(now)).min();
        if let Some(next) = next {
            self.timers.set(Timer::Path(id), next.max(now + SOON));
        }
    }

    /// A relay does not know a peer: what was heard through it, or said of it, is out of date.
    pub(super) fn relay_peer_gone(&mut self, relay: RelayId, peer: &NodeKey, now: Instant) {
        let Some(id) = self.peers.by_key(peer) else { return };
        let Some(state) = self.peers.get_mut(id) else { return };
        state.relay_heard = state.relay_heard.filter(|(heard, _)| *heard != relay);
        state.relay_gone = Some((relay, now));
        let before = state.paths.relay();
        self.refresh_relay(id, now);
        let Some(state) = self.peers.get(id) else { return };
        let attempting = state.attempt.is_some();
        if state.paths.relay() != before && (attempting || self.in_use(id, now)) {
            self.show_interest(id, now);
            if attempting && !self.is_ready(id, now) {
                self.spread(id);
            }
        }
    }

    /// Refreshes which relay a peer is reached through.
    pub(super) fn refresh_relay(&mut self, id: NodeId, now: Instant) {
        let Some(state) = self.peers.get(id).filter(|s| s.is_meshd()) else { return };
        let named = state.said.home_relay.or_else(|| state.hint.as_ref().and_then(|h| h.home_relay));
        let named = named.filter(|r| self.map.relays.contains_key(r));
        let second = state.said.backup_relay.filter(|r| self.map.relays.contains_key(r));
        let heard = state
            .relay_heard
            .filter(|(_, at)| now.saturating_duration_since(*at) < crate::path::RECENT)
            .map(|(relay, _)| relay);
        let up = |relay: &RelayId| self.relays.up.contains(relay);
        // Without better knowledge: where the mesh's other nodes are.
        let known = [heard, named, second, self.relays.home, self.relays.backup];
        let gone = state.relay_gone.filter(|(_, at)| now.saturating_duration_since(*at) < GONE);
        let gone = gone.map(|(relay, _)| relay);
        let ranked = known.into_iter().flatten().chain(self.relays.up.iter().copied()).filter(up);
        // One that does not know the peer is the last that is tried.
        let ranked = ranked.clone().filter(|r| Some(*r) != gone).chain(ranked.filter(|r| Some(*r) == gone));
        let usable = ranked.clone().next();
        let doubtful = usable.is_some_and(|r| self.relays.doubtful.contains(&r));
        let spare = ranked.clone().find(|r| Some(*r) != usable && !self.relays.doubtful.contains(r));
        let spare = spare.filter(|_| doubtful);
        let wanted = named.filter(|r| !up(r)).or_else(|| second.filter(|r| !up(r) && doubtful));
        if let Some(relay) = wanted.filter(|_| self.in_use(id, now))
            && self.relays.wanted.insert(relay)
        {
            self.events.push_back(Event::WantRelay(relay));
        }
        let Some(state) = self.peers.get_mut(id) else { return };
        let change = state.paths.set_relay(usable, spare);
        self.sync_path(id, change, now);
    }
}
