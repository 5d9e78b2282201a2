//! The data threads: packets between the host's device and the UDP sockets.
//!
//! Plain OS threads, run to completion: read a batch, seal or open it by the engine's pure functions
//! over the published snapshot, write. No tokio, no lock over a system call, no allocation per packet.
//! Runs travel whole: a super-packet of the host becomes one send of many datagrams (GSO), a run of
//! datagrams (GRO) becomes one write of a super-packet. Whatever the kernel lacks is found out at run
//! time and done packet by packet.
//!
//! With several threads each has a queue of the device and sockets of its own: the kernel keeps a peer's path
//! on one socket and a flow on the queue that its answers were written to, which is one for each peer. So packets of
//! a flow stay in order, and those of a peer are sealed and sent by one thread.
//!
//! What is not data (handshakes, probes, STUN, relay control, packets without a session) goes to the
//! mesh task by one bounded queue; when that is full, it is dropped and counted: the protocols retry.

mod device;
mod inbound;
mod outbound;
mod sealed;
mod wire;

pub use device::{DEVICE_ROOM, Device, PacketDevice};
pub use wire::{RelayPeers, Wire};

use arc_swap::ArcSwap;
use meshd_engine::Source;
use meshd_engine::data::{DataSnapshot, Offloads};
use meshd_engine::session::wireguard::WireGuardSession;
use meshd_proto::localapi::DataPlaneStatus;
use meshd_proto::{Endpoint, NodeId, RelayId};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// What the data threads publish and read: the engine's snapshot with real WireGuard sessions.
pub type Snapshot = ArcSwap<DataSnapshot<WireGuardSession>>;

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
        // A program that sends fast to a peer without a session must not push out the probes and handshakes
        // of all others: half of the queue is theirs.
        let scarce = self.queue.capacity() * 2 < self.queue.max_capacity();
        if matches!(what, HandUp::Outbound { .. }) && scarce {
            self.counters.queue_full.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.queue.try_send(what).is_err() {
            self.counters.queue_full.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Which offloads the threads use. GSO may end while they run: a driver may refuse it.
#[derive(Debug)]
struct OffloadsInUse {
    accepts: Offloads,
    gso: Arc<AtomicBool>,
    gro: bool,
}

/// The running threads. They stop and are joined when this is dropped.
#[derive(Debug)]
pub struct DataThreads {
    threads: Vec<JoinHandle<()>>,
    stop: OwnedFd,
    queues: usize,
    offloads: OffloadsInUse,
    /// Their counters.
    pub counters: Arc<ThreadCounters>,
}

impl DataThreads {
    /// Starts two threads for each queue of the device: out and in.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn start(
        queues: &[Device],
        wire: &Arc<Wire>,
        snapshot: &Arc<Snapshot>,
        queue: mpsc::Sender<HandUp>,
    ) -> io::Result<Self> {
        let counters = Arc::new(ThreadCounters::default());
        let up = Up { queue, counters: Arc::clone(&counters) };
        // An event descriptor that nobody reads: once written, it is readable for every thread.
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        let gso = Arc::new(AtomicBool::new(wire.offloads().gso));
        let accepts = queues.first().map(|q| q.accepts()).unwrap_or_default();
        let offloads = OffloadsInUse { accepts, gso: Arc::clone(&gso), gro: wire.offloads().gro };
        let mut threads = Self { threads: Vec::new(), stop, queues: queues.len(), counters, offloads };
        for (index, device) in queues.iter().enumerate() {
            // More queues than sockets: the sockets are shared.
            let socket = index % wire.threads().max(1);
            let outbound = outbound::Outbound {
                device: Arc::clone(device),
                wire: Arc::clone(wire),
                thread: socket,
                snapshot: Arc::clone(snapshot),
                up: up.clone(),
                gso: Arc::clone(&gso),
            };
            threads.spawn(&format!("mesh-out{index}"), |stop| outbound.run(&stop))?;
        }
        for index in 0..wire.threads() {
            let inbound = inbound::Inbound {
                queues: queues.to_vec(),
                wire: Arc::clone(wire),
                thread: index,
                snapshot: Arc::clone(snapshot),
                up: up.clone(),
            };
            threads.spawn(&format!("mesh-in{index}"), |stop| inbound.run(&stop))?;
        }
        Ok(threads)
    }

    /// Threads and offloads as they are now.
    pub fn status(&self) -> DataPlaneStatus {
        let o = &self.offloads;
        DataPlaneStatus {
            threads: u32::try_from(self.queues).unwrap_or(u32::MAX),
            tun_tcp: o.accepts.tcp,
            tun_udp: o.accepts.udp,
            udp_gso: o.gso.load(Ordering::Relaxed),
            udp_gro: o.gro,
        }
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

/// Waits until one of two descriptors is readable: which ones are. `None`: the threads are to stop.
fn wait_readable(first: BorrowedFd<'_>, second: Option<BorrowedFd<'_>>, stop: &OwnedFd) -> Option<[bool; 2]> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [
        PollFd::new(stop, PollFlags::IN),
        PollFd::from_borrowed_fd(first, PollFlags::IN),
        PollFd::from_borrowed_fd(second.unwrap_or(first), PollFlags::IN),
    ];
    loop {
        match poll(&mut fds, None) {
            Ok(_) if !fds[0].revents().is_empty() => return None,
            Ok(_) => {
                return Some([
                    !fds[1].revents().is_empty(),
                    second.is_some() && !fds[2].revents().is_empty(),
                ]);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "a data thread cannot wait for packets and ends");
                return None;
            }
        }
    }
}
