//! The only place in this crate that reads a clock.

use meshd_proto::UnixSeconds;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock time in whole seconds. A clock before 1970 counts as 1970.
#[expect(clippy::disallowed_methods, reason = "the crate's clock file")]
pub fn unix_now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// Monotonic time.
#[expect(clippy::disallowed_methods, reason = "the crate's clock file")]
pub fn now() -> Instant {
    Instant::now()
}

/// Monotonic time as tokio's timers count it, which tests may pause.
pub fn timer_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// A point in time as people read it: `2026-05-01 12:00 UTC`.
pub fn show(at: UnixSeconds) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .map_or_else(|| at.to_string(), |t| t.strftime("%Y-%m-%d %H:%M UTC").to_string())
}
