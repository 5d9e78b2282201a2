//! The only reader of the clocks in this crate.

use std::time::Instant;

/// The monotonic time.
#[expect(clippy::disallowed_methods, reason = "the one clock file of this crate")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The wall clock, as Kubernetes writes times with seconds.
pub(crate) fn seconds_text() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Second).unwrap_or(now).to_string()
}

/// The wall clock, as a Lease has it.
pub(crate) fn timestamp() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
