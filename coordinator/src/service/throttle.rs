//! Slows down who guesses: a few failures are free, then each costs twice the wait of the one before.
//!
//! Soft state, bounded: a flood of addresses forgets the oldest entries, never those that wait longest.

use meshd_proto::UnixSeconds;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Failures that cost nothing.
const FREE: u32 = 5;
/// Longest wait.
const MAX_WAIT: u64 = 900;
/// Most keys in memory.
const MAX_KEYS: usize = 20_000;
/// A key without failures for so long is forgotten.
const FORGET: u64 = 3600;

#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<HashMap<String, Failures>>);

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: UnixSeconds,
    until: UnixSeconds,
}

impl Throttle {
    /// Seconds that somebody with one of these keys still has to wait; 0: may try.
    pub(super) fn wait(&self, keys: &[(String, u32)], now: UnixSeconds) -> u64 {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waits =
            keys.iter().filter_map(|(key, _)| known.get(key)).map(|f| f.until.0.saturating_sub(now.0));
        waits.max().unwrap_or(0)
    }

    /// An attempt begins: it counts as failed until [`Self::succeeded`], so that many at once are counted,
    /// too. Each key comes with how many times more failures than usual are free for it.
    pub(super) fn begin(&self, keys: &[(String, u32)], now: UnixSeconds) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() + keys.len() > MAX_KEYS {
            known.retain(|_, f| f.until.0 > now.0 || now.0.saturating_sub(f.last.0) < 60);
        }
        for (key, times) in keys {
            let entry = known.entry(key.clone()).or_insert(Failures { count: 0, last: now, until: now });
            if now.0.saturating_sub(entry.last.0) > FORGET {
                entry.count = 0;
            }
            (entry.count, entry.last) = (entry.count.saturating_add(1), now);
            let over = entry.count.saturating_sub(FREE.saturating_mul(*times));
            if over > 0 {
                entry.until = UnixSeconds(now.0 + 2u64.saturating_pow(over.min(20)).min(MAX_WAIT));
            }
        }
    }

    /// The attempt was good: what it cost is given back.
    pub(super) fn succeeded(&self, keys: &[(String, u32)]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, _) in keys {
            known.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_are_free_and_then_each_waits_longer() {
        let throttle = Throttle::default();
        let keys = [("alice".to_owned(), 1)];
        let mut now = UnixSeconds(1000);
        for _ in 0..FREE {
            assert_eq!(throttle.wait(&keys, now), 0);
            throttle.begin(&keys, now);
        }
        let mut before = 0;
        for _ in 0..5 {
            assert_eq!(throttle.wait(&keys, now), before);
            now.0 += before;
            throttle.begin(&keys, now);
            let wait = throttle.wait(&keys, now);
            assert!(wait > before);
            before = wait;
        }
        throttle.succeeded(&keys);
        assert_eq!(throttle.wait(&keys, now), 0);
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::default();
        for n in 0..3 * MAX_KEYS as u64 {
            throttle.begin(&[(format!("10.0.0.{n}"), 1)], UnixSeconds(n / 100));
        }
        assert!(throttle.0.lock().unwrap().len() <= MAX_KEYS);
    }
}
