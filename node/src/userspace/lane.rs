//! A bounded way for packets between two threads: one side appends, the other takes all at once.
//!
//! The bytes of all waiting packets lie in one buffer, which the two sides swap: no allocation per
//! packet once the buffers have grown to what the traffic needs.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Packets in one buffer, in order.
#[derive(Debug, Default)]
pub struct Packets {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Packets {
    /// Appends a packet of `len` bytes that `fill` writes.
    pub fn push_with<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        self.ends.push(start + len);
        fill(&mut self.bytes[start..])
    }

    /// Appends a packet.
    pub fn push(&mut self, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
        self.ends.push(self.bytes.len());
    }

    /// The packets.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len()).filter_map(|i| self.get(i))
    }

    /// The packet at `index`.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let start = if index == 0 { 0 } else { *self.ends.get(index - 1)? };
        self.bytes.get(start..*self.ends.get(index)?)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Their bytes together.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Removes all; the room stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn append(&mut self, other: &Self) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| start + end));
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It waits, and nothing waited before it: the taker may be asleep.
    First,
    /// It waits behind others.
    Behind,
    /// The lane was full.
    Dropped,
}

/// The lane.
#[derive(Debug)]
pub struct Lane {
    waiting: Mutex<Packets>,
    limit: usize,
    /// The appending side found it full and waits for room.
    starved: AtomicBool,
    dropped: AtomicU64,
    /// An event descriptor that is readable while something waits here or in the taker's hands. It is
    /// written and read under the lock only, so that it never lies.
    signal: Option<OwnedFd>,
}

impl Lane {
    /// A lane that holds at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            limit,
            starved: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            signal: None,
        }
    }

    /// A lane whose taker waits on a descriptor.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn with_signal(limit: usize) -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { signal: Some(signal), ..Self::new(limit) })
    }

    /// The descriptor of [`Self::with_signal`].
    pub fn signal(&self) -> Option<BorrowedFd<'_>> {
        self.signal.as_ref().map(AsFd::as_fd)
    }

    fn raise(&self) {
        if let Some(signal) = &self.signal {
            // An event counter takes eight bytes as long as it is below its limit of 2⁶⁴ − 1.
            let _ = rustix::io::write(signal, &1u64.to_ne_bytes());
        }
    }

    /// The taker has nothing in its hands any more: the descriptor says so, if nothing waits here.
    pub fn settle(&self) {
        let waiting = self.lock();
        if waiting.is_empty()
            && let Some(signal) = &self.signal
        {
            // Nothing to read: it was not raised.
            let _ = rustix::io::read(signal, &mut [0; 8]);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Packets> {
        // Packets are whole at every point where somebody could panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends one packet, or drops and counts it when the lane is full.
    pub fn offer(&self, packet: &[u8]) -> Offered {
        self.offer_parts(&[IoSlice::new(packet)])
    }

    /// [`Self::offer`] of a packet in parts.
    pub fn offer_parts(&self, parts: &[IoSlice<'_>]) -> Offered {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let mut waiting = self.lock();
        if waiting.bytes() + len > self.limit {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return Offered::Dropped;
        }
        let first = waiting.is_empty();
        for part in parts {
            waiting.bytes.extend_from_slice(part);
        }
        let end = waiting.bytes.len();
        waiting.ends.push(end);
        if first {
            self.raise();
            return Offered::First;
        }
        Offered::Behind
    }

    /// Appends all of `packets` and empties it; the caller has looked at [`Self::room`] before.
    pub fn append(&self, packets: &mut Packets) {
        if packets.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        let first = waiting.is_empty();
        if first {
            std::mem::swap(&mut *waiting, packets);
        } else {
            waiting.append(packets);
        }
        packets.clear();
        if first {
            self.raise();
        }
    }

    /// Bytes that still fit. Less than `wanted`: the next [`Self::take`] says that somebody waits.
    pub fn room(&self, wanted: usize) -> usize {
        // Under the lock: a `take` between looking and noting would wake nobody.
        let waiting = self.lock();
        let room = self.limit.saturating_sub(waiting.bytes());
        if room < wanted {
            self.starved.store(true, Ordering::Release);
        }
        room
    }

    /// Swaps the waiting packets into `into`, which must be empty. `true`: the appending side waits.
    pub fn take(&self, into: &mut Packets) -> bool {
        let mut waiting = self.lock();
        std::mem::swap(&mut *waiting, into);
        self.starved.swap(false, Ordering::AcqRel)
    }

    /// Packets that did not fit.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_out_whole_and_in_order_and_what_does_not_fit_is_counted() {
        let lane = Lane::new(10);
        assert_eq!(lane.offer(b"abcd"), Offered::First);
        assert_eq!(lane.offer_parts(&[IoSlice::new(b"e"), IoSlice::new(b"f")]), Offered::Behind);
        assert_eq!(lane.offer(b"too long"), Offered::Dropped);
        let mut more = Packets::default();
        more.push(b"ghij");
        lane.append(&mut more);
        assert!(more.is_empty());
        assert_eq!(lane.room(1), 0);
        let mut taken = Packets::default();
        assert!(lane.take(&mut taken), "somebody waits for room");
        assert_eq!(taken.iter().collect::<Vec<_>>(), [b"abcd".as_slice(), b"ef", b"ghij"]);
        assert_eq!((lane.dropped(), lane.room(1)), (1, 10));
        assert!(!lane.take(&mut more));
    }

    #[test]
    fn the_descriptor_is_readable_exactly_while_packets_wait_or_are_in_the_takers_hands() {
        let lane = Lane::with_signal(100).unwrap();
        let readable = || {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let fd = lane.signal().unwrap();
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
        };
        assert!(!readable());
        lane.offer(b"a");
        lane.offer(b"b");
        assert!(readable());
        let mut taken = Packets::default();
        lane.take(&mut taken);
        assert!(readable(), "the taker still has them");
        lane.offer(b"c");
        lane.settle();
        assert!(readable(), "another one has come");
        taken.clear();
        lane.take(&mut taken);
        lane.settle();
        assert!(!readable());
    }
}
