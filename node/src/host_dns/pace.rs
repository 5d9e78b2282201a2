//! How often a file that somebody else keeps writing is repaired. Pure.

use std::time::{Duration, Instant};

/// Time for a writer to finish before we look.
pub(super) const SETTLE: Duration = Duration::from_millis(150);
/// First pause after a repair.
const FIRST: Duration = Duration::from_millis(500);
/// Longest pause between repairs.
const LONGEST: Duration = Duration::from_secs(30);
/// After this long without a repair, the next one is prompt again.
const QUIET: Duration = Duration::from_secs(60);

/// The pauses between repairs: doubled while they keep coming.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<(Instant, Duration)>,
}

impl Pace {
    /// How long to wait after a repair made at `now` before the next.
    pub(super) fn repaired(&mut self, now: Instant) -> Duration {
        let pause = match self.last {
            Some((at, pause)) if now.saturating_duration_since(at) < QUIET => (pause * 2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some((now, pause));
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_slow_down_while_somebody_fights_and_are_prompt_again_after_a_quiet_minute() {
        let start = crate::clock::now();
        let mut pace = Pace::default();
        let pauses: Vec<_> =
            (0..9).map(|s| pace.repaired(start + Duration::from_secs(s)).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(pace.repaired(start + Duration::from_secs(100)).as_millis(), 500);
    }
}
