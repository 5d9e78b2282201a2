//! Replies kept for a while, so that the next who asks need not wait, and does not wait in vain.
//!
//! One cache belongs to one view: what is kept for one asker is never shown to another. It holds
//! - answers of our own as bytes, until the view changes;
//! - upstreams' replies while they are fresh (RFC 2308), and for a day after that in case the upstreams
//!   fall silent (RFC 8767);
//! - failures of all upstreams for a moment (RFC 9520), so that a storm of retries stays here.
//!
//! It never reads a clock and does no I/O. Its memory is bounded by bytes; when full, what was not
//! asked for since the hand last passed goes first (CLOCK).

mod question;
pub mod reply;

pub use question::Question;

use crate::ede::{Ede, append_opt};
use reply::Kept;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long after its end a reply may still be shown when nobody answers (RFC 8767 §5 allows 1–3 days).
const STALE_FOR: Duration = Duration::from_secs(86_400);
/// TTL of a stale answer (RFC 8767 §4 recommends 30 s).
const STALE_TTL: u32 = 30;
/// How long a stale answer is shown at once after the upstreams were found silent (RFC 8767 §5).
const STALE_AGAIN: Duration = Duration::from_secs(10);
/// How long a failure counts: long enough for a burst of retries, short enough that nobody waits for a
/// cache once the network is back (RFC 9520 §3.2: at least one second).
const FAILED_FOR: Duration = Duration::from_secs(2);
/// What a slot costs beside the bytes of its reply and key.
const SLOT_OVERHEAD: usize = 160;
/// Fetched again ahead of its end when less than this part of its life is left and somebody asks.
const PREFETCH_PART: u32 = 10;
/// Shorter lives are not worth it.
const PREFETCH_MIN_TTL: u32 = 20;

/// What the cache knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// The reply was written.
    Fresh,
    /// The reply was written; it ends soon and somebody should ask the upstreams again.
    Ending,
    /// There is one past its end: ask the upstreams, and fall back to [`ReplyCache::write_stale`].
    Stale,
    /// The upstreams failed a moment ago.
    Failed,
    /// Nothing.
    Miss,
}

#[derive(Debug)]
enum Life {
    /// Until the cache is cleared.
    Ours,
    /// An upstream's reply.
    Upstream {
        from: Instant,
        until: Instant,
        /// While the upstreams are known to be silent.
        silent_until: Option<Instant>,
        /// Somebody has been told to ask again.
        refreshing: bool,
    },
    /// A failure.
    Failed { until: Instant },
}

#[derive(Debug)]
struct Slot {
    key: Arc<[u8]>,
    kept: Option<Kept>,
    life: Life,
    touched: bool,
}

impl Slot {
    fn size(&self) -> usize {
        SLOT_OVERHEAD + self.key.len() + self.kept.as_ref().map_or(0, Kept::size)
    }
}

/// The cache of one view.
#[derive(Debug)]
pub struct ReplyCache {
    max_bytes: usize,
    bytes: usize,
    places: HashMap<Arc<[u8]>, usize>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    hand: usize,
}

impl ReplyCache {
    /// An empty cache that grows to at most `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, bytes: 0, places: HashMap::new(), slots: Vec::new(), free: Vec::new(), hand: 0 }
    }

    /// Forgets everything: another view, or other upstreams.
    pub fn clear(&mut self) {
        *self = Self::new(self.max_bytes);
    }

    /// Forgets answers of our own; what upstreams said stays.
    pub fn clear_ours(&mut self) {
        for place in 0..self.slots.len() {
            if self.slots[place].as_ref().is_some_and(|slot| matches!(slot.life, Life::Ours)) {
                self.remove(place);
            }
        }
    }

    /// How many replies are kept.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of memory in use, by estimate.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Looks a question up. With [`Looked::Fresh`] and [`Looked::Ending`], `out` holds the reply to
    /// `client`, the packet that `question` was read from.
    pub fn look(&mut self, question: &Question, client: &[u8], now: Instant, out: &mut Vec<u8>) -> Looked {
        let Some(place) = self.places.get(question.key()) else { return Looked::Miss };
        let Some(slot) = &mut self.slots[*place] else { return Looked::Miss };
        slot.touched = true;
        match (&mut slot.life, &slot.kept) {
            (Life::Ours, Some(kept)) => {
                write(kept, question, client, 0, 0, None, out);
                Looked::Fresh
            }
            (Life::Upstream { until, silent_until, .. }, Some(kept)) if now >= *until => {
                let known_silent = silent_until.is_some_and(|silent| now < silent);
                if known_silent {
                    write(kept, question, client, u32::MAX, STALE_TTL, Some(Ede::StaleAnswer), out);
                }
                match known_silent {
                    true => Looked::Fresh,
                    false if now < *until + STALE_FOR => Looked::Stale,
                    false => Looked::Miss,
                }
            }
            (Life::Upstream { from, until, refreshing, .. }, Some(kept)) => {
                write(kept, question, client, seconds(now.saturating_duration_since(*from)), 1, None, out);
                let left = seconds(until.saturating_duration_since(now));
                let ending = kept.ttl >= PREFETCH_MIN_TTL && left < kept.ttl / PREFETCH_PART;
                match ending && !std::mem::replace(refreshing, true) {
                    true => Looked::Ending,
                    false => Looked::Fresh,
                }
            }
            (Life::Failed { until }, _) if now < *until => Looked::Failed,
            (Life::Failed { .. } | Life::Ours | Life::Upstream { .. }, _) => Looked::Miss,
        }
    }

    /// Writes what was true before, for a question whose upstreams are silent. Until they are tried
    /// again, it is shown at once.
    pub fn write_stale(
        &mut self,
        question: &Question,
        client: &[u8],
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(place) = self.places.get(question.key()) else { return false };
        let Some(Slot { kept: Some(kept), life: Life::Upstream { until, silent_until, .. }, .. }) =
            &mut self.slots[*place]
        else {
            return false;
        };
        if now >= *until + STALE_FOR {
            return false;
        }
        *silent_until = Some(now + STALE_AGAIN);
        write(kept, question, client, u32::MAX, STALE_TTL, Some(Ede::StaleAnswer), out);
        true
    }

    /// Keeps an answer of our own.
    pub fn keep_ours(&mut self, question: &Question, reply: &[u8]) {
        if let Some(kept) = Kept::of_ours(reply, question.question_end) {
            self.put(question, Some(kept), Life::Ours);
        }
    }

    /// Keeps an upstream's reply, if it may be kept.
    pub fn keep(&mut self, question: &Question, reply: &[u8], now: Instant) {
        if let Some(kept) = Kept::of_upstream(reply, question.question_end) {
            let until = now + Duration::from_secs(u64::from(kept.ttl));
            let life = Life::Upstream { from: now, until, silent_until: None, refreshing: false };
            self.put(question, Some(kept), life);
        }
    }

    /// Remembers that nobody answered. What was known before stays.
    pub fn keep_failure(&mut self, question: &Question, now: Instant) {
        let known = self.places.get(question.key()).and_then(|place| self.slots[*place].as_ref());
        if known.is_none_or(|slot| slot.kept.is_none()) {
            self.put(question, None, Life::Failed { until: now + FAILED_FOR });
        }
    }

    fn put(&mut self, question: &Question, kept: Option<Kept>, life: Life) {
        if let Some(place) = self.places.get(question.key()).copied() {
            self.remove(place);
        }
        let slot = Slot { key: question.key().into(), kept, life, touched: false };
        let size = slot.size();
        // One reply may not push out half of the others.
        if size > self.max_bytes / 2 {
            return;
        }
        while self.bytes + size > self.max_bytes {
            self.evict();
        }
        self.bytes += size;
        let key = Arc::clone(&slot.key);
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place] = Some(slot);
                place
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() - 1
            }
        };
        self.places.insert(key, place);
    }

    fn remove(&mut self, place: usize) {
        if let Some(slot) = self.slots[place].take() {
            self.bytes -= slot.size();
            self.places.remove(&slot.key);
            self.free.push(place);
        }
    }

    /// Removes one reply: the first from the hand on that nobody asked for since it last passed.
    fn evict(&mut self) {
        for _ in 0..2 * self.slots.len() {
            self.hand = (self.hand + 1) % self.slots.len();
            let spared = self.slots[self.hand].as_mut().is_none_or(|slot| std::mem::take(&mut slot.touched));
            if !spared {
                self.remove(self.hand);
                return;
            }
        }
    }
}

fn write(
    kept: &Kept,
    question: &Question,
    client: &[u8],
    age: u32,
    floor: u32,
    why: Option<Ede>,
    out: &mut Vec<u8>,
) {
    kept.write(client, question.question_end, age, floor, out);
    if question.edns {
        append_opt(out, question.dnssec_ok(), why);
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
