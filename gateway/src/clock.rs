//! The one place of this crate that reads a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time.
#[expect(clippy::disallowed_methods, reason = "the clock file of this crate")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Time since 1970; 0 when the clock stands before that.
#[expect(clippy::disallowed_methods, reason = "the clock file of this crate")]
pub(crate) fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
