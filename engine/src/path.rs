//! Which way data to one peer goes.
//!
//! Data goes over a relay until a direct path is *proved*: by a pong to our own ping, or by the answer
//! to our own handshake initiation. Probes promote, silence demotes. While a direct path is in doubt,
//! data goes both ways; the switch is make-before-break, and nothing here ever touches a session.
//!
//! `Paths` is pure: it is told what happened and says which endpoints to ping and when to be asked
//! again. It never holds more than [`MAX_PER_FAMILY`] candidates of a family from a peer's list and as
//! many that were learned from the peer's own authenticated datagrams.

pub mod birthday;
pub mod candidate;
pub mod probe;
pub mod replay;
mod watch;

pub(crate) use watch::Look;

use crate::data::PathChoice;
use crate::event::{Destination, PathReason};
use candidate::{Candidate, Origin, Standing};
use meshd_proto::{Endpoint, NodeKey, RelayId};
use probe::TxId;
use std::time::{Duration, Instant};

/// Candidates of one address family that are tried, per peer and kind of origin (DESIGN §6).
pub const MAX_PER_FAMILY: usize = 8;
/// Without an answer to what was sent for this long, or three round trips, a path is doubtful. Shorter
/// would punish a Wi-Fi that sleeps, longer is heard in a call.
pub const DOUBT_AFTER: Duration = Duration::from_millis(300);
/// Without an answer to our own pings for this long, or three round trips, a path is doubtful although the
/// peer is heard on it: it may carry one way only. Longer than [`DOUBT_AFTER`], since what is heard says
/// that a loaded machine answers late more often than a path dies in one direction.
pub const DEAF_AFTER: Duration = Duration::from_millis(600);
/// So many pings are sent in [`DEAF_AFTER`]: all of them lost is rare even where every third datagram is.
pub const DEAF_PINGS: u32 = 6;
/// A proof older than this is renewed while data is sent: what is heard is no proof that we are.
pub const PROOF_AGE: Duration = Duration::from_millis(400);
/// Data this young is being sent.
pub const TRAFFIC: Duration = Duration::from_secs(1);
/// Without an answer for this long it is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(3);
/// A proved path under traffic is measured this often.
pub const PING_BUSY: Duration = Duration::from_secs(5);
/// A proved path with traffic in the last [`RECENT`] is kept open this often: below the 30 s after
/// which the most impatient NATs forget (RFC 4787 asks for 2 minutes).
pub const PING_RECENT: Duration = Duration::from_secs(20);
/// Over a relay that gives no answers the peer is asked this often.
pub const PING_LOST: Duration = Duration::from_secs(1);
/// A proof this young counts when another path is looked for.
pub const FRESH: Duration = Duration::from_secs(30);
/// Traffic this young counts as now.
pub const BUSY: Duration = Duration::from_secs(10);
/// Traffic this young keeps the path open.
pub const RECENT: Duration = Duration::from_secs(120);
/// Another path is taken only if it is faster by this part…
pub const HYSTERESIS_PERCENT: u32 = 20;
/// …which is more than this, or by [`HYSTERESIS`]: below it is noise.
pub const HYSTERESIS_FLOOR: Duration = Duration::from_millis(1);
/// See [`HYSTERESIS_FLOOR`].
pub const HYSTERESIS: Duration = Duration::from_millis(10);
/// How often a path in use is looked at: three looks before it is doubtful.
const LOOK_BUSY: Duration = Duration::from_millis(100);
/// The same with recent traffic only.
const LOOK_RECENT: Duration = Duration::from_secs(1);

/// The way that is selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    None,
    Relay,
    Direct { endpoint: Endpoint, health: Health },
}

/// How a selected direct path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Proved, and answering.
    Good,
    /// Selected because there is nothing better; not proved.
    Unproved,
    /// Sent something, no answer.
    Doubtful,
    /// Not used for a while: who knows.
    Idle,
}

/// When something last went either way. Times of data, not of probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    pub(crate) sent: Option<Instant>,
    pub(crate) received: Option<Instant>,
    /// Received on the selected direct path.
    pub(crate) received_direct: Option<Instant>,
    /// Received at all, keepalives included.
    pub(crate) heard: Option<Instant>,
}

impl Activity {
    /// For how long no data went either way.
    pub(crate) fn idle_for(&self, now: Instant) -> Duration {
        let last = self.sent.max(self.received);
        last.map_or(Duration::MAX, |at| now.saturating_duration_since(at))
    }
}

/// The paths to one peer.
#[derive(Debug)]
pub(crate) struct Paths {
    key: NodeKey,
    pub(crate) candidates: Vec<Candidate>,
    way: Way,
    /// The relay to use, if one is usable.
    relay: Option<RelayId>,
    /// The one to use as well, while that one is silent.
    spare: Option<RelayId>,
    pub(crate) reason: PathReason,
    /// Since when an answer is missing.
    waiting: Option<Instant>,
    /// Since when no way at all has given an answer.
    lost: Option<Instant>,
    /// When a probe was last answered, any way.
    answered: Option<Instant>,
    relay_pings: Vec<(TxId, Instant)>,
    pub(crate) relay_rtt: Option<Duration>,
}

impl Paths {
    pub(crate) const fn new(key: NodeKey) -> Self {
        Self {
            key,
            candidates: Vec::new(),
            way: Way::None,
            relay: None,
            spare: None,
            reason: PathReason::First,
            waiting: None,
            lost: None,
            answered: None,
            relay_pings: Vec::new(),
            relay_rtt: None,
        }
    }

    pub(crate) const fn way(&self) -> Way {
        self.way
    }

    pub(crate) const fn relay(&self) -> Option<RelayId> {
        self.relay
    }

    /// Over the relay, if one is usable.
    pub(crate) fn over_relay(&self) -> Option<Destination> {
        self.relay.map(|relay| Destination::Relay { relay, peer: self.key })
    }

    /// Over the other relay, while the first is silent.
    pub(crate) fn over_spare(&self) -> Option<Destination> {
        self.spare.map(|relay| Destination::Relay { relay, peer: self.key })
    }

    /// What the data threads shall do.
    pub(crate) fn choice(&self) -> PathChoice {
        match self.way {
            Way::None => PathChoice::default(),
            Way::Relay => PathChoice { to: self.over_relay(), also: self.over_spare() },
            Way::Direct { endpoint, health } => {
                let relay = || self.over_spare().or_else(|| self.over_relay());
                let also = if health == Health::Good { None } else { relay() };
                PathChoice { to: Some(Destination::Udp(endpoint)), also }
            }
        }
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.way {
            Way::None => None,
            Way::Relay => self.relay_rtt,
            Way::Direct { endpoint, .. } => self.candidate(endpoint).and_then(|c| c.rtt),
        }
    }

    fn candidate(&self, endpoint: Endpoint) -> Option<&Candidate> {
        self.candidates.iter().find(|c| c.endpoint == endpoint)
    }

    fn candidate_mut(&mut self, endpoint: Endpoint) -> Option<&mut Candidate> {
        self.candidates.iter_mut().find(|c| c.endpoint == endpoint)
    }

    /// Takes the endpoints that a peer's list names (already checked by the caller) in place of those
    /// of the same origin. Returns whether there is a new one.
    pub(crate) fn set_list(&mut self, origin: Origin, list: &[Endpoint], now: Instant) -> bool {
        let in_use = self.selected();
        self.candidates.retain(|c| {
            c.origin != origin
                || list.contains(&c.endpoint)
                || Some(c.endpoint) == in_use
                || matches!(c.standing, Standing::Proved { .. })
        });
        let before = self.candidates.len();
        for endpoint in list {
            self.add(*endpoint, origin, now);
        }
        self.candidates.len() > before
    }

    /// Adds one candidate, if there is room in its family: for what lists name, and for what was learned.
    /// A learned one may take the place of the oldest learned one, one that the peer names that of a
    /// hint, if that is neither proved nor in use.
    pub(crate) fn add(&mut self, endpoint: Endpoint, origin: Origin, now: Instant) -> bool {
        if self.candidate(endpoint).is_some() {
            return false;
        }
        let in_use = self.selected();
        let learned = origin == Origin::Learned;
        let same = |c: &Candidate| {
            (c.origin == Origin::Learned) == learned && c.endpoint.0.is_ipv4() == endpoint.0.is_ipv4()
        };
        if self.candidates.iter().filter(|c| same(c)).count() >= MAX_PER_FAMILY {
            // The peer itself knows better than the hint, and what it does now better than before.
            let replaceable = |c: &Candidate| {
                same(c)
                    && origin != Origin::Hint
                    && (learned || c.origin == Origin::Hint)
                    && !matches!(c.standing, Standing::Proved { .. })
                    && Some(c.endpoint) != in_use
            };
            match self.candidates.iter().position(replaceable) {
                Some(i) => drop(self.candidates.remove(i)),
                None => return false,
            }
        }
        self.candidates.push(Candidate::new(endpoint, origin, now));
        true
    }

    /// An authentic datagram came from `endpoint`: a candidate that is tried at once, unless it is proved
    /// or being tried. Returns whether there is something to do.
    pub(crate) fn hear(&mut self, endpoint: Endpoint, now: Instant) -> bool {
        if self.add(endpoint, Origin::Learned, now) {
            return true;
        }
        match self.candidate_mut(endpoint) {
            Some(c) if matches!(c.standing, Standing::Silent { .. }) => {
                c.restart(now);
                true
            }
            // The peer's ping got through: the next one of ours will, too.
            Some(c) => c.hasten(now),
            None => false,
        }
    }

    /// Tries all unproved candidates again, from the beginning.
    pub(crate) fn restart(&mut self, now: Instant) {
        for (i, candidate) in self.candidates.iter_mut().enumerate() {
            if !matches!(candidate.standing, Standing::Proved { .. }) {
                candidate.restart(now + candidate::PACE * u32::try_from(i).unwrap_or_default());
            }
        }
    }

    /// Tries one endpoint again, from the beginning: it is reached in another way now.
    pub(crate) fn retry(&mut self, endpoint: Endpoint, now: Instant) {
        if let Some(candidate) = self.candidate_mut(endpoint) {
            candidate.restart(now);
        }
    }

    /// Whether the selected way is a direct one that answers, or did until a moment ago.
    pub(crate) const fn holds_direct(&self) -> bool {
        matches!(self.way, Way::Direct { health: Health::Good | Health::Doubtful, .. })
    }

    /// The link changed: what was proved must be proved again, and until then data goes both ways.
    pub(crate) fn link_changed(&mut self, now: Instant) -> Option<PathReason> {
        self.candidates.iter_mut().for_each(|c| c.restart(now));
        let Way::Direct { endpoint, health: health @ (Health::Good | Health::Doubtful) } = self.way else {
            return None;
        };
        self.waiting = Some(now);
        if health == Health::Doubtful {
            return None;
        }
        self.way = Way::Direct { endpoint, health: Health::Doubtful };
        Some(self.because(PathReason::Doubtful))
    }

    /// The usable relay is `relay` from now on.
    pub(crate) fn set_relay(&mut self, relay: Option<RelayId>, spare: Option<RelayId>) -> Option<PathReason> {
        let spared = std::mem::replace(&mut self.spare, spare);
        if self.relay == relay {
            return match (spared == spare, spare) {
                (true, _) => None,
                (false, Some(_)) => Some(PathReason::RelayDoubtful),
                (false, None) => Some(PathReason::RelayRecovered),
            };
        }
        self.relay = relay;
        self.relay_rtt = None;
        self.relay_pings.clear();
        match (self.way, relay) {
            (Way::None, Some(_)) => {
                self.way = Way::Relay;
                Some(self.because(PathReason::First))
            }
            (Way::Relay, None) => {
                self.way = Way::None;
                Some(self.because(PathReason::RelayChanged))
            }
            (Way::Relay, Some(_)) => Some(self.because(PathReason::RelayChanged)),
            (Way::Direct { .. }, _) => Some(PathReason::RelayChanged),
            (Way::None, None) => None,
        }
    }

    /// An authenticated handshake came straight from `endpoint` and there is no other way yet.
    pub(crate) fn take_unproved(&mut self, endpoint: Endpoint) -> Option<PathReason> {
        if self.way != Way::None {
            return None;
        }
        self.way = Way::Direct { endpoint, health: Health::Unproved };
        Some(self.because(PathReason::First))
    }

    /// A plain WireGuard peer is where its last authenticated packet came from.
    pub(crate) fn roam(&mut self, endpoint: Endpoint) -> Option<PathReason> {
        let way = Way::Direct { endpoint, health: Health::Good };
        if self.way == way {
            return None;
        }
        let first = self.way == Way::None;
        self.way = way;
        Some(self.because(if first { PathReason::First } else { PathReason::Roamed }))
    }

    /// A ping was sent.
    pub(crate) fn pinged(&mut self, to: Destination, txid: TxId, now: Instant) {
        match to {
            Destination::Udp(endpoint) => {
                if let Some(candidate) = self.candidate_mut(endpoint) {
                    candidate.pinged(txid, now);
                }
            }
            Destination::Relay { .. } => {
                self.relay_pings.truncate(3);
                self.relay_pings.insert(0, (txid, now));
            }
        }
    }

    /// Whether a ping with `txid` has not been answered.
    pub(crate) fn is_open(&self, txid: TxId) -> bool {
        self.candidates.iter().any(|c| c.is_open(txid)) || self.relay_pings.iter().any(|(id, _)| *id == txid)
    }

    /// A pong came. Returns the round-trip time if it answers a ping of ours that went that way.
    pub(crate) fn ponged(&mut self, from: Destination, txid: TxId, now: Instant) -> Option<Duration> {
        let rtt = match from {
            Destination::Udp(endpoint) => self.candidate_mut(endpoint)?.ponged(txid, now)?,
            Destination::Relay { .. } => {
                // Each counts once: an open question is what makes a stranger known.
                let open = self.relay_pings.iter().position(|(id, _)| *id == txid)?;
                let (_, at) = self.relay_pings.remove(open);
                let rtt = now.saturating_duration_since(at);
                self.relay_rtt = Some(rtt);
                rtt
            }
        };
        self.answered = Some(now);
        Some(rtt)
    }

    /// Our handshake initiation was answered straight from `endpoint`: as good as a pong.
    pub(crate) fn proved_by_handshake(&mut self, endpoint: Endpoint, rtt: Duration, now: Instant) {
        self.add(endpoint, Origin::Learned, now);
        if let Some(candidate) = self.candidate_mut(endpoint) {
            candidate.prove_roughly(rtt, now);
        }
    }

    /// `proved` has just answered: take it, or another proved one, if that is better than the selected
    /// way by more than noise.
    pub(crate) fn select(&mut self, proved: Endpoint, now: Instant) -> Option<PathReason> {
        let (endpoint, why) = match self.way {
            Way::None => (self.best(None, now)?, PathReason::First),
            Way::Relay => (self.best(None, now)?, PathReason::Proved),
            Way::Direct { endpoint: current, health: Health::Good } => {
                let old = self.candidate(current).and_then(Candidate::base_rtt);
                let best = self.best(Some(current), now)?;
                let new = self.candidate(best)?.base_rtt()?;
                if old.is_some_and(|old| !is_better(new, old)) {
                    return None;
                }
                (best, PathReason::Better)
            }
            Way::Direct { endpoint: current, health } => match (current == proved, health) {
                (true, Health::Unproved) => (current, PathReason::Proved),
                (true, Health::Good | Health::Doubtful | Health::Idle) => (current, PathReason::Recovered),
                (false, _) => (proved, PathReason::Better),
            },
        };
        self.way = Way::Direct { endpoint, health: Health::Good };
        self.waiting = None;
        Some(self.because(why))
    }

    /// The fastest candidate that was proved lately, without `except`.
    fn best(&self, except: Option<Endpoint>, now: Instant) -> Option<Endpoint> {
        let fresh = |c: &Candidate| c.answered.is_some_and(|at| now.saturating_duration_since(at) < FRESH);
        let proved = self.candidates.iter().filter(|c| matches!(c.standing, Standing::Proved { .. }));
        let others = proved.filter(|c| Some(c.endpoint) != except && fresh(c));
        others.min_by_key(|c| (c.base_rtt(), c.endpoint)).map(|c| c.endpoint)
    }

    /// Everything ended: session gone, peer idle.
    pub(crate) fn reset(&mut self) {
        self.candidates.retain(|c| c.origin != Origin::Learned);
        self.way = if self.relay.is_some() { Way::Relay } else { Way::None };
        self.waiting = None;
        self.lost = None;
        self.reason = PathReason::Gone;
    }

    /// The endpoint of the selected direct path.
    pub(crate) const fn selected(&self) -> Option<Endpoint> {
        match self.way {
            Way::Direct { endpoint, .. } => Some(endpoint),
            Way::None | Way::Relay => None,
        }
    }

    const fn because(&mut self, why: PathReason) -> PathReason {
        self.reason = why;
        why
    }
}

pub(crate) fn is_better(new: Duration, old: Duration) -> bool {
    let part = old * HYSTERESIS_PERCENT / 100;
    new + part.max(HYSTERESIS_FLOOR).min(HYSTERESIS) < old
}

#[cfg(test)]
mod tests;
