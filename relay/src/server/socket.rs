//! One UDP socket of the relay: batched receive, answers from the address that was asked.

use meshd_proto::Endpoint;
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use socket2::{Domain, Protocol, Socket, Type};
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::task::Poll;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Kernel buffers per socket; the send buffer bounds how long a forwarded datagram waits (33 ms at 1 Gb/s).
const SOCKET_BUFFER: usize = 4 << 20;
const SLOTS: usize = 8;
/// One slot holds the largest datagram or a whole GRO batch.
const SLOT_LEN: usize = 65_535;
/// Largest UDP payload over IPv4; a GSO send stays below it.
const MAX_SEND: usize = 65_507;

/// A bound socket.
#[derive(Debug)]
pub(super) struct RelaySocket {
    socket: UdpSocket,
    state: UdpSocketState,
    pub(super) addr: SocketAddr,
    pub(super) stun_only: bool,
}

/// Where received datagrams land, allocated once.
pub(super) struct Buffers {
    bytes: Vec<u8>,
    meta: [RecvMeta; SLOTS],
}

/// One slot: datagrams of one sender, `stride` apart.
pub(super) struct Received<'a> {
    pub(super) from: SocketAddr,
    pub(super) local_ip: Option<IpAddr>,
    pub(super) bytes: &'a mut [u8],
    pub(super) stride: usize,
    /// The mark of the outer header; the same for the whole slot.
    pub(super) ecn: Option<EcnCodepoint>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; SLOTS * SLOT_LEN], meta: [RecvMeta::default(); SLOTS] }
    }

    pub(super) fn slot(&mut self, index: usize) -> Option<Received<'_>> {
        let meta = self.meta.get(index)?;
        let start = index * SLOT_LEN;
        let bytes = self.bytes.get_mut(start..start + meta.len)?;
        // A stride of 0 comes with an empty datagram.
        let stride = meta.stride.max(1);
        Some(Received { from: meta.addr, local_ip: meta.dst_ip, bytes, stride, ecn: meta.ecn })
    }
}

impl RelaySocket {
    pub(super) fn bind(addr: SocketAddr, stun_only: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        // Best effort: the system may cap them.
        for grown in [socket.set_recv_buffer_size(SOCKET_BUFFER), socket.set_send_buffer_size(SOCKET_BUFFER)]
        {
            if let Err(error) = grown {
                tracing::debug!(%addr, %error, "socket buffer not enlarged");
            }
        }
        socket.bind(&addr.into())?;
        let state = UdpSocketState::new((&socket).into())?;
        if addr.is_ipv4() {
            // The relay does not know its clients' path MTUs: a fragment is better than a black hole.
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
        }
        let socket = UdpSocket::from_std(socket.into())?;
        let addr = socket.local_addr()?;
        Ok(Self { socket, state, addr, stun_only })
    }

    /// Fills the slots; the number of slots filled.
    pub(super) fn receive(&self, buffers: &mut Buffers) -> io::Result<usize> {
        let mut chunks = buffers.bytes.chunks_mut(SLOT_LEN).map(IoSliceMut::new);
        let mut slices: [IoSliceMut<'_>; SLOTS] =
            std::array::from_fn(|_| chunks.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        self.socket.try_io(Interest::READABLE, || {
            self.state.recv((&self.socket).into(), &mut slices, &mut buffers.meta)
        })
    }

    /// How many datagrams of `stride` bytes one send may carry.
    pub(super) fn max_segments(&self, stride: usize) -> usize {
        self.state.max_gso_segments().min(MAX_SEND / stride).max(1)
    }

    /// Sends `run`, datagrams of `stride` bytes (the last may be shorter), from `local_ip`. What is forwarded
    /// keeps its congestion mark (RFC 6040): a relay is one hop more on the way.
    pub(super) fn send(
        &self,
        to: Endpoint,
        local_ip: Option<IpAddr>,
        run: &[u8],
        stride: usize,
        ecn: Option<EcnCodepoint>,
    ) -> io::Result<()> {
        let transmit =
            Transmit { destination: to.0, ecn, contents: run, segment_size: Some(stride), src_ip: local_ip };
        let sent = self.attempt(&transmit);
        // Segmentation offload failed on the way: the state has switched it off; send one by one.
        if sent.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::WouldBlock) && run.len() > stride {
            for contents in run.chunks(stride) {
                self.attempt(&Transmit { contents, segment_size: None, ..transmit.clone() })?;
            }
            return Ok(());
        }
        sent
    }

    fn attempt(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), transmit))
    }
}

/// Waits until one of the sockets has something; its index. Looks at number `first` first, so that a busy
/// socket does not starve the others.
pub(super) async fn any_readable(sockets: &[RelaySocket], first: usize) -> usize {
    poll_fn(|cx| {
        let order = (0..sockets.len()).map(|i| (first + i) % sockets.len());
        let ready = order.into_iter().find(|i| sockets[*i].socket.poll_recv_ready(cx).is_ready());
        ready.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Whether a bind failed since the host has no such address family.
pub(super) fn lacks_family(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].iter().any(|e| code == Some(e.raw_os_error()))
}
