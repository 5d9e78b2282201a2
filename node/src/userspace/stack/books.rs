//! Who uses which socket: connections, backlogs, ports, memory.

use super::acks::Told;
use super::{EPHEMERAL, FAREWELL, KEEP_ALIVE, Stack};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::{tcp, udp};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// The smallest buffer that is worth a connection.
const SMALLEST_BUFFER: usize = 16 << 10;
/// Datagrams that wait in a UDP socket, each way.
const DATAGRAMS: usize = 64;
/// Their bytes.
const DATAGRAM_BYTES: usize = 96 << 10;

/// Both ends of a flow; `local` is ours, or that of a host behind us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tuple {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// One TCP connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) tuple: Tuple,
    /// Why it ended, if that was not an orderly end.
    pub(super) failure: Option<io::ErrorKind>,
    /// What its peer last heard of it. `None`: nothing yet.
    pub(super) told: Option<Told>,
    /// How its windows are scaled.
    pub(super) scale: u8,
    memory: usize,
}

/// Connections that wait to be accepted.
#[derive(Debug)]
pub(super) struct Backlog {
    ready: VecDeque<SocketHandle>,
    limit: usize,
    waker: Option<Waker>,
    closed: bool,
}

impl Backlog {
    pub(super) fn has_room(&self) -> bool {
        !self.closed && self.ready.len() < self.limit
    }

    pub(super) fn push(&mut self, handle: SocketHandle) {
        self.ready.push_back(handle);
        self.waker.take().into_iter().for_each(Waker::wake);
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

fn ephemeral(next: &mut u16) -> u16 {
    let port = *next;
    *next = if port == *EPHEMERAL.end() { *EPHEMERAL.start() } else { port + 1 };
    port
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "this node is down")
}

impl Stack {
    fn source(&self, remote: IpAddr) -> io::Result<IpAddr> {
        let same = |ip: &&IpAddr| ip.is_ipv4() == remote.is_ipv4();
        self.own.iter().find(same).copied().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NetworkUnreachable, "this node has no address in a mesh yet")
        })
    }

    /// Begins a connection.
    pub(in crate::userspace) fn connect(&mut self, remote: SocketAddr) -> io::Result<(SocketHandle, Tuple)> {
        if self.stopped {
            return Err(stopped());
        }
        if remote.port() == 0 || remote.ip().is_unspecified() || remote.ip().is_multicast() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("cannot connect to {remote}")));
        }
        let ip = self.source(remote.ip())?;
        let mut tuple = Tuple { local: SocketAddr::new(ip, 0), remote };
        for _ in EPHEMERAL {
            tuple.local.set_port(ephemeral(&mut self.next_port));
            if !self.tuples.contains_key(&tuple) {
                let handle = self.add_tcp(tuple)?;
                let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
                if socket.connect(self.iface.context(), tuple.remote, tuple.local).is_err() {
                    self.remove(handle);
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                return Ok((handle, tuple));
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    pub(super) fn add_tcp(&mut self, tuple: Tuple) -> io::Result<SocketHandle> {
        if self.stopped {
            return Err(stopped());
        }
        if self.conns.len() >= self.limits.connections {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "too many connections through the mesh at once",
            ));
        }
        // The more is in use, the less a new connection gets: many small ones, or a few fast ones.
        let left = self.limits.memory.saturating_sub(self.memory);
        let buffer = (left / 32).clamp(SMALLEST_BUFFER, self.limits.tcp_buffer.max(SMALLEST_BUFFER));
        // Zeroed pages cost memory only once they are touched.
        let room = || tcp::SocketBuffer::new(vec![0; buffer]);
        let mut socket = tcp::Socket::new(room(), room());
        socket.set_timeout(Some(self.timeout));
        socket.set_keep_alive(Some(KEEP_ALIVE.min(self.timeout / 3)));
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(tcp::CongestionControl::Cubic);
        let handle = self.sockets.add(socket);
        self.memory += 2 * buffer;
        self.conns.insert(handle, Conn { tuple, failure: None, told: None, scale: 0, memory: 2 * buffer });
        self.tuples.insert(tuple, handle);
        Ok(handle)
    }

    /// Whether a connection that was begun stands.
    pub(in crate::userspace) fn poll_open(
        &mut self,
        handle: SocketHandle,
        cx: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.tcp_socket(handle);
        match socket.state() {
            tcp::State::Listen | tcp::State::SynSent | tcp::State::SynReceived => {
                socket.register_send_waker(cx.waker());
                Poll::Pending
            }
            tcp::State::Closed => Poll::Ready(Err(self.why(handle))),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Why a connection ended. What nobody has reset or refused has timed out.
    pub(in crate::userspace) fn why(&self, handle: SocketHandle) -> io::Error {
        if self.stopped {
            return stopped();
        }
        self.conns.get(&handle).and_then(|conn| conn.failure).unwrap_or(io::ErrorKind::TimedOut).into()
    }

    pub(super) fn is_orphan(&self, handle: SocketHandle) -> bool {
        self.orphans.iter().any(|(orphan, _)| *orphan == handle)
    }

    /// Its user has dropped it. What was written is still sent.
    pub(in crate::userspace) fn abandon(&mut self, handle: SocketHandle, now: Instant) {
        // Unread data: the peer should know that it was not taken (RFC 2525 §2.17).
        let unread = self.tcp_socket(handle).can_recv();
        self.release(handle, unread, now);
    }

    /// `abort`: at once, with a reset.
    pub(super) fn release(&mut self, handle: SocketHandle, abort: bool, now: Instant) {
        let socket = self.tcp_socket(handle);
        if abort {
            socket.abort();
        } else {
            socket.close();
        }
        if !self.is_orphan(handle) {
            self.orphans.push((handle, now + FAREWELL));
        }
    }

    pub(super) fn remove(&mut self, handle: SocketHandle) {
        let Some(conn) = self.conns.remove(&handle) else { return };
        self.sockets.remove(handle);
        self.half_open.remove(&handle);
        self.orphans.retain(|(orphan, _)| *orphan != handle);
        self.memory -= conn.memory;
        if self.tuples.get(&conn.tuple) == Some(&handle) {
            self.tuples.remove(&conn.tuple);
        }
    }

    /// Accepts connections to a port of our own addresses; 0: one that is free.
    pub(in crate::userspace) fn listen(&mut self, port: u16) -> io::Result<u16> {
        if self.stopped {
            return Err(stopped());
        }
        if self.listeners.len() >= self.limits.listeners {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many ports are listened on"));
        }
        let port = match port {
            0 => EPHEMERAL
                .map(|_| ephemeral(&mut self.next_port))
                .find(|port| !self.listeners.contains_key(port))
                .ok_or(io::ErrorKind::AddrInUse)?,
            port if !self.listeners.contains_key(&port) => port,
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        };
        let limit = self.limits.backlog;
        let backlog = Backlog { ready: VecDeque::new(), limit, waker: None, closed: false };
        self.listeners.insert(port, backlog);
        Ok(port)
    }

    pub(in crate::userspace) fn poll_accept(
        &mut self,
        port: u16,
        cx: &Context<'_>,
    ) -> Poll<io::Result<(SocketHandle, Tuple)>> {
        let Some(backlog) = self.listeners.get_mut(&port) else { return Poll::Ready(Err(stopped())) };
        if backlog.closed {
            return Poll::Ready(Err(stopped()));
        }
        let Some(handle) = backlog.ready.pop_front() else {
            backlog.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let conn = self.conns.get(&handle).ok_or_else(stopped);
        Poll::Ready(conn.map(|conn| (handle, conn.tuple)))
    }

    pub(in crate::userspace) fn unlisten(&mut self, port: u16, now: Instant) {
        let Some(backlog) = self.listeners.remove(&port) else { return };
        for handle in backlog.ready {
            self.release(handle, true, now);
        }
    }

    /// The host behind us takes the connection: goes on with the SYN that waited.
    pub(in crate::userspace) fn admit(
        &mut self,
        tuple: Tuple,
        syn: &[u8],
        now: Instant,
    ) -> io::Result<SocketHandle> {
        self.held.remove(&tuple);
        if self.tuples.contains_key(&tuple) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let handle = self.passive(tuple)?;
        self.process(syn, now);
        Ok(handle)
    }

    /// The host behind us does not: smoltcp answers a SYN that nobody takes with a reset. `silently`: not
    /// even that.
    pub(in crate::userspace) fn refuse(&mut self, tuple: Tuple, syn: &[u8], silently: bool, now: Instant) {
        if self.held.remove(&tuple) && !silently && !self.tuples.contains_key(&tuple) {
            self.process(syn, now);
        }
    }

    /// Opens a UDP socket on our own addresses; port 0: one that is free.
    pub(in crate::userspace) fn udp_bind(&mut self, port: u16) -> io::Result<(SocketHandle, u16)> {
        if self.stopped {
            return Err(stopped());
        }
        if self.udp_ports.len() >= self.limits.udp_sockets {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many UDP sockets in the mesh"));
        }
        let port = match port {
            0 => EPHEMERAL
                .map(|_| ephemeral(&mut self.next_port))
                .find(|port| !self.udp_ports.contains_key(port))
                .ok_or(io::ErrorKind::AddrInUse)?,
            port if !self.udp_ports.contains_key(&port) => port,
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        };
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; DATAGRAMS], vec![0; DATAGRAM_BYTES]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).map_err(|_| io::ErrorKind::InvalidInput)?;
        let handle = self.sockets.add(socket);
        self.udp_ports.insert(port, handle);
        Ok((handle, port))
    }

    pub(in crate::userspace) fn udp_source(&self, remote: IpAddr) -> io::Result<IpAddr> {
        if self.stopped { Err(stopped()) } else { self.source(remote) }
    }

    pub(in crate::userspace) fn udp_close(&mut self, handle: SocketHandle, port: u16) {
        if self.udp_ports.get(&port) == Some(&handle) {
            self.udp_ports.remove(&port);
            self.sockets.remove(handle);
        }
    }

    /// Connections, listeners and UDP sockets.
    pub(in crate::userspace) fn in_use(&self) -> [usize; 3] {
        [self.conns.len(), self.listeners.len(), self.udp_ports.len()]
    }
}
