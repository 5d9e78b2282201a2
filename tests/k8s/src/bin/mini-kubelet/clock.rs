//! The only reader of the clocks in this program.

use std::time::Instant;

/// The monotonic time.
#[expect(clippy::disallowed_methods, reason = "the one clock file of this program")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time as Kubernetes writes it, to the second.
pub(crate) fn rfc3339() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The time as Leases have it.
pub(crate) fn rfc3339_micros() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
