//! What one session has to send of the map: one update at a time, in parts that are sealed only when the
//! connection has taken the part before.
//!
//! Invariant: a place among the large updates is held for a bounded time. A node that takes an update and
//! does not say so in time loses its session, not its map: it comes back and resumes.

use crate::netmap::Delta;
use meshd_proto::control::MapPosition;
use meshd_proto::limits::{MAX_CONTROL_MESSAGE, MAX_UPDATE_ENTRIES};
use meshd_proto::netmap::{Entry, MapUpdate};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// A part holds at most this many bytes of entries, so that it fits a message with room to spare.
const MAX_PART_BYTES: usize = MAX_CONTROL_MESSAGE / 2;
/// A node has this long to apply an update and say so…
const ACK_PATIENCE: Duration = Duration::from_secs(30);
/// …and the time that the update takes on the slowest line that we serve, in bytes per second.
const SLOWEST_LINE: usize = 4 * 1024;

/// The map as the node has it, and what is under way.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Where the node's map is now.
    pub(super) at: MapPosition,
    /// Where it will be after the update under way.
    sent: Option<MapPosition>,
    parts: VecDeque<MapUpdate>,
    admission: Option<OwnedSemaphorePermit>,
    /// When the update under way must have been acknowledged.
    due: Option<Instant>,
}

impl Outbox {
    pub(super) const fn new(at: MapPosition) -> Self {
        Self { at, sent: None, parts: VecDeque::new(), admission: None, due: None }
    }

    /// Whether an update waits to be written or acknowledged.
    pub(super) const fn is_busy(&self) -> bool {
        self.sent.is_some()
    }

    /// When the node must have acknowledged what is under way.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What a node that has read everything written so far must be at.
    pub(super) fn expected(&self) -> MapPosition {
        self.sent.filter(|_| self.parts.is_empty()).unwrap_or(self.at)
    }

    /// Begins an update that leads to `to`; as a snapshot, or from where the node is.
    pub(super) fn begin(
        &mut self,
        delta: Delta,
        to: MapPosition,
        snapshot: bool,
        admission: Option<OwnedSemaphorePermit>,
        now: Instant,
    ) {
        let from = (!snapshot).then_some(self.at.version);
        let (parts, bytes) = split(delta, to, from);
        self.parts = parts.into();
        self.due = Some(now + ACK_PATIENCE + Duration::from_secs((bytes / SLOWEST_LINE) as u64));
        self.sent = Some(to);
        self.admission = admission;
    }

    /// The next part to be written.
    pub(super) fn next_part(&mut self) -> Option<MapUpdate> {
        self.parts.pop_front()
    }

    /// The node says where its map is. Returns whether that is right.
    pub(super) fn applied(&mut self, position: MapPosition) -> bool {
        match self.sent.take() {
            Some(sent) if sent == position && self.parts.is_empty() => {
                self.at = position;
                (self.due, self.admission) = (None, None);
                true
            }
            // An update that was given up on may still be acknowledged.
            other => {
                self.sent = other;
                position == self.at
            }
        }
    }

    /// Gives up the update under way: the node asked for everything.
    pub(super) fn abandon(&mut self) {
        self.parts.clear();
        self.sent = None;
        self.admission = None;
        self.due = None;
    }
}

/// Whether an update needs admission.
pub(super) fn is_large(delta: &Delta) -> bool {
    delta.upserts.len() + delta.removes.len() > MAX_UPDATE_ENTRIES
}

/// The parts of an update, and how many bytes they are about.
fn split(delta: Delta, to: MapPosition, from: Option<meshd_proto::Version>) -> (Vec<MapUpdate>, usize) {
    let empty = || MapUpdate {
        network: to.network,
        epoch: to.epoch,
        from,
        to: to.version,
        upserts: Vec::new(),
        removes: Vec::new(),
        digest: to.digest,
        more: true,
    };
    let mut parts = vec![];
    let mut part = empty();
    let (mut bytes, mut total) = (0, 0);
    let mut flush = |part: &mut MapUpdate, bytes: &mut usize, size: usize| {
        let full =
            part.upserts.len() + part.removes.len() >= MAX_UPDATE_ENTRIES || *bytes + size > MAX_PART_BYTES;
        if full && (!part.upserts.is_empty() || !part.removes.is_empty()) {
            parts.push(std::mem::replace(part, empty()));
            *bytes = 0;
        }
        *bytes += size;
        total += size;
    };
    for key in delta.removes {
        flush(&mut part, &mut bytes, 300);
        part.removes.push(key);
    }
    for entry in delta.upserts {
        flush(&mut part, &mut bytes, size_of(&entry));
        part.upserts.push(entry);
    }
    part.more = false;
    parts.push(part);
    (parts, total)
}

/// Bytes of an entry, exact for those that may be large.
fn size_of(entry: &Entry) -> usize {
    match entry {
        Entry::Peer(_) | Entry::Route(_) | Entry::FilterPresent | Entry::Relay(_) => 512,
        Entry::Me(_)
        | Entry::Rule(..)
        | Entry::DnsConfig(_)
        | Entry::Record(..)
        | Entry::Service(_)
        | Entry::Gateway(..)
        | Entry::Forward(_)
        | Entry::Coordinator(_) => entry.encode().len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_proto::netmap::{EntryKey, Route};
    use meshd_proto::{Epoch, MapDigest, NetworkId, NodeId, Prefix, Version};

    fn position(version: u64) -> MapPosition {
        let network = NetworkId::from_bytes([1; 16]);
        MapPosition {
            network,
            epoch: Epoch(1),
            version: Version(version),
            digest: MapDigest::of(&[version as u8]),
        }
    }

    fn delta(n: u32) -> Delta {
        let route = |i| {
            Entry::Route(Route {
                prefix: Prefix::host(std::net::Ipv4Addr::from(i).into()),
                rank: 0,
                owner: NodeId(1),
            })
        };
        let removes = vec![EntryKey::Peer(NodeId(5))];
        Delta { upserts: (0..n).map(route).collect(), removes, digest: MapDigest::EMPTY }
    }

    #[test]
    fn an_update_is_cut_into_parts_that_join_to_the_whole() {
        let n = 3 * MAX_UPDATE_ENTRIES as u32;
        let mut outbox = Outbox::new(position(1));
        outbox.begin(delta(n), position(2), false, None, Instant::now());
        let mut whole = outbox.next_part().unwrap();
        assert_eq!(whole.from, Some(Version(1)));
        assert_eq!(outbox.expected(), position(1), "not all of it is written");
        let mut parts = 1;
        while whole.more {
            let part = outbox.next_part().unwrap();
            assert!(part.upserts.len() + part.removes.len() <= MAX_UPDATE_ENTRIES);
            whole.append(part).unwrap();
            parts += 1;
        }
        assert_eq!((parts, whole.upserts.len(), whole.removes.len()), (4, n as usize, 1));
        assert_eq!(outbox.expected(), position(2));
        assert!(outbox.is_busy() && outbox.applied(position(2)) && !outbox.is_busy());
        assert!(!outbox.applied(position(3)));
    }

    #[test]
    fn an_update_is_due_for_as_long_as_it_is_under_way() {
        let now = Instant::now();
        let mut outbox = Outbox::new(position(1));
        outbox.begin(delta(10), position(2), false, None, now);
        let small = outbox.due().unwrap();
        assert!(small > now);
        while outbox.next_part().is_some() {}
        assert!(outbox.applied(position(1)), "an old acknowledgement");
        assert_eq!(outbox.due(), Some(small), "buys no time");
        assert!(outbox.applied(position(2)));
        assert_eq!(outbox.due(), None);
        outbox.begin(delta(100_000), position(3), false, None, now);
        assert!(outbox.due().unwrap() > small + Duration::from_secs(60), "a long one on a slow line");
        outbox.abandon();
        assert_eq!(outbox.due(), None);
    }

    #[test]
    fn large_entries_are_parted_by_size() {
        let gateway = |i: usize| Entry::Gateway(format!("g{i}"), "x".repeat(MAX_PART_BYTES / 2));
        let delta = Delta { upserts: (0..5).map(gateway).collect(), ..Delta::default() };
        let (parts, _) = split(delta, position(2), None);
        assert!(parts.len() >= 3);
        for part in parts {
            let message = meshd_proto::control::ToNode::Map(part).encode();
            assert!(message.len() <= MAX_CONTROL_MESSAGE, "{}", message.len());
        }
    }
}
