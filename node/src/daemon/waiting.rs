//! Local clients that wait for one and the same answer.
//!
//! Telling them never waits: who does not read what is said loses it, the daemon goes on.

use meshd_proto::localapi::{Failure, Response, Tell};
use tokio::sync::mpsc;

/// Who waits, each until a last answer was told.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<mpsc::Sender<Response>>);

impl Waiting {
    /// One more. Those that hung up meanwhile are forgotten.
    pub(super) fn add(&mut self, client: mpsc::Sender<Response>) {
        self.0.retain(|c| !c.is_closed());
        self.0.push(client);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells all; after a last answer nobody waits any more.
    pub(super) fn tell(&mut self, response: &Response) {
        self.0.retain(|client| client.try_send(response.clone()).is_ok() && !response.last);
    }

    /// Tells all that it did not work.
    pub(super) fn fail(&mut self, failure: &Failure) {
        self.tell(&Response::last(Tell::Failed(failure.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_reads_nothing_stops_nobody_and_is_forgotten() {
        let mut waiting = Waiting::default();
        let (stuck, mut stuck_rx) = mpsc::channel(1);
        let (reading, mut reading_rx) = mpsc::channel(8);
        waiting.add(stuck);
        waiting.add(reading);
        for n in 0..3 {
            waiting.tell(&Response::more(Tell::Progress(n.to_string())));
        }
        assert_eq!(waiting.0.len(), 1, "the one with the full queue is gone");
        waiting.fail(&Failure::new("down", ""));
        assert!(waiting.is_empty());
        assert!(stuck_rx.try_recv().is_ok_and(|r| !r.last));
        assert!(stuck_rx.try_recv().is_err());
        let got: Vec<Response> = std::iter::from_fn(|| reading_rx.try_recv().ok()).collect();
        assert_eq!((got.len(), got.last().map(|r| r.last)), (4, Some(true)));
    }

    #[test]
    fn clients_that_hung_up_are_not_kept() {
        let mut waiting = Waiting::default();
        for _ in 0..100 {
            waiting.add(mpsc::channel(1).0);
        }
        assert_eq!(waiting.0.len(), 1);
    }
}
