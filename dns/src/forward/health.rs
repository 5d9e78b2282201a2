//! Which upstream to ask first, and how long to wait before the next one is asked as well. Pure.
//!
//! The order given is the admin's or the host's and counts, but for an upstream that was late or failed
//! twice in a row: it goes to the end for a while, so that a black hole costs two hedges and then nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Before an upstream was heard, and at most: a question that the first one swallows is answered by the
/// second well within a quarter of a second.
const MAX_HEDGE: Duration = Duration::from_millis(150);
/// At least: a resolver's own jitter.
const MIN_HEDGE: Duration = Duration::from_millis(20);
/// Asked as well after so many times its usual time.
const HEDGE_FACTOR: u32 = 3;
/// Late or failing so often in a row puts it at the end.
const STRIKES: u8 = 2;
/// For so long; then it gets another try.
const SET_BACK: Duration = Duration::from_secs(30);
/// Most upstreams remembered; more than any view names.
const MAX_KNOWN: usize = 64;

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Smoothed time to an answer (RFC 6298 §2's weights).
    usual: Option<Duration>,
    strikes: u8,
    back_at: Option<Instant>,
}

/// What is known of upstreams.
#[derive(Debug, Default)]
pub struct Health {
    known: HashMap<SocketAddr, Known>,
}

impl Health {
    /// The order to ask in: indices into `upstreams`.
    pub fn order(&self, upstreams: &[SocketAddr], now: Instant) -> Vec<usize> {
        let mut order: Vec<usize> = (0..upstreams.len()).collect();
        order.sort_by_key(|index| self.is_set_back(upstreams[*index], now));
        order
    }

    /// Whether it goes to the end for now.
    pub fn is_set_back(&self, upstream: SocketAddr, now: Instant) -> bool {
        self.known.get(&upstream).is_some_and(|k| k.back_at.is_some_and(|at| now < at))
    }

    /// How long to wait for an upstream alone.
    pub fn patience(&self, upstream: SocketAddr) -> Duration {
        let usual = self.known.get(&upstream).and_then(|k| k.usual);
        usual.map_or(MAX_HEDGE, |usual| (usual * HEDGE_FACTOR).clamp(MIN_HEDGE, MAX_HEDGE))
    }

    /// It answered after `took`.
    pub fn answered(&mut self, upstream: SocketAddr, took: Duration) {
        let known = self.entry(upstream);
        known.usual = Some(known.usual.map_or(took, |usual| (usual * 7 + took) / 8));
        known.strikes = 0;
        known.back_at = None;
    }

    /// It failed, or another one that was asked later answered before it.
    pub fn missed(&mut self, upstream: SocketAddr, now: Instant) {
        let known = self.entry(upstream);
        known.strikes = known.strikes.saturating_add(1);
        if known.strikes >= STRIKES {
            known.back_at = Some(now + SET_BACK);
        }
    }

    fn entry(&mut self, upstream: SocketAddr) -> &mut Known {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&upstream) {
            self.known.clear();
        }
        self.known.entry(upstream).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 53))
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_order_given_counts_until_one_fails_twice() {
        let (mut health, now) = (Health::default(), start());
        let all = [addr(1), addr(2), addr(3)];
        assert_eq!(health.order(&all, now), [0, 1, 2]);
        health.missed(addr(1), now);
        assert_eq!(health.order(&all, now), [0, 1, 2], "once is chance");
        health.missed(addr(1), now);
        assert_eq!(health.order(&all, now), [1, 2, 0]);
        assert_eq!(health.order(&all, now + SET_BACK), [0, 1, 2], "tried again");
        health.missed(addr(1), now + SET_BACK);
        assert_eq!(health.order(&all, now + SET_BACK), [1, 2, 0], "one more is enough");
        health.answered(addr(1), Duration::from_millis(5));
        assert_eq!(health.order(&all, now + SET_BACK), [0, 1, 2]);
    }

    #[test]
    fn patience_follows_the_usual_time_within_bounds() {
        let mut health = Health::default();
        assert_eq!(health.patience(addr(1)), MAX_HEDGE);
        health.answered(addr(1), Duration::from_millis(1));
        assert_eq!(health.patience(addr(1)), MIN_HEDGE);
        health.answered(addr(2), Duration::from_millis(20));
        assert_eq!(health.patience(addr(2)), Duration::from_millis(60));
        health.answered(addr(3), Duration::from_secs(2));
        assert_eq!(health.patience(addr(3)), MAX_HEDGE);
    }

    #[test]
    fn memory_is_bounded() {
        let mut health = Health::default();
        for n in 0..10_000u16 {
            health.answered(SocketAddr::from(([10, 0, 0, 1], n)), Duration::ZERO);
        }
        assert!(health.known.len() <= MAX_KNOWN);
    }
}
