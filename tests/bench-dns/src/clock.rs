//! The only place here that reads a clock.

use std::time::Instant;

/// Now.
#[expect(clippy::disallowed_methods, reason = "the clock file")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
