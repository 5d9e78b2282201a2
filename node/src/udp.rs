//! The node's UDP sockets: one port for both families, marked so that our own packets never go into
//! the mesh.

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

/// The sockets. A host without one of the families has only the other.
#[derive(Debug)]
pub struct UdpSockets {
    /// IPv4.
    pub v4: Option<UdpSocket>,
    /// IPv6 only.
    pub v6: Option<UdpSocket>,
    /// The port of both.
    pub port: u16,
}

impl UdpSockets {
    /// Binds `wanted` (the port of the last run, or 0 for the default), or another one when it is taken.
    ///
    /// # Errors
    /// When neither family can be bound.
    pub fn bind(wanted: u16) -> io::Result<Self> {
        let first = if wanted == 0 { DEFAULT_PORT } else { wanted };
        let mut last = None;
        for attempt in 0..PORT_TRIES {
            match Self::bind_both(if attempt == 0 { first } else { 0 }) {
                Ok(sockets) => return Ok(sockets),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse)))
    }

    fn bind_both(port: u16) -> io::Result<Self> {
        let v4 = match bind_one((Ipv4Addr::UNSPECIFIED, port).into()) {
            Ok(socket) => Some(socket),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(e),
            Err(e) => family_missing(e)?,
        };
        let port = match &v4 {
            Some(socket) => socket.local_addr()?.port(),
            None => port,
        };
        let v6 = match bind_one((Ipv6Addr::UNSPECIFIED, port).into()) {
            Ok(socket) => Some(socket),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(e),
            Err(e) => family_missing(e)?,
        };
        let port = match (&v4, &v6) {
            (None, Some(socket)) => socket.local_addr()?.port(),
            (None, None) => return Err(io::Error::other("this host has neither IPv4 nor IPv6")),
            _ => port,
        };
        Ok(Self { v4, v6, port })
    }

    /// The socket for packets to `addr`.
    pub const fn for_addr(&self, addr: &SocketAddr) -> Option<&UdpSocket> {
        match addr {
            SocketAddr::V4(_) => self.v4.as_ref(),
            SocketAddr::V6(_) => self.v6.as_ref(),
        }
    }
}

fn family_missing(error: io::Error) -> io::Result<Option<UdpSocket>> {
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => Ok(None),
        _ => Err(error),
    }
}

/// A further socket at a port that the system picks.
pub(crate) fn bind_spare(v6: bool) -> io::Result<UdpSocket> {
    bind_one(if v6 { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() })
}

fn bind_one(addr: SocketAddr) -> io::Result<UdpSocket> {
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
    // Best effort: the kernel caps them at net.core.{r,w}mem_max.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_share_a_port_and_a_taken_port_gives_another() {
        let first = UdpSockets::bind(0).unwrap();
        if let (Some(v4), Some(v6)) = (&first.v4, &first.v6) {
            assert_eq!(v4.local_addr().unwrap().port(), v6.local_addr().unwrap().port());
        }
        let second = UdpSockets::bind(first.port).unwrap();
        assert_ne!(first.port, second.port);
    }
}
