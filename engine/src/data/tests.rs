//! The packet path over a snapshot made by hand, with marker sessions.

use super::*;
use crate::event::{Destination, Source};
use crate::packet::Packet;
use crate::session::SessionFactory;
use crate::session::marker::{Marker, MarkerSession};
use crate::tests::start;
use meshd_proto::netmap::{Entry, FilterRule, RuleSource, RuleTarget, SelfNode, TargetAddr};
use meshd_proto::{ClassId, Endpoint, NetworkId, NetworkMap, NodeId, NodeSecret, RuleId};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

const ME: Ipv4Addr = Ipv4Addr::new(100, 71, 0, 1);

fn addrs(n: u8) -> MeshAddrs {
    MeshAddrs { v4: Ipv4Addr::new(100, 71, 0, n), v6: format!("fd71::{n}").parse().unwrap() }
}

fn secret(n: u8) -> NodeSecret {
    NodeSecret::from_bytes([n; 32])
}

fn way(n: u8) -> Source {
    Source::Udp(Endpoint(format!("192.0.2.{n}:41820").parse().unwrap()))
}

fn udp(src: Ipv4Addr, dst: Ipv4Addr, dst_port: u16, tag: u8) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
    p.extend_from_slice(&src.octets());
    p.extend_from_slice(&dst.octets());
    p.extend_from_slice(&5000u16.to_be_bytes());
    p.extend_from_slice(&dst_port.to_be_bytes());
    p.extend_from_slice(&[0, 9, 0, 0, tag]);
    p
}

/// Node 1's snapshot, and the sessions that its peers 2 and 3 have with it.
struct Bench {
    snapshot: DataSnapshot<MarkerSession>,
    theirs: Vec<MarkerSession>,
    t: Instant,
}

fn filter() -> Filter {
    let mut map = NetworkMap::empty(NetworkId::from_bytes([0; 16]));
    let prefixes = MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd71::/48".parse().unwrap() };
    map.upsert(Entry::Me(SelfNode {
        id: NodeId(1),
        name: "me".parse().unwrap(),
        addrs: addrs(1),
        class: ClassId(0),
        tags: Vec::new(),
        prefixes,
        approved_routes: Vec::new(),
        pending_routes: Vec::new(),
        key_expires: None,
        map_lease: 0,
    }));
    map.upsert(Entry::FilterPresent);
    for (id, rule) in rules() {
        map.upsert(Entry::Rule(id, rule));
    }
    Filter::compile(&map)
}

/// The one rule of [`filter`].
fn rules() -> BTreeMap<RuleId, FilterRule> {
    let any = RuleSource::Prefix(Prefix::DEFAULT_V4);
    let myself = RuleTarget { first_port: 80, last_port: 80, ..RuleTarget::all(TargetAddr::Myself) };
    let lan = RuleTarget::all(TargetAddr::Prefix("10.0.0.0/8".parse().unwrap()));
    let internet = RuleTarget::all(TargetAddr::Internet);
    BTreeMap::from([(RuleId(1), FilterRule { line: 1, srcs: vec![any], dsts: vec![myself, lan, internet] })])
}

impl Bench {
    fn new() -> Self {
        let t = start();
        let mesh = MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd71::/48".parse().unwrap() };
        let mut snapshot = DataSnapshot {
            generation: 1,
            routes: RouteTable::default(),
            filter: filter(),
            rules: RuleCounters::default().renewed(&rules()),
            own: Some(Own {
                addrs: addrs(1),
                mesh,
                prefixes: vec!["10.1.0.0/16".parse().unwrap()],
                exit_v4: true,
                exit_v6: false,
                devices: Vec::new(),
            }),
            peers: Vec::new(),
            sources: Vec::new(),
            by_index: HashMap::new(),
            conntrack: Arc::new(Conntrack::new([1; 16])),
            counters: Arc::new(Counters::default()),
            epoch: t,
        };
        let mut theirs = Vec::new();
        for n in [2, 3] {
            let index = SessionIndex::new(u32::from(n) + 100);
            let mut ours = Marker::new(secret(1), t).create(&secret(n).public(), index, None, t);
            let mut other =
                Marker::new(secret(n), t).create(&secret(1).public(), SessionIndex::new(7), None, t);
            let mut replies = Vec::new();
            other.handshake(&ours.initiate(t).unwrap(), &mut replies, t).unwrap();
            let mut keepalive = Vec::new();
            ours.handshake(&replies[0], &mut keepalive, t).unwrap();
            other.open(&keepalive[0], &mut [0; 64], t).unwrap();
            let slot = PeerSlot::new(NodeId(n.into()), secret(n).public(), index);
            slot.lock().session = Some(Box::new(ours));
            slot.lock().path.to = Some(way(n));
            let peer = PeerRef(snapshot.peers.len() as u32);
            snapshot.by_index.insert(index, peer);
            snapshot.peers.push(Arc::new(slot));
            snapshot.sources.push(Sources {
                addrs: addrs(n),
                prefixes: vec![format!("10.{n}.0.0/16").parse().unwrap()],
                exit_v4: n == 3,
                exit_v6: false,
            });
            snapshot.routes.add(Prefix::host(addrs(n).v4.into()), peer);
            snapshot.routes.add(format!("10.{n}.0.0/16").parse().unwrap(), peer);
            theirs.push(other);
        }
        snapshot.routes.add(Prefix::DEFAULT_V4, PeerRef(1));
        Self { snapshot, theirs, t }
    }

    /// What peer `n` sends, sealed.
    fn sealed(&mut self, n: usize, packet: &[u8]) -> Vec<u8> {
        let mut out = vec![0; packet.len() + crate::session::OVERHEAD];
        self.theirs[n - 2].seal(packet, &mut out, self.t).unwrap();
        out
    }

    fn open(&self, datagrams: &[(Source, Vec<u8>)]) -> Out {
        let mut out = Out::default();
        open_run(&self.snapshot, datagrams.iter().map(|(s, d)| Datagram::unmarked(*s, d)), &mut out, self.t);
        out
    }

    fn seal(&self, packets: &[Vec<u8>]) -> Out {
        let mut out = Out::default();
        let mut packets = packets.to_vec();
        seal_run(&self.snapshot, packets.iter_mut().map(|p| FromHost::whole(p)), &mut out, self.t);
        out
    }

    fn dropped(&self, why: DropReason) -> u64 {
        self.snapshot.counters.dropped(why)
    }
}

#[derive(Default)]
struct Out {
    room: Vec<u8>,
    full: bool,
    sent: Vec<(Destination, Vec<u8>)>,
    up: Vec<Vec<u8>>,
    delivered: Vec<Vec<u8>>,
    seen: Vec<(NodeId, Source)>,
}

impl SealSink for Out {
    fn room(&mut self, max: usize, _way: &Way) -> Option<&mut [u8]> {
        self.room = vec![0; max];
        (!self.full).then_some(self.room.as_mut_slice())
    }
    fn commit(&mut self, len: usize, way: &Way) {
        let path = way.path;
        self.sent.extend(path.to.into_iter().chain(path.also).map(|to| (to, self.room[..len].to_vec())));
    }
    fn hand_up(&mut self, packet: &[u8]) {
        self.up.push(packet.to_vec());
    }
}

impl OpenSink for Out {
    fn room(&mut self, max: usize) -> Option<&mut [u8]> {
        SealSink::room(self, max, &Way::default())
    }
    fn deliver(&mut self, len: usize, _: &Packet) {
        self.delivered.push(self.room[..len].to_vec());
    }
    fn hand_up(&mut self, _: Source, datagram: &[u8]) {
        self.up.push(datagram.to_vec());
    }
    fn seen(&mut self, peer: NodeId, from: Source) {
        self.seen.push((peer, from));
    }
}

#[test]
fn packets_go_to_the_owner_of_the_longest_prefix_in_their_order() {
    let mut b = Bench::new();
    let (to_2, to_3) = (Ipv4Addr::new(100, 71, 0, 2), Ipv4Addr::new(10, 3, 9, 9));
    let internet = Ipv4Addr::new(1, 1, 1, 1);
    let packets: Vec<_> =
        [(to_2, 1), (to_2, 2), (to_3, 3), (internet, 4), (to_2, 5)].map(|(d, n)| udp(ME, d, 80, n)).to_vec();
    let out = b.seal(&packets);
    let to: Vec<_> = out.sent.iter().map(|(to, _)| *to).collect();
    assert_eq!(to, [way(2), way(2), way(3), way(3), way(2)]);
    let mut tags = Vec::new();
    for (to, datagram) in &out.sent {
        let mut room = [0; 128];
        let session = if *to == way(2) { 0 } else { 1 };
        b.theirs[session].open(datagram, &mut room, b.t).unwrap();
        tags.push(room[28]);
    }
    assert_eq!(tags, [1, 2, 3, 4, 5]);
    assert_eq!(b.snapshot.peers[0].tx_bytes.load(std::sync::atomic::Ordering::Relaxed), 3 * 29);
}

#[test]
fn what_cannot_be_sent_is_counted_by_its_reason_or_handed_up() {
    let b = Bench::new();
    let to_2 = Ipv4Addr::new(100, 71, 0, 2);
    let mut out = Out { full: true, ..Out::default() };
    seal_run(&b.snapshot, [FromHost::whole(&mut udp(ME, to_2, 80, 1))], &mut out, b.t);
    assert_eq!((out.sent.len(), b.dropped(DropReason::NoRoom)), (0, 1));
    b.seal(&[
        vec![0x45; 10],
        udp(Ipv4Addr::new(9, 9, 9, 9), ME, 80, 1),
        udp(Ipv4Addr::new(192, 168, 0, 1), to_2, 80, 1),
    ]);
    assert_eq!(b.dropped(DropReason::Malformed), 1);
    assert_eq!(b.dropped(DropReason::NoRoute), 1, "to ourselves: nobody owns that");
    assert_eq!(b.dropped(DropReason::OwnSource), 1);
    b.snapshot.peers[0].lock().session = None;
    assert_eq!(b.seal(&[udp(ME, to_2, 80, 1)]).up.len(), 1);
}

#[test]
fn a_doubtful_path_gets_every_packet_twice_by_different_ways() {
    let b = Bench::new();
    b.snapshot.peers[0].lock().path.also = Some(way(99));
    let out = b.seal(&[udp(ME, Ipv4Addr::new(100, 71, 0, 2), 80, 1)]);
    assert_eq!(out.sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [way(2), way(99)]);
    assert_eq!(out.sent[0].1, out.sent[1].1, "one ciphertext: the receiver drops the copy as a replay");
}

#[test]
fn a_peer_is_believed_only_about_its_own_sources() {
    let mut b = Bench::new();
    let good = [Ipv4Addr::new(100, 71, 0, 2), Ipv4Addr::new(10, 2, 3, 4)];
    let bad = [Ipv4Addr::new(100, 71, 0, 3), Ipv4Addr::new(10, 3, 3, 4), ME, Ipv4Addr::new(1, 1, 1, 1)];
    let datagrams: Vec<_> =
        good.iter().chain(&bad).map(|src| (way(2), b.sealed(2, &udp(*src, ME, 80, 1)))).collect();
    let out = b.open(&datagrams);
    assert_eq!(out.delivered.len(), 2);
    assert_eq!(b.dropped(DropReason::PeerSource), 4);
    // The chosen exit node may send from the internet, but not from private ranges.
    let from_exit: Vec<_> = [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(192, 168, 7, 7)]
        .map(|src| (way(3), b.sealed(3, &udp(src, ME, 80, 1))))
        .to_vec();
    assert_eq!(b.open(&from_exit).delivered.len(), 1);
}

#[test]
fn only_what_is_ours_or_behind_us_is_let_in_and_only_by_a_rule() {
    let mut b = Bench::new();
    let src = Ipv4Addr::new(100, 71, 0, 2);
    let cases = [
        (ME, 80, true),
        (ME, 81, false),
        (Ipv4Addr::new(100, 71, 0, 53), 80, true),
        (Ipv4Addr::new(10, 1, 2, 3), 5, true),
        (Ipv4Addr::new(10, 9, 2, 3), 5, false),
        (Ipv4Addr::new(8, 8, 8, 8), 53, true),
        (Ipv4Addr::new(192, 168, 1, 1), 80, false),
        (Ipv4Addr::new(169, 254, 169, 254), 80, false),
        (Ipv4Addr::new(100, 71, 0, 3), 80, false),
        (Ipv4Addr::new(224, 0, 0, 1), 80, false),
    ];
    for (dst, port, expected) in cases {
        let datagram = b.sealed(2, &udp(src, dst, port, 1));
        assert_eq!(b.open(&[(way(2), datagram)]).delivered.len(), usize::from(expected), "{dst}:{port}");
    }
}

#[test]
fn what_is_not_data_is_handed_up_and_strangers_are_counted() {
    let mut b = Bench::new();
    let mut unknown = b.sealed(2, &udp(Ipv4Addr::new(100, 71, 0, 2), ME, 80, 1));
    unknown[7] ^= 1;
    let mut forged = b.sealed(2, &udp(Ipv4Addr::new(100, 71, 0, 2), ME, 80, 1));
    *forged.last_mut().unwrap() ^= 1;
    let mut initiation = vec![0; 148];
    initiation[0] = 1;
    let out = b.open(&[(way(2), unknown), (way(2), forged), (way(9), initiation), (way(9), vec![1, 2])]);
    assert_eq!((out.delivered.len(), out.up.len()), (0, 2));
    assert_eq!(b.dropped(DropReason::UnknownIndex), 1);
    assert_eq!(b.dropped(DropReason::NotAuthentic), 1);
    assert!(out.seen.is_empty(), "nothing unauthenticated moves a path");
}

#[test]
fn a_packet_on_another_way_is_reported_once() {
    let mut b = Bench::new();
    let packet = udp(Ipv4Addr::new(100, 71, 0, 2), ME, 80, 1);
    let elsewhere: Vec<_> = (0..5).map(|_| (way(77), b.sealed(2, &packet))).collect();
    let out = b.open(&elsewhere);
    assert_eq!((out.delivered.len(), out.seen.as_slice()), (5, [(NodeId(2), way(77))].as_slice()));
    let here = vec![(way(2), b.sealed(2, &packet))];
    assert!(b.open(&here).seen.is_empty());
}

#[test]
fn a_replay_is_delivered_once() {
    let mut b = Bench::new();
    let datagram = b.sealed(2, &udp(Ipv4Addr::new(100, 71, 0, 2), ME, 80, 1));
    let out = b.open(&[(way(2), datagram.clone()), (way(2), datagram)]);
    assert_eq!((out.delivered.len(), b.dropped(DropReason::Replayed)), (1, 1));
}

#[test]
fn a_device_joined_through_us_may_ask_our_resolver_and_no_policy_forbids_it() {
    let mesh = MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd71::/48".parse().unwrap() };
    let own = Own {
        addrs: addrs(1),
        mesh,
        prefixes: vec![],
        exit_v4: false,
        exit_v6: false,
        devices: vec![addrs(9)],
    };
    let resolver = mesh.resolver();
    let flow = |src: MeshAddrs, dst: IpAddr, protocol, dst_port| Flow {
        src: src.v4.into(),
        dst,
        protocol,
        dst_port,
    };
    assert!(own.answers(&flow(addrs(9), resolver.v4.into(), 17, 53)));
    assert!(own.answers(&flow(addrs(9), resolver.v4.into(), 6, 53)));
    assert!(!own.answers(&flow(addrs(8), resolver.v4.into(), 17, 53)), "a node asks its own");
    assert!(!own.answers(&flow(addrs(9), resolver.v4.into(), 17, 54)));
    assert!(!own.answers(&flow(addrs(9), resolver.v4.into(), 132, 53)));
    assert!(!own.answers(&flow(addrs(9), addrs(1).v4.into(), 17, 53)), "an address that policy speaks of");
}

#[test]
fn what_a_rule_lets_in_is_counted_by_flows_packets_and_bytes() {
    let mut b = Bench::new();
    let from = |n: u8| Ipv4Addr::new(100, 71, 0, n);
    let mut datagrams = Vec::new();
    // Port 80 is allowed to us, anything to our LAN, nothing else.
    for (peer, to, port) in
        [(2, ME, 80), (2, ME, 80), (3, ME, 80), (2, ME, 22), (2, Ipv4Addr::new(10, 1, 2, 3), 9), (2, ME, 80)]
    {
        let sealed = b.sealed(peer, &udp(from(peer as u8), to, port, 0));
        datagrams.push((way(peer as u8), sealed));
    }
    assert_eq!(b.open(&datagrams).delivered.len(), 5);
    let count = b.snapshot.rules.counts();
    assert_eq!(count.len(), 1);
    assert_eq!((count[0].id, count[0].line), (RuleId(1), 1));
    assert_eq!((count[0].flows, count[0].packets, count[0].bytes), (3, 5, 5 * 29));
    assert_eq!(b.dropped(DropReason::Denied), 1);
    // A reply to a flow of ours is no rule's doing.
    b.seal(&[udp(ME, from(2), 7000, 0)]);
    let mut reply = udp(from(2), ME, 5000, 0);
    reply[20..22].copy_from_slice(&7000u16.to_be_bytes());
    let reply = b.sealed(2, &reply);
    assert_eq!(b.open(&[(way(2), reply)]).delivered.len(), 1);
    assert_eq!(b.snapshot.rules.counts(), count);
}

#[test]
fn a_user_of_this_exit_may_ask_it_for_names_and_nobody_else() {
    let mesh = MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd71::/48".parse().unwrap() };
    let mut own =
        Own { addrs: addrs(1), mesh, prefixes: vec![], exit_v4: true, exit_v6: false, devices: vec![] };
    let web = RuleTarget { to: TargetAddr::Internet, protocol: Some(6), first_port: 443, last_port: 443 };
    let rule = FilterRule { line: 1, srcs: vec![RuleSource::Class(ClassId(2))], dsts: vec![web] };
    let nodes = (1..=3).map(|n| (addrs(n), ClassId(n.into())));
    let filter = Filter::build(addrs(1), mesh, nodes, &[(RuleId(1), rule)].into());
    let flow = |src: u8, dst: MeshAddrs, protocol, dst_port| Flow {
        src: addrs(src).v4.into(),
        dst: dst.v4.into(),
        protocol,
        dst_port,
    };
    for protocol in [6, 17] {
        assert!(own.answers_as_exit(&flow(2, addrs(1), protocol, 53), &filter));
        assert!(!own.answers_as_exit(&flow(3, addrs(1), protocol, 53), &filter), "no rule lets it out");
    }
    assert!(!own.answers_as_exit(&flow(2, addrs(1), 6, 22), &filter));
    assert!(!own.answers_as_exit(&flow(2, addrs(3), 17, 53), &filter));
    assert!(!own.answers_as_exit(&flow(2, addrs(1), 17, 53), &Filter::default()));
    own.exit_v4 = false;
    assert!(!own.answers_as_exit(&flow(2, addrs(1), 17, 53), &filter), "this is no exit");
}
