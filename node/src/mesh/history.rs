//! Which ways data to each peer went, and why: a bounded ring per peer, for `meshd path`.

use meshd_engine::status::{PathStatus, Status};
use meshd_engine::{Destination, PathReason};
use meshd_proto::{NodeId, UnixSeconds};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Moments kept for one peer.
const MOMENTS: usize = 256;

/// One change of a peer's path, or a look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When.
    pub at: UnixSeconds,
    /// Which way from then on.
    pub path: PathStatus,
    /// Why; `None`: it was only looked at.
    pub why: Option<PathReason>,
    /// Round-trip time, where it was measured.
    pub rtt: Option<Duration>,
}

/// All rings.
#[derive(Debug, Default)]
pub(super) struct History {
    rings: HashMap<NodeId, VecDeque<Moment>>,
}

impl History {
    /// A path changed.
    pub(super) fn changed(
        &mut self,
        peer: NodeId,
        to: Option<Destination>,
        why: PathReason,
        at: UnixSeconds,
    ) {
        let path = match to {
            Some(Destination::Udp(endpoint)) => {
                PathStatus::Direct { endpoint, doubtful: matches!(why, PathReason::Doubtful) }
            }
            Some(Destination::Relay { relay, .. }) => PathStatus::Relay(relay),
            None => PathStatus::None,
        };
        self.push(peer, Moment { at, path, why: Some(why), rtt: None });
    }

    /// Notes how all paths are; peers that left are forgotten.
    pub(super) fn look(&mut self, status: &Status, at: UnixSeconds) {
        self.rings.retain(|id, _| status.peers.iter().any(|p| p.id == *id));
        for peer in status.peers.iter().filter(|p| p.session && p.path != PathStatus::None) {
            self.push(peer.id, Moment { at, path: peer.path, why: None, rtt: peer.rtt });
        }
    }

    fn push(&mut self, peer: NodeId, moment: Moment) {
        let ring = self.rings.entry(peer).or_default();
        if ring.len() >= MOMENTS {
            ring.pop_front();
        }
        ring.push_back(moment);
    }

    /// One peer's moments, oldest first.
    pub(super) fn of(&self, peer: NodeId) -> Vec<Moment> {
        self.rings.get(&peer).map(|ring| ring.iter().copied().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_proto::RelayId;

    #[test]
    fn a_ring_keeps_the_latest_and_no_more() {
        let (mut history, peer) = (History::default(), NodeId(7));
        let relay = Destination::Relay { relay: RelayId(1), peer: meshd_proto::NodeKey::from_bytes([1; 32]) };
        for n in 0..MOMENTS as u64 + 10 {
            history.changed(peer, Some(relay), PathReason::Dead, UnixSeconds(n));
        }
        let kept = history.of(peer);
        assert_eq!((kept.len(), kept[0].at), (MOMENTS, UnixSeconds(10)));
        assert!(matches!(kept[0].path, PathStatus::Relay(RelayId(1))));
        assert!(history.of(NodeId(8)).is_empty());
    }
}
