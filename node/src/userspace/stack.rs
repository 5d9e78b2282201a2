//! The TCP/IP stack: smoltcp's interface and sockets, and the books about who uses them.
//!
//! A state machine: packets go in by [`Stack::ingress`], come out by [`Stack::egress`]; time is an
//! argument. It is locked by the one thread that moves packets and, for moments, by the streams.
//!
//! smoltcp has no backlog and no notion of connections to addresses that are not its own: both are made
//! here. A listening socket of smoltcp exists only for a SYN that is just being handed to it. A SYN for
//! a network behind this node waits outside ([`Beyond::Tcp`]) until the host has answered it.

mod acks;
mod books;
mod device;

pub(super) use books::Tuple;

use acks::{Told, Unheard};
use books::{Backlog, Conn};

use super::lane::Packets;
use super::netstack::Limits;
use super::packet::{self, Seen};
use device::Port;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::{Duration as StackDuration, Instant as StackInstant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Ports that are given to those who name none (RFC 6335 §6).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49152..=65535;
/// Passes over all sockets before others get their turn; each sends one packet of each.
const EGRESS_PASSES: usize = 256;
/// How long a stream that was dropped may take to say farewell.
const FAREWELL: Duration = Duration::from_secs(60);
/// An idle connection asks its peer this often whether it lives.
const KEEP_ALIVE: StackDuration = StackDuration::from_secs(25);

/// What came from the mesh for a host behind this node. The engine has let it in.
#[derive(Debug)]
pub(super) enum Beyond {
    /// A connection is being opened; `syn` comes back by [`Stack::admit`] or [`Stack::refuse`].
    Tcp { tuple: Tuple, syn: Vec<u8> },
    /// A datagram.
    Udp { tuple: Tuple, payload: Vec<u8> },
    /// An echo request, from its ICMP header on.
    Echo { local: IpAddr, remote: IpAddr, id: u16, message: Vec<u8> },
}

/// What did not go further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StackDrops {
    /// Not a packet, or none that has a meaning here.
    pub(super) unknown: u64,
    /// Too much of it: half-open connections, connections, datagrams for behind this node.
    pub(super) full: u64,
}

/// The stack.
pub(super) struct Stack {
    iface: Interface,
    sockets: SocketSet<'static>,
    base: Instant,
    /// Packets for the mesh, until the thread takes them along.
    pub(super) out: Packets,
    mtu: usize,
    limits: Limits,
    timeout: StackDuration,
    /// Our own addresses, IPv4 and IPv6.
    own: Vec<IpAddr>,
    /// Addresses of this node that nothing listens on.
    deaf: Vec<IpAddr>,
    conns: HashMap<SocketHandle, Conn>,
    tuples: HashMap<Tuple, SocketHandle>,
    listeners: HashMap<u16, Backlog>,
    half_open: HashSet<SocketHandle>,
    orphans: Vec<(SocketHandle, Instant)>,
    /// SYNs that wait outside.
    held: HashSet<Tuple>,
    beyond: Option<mpsc::Sender<Beyond>>,
    udp_ports: HashMap<u16, SocketHandle>,
    memory: usize,
    next_port: u16,
    stopped: bool,
    pub(super) drops: StackDrops,
}

impl Stack {
    /// `seed` is fresh entropy: for sequence numbers and ports.
    pub(super) fn new(mtu: u16, limits: Limits, seed: [u8; 32], now: Instant) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, ..] = seed;
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let mtu = usize::from(mtu);
        let mut nothing = Packets::default();
        let mut port = Port { rx: None, out: &mut nothing, room: 0, mtu };
        let mut iface = Interface::new(config, &mut port, StackInstant::ZERO);
        // Addresses behind this node are ours as far as smoltcp knows; which are, the engine has checked.
        iface.set_any_ip(true);
        let span = EPHEMERAL.end() - EPHEMERAL.start();
        Self {
            iface,
            sockets: SocketSet::new(Vec::new()),
            base: now,
            out: Packets::default(),
            mtu,
            timeout: StackDuration::from_millis(limits.dead_after.as_millis().try_into().unwrap_or(u64::MAX)),
            limits,
            own: Vec::new(),
            deaf: Vec::new(),
            conns: HashMap::new(),
            tuples: HashMap::new(),
            listeners: HashMap::new(),
            half_open: HashSet::new(),
            orphans: Vec::new(),
            held: HashSet::new(),
            beyond: None,
            udp_ports: HashMap::new(),
            memory: 0,
            next_port: EPHEMERAL.start() + u16::from_be_bytes([i, j]) % span,
            stopped: false,
            drops: StackDrops::default(),
        }
    }

    /// Our own addresses, and those that are ours without a service. Connections from others end.
    pub(super) fn set_addrs(&mut self, own: Vec<IpAddr>, deaf: Vec<IpAddr>) {
        if self.own == own && self.deaf == deaf {
            return;
        }
        let cidr = |ip: &IpAddr| IpCidr::new(IpAddress::from(*ip), if ip.is_ipv4() { 32 } else { 128 });
        self.iface.update_ip_addrs(|addrs| {
            addrs.clear();
            for ip in own.iter().take(addrs.capacity()) {
                // Cannot fail: as many as fit were taken.
                let _ = addrs.push(cidr(ip));
            }
        });
        let before = std::mem::replace(&mut self.own, own);
        for (handle, conn) in &self.conns {
            let local = conn.tuple.local.ip();
            if before.contains(&local) && !self.own.contains(&local) {
                self.sockets.get_mut::<tcp::Socket<'_>>(*handle).abort();
            }
        }
        self.deaf = deaf;
    }

    /// Where packets for hosts behind this node go.
    pub(super) fn set_beyond(&mut self, beyond: mpsc::Sender<Beyond>) {
        self.beyond = Some(beyond);
    }

    fn at(&self, now: Instant) -> StackInstant {
        let micros = now.saturating_duration_since(self.base).as_micros();
        StackInstant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Takes a packet from the mesh.
    pub(super) fn ingress(&mut self, bytes: &[u8], now: Instant) {
        let Some(seen) = packet::see(bytes) else {
            self.drops.unknown += 1;
            return;
        };
        match seen {
            Seen::Tcp { local, remote, opens, resets } => {
                self.tcp(Tuple { local, remote }, opens, resets, bytes, now);
            }
            Seen::Udp { local, remote, payload } if !self.is_ours(local.ip()) => {
                let payload = payload.to_vec();
                self.send_beyond(Beyond::Udp { tuple: Tuple { local, remote }, payload });
            }
            Seen::Echo { local, remote, id, message } if !self.is_ours(local) => {
                self.send_beyond(Beyond::Echo { local, remote, id, message: message.to_vec() });
            }
            Seen::Unreachable { local, remote, prohibited } => {
                self.unreachable(Tuple { local, remote }, prohibited);
            }
            Seen::Other { local } if !self.is_ours(local) => self.drops.unknown += 1,
            Seen::Udp { .. } | Seen::Echo { .. } | Seen::Other { .. } => self.process(bytes, now),
        }
    }

    fn is_ours(&self, ip: IpAddr) -> bool {
        self.own.contains(&ip) || self.deaf.contains(&ip)
    }

    fn tcp(&mut self, tuple: Tuple, opens: bool, resets: bool, bytes: &[u8], now: Instant) {
        let mut known = self.tuples.get(&tuple).copied();
        if let Some(handle) = known.filter(|_| opens) {
            let state = self.tcp_socket(handle).state();
            // The peer uses its port again before we have forgotten the last connection.
            if matches!(state, tcp::State::Closed | tcp::State::TimeWait) && self.is_orphan(handle) {
                self.remove(handle);
                known = None;
            }
        }
        if let Some(handle) = known {
            let before = self.tcp_socket(handle).state();
            let told = self.conns.get(&handle).and_then(|conn| conn.told);
            match told.and_then(|told| told.unheard(bytes, tuple)) {
                None => self.process(bytes, now),
                Some(Unheard { acknowledgement, answer }) => {
                    self.process(&acknowledgement, now);
                    if answer {
                        self.process(bytes, now);
                    }
                }
            }
            if resets && self.tcp_socket(handle).state() == tcp::State::Closed {
                let why = match before {
                    tcp::State::SynSent => io::ErrorKind::ConnectionRefused,
                    _ => io::ErrorKind::ConnectionReset,
                };
                self.fail(handle, why);
            }
            self.promote(handle, now);
            return;
        }
        if !opens {
            // smoltcp answers with a reset.
            self.process(bytes, now);
        } else if !self.is_ours(tuple.local.ip()) {
            // Nobody scans a silent network at the cost of everybody else.
            let of_peer = self.held.iter().filter(|t| t.remote.ip() == tuple.remote.ip()).count();
            if self.held.len() >= self.limits.half_open || of_peer >= self.limits.half_open / 4 {
                self.drops.full += 1;
            } else if self.held.insert(tuple) && !self.send_beyond(Beyond::Tcp { tuple, syn: bytes.to_vec() })
            {
                self.held.remove(&tuple);
            }
        } else if self.own.contains(&tuple.local.ip()) && self.listeners.contains_key(&tuple.local.port()) {
            let room = self.half_open.len() < self.limits.half_open
                && self.listeners.get(&tuple.local.port()).is_some_and(Backlog::has_room);
            match room.then(|| self.passive(tuple)) {
                Some(Ok(handle)) => {
                    self.half_open.insert(handle);
                    self.process(bytes, now);
                    self.promote(handle, now);
                }
                // Not answered: the peer tries again.
                Some(Err(_)) | None => self.drops.full += 1,
            }
        } else {
            self.process(bytes, now);
        }
    }

    fn process(&mut self, bytes: &[u8], now: Instant) {
        let (at, before) = (self.at(now), self.out.len());
        let mut port = Port { rx: Some(bytes), out: &mut self.out, room: usize::MAX, mtu: self.mtu };
        self.iface.poll_ingress_single(at, &mut port, &mut self.sockets);
        self.note_told(before);
    }

    /// Notes what the packets for the mesh from `first` on tell the peers.
    fn note_told(&mut self, first: usize) {
        for packet in (first..self.out.len()).filter_map(|index| self.out.get(index)) {
            let Some((tuple, segment)) = acks::outgoing(packet) else { continue };
            let handle = self.tuples.get(&tuple);
            if let Some(conn) = handle.and_then(|handle| self.conns.get_mut(handle)) {
                if segment.syn() {
                    conn.scale = acks::window_scale(&segment);
                }
                // The window of a SYN itself is not scaled.
                conn.told = Told::by(&segment, if segment.syn() { 0 } else { conn.scale }).or(conn.told);
            }
        }
    }

    /// Returns whether it was taken.
    fn send_beyond(&mut self, what: Beyond) -> bool {
        let taken = self.beyond.as_ref().is_some_and(|beyond| beyond.try_send(what).is_ok());
        if !taken {
            self.drops.full += 1;
        }
        taken
    }

    /// An ICMP error about a segment of ours. Only a connection that is being opened ends by it: on an
    /// established one it may be a passing trouble (RFC 1122 §4.2.3.9), or forged.
    fn unreachable(&mut self, tuple: Tuple, prohibited: bool) {
        let Some(handle) = self.tuples.get(&tuple).copied() else { return };
        if self.tcp_socket(handle).state() == tcp::State::SynSent {
            let why = match prohibited {
                true => io::ErrorKind::PermissionDenied,
                false => io::ErrorKind::HostUnreachable,
            };
            self.fail(handle, why);
            self.tcp_socket(handle).abort();
        }
    }

    fn fail(&mut self, handle: SocketHandle, why: io::ErrorKind) {
        if let Some(conn) = self.conns.get_mut(&handle) {
            conn.failure.get_or_insert(why);
        }
    }

    /// Hands a connection that has just been established to its listener.
    fn promote(&mut self, handle: SocketHandle, now: Instant) {
        if !self.half_open.contains(&handle) {
            return;
        }
        let state = self.tcp_socket(handle).state();
        let port = self.conns.get(&handle).map(|conn| conn.tuple.local.port());
        match (state, port.and_then(|port| self.listeners.get_mut(&port))) {
            (tcp::State::Listen | tcp::State::SynReceived, Some(_)) => {}
            (tcp::State::Established | tcp::State::CloseWait, Some(backlog)) if backlog.has_room() => {
                self.half_open.remove(&handle);
                backlog.push(handle);
            }
            _ => {
                self.half_open.remove(&handle);
                self.release(handle, true, now);
            }
        }
    }

    /// Lets the sockets send what they have, as long as `room` bytes are left for it. `true`: there may
    /// be more.
    pub(super) fn egress(&mut self, room: usize, now: Instant) -> bool {
        let (at, before) = (self.at(now), self.out.len());
        let more = (0..EGRESS_PASSES).all(|_| {
            let mut port = Port { rx: None, out: &mut self.out, room, mtu: self.mtu };
            self.iface.poll_egress(at, &mut port, &mut self.sockets) != PollResult::None
        });
        self.note_told(before);
        more
    }

    /// How long nothing happens by itself. `None`: until somebody comes.
    pub(super) fn idle(&mut self, now: Instant) -> Option<Duration> {
        let at = self.at(now);
        let sockets = self.iface.poll_delay(at, &self.sockets).map(Into::into);
        let orphans = self.orphans.iter().map(|(_, until)| until.saturating_duration_since(now)).min();
        sockets.into_iter().chain(orphans).min()
    }

    /// Forgets connections that have ended and that nobody holds.
    pub(super) fn reap(&mut self, now: Instant) {
        let mut gone = Vec::new();
        for (handle, until) in &self.orphans {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            // Nobody will ever read it: the peer is told, as by any other system.
            if socket.can_recv() {
                socket.abort();
            }
            let over = socket.state() == tcp::State::Closed && socket.remote_endpoint().is_none();
            if over || *until <= now {
                gone.push(*handle);
            }
        }
        gone.extend(self.half_open.iter().filter(|h| {
            let socket = self.sockets.get::<tcp::Socket<'_>>(**h);
            socket.state() == tcp::State::Closed
        }));
        for handle in gone {
            self.remove(handle);
        }
    }

    /// Ends everything; streams read an error from now on.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.beyond = None;
        for handle in self.conns.keys() {
            self.sockets.get_mut::<tcp::Socket<'_>>(*handle).abort();
        }
        for handle in self.udp_ports.values() {
            self.sockets.get_mut::<udp::Socket<'_>>(*handle).close();
        }
        for backlog in self.listeners.values_mut() {
            backlog.close();
        }
    }

    fn passive(&mut self, tuple: Tuple) -> io::Result<SocketHandle> {
        let handle = self.add_tcp(tuple)?;
        let at = IpListenEndpoint { addr: Some(tuple.local.ip().into()), port: tuple.local.port() };
        match self.tcp_socket(handle).listen(at) {
            Ok(()) => Ok(handle),
            Err(_) => {
                self.remove(handle);
                Err(io::ErrorKind::InvalidInput.into())
            }
        }
    }

    pub(super) fn tcp_socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(super) fn udp_socket(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }
}

#[cfg(test)]
mod tests;
