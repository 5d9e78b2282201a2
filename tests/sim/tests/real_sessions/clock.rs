//! The clocks of this test program are the simulation's, on each thread for itself.
//!
//! boringtun reads the monotonic and the wall clock by itself, by libc's `clock_gettime`. This program has
//! a function of that name of its own, which the linker prefers; it answers with the virtual time of the thread, or asks
//! the kernel where none was set (libtest's own threads). No feature of boringtun is switched on for
//! that, so that nothing can leak into `meshd`: it is the code of the released binary that is simulated.

#![expect(unsafe_code, reason = "a function of libc is replaced")]

use std::cell::Cell;
use std::time::Duration;

/// Where both virtual clocks begin: long after the epoch and after boot, so that earlier times exist.
const BEGIN: Duration = Duration::from_secs(1_800_000_000);

thread_local! {
    static VIRTUAL: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// From now on all clocks of this thread say this, counted from the beginning of the simulation.
pub(crate) fn set_virtual_clock(since_zero: Duration) {
    VIRTUAL.set(Some(BEGIN + since_zero));
}

// SAFETY: the name is libc's on purpose; signature and meaning are those of POSIX.
#[unsafe(no_mangle)]
// SAFETY: callers pass a pointer to a `timespec` that they own, as POSIX asks for.
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, out: *mut libc::timespec) -> libc::c_int {
    let Some(now) = VIRTUAL.try_with(Cell::get).ok().flatten() else {
        // SAFETY: the system call writes one `timespec` where the caller said, like libc's function.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) } as libc::c_int;
    };
    let time =
        libc::timespec { tv_sec: now.as_secs() as libc::time_t, tv_nsec: now.subsec_nanos() as libc::c_long };
    // SAFETY: `out` is valid for one `timespec`, by the contract above.
    unsafe { out.write(time) };
    0
}
