//! One simulated node: an engine, and what a host does around it.

use crate::net::{PORT, Place};
use crate::packets::{Inner, inner};
use crate::sessions::Sessions;
use meshd_engine::data::{Datagram, FromHost, OpenSink, SealSink, Way, open_run, seal_run};
use meshd_engine::packet::Packet;
use meshd_engine::{Destination, Engine, EngineConfig, Input, Source};
use meshd_proto::{Endpoint, NetworkId, NodeId, NodeKey, NodeSecret};
use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// A node of the simulation, by number from 1.
pub type NodeName = NodeId;

/// A packet that a node's host got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// When.
    pub at: Instant,
    /// What.
    pub packet: Inner,
}

pub(crate) struct SimNode<F: Sessions> {
    pub(crate) id: NodeId,
    pub(crate) secret: NodeSecret,
    /// Its public half: computing it is the dearest thing here.
    pub(crate) key: NodeKey,
    pub(crate) place: Place,
    pub(crate) engine: Engine<F>,
    pub(crate) running: bool,
    pub(crate) udp_blocked: bool,
    pub(crate) delivered: Vec<Delivered>,
    /// Flows that its host sent packets in, as a reply to them looks.
    pub(crate) asked: HashSet<(Ipv4Addr, Ipv4Addr, u16, u16)>,
    pub(crate) wake: Option<Instant>,
    /// Spare sockets: number → port, when they are closed, and towards whom they were opened.
    pub(crate) spares: BTreeMap<u64, (u16, Instant, Endpoint)>,
    /// The spare sockets that are paths, by the peer's endpoint, and when they are closed if nothing comes.
    pub(crate) adopted: BTreeMap<Endpoint, (u64, Instant)>,
}

impl<F: Sessions> SimNode<F> {
    /// The port that datagrams for `to` leave by.
    pub(crate) fn port_for(&self, to: Endpoint, now: Instant) -> u16 {
        let open = self.adopted.get(&to).filter(|(_, until)| *until > now);
        open.and_then(|(n, _)| self.spares.get(n)).map_or(PORT, |(port, ..)| *port)
    }
}

pub(crate) fn engine<F: Sessions>(
    secret: &NodeSecret,
    network: NetworkId,
    seed: [u8; 32],
    zero: Instant,
    now: Instant,
) -> Engine<F> {
    let config = EngineConfig::new(secret.clone(), network);
    Engine::new(config, F::of_node(secret, zero), seed, now)
}

/// An adopted spare socket is closed when nothing came in on it for so long, as a node does it.
pub(crate) const SPARE_SILENCE: Duration = Duration::from_secs(180);

/// What the data functions hand out.
#[derive(Default)]
pub(crate) struct Out {
    room: Vec<u8>,
    pub(crate) datagrams: Vec<(Destination, Vec<u8>)>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) packets: Vec<Vec<u8>>,
}

impl SealSink for Out {
    fn room(&mut self, max: usize, _way: &Way) -> Option<&mut [u8]> {
        self.room = vec![0; max];
        Some(&mut self.room)
    }
    fn commit(&mut self, len: usize, way: &Way) {
        for to in way.path.to.into_iter().chain(way.path.also) {
            self.datagrams.push((to, self.room[..len].to_vec()));
        }
    }
    fn hand_up(&mut self, packet: &[u8]) {
        self.inputs.push(Input::Outbound { packet: packet.to_vec() });
    }
}

impl OpenSink for Out {
    fn room(&mut self, max: usize) -> Option<&mut [u8]> {
        SealSink::room(self, max, &Way::default())
    }
    fn deliver(&mut self, len: usize, _packet: &Packet) {
        self.packets.push(self.room[..len].to_vec());
    }
    fn hand_up(&mut self, from: Source, datagram: &[u8]) {
        self.inputs.push(Input::Datagram { from, payload: datagram.to_vec() });
    }
    fn seen(&mut self, peer: NodeId, from: Source) {
        self.inputs.push(Input::PeerSeen { peer, from });
    }
}

impl<F: Sessions> SimNode<F> {
    /// The host sends a packet: as the data threads do it.
    pub(crate) fn send(&mut self, packet: Inner, now: Instant) -> Out {
        let mut out = Out::default();
        self.asked.insert((packet.dst, packet.src, packet.dst_port, packet.src_port));
        let mut bytes = packet.encode();
        let snapshot = self.engine.data().load_full();
        seal_run(&snapshot, [FromHost::whole(&mut bytes)], &mut out, now);
        out
    }

    /// A datagram arrives: as the data threads do it.
    pub(crate) fn receive(&mut self, from: Source, datagram: &[u8], now: Instant) -> Out {
        let mut out = Out::default();
        let snapshot = self.engine.data().load_full();
        open_run(&snapshot, [Datagram::unmarked(from, datagram)], &mut out, now);
        out
    }

    pub(crate) fn deliver(&mut self, packet: &[u8], now: Instant) -> Option<Inner> {
        let packet = inner(packet)?;
        self.delivered.push(Delivered { at: now, packet });
        Some(packet)
    }
}
