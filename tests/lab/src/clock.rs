//! The only reader of the clock in this crate, and waiting on a condition.

use std::thread;
use std::time::{Duration, Instant};

/// The monotonic time.
#[expect(clippy::disallowed_methods, reason = "the one clock file of this crate")]
pub fn now() -> Instant {
    Instant::now()
}

/// Asks `condition` every 20 ms until it gives a value; `None` when `limit` has passed.
pub fn wait_within<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether `condition` becomes true within `limit`.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    wait_within(limit, || condition().then_some(())).is_some()
}
