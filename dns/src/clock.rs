//! The one place where this crate's shell reads the clock.

use std::time::Instant;

/// Now.
#[expect(clippy::disallowed_methods, reason = "the clock of the shell")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
