//! What a map and the settings make of the snapshot.

use crate::data::DataSnapshot;
use crate::event::{EngineConfig, Event, Input, Settings};
use crate::session::marker::{Marker, MarkerSession};
use crate::tests::start;
use crate::{Engine, Transmit};
use meshd_proto::netmap::{Entry, EntryKey, NetworkMap, Peer, PeerKind, Relay, Route, SelfNode};
use meshd_proto::{
    ClassId, Endpoint, MeshAddrs, MeshPrefixes, NetworkId, NodeId, NodeKey, NodeSecret, Prefix, RelayId,
    UnixSeconds,
};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NETWORK: NetworkId = NetworkId::from_bytes([7; 16]);

fn secret(n: u8) -> NodeSecret {
    NodeSecret::from_bytes([n; 32])
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addrs(n: u8) -> MeshAddrs {
    MeshAddrs { v4: format!("100.71.0.{n}").parse().unwrap(), v6: format!("fd71::{n}").parse().unwrap() }
}

fn peer(n: u8) -> Peer {
    Peer {
        id: NodeId(n.into()),
        key: secret(n).public(),
        name: format!("n{n}").parse().unwrap(),
        addrs: addrs(n),
        class: ClassId(0),
        tags: Vec::new(),
        owner: String::new(),
        key_expires: None,
        kind: PeerKind::Meshd,
    }
}

/// Node 1's map, with peers 2 and 3.
fn map() -> NetworkMap {
    let mut map = NetworkMap::empty(NETWORK);
    map.upsert(Entry::Me(SelfNode {
        id: NodeId(1),
        name: "me".parse().unwrap(),
        addrs: addrs(1),
        class: ClassId(0),
        tags: Vec::new(),
        prefixes: MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd71::/48".parse().unwrap() },
        approved_routes: vec![prefix("10.1.0.0/16")],
        pending_routes: Vec::new(),
        key_expires: None,
        map_lease: 0,
    }));
    map.upsert(Entry::Peer(peer(2)));
    map.upsert(Entry::Peer(peer(3)));
    map
}

fn route(map: &mut NetworkMap, text: &str, owner: u64, rank: u32) {
    map.upsert(Entry::Route(Route { prefix: prefix(text), rank, owner: NodeId(owner) }));
}

fn engine(map: NetworkMap, t: Instant) -> Engine<Marker> {
    let mut engine =
        Engine::new(EngineConfig::new(secret(1), NETWORK), Marker::new(secret(1), t), [1; 32], t);
    engine.handle_input(Input::Map(Arc::new(map)), t);
    engine
}

fn snapshot(engine: &Engine<Marker>) -> Arc<DataSnapshot<MarkerSession>> {
    engine.data().load_full()
}

/// The owners of an address, as node numbers.
fn owners(engine: &Engine<Marker>, to: &str) -> Vec<u64> {
    let s = snapshot(engine);
    s.routes.owners(ip(to)).iter().map(|p| s.slot(*p).unwrap().id.0).collect()
}

fn may_send(engine: &Engine<Marker>, node: u64, source: &str) -> bool {
    let s = snapshot(engine);
    let i = s.peers.iter().position(|p| p.id == NodeId(node)).unwrap();
    s.sources[i].allow(ip(source))
}

#[test]
fn peers_have_their_own_addresses_and_routes_their_owners_in_order() {
    let mut m = map();
    route(&mut m, "10.9.0.0/16", 3, 1);
    route(&mut m, "10.9.0.0/16", 2, 2);
    let e = engine(m, start());
    assert_eq!(owners(&e, "100.71.0.2"), [2]);
    assert_eq!(owners(&e, "fd71::3"), [3]);
    assert_eq!(owners(&e, "10.9.1.1"), [3, 2]);
    assert!(may_send(&e, 2, "10.9.1.1") && may_send(&e, 3, "10.9.1.1"));
    assert!(!may_send(&e, 2, "100.71.0.3") && !may_send(&e, 2, "8.8.8.8"));
    assert_eq!(owners(&e, "100.71.0.1"), Vec::<u64>::new(), "we are not our own peer");
}

#[test]
fn a_route_over_the_mesh_s_own_range_takes_no_node_s_place() {
    let mut m = map();
    for bad in [
        "100.71.0.0/16",
        "100.0.0.0/8",
        "100.71.0.0/24",
        "100.71.0.3/32",
        "100.71.0.1/32",
        "100.71.0.53/32",
        "fd71::/64",
    ] {
        route(&mut m, bad, 2, 0);
    }
    route(&mut m, "100.71.9.9/32", 2, 0);
    let e = engine(m, start());
    assert_eq!(owners(&e, "100.71.0.3"), [3]);
    assert_eq!(owners(&e, "100.71.0.77"), Vec::<u64>::new());
    assert!(!may_send(&e, 2, "100.71.0.3") && !may_send(&e, 2, "100.71.0.1") && !may_send(&e, 2, "fd71::3"));
    // A service address of its own, which no node has, is a route like any other.
    assert_eq!(owners(&e, "100.71.9.9"), [2]);
}

#[test]
fn settings_choose_which_routes_count() {
    let mut m = map();
    route(&mut m, "10.9.0.0/16", 2, 0);
    route(&mut m, "192.168.1.0/24", 2, 0);
    route(&mut m, "0.0.0.0/0", 2, 0);
    route(&mut m, "0.0.0.0/0", 3, 0);
    let t = start();
    let mut e = engine(m, t);
    assert_eq!(owners(&e, "8.8.8.8"), Vec::<u64>::new(), "no exit without a choice");
    let refused = Settings {
        refused_routes: vec![prefix("192.168.1.0/24")],
        exit_node: Some(NodeId(3)),
        ..Settings::default()
    };
    e.handle_input(Input::Settings(refused), t);
    assert_eq!((owners(&e, "192.168.1.5"), owners(&e, "10.9.1.1")), (vec![], vec![2]));
    assert!(!may_send(&e, 2, "192.168.1.5"), "what is connected here does not come from there");
    assert_eq!(owners(&e, "8.8.8.8"), [3]);
    assert_eq!(owners(&e, "192.168.7.7"), Vec::<u64>::new(), "an exit is for public addresses");
    assert!(may_send(&e, 3, "8.8.8.8") && !may_send(&e, 2, "8.8.8.8") && !may_send(&e, 3, "192.168.7.7"));
    e.handle_input(Input::Settings(Settings { accept_routes: false, ..Settings::default() }), t);
    assert_eq!(owners(&e, "10.9.1.1"), Vec::<u64>::new());
    assert!(!may_send(&e, 2, "10.9.1.1"));
}

#[test]
fn a_prefix_that_this_node_owns_too_stays_here() {
    let mut m = map();
    route(&mut m, "10.1.0.0/16", 2, 0);
    route(&mut m, "10.2.0.0/16", 2, 0);
    route(&mut m, "10.2.0.0/16", 1, 1);
    let e = engine(m, start());
    assert_eq!((owners(&e, "10.1.0.1"), owners(&e, "10.2.0.1")), (vec![], vec![]));
    assert!(!may_send(&e, 2, "10.1.0.1"));
    let own = snapshot(&e).own.clone().unwrap();
    assert!(own.accepts(ip("10.1.0.1")) && own.accepts(ip("10.2.0.1")) && !own.accepts(ip("10.3.0.1")));
}

#[test]
fn a_map_of_another_mesh_is_refused_and_the_old_one_stays() {
    let t = start();
    let mut e = engine(map(), t);
    e.handle_input(Input::Map(Arc::new(NetworkMap::empty(NetworkId::from_bytes([8; 16])))), t);
    assert_eq!(snapshot(&e).peers.len(), 2);
}

#[test]
fn neither_our_own_key_nor_a_second_claim_on_a_key_makes_a_peer() {
    let mut m = map();
    m.upsert(Entry::Peer(Peer { key: secret(1).public(), ..peer(4) }));
    m.upsert(Entry::Peer(Peer { key: secret(2).public(), ..peer(5) }));
    let e = engine(m, start());
    let ids: Vec<_> = snapshot(&e).peers.iter().map(|p| p.id.0).collect();
    assert_eq!(ids, [2, 3]);
}

#[test]
fn a_change_of_name_keeps_the_session_and_a_change_of_key_does_not() {
    let t = start();
    let mut m = map();
    let mut e = engine(m.clone(), t);
    let slot = |e: &Engine<Marker>| Arc::clone(&snapshot(e).peers[0]);
    let before = slot(&e);
    m.upsert(Entry::Peer(Peer { name: "other".parse().unwrap(), ..peer(2) }));
    e.handle_input(Input::Map(Arc::new(m.clone())), t);
    assert!(Arc::ptr_eq(&before, &slot(&e)));
    assert_eq!(e.status(t).peers[0].name.as_str(), "other");
    m.upsert(Entry::Peer(Peer { key: secret(9).public(), ..peer(2) }));
    e.handle_input(Input::Map(Arc::new(m)), t);
    assert!(!Arc::ptr_eq(&before, &slot(&e)));
}

#[test]
fn keys_end_by_the_wall_clock_and_live_again_when_it_was_wrong() {
    let t = start();
    let mut m = map();
    m.upsert(Entry::Peer(Peer { key_expires: Some(UnixSeconds(1000)), ..peer(2) }));
    let mut e = engine(m, t);
    let count = |e: &Engine<Marker>| snapshot(e).peers.len();
    e.handle_input(Input::WallClock(UnixSeconds(990)), t);
    assert_eq!(count(&e), 2);
    let due = e.poll_timeout().expect("it waits for the end");
    assert!(due <= t + Duration::from_secs(10));
    e.handle_timeout(due.max(t + Duration::from_secs(10)));
    e.handle_timeout(t + Duration::from_secs(10));
    assert_eq!(count(&e), 1);
    e.handle_input(Input::WallClock(UnixSeconds(500)), t + Duration::from_secs(11));
    assert_eq!(count(&e), 2);
}

#[test]
fn relays_that_leave_the_map_are_no_way_any_more() {
    let t = start();
    let mut m = map();
    let relay = |id| {
        Entry::Relay(Relay {
            id: RelayId(id),
            name: "r".to_owned(),
            key: NodeKey::from_bytes([9; 32]),
            hosts: Vec::new(),
            udp_port: 3478,
            alt_udp_port: 0,
            tls_port: 0,
        })
    };
    m.upsert(relay(1));
    m.upsert(relay(2));
    let mut e = engine(m.clone(), t);
    let server = Endpoint("192.0.2.9:3478".parse().unwrap());
    e.handle_input(Input::RelayAddresses { relay: RelayId(1), addrs: vec![server] }, t);
    e.handle_input(Input::RelayUp(RelayId(1)), t);
    let events: Vec<_> = std::iter::from_fn(|| e.poll_event()).collect();
    assert!(events.contains(&Event::HomeRelay(RelayId(1))));
    let asked: Vec<Transmit> = std::iter::from_fn(|| e.poll_transmit()).collect();
    assert!(
        asked.iter().any(|t| t.to == crate::Destination::Udp(server)),
        "STUN goes to the relay's address"
    );
    assert!(snapshot(&e).peers[0].lock().path.to.is_some());
    m.remove(&EntryKey::Relay(RelayId(1)));
    e.handle_input(Input::Map(Arc::new(m)), t);
    assert_eq!(snapshot(&e).peers[0].lock().path.to, None);
    assert!(std::iter::from_fn(|| e.poll_event()).any(|e| e == Event::HomeRelay(RelayId(2))));
}
