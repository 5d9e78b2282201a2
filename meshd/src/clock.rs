//! The one place of this crate that reads a clock.

use std::time::Instant;

/// Monotonic time.
#[expect(clippy::disallowed_methods, reason = "the crate's clock file")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
