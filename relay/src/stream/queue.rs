//! Frames that wait for a stream to take them. What waited too long is dropped: the sessions above notice
//! late datagrams less than they notice a queue that never empties.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A frame that waited for longer is not sent any more.
pub const MAX_AGE: Duration = Duration::from_millis(300);
/// Bytes that may wait whatever their age: what 300 ms are at 27 Mb/s, which a stalled stream costs at most.
const MAX_BYTES: usize = 1 << 20;

/// One queue, shared by who fills it and who empties it.
#[derive(Clone, Debug, Default)]
pub struct FrameQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    closed: bool,
}

impl FrameQueue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a frame at the end. Returns how many frames were dropped for it, itself perhaps.
    pub fn push(&self, frame: &[u8], now: Instant) -> u64 {
        let mut waiting = self.waiting();
        let mut dropped = waiting.drop_aged(now);
        if waiting.closed || waiting.bytes + frame.len() > MAX_BYTES {
            dropped += 1;
        } else {
            waiting.bytes += frame.len();
            waiting.frames.push_back((now, frame.to_vec()));
        }
        drop(waiting);
        self.0.bell.notify_one();
        dropped
    }

    /// The next frame that is young enough.
    pub fn pop(&self, now: Instant) -> Option<Vec<u8>> {
        let mut waiting = self.waiting();
        waiting.drop_aged(now);
        let (_, frame) = waiting.frames.pop_front()?;
        waiting.bytes -= frame.len();
        Some(frame)
    }

    /// Ends the stream that empties it.
    pub fn close(&self) {
        self.waiting().closed = true;
        self.0.bell.notify_one();
    }

    /// Waits until there may be a frame; `false` when the queue was closed and is empty.
    pub(super) async fn ready(&self) -> bool {
        loop {
            {
                let waiting = self.waiting();
                if !waiting.frames.is_empty() {
                    return true;
                }
                if waiting.closed {
                    return false;
                }
            }
            // A bell that rang since then is remembered.
            self.0.bell.notified().await;
        }
    }
}

impl Waiting {
    fn drop_aged(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        while let Some((since, frame)) = self.frames.front()
            && now.saturating_duration_since(*since) > MAX_AGE
        {
            self.bytes -= frame.len();
            self.frames.pop_front();
            dropped += 1;
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waited_too_long_is_dropped_and_the_bytes_are_bounded() {
        let (queue, now) = (FrameQueue::default(), crate::clock::now());
        assert_eq!(queue.push(b"old", now), 0);
        assert_eq!(queue.push(b"new", now + MAX_AGE / 2), 0);
        assert_eq!(queue.push(b"newer", now + MAX_AGE + Duration::from_millis(1)), 1);
        assert_eq!(queue.pop(now + MAX_AGE + Duration::from_millis(1)).unwrap(), b"new");
        assert_eq!(queue.pop(now + MAX_AGE * 3), None);
        let refused: u64 = (0..2000).map(|_| queue.push(&[0; 1000], now)).sum();
        assert_eq!(refused, 2000 - (MAX_BYTES / 1000) as u64);
    }
}
