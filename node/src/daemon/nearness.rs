//! Of several addresses of a name the healthy and near ones first: how near they are, by the paths of the
//! nodes that have them or route them.
//!
//! Round-trip times count by steps of a half, so that an answer's order does not follow every probe.

use super::Daemon;
use super::status::engine_status;
use meshd_dns::Nearness;
use meshd_engine::status::{PathStatus, PeerStatus};
use meshd_proto::netmap::RecordValue;
use meshd_proto::{NetworkMap, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// So long ago that whom the coordinator misses as well is gone.
const SILENT: Duration = Duration::from_secs(8);
/// This host itself, or a network that it is in.
const HERE: u8 = 0;
/// A path whose time nobody has measured.
const UNMEASURED: u8 = 64;
/// A path that does not answer right now is behind all others that may.
const DOUBTFUL: u8 = 100;

impl Daemon {
    /// Tells the resolver which of several addresses are near.
    pub(super) async fn rank_addresses(&self) {
        let Some(running) = &self.running else { return };
        let several = several(&running.map);
        let near = if several.is_empty() {
            Nearness::default()
        } else {
            let Some(engine) = engine_status(running).await else { return };
            let peers = engine.peers.iter().map(|p| (p.id, rank_of(p))).collect();
            nearness(&running.map, &several, &peers)
        };
        self.names.names().set_nearness(near);
    }
}

/// The addresses that stand beside others in a record.
fn several(map: &NetworkMap) -> BTreeSet<IpAddr> {
    let sets = map.dns.records.values().filter(|set| set.values.len() > 1);
    let address = |value: &RecordValue| match value {
        RecordValue::Address(ip) => Some(*ip),
        RecordValue::Name(_) | RecordValue::Text(_) => None,
    };
    sets.flat_map(|set| set.values.iter().filter_map(address)).collect()
}

/// How near a peer is.
fn rank_of(peer: &PeerStatus) -> u8 {
    // The coordinator may have lost one that still answers us.
    let silent = peer.last_received.is_none_or(|ago| ago > SILENT);
    match (peer.path, peer.rtt) {
        _ if peer.online == Some(false) && silent => Nearness::GONE,
        (PathStatus::Direct { doubtful: false, .. }, Some(rtt)) => steps(rtt),
        (PathStatus::Direct { doubtful: false, .. }, None) => UNMEASURED,
        (PathStatus::Direct { .. }, _) => DOUBTFUL,
        (PathStatus::Relay(_), Some(rtt)) => steps(rtt),
        (PathStatus::Relay(_), None) => UNMEASURED,
        // Nothing was sent to it yet, or nothing comes back: then it is offline, too, soon.
        (PathStatus::None, _) => UNMEASURED + 1,
    }
}

/// A time in steps: each is half as long again as the one before; the first ends at 1 ms.
fn steps(rtt: Duration) -> u8 {
    let (mut steps, mut limit) = (1, Duration::from_millis(1));
    while rtt > limit && steps < UNMEASURED - 1 {
        limit = limit * 3 / 2;
        steps += 1;
    }
    steps
}

fn nearness(map: &NetworkMap, several: &BTreeSet<IpAddr>, peers: &BTreeMap<NodeId, u8>) -> Nearness {
    let rank = |id: NodeId| peers.get(&id).copied().unwrap_or(Nearness::GONE);
    let me = map.me.as_ref();
    let of = |ip: IpAddr| {
        if me.is_some_and(|me| me.addrs.contains(ip)) {
            return Some(HERE);
        }
        if let Some(peer) = map.peers.values().find(|peer| peer.addrs.contains(ip)) {
            return Some(rank(peer.id));
        }
        let covering =
            || map.routes.iter().filter(|r| !r.prefix.is_default() && r.prefix.net().contains(&ip));
        let longest = covering().map(|r| r.prefix.net().prefix_len()).max()?;
        let owners = covering().filter(|r| r.prefix.net().prefix_len() == longest);
        owners.map(|r| if me.is_some_and(|me| me.id == r.owner) { HERE } else { rank(r.owner) }).min()
    };
    Nearness(several.iter().filter_map(|ip| Some((*ip, of(*ip)?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_proto::netmap::{Entry, Peer, PeerKind, RecordSet, RecordType, Route, SelfNode};
    use meshd_proto::{ClassId, MeshAddrs, MeshPrefixes, NetworkId, NodeKey};

    fn addrs(n: u8) -> MeshAddrs {
        MeshAddrs { v4: [100, 71, 0, n].into(), v6: format!("fd7a:1:2::{n:x}").parse().unwrap() }
    }

    /// Node 1 with the peers 2 to 4; 10.0.0.0/8 lies behind 2, 10.1.0.0/16 behind 3 and 4, and
    /// 192.168.1.0/24 behind this one.
    fn map(values: &[&str]) -> NetworkMap {
        let mut map = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
        map.upsert(Entry::Me(SelfNode {
            id: NodeId(1),
            name: "me".parse().unwrap(),
            addrs: addrs(1),
            class: ClassId(1),
            tags: vec![],
            prefixes: MeshPrefixes {
                v4: "100.71.0.0/16".parse().unwrap(),
                v6: "fd7a:1:2::/48".parse().unwrap(),
            },
            approved_routes: vec![],
            pending_routes: vec![],
            key_expires: None,
            map_lease: 0,
        }));
        for id in 2..=4 {
            map.upsert(Entry::Peer(Peer {
                id: NodeId(id.into()),
                key: NodeKey::from_bytes([id; 32]),
                name: format!("n{id}").parse().unwrap(),
                addrs: addrs(id),
                class: ClassId(1),
                tags: vec![],
                owner: String::new(),
                key_expires: None,
                kind: PeerKind::Meshd,
            }));
        }
        let routes = [("10.0.0.0/8", 2), ("10.1.0.0/16", 3), ("10.1.0.0/16", 4), ("192.168.1.0/24", 1)];
        for (prefix, owner) in routes {
            map.upsert(Entry::Route(Route {
                prefix: prefix.parse().unwrap(),
                rank: 0,
                owner: NodeId(owner),
            }));
        }
        let values = values.iter().map(|ip| RecordValue::Address(ip.parse().unwrap())).collect();
        let set = RecordSet { ttl: 60, values };
        map.upsert(Entry::Record("app.home.internal".parse().unwrap(), RecordType::A, set));
        map
    }

    #[test]
    fn an_address_is_as_near_as_the_nearest_node_that_has_or_routes_it() {
        let all =
            ["100.71.0.1", "100.71.0.2", "100.71.0.4", "10.2.0.1", "10.1.0.1", "192.168.1.9", "9.9.9.9"];
        let map = map(&all);
        let peers = BTreeMap::from([(NodeId(2), 5), (NodeId(3), Nearness::GONE), (NodeId(4), 9)]);
        let near = nearness(&map, &several(&map), &peers);
        let of = |ip: &str| near.0.get(&ip.parse::<IpAddr>().unwrap()).copied();
        assert_eq!(of("100.71.0.1"), Some(HERE));
        assert_eq!(of("192.168.1.9"), Some(HERE));
        assert_eq!((of("100.71.0.2"), of("10.2.0.1")), (Some(5), Some(5)));
        assert_eq!(of("10.1.0.1"), Some(9), "the longest prefix, and of its owners the one that is there");
        assert_eq!(of("9.9.9.9"), None, "the internet: nobody measured it");
    }

    #[test]
    fn an_address_that_stands_alone_is_not_looked_at() {
        assert!(several(&map(&["100.71.0.2"])).is_empty());
    }

    #[test]
    fn times_count_by_steps_of_a_half() {
        let of = |ms| steps(Duration::from_millis(ms));
        assert_eq!((of(0), of(1), of(2)), (1, 1, 3));
        assert_eq!(of(40), of(42), "a probe that is a little slower changes nothing");
        assert!(of(40) < of(90) && of(100_000_000) < UNMEASURED);
    }
}
