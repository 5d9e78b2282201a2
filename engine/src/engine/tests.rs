//! Two engines with the real WireGuard sessions, wired together without a network.

use super::Engine;
use crate::event::{Destination, EngineConfig, Event, Input, Preshared, Source, Transmit};
use crate::session::wireguard::WireGuard;
use crate::session::{MessageKind, receiver_index};
use meshd_proto::netmap::{
    Entry, FilterRule, NetworkMap, Peer, PeerKind, RuleSource, RuleTarget, SelfNode, TargetAddr,
};
use meshd_proto::{
    ClassId, Endpoint, Hint, Hostname, MeshAddrs, MeshPrefixes, NetworkId, NodeId, NodeSecret, RuleId,
    UnixSeconds,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NETWORK: NetworkId = NetworkId::from_bytes([7; 16]);

#[expect(
    clippy::disallowed_methods,
    reason = "boringtun reads the clock itself: this test runs in real time"
)]
fn now() -> Instant {
    Instant::now()
}

fn secret(n: u8) -> NodeSecret {
    NodeSecret::from_bytes([n; 32])
}

fn endpoint(n: u8) -> Endpoint {
    Endpoint(format!("192.0.2.{n}:41820").parse().unwrap())
}

fn addrs(n: u8) -> MeshAddrs {
    MeshAddrs { v4: format!("100.71.0.{n}").parse().unwrap(), v6: format!("fd71::{n}").parse().unwrap() }
}

fn map(me: u8, peer: u8, kind: PeerKind) -> NetworkMap {
    let mut map = NetworkMap::empty(NETWORK);
    let name: Hostname = "n".parse().unwrap();
    map.upsert(Entry::Me(SelfNode {
        id: NodeId(me.into()),
        name: name.clone(),
        addrs: addrs(me),
        class: ClassId(0),
        tags: Vec::new(),
        prefixes: MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd71::/48".parse().unwrap() },
        approved_routes: Vec::new(),
        pending_routes: Vec::new(),
        key_expires: None,
        map_lease: 0,
    }));
    map.upsert(Entry::Peer(Peer {
        id: NodeId(peer.into()),
        key: secret(peer).public(),
        name,
        addrs: addrs(peer),
        class: ClassId(0),
        tags: Vec::new(),
        owner: String::new(),
        key_expires: None,
        kind,
    }));
    map.upsert(Entry::FilterPresent);
    let rule = FilterRule {
        line: 1,
        srcs: vec![RuleSource::AnyNode],
        dsts: vec![RuleTarget::all(TargetAddr::Myself)],
    };
    map.upsert(Entry::Rule(RuleId(1), rule));
    map
}

fn udp(from: u8, to: u8, payload: u8) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 100, 71, 0, from, 100, 71, 0, to];
    p.extend_from_slice(&[0x10, 0, 0x20, 0, 0, 9, 0, 0, payload]);
    p
}

struct Pair {
    engines: [Engine<WireGuard>; 2],
    events: [Vec<Event>; 2],
    wire: Vec<Transmit>,
}

impl Pair {
    /// Nodes 1 and 2; only node 1 knows where the other one is.
    fn new(preshared: [Option<[u8; 32]>; 2], kind: PeerKind) -> Self {
        let t = now();
        let engines = [(1, 2), (2, 1)].map(|(me, peer): (u8, u8)| {
            let mut config = EngineConfig::new(secret(me), NETWORK);
            config.preshared = preshared[usize::from(me) - 1]
                .map(|k| BTreeMap::from([(secret(peer).public(), Preshared(k))]))
                .unwrap_or_default();
            let mut engine = Engine::new(config, WireGuard::new(&secret(me)), [me; 32], t);
            engine.handle_input(Input::WallClock(UnixSeconds(1)), t);
            engine.handle_input(Input::Map(Arc::new(map(me, peer, kind))), t);
            engine.handle_input(Input::LocalEndpoints(vec![endpoint(me)]), t);
            engine
        });
        let mut pair = Self { engines, events: [Vec::new(), Vec::new()], wire: Vec::new() };
        let hint =
            Hint { node: NodeId(2), seq: 1, endpoints: vec![endpoint(2)], home_relay: None, online: true };
        pair.input(0, Input::Hints(vec![hint]));
        pair
    }

    fn input(&mut self, i: usize, input: Input) {
        self.engines[i].handle_input(input, now());
    }

    /// Carries datagrams until `done` or the time is over; returns whether it was done.
    fn run(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = now() + limit;
        loop {
            for i in 0..2 {
                while let Some(event) = self.engines[i].poll_event() {
                    self.events[i].push(event);
                }
                while let Some(t) = self.engines[i].poll_transmit() {
                    self.wire.push(t.clone());
                    let Destination::Udp(to) = t.to else { continue };
                    let from = Source::Udp(endpoint(i as u8 + 1));
                    if to == endpoint(2 - i as u8) {
                        self.input(1 - i, Input::Datagram { from, payload: t.payload });
                    }
                }
                self.engines[i].handle_timeout(now());
            }
            if done(self) {
                return true;
            }
            if now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn got(&self, i: usize, packet: &[u8]) -> bool {
        self.events[i].iter().any(|e| matches!(e, Event::Deliver(p) if p == packet))
    }
}

#[test]
fn data_goes_both_ways_over_wireguard_sessions_and_nothing_else_is_on_the_wire() {
    let mut pair = Pair::new([None, None], PeerKind::Meshd);
    let (ask, answer) = (udp(1, 2, 0xaa), udp(2, 1, 0xbb));
    pair.input(0, Input::Outbound { packet: ask.clone() });
    assert!(pair.run(Duration::from_secs(5), |p| p.got(1, &ask)), "{:?}", pair.engines[0].status(now()));
    pair.input(1, Input::Outbound { packet: answer.clone() });
    assert!(pair.run(Duration::from_secs(5), |p| p.got(0, &answer)), "{:?}", pair.engines[1].status(now()));
    for t in &pair.wire {
        assert!(!t.payload.windows(8).any(|w| ask.windows(8).any(|a| a == w)), "plaintext on the wire");
    }
    assert!(pair.wire.iter().any(|t| MessageKind::of(&t.payload) == MessageKind::Initiation));
    for status in pair.engines.iter().map(|e| e.status(now())) {
        assert!(status.peers[0].session && status.peers[0].rx_bytes == 29 && status.peers[0].tx_bytes == 29);
    }
}

#[test]
fn a_preshared_key_works_on_both_sides_and_a_wrong_one_gets_nothing() {
    let packet = udp(1, 2, 1);
    let mut same = Pair::new([Some([5; 32]); 2], PeerKind::PlainWireguard);
    // A plain peer has no endpoint in a hint of its own: node 1 is told by a person's configuration.
    same.input(0, Input::Outbound { packet: packet.clone() });
    assert!(same.run(Duration::from_secs(5), |p| p.got(1, &packet)));
    let mut wrong = Pair::new([Some([5; 32]), Some([6; 32])], PeerKind::PlainWireguard);
    wrong.input(0, Input::Outbound { packet: packet.clone() });
    assert!(!wrong.run(Duration::from_millis(800), |p| p.got(1, &packet)));
    assert!(!wrong.engines[0].status(now()).peers[0].session);
}

#[test]
fn a_replayed_or_changed_datagram_delivers_nothing() {
    let mut pair = Pair::new([None, None], PeerKind::Meshd);
    let ask = udp(1, 2, 0xaa);
    pair.input(0, Input::Outbound { packet: ask.clone() });
    assert!(pair.run(Duration::from_secs(5), |p| p.got(1, &ask)));
    let data: Vec<_> = pair
        .wire
        .iter()
        .filter(|t| MessageKind::of(&t.payload) == MessageKind::Data && t.payload.len() > 32)
        .map(|t| t.payload.clone())
        .collect();
    pair.events[1].clear();
    for datagram in data {
        let mut changed = datagram.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(receiver_index(&datagram).is_some());
        for payload in [datagram, changed] {
            pair.input(1, Input::Datagram { from: Source::Udp(endpoint(1)), payload });
        }
    }
    pair.run(Duration::from_millis(20), |_| false);
    assert!(!pair.events[1].iter().any(|e| matches!(e, Event::Deliver(_))));
}

#[test]
fn a_stranger_gets_no_answer_at_all() {
    let mut pair = Pair::new([None, None], PeerKind::Meshd);
    let mut stranger = {
        let mut engine =
            Engine::new(EngineConfig::new(secret(9), NETWORK), WireGuard::new(&secret(9)), [9; 32], now());
        engine.handle_input(Input::Map(Arc::new(map(9, 2, PeerKind::Meshd))), now());
        engine.handle_input(Input::LocalEndpoints(vec![endpoint(9)]), now());
        let hint =
            Hint { node: NodeId(2), seq: 1, endpoints: vec![endpoint(2)], home_relay: None, online: true };
        engine.handle_input(Input::Hints(vec![hint]), now());
        engine.handle_input(Input::Outbound { packet: udp(9, 2, 1) }, now());
        engine.handle_timeout(now() + Duration::from_millis(50));
        engine
    };
    let mut sent = 0;
    while let Some(t) = stranger.poll_transmit() {
        sent += 1;
        pair.input(1, Input::Datagram { from: Source::Udp(endpoint(9)), payload: t.payload });
    }
    assert!(sent >= 2, "an initiation and a ping");
    assert_eq!(pair.engines[1].poll_transmit(), None);
    let drops: BTreeMap<_, _> = pair.engines[1].status(now()).drops.into_iter().collect();
    assert_eq!(drops["bad_handshake"], 1);
    assert!(drops["bad_probe"] >= 1);
}

#[test]
fn a_ping_is_answered_although_nothing_was_known_when_it_was_asked_for() {
    let mut pair = Pair::new([None, None], PeerKind::Meshd);
    pair.input(0, Input::Connect(NodeId(2)));
    let answered = |p: &Pair| p.events[0].iter().any(|e| matches!(e, Event::Pong { peer: NodeId(2), .. }));
    assert!(pair.run(Duration::from_secs(3), answered));
    pair.events[0].clear();
    pair.input(0, Input::Connect(NodeId(2)));
    assert!(pair.run(Duration::from_secs(3), answered));
    let pongs = pair.events[0].iter().filter(|e| matches!(e, Event::Pong { .. })).count();
    assert_eq!(pongs, 1, "one answer for one question");
}

#[test]
fn a_plain_wireguard_device_is_answered_where_it_is_and_found_there_again() {
    use crate::session::marker::Marker;
    use crate::session::{Handshake, Session, SessionFactory, SessionIndex};
    let t = now();
    let mut node = Engine::new(EngineConfig::new(secret(1), NETWORK), Marker::new(secret(1), t), [1; 32], t);
    node.handle_input(Input::Map(Arc::new(map(1, 2, PeerKind::PlainWireguard))), t);
    node.handle_input(Input::LocalEndpoints(vec![endpoint(1)]), t);
    let mut phone = Marker::new(secret(2), t).create(&secret(1).public(), SessionIndex::new(5), None, t);
    let from = |n| Source::Udp(endpoint(n));
    let sent = |node: &mut Engine<Marker>| std::iter::from_fn(|| node.poll_transmit()).collect::<Vec<_>>();
    let recorded = phone.initiate(t).unwrap();
    node.handle_input(Input::Datagram { from: from(20), payload: recorded.clone() }, t);
    let answer = sent(&mut node);
    assert_eq!((answer.len(), answer[0].to), (1, from(20)), "no probes, no lists, no relay");
    let mut keepalive = Vec::new();
    assert_eq!(phone.handshake(&answer[0].payload, &mut keepalive, t), Ok(Handshake::Completed));
    node.handle_input(Input::Datagram { from: from(20), payload: keepalive.remove(0) }, t);
    // It roams: the next packet of its own comes from elsewhere.
    let mut data = vec![0; 29 + 32];
    phone.seal(&udp(2, 1, 1), &mut data, t).unwrap();
    node.handle_input(Input::Datagram { from: from(21), payload: data }, t);
    node.handle_input(Input::Outbound { packet: udp(1, 2, 1) }, t);
    assert_eq!(sent(&mut node).iter().map(|t| t.to).collect::<Vec<_>>(), [from(21)]);
    // Long after the session has ended it is asked where it was last, and a recorded initiation is
    // still a replay: it moves nothing.
    let mut late = t;
    while late < t + Duration::from_secs(600) {
        late = node
            .poll_timeout()
            .unwrap_or(late + Duration::from_secs(60))
            .max(late + Duration::from_millis(1));
        node.handle_timeout(late);
    }
    sent(&mut node);
    node.handle_input(Input::Datagram { from: from(66), payload: recorded }, late);
    assert_eq!(sent(&mut node), []);
    node.handle_input(Input::Outbound { packet: udp(1, 2, 1) }, late);
    let asked = sent(&mut node);
    assert_eq!((asked.len(), asked[0].to), (1, from(21)));
    assert_eq!(MessageKind::of(&asked[0].payload), MessageKind::Initiation);
}
