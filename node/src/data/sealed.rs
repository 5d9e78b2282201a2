//! Sealed datagrams on their way out: gathered in one slab as runs that one call sends.
//!
//! A run is what `UDP_SEGMENT` takes: datagrams of one length (the last may be shorter) for one
//! destination with one mark, end to end in the slab. Over a relay each has the relay's header before it
//! and belongs to its length.

use super::{HandUp, Up, Wire};
use meshd_engine::Destination;
use meshd_engine::data::{Ecn, MAX_SEGMENTS, SealSink, Way};
use meshd_proto::Endpoint;
use meshd_proto::relay::{DATA_HEADER_LEN, RelayAddr, data_header};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::mesh::is_stream;
use crate::udp::batch;

/// Bytes of the slab: what one pass of the thread reads, with room for what sealing adds.
const SLAB: usize = 256 << 10;
/// The longest payload of UDP in IPv4.
const MAX_DATAGRAM: usize = 65_507;
/// How long a full socket is waited for before datagrams are dropped.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long runs are not tried for a destination that refused one: its path is too narrow for them.
const PAUSE: Duration = Duration::from_secs(10);
/// Such destinations that are remembered.
const PAUSED: usize = 4;

/// The slab and its runs.
pub(super) struct Sealed {
    bytes: Box<[u8]>,
    used: usize,
    runs: Vec<Run>,
    up: Up,
}

#[derive(Clone, Copy)]
struct Run {
    way: Way,
    start: usize,
    len: usize,
    /// Bytes of a datagram with its headroom.
    piece: usize,
    count: usize,
    /// Room for a relay's header before each.
    headroom: usize,
}

impl Sealed {
    pub(super) fn new(up: Up) -> Self {
        Self { bytes: vec![0; SLAB].into_boxed_slice(), used: 0, runs: Vec::with_capacity(64), up }
    }
}

fn headroom(way: &Way) -> usize {
    let relayed = |to: Option<Destination>| matches!(to, Some(Destination::Relay { .. }));
    if relayed(way.path.to) || relayed(way.path.also) { DATA_HEADER_LEN } else { 0 }
}

impl SealSink for Sealed {
    fn room(&mut self, max: usize, way: &Way) -> Option<&mut [u8]> {
        let start = self.used + headroom(way);
        self.bytes.get_mut(start..start + max)
    }

    fn commit(&mut self, len: usize, way: &Way) {
        let headroom = headroom(way);
        let piece = headroom + len;
        let start = self.used;
        self.used += piece;
        if let Some(run) = self.runs.last_mut()
            && run.len == run.piece * run.count
            && piece <= run.piece
            && run.count < MAX_SEGMENTS
            && run.len + piece <= MAX_DATAGRAM
            && run.way == *way
        {
            run.len += piece;
            run.count += 1;
            return;
        }
        self.runs.push(Run { way: *way, start, len: piece, piece, count: 1, headroom });
    }

    fn hand_up(&mut self, packet: &[u8]) {
        self.up.send(HandUp::Outbound { packet: packet.to_vec() });
    }
}

/// Sends runs by one thread's sockets.
pub(super) struct Sender {
    pub(super) wire: Arc<Wire>,
    pub(super) thread: usize,
    /// Runs are sent by one call. Shared: when a driver refuses them, all threads stop.
    pub(super) gso: Arc<AtomicBool>,
    pub(super) paused: [Option<(SocketAddr, Instant)>; PAUSED],
}

impl Sender {
    pub(super) const fn new(wire: Arc<Wire>, thread: usize, gso: Arc<AtomicBool>) -> Self {
        Self { wire, thread, gso, paused: [None; PAUSED] }
    }

    /// Sends all runs and empties the slab.
    pub(super) fn flush(&mut self, sealed: &mut Sealed, now: Instant) {
        let Sealed { bytes, used, runs, up } = sealed;
        for run in runs.drain(..) {
            let run_bytes = &mut bytes[run.start..run.start + run.len];
            for to in [run.way.path.to, run.way.path.also].into_iter().flatten() {
                let lost = self.send_run(&run, to, run_bytes, now);
                if lost > 0 {
                    up.counters.udp_send.fetch_add(lost, Ordering::Relaxed);
                }
            }
        }
        *used = 0;
    }

    /// Sends a run to one place; how many datagrams were lost.
    fn send_run(&mut self, run: &Run, to: Destination, bytes: &mut [u8], now: Instant) -> u64 {
        let (at, skip) = match to {
            Destination::Udp(endpoint) => (endpoint, run.headroom),
            Destination::Relay { relay, peer } => {
                let Some(at) = self.wire.relays().relays.get(&relay).copied() else {
                    return run.count as u64;
                };
                let header = data_header(RelayAddr::of(&peer));
                for piece in bytes.chunks_mut(run.piece) {
                    piece[..DATA_HEADER_LEN].copy_from_slice(&header);
                }
                (at, 0)
            }
        };
        if is_stream(&at) {
            // A stream takes whole frames, one by one.
            return bytes
                .chunks(run.piece)
                .map(|frame| u64::from(self.wire.send_to(at, frame).is_err()))
                .sum();
        }
        let address = at.0;
        let together = run.count > 1 && skip == 0 && self.may_send_runs(address, now);
        if together {
            match self.send(address, bytes, run.piece, run) {
                Ok(()) => return 0,
                // The path's MTU is below the datagram's length: the kernel cuts single ones.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE)) => {
                    self.pause(address, now);
                }
                Err(e)
                    if matches!(e.raw_os_error(), Some(libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT)) =>
                {
                    if self.gso.swap(false, Ordering::Relaxed) {
                        tracing::info!(error = %e, "the network driver refuses UDP segmentation offload: \
                            datagrams are sent one by one from now on");
                    }
                }
                Err(_) => return run.count as u64,
            }
        }
        if run.count == 1 {
            let datagram = &bytes[skip..];
            return u64::from(self.send(address, datagram, datagram.len(), run).is_err());
        }
        let spare = self.wire.spare(Endpoint(address));
        let common = self.wire.socket(self.thread, address.is_ipv6());
        match (&spare, common) {
            (Some(socket), _) => send_each_patiently(&**socket, address, bytes, run, skip),
            (None, Some(socket)) => send_each_patiently(socket, address, bytes, run, skip),
            // This host has no socket of that family.
            (None, None) => run.count as u64,
        }
    }

    fn send(&self, to: SocketAddr, bytes: &[u8], piece: usize, run: &Run) -> io::Result<()> {
        if let Some(socket) = self.wire.spare(Endpoint(to)) {
            return send_patiently(&*socket, to, bytes, piece, run.way.ecn);
        }
        let socket = self
            .wire
            .socket(self.thread, to.is_ipv6())
            .ok_or_else(|| io::Error::other("this host has no socket of that family"))?;
        send_patiently(socket, to, bytes, piece, run.way.ecn)
    }

    fn may_send_runs(&self, to: SocketAddr, now: Instant) -> bool {
        self.gso.load(Ordering::Relaxed)
            && !self.paused.iter().flatten().any(|(paused, until)| *paused == to && now < *until)
    }

    fn pause(&mut self, to: SocketAddr, now: Instant) {
        self.paused.rotate_right(1);
        self.paused[0] = Some((to, now + PAUSE));
    }
}

/// Sends; a full socket is waited for, so that the host's own queue shows how slow the network is.
fn send_patiently(
    socket: &(impl AsFd + AsRawFd),
    to: SocketAddr,
    bytes: &[u8],
    piece: usize,
    ecn: Ecn,
) -> io::Result<()> {
    match batch::send(socket, to, bytes, piece, ecn) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            wait_writable(socket);
            batch::send(socket, to, bytes, piece, ecn)
        }
        other => other,
    }
}

/// The same for a run whose datagrams go one by one: how many were lost.
fn send_each_patiently(
    socket: &(impl AsFd + AsRawFd),
    to: SocketAddr,
    bytes: &[u8],
    run: &Run,
    skip: usize,
) -> u64 {
    let (mut rest, mut lost, mut waited) = (bytes, 0, false);
    while !rest.is_empty() {
        let done = match batch::send_each(socket, to, rest, (run.piece, skip), run.way.ecn) {
            Ok(sent) if sent > 0 => {
                waited = false;
                sent
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && !waited => {
                wait_writable(socket);
                waited = true;
                continue;
            }
            // Still full: whoever waits for each of them delays everybody behind.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return lost + rest.len().div_ceil(run.piece) as u64;
            }
            // The kernel refuses this one; the next may be shorter.
            Ok(_) | Err(_) => {
                lost += 1;
                1
            }
        };
        rest = rest.get(done * run.piece..).unwrap_or_default();
    }
    lost
}

fn wait_writable(socket: impl AsFd) {
    use rustix::event::{PollFd, PollFlags, poll};
    let patience = rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(PATIENCE.subsec_nanos()) };
    // Whatever comes of it, the caller tries once more.
    let _ = poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&patience));
}
