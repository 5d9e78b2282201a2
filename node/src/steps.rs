//! For tests of crashes: numbers every planned change of the host and of the node's files, says each
//! before and after, and stops the process for good at one of them, where it is then killed.
//!
//! Off unless the configuration names a `debug_stop_file`. That file holds the number to stop at, and is
//! read at each step, so that a test can choose a step of an operation that has not begun yet. It
//! changes nothing that is done, nor its order.

use rustix::process::{Signal, getpid, kill_process};
use std::fmt;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static STOP_FILE: OnceLock<PathBuf> = OnceLock::new();
static STEP: AtomicU64 = AtomicU64::new(0);

/// Numbers the steps from now on, and stops where the file says; `None`: neither.
pub fn watch(stop_file: Option<PathBuf>) {
    if let Some(stop_file) = stop_file {
        // Told twice, the first counts.
        let _ = STOP_FILE.set(stop_file);
    }
}

/// What follows is about to be done.
pub(crate) fn before(what: impl fmt::Display) {
    step("before", what);
}

/// It was done.
pub(crate) fn after(what: impl fmt::Display) {
    step("after", what);
}

fn step(when: &str, what: impl fmt::Display) {
    let Some(stop_file) = STOP_FILE.get() else { return };
    let number = STEP.fetch_add(1, Ordering::SeqCst) + 1;
    let stop_at = std::fs::read_to_string(stop_file).ok().and_then(|text| text.trim().parse().ok());
    let stops = stop_at == Some(number);
    // Not by the log: `meshd cleanup` has none. Nobody may read it, which is no reason to stop.
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "step {number} {when}: {what}{}", if stops { " (stopped)" } else { "" });
    if stops {
        // The other threads with it, at once; this one goes nowhere even if it is told to go on.
        let _ = kill_process(getpid(), Signal::STOP);
        loop {
            std::thread::park();
        }
    }
}
