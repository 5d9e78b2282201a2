//! Token buckets over an argument clock.

use std::time::{Duration, Instant};

/// How much per second, and how much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units per second in the long run.
    pub per_second: u64,
    /// Units that may be taken at once after a pause.
    pub burst: u64,
}

/// One bucket. It starts full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    /// Nano-units, so that slow rates lose nothing to rounding.
    level: u128,
    at: Instant,
}

const NANO: u128 = 1_000_000_000;

impl TokenBucket {
    pub(crate) fn full(rate: Rate, now: Instant) -> Self {
        Self { level: u128::from(rate.burst) * NANO, at: now }
    }

    /// Takes `amount` when the bucket holds that much.
    pub(crate) fn take(&mut self, amount: u64, rate: Rate, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).min(Duration::from_secs(3600)).as_nanos()
            * u128::from(rate.per_second);
        self.level = (self.level + gained).min(u128::from(rate.burst) * NANO);
        self.at = self.at.max(now);
        let wanted = u128::from(amount) * NANO;
        let granted = wanted <= self.level;
        if granted {
            self.level -= wanted;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn a_bucket_gives_its_burst_at_once_and_its_rate_in_the_long_run() {
        let rate = Rate { per_second: 10, burst: 5 };
        let start = Instant::now();
        let mut bucket = TokenBucket::full(rate, start);
        assert_eq!((0..10).filter(|_| bucket.take(1, rate, start)).count(), 5);
        let taken =
            (1..=1000u64).filter(|ms| bucket.take(1, rate, start + Duration::from_millis(*ms))).count();
        assert_eq!(taken, 10);
        assert!(!bucket.take(6, rate, start + Duration::from_secs(9999)), "more than the burst never passes");
    }
}
