//! The data threads: packets between the TUN device and the UDP sockets.
//!
//! Plain OS threads, run to completion: read a batch, seal or open it by the engine's pure functions
//! over the published snapshot, write. No tokio, no lock over a system call, no allocation per packet.
//! What is not data (handshakes, probes, STUN, relay control, packets without a session) goes to the
//! mesh task by one bounded queue; when that is full, it is dropped and counted: the protocols retry.

mod device;
mod inbound;
mod outbound;
mod wire;

pub use device::{DEVICE_ROOM, Device, PacketDevice};
pub use wire::{RelayPeers, Wire};

use arc_swap::ArcSwap;
use meshd_engine::Source;
use meshd_engine::data::DataSnapshot;
use meshd_engine::session::wireguard::WireGuardSession;
use meshd_proto::{Endpoint, NodeId, RelayId};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// What the data threads publish and read: the engine's snapshot with real WireGuard sessions.
pub type Snapshot = ArcSwap<DataSnapshot<WireGuardSession>>;

/// Packets read from a descriptor before they are processed.
const BATCH: usize = 64;
/// Largest packet from the TUN device or in a datagram that we handle.
const PACKET_ROOM: usize = 2048;

/// What a data thread hands up to the mesh task.
#[derive(Debug)]
pub enum HandUp {
    /// Not data, or data that the engine should see.
    Datagram {
        /// Which way it came.
        from: Source,
        /// The datagram, out of its relay frame.
        payload: Vec<u8>,
    },
    /// A relay frame other than data, or from an address that is no relay we are attached to.
    RelayFrame {
        /// The sender.
        from: Endpoint,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Data came through a relay: it is alive.
    RelayHeard(RelayId),
    /// A packet whose peer has no session.
    Outbound {
        /// The packet.
        packet: Vec<u8>,
    },
    /// A peer was heard on another way.
    Seen {
        /// Who.
        peer: NodeId,
        /// Which way.
        from: Source,
    },
}

/// Counters of the threads themselves.
#[derive(Debug, Default)]
pub struct ThreadCounters {
    /// Not handed up: the queue was full.
    pub queue_full: AtomicU64,
    /// Not written to the TUN device.
    pub tun_write: AtomicU64,
    /// Not sent: the socket's buffer was full, or the kernel refused.
    pub udp_send: AtomicU64,
}

impl ThreadCounters {
    /// All with their names.
    pub fn all(&self) -> [(&'static str, u64); 3] {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        [
            ("queue_full", get(&self.queue_full)),
            ("tun_write", get(&self.tun_write)),
            ("udp_send", get(&self.udp_send)),
        ]
    }
}

/// The bounded way from the data threads to the mesh task.
#[derive(Clone, Debug)]
struct Up {
    queue: mpsc::Sender<HandUp>,
    counters: Arc<ThreadCounters>,
}

impl Up {
    fn send(&self, what: HandUp) {
        if self.queue.try_send(what).is_err() {
            self.counters.queue_full.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The running threads. They stop and are joined when this is dropped.
#[derive(Debug)]
pub struct DataThreads {
    threads: Vec<JoinHandle<()>>,
    stop: OwnedFd,
    /// Their counters.
    pub counters: Arc<ThreadCounters>,
}

impl DataThreads {
    /// Starts one thread for the device and one for each socket.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn start(
        device: &Device,
        wire: &Arc<Wire>,
        snapshot: &Arc<Snapshot>,
        queue: mpsc::Sender<HandUp>,
    ) -> io::Result<Self> {
        let counters = Arc::new(ThreadCounters::default());
        let up = Up { queue, counters: Arc::clone(&counters) };
        // An event descriptor that nobody reads: once written, it is readable for every thread.
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        let mut threads = Self { threads: Vec::new(), stop, counters };
        let outbound = outbound::Outbound {
            device: Arc::clone(device),
            wire: Arc::clone(wire),
            snapshot: Arc::clone(snapshot),
            up: up.clone(),
        };
        threads.spawn("mesh-out", |stop| outbound.run(&stop))?;
        for (name, v6) in [("mesh-in4", false), ("mesh-in6", true)] {
            if wire.socket(v6).is_some() {
                let inbound = inbound::Inbound {
                    device: Arc::clone(device),
                    wire: Arc::clone(wire),
                    snapshot: Arc::clone(snapshot),
                    up: up.clone(),
                    v6,
                };
                threads.spawn(name, |stop| inbound.run(&stop))?;
            }
        }
        Ok(threads)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce(OwnedFd) + Send + 'static) -> io::Result<()> {
        let stop = self.stop.try_clone()?;
        self.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(move || body(stop))?);
        Ok(())
    }
}

impl Drop for DataThreads {
    fn drop(&mut self) {
        // Eight bytes always fit an event descriptor that was never written.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Waits until `fd` is readable. `false`: stop.
fn wait_readable(fd: impl AsFd, stop: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(&fd, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return fds[1].revents().is_empty(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "a data thread cannot wait for packets and ends");
                return false;
            }
        }
    }
}

/// A fixed slab of equal rooms, filled in order and emptied at once.
struct Slab {
    bytes: Box<[u8]>,
    used: usize,
}

impl Slab {
    fn new() -> Self {
        Self { bytes: vec![0; BATCH * PACKET_ROOM].into_boxed_slice(), used: 0 }
    }

    fn room(&mut self) -> Option<&mut [u8]> {
        let start = self.used * PACKET_ROOM;
        self.bytes.get_mut(start..start + PACKET_ROOM)
    }

    fn get(&self, index: usize, from: usize, len: usize) -> &[u8] {
        let start = index * PACKET_ROOM + from;
        self.bytes.get(start..start + len).unwrap_or_default()
    }

    /// Keeps the room last lent; its index.
    fn keep(&mut self) -> usize {
        self.used += 1;
        self.used - 1
    }

    fn clear(&mut self) {
        self.used = 0;
    }
}
