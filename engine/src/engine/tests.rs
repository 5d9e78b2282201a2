//! Two engines with the real WireGuard sessions, wired together without a network.

use super::Engine;
use crate::event::{Destination, EngineConfig, Event, Input, Preshared, Source, Transmit};
use crate::path::probe::Fitness;
use crate::session::wireguard::WireGuard;
use crate::session::{MessageKind, receiver_index};
use meshd_proto::netmap::{
    Entry, FilterRule, NetworkMap, Peer, PeerKind, RuleSource, RuleTarget, SelfNode, TargetAddr,
};
use meshd_proto::{
    ClassId, Endpoint, Hint, Hostname, MeshAddrs, MeshPrefixes, NetworkId, NodeId, NodeSecret, RelayId,
    RuleId, UnixSeconds,
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

#[test]
fn a_relay_that_does_not_know_a_peer_any_more_is_left_for_one_where_it_may_be() {
    let t = now();
    let mut engine =
        Engine::new(EngineConfig::new(secret(1), NETWORK), WireGuard::new(&secret(1)), [1; 32], t);
    let mut map = map(1, 2, PeerKind::Meshd);
    for n in 1..=3 {
        map.upsert(Entry::Relay(meshd_proto::netmap::Relay {
            id: RelayId(n),
            key: secret(100 + n as u8).public(),
            name: String::new(),
            hosts: Vec::new(),
            udp_port: 3478,
            alt_udp_port: 0,
            tls_port: 0,
        }));
    }
    engine.handle_input(Input::Map(Arc::new(map)), t);
    for n in 1..=3 {
        engine.handle_input(Input::RelayUp(RelayId(n)), t);
    }
    let (id, peer) = (NodeId(2), secret(2).public());
    // Heard at relay 3, before it was restarted and attached to relay 2.
    let state = engine.peers.get_mut(id).unwrap();
    state.relay_heard = Some((RelayId(3), t));
    state.said.home_relay = Some(RelayId(2));
    engine.refresh_relay(id, t);
    let way = |e: &Engine<WireGuard>| e.peers.get(id).unwrap().paths.relay();
    assert_eq!(way(&engine), Some(RelayId(3)));
    engine.handle_input(Input::RelayPeerGone { relay: RelayId(3), peer: secret(9).public() }, t);
    assert_eq!(way(&engine), Some(RelayId(3)), "somebody else");
    engine.handle_input(Input::Outbound { packet: udp(1, 2, 1) }, t);
    while engine.poll_transmit().is_some() {}
    engine.handle_input(Input::RelayPeerGone { relay: RelayId(3), peer }, t);
    assert_eq!(way(&engine), Some(RelayId(2)));
    let sent: Vec<_> = std::iter::from_fn(|| engine.poll_transmit()).collect();
    let there = Destination::Relay { relay: RelayId(2), peer };
    let again = sent.iter().any(|t| t.to == there && MessageKind::of(&t.payload) == MessageKind::Initiation);
    assert!(again, "the initiation under way goes there at once: {sent:?}");
    // What is gone there, too, is asked for somewhere else, and the first one is not avoided for ever.
    engine.handle_input(Input::RelayPeerGone { relay: RelayId(2), peer }, t);
    assert_ne!(way(&engine), Some(RelayId(2)));
    engine.refresh_relay(id, t + Duration::from_secs(6));
    assert_eq!(way(&engine), Some(RelayId(2)));
}

/// The probes that node 2 has sent to node 1.
fn recorded_probes(pair: &Pair) -> Vec<Vec<u8>> {
    let theirs = pair.wire.iter().filter(|t| t.to == Destination::Udp(endpoint(1)));
    theirs.filter(|t| crate::path::probe::is_probe(&t.payload)).map(|t| t.payload.clone()).collect()
}

/// Two nodes that know each other, after node 2 has lost its LAN and found it again.
fn a_pair_with_a_past() -> Pair {
    let mut pair = Pair::new([None, None], PeerKind::Meshd);
    let packet = udp(1, 2, 1);
    pair.input(0, Input::Outbound { packet: packet.clone() });
    assert!(pair.run(Duration::from_secs(5), |p| p.got(1, &packet)));
    for fitness in [Fitness::LanDown, Fitness::Fit] {
        pair.input(1, Input::Fitness(fitness));
        let told = |p: &Pair| p.engines[0].status(now()).peers[0].fitness == fitness;
        assert!(pair.run(Duration::from_secs(3), told), "{fitness:?}");
    }
    pair
}

fn knows(engine: &Engine<WireGuard>, n: u8) -> bool {
    let state = engine.peers.get(NodeId(2)).unwrap();
    state.paths.candidates.iter().any(|c| c.endpoint == endpoint(n))
}

#[test]
fn a_recorded_probe_moves_nothing_wherever_it_is_replayed_from() {
    let mut pair = a_pair_with_a_past();
    let recorded = recorded_probes(&pair);
    assert!(recorded.len() >= 4, "{}", recorded.len());
    while pair.engines[0].poll_transmit().is_some() {}
    for from in [2, 66] {
        for payload in recorded.clone() {
            pair.input(0, Input::Datagram { from: Source::Udp(endpoint(from)), payload });
        }
        assert_eq!(pair.engines[0].poll_transmit(), None, "no answer");
    }
    let status = pair.engines[0].status(now());
    assert_eq!(status.peers[0].fitness, Fitness::Fit);
    assert!(!knows(&pair.engines[0], 66));
    let drops: BTreeMap<_, _> = status.drops.into_iter().collect();
    assert_eq!(drops["replayed"], 2 * recorded.len() as u64);
}

#[test]
fn a_restarted_node_answers_a_recorded_probe_with_no_more_than_it_got_and_believes_none() {
    let mut pair = a_pair_with_a_past();
    let recorded = recorded_probes(&pair);
    let t = now();
    let mut engine =
        Engine::new(EngineConfig::new(secret(1), NETWORK), WireGuard::new(&secret(1)), [77; 32], t);
    engine.handle_input(Input::Map(Arc::new(map(1, 2, PeerKind::Meshd))), t);
    engine.handle_input(Input::LocalEndpoints(vec![endpoint(1)]), t);
    while engine.poll_transmit().is_some() {}
    let (mut asked, mut answered, mut answers) = (0, 0, 0);
    for (n, payload) in recorded.iter().cycle().take(600).enumerate() {
        let now = t + Duration::from_millis(n as u64);
        asked += payload.len();
        let from = Source::Udp(endpoint(66));
        engine.handle_input(Input::Datagram { from, payload: payload.clone() }, now);
        engine.handle_timeout(now);
        while let Some(t) = engine.poll_transmit() {
            answered += t.payload.len();
            answers += 1;
        }
    }
    let one = recorded[0].len();
    assert!(answers > 0 && answered <= asked + 2 * one, "{answered} bytes for {asked}");
    assert_eq!(engine.status(now()).peers[0].fitness, Fitness::Fit);
    assert!(!knows(&engine, 66) && !knows(&engine, 2), "no list of the past is taken");
    // The true peer is known again after one round trip.
    pair.engines[0] = engine;
    let packet = udp(2, 1, 9);
    pair.input(1, Input::Outbound { packet: packet.clone() });
    pair.input(1, Input::Fitness(Fitness::LanDown));
    let told = |p: &Pair| p.engines[0].status(now()).peers[0].fitness == Fitness::LanDown;
    assert!(pair.run(Duration::from_secs(5), told), "{:?}", pair.engines[0].status(now()));
}
