//! The table of named timers: one place where the engine says what it waits for.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Instant;

/// Timers by name. Setting one again replaces it.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    at: HashMap<K, Instant>,
    order: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Ord + Hash> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { at: HashMap::new(), order: BTreeSet::new() }
    }

    /// Lets `key` fire at `at`, whenever it was to fire before.
    pub(crate) fn set(&mut self, key: K, at: Instant) {
        self.clear(key);
        self.at.insert(key, at);
        self.order.insert((at, key));
    }

    /// Lets `key` fire at `at` unless it fires earlier already.
    pub(crate) fn set_earlier(&mut self, key: K, at: Instant) {
        if self.at.get(&key).is_none_or(|t| *t > at) {
            self.set(key, at);
        }
    }

    /// Stops `key`.
    pub(crate) fn clear(&mut self, key: K) {
        if let Some(at) = self.at.remove(&key) {
            self.order.remove(&(at, key));
        }
    }

    /// Whether `key` is waited for.
    pub(crate) fn is_set(&self, key: K) -> bool {
        self.at.contains_key(&key)
    }

    /// When the next one fires.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes one that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.clear(key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::start;
    use std::time::Duration;

    #[test]
    fn a_timer_fires_once_at_its_last_time() {
        let t = start();
        let s = Duration::from_secs(1);
        let mut timers = Timers::new();
        timers.set('a', t + s);
        timers.set('a', t + s * 3);
        timers.set('b', t + s * 2);
        timers.set_earlier('b', t + s * 9);
        timers.set_earlier('c', t + s * 4);
        timers.clear('c');
        assert_eq!(timers.next(), Some(t + s * 2));
        assert_eq!(timers.pop(t + s), None);
        assert_eq!((timers.pop(t + s * 5), timers.pop(t + s * 5)), (Some('b'), Some('a')));
        assert_eq!((timers.pop(t + s * 5), timers.next(), timers.is_set('a')), (None, None, false));
    }
}
