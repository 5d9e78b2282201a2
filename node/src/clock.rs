//! The one place of this crate that reads clocks and draws entropy.
#![expect(clippy::disallowed_methods, reason = "this is the clock file")]

use meshd_proto::UnixSeconds;
use std::time::{Duration, Instant, SystemTime};

/// Monotonic time.
pub fn now() -> Instant {
    Instant::now()
}

/// Monotonic time as tokio's timers count it, which tests may pause.
pub fn timer_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// How much further the clock that counts sleep (CLOCK_BOOTTIME) is than the one that does not
/// (CLOCK_MONOTONIC): all the time that this machine was suspended since it booted.
pub fn suspended() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    // Monotonic first: a suspend between the two counts at once.
    let [monotonic, boot] = [ClockId::Monotonic, ClockId::Boottime].map(clock_gettime);
    let duration = |t: rustix::time::Timespec| {
        Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
    };
    duration(boot).saturating_sub(duration(monotonic))
}

/// Wall-clock time in whole seconds; 0 when the clock is before 1970.
pub fn wall() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
}

/// 32 random bytes from the operating system.
///
/// # Errors
/// When the kernel has no entropy source.
pub fn entropy() -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|e| std::io::Error::other(format!("no entropy from the kernel: {e}")))?;
    Ok(bytes)
}
