//! Sessions that exist: their timers, their end, and what a peer in use needs now and then.

use super::{Engine, SOON, Timer};
use crate::event::{Event, PathReason};
use crate::path::RECENT;
use crate::session::{MessageKind, OVERHEAD, Session, SessionFactory, TICK};
use meshd_proto::NodeId;
use std::time::{Duration, Instant};

/// Waits before the keepalive that ends a handshake is repeated.
pub(super) const CONFIRM: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_millis(900), Duration::from_millis(2500)];
/// While a peer is in use we ask for its hints this often.
pub(super) const INTEREST: Duration = Duration::from_secs(60);

impl<F: SessionFactory> Engine<F> {
    /// Until the other side has heard that we got its answer, it may go on with an older key pair that
    /// we do not have (after a restart), and wait 15 s before it notices. The one keepalive that
    /// WireGuard sends may be lost: repeat it until something comes back.
    pub(super) fn confirm(&mut self, id: NodeId, now: Instant) {
        let epoch = self.epoch;
        let Some(state) = self.peers.get_mut(id) else { return };
        let heard = state.activity(epoch).heard;
        let Some(unconfirmed) = state.unconfirmed.as_mut().filter(|u| heard < Some(u.since)) else {
            state.unconfirmed = None;
            return;
        };
        unconfirmed.repeats += 1;
        match CONFIRM.get(unconfirmed.repeats) {
            Some(wait) => self.timers.set(Timer::Confirm(id), now + *wait),
            None => state.unconfirmed = None,
        }
        let mut keepalive = vec![0; OVERHEAD];
        let sealed = {
            let mut live = state.slot.lock();
            live.session.as_mut().is_some_and(|s| s.seal(&[], &mut keepalive, now).is_ok())
        };
        if sealed {
            let choice = state.paths.choice();
            for to in choice.to.into_iter().chain(choice.also) {
                self.send(to, keepalive.clone());
            }
        }
    }

    /// Lets a session do what its timers ask for. One that has ended stays, without keys and without a
    /// timer: it knows the last handshake timestamp of the peer, by which replayed initiations are
    /// refused (WireGuard paper §5.1).
    pub(super) fn tick_session(&mut self, id: NodeId, now: Instant) {
        let renew = self.config.rekey_after.filter(|_| self.in_use(id, now));
        let Some(state) = self.peers.get_mut(id) else { return };
        let (tick, ready) = {
            let mut live = state.slot.lock();
            let Some(session) = live.session.as_mut() else { return };
            let mut tick = session.tick(now);
            let ready = session.is_ready(now) && !tick.expired;
            let old = renew.is_some_and(|after| session.last_handshake(now).is_some_and(|age| age >= after));
            if ready && old && tick.transmit.is_none() {
                tick.transmit = session.initiate(now);
            }
            (tick, ready)
        };
        if let Some(message) = tick.transmit {
            let choice = state.paths.choice();
            let initiation = MessageKind::of(&message) == MessageKind::Initiation;
            let relay = state.paths.over_relay().filter(|_| initiation);
            let mut ways: Vec<_> = choice.to.into_iter().chain(choice.also).chain(relay).collect();
            ways.sort_unstable();
            ways.dedup();
            for to in ways {
                self.send(to, message.clone());
            }
        }
        if ready {
            self.became_ready(id, now);
        } else {
            self.session_lost(id, tick.expired, now);
        }
        if !tick.expired {
            self.timers.set(Timer::Session(id), now + TICK);
            self.keep_company(id, now);
        }
    }

    fn session_lost(&mut self, id: NodeId, all_of_it: bool, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        if state.up {
            state.up = false;
            self.events.push_back(Event::PeerDown(id));
        }
        if all_of_it {
            let attempting = state.attempt.is_some();
            // A plain WireGuard peer stays where it was last: there is no other way to find it.
            if state.is_meshd() {
                state.paths.reset();
                state.told = None;
                self.sync_path(id, Some(PathReason::Gone), now);
            }
            if attempting {
                self.make_session(id, now);
            }
        }
    }

    /// What a peer in use needs now and then.
    fn keep_company(&mut self, id: NodeId, now: Instant) {
        let Some(state) = self.peers.get(id) else { return };
        if state.activity(self.epoch).idle_for(now) >= RECENT {
            return;
        }
        if state.is_meshd() {
            self.timers.set_earlier(Timer::Path(id), now + SOON);
        }
        if state.activity(self.epoch).idle_for(now) < INTEREST {
            self.show_interest(id, now);
        }
        self.refresh_stun(now);
    }
}
