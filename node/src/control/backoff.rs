//! How long to wait before the next try.

use std::time::Duration;

/// First delay. After a coordinator's restart all nodes come back within this time, spread evenly.
const FIRST: Duration = Duration::from_secs(1);
/// Longest delay: a coordinator that comes back is noticed within this time.
const LONGEST: Duration = Duration::from_secs(30);
/// Least delay after a refusal that may change by itself (an admin has to act).
const AFTER_REFUSAL: Duration = Duration::from_secs(5);

/// Doubling delay with jitter; bounded.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A session stood: begin anew.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next delay: between a quarter and the whole of the present step.
    pub(super) fn next(&mut self) -> Duration {
        let step = FIRST.saturating_mul(1 << self.failures.min(8)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.25 + 0.75 * fraction())
    }

    /// The next delay after a temporary refusal.
    pub(super) fn refused(&mut self) -> Duration {
        AFTER_REFUSAL + self.next()
    }
}

/// Uniform in 0..1. Without entropy the jitter is missing, nothing else.
fn fraction() -> f64 {
    let mut bytes = [0; 4];
    if getrandom::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_stay_bounded_and_start_anew() {
        let mut backoff = Backoff::default();
        assert!(backoff.next() <= FIRST);
        for _ in 0..100 {
            let pause = backoff.next();
            assert!(pause <= LONGEST && pause >= FIRST / 4);
        }
        assert!(backoff.next() >= LONGEST / 4);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
        assert!(backoff.refused() >= AFTER_REFUSAL);
    }
}
