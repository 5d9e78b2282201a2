//! The command line's side of the local API.

use crate::clock::now;
use crate::output::CliError;
use meshd_proto::localapi::{Ask, LENGTH_PREFIX, Request, Response, Tell, frame, frame_len};
use prost::Message;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Exit status where nothing came in time (`EX_TEMPFAIL`).
pub(crate) const TIMED_OUT: u8 = 75;

/// A question that was asked; iterate for its answers.
pub(crate) struct Answers(UnixStream, Option<Instant>);

/// Whether a daemon answers on the socket.
pub(crate) fn daemon_runs(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

/// Asks the daemon.
///
/// # Errors
/// When no daemon runs, or it cannot be reached.
pub(crate) fn ask(socket: &Path, ask: Ask) -> Result<Answers, CliError> {
    let mut stream = UnixStream::connect(socket).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => CliError {
            message: "the meshd daemon is not running".to_owned(),
            hint: "start it with `meshd up` (as root), or `systemctl start meshd`".to_owned(),
            code: 69,
        },
        _ => CliError::new(format!("cannot reach the daemon at {}: {e}", socket.display()), ""),
    })?;
    stream.write_all(&frame(&Request { ask: Some(ask) })).map_err(lost)?;
    Ok(Answers(stream, None))
}

impl Answers {
    /// Waits at most this long for all answers together.
    pub(crate) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.1 = Some(now() + timeout);
        self
    }

    /// The next answer; a failure that the daemon reports is an error here.
    pub(crate) fn next(&mut self) -> Result<Option<Tell>, CliError> {
        let response = self.read()?;
        match response.tell {
            Some(Tell::Failed(f)) => Err(CliError {
                message: f.message,
                hint: f.hint,
                code: u8::try_from(f.exit_code).unwrap_or(1),
            }),
            Some(Tell::Done(_)) if response.last => Ok(None),
            Some(tell) => Ok(Some(tell)),
            None => Err(CliError::new(
                "the daemon answered with something this version does not know",
                "after an upgrade, restart the daemon: `systemctl restart meshd`",
            )),
        }
    }

    fn read(&mut self) -> Result<Response, CliError> {
        if let Some(deadline) = self.1 {
            // Zero would mean "for ever".
            let left = deadline.saturating_duration_since(now()).max(Duration::from_millis(1));
            self.0.set_read_timeout(Some(left)).map_err(lost)?;
        }
        let mut prefix = [0; LENGTH_PREFIX];
        self.0.read_exact(&mut prefix).map_err(lost)?;
        let len = frame_len(prefix).map_err(|e| CliError::new(e.to_string(), ""))?;
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).map_err(lost)?;
        Response::decode(&*body)
            .map_err(|e| CliError::new(format!("the daemon's answer is damaged: {e}"), ""))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn lost(error: io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CliError {
            message: "the daemon did not answer in time; it goes on trying".to_owned(),
            hint: "see `meshd status` and `meshd logs`".to_owned(),
            code: TIMED_OUT,
        },
        _ => CliError {
            message: format!("the connection to the daemon was lost: {error}"),
            hint: "see `meshd logs` or `journalctl -u meshd`".to_owned(),
            code: 69,
        },
    }
}
