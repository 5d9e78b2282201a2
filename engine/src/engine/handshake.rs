//! Making and keeping sessions.
//!
//! The first packet never waits: a handshake initiation goes over the relay and to every candidate at
//! once, its answer goes back on the way it came and over the relay.

use super::{Engine, SOON, Timer};
use crate::data::{DropReason, FromHost, seal_run};
use crate::engine::sink::Sink;
use crate::engine::upkeep::{CONFIRM, INTEREST};
use crate::event::{Destination, Event, Source, Transmit};
use crate::path::Way;
use crate::path::candidate::Origin;
use crate::peers::{Attempt, Unconfirmed};
use crate::session::{
    Handshake, Initiation, Sender, Session, SessionFactory, SessionIndex, TICK, receiver_index,
};
use meshd_proto::NodeId;
use std::time::{Duration, Instant};

/// Pause before an initiation is repeated, by how many were sent. WireGuard's own 5 s (paper §6.4) are
/// for a path that works; here the first answer often needs a second try through two NATs.
const RETRY: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(2000),
    Duration::from_millis(4000),
];
const RETRY_LAST: Duration = Duration::from_secs(5);
/// Then the packets that waited are dropped (paper §6.1, Rekey-Attempt-Time).
const GIVE_UP: Duration = Duration::from_secs(90);
/// Unanswered initiations after which a prefix's next owner is used.
const TRIES_ALIVE: u32 = 3;
/// Initiations go to at most this many places.
const MAX_PLACES: usize = 24;

impl<F: SessionFactory> Engine<F> {
    /// A packet from the host that the data threads could not send.
    pub(super) fn handle_outbound(&mut self, mut packet: Vec<u8>, now: Instant) {
        let snapshot = self.data.load_full();
        let mut sink = Sink::default();
        seal_run(&snapshot, [FromHost::whole(&mut packet)], &mut sink, now);
        self.transmits.extend(sink.transmits);
        for packet in sink.waiting {
            let id = match crate::data::route_of(&snapshot, &packet, now) {
                Ok(peer) => snapshot.slot(peer).map(|slot| slot.id),
                Err(why) => {
                    self.count(why);
                    None
                }
            };
            let Some(state) = id.and_then(|id| self.peers.get_mut(id)) else { continue };
            let id = state.peer.id;
            if state.enqueue(packet) {
                self.count(DropReason::QueueFull);
            }
            if self.is_ready(id, now) {
                self.look_for_path(id, now);
            } else {
                self.begin(id, now);
            }
        }
    }

    /// There is a session, but no way to send: try everything again, unless that is being done.
    fn look_for_path(&mut self, id: NodeId, now: Instant) {
        if self.timers.is_set(Timer::Path(id)) {
            return;
        }
        let Some(state) = self.peers.get_mut(id).filter(|s| s.is_meshd()) else { return };
        state.paths.restart(now);
        self.timers.set(Timer::Path(id), now + SOON);
        self.contact(id, now);
    }

    /// A person wants to know whether the peer is there.
    pub(super) fn connect(&mut self, id: NodeId, now: Instant) {
        if !self.is_ready(id, now) {
            self.begin(id, now);
        }
        let Some(state) = self.peers.get_mut(id) else { return };
        state.asking = Some(now);
        let choice = state.paths.choice();
        for to in choice.to.into_iter().chain(choice.also) {
            self.ping(id, to, now);
        }
    }

    /// Begins a handshake, unless one is under way.
    pub(super) fn begin(&mut self, id: NodeId, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        if state.attempt.is_some() {
            return;
        }
        state.attempt =
            Some(Attempt { tries: 0, began: now, sent: now, message: Vec::new(), sent_to: Vec::new() });
        if state.is_meshd() {
            state.paths.restart(now);
            self.timers.set_earlier(Timer::Path(id), now + SOON);
        }
        self.watch_owners(now);
        self.contact(id, now);
        self.initiate(id, now);
    }

    /// Something begins with this peer, whoever began: get to know where it is and say where we are.
    fn contact(&mut self, id: NodeId, now: Instant) {
        self.show_interest(id, now);
        self.refresh_relay(id, now);
        self.refresh_stun(now);
        self.tell_candidates(id, now);
    }

    pub(super) fn show_interest(&mut self, id: NodeId, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        if state.interest.is_none_or(|at| now.saturating_duration_since(at) >= INTEREST) {
            state.interest = Some(now);
            self.events.push_back(Event::Interest(id));
        }
    }

    /// Sends an initiation to every place where the peer may be.
    pub(super) fn initiate(&mut self, id: NodeId, now: Instant) {
        self.make_session(id, now);
        let jitter = Duration::from_millis(self.entropy.below(100));
        let Some(state) = self.peers.get_mut(id) else { return };
        let Some(attempt) = &mut state.attempt else { return };
        let wait = RETRY.get(attempt.tries as usize).copied().unwrap_or(RETRY_LAST);
        attempt.tries += 1;
        attempt.sent = now;
        self.timers.set(Timer::Handshake(id), now + wait + jitter);
        let message = state.slot.lock().session.as_mut().and_then(|s| s.initiate(now));
        attempt.message = message.unwrap_or_default();
        attempt.sent_to.clear();
        self.spread(id);
    }

    /// Sends the initiation under way to the places that have not got it. The same one, not a new one:
    /// a responder that answered both would forget the first key pair while we use it.
    pub(super) fn spread(&mut self, id: NodeId) {
        let places = self.places(id);
        let Some(attempt) = self.peers.get_mut(id).and_then(|s| s.attempt.as_mut()) else { return };
        if attempt.message.is_empty() {
            return;
        }
        for to in places {
            if !attempt.sent_to.contains(&to) {
                attempt.sent_to.push(to);
                self.transmits.push_back(Transmit { to, payload: attempt.message.clone() });
            }
        }
    }

    pub(super) fn make_session(&mut self, id: NodeId, now: Instant) {
        let Some(state) = self.peers.get(id) else { return };
        let mut live = state.slot.lock();
        if live.session.is_none() {
            let preshared = self.config.preshared.get(&state.peer.key).map(|k| &k.0);
            let session = self.factory.create(&state.peer.key, state.slot.index, preshared, now);
            live.session = Some(Box::new(session));
        }
        live.report_next = true;
        self.timers.set_earlier(Timer::Session(id), now + TICK);
    }

    /// The relay, the path in use, and all candidates.
    fn places(&self, id: NodeId) -> Vec<Destination> {
        let Some(state) = self.peers.get(id) else { return Vec::new() };
        let selected = state.paths.selected().map(Destination::Udp);
        let candidates = state.paths.candidates.iter().map(|c| Destination::Udp(c.endpoint));
        let mut all = Vec::new();
        for to in state.paths.over_relay().into_iter().chain(selected).chain(candidates) {
            if !all.contains(&to) && all.len() < MAX_PLACES {
                all.push(to);
            }
        }
        all
    }

    pub(super) fn retry_handshake(&mut self, id: NodeId, now: Instant) {
        if self.is_ready(id, now) {
            self.became_ready(id, now);
            return;
        }
        let Some(state) = self.peers.get_mut(id) else { return };
        let Some(attempt) = &state.attempt else { return };
        if now.saturating_duration_since(attempt.began) >= GIVE_UP {
            state.attempt = None;
            let dropped = state.queue.len();
            state.queue.clear();
            (0..dropped).for_each(|_| self.count(DropReason::QueueFull));
            return;
        }
        let given_up = attempt.tries >= TRIES_ALIVE && state.slot.is_alive();
        if given_up {
            state.slot.set_alive(false);
        }
        self.initiate(id, now);
        if given_up {
            self.reroute_queue(id, now);
        }
    }

    /// The peer does not answer: what waits for it may have another owner.
    pub(super) fn reroute_queue(&mut self, id: NodeId, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        for packet in std::mem::take(&mut state.queue) {
            self.handle_outbound(packet, now);
        }
    }

    /// Somebody wants a session with us.
    pub(super) fn handle_initiation(&mut self, from: Source, message: &[u8], now: Instant) {
        let sender = match from {
            Source::Udp(endpoint) => Sender::Udp(endpoint.0.ip()),
            Source::Relay { peer, .. } => Sender::Relayed(peer),
        };
        let key = match self.factory.identify(message, sender, now) {
            Initiation::From(key) => key,
            Initiation::Cookie(cookie) => {
                self.send(from, cookie);
                return;
            }
            Initiation::Refused => {
                self.count(DropReason::BadHandshake);
                return;
            }
        };
        let Some(id) = self.peers.by_key(&key) else {
            self.count(DropReason::BadHandshake);
            return;
        };
        self.make_session(id, now);
        self.feed(id, from, message, now);
    }

    /// A response or a cookie: the index tells whose.
    pub(super) fn handle_handshake_answer(&mut self, from: Source, message: &[u8], now: Instant) {
        let index = receiver_index(message).map(SessionIndex::of_receiver);
        match index.and_then(|i| self.indexes.get(&i)).copied() {
            Some(id) => self.feed(id, from, message, now),
            None => self.count(DropReason::BadHandshake),
        }
    }

    fn feed(&mut self, id: NodeId, from: Source, message: &[u8], now: Instant) {
        let Some(state) = self.peers.get(id) else { return };
        let mut replies = Vec::new();
        let done = match state.slot.lock().session.as_mut() {
            Some(session) => session.handshake(message, &mut replies, now),
            None => return,
        };
        let Ok(done) = done else {
            self.count(DropReason::BadHandshake);
            return;
        };
        self.timers.set_earlier(Timer::Session(id), now + TICK);
        match done {
            Handshake::Answered => self.answered(id, from, &replies, now),
            Handshake::Completed => self.completed(id, from, &replies, now),
            Handshake::Cookie => self.timers.set(Timer::Handshake(id), now + Duration::from_millis(200)),
        }
    }

    /// We answered an initiation: back on the way it came, and over the relay.
    fn answered(&mut self, id: NodeId, from: Source, replies: &[Vec<u8>], now: Instant) {
        let unused = !self.in_use(id, now);
        self.met(id, from, now);
        let Some(state) = self.peers.get_mut(id) else { return };
        let relay = state.paths.over_relay().filter(|_| from.is_direct());
        for reply in replies {
            for to in std::iter::once(from).chain(relay) {
                self.send(to, reply.clone());
            }
        }
        if unused && let Some(state) = self.peers.get_mut(id).filter(|s| s.is_meshd()) {
            state.paths.restart(now);
            self.timers.set_earlier(Timer::Path(id), now + SOON);
        }
        self.contact(id, now);
    }

    /// Our initiation was answered: there is a session, and the way the answer came is proved.
    fn completed(&mut self, id: NodeId, from: Source, replies: &[Vec<u8>], now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        let rtt = state.attempt.as_ref().map(|a| now.saturating_duration_since(a.sent));
        let mut change = None;
        if let (Source::Udp(endpoint), Some(rtt), true) = (from, rtt, state.is_meshd()) {
            state.paths.proved_by_handshake(endpoint, rtt, now);
            change = state.paths.select(endpoint, now);
            self.timers.set_earlier(Timer::Path(id), now + SOON);
        }
        self.sync_path(id, change, now);
        self.met(id, from, now);
        // The keepalive tells the other side that it may send: it goes every way that is known to work.
        let path = self.peers.get(id).map(|s| s.paths.choice()).unwrap_or_default();
        let mut ways: Vec<_> = std::iter::once(from).chain(path.to).collect();
        ways.dedup();
        for reply in replies {
            for to in &ways {
                self.send(*to, reply.clone());
            }
        }
        if let Some(state) = self.peers.get_mut(id) {
            state.unconfirmed = Some(Unconfirmed { since: now, repeats: 0 });
            self.timers.set(Timer::Confirm(id), now + CONFIRM[0]);
        }
        self.became_ready(id, now);
    }

    /// An authenticated WireGuard message came that way.
    pub(super) fn met(&mut self, id: NodeId, from: Source, now: Instant) {
        let rules_allow = match from {
            Source::Udp(endpoint) => self.rules().allow_learned(endpoint),
            Source::Relay { .. } => true,
        };
        let Some(state) = self.peers.get_mut(id) else { return };
        state.slot.set_alive(true);
        state.duty.dead = false;
        match from {
            Source::Relay { relay, .. } => {
                state.relay_heard = Some((relay, now));
                state.relay_gone = state.relay_gone.filter(|(gone, _)| *gone != relay);
                self.refresh_relay(id, now);
            }
            Source::Udp(_) if !rules_allow => {}
            Source::Udp(endpoint) if state.is_meshd() => {
                state.paths.add(endpoint, Origin::Learned, now);
                let change = state.paths.take_unproved(endpoint);
                self.timers.set_earlier(Timer::Path(id), now + SOON);
                self.sync_path(id, change, now);
            }
            Source::Udp(endpoint) => {
                let change = state.paths.roam(endpoint);
                self.sync_path(id, change, now);
            }
        }
    }

    /// The data threads saw an authenticated packet on another way than the selected one.
    pub(super) fn peer_seen(&mut self, id: NodeId, from: Source, now: Instant) {
        self.met(id, from, now);
        self.became_ready(id, now);
    }

    /// Announces a session once there is one, and sends what waited for it.
    pub(super) fn became_ready(&mut self, id: NodeId, now: Instant) {
        if !self.is_ready(id, now) {
            return;
        }
        let Some(state) = self.peers.get_mut(id) else { return };
        state.attempt = None;
        self.timers.clear(Timer::Handshake(id));
        if !state.up {
            state.up = true;
            state.slot.set_alive(true);
            state.duty.dead = false;
            let (to, why) = (state.paths.choice().to, state.paths.reason);
            self.events.push_back(Event::PeerUp(id));
            let asking = state.asking.is_some();
            if let Some(way) = to {
                self.events.push_back(Event::PathChanged { peer: id, from: None, to, why });
                if asking {
                    self.ping(id, way, now);
                }
            }
        }
        self.watch_owners(now);
        self.flush(id, now);
    }

    /// Sends what waited for a session and a path.
    pub(super) fn flush(&mut self, id: NodeId, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        if state.queue.is_empty() || state.paths.way() == Way::None {
            return;
        }
        let mut queue = std::mem::take(&mut state.queue);
        let snapshot = self.data.load_full();
        let mut sink = Sink::default();
        seal_run(&snapshot, queue.iter_mut().map(|p| FromHost::whole(p)), &mut sink, now);
        self.transmits.extend(sink.transmits);
        // No session after all, or the flow moved to another owner that has none.
        if let Some(state) = self.peers.get_mut(id) {
            for packet in sink.waiting {
                state.enqueue(packet);
            }
        }
    }
}
