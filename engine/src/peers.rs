//! What the engine keeps about each peer.

use crate::data::{PeerSlot, moment};
use crate::engine::Duty;
use crate::event::Destination;
use crate::nat::Mapping;
use crate::path::birthday::{Grant, Meeting, Sweep};
use crate::path::probe::{ProbeKey, SenderTag};
use crate::path::replay::Guard;
use crate::path::{Activity, Paths};
use meshd_proto::netmap::{Peer, PeerKind};
use meshd_proto::{Endpoint, Hint, NodeId, NodeKey, RelayId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Packets kept for one peer while its session is being made. More would only make a burst of what is
/// old by then.
pub(crate) const QUEUE: usize = 16;

/// One peer.
pub(crate) struct PeerState<S> {
    pub(crate) peer: Peer,
    pub(crate) slot: Arc<PeerSlot<S>>,
    pub(crate) tag: SenderTag,
    /// Made when it is first needed: it costs a Diffie-Hellman. `Some(None)`: a key of low order.
    pub(crate) probe_key: Option<Option<ProbeKey>>,
    /// Which of its probes are new.
    pub(crate) guard: Guard,
    pub(crate) paths: Paths,
    pub(crate) hint: Option<Hint>,
    /// The relay that an authenticated packet of the peer last came through.
    pub(crate) relay_heard: Option<(RelayId, Instant)>,
    /// The relay that last said that it does not know the peer.
    pub(crate) relay_gone: Option<(RelayId, Instant)>,
    /// What the peer itself said of where it is.
    pub(crate) said: Said,
    /// Crossing difficult NATs.
    pub(crate) meeting: Meeting,
    pub(crate) grant: Grant,
    pub(crate) sweep: Option<Sweep>,
    /// The endpoint of the peer that is reached by one of our many sockets.
    pub(crate) adopted: Option<Endpoint>,
    /// Its answers to probes as a router.
    pub(crate) duty: Duty,
    /// Packets that wait for a session.
    pub(crate) queue: VecDeque<Vec<u8>>,
    pub(crate) attempt: Option<Attempt>,
    /// A handshake of ours was answered, and nothing was heard since.
    pub(crate) unconfirmed: Option<Unconfirmed>,
    /// When we last asked for hints.
    pub(crate) interest: Option<Instant>,
    /// When we last sent our candidates.
    pub(crate) told: Option<Instant>,
    /// How often we have said the same again.
    pub(crate) retold: u8,
    /// A session was announced by `PeerUp`.
    pub(crate) up: bool,
    /// When a person asked for a ping that has not been answered yet.
    pub(crate) asking: Option<Instant>,
}

/// What a peer said of itself in its last list of candidates.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said {
    pub(crate) home_relay: Option<RelayId>,
    pub(crate) backup_relay: Option<RelayId>,
    pub(crate) mapping: Mapping,
    /// Its IPv4 endpoint as STUN sees it.
    pub(crate) mapped: Option<Endpoint>,
}

/// A handshake of ours that is under way.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) tries: u32,
    pub(crate) began: Instant,
    /// When the last initiation was sent.
    pub(crate) sent: Instant,
    /// That initiation, for places that become known meanwhile.
    pub(crate) message: Vec<u8>,
    /// Where it was sent.
    pub(crate) sent_to: Vec<Destination>,
}

/// A key pair that the other side may not use yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unconfirmed {
    pub(crate) since: Instant,
    pub(crate) repeats: usize,
}

impl<S> PeerState<S> {
    pub(crate) fn new(peer: Peer, slot: PeerSlot<S>, tag: SenderTag) -> Self {
        Self {
            paths: Paths::new(peer.key),
            peer,
            slot: Arc::new(slot),
            tag,
            probe_key: None,
            guard: Guard::default(),
            hint: None,
            relay_heard: None,
            relay_gone: None,
            said: Said::default(),
            meeting: Meeting::default(),
            grant: Grant::default(),
            sweep: None,
            adopted: None,
            duty: Duty::default(),
            queue: VecDeque::new(),
            attempt: None,
            unconfirmed: None,
            interest: None,
            told: None,
            retold: 0,
            up: false,
            asking: None,
        }
    }

    /// Whether it runs our software.
    pub(crate) fn is_meshd(&self) -> bool {
        self.peer.kind == PeerKind::Meshd
    }

    /// When data last went either way, from the stamps that the data threads leave.
    pub(crate) fn activity(&self, epoch: Instant) -> Activity {
        Activity {
            sent: moment(epoch, self.slot.last_tx.load(Ordering::Relaxed)),
            received: moment(epoch, self.slot.last_data_rx.load(Ordering::Relaxed)),
            received_direct: moment(epoch, self.slot.last_path_rx.load(Ordering::Relaxed)),
            heard: moment(epoch, self.slot.last_rx.load(Ordering::Relaxed)),
        }
    }

    /// Keeps a packet until there is a session; returns whether another one had to go for it.
    pub(crate) fn enqueue(&mut self, packet: Vec<u8>) -> bool {
        let full = self.queue.len() >= QUEUE;
        if full {
            self.queue.pop_front();
        }
        self.queue.push_back(packet);
        full
    }
}

/// All peers, and the ways to find one.
pub(crate) struct Peers<S> {
    by_id: BTreeMap<NodeId, PeerState<S>>,
    by_key: HashMap<NodeKey, NodeId>,
    by_tag: HashMap<SenderTag, NodeId>,
}

impl<S> Peers<S> {
    pub(crate) fn new() -> Self {
        Self { by_id: BTreeMap::new(), by_key: HashMap::new(), by_tag: HashMap::new() }
    }

    pub(crate) fn get(&self, id: NodeId) -> Option<&PeerState<S>> {
        self.by_id.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: NodeId) -> Option<&mut PeerState<S>> {
        self.by_id.get_mut(&id)
    }

    pub(crate) fn by_key(&self, key: &NodeKey) -> Option<NodeId> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn by_tag(&self, tag: SenderTag) -> Option<NodeId> {
        self.by_tag.get(&tag).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &PeerState<S>> {
        self.by_id.values()
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.by_id.keys().copied().collect()
    }

    pub(crate) fn insert(&mut self, state: PeerState<S>) {
        self.by_key.insert(state.peer.key, state.peer.id);
        self.by_tag.insert(state.tag, state.peer.id);
        self.by_id.insert(state.peer.id, state);
    }

    pub(crate) fn remove(&mut self, id: NodeId) -> Option<PeerState<S>> {
        let state = self.by_id.remove(&id)?;
        if self.by_key.get(&state.peer.key) == Some(&id) {
            self.by_key.remove(&state.peer.key);
        }
        if self.by_tag.get(&state.tag) == Some(&id) {
            self.by_tag.remove(&state.tag);
        }
        Some(state)
    }
}
