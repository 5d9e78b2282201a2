//! The daemon's last log lines, for `meshd logs` on hosts without a journal.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;

/// Lines kept.
const LINES: usize = 2000;
/// Longest line kept.
const LINE_BYTES: usize = 4096;

/// A bounded ring of log lines. Cheap to clone; clones share the ring.
#[derive(Clone, Debug)]
pub struct LogRing {
    lines: Arc<Mutex<VecDeque<String>>>,
    live: broadcast::Sender<String>,
}

impl Default for LogRing {
    fn default() -> Self {
        Self { lines: Arc::default(), live: broadcast::channel(256).0 }
    }
}

impl LogRing {
    /// The last `n` lines, oldest first.
    pub fn last(&self, n: usize) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(lines.len().saturating_sub(n)).cloned().collect()
    }

    /// Lines from now on. A reader that is too slow misses some.
    pub fn follow(&self) -> broadcast::Receiver<String> {
        self.live.subscribe()
    }

    fn push(&self, text: &str) {
        let line: String = text.trim_end().chars().take(LINE_BYTES).collect();
        if line.is_empty() {
            return;
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line.clone());
        drop(lines);
        // Nobody listening is the usual case.
        let _ = self.live.send(line);
    }
}

/// Writes log events to the ring and to standard error. Handed to the subscriber by the binary.
#[derive(Clone, Debug)]
pub struct LogWriter(pub LogRing);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(&String::from_utf8_lossy(bytes));
        io::stderr().write_all(bytes)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_last_lines_only() {
        let ring = LogRing::default();
        for i in 0..LINES + 5 {
            ring.push(&format!("line {i}\n"));
        }
        assert_eq!(ring.last(usize::MAX).len(), LINES);
        assert_eq!(ring.last(1), [format!("line {}", LINES + 4)]);
    }
}
