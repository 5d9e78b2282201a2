//! What the tests of several modules share.

use std::time::Instant;

/// Where a test's time begins. The engine itself never asks: only differences to it count.
#[expect(clippy::disallowed_methods, reason = "only differences count")]
pub(crate) fn start() -> Instant {
    Instant::now()
}
