//! The look at a peer's paths: whom to ping, and whether the selected way still answers.

use super::candidate::Candidate;
use super::{
    Activity, BUSY, DEAD_AFTER, DEAF_AFTER, DEAF_PINGS, DOUBT_AFTER, Health, LOOK_BUSY, LOOK_RECENT,
    PING_BUSY, PING_LOST, PING_RECENT, PROOF_AGE, Paths, RECENT, TRAFFIC, Way,
};
use crate::event::PathReason;
use meshd_proto::Endpoint;
use std::time::{Duration, Instant};

/// What is to be done after a look.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) ping: Vec<Endpoint>,
    /// Ping over the relay.
    pub(crate) ping_relay: bool,
    /// Whether the peer answers at all, where that is known.
    pub(crate) reachable: Option<bool>,
    pub(crate) change: Option<PathReason>,
    /// Endpoints that did not answer any of their tries.
    pub(crate) silent: Vec<Endpoint>,
    /// The path died: exchange candidates anew.
    pub(crate) exchange: bool,
    pub(crate) next: Option<Instant>,
}

impl Paths {
    /// Looks at the time: who is to be pinged, is the selected path still good?
    pub(crate) fn look(&mut self, activity: Activity, now: Instant) -> Look {
        let mut look = Look::default();
        let last = activity.idle_for(now);
        if let Way::Direct { endpoint, health } = self.way {
            look.change = self.judge(endpoint, health, activity, &mut look.ping, &mut look.exchange, now);
        }
        let selected = self.selected();
        for candidate in &mut self.candidates {
            let is_selected = Some(candidate.endpoint) == selected;
            let keep = match (is_selected, last) {
                (true, l) if l < BUSY => Some(PING_BUSY),
                (_, l) if l < RECENT => Some(PING_RECENT),
                _ => None,
            };
            let was_silent = candidate.is_silent();
            if candidate.due(keep, now) && !look.ping.contains(&candidate.endpoint) {
                look.ping.push(candidate.endpoint);
            }
            if candidate.is_silent() && !was_silent {
                look.silent.push(candidate.endpoint);
            }
        }
        self.watch(activity, &mut look, now);
        look.next = self.next_look(activity, now);
        look
    }

    /// Watches whether the peer answers on any way at all.
    fn watch(&mut self, activity: Activity, look: &mut Look, now: Instant) {
        let heard = activity.heard.max(self.answered);
        if activity.sent <= heard {
            self.lost = None;
            look.reachable = heard.map(|_| true);
            return;
        }
        let since = unanswered_since(self.lost, heard, now);
        self.lost = Some(since);
        let lost = now.saturating_duration_since(since);
        let good = matches!(self.way, Way::Direct { health: Health::Good, .. });
        let asked = self.relay_pings.first().map(|(_, at)| now.saturating_duration_since(*at));
        look.ping_relay =
            !good && self.relay.is_some() && lost >= DOUBT_AFTER && asked.is_none_or(|t| t >= PING_LOST);
        if lost >= DEAD_AFTER {
            look.reachable = Some(false);
        }
    }

    /// When to look again.
    pub(crate) fn next_look(&self, activity: Activity, now: Instant) -> Option<Instant> {
        let last = activity.idle_for(now);
        let own = match self.way {
            Way::None => None,
            Way::Direct { endpoint, health: Health::Good } if last >= RECENT => {
                Some(self.idle_at(endpoint, activity, now).saturating_duration_since(now))
            }
            _ if last >= RECENT => None,
            Way::Direct { .. } if last < BUSY || self.waiting.is_some() => Some(LOOK_BUSY),
            Way::Relay if self.lost.is_some() || last < BUSY => Some(DOUBT_AFTER),
            Way::Direct { .. } | Way::Relay => Some(LOOK_RECENT),
        };
        let own = own.map(|wait| now + wait);
        let tries = self.candidates.iter().filter_map(Candidate::next_try);
        tries.chain(own).min()
    }

    /// When a good path counts as idle: after neither data nor a proof for a while.
    fn idle_at(&self, endpoint: Endpoint, activity: Activity, now: Instant) -> Instant {
        let proved = self.candidate(endpoint).and_then(|c| c.answered);
        let last = activity.sent.max(activity.received).max(proved);
        last.map_or(now, |at| at + RECENT)
    }

    /// Judges the selected direct path.
    fn judge(
        &mut self,
        endpoint: Endpoint,
        health: Health,
        activity: Activity,
        ping: &mut Vec<Endpoint>,
        exchange: &mut bool,
        now: Instant,
    ) -> Option<PathReason> {
        let candidate = self.candidate(endpoint)?;
        let (rtt, asked, answered) =
            (candidate.rtt.unwrap_or_default(), candidate.asked(), candidate.answered);
        let heard = activity.received_direct.max(answered);
        let doubtful = health == Health::Doubtful;
        // Nothing was heard since the doubt began: what came before it proves nothing.
        let unproved = doubtful && self.waiting.is_some_and(|since| heard <= Some(since));
        let deaf = self.deaf_since(candidate, health, now);
        let recently = |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < TRAFFIC);
        let stale = answered.is_none_or(|at| now.saturating_duration_since(at) >= PROOF_AGE);
        if matches!(health, Health::Good | Health::Doubtful)
            && stale
            && recently(activity.sent)
            && asked.is_none_or(|at| now.saturating_duration_since(at) >= deaf_after(rtt) / DEAF_PINGS)
        {
            ping.push(endpoint);
        }
        let unanswered =
            activity.sent > heard || asked.is_some_and(|at| Some(at) > heard) || unproved || deaf.is_some();
        if !unanswered {
            self.waiting = None;
            if doubtful && heard.is_some() {
                self.way = Way::Direct { endpoint, health: Health::Good };
                return Some(self.because(PathReason::Recovered));
            }
            if health == Health::Good && self.idle_at(endpoint, activity, now) <= now {
                self.way = Way::Direct { endpoint, health: Health::Idle };
                return Some(self.because(PathReason::Idle));
            }
            return None;
        }
        let since = unanswered_since(self.waiting, heard, now);
        self.waiting = Some(since);
        let since = deaf.map_or(since, |deaf| deaf.min(since));
        let waited = now.saturating_duration_since(since);
        let doubt = DOUBT_AFTER.max(rtt * 3);
        // Ask before doubting: traffic in one direction has no answers of its own.
        let due = asked.is_none_or(|at| now.saturating_duration_since(at) >= doubt * 2 / 3);
        if due && waited >= LOOK_BUSY && !ping.contains(&endpoint) {
            ping.push(endpoint);
        }
        if waited >= DEAD_AFTER.max(rtt * 6) {
            *exchange = true;
            return self.give_up(endpoint, now);
        }
        if waited >= doubt && matches!(health, Health::Good) {
            self.way = Way::Direct { endpoint, health: Health::Doubtful };
            return Some(self.because(PathReason::Doubtful));
        }
        None
    }

    /// Since when our own pings are not answered, if that is too long: the peer may be heard all the same,
    /// but does not hear us.
    fn deaf_since(&self, candidate: &Candidate, health: Health, now: Instant) -> Option<Instant> {
        let after = deaf_after(candidate.rtt.unwrap_or_default());
        candidate
            .missing()
            .filter(|_| matches!(health, Health::Good | Health::Doubtful))
            .filter(|since| now.saturating_duration_since(*since) >= after)
    }

    /// The selected direct path is dead: another one, else the relay, else hope.
    fn give_up(&mut self, endpoint: Endpoint, now: Instant) -> Option<PathReason> {
        self.waiting = None;
        let before = self.way;
        if let Some(candidate) = self.candidate_mut(endpoint) {
            candidate.restart(now);
        }
        self.restart(now);
        self.way = match (self.best(Some(endpoint), now), self.relay) {
            (Some(endpoint), _) => Way::Direct { endpoint, health: Health::Unproved },
            (None, Some(_)) => Way::Relay,
            (None, None) => Way::Direct { endpoint, health: Health::Unproved },
        };
        (self.way != before).then(|| self.because(PathReason::Dead))
    }
}

fn deaf_after(rtt: Duration) -> Duration {
    DEAF_AFTER.max(rtt * 3)
}

/// Since when an answer is missing: since it was first missed, or since the last one if that came later
/// (traffic in one direction goes on while answers come).
fn unanswered_since(before: Option<Instant>, heard: Option<Instant>, now: Instant) -> Instant {
    before.map_or(now, |since| heard.map_or(since, |heard| since.max(heard)))
}
