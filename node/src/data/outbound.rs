//! TUN → UDP.

use super::{BATCH, Device, HandUp, PACKET_ROOM, Slab, Snapshot, Up, Wire, wait_readable};
use crate::clock;
use meshd_engine::data::{PathChoice, SealSink, seal_run};
use meshd_proto::relay::DATA_HEADER_LEN;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) struct Outbound {
    pub(super) device: Device,
    pub(super) wire: Arc<Wire>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) up: Up,
}

impl Outbound {
    pub(super) fn run(self, stop: &OwnedFd) {
        let mut packets = Slab::new();
        let mut lens = [0; BATCH];
        let mut sealed = Sealed { slab: Slab::new(), ready: Vec::with_capacity(BATCH), up: &self.up };
        while wait_readable(&self.device, stop) {
            packets.clear();
            while let Some(room) = packets.room() {
                match self.device.read(room) {
                    Ok((len, _)) => {
                        let index = packets.keep();
                        lens[index] = len;
                    }
                    // Nothing more, or the device is down for a moment.
                    Err(_) => break,
                }
            }
            if packets.used == 0 {
                // Readable without a packet: the device reports an error (it is down). Do not spin.
                std::thread::sleep(std::time::Duration::from_millis(10));
                continue;
            }
            let snapshot = self.snapshot.load();
            let batch = (0..packets.used).map(|i| packets.get(i, 0, lens[i]));
            seal_run(&snapshot, batch, &mut sealed, clock::now());
            self.send(&mut sealed);
        }
    }

    fn send(&self, sealed: &mut Sealed<'_>) {
        for (index, len, path) in sealed.ready.drain(..) {
            let start = index * PACKET_ROOM;
            let frame = &mut sealed.slab.bytes[start..start + DATA_HEADER_LEN + len];
            for to in [path.to, path.also].into_iter().flatten() {
                if self.wire.send_with_headroom(to, frame).is_err() {
                    self.up.counters.udp_send.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        sealed.slab.clear();
    }
}

/// Sealed datagrams with room for a relay's header before each.
struct Sealed<'a> {
    slab: Slab,
    ready: Vec<(usize, usize, PathChoice)>,
    up: &'a Up,
}

impl SealSink for Sealed<'_> {
    fn room(&mut self, max: usize) -> Option<&mut [u8]> {
        let room = self.slab.room()?.get_mut(DATA_HEADER_LEN..)?;
        (max <= room.len()).then_some(room)
    }

    fn commit(&mut self, len: usize, path: PathChoice) {
        let index = self.slab.keep();
        self.ready.push((index, len, path));
    }

    fn hand_up(&mut self, packet: &[u8]) {
        self.up.send(HandUp::Outbound { packet: packet.to_vec() });
    }
}
