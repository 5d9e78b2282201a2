//! The peers that this node talks to or wants to: what the coordinator tells their endpoints for.
//!
//! The engine shows its interest in a peer every minute of use; here an interest that was not renewed for
//! [`LIFETIME`] is over, so that a node does not follow for ever whomever it met once. It reads no clock.

use meshd_proto::limits::MAX_INTEREST;
use meshd_proto::{NetworkMap, NodeId};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Three of the engine's renewals.
const LIFETIME: Duration = Duration::from_secs(180);

/// Whom, and when that was said last.
#[derive(Debug, Default)]
pub(super) struct Interests {
    renewed: HashMap<NodeId, Instant>,
    /// The coordinator does not know yet.
    news: bool,
    /// It knows of somebody.
    known: bool,
}

impl Interests {
    /// `node` is in use.
    pub(super) fn renew(&mut self, node: NodeId, now: Instant) {
        self.news |= self.renewed.insert(node, now).is_none();
    }

    /// Whether the coordinator should hear of it at once.
    pub(super) const fn has_news(&self) -> bool {
        self.news
    }

    /// Whether there is nobody, and the coordinator knows that.
    pub(super) fn is_over(&self) -> bool {
        self.renewed.is_empty() && !self.known
    }

    /// Whom the coordinator should tell of, the most recent if they are too many, in order. Those who left
    /// the map and those not in use any more are forgotten.
    pub(super) fn wanted(&mut self, map: &NetworkMap, now: Instant) -> Vec<NodeId> {
        self.renewed
            .retain(|node, at| map.peers.contains_key(node) && now.saturating_duration_since(*at) < LIFETIME);
        let mut nodes: Vec<_> = self.renewed.iter().map(|(node, at)| (*at, *node)).collect();
        nodes.sort_unstable_by(|a, b| b.cmp(a));
        nodes.truncate(MAX_INTEREST);
        let mut nodes: Vec<NodeId> = nodes.into_iter().map(|(_, node)| node).collect();
        nodes.sort_unstable();
        nodes
    }

    /// What [`Interests::wanted`] gave is on its way.
    pub(super) const fn told(&mut self, nodes: &[NodeId]) {
        self.news = false;
        self.known = !nodes.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use meshd_proto::netmap::{Peer, PeerKind};
    use meshd_proto::{ClassId, MeshAddrs, NetworkId, NodeKey};

    fn map(peers: std::ops::RangeInclusive<u64>) -> NetworkMap {
        let mut map = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
        for id in peers {
            let n = u16::try_from(id).unwrap();
            let peer = Peer {
                id: NodeId(id),
                key: NodeKey::from_bytes([2; 32]),
                name: format!("node{id}").parse().unwrap(),
                addrs: MeshAddrs {
                    v4: std::net::Ipv4Addr::from(0x6447_0000 + u32::from(n)),
                    v6: format!("fd7a:1:2::{n:x}").parse().unwrap(),
                },
                class: ClassId(1),
                tags: vec![],
                owner: String::new(),
                key_expires: None,
                kind: PeerKind::Meshd,
            };
            map.peers.insert(peer.id, peer);
        }
        map
    }

    #[test]
    fn an_interest_that_nobody_renews_is_over_and_the_coordinator_hears_it() {
        let (map, start) = (map(1..=3), clock::now());
        let mut interests = Interests::default();
        assert!(!interests.has_news() && interests.is_over());
        for id in 1..=3 {
            interests.renew(NodeId(id), start);
        }
        assert!(interests.has_news());
        let all = interests.wanted(&map, start);
        assert_eq!(all, [1, 2, 3].map(NodeId));
        interests.told(&all);
        let later = start + LIFETIME - Duration::from_secs(1);
        interests.renew(NodeId(2), later);
        assert!(!interests.has_news(), "known already");
        let end = later + Duration::from_secs(2);
        assert_eq!(interests.wanted(&map, end), [NodeId(2)]);
        interests.told(&[NodeId(2)]);
        let nobody = interests.wanted(&map, end + LIFETIME);
        assert!(nobody.is_empty() && !interests.is_over(), "the coordinator thinks of 2 still");
        interests.told(&nobody);
        assert!(interests.is_over());
    }

    #[test]
    fn of_too_many_the_most_recent_count_and_those_outside_the_map_never() {
        let count = MAX_INTEREST as u64;
        let (map, start) = (map(1..=count + 10), clock::now());
        let mut interests = Interests::default();
        for id in 1..=count + 10 {
            interests.renew(NodeId(id), start + Duration::from_millis(id));
        }
        interests.renew(NodeId(count + 99), start);
        let wanted = interests.wanted(&map, start + Duration::from_secs(60));
        assert_eq!(wanted, (11..=count + 10).map(NodeId).collect::<Vec<_>>());
    }
}
