//! What one packet costs in the data path, over real WireGuard sessions: prints nanoseconds per packet
//! for sealing and opening runs of full-size packets. A sanity check for changes, not a benchmark:
//! `cargo run --release -p meshd-engine --example packet_cost`.

use meshd_engine::data::{OpenSink, PathChoice, SealSink, open_run, seal_run};
use meshd_engine::packet::Packet;
use meshd_engine::session::wireguard::WireGuard;
use meshd_engine::{Destination, Engine, EngineConfig, Input, Source};
use meshd_proto::netmap::{
    Entry, FilterRule, NetworkMap, Peer, PeerKind, RuleSource, RuleTarget, SelfNode, TargetAddr,
};
use meshd_proto::{
    ClassId, Endpoint, Hint, MeshAddrs, MeshPrefixes, NetworkId, NodeId, NodeSecret, RuleId, UnixSeconds,
};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

const NETWORK: NetworkId = NetworkId::from_bytes([7; 16]);
const RUN: usize = 32;
const ROUNDS: usize = 20_000;
const SIZE: usize = 1380;

#[expect(clippy::disallowed_methods, reason = "an example that measures")]
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
    fn room(&mut self, max: usize) -> Option<&mut [u8]> {
        self.bytes.get_mut(self.used..self.used + max)
    }
    fn commit(&mut self, len: usize, _: PathChoice) {
        self.used += len;
        self.lens.push(len);
    }
    fn hand_up(&mut self, _: &[u8]) {}
}

impl OpenSink for Slab {
    fn room(&mut self, max: usize) -> Option<&mut [u8]> {
        SealSink::room(self, max)
    }
    fn deliver(&mut self, len: usize, _: &Packet) {
        SealSink::commit(self, len, PathChoice::default());
    }
    fn hand_up(&mut self, _: Source, _: &[u8]) {}
    fn seen(&mut self, _: NodeId, _: Source) {}
}

fn main() {
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
    let (tx, rx) = (engines[0].data().load_full(), engines[1].data().load_full());
    let packets = vec![packet(1, 2); RUN];
    let slab = || Slab { bytes: vec![0; RUN * (SIZE + 64)], used: 0, lens: Vec::with_capacity(RUN) };
    let (mut sealed, mut opened) = (slab(), slab());
    let (mut seal_time, mut open_time) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
    let mut delivered = 0;
    for _ in 0..ROUNDS {
        sealed.clear();
        opened.clear();
        let begin = now();
        seal_run(&tx, packets.iter().map(Vec::as_slice), &mut sealed, begin);
        let middle = now();
        let mut at = 0;
        let datagrams = sealed.lens.iter().map(|len| {
            at += len;
            (Source::Udp(endpoint(1)), &sealed.bytes[at - len..at])
        });
        open_run(&rx, datagrams, &mut opened, middle);
        open_time += middle.elapsed();
        seal_time += middle - begin;
        delivered += opened.lens.len();
    }
    let total = RUN * ROUNDS;
    let per = |t: std::time::Duration| t.as_nanos() / total as u128;
    println!("{delivered} of {total} packets of {SIZE} bytes, runs of {RUN}");
    println!("seal {} ns, open {} ns per packet", per(seal_time), per(open_time));
}
