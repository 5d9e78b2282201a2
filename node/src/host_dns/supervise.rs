//! A small second process that puts the host's DNS back when the daemon dies by whatever means.
//!
//! The daemon holds the write end of a pipe that is the supervisor's standard input. The kernel closes
//! it when the daemon ends, by SIGKILL too; then the supervisor restores what that run of the daemon
//! did, and no other run's. It ignores the signals that are meant for the daemon's whole group.

use super::undo::{RestoreError, Restored, restore_lease};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

/// The running supervisor. Dropping it makes it restore, as the daemon's death does.
#[derive(Debug)]
pub struct Supervisor {
    child: Child,
}

impl Supervisor {
    /// Starts `command`, which must end up in [`supervise`] with this run's lease.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        // A group of its own, so that Ctrl-C in a terminal reaches the daemon only.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        Ok(Self { child: command.spawn()? })
    }

    /// Its process id, for `status`.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go and waits until it has ended. After a clean end there is nothing for it to restore.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn finish(mut self) -> io::Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().map(drop)
    }
}

/// What the supervisor process does: waits for the end of `input` (its standard input), restores.
/// It makes a runtime of its own, so call it outside of one.
///
/// # Errors
/// When there is no runtime, or the restore failed.
pub fn supervise(state_dir: &Path, lease: &str, input: impl AsFd) -> Result<Restored, RestoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // A handler, even if nobody looks at it, replaces the default of dying.
        let _handlers = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
            .map(|kind| signal(kind).ok());
        let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(input.as_fd().try_clone_to_owned()?)?;
        wait_for_end(pipe).await;
        restore_lease(state_dir, lease).await
    })
}

async fn wait_for_end(mut pipe: tokio::net::unix::pipe::Receiver) {
    let mut byte = [0; 64];
    while let Ok(1..) = pipe.read(&mut byte).await {}
}
