//! The node's UDP sockets: one port for both families, marked so that our own packets never go into
//! the mesh.

pub mod batch;

use crate::os::FWMARK;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The port that is tried first.
pub const DEFAULT_PORT: u16 = 41820;
/// Receive and send buffers asked for; the kernel may give less.
const BUFFER: usize = 4 << 20;
/// How many random ports are tried when the wanted one is taken.
const PORT_TRIES: u32 = 16;

/// The sockets: for each data thread one of each family, all on one port. A host without one of the
/// families has only the other.
#[derive(Debug)]
pub struct UdpSockets {
    v4: Vec<UdpSocket>,
    v6: Vec<UdpSocket>,
    /// The port of all.
    pub port: u16,
    /// What the kernel can do for them.
    pub offloads: UdpOffloads,
}

/// What was asked for, and what the kernel gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOffloads {
    /// Runs of datagrams are sent by one call (`UDP_SEGMENT`).
    pub gso: bool,
    /// Runs of datagrams are received by one call (`UDP_GRO`).
    pub gro: bool,
}

impl UdpSockets {
    /// Binds `wanted` (the port of the last run, or 0 for the default), or another one when it is taken,
    /// for `threads` data threads. `offloads`: which to use where the kernel has them.
    ///
    /// # Errors
    /// When neither family can be bound.
    pub fn bind(wanted: u16, threads: usize, offloads: UdpOffloads) -> io::Result<Self> {
        let first = if wanted == 0 { DEFAULT_PORT } else { wanted };
        let mut last = None;
        for attempt in 0..PORT_TRIES {
            match Self::bind_all(if attempt == 0 { first } else { 0 }, threads, offloads) {
                Ok(sockets) => return Ok(sockets),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse)))
    }

    fn bind_all(port: u16, threads: usize, wanted: UdpOffloads) -> io::Result<Self> {
        let v4 = bind_family((Ipv4Addr::UNSPECIFIED, port).into(), threads)?;
        let port = match v4.first() {
            Some(socket) => socket.local_addr()?.port(),
            None => port,
        };
        let v6 = bind_family((Ipv6Addr::UNSPECIFIED, port).into(), threads)?;
        let port = match (v4.first(), v6.first()) {
            (None, Some(socket)) => socket.local_addr()?.port(),
            (None, None) => return Err(io::Error::other("this host has neither IPv4 nor IPv6")),
            _ => port,
        };
        let both = || v4.iter().chain(&v6);
        let gso = wanted.gso && both().all(batch::can_send_runs);
        let gro = wanted.gro && both().all(batch::receive_runs);
        Ok(Self { v4, v6, port, offloads: UdpOffloads { gso, gro } })
    }

    /// The socket of a data thread and family.
    pub fn get(&self, thread: usize, v6: bool) -> Option<&UdpSocket> {
        if v6 { self.v6.get(thread) } else { self.v4.get(thread) }
    }

    /// How many data threads there are sockets for.
    pub fn threads(&self) -> usize {
        self.v4.len().max(self.v6.len())
    }
}

/// One socket for each thread, or none where the host lacks the family.
fn bind_family(addr: SocketAddr, threads: usize) -> io::Result<Vec<UdpSocket>> {
    let first = match bind_one(addr, false) {
        Ok(socket) => socket,
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(e),
        Err(e) => return family_missing(e).map(|()| Vec::new()),
    };
    let port = first.local_addr()?.port();
    let mut sockets = vec![first];
    if threads > 1 {
        // The first one is bound alone, so that a port of another program (or another meshd) is found to
        // be taken; only then it is opened for the others.
        socket2::SockRef::from(&sockets[0]).set_reuse_port(true)?;
        for _ in 1..threads {
            sockets.push(bind_one(SocketAddr::new(addr.ip(), port), true)?);
        }
    }
    Ok(sockets)
}

fn family_missing(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => Ok(()),
        _ => Err(error),
    }
}

/// A further socket at a port that the system picks.
pub(crate) fn bind_spare(v6: bool) -> io::Result<UdpSocket> {
    bind_one(if v6 { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() }, false)
}

fn bind_one(addr: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    match socket.set_mark(FWMARK) {
        // Without NET_ADMIN (containers, tests) there are no rules of ours to escape either.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            tracing::debug!("not allowed to mark packets: no NET_ADMIN");
        }
        other => other?,
    }
    if addr.is_ipv4() {
        // Without DF: a router with a smaller link fragments, whatever becomes of its ICMP messages. With DF
        // an underlay below our packets' size is a black hole as soon as somebody drops ICMP.
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
    }
    // Without NET_ADMIN the kernel caps them at net.core.{r,w}mem_max: then what it gives is enough.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(BUFFER);
    }
    let _ = socket.set_send_buffer_size(BUFFER);
    // ECN of the outer header (RFC 6040). A kernel without it shows no marks.
    let _ = if addr.is_ipv4() { socket.set_recv_tos_v4(true) } else { socket.set_recv_tclass_v6(true) };
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_share_a_port_and_a_taken_port_gives_another() {
        let all = UdpOffloads { gso: true, gro: true };
        for threads in [1, 3] {
            let first = UdpSockets::bind(0, threads, all).unwrap();
            for socket in first.v4.iter().chain(&first.v6) {
                assert_eq!(socket.local_addr().unwrap().port(), first.port);
            }
            assert_eq!(first.threads(), threads);
            let second = UdpSockets::bind(first.port, threads, all).unwrap();
            assert_ne!(first.port, second.port, "a port that is ours is not shared with another meshd");
        }
    }
}
