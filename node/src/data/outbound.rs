//! Host → UDP, for one queue of the device.

use super::sealed::{Sealed, Sender};
use super::{DEVICE_ROOM, Device, Snapshot, Up, Wire, wait_readable};
use crate::clock;
use meshd_engine::data::{FromHost, MAX_SEGMENTS, Offload, seal_run};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Packets read before they are sealed and sent.
const PACKETS: usize = MAX_SEGMENTS;
/// Bytes read before they are sealed and sent: one super-packet.
const BYTES: usize = 48 << 10;
/// Batches after which it is looked whether the thread is to stop.
const TURN: usize = 64;
/// A device that is readable and gives nothing is down: it is asked again after this.
const DOWN: Duration = Duration::from_millis(10);

pub(super) struct Outbound {
    pub(super) device: Device,
    pub(super) wire: Arc<Wire>,
    pub(super) thread: usize,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) up: Up,
    pub(super) gso: Arc<AtomicBool>,
}

impl Outbound {
    pub(super) fn run(self, stop: &OwnedFd) {
        let mut slab = vec![0; BYTES + DEVICE_ROOM].into_boxed_slice();
        let mut packets = [(0, Offload::None); PACKETS];
        let mut sealed = Sealed::new(self.up.clone());
        let mut sender = Sender::new(Arc::clone(&self.wire), self.thread, Arc::clone(&self.gso));
        while wait_readable(self.device.as_fd(), None, stop).is_some() {
            let mut idle = true;
            // While it was sent, more has come mostly: to ask is cheaper than to wait and be woken.
            for _ in 0..TURN {
                let count = self.read(&mut slab, &mut packets);
                if count == 0 {
                    break;
                }
                idle = false;
                let now = clock::now();
                let snapshot = self.snapshot.load();
                let mut rest = &mut *slab;
                let run = packets[..count].iter().map(|(len, offload)| {
                    let (bytes, behind) = std::mem::take(&mut rest).split_at_mut(*len);
                    rest = behind;
                    FromHost { bytes, offload: *offload }
                });
                seal_run(&snapshot, run, &mut sealed, now);
                sender.flush(&mut sealed, now);
            }
            if idle {
                std::thread::sleep(DOWN);
            }
        }
    }

    /// Reads what is there, up to a batch: how many packets.
    fn read(&self, slab: &mut [u8], packets: &mut [(usize, Offload); PACKETS]) -> usize {
        let (mut count, mut used) = (0, 0);
        while count < PACKETS && used < BYTES {
            match self.device.read(&mut slab[used..used + DEVICE_ROOM]) {
                Ok((len, offload)) => {
                    packets[count] = (len, offload);
                    count += 1;
                    used += len;
                }
                // Nothing more, or the device is down for a moment.
                Err(_) => break,
            }
        }
        count
    }
}
