//! Routers that share a prefix: the ones in use are probed, so that flows move within a second when one
//! dies, loses its LAN, or is being drained. The coordinator is not in the loop.
//!
//! Only what this node itself measured moves its flows; while nothing goes to a shared prefix, nothing is
//! probed. A router that died is asked again once a second while the prefix is in use; any authentic
//! datagram of it brings it back, and only new flows go to it then.

use super::{Engine, Timer};
use crate::path::probe::{Content, Fitness, TxId};
use crate::session::SessionFactory;
use meshd_proto::NodeId;
use std::time::{Duration, Instant};

/// How often a router in use is probed.
pub(super) const PROBE: Duration = Duration::from_millis(200);
/// Unanswered for this long, or three round trips: dead. Three probes.
const DEAD: Duration = Duration::from_millis(600);
/// How often the others that share its prefix are asked.
const STANDBY: Duration = Duration::from_secs(1);
/// Something was sent to a router this lately: it is in use.
const IN_USE: Duration = Duration::from_secs(3);
/// A prefix counts as in use for this long.
const PREFIX_IN_USE: Duration = Duration::from_secs(30);
/// How often a standby without a session is offered one.
const WARM: Duration = Duration::from_secs(20);
/// Probes that wait for an answer.
const MAX_OPEN: usize = 16;

/// The groups of peers that share a prefix.
#[derive(Debug, Default)]
pub(super) struct Owners {
    groups: Vec<Vec<NodeId>>,
}

impl Owners {
    /// The owners of one prefix each, in order of preference. Those that stand alone are not watched.
    pub(super) fn new(prefixes: impl IntoIterator<Item = Vec<NodeId>>) -> Self {
        let mut groups: Vec<_> = prefixes.into_iter().filter(|owners| owners.len() > 1).collect();
        groups.sort_unstable();
        groups.dedup();
        Self { groups }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

/// What one router's answers say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Duty {
    /// Not answered yet, oldest first.
    open: Vec<(TxId, Instant)>,
    asked: Option<Instant>,
    warmed: Option<Instant>,
    rtt: Duration,
    /// It did not answer.
    pub(crate) dead: bool,
}

impl Duty {
    /// An answer to one of the probes, any way.
    pub(crate) fn answered(&mut self, txid: TxId, now: Instant) {
        if let Some(i) = self.open.iter().position(|(id, _)| *id == txid) {
            self.rtt = now.saturating_duration_since(self.open[i].1);
            self.open.drain(..=i);
            self.dead = false;
        }
    }

    /// Whether a probe with `txid` has not been answered.
    pub(crate) fn is_open(&self, txid: TxId) -> bool {
        self.open.iter().any(|(id, _)| *id == txid)
    }

    fn asked(&mut self, txid: TxId, now: Instant) {
        self.asked = Some(now);
        if self.open.len() >= MAX_OPEN {
            self.open.remove(1);
        }
        self.open.push((txid, now));
    }

    /// Since when an answer is missing, if nothing was heard since.
    fn missing(&self, heard: Option<Instant>) -> Option<Instant> {
        self.open.iter().map(|(_, at)| *at).find(|at| heard.is_none_or(|heard| heard < *at))
    }

    fn is_due(&self, every: Duration, now: Instant) -> bool {
        self.asked.is_none_or(|at| now.saturating_duration_since(at) >= every)
    }
}

impl<F: SessionFactory> Engine<F> {
    /// The host has found out whether it can carry flows for others. Those who use it hear it at once.
    pub(super) fn set_fitness(&mut self, fitness: Fitness, now: Instant) {
        if std::mem::replace(&mut self.fitness, fitness) == fitness {
            return;
        }
        for id in self.peers.ids() {
            let Some(choice) = self.peers.get(id).map(|s| s.paths.choice()) else { continue };
            if self.is_ready(id, now) && self.in_use(id, now) {
                for to in choice.to.into_iter().chain(choice.also) {
                    self.ping(id, to, now);
                }
            }
        }
    }

    /// A peer says whether it is fit.
    pub(super) fn heard_fitness(&mut self, id: NodeId, fitness: Fitness, _now: Instant) {
        let Some(state) = self.peers.get(id) else { return };
        if state.slot.fitness() != fitness {
            tracing::debug!(peer = %id, ?fitness, "a router says how it is");
            state.slot.set_fitness(fitness);
        }
    }

    /// Something begins with a router that shares a prefix.
    pub(super) fn watch_owners(&mut self, now: Instant) {
        if !self.owners.is_empty() {
            self.timers.set_earlier(Timer::Owners, now + super::SOON);
        }
    }

    /// Probes what is due and judges what is missing.
    pub(super) fn look_at_owners(&mut self, now: Instant) {
        let groups = self.owners.groups.clone();
        let (mut any_session, mut any_use) = (false, false);
        for group in groups {
            let idle = |e: &Self, id: NodeId| {
                let sent = e.peers.get(id).and_then(|s| s.activity(e.epoch).sent);
                sent.map_or(Duration::MAX, |at| now.saturating_duration_since(at))
            };
            let waiting = |e: &Self, id: NodeId| e.peers.get(id).is_some_and(|s| !s.queue.is_empty());
            any_session |= group.iter().any(|id| self.is_ready(*id, now));
            if !group.iter().any(|id| idle(self, *id) < PREFIX_IN_USE || waiting(self, *id)) {
                continue;
            }
            any_use = true;
            for id in group {
                let every = if idle(self, id) < IN_USE { PROBE } else { STANDBY };
                self.judge_owner(id, now);
                self.probe_owner(id, every, now);
            }
        }
        let pause = if any_use { PROBE } else { STANDBY };
        if any_session || any_use {
            self.timers.set(Timer::Owners, now + pause);
        }
    }

    fn judge_owner(&mut self, id: NodeId, now: Instant) {
        let Some(state) = self.peers.get_mut(id) else { return };
        let heard = state.activity(self.epoch).heard;
        let patience = DEAD.max(state.duty.rtt * 3);
        let missing = state.duty.missing(heard);
        if missing.is_none_or(|since| now.saturating_duration_since(since) < patience) {
            return;
        }
        if !state.duty.dead {
            tracing::debug!(peer = %id, "a router that shares a prefix does not answer");
        }
        state.duty.dead = true;
        state.duty.open.clear();
        if state.slot.is_alive() {
            state.slot.set_alive(false);
            self.reroute_queue(id, now);
        }
    }

    fn probe_owner(&mut self, id: NodeId, every: Duration, now: Instant) {
        let ready = self.is_ready(id, now);
        let Some(state) = self.peers.get_mut(id).filter(|s| s.is_meshd()) else { return };
        if !ready {
            // Warm: a handshake now, not when the other one has died.
            let cold = state.duty.warmed.is_none_or(|at| now.saturating_duration_since(at) >= WARM);
            if cold && state.attempt.is_none() {
                state.duty.warmed = Some(now);
                self.begin(id, now);
            }
            return;
        }
        if !state.duty.is_due(every, now) {
            return;
        }
        let txid = TxId(self.entropy.bytes());
        let choice = state.paths.choice();
        let in_doubt = !state.duty.open.is_empty();
        state.duty.asked(txid, now);
        // What is missing may be the path, not the router.
        let relay = state.paths.over_relay().filter(|_| in_doubt);
        let mut ways: Vec<_> = choice.to.into_iter().chain(choice.also).chain(relay).collect();
        ways.sort_unstable();
        ways.dedup();
        for to in ways {
            self.send_probe(id, to, txid, Content::Ping, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::start;

    #[test]
    fn what_is_missing_begins_with_the_oldest_probe_without_any_later_sign_of_life() {
        let (mut duty, t) = (Duty::default(), start());
        let at = |n: u64| t + Duration::from_millis(200 * n);
        for n in 0..4_u8 {
            duty.asked(TxId([n; 12]), at(n.into()));
        }
        assert_eq!(duty.missing(None), Some(at(0)));
        assert_eq!(duty.missing(Some(at(1))), Some(at(2)), "data is a sign of life, too");
        duty.answered(TxId([2; 12]), at(4));
        assert_eq!((duty.missing(None), duty.rtt), (Some(at(3)), Duration::from_millis(400)));
        duty.answered(TxId([9; 12]), at(5));
        assert_eq!(duty.missing(None), Some(at(3)), "not an answer to a probe of ours");
    }

    #[test]
    fn prefixes_with_one_owner_are_not_watched() {
        let (a, b) = (NodeId(1), NodeId(2));
        assert!(Owners::new([vec![a], vec![b]]).is_empty());
        assert_eq!(Owners::new([vec![a, b], vec![a], vec![a, b]]).groups, [vec![a, b]]);
    }
}
