//! The engine's own sink: for the few packets that go the slow way.

use crate::data::{OpenSink, SealSink, Way};
use crate::event::{Source, Transmit};
use crate::packet::Packet;
use meshd_proto::NodeId;

/// Collects what the data functions hand out.
#[derive(Debug, Default)]
pub(super) struct Sink {
    room: Vec<u8>,
    pub(super) transmits: Vec<Transmit>,
    pub(super) waiting: Vec<Vec<u8>>,
    pub(super) delivered: Vec<Vec<u8>>,
    pub(super) seen: Vec<(NodeId, Source)>,
}

impl SealSink for Sink {
    fn room(&mut self, max: usize, _way: &Way) -> Option<&mut [u8]> {
        self.room.clear();
        self.room.resize(max, 0);
        Some(&mut self.room)
    }

    fn commit(&mut self, len: usize, way: &Way) {
        for to in way.path.to.into_iter().chain(way.path.also) {
            self.transmits.push(Transmit { to, payload: self.room[..len].to_vec() });
        }
    }

    fn hand_up(&mut self, packet: &[u8]) {
        self.waiting.push(packet.to_vec());
    }
}

impl OpenSink for Sink {
    fn room(&mut self, max: usize) -> Option<&mut [u8]> {
        SealSink::room(self, max, &Way::default())
    }

    fn deliver(&mut self, len: usize, _packet: &Packet) {
        self.delivered.push(self.room[..len].to_vec());
    }

    /// The engine has looked at the datagram already: only data messages come here.
    fn hand_up(&mut self, _from: Source, _datagram: &[u8]) {}

    fn seen(&mut self, peer: NodeId, from: Source) {
        self.seen.push((peer, from));
    }
}
