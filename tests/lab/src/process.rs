//! Programs inside a host: run to the end, or left running.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock::{now, wait_within};

/// A program that ran to its end.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// How it ended; nothing when it was killed after its time limit.
    pub status: Option<ExitStatus>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl Finished {
    /// Whether it ended with exit status 0.
    pub fn is_success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The output, or an error that holds the command and both outputs.
    pub fn success(self) -> Result<Finished> {
        if self.is_success() {
            return Ok(self);
        }
        let end = match self.status {
            Some(status) => status.to_string(),
            None => format!("killed after {:?}", self.took),
        };
        bail!("`{}`: {end}\n--- stdout\n{}--- stderr\n{}", self.command, self.stdout, self.stderr)
    }

    /// An error unless it failed.
    pub fn failure(self) -> Result<Finished> {
        if self.is_success() || self.status.is_none() {
            bail!(
                "`{}` should have failed\n--- stdout\n{}--- stderr\n{}",
                self.command,
                self.stdout,
                self.stderr
            )
        }
        Ok(self)
    }
}

/// Runs `command` for at most `limit`.
pub(crate) fn run(mut command: Command, shown: String, limit: Duration) -> Result<Finished> {
    let started = now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let out = collect(child.stdout.take().expect("stdout is piped"));
    let err = collect(child.stderr.take().expect("stderr is piped"));
    let status = wait(&mut child, started + limit)?;
    if status.is_none() {
        kill_tree(&mut child);
    }
    let took = now() - started;
    // A daemon that the program left behind may hold the pipes open: what is there now is the output.
    let (stdout, stderr) = (out.text(), err.text());
    Ok(Finished { command: shown, status, stdout, stderr, took })
}

fn wait(child: &mut Child, end: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if now() >= end {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Text that a thread reads from a pipe.
struct Collector {
    thread: thread::JoinHandle<()>,
    text: std::sync::mpsc::Receiver<Vec<u8>>,
}

fn collect(mut pipe: impl Read + Send + 'static) -> Collector {
    let (send, text) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok(n) = pipe.read(&mut buffer) {
            if n == 0 || send.send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    Collector { thread, text }
}

impl Collector {
    fn text(self) -> String {
        let end = now() + Duration::from_millis(500);
        while !self.thread.is_finished() && now() < end {
            thread::sleep(Duration::from_millis(2));
        }
        let bytes: Vec<u8> = self.text.try_iter().flatten().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A program that runs in a host until it is stopped. Dropping the handle leaves it running; it ends
/// with its host.
#[derive(Debug)]
pub struct Process {
    pub(crate) child: Child,
    pub(crate) command: String,
    /// Both outputs.
    pub log: PathBuf,
}

impl Process {
    /// The program's process id as the lab's own process sees it.
    pub fn pid(&self) -> Result<i32> {
        wait_within(Duration::from_secs(2), || children(self.child.id()).first().copied())
            .with_context(|| format!("`{}` has ended: {}", self.command, self.log()))
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until the log holds `text`.
    pub fn wait_for_log(&self, text: &str, limit: Duration) -> Result<()> {
        match wait_within(limit, || self.log().contains(text).then_some(())) {
            Some(()) => Ok(()),
            None => bail!("`{}` did not write {text:?} within {limit:?}:\n{}", self.command, self.log()),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// SIGTERM, and SIGKILL when that does not help within 10 s.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        if let Some(status) = wait(&mut self.child, now() + Duration::from_secs(10))? {
            return Ok(status);
        }
        self.signal(Signal::KILL)?;
        bail!("`{}` did not end within 10 s after SIGTERM:\n{}", self.command, self.log())
    }

    /// SIGKILL, to a program that may be stopped; waits until it is gone.
    pub fn kill(mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        if self.is_gone_within(Duration::from_secs(10))? {
            return Ok(());
        }
        bail!("`{}` outlived SIGKILL:\n{}", self.command, self.log())
    }

    /// Whether a killed program is gone before `limit`.
    pub fn is_gone_within(&mut self, limit: Duration) -> Result<bool> {
        let end = now() + limit;
        while self.child.try_wait()?.is_none() {
            if now() >= end {
                return Ok(false);
            }
            self.wake_helper();
            thread::sleep(Duration::from_millis(2));
        }
        Ok(true)
    }

    /// The helper that entered the namespaces stops with a program that stops, perhaps only after it was killed,
    /// and would never see its end.
    fn wake_helper(&self) {
        if let Some(helper) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(helper, Signal::CONT);
        }
    }

    /// Waits for its end.
    pub fn wait(mut self, limit: Duration) -> Result<ExitStatus> {
        match wait(&mut self.child, now() + limit)? {
            Some(status) => Ok(status),
            None => bail!("`{}` still runs after {limit:?}:\n{}", self.command, self.log()),
        }
    }

    /// Sends a signal to the program itself.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid()?).context("a process id is not 0")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal `{}`", self.command))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.wake_helper();
        }
    }
}

/// Kills a program together with the helper that entered the namespaces for it.
fn kill_tree(child: &mut Child) {
    for pid in children(child.id()) {
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The children of a process, by the kernel's list.
pub(crate) fn children(pid: u32) -> Vec<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}
