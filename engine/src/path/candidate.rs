//! One endpoint of a peer that may become a path.

use super::probe::TxId;
use meshd_proto::{Endpoint, MeshPrefixes, Prefix};
use std::time::{Duration, Instant};

/// Pings to an endpoint that has not answered yet, after the first. The early ones meet the peer's own
/// pings in the NATs; after the last it stays silent for a while.
pub const TRIES: [Duration; 6] = [
    Duration::from_millis(150),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(1500),
    Duration::from_millis(2500),
];
/// How long a silent endpoint is left alone.
pub const SILENCE: Duration = Duration::from_secs(60);
/// Between the first pings to different endpoints of one peer.
pub const PACE: Duration = Duration::from_millis(5);
/// Unanswered pings after which a proved endpoint that is not in use is no longer proved.
const MISSES: usize = 3;

/// How long the shortest round trip is remembered, at least.
pub const BASE_AGE: Duration = Duration::from_secs(150);

/// The shortest round trip of the last [`BASE_AGE`] to twice that: what a way takes without the queue that our own
/// traffic makes on it. A way in use is measured full and one that is not in use empty: compared by what they
/// measure now, the one in use would lose as soon as it is used, and each change lets packets overtake others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Base {
    since: Option<Instant>,
    least: Option<Duration>,
    before: Option<Duration>,
}

impl Base {
    fn learn(&mut self, rtt: Duration, now: Instant) {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= BASE_AGE) {
            *self = Self { since: Some(now), least: None, before: self.least };
        }
        self.least = Some(self.least.map_or(rtt, |least| least.min(rtt)));
    }

    fn get(&self) -> Option<Duration> {
        self.least.into_iter().chain(self.before).min()
    }
}

/// How an endpoint was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The coordinator's hint.
    Hint,
    /// The peer's own list.
    Exchanged,
    /// An authenticated datagram of the peer came from there.
    Learned,
}

impl Origin {
    /// For a person.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hint => "hint",
            Self::Exchanged => "exchanged",
            Self::Learned => "learned",
        }
    }
}

/// How an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Trying { attempts: usize, next: Instant },
    Proved { next: Instant },
    Silent { until: Instant },
}

/// One endpoint of a peer.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) endpoint: Endpoint,
    pub(crate) origin: Origin,
    pub(crate) standing: Standing,
    pub(crate) rtt: Option<Duration>,
    base: Base,
    /// The round-trip time was seen in a handshake, which may have waited for something: measure it.
    rough: bool,
    /// When it last answered.
    pub(crate) answered: Option<Instant>,
    /// Our last pings that were not answered, newest first.
    pings: Vec<(TxId, Instant)>,
    /// When the first of all pings since the last answer was sent; those in `pings` are only the newest.
    missing: Option<Instant>,
}

impl Candidate {
    pub(crate) fn new(endpoint: Endpoint, origin: Origin, now: Instant) -> Self {
        let standing = Standing::Trying { attempts: 0, next: now };
        Self {
            endpoint,
            origin,
            standing,
            rtt: None,
            base: Base::default(),
            rough: false,
            answered: None,
            pings: Vec::new(),
            missing: None,
        }
    }

    pub(crate) fn restart(&mut self, at: Instant) {
        self.standing = Standing::Trying { attempts: 0, next: at };
        self.missing = None;
        self.base = Base::default();
    }

    /// The round-trip time by which ways are compared: without the queue of our own traffic.
    pub(crate) fn base_rtt(&self) -> Option<Duration> {
        self.base.get().or(self.rtt)
    }

    /// Moves the next try to now, if one is waited for for long.
    pub(crate) fn hasten(&mut self, now: Instant) -> bool {
        match &mut self.standing {
            Standing::Trying { next, .. } if *next > now + TRIES[0] => {
                *next = now;
                true
            }
            Standing::Trying { .. } | Standing::Proved { .. } | Standing::Silent { .. } => false,
        }
    }

    /// Whether it is time to ping. `keep`: how often a proved one is pinged; `None`: not in use.
    pub(crate) fn due(&mut self, keep: Option<Duration>, now: Instant) -> bool {
        match self.standing {
            Standing::Trying { attempts, next } if next <= now => {
                if attempts > TRIES.len() {
                    self.standing = Standing::Silent { until: now + SILENCE };
                    return false;
                }
                true
            }
            Standing::Silent { until } if until <= now && keep.is_some() => {
                self.restart(now);
                true
            }
            Standing::Proved { next } => match keep {
                Some(_) if self.pings.len() >= MISSES && next <= now => {
                    self.restart(now);
                    true
                }
                _ if self.rough => next <= now,
                Some(every) => {
                    self.answered.is_none_or(|at| now.saturating_duration_since(at) >= every) && next <= now
                }
                None => false,
            },
            Standing::Trying { .. } | Standing::Silent { .. } => false,
        }
    }

    /// When an unproved one is due again.
    pub(crate) const fn next_try(&self) -> Option<Instant> {
        match self.standing {
            Standing::Trying { next, .. } => Some(next),
            Standing::Proved { .. } | Standing::Silent { .. } => None,
        }
    }

    pub(crate) fn pinged(&mut self, txid: TxId, now: Instant) {
        self.pings.truncate(7);
        self.pings.insert(0, (txid, now));
        self.missing.get_or_insert(now);
        self.standing = match self.standing {
            Standing::Trying { attempts, .. } => {
                let wait = TRIES.get(attempts).copied().unwrap_or(Duration::from_secs(3));
                Standing::Trying { attempts: attempts + 1, next: now + wait }
            }
            Standing::Proved { .. } => Standing::Proved { next: now + Duration::from_secs(1) },
            silent @ Standing::Silent { .. } => silent,
        };
    }

    pub(crate) fn ponged(&mut self, txid: TxId, now: Instant) -> Option<Duration> {
        let at = self.pings.iter().find(|(id, _)| *id == txid)?.1;
        let rtt = now.saturating_duration_since(at);
        self.pings.retain(|(_, sent)| *sent > at);
        self.missing = self.pings.last().map(|(_, sent)| *sent);
        self.rtt = Some(match self.rtt {
            Some(old) if !self.rough => (old * 3 + rtt) / 4,
            Some(_) | None => rtt,
        });
        self.rough = false;
        self.base.learn(rtt, now);
        self.answered = Some(now);
        self.standing = Standing::Proved { next: now + Duration::from_secs(1) };
        Some(rtt)
    }

    /// It answered a handshake `rtt` after that was sent.
    pub(crate) fn prove_roughly(&mut self, rtt: Duration, now: Instant) {
        self.rough |= self.rtt.is_none();
        self.rtt.get_or_insert(rtt);
        self.answered = Some(now);
        self.missing = None;
        self.standing = Standing::Proved { next: now };
    }

    /// Whether a ping with `txid` has not been answered.
    pub(crate) fn is_open(&self, txid: TxId) -> bool {
        self.pings.iter().any(|(id, _)| *id == txid)
    }

    /// Whether it answered none of its tries.
    pub(crate) const fn is_silent(&self) -> bool {
        matches!(self.standing, Standing::Silent { .. })
    }

    /// Since when pings are not answered.
    pub(crate) const fn missing(&self) -> Option<Instant> {
        self.missing
    }

    /// When the newest ping without an answer was sent.
    pub(crate) fn asked(&self) -> Option<Instant> {
        self.pings.first().map(|(_, at)| *at)
    }
}

/// What an endpoint may be, by whom it was named.
#[derive(Clone, Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) mesh: Option<MeshPrefixes>,
    pub(crate) advertised: &'a [Prefix],
    pub(crate) servers: Vec<Endpoint>,
    pub(crate) allow_loopback: bool,
}

impl Rules<'_> {
    /// Whether a peer's list may make us send there: not into what only this node reaches, nor to
    /// addresses where a datagram of ours means something else.
    pub(crate) fn allow_listed(&self, endpoint: Endpoint) -> bool {
        let ip = endpoint.0.ip();
        self.allow_learned(endpoint)
            && !self.advertised.iter().any(|p| !p.is_default() && p.net().contains(&ip))
            && !self.servers.contains(&endpoint)
    }

    /// Whether an endpoint that an authenticated datagram came from may be answered.
    pub(crate) fn allow_learned(&self, endpoint: Endpoint) -> bool {
        let ip = endpoint.0.ip();
        endpoint.is_sendable()
            && (self.allow_loopback || !ip.is_loopback())
            && !self.mesh.is_some_and(|m| m.contains(ip))
    }
}
