//! What happened to packets, as numbers. Reasons are counted, never returned through the loop.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum DropReason {
    /// Not an IP packet, or one that contradicts itself.
    Malformed,
    /// No peer has that destination.
    NoRoute,
    /// From the host, with a source that is neither this node nor behind it.
    OwnSource,
    /// The peers that own the destination have no session, and the waiting room is full.
    QueueFull,
    /// A session index that nobody has.
    UnknownIndex,
    /// The session refused it: forged, or of a key that has ended.
    NotAuthentic,
    /// Seen before: a copy that came another way, or a replay.
    Replayed,
    /// So much later than its successors that it cannot be told from a replay.
    TooLate,
    /// The peer is not entitled to that source address.
    PeerSource,
    /// The destination is neither this node nor behind it.
    NotForUs,
    /// The policy does not allow it.
    Denied,
    /// A fragment whose first part was not let in, or that could rewrite headers.
    Fragment,
    /// The flow was cut by a change of policy.
    Cut,
    /// The caller had no room.
    NoRoom,
    /// A mark of congestion on a packet that cannot carry one: it stands for a loss (RFC 6040).
    Congestion,
    /// A probe that is not authentic.
    BadProbe,
    /// A handshake that was refused: unknown or expired peer, replay, flood.
    BadHandshake,
}

const REASONS: [(DropReason, &str); 17] = [
    (DropReason::Malformed, "malformed"),
    (DropReason::NoRoute, "no_route"),
    (DropReason::OwnSource, "own_source"),
    (DropReason::QueueFull, "queue_full"),
    (DropReason::UnknownIndex, "unknown_index"),
    (DropReason::NotAuthentic, "not_authentic"),
    (DropReason::Replayed, "replayed"),
    (DropReason::TooLate, "too_late"),
    (DropReason::PeerSource, "peer_source"),
    (DropReason::NotForUs, "not_for_us"),
    (DropReason::Denied, "denied"),
    (DropReason::Fragment, "fragment"),
    (DropReason::Cut, "cut"),
    (DropReason::NoRoom, "no_room"),
    (DropReason::Congestion, "congestion"),
    (DropReason::BadProbe, "bad_probe"),
    (DropReason::BadHandshake, "bad_handshake"),
];

/// Counters of dropped packets.
#[derive(Debug, Default)]
pub struct Counters {
    drops: [AtomicU64; REASONS.len()],
}

impl Counters {
    /// Counts one.
    pub fn count(&self, why: DropReason) {
        self.drops[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many were dropped for that reason.
    pub fn dropped(&self, why: DropReason) -> u64 {
        self.drops[why as usize].load(Ordering::Relaxed)
    }

    /// All reasons with their numbers.
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        REASONS.iter().map(|(why, name)| (*name, self.dropped(*why))).collect()
    }
}
