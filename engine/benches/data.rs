//! What the packet path costs: `make bench-micro`.
//!
//! Sealing and opening run over real WireGuard sessions, in runs as the data threads make them; splitting
//! and joining over one super-packet; route lookup and filter over tables of the sizes that the
//! documentation names; the connection table with a million flows.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use meshd_engine::data::conntrack::{Conntrack, Inbound, Judgement};
use meshd_engine::data::routes::{PeerRef, RouteTable};
use meshd_engine::data::{
    Coalescer, DataSnapshot, Datagram, FromHost, Offload, Offloads, OpenSink, SealSink, SegmentKind, Split,
    Way, open_run, seal_run,
};
use meshd_engine::packet::{Packet, parse, tcp_flag};
use meshd_engine::session::wireguard::{WireGuard, WireGuardSession};
use meshd_engine::{Destination, Engine, EngineConfig, Input, Source};
use meshd_policy::{Filter, Flow, verdict};
use meshd_proto::netmap::{
    Entry, FilterRule, NetworkMap, Peer, PeerKind, RuleSource, RuleTarget, SelfNode, TargetAddr,
};
use meshd_proto::{
    ClassId, Endpoint, Hint, MeshAddrs, MeshPrefixes, NetworkId, NodeId, NodeSecret, Prefix, RuleId,
    UnixSeconds,
};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

const NETWORK: NetworkId = NetworkId::from_bytes([7; 16]);
/// Packets in a run: a super-packet of the host.
const RUN: usize = 46;
const SIZE: usize = 1380;

#[expect(clippy::disallowed_methods, reason = "a benchmark measures")]
fn now() -> Instant {
    Instant::now()
}

fn addrs(n: u8) -> MeshAddrs {
    MeshAddrs { v4: Ipv4Addr::new(100, 71, 0, n), v6: Ipv6Addr::new(0xfd71, 0, 0, 0, 0, 0, 0, n.into()) }
}

fn endpoint(n: u8) -> Endpoint {
    Endpoint(SocketAddr::new(Ipv4Addr::new(192, 0, 2, n).into(), 41820))
}

fn map(me: u8, peer: u8) -> Option<NetworkMap> {
    let mut map = NetworkMap::empty(NETWORK);
    map.upsert(Entry::Me(SelfNode {
        id: NodeId(me.into()),
        name: "me".parse().ok()?,
        addrs: addrs(me),
        class: ClassId(0),
        tags: Vec::new(),
        prefixes: MeshPrefixes { v4: "100.71.0.0/16".parse().ok()?, v6: "fd71::/48".parse().ok()? },
        approved_routes: Vec::new(),
        pending_routes: Vec::new(),
        key_expires: None,
        map_lease: 0,
    }));
    map.upsert(Entry::Peer(Peer {
        id: NodeId(peer.into()),
        key: NodeSecret::from_bytes([peer; 32]).public(),
        name: "peer".parse().ok()?,
        addrs: addrs(peer),
        class: ClassId(0),
        tags: Vec::new(),
        owner: String::new(),
        key_expires: None,
        kind: PeerKind::Meshd,
    }));
    map.upsert(Entry::FilterPresent);
    let dsts = vec![RuleTarget::all(TargetAddr::Myself)];
    map.upsert(Entry::Rule(RuleId(1), FilterRule { line: 1, srcs: vec![RuleSource::AnyNode], dsts }));
    Some(map)
}

fn packet(from: u8, to: u8) -> Vec<u8> {
    let mut p = vec![0; SIZE];
    p[0] = 0x45;
    p[2..4].copy_from_slice(&(SIZE as u16).to_be_bytes());
    p[8..10].copy_from_slice(&[64, 17]);
    p[12..16].copy_from_slice(&addrs(from).v4.octets());
    p[16..20].copy_from_slice(&addrs(to).v4.octets());
    p[20..24].copy_from_slice(&[0x10, 0, 0x20, 0]);
    p
}

/// A slab that is reused for every run, as the data threads have it.
struct Slab {
    bytes: Vec<u8>,
    used: usize,
    lens: Vec<usize>,
}

impl Slab {
    fn clear(&mut self) {
        self.used = 0;
        self.lens.clear();
    }
}

impl SealSink for Slab {
    fn room(&mut self, max: usize, _: &Way) -> Option<&mut [u8]> {
        self.bytes.get_mut(self.used..self.used + max)
    }
    fn commit(&mut self, len: usize, _: &Way) {
        self.used += len;
        self.lens.push(len);
    }
    fn hand_up(&mut self, _: &[u8]) {}
}

impl OpenSink for Slab {
    fn room(&mut self, max: usize) -> Option<&mut [u8]> {
        SealSink::room(self, max, &Way::default())
    }
    fn deliver(&mut self, len: usize, _: &Packet) {
        SealSink::commit(self, len, &Way::default());
    }
    fn hand_up(&mut self, _: Source, _: &[u8]) {}
    fn seen(&mut self, _: NodeId, _: Source) {}
}

/// Two nodes that talk: the snapshots of the sender and the receiver.
fn pair() -> [Arc<DataSnapshot<WireGuardSession>>; 2] {
    let mut engines = [(1, 2), (2, 1)].map(|(me, peer): (u8, u8)| {
        let secret = NodeSecret::from_bytes([me; 32]);
        let mut engine =
            Engine::new(EngineConfig::new(secret.clone(), NETWORK), WireGuard::new(&secret), [me; 32], now());
        engine.handle_input(Input::WallClock(UnixSeconds(1)), now());
        if let Some(map) = map(me, peer) {
            engine.handle_input(Input::Map(map.into()), now());
        }
        let node = NodeId(peer.into());
        let hint = Hint { node, seq: 1, endpoints: vec![endpoint(peer)], home_relay: None, online: true };
        engine.handle_input(Input::Hints(vec![hint]), now());
        engine
    });
    engines[0].handle_input(Input::Outbound { packet: packet(1, 2) }, now());
    for _ in 0..10 {
        for i in 0..2 {
            engines[i].handle_timeout(now());
            while let Some(t) = engines[i].poll_transmit() {
                if matches!(t.to, Destination::Udp(_)) {
                    let from = Source::Udp(endpoint(i as u8 + 1));
                    engines[1 - i].handle_input(Input::Datagram { from, payload: t.payload }, now());
                }
            }
        }
    }
    engines.map(|engine| engine.data().load_full())
}

fn seal_and_open(c: &mut Criterion) {
    let [tx, rx] = pair();
    let mut packets = vec![packet(1, 2); RUN];
    let slab = || Slab { bytes: vec![0; RUN * (SIZE + 64)], used: 0, lens: Vec::with_capacity(RUN) };
    let mut group = c.benchmark_group("session");
    group.throughput(Throughput::Bytes((RUN * SIZE) as u64));
    let mut sealed = slab();
    group.bench_function("seal", |b| {
        b.iter(|| {
            sealed.clear();
            seal_run(&tx, packets.iter_mut().map(|p| FromHost::whole(p)), &mut sealed, now());
            assert_eq!(sealed.lens.len(), RUN);
        });
    });
    let mut opened = slab();
    group.bench_function("open", |b| {
        // Every datagram passes once: each round opens a run of its own.
        b.iter_batched_ref(
            || {
                let mut sealed = slab();
                let mut packets = vec![packet(1, 2); RUN];
                seal_run(&tx, packets.iter_mut().map(|p| FromHost::whole(p)), &mut sealed, now());
                sealed
            },
            |sealed| {
                opened.clear();
                let mut at = 0;
                let datagrams = sealed.lens.iter().map(|len| {
                    at += len;
                    Datagram::unmarked(Source::Udp(endpoint(1)), &sealed.bytes[at - len..at])
                });
                open_run(&rx, datagrams, &mut opened, now());
                assert_eq!(opened.lens.len(), RUN);
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// A TCP super-packet with `RUN` segments of 1,328 bytes.
fn super_packet() -> Vec<u8> {
    let len = 52 + RUN * 1328;
    let mut p = vec![0; len];
    p[..2].copy_from_slice(&[0x45, 0]);
    p[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    p[6] = 0x40;
    p[8..10].copy_from_slice(&[64, 6]);
    p[12..16].copy_from_slice(&addrs(1).v4.octets());
    p[16..20].copy_from_slice(&addrs(2).v4.octets());
    p[20..24].copy_from_slice(&[0x10, 0, 0x20, 0]);
    p[32..34].copy_from_slice(&[0x80, 0x10]);
    p[40..52].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    p
}

fn split_and_coalesce(c: &mut Criterion) {
    let whole = super_packet();
    let read = parse(&whole).expect("a packet");
    let mut segments = Vec::new();
    let mut group = c.benchmark_group("segments");
    group.throughput(Throughput::Bytes(whole.len() as u64));
    group.bench_function("split", |b| {
        b.iter_batched_ref(
            || whole.clone(),
            |bytes| {
                let mut split = Split::new(bytes, &read, SegmentKind::Tcp4, 1328).expect("it fits together");
                while let Some(segment) = split.next_segment() {
                    black_box(segment);
                }
            },
            BatchSize::SmallInput,
        );
    });
    let mut bytes = whole.clone();
    let mut split = Split::new(&mut bytes, &read, SegmentKind::Tcp4, 1328).expect("it fits together");
    while let Some(segment) = split.next_segment() {
        segments.push((segment.to_vec(), parse(segment).expect("a packet")));
    }
    let slab: Vec<u8> = segments.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
    let mut coalescer = Coalescer::new(Offloads { tcp: true, udp: true }, RUN);
    group.bench_function("coalesce", |b| {
        b.iter_batched_ref(
            || slab.clone(),
            |slab| {
                let mut at = 0;
                for (bytes, read) in &segments {
                    coalescer.push(slab, at, read);
                    at += bytes.len();
                }
                let mut written = 0;
                coalescer.drain(slab, |offload, parts| {
                    assert!(matches!(offload, Offload::Segments { .. }));
                    written += parts.len();
                });
                assert_eq!(written, RUN);
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// Numbers that repeat after a long time: the same ones in every run.
fn numbers() -> impl Iterator<Item = u32> {
    let mut state = 0x9e37_79b9_u32;
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        Some(state)
    })
}

fn route_lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("route lookup");
    for size in [10, 1_000, 100_000] {
        let mut table = RouteTable::default();
        for (i, n) in numbers().take(size).enumerate() {
            let net = ipnet::Ipv4Net::new(Ipv4Addr::from(n), 16 + (n % 9) as u8).expect("a length").trunc();
            table.add(net.to_string().parse::<Prefix>().expect("a prefix"), PeerRef(i as u32));
        }
        let asked: Vec<IpAddr> =
            numbers().skip(size / 2).take(1024).map(|n| Ipv4Addr::from(n).into()).collect();
        let mut next = asked.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| table.owners(*next.next().expect("a cycle")).len());
        });
    }
    group.finish();
}

fn filter(c: &mut Criterion) {
    let mut map = map(1, 2).expect("a map");
    for (i, n) in numbers().take(10_000).enumerate() {
        let net = ipnet::Ipv4Net::new(Ipv4Addr::from(n), 24).expect("a length").trunc();
        let source = RuleSource::Prefix(net.to_string().parse().expect("a prefix"));
        let port = 1 + (n % 60_000) as u16;
        let target = RuleTarget { first_port: port, last_port: port, ..RuleTarget::all(TargetAddr::Myself) };
        map.upsert(Entry::Rule(
            RuleId(i as u64 + 10),
            FilterRule { line: 1, srcs: vec![source], dsts: vec![target] },
        ));
    }
    let filter = Filter::compile(&map);
    let flows: Vec<Flow> = numbers()
        .take(1024)
        .map(|n| Flow {
            src: Ipv4Addr::from(n).into(),
            dst: addrs(1).v4.into(),
            protocol: 6,
            dst_port: 1 + (n % 60_000) as u16,
        })
        .collect();
    let mut next = flows.iter().cycle();
    c.bench_function("filter/10000 rules", |b| {
        b.iter(|| verdict(&filter, next.next().expect("a cycle")).is_allowed());
    });
}

/// A bare TCP packet.
fn tcp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: u8) -> Packet {
    let mut p = [0; 40];
    p[..4].copy_from_slice(&[0x45, 0, 0, 40]);
    p[8..10].copy_from_slice(&[64, 6]);
    p[12..16].copy_from_slice(&src.0.octets());
    p[16..20].copy_from_slice(&dst.0.octets());
    p[20..22].copy_from_slice(&src.1.to_be_bytes());
    p[22..24].copy_from_slice(&dst.1.to_be_bytes());
    p[32..34].copy_from_slice(&[0x50, flags]);
    parse(&p).expect("a packet")
}

/// The connection table with a million connections that both sides use: how many it holds, in how much memory,
/// and what finding one costs.
fn conntrack(c: &mut Criterion) {
    let before = resident();
    let table = Conntrack::new([5; 16]);
    let peer = NodeId(2);
    let when = |stamp: u64| Judgement { generation: 1, stamp };
    let both_ends = |i: u32| {
        let [a, b, c, d] = i.to_be_bytes();
        ((addrs(1).v4, 20_000 + u16::from(a)), (Ipv4Addr::new(10, b, c, d), 443))
    };
    let (syn, ack) = (tcp_flag::SYN, tcp_flag::ACK);
    for i in 0..FLOWS {
        let (own, other) = both_ends(i);
        let stamp = 1 + u64::from(i / 1000);
        table.outbound(&tcp(own, other, syn), when(stamp), |_| None, |_| Some(peer));
        table.inbound(&tcp(other, own, syn | ack), peer, when(stamp), |_| None);
    }
    let passes = |i: u32, stamp: u64| {
        let (own, other) = both_ends(i);
        table.inbound(&tcp(other, own, ack), peer, when(stamp), |_| None).outcome == Inbound::Pass
    };
    let kept = (0..FLOWS).filter(|i| passes(*i, 2_000)).count();
    println!(
        "conntrack: {kept} of {FLOWS} flows kept, {} MiB resident for them",
        (resident() - before) >> 20
    );
    let mut next = numbers().map(|n| n % FLOWS);
    c.bench_function("conntrack/find in 1,000,000 flows", |b| {
        b.iter(|| passes(next.next().expect("without end"), 2_000));
    });
}

/// Flows in the connection table.
const FLOWS: u32 = 1_000_000;

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok()).unwrap_or(0) * 4096
}

criterion_group!(benches, seal_and_open, split_and_coalesce, route_lookup, filter, conntrack);
criterion_main!(benches);
