//! What the data threads and the engine share about one peer.

use crate::event::{Destination, Source};
use crate::path::probe::Fitness;
use crate::session::SessionIndex;
use meshd_proto::{NodeId, NodeKey};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A value on a cache line of its own: threads that write neighbours do not wait for each other.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct OwnLine<T>(T);

impl<T> Deref for OwnLine<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// One peer, for as long as it stays in the map with the same key.
#[derive(Debug)]
pub struct PeerSlot<S> {
    /// The peer.
    pub id: NodeId,
    /// Its key.
    pub key: NodeKey,
    /// Names the peer in datagrams to us.
    pub index: SessionIndex,
    live: Mutex<Live<S>>,
    alive: AtomicBool,
    fitness: AtomicU8,
    /// Bytes of IP packets sent.
    pub tx_bytes: OwnLine<AtomicU64>,
    /// Bytes of IP packets received.
    pub rx_bytes: OwnLine<AtomicU64>,
    /// Stamp of the last data sent (keepalives excluded); 0: never.
    pub last_tx: OwnLine<AtomicU64>,
    /// Stamp of the last authenticated packet received, any way.
    pub last_rx: OwnLine<AtomicU64>,
    /// The same, keepalives excluded.
    pub last_data_rx: OwnLine<AtomicU64>,
    /// Stamp of the last authenticated packet received on the direct path in use.
    pub last_path_rx: OwnLine<AtomicU64>,
}

/// The part of a slot behind its lock.
#[derive(Debug)]
pub struct Live<S> {
    /// The session; made when it is first needed.
    pub session: Option<Box<S>>,
    /// Which way data goes.
    pub path: PathChoice,
    /// The way of the last packet that was reported by `seen`, and when (stamp).
    pub(crate) reported: Option<(Source, u64)>,
    /// The engine waits for the first packet: report it whatever way it comes.
    pub(crate) report_next: bool,
}

/// Which way data goes right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PathChoice {
    /// There; `None`: nowhere yet.
    pub to: Option<Destination>,
    /// And there too, while `to` is in doubt.
    pub also: Option<Destination>,
}

impl<S> PeerSlot<S> {
    pub(crate) fn new(id: NodeId, key: NodeKey, index: SessionIndex) -> Self {
        Self {
            id,
            key,
            index,
            live: Mutex::new(Live {
                session: None,
                path: PathChoice::default(),
                reported: None,
                report_next: false,
            }),
            alive: AtomicBool::new(true),
            fitness: AtomicU8::new(0),
            tx_bytes: OwnLine::default(),
            rx_bytes: OwnLine::default(),
            last_tx: OwnLine::default(),
            last_rx: OwnLine::default(),
            last_data_rx: OwnLine::default(),
            last_path_rx: OwnLine::default(),
        }
    }

    /// Locks the session and the path.
    pub fn lock(&self) -> MutexGuard<'_, Live<S>> {
        // A panic under the lock leaves a session that at worst refuses packets.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether flows may stay with it where a prefix has several owners.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed) && self.fitness() != Fitness::LanDown
    }

    /// Whether new flows may go to it where a prefix has several owners.
    pub fn takes_new(&self) -> bool {
        self.alive.load(Ordering::Relaxed) && self.fitness() == Fitness::Fit
    }

    /// What it says of itself as a router.
    pub fn fitness(&self) -> Fitness {
        Fitness::of_flags(self.fitness.load(Ordering::Relaxed))
    }

    pub(crate) fn set_fitness(&self, fitness: Fitness) {
        self.fitness.store(fitness.flags(), Ordering::Relaxed);
    }

    pub(crate) fn set_alive(&self, alive: bool) {
        self.alive.store(alive, Ordering::Relaxed);
    }
}
