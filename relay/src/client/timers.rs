//! The client's timers by name.

use std::time::Instant;

/// What a wake-up is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// Repeat the attach attempt, or start one.
    Attempt,
    /// Ask whether the relay is there.
    Ping,
    /// The unanswered ping makes the relay doubtful.
    Doubt,
    /// The unanswered ping makes the relay dead.
    Dead,
    /// Attach again before the relay forgets us.
    Renew,
}

/// One optional instant for each [`Timer`].
#[derive(Debug, Default)]
pub(super) struct TimerTable([Option<Instant>; 5]);

impl TimerTable {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(super) fn at(&self, timer: Timer) -> Option<Instant> {
        self.0[timer as usize]
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Whether `timer` is due; a due timer is stopped.
    pub(super) fn expired(&mut self, timer: Timer, now: Instant) -> bool {
        let due = self.at(timer).is_some_and(|at| at <= now);
        if due {
            self.stop(timer);
        }
        due
    }
}
