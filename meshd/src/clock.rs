//! The one place of this crate that reads a clock.

use std::time::{Instant, SystemTime};

/// Monotonic time.
#[expect(clippy::disallowed_methods, reason = "the crate's clock file")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Wall-clock time in seconds since 1970; 0 before that.
#[expect(clippy::disallowed_methods, reason = "the crate's clock file")]
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
