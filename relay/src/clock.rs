//! The one place of this crate that reads a clock.

use meshd_proto::UnixSeconds;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time.
#[expect(clippy::disallowed_methods, reason = "the clock file of this crate")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Wall-clock time; 0 when the clock stands before 1970.
#[expect(clippy::disallowed_methods, reason = "the clock file of this crate")]
pub(crate) fn wall() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// Monotonic time as tokio's timers count it.
pub(crate) fn timer_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
