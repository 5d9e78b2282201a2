//! UDP → TUN, for one socket.

use super::{BATCH, Device, HandUp, PACKET_ROOM, RelayPeers, Slab, Snapshot, Up, Wire, wait_readable};
use crate::clock;
use meshd_engine::Source;
use meshd_engine::data::{Offload, OpenSink, open_run};
use meshd_engine::packet::Packet;
use meshd_proto::relay::{DatagramKind, Frame};
use meshd_proto::{Endpoint, NodeId};
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often a relay that sends data is reported alive.
const RELAY_NOTE: Duration = Duration::from_millis(500);

pub(super) struct Inbound {
    pub(super) device: Device,
    pub(super) wire: Arc<Wire>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) up: Up,
    pub(super) v6: bool,
}

impl Inbound {
    pub(super) fn run(self, stop: &OwnedFd) {
        let Some(socket) = self.wire.socket(self.v6) else { return };
        let mut datagrams = Slab::new();
        let mut meta = [(0, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))); BATCH];
        let mut opened = Opened { slab: Slab::new(), ready: Vec::with_capacity(BATCH), up: &self.up };
        let mut heard = None;
        while wait_readable(socket, stop) {
            receive(socket, &mut datagrams, &mut meta);
            let snapshot = self.snapshot.load();
            let relays = self.wire.relays();
            let batch = (0..datagrams.used).filter_map(|i| {
                let (len, from) = meta[i];
                self.classify(&relays, Endpoint::canonical(from), datagrams.get(i, 0, len))
            });
            let now = clock::now();
            open_run(&snapshot, batch, &mut opened, now);
            self.note_relays(&relays, &meta[..datagrams.used], &mut heard, now);
            for (index, len) in opened.ready.drain(..) {
                if self.device.write(Offload::None, &[IoSlice::new(opened.slab.get(index, 0, len))]).is_err()
                {
                    self.up.counters.tun_write.fetch_add(1, Ordering::Relaxed);
                }
            }
            opened.slab.clear();
        }
    }

    /// Takes a payload out of its relay frame. What only the mesh task understands goes up at once.
    fn classify<'d>(
        &self,
        relays: &RelayPeers,
        from: Endpoint,
        datagram: &'d [u8],
    ) -> Option<(Source, &'d [u8])> {
        if DatagramKind::of(datagram) != DatagramKind::Relay {
            return Some((Source::Udp(from), datagram));
        }
        if let (Some(relay), Ok(Frame::Data { peer, payload })) =
            (relays.relay_at(from), Frame::parse(datagram))
        {
            // A peer that is not in the map has nothing to say to us.
            let peer = *relays.peers.get(&peer)?;
            return Some((Source::Relay { relay, peer }, payload));
        }
        self.up.send(HandUp::RelayFrame { from, frame: datagram.to_vec() });
        None
    }
}

impl Inbound {
    /// Tells the mesh task that a relay is alive, from time to time: the relay's client must not take
    /// it for dead while data flows.
    fn note_relays(
        &self,
        relays: &RelayPeers,
        senders: &[(usize, SocketAddr)],
        heard: &mut Option<Instant>,
        now: Instant,
    ) {
        if relays.relays.is_empty() || heard.is_some_and(|at| now < at + RELAY_NOTE) {
            return;
        }
        if let Some(relay) = senders.iter().find_map(|(_, from)| relays.relay_at(Endpoint::canonical(*from)))
        {
            *heard = Some(now);
            self.up.send(HandUp::RelayHeard(relay));
        }
    }
}

fn receive(socket: &UdpSocket, datagrams: &mut Slab, meta: &mut [(usize, SocketAddr); BATCH]) {
    datagrams.clear();
    while let Some(room) = datagrams.room() {
        match socket.recv_from(room) {
            // A datagram that fills the room was cut: nothing of ours is that long.
            Ok((len, _)) if len == PACKET_ROOM => {}
            Ok(found) => {
                let index = datagrams.keep();
                meta[index] = found;
            }
            // Nothing more; or an ICMP error of an earlier send, which the path logic notices by silence.
            Err(_) => return,
        }
    }
}

/// Opened packets for the host.
struct Opened<'a> {
    slab: Slab,
    ready: Vec<(usize, usize)>,
    up: &'a Up,
}

impl OpenSink for Opened<'_> {
    fn room(&mut self, max: usize) -> Option<&mut [u8]> {
        let room = self.slab.room()?;
        (max <= room.len()).then_some(room)
    }

    fn deliver(&mut self, len: usize, _packet: &Packet) {
        let index = self.slab.keep();
        self.ready.push((index, len));
    }

    fn hand_up(&mut self, from: Source, datagram: &[u8]) {
        self.up.send(HandUp::Datagram { from, payload: datagram.to_vec() });
    }

    fn seen(&mut self, peer: NodeId, from: Source) {
        self.up.send(HandUp::Seen { peer, from });
    }
}
