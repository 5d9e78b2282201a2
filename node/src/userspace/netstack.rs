//! The thread that moves packets between the engine and the stack, and the handle that everybody else
//! holds.
//!
//! The data threads put packets into one [`Lane`] and take them out of another; the thread of this
//! module runs the stack between the two, and sleeps while there is nothing to do: it wakes for packets,
//! for streams that want to send, and when a timer of a connection is due.

use super::lane::{Lane, Offered, Packets};
use super::stack::{Beyond, Stack, StackDrops, Tuple};
use super::stream::{TcpListener, TcpStream};
use super::udp::UdpSocket;
use crate::clock;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Packets that are processed before streams get at the stack.
const BURST: usize = 64;
/// Packets after which acknowledgements may leave.
const ACK_EVERY: usize = 2;
/// Packets for behind this node that may wait for their task.
const BEYOND_QUEUE: usize = 512;
/// A sleep that nothing bounds is bounded by this: a lost wake-up must not be for ever.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// A timer that is due and moves nothing is looked at again after this.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// What the stack may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections at once, those that are closing included.
    pub connections: usize,
    /// Connections that are being opened from outside.
    pub half_open: usize,
    /// Connections that wait to be accepted, for each port.
    pub backlog: usize,
    /// Ports listened on.
    pub listeners: usize,
    /// UDP sockets.
    pub udp_sockets: usize,
    /// Buffer of a connection each way, in bytes. It bounds the throughput: buffer ÷ round-trip time.
    pub tcp_buffer: usize,
    /// All buffers of connections together, in bytes.
    pub memory: usize,
    /// Packets that wait for the stack, in bytes.
    pub inbound: usize,
    /// Packets that wait to be sealed, in bytes.
    pub outbound: usize,
    /// How long a connection waits for a peer that says nothing.
    pub dead_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            half_open: 128,
            backlog: 128,
            listeners: 256,
            udp_sockets: 256,
            // 1 MiB in 50 ms: 160 Mbit/s for one connection.
            tcp_buffer: 1 << 20,
            memory: 256 << 20,
            inbound: 2 << 20,
            outbound: 1 << 20,
            dead_after: Duration::from_secs(75),
        }
    }
}

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct Netstack(pub(super) Arc<Shared>);

/// The running thread. Dropping it ends all streams and joins it.
#[derive(Debug)]
pub struct NetstackThread {
    stack: Netstack,
    thread: Option<JoinHandle<()>>,
}

pub(super) struct Shared {
    stack: Mutex<Stack>,
    inbound: Lane,
    outbound: Lane,
    /// What the data thread has in its hands.
    taken: Mutex<Taken>,
    thread: OnceLock<Thread>,
    stop: AtomicBool,
    turns: AtomicU64,
}

#[derive(Default)]
struct Taken {
    packets: Packets,
    next: usize,
}

impl Netstack {
    /// Starts a stack without addresses; packets are at most `mtu` bytes long.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(mtu: u16, limits: Limits) -> io::Result<(Self, NetstackThread)> {
        let stack = Stack::new(mtu, limits, clock::entropy()?, clock::now());
        let shared = Arc::new(Shared {
            stack: Mutex::new(stack),
            inbound: Lane::new(limits.inbound),
            outbound: Lane::with_signal(limits.outbound.max(2 * usize::from(mtu)))?,
            taken: Mutex::default(),
            thread: OnceLock::new(),
            stop: AtomicBool::new(false),
            turns: AtomicU64::new(0),
        });
        let run = Arc::clone(&shared);
        let mtu = usize::from(mtu);
        let thread = std::thread::Builder::new().name("mesh-stack".to_owned()).spawn(move || run.run(mtu))?;
        // Set once, here.
        let _ = shared.thread.set(thread.thread().clone());
        let stack = Self(shared);
        Ok((stack.clone(), NetstackThread { stack, thread: Some(thread) }))
    }

    /// The node's own addresses, and addresses that are the node's, too, without a service (the mesh's
    /// resolver). Connections from addresses that are no longer own end.
    pub fn set_addrs(&self, own: impl IntoIterator<Item = IpAddr>, deaf: impl IntoIterator<Item = IpAddr>) {
        let (own, deaf) = (own.into_iter().collect(), deaf.into_iter().collect());
        self.0.with(|stack, _| stack.set_addrs(own, deaf));
    }

    /// Opens a connection to an address that the mesh routes.
    ///
    /// # Errors
    /// `ConnectionRefused`, `HostUnreachable` and `PermissionDenied` as the other side says;
    /// `TimedOut` when nobody says anything for `patience`; `QuotaExceeded` when too many are open.
    pub async fn connect(&self, remote: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
        let (handle, tuple) = self.0.with(|stack, _| stack.connect(remote))?;
        let stream = TcpStream::new(Arc::clone(&self.0), handle, tuple);
        tokio::time::timeout(patience, stream.opened()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(stream)
    }

    /// Accepts connections to `port` of the node's own addresses; 0: a free one.
    ///
    /// # Errors
    /// `AddrInUse`, `QuotaExceeded`, or when the stack has stopped.
    pub fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let port = self.0.with(|stack, _| stack.listen(port))?;
        Ok(TcpListener::new(Arc::clone(&self.0), port))
    }

    /// A UDP socket on `port` of the node's own addresses; 0: a free one.
    ///
    /// # Errors
    /// `AddrInUse`, `QuotaExceeded`, or when the stack has stopped.
    pub fn udp_bind(&self, port: u16) -> io::Result<UdpSocket> {
        let (handle, port) = self.0.with(|stack, _| stack.udp_bind(port))?;
        Ok(UdpSocket::new(Arc::clone(&self.0), handle, port))
    }

    /// Takes a packet from the mesh, whole, in parts. `false`: dropped, too many wait.
    pub fn deliver(&self, parts: &[IoSlice<'_>]) -> bool {
        let offered = self.0.inbound.offer_parts(parts);
        if offered == Offered::First {
            self.0.ring();
        }
        offered != Offered::Dropped
    }

    /// The next packet for the mesh, copied into `room`: its length. `None`: there is none.
    pub fn next_packet(&self, room: &mut [u8]) -> Option<usize> {
        let shared = &self.0;
        let mut taken = shared.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = &mut *taken;
        if taken.next == taken.packets.len() {
            taken.next = 0;
            taken.packets.clear();
            if shared.outbound.take(&mut taken.packets) {
                shared.ring();
            }
        }
        let packet = taken.packets.get(taken.next);
        let len = packet.and_then(|packet| {
            room.get_mut(..packet.len())?.copy_from_slice(packet);
            Some(packet.len())
        });
        taken.next = taken.packets.len().min(taken.next + 1);
        if taken.next == taken.packets.len() {
            shared.outbound.settle();
        }
        len
    }

    /// Readable while [`Self::next_packet`] has one.
    pub fn packets_wait(&self) -> BorrowedFd<'_> {
        self.0.outbound.signal().unwrap_or_else(|| unreachable!("the outbound lane has a signal"))
    }

    /// Takes packets for hosts behind this node from now on.
    pub(super) fn beyond(&self) -> mpsc::Receiver<Beyond> {
        let (tx, rx) = mpsc::channel(BEYOND_QUEUE);
        self.0.with(|stack, _| stack.set_beyond(tx));
        rx
    }

    /// Goes on with a connection to a host behind this node, which has taken it.
    pub(super) async fn admit(&self, tuple: Tuple, syn: &[u8]) -> io::Result<TcpStream> {
        let handle = self.0.with(|stack, now| stack.admit(tuple, syn, now))?;
        let stream = TcpStream::new(Arc::clone(&self.0), handle, tuple);
        stream.opened().await?;
        Ok(stream)
    }

    /// Ends a connection to a host behind this node, which has not taken it.
    pub(super) fn refuse(&self, tuple: Tuple, syn: &[u8], silently: bool) {
        self.0.with(|stack, now| stack.refuse(tuple, syn, silently, now));
    }

    /// Sends a packet that was made by hand. `false`: dropped, too many wait.
    pub(super) fn emit(&self, packet: &[u8]) -> bool {
        self.0.outbound.offer(packet) != Offered::Dropped
    }

    /// What was dropped, by name.
    pub fn drops(&self) -> [(&'static str, u64); 4] {
        let StackDrops { unknown, full } = self.0.lock().drops;
        [
            ("stack_unknown", unknown),
            ("stack_full", full),
            ("stack_inbound", self.0.inbound.dropped()),
            ("stack_outbound", self.0.outbound.dropped()),
        ]
    }

    /// How often the thread has looked for something to do: an idle stack stands still.
    pub fn turns(&self) -> u64 {
        self.0.turns.load(Ordering::Relaxed)
    }

    /// Connections, listeners and UDP sockets in use.
    pub fn in_use(&self) -> [usize; 3] {
        self.0.lock().in_use()
    }
}

impl std::fmt::Debug for Netstack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Netstack")
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Stack> {
        // A panic inside smoltcp: what it left is used on rather than ending every stream.
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something in the stack and lets its thread look at it.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut Stack, Instant) -> R) -> R {
        let result = change(&mut self.lock(), clock::now());
        self.ring();
        result
    }

    /// Wakes the thread.
    pub(super) fn ring(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn run(&self, mtu: usize) {
        let mut batch = Packets::default();
        let mut next = 0;
        while !self.stop.load(Ordering::Acquire) {
            self.turns.fetch_add(1, Ordering::Relaxed);
            if next == batch.len() {
                next = 0;
                batch.clear();
                self.inbound.take(&mut batch);
            }
            let end = batch.len().min(next + BURST);
            let room = self.outbound.room(mtu);
            let mut stack = self.lock();
            let now = clock::now();
            for index in next..end {
                if let Some(packet) = batch.get(index) {
                    stack.ingress(packet, now);
                }
                // One acknowledgement for a whole burst would starve the sender's slow start, which counts
                // acknowledgements, not bytes.
                if index % ACK_EVERY == 0 {
                    stack.egress(room, now);
                }
            }
            next = end;
            let more = stack.egress(room, now);
            stack.reap(now);
            let mut out = std::mem::take(&mut stack.out);
            let wait = if more || next < batch.len() { Some(Duration::ZERO) } else { stack.idle(now) };
            drop(stack);
            let sent = !out.is_empty();
            self.outbound.append(&mut out);
            // The buffer goes back, so that it need not grow anew.
            let mut stack = self.lock();
            if stack.out.is_empty() {
                stack.out = out;
            }
            drop(stack);
            match wait {
                Some(Duration::ZERO) if sent || next < batch.len() => {}
                // There is something to send and no room for it: whoever makes room rings.
                Some(Duration::ZERO) if room < mtu => std::thread::park_timeout(LONGEST_SLEEP),
                // Due, but nothing came of it: never spin.
                Some(Duration::ZERO) => std::thread::park_timeout(SHORTEST_SLEEP),
                wait => std::thread::park_timeout(wait.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)),
            }
        }
        let mut stack = self.lock();
        stack.stop();
        let now = clock::now();
        while stack.egress(self.outbound.room(mtu), now) {}
        let mut out = std::mem::take(&mut stack.out);
        drop(stack);
        self.outbound.append(&mut out);
    }
}

impl NetstackThread {
    /// The stack it runs.
    pub const fn stack(&self) -> &Netstack {
        &self.stack
    }
}

impl Drop for NetstackThread {
    fn drop(&mut self) {
        self.stack.0.stop.store(true, Ordering::Release);
        self.stack.0.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
