//! Maps and settings that the tests of this module share.

use super::desired::{Connected, ExitChoice, HostSettings};
use meshd_proto::netmap::{DnsConfig, Peer, PeerKind, Route, SelfNode};
use meshd_proto::{ClassId, MeshAddrs, MeshPrefixes, NetworkId, NetworkMap, NodeId, NodeKey, Prefix};

pub(crate) const EXIT: NodeId = NodeId(8);

fn peer(id: u64, name: &str) -> Peer {
    Peer {
        id: NodeId(id),
        key: NodeKey::from_bytes([u8::try_from(id).unwrap(); 32]),
        name: name.parse().unwrap(),
        addrs: MeshAddrs {
            v4: format!("100.71.0.{id}").parse().unwrap(),
            v6: format!("fd7a:1:2::{id}").parse().unwrap(),
        },
        class: ClassId(1),
        tags: vec![],
        owner: String::new(),
        key_expires: None,
        kind: PeerKind::Meshd,
    }
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// Node 2 of a mesh 100.71.0.0/16; `pi` (7) offers subnets, `vps` (8) is an exit for IPv4.
pub(crate) fn map(approved: &[&str], routes: &[(&str, u64)]) -> NetworkMap {
    let mut map = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
    map.me = Some(SelfNode {
        id: NodeId(2),
        name: "laptop".parse().unwrap(),
        addrs: MeshAddrs { v4: "100.71.0.2".parse().unwrap(), v6: "fd7a:1:2::2".parse().unwrap() },
        class: ClassId(1),
        tags: vec![],
        prefixes: MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() },
        approved_routes: approved.iter().map(|p| prefix(p)).collect(),
        pending_routes: vec![],
        key_expires: None,
        map_lease: 3600,
    });
    map.peers.insert(NodeId(7), peer(7, "pi"));
    map.peers.insert(NodeId(8), peer(8, "vps"));
    for (rank, (text, owner)) in routes.iter().enumerate() {
        let rank = u32::try_from(rank).unwrap();
        map.routes.insert(Route { prefix: prefix(text), rank, owner: NodeId(*owner) });
    }
    map
}

/// The map with the domain `home.internal`.
pub(crate) fn named(mut map: NetworkMap) -> NetworkMap {
    map.dns.config = Some(DnsConfig {
        domain: "home.internal".parse().unwrap(),
        search: vec![],
        split: vec![],
        nameservers: vec![],
        ttl: 60,
    });
    map
}

pub(crate) fn connected(prefixes: &[&str]) -> Vec<Connected> {
    prefixes.iter().map(|p| Connected { prefix: prefix(p), interface: "eth0".into() }).collect()
}

pub(crate) fn with_exit(up: bool) -> HostSettings {
    HostSettings {
        exit: Some(ExitChoice { node: EXIT, up }),
        udp_port: Some(41820),
        connected: connected(&["192.168.1.0/24"]),
        ..HostSettings::default()
    }
}
