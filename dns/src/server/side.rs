//! What one kind of asker is answered from: its view, what is cached for it, and who is being asked
//! for it right now.

use crate::cache::{Looked, Question, ReplyCache};
use crate::view::View;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// What this host itself may fill: some ten thousand names.
pub(super) const OWN_CACHE: usize = 4 << 20;
/// What strangers may fill.
pub(super) const GUEST_CACHE: usize = 1 << 20;

/// View and cache that belong together.
#[derive(Debug)]
pub(super) struct Side {
    view: ArcSwap<View>,
    cache: Mutex<Epoch>,
    flights: Mutex<HashMap<Box<[u8]>, Flight>>,
}

/// A cache and how often it was cleared: a reply that was asked for before does not go in after.
#[derive(Debug)]
struct Epoch {
    number: u64,
    replies: ReplyCache,
}

/// A question that upstreams are being asked.
#[derive(Debug)]
struct Flight {
    to: Vec<IpAddr>,
    landed: watch::Receiver<()>,
}

/// What to do about a question that must go to upstreams.
pub(super) enum Boarding<'s> {
    /// Ask; others wait until the value is dropped.
    Ask(Seat<'s>),
    /// Somebody asks already: wait, then look into the cache.
    Wait(watch::Receiver<()>),
    /// It comes from the very resolver that is being asked: it has gone round in a circle.
    Loop,
}

/// The one who asks. Dropped when the answer is in the cache, or when there is none.
pub(super) struct Seat<'s> {
    side: &'s Side,
    key: Box<[u8]>,
    _landing: watch::Sender<()>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.side.flights().remove(&self.key);
    }
}

impl Side {
    pub(super) fn new(cache_bytes: usize) -> Self {
        Self {
            view: ArcSwap::default(),
            cache: Mutex::new(Epoch { number: 0, replies: ReplyCache::new(cache_bytes) }),
            flights: Mutex::default(),
        }
    }

    /// Another view: no answer of the old one is shown any more, and what upstreams said only if they
    /// would be asked the same again.
    pub(super) fn set_view(&self, view: View) {
        let same_upstreams = self.view.load().forwards_like(&view);
        self.view.store(Arc::new(view));
        if same_upstreams {
            let mut cache = self.cache();
            cache.number += 1;
            cache.replies.clear_ours();
        } else {
            self.forget();
        }
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Forgets what upstreams said.
    pub(super) fn forget(&self) {
        let mut cache = self.cache();
        cache.number += 1;
        cache.replies.clear();
    }

    /// The state of the cache before a question is decided or asked; belongs to [`Self::keep`].
    pub(super) fn epoch(&self) -> u64 {
        self.cache().number
    }

    pub(super) fn look(&self, question: &Question, packet: &[u8], now: Instant, out: &mut Vec<u8>) -> Looked {
        self.cache().replies.look(question, packet, now, out)
    }

    pub(super) fn write_stale(
        &self,
        question: &Question,
        packet: &[u8],
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        self.cache().replies.write_stale(question, packet, now, out)
    }

    /// Changes the cache, unless it was cleared since `epoch`.
    pub(super) fn keep(&self, epoch: u64, change: impl FnOnce(&mut ReplyCache)) {
        let mut cache = self.cache();
        if cache.number == epoch {
            change(&mut cache.replies);
        }
    }

    pub(super) fn kept(&self) -> (usize, usize) {
        let cache = self.cache();
        (cache.replies.len(), cache.replies.bytes())
    }

    /// Makes sure that one of all who ask the same goes to the upstreams.
    pub(super) fn board(
        &self,
        question: &Question,
        asker: Option<IpAddr>,
        to: &[SocketAddr],
    ) -> Boarding<'_> {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(question.key()) {
            return match asker {
                Some(asker) if flight.to.contains(&asker) && !asker.is_loopback() => Boarding::Loop,
                _ => Boarding::Wait(flight.landed.clone()),
            };
        }
        let (landing, landed) = watch::channel(());
        let key: Box<[u8]> = question.key().into();
        flights.insert(key.clone(), Flight { to: to.iter().map(SocketAddr::ip).collect(), landed });
        Boarding::Ask(Seat { side: self, key, _landing: landing })
    }

    fn cache(&self) -> MutexGuard<'_, Epoch> {
        // What a panic could leave behind is still only a cache.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
