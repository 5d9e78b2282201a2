//! How many questions one address may ask: a bucket for each, refilled with time. Pure.
//!
//! Invariants: memory is bounded by [`MAX_SOURCES`]; who asks within its rate is never refused because of
//! others, unless more than that many addresses ask at the same time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

/// Most addresses told apart; beyond that, new ones share a bucket until others have fallen silent.
const MAX_SOURCES: usize = 4096;
/// A page of today asks some dozens of names at once: so many seconds' worth may come in one burst.
const BURST_SECONDS: f64 = 4.0;
/// What a home network delegates to one machine: addresses of it are one asker (RFC 7421).
const V6_HOST_BITS: u32 = 64;

/// Buckets of all who ask.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: f64,
    buckets: HashMap<IpAddr, Bucket>,
    overflow: Bucket,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// Takes one, if there is one.
    fn take(&mut self, per_second: f64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + since * per_second).min(per_second * BURST_SECONDS);
        self.at = now;
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }

    /// Whether it has been full for a while: its owner is silent.
    fn is_full(&self, per_second: f64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left + since * per_second >= per_second * BURST_SECONDS
    }
}

impl Pace {
    /// So many questions a second from one address, at least one.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second.max(1));
        Self {
            per_second,
            buckets: HashMap::new(),
            overflow: Bucket { left: per_second * BURST_SECONDS, at: now },
        }
    }

    /// Whether `source` may ask now.
    pub(super) fn allows(&mut self, source: IpAddr, now: Instant) -> bool {
        let asker = asker(source);
        let per_second = self.per_second;
        if !self.buckets.contains_key(&asker) && self.buckets.len() >= MAX_SOURCES {
            self.buckets.retain(|_, bucket| !bucket.is_full(per_second, now));
            if self.buckets.len() >= MAX_SOURCES {
                return self.overflow.take(per_second, now);
            }
        }
        let fresh = Bucket { left: per_second * BURST_SECONDS, at: now };
        self.buckets.entry(asker).or_insert(fresh).take(per_second, now)
    }
}

/// Who counts as one: an address, or all of an IPv6 network.
pub(super) fn asker(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> V6_HOST_BITS << V6_HOST_BITS).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    fn now() -> Instant {
        crate::clock::now()
    }

    #[test]
    fn a_burst_passes_then_the_rate_holds_and_others_are_not_touched() {
        let start = now();
        let mut pace = Pace::new(10, start);
        let (noisy, other) = (IpAddr::from([192, 168, 1, 9]), IpAddr::from([192, 168, 1, 10]));
        let passed = (0..1000).filter(|_| pace.allows(noisy, start)).count();
        assert_eq!(passed, 40);
        assert!(pace.allows(other, start));
        let second = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| pace.allows(noisy, second)).count(), 10);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_asker() {
        let start = now();
        let mut pace = Pace::new(1, start);
        let asks = |n: u128| IpAddr::from(Ipv6Addr::from(0xfd00_0000_0000_0000_0000_0000_0000_0000 + n));
        assert_eq!((0..100).filter(|n| pace.allows(asks(*n), start)).count(), 4);
    }

    #[test]
    fn memory_is_bounded_and_silent_addresses_make_room() {
        let start = now();
        let mut pace = Pace::new(1, start);
        for n in 0..10_000_u32 {
            pace.allows(Ipv4Addr::from(n).into(), start);
        }
        assert_eq!(pace.buckets.len(), MAX_SOURCES);
        assert!(!pace.allows(IpAddr::from([203, 0, 113, 1]), start), "the shared bucket is empty");
        let later = start + Duration::from_secs(10);
        assert!(pace.allows(IpAddr::from([203, 0, 113, 1]), later));
        assert_eq!(pace.buckets.len(), 1);
    }
}
