//! Flows of datagrams to hosts behind this node: UDP and echo, each with a socket of its own.

use super::{Flow, ForwardCounters};
use crate::userspace::netstack::Netstack;
use crate::userspace::packet::{self, ECHO_HEADER};
use crate::userspace::stack::Tuple;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// A UDP flow without a datagram for this long has ended (RFC 4787 §4.3: two minutes at least).
const UDP_IDLE: Duration = Duration::from_secs(120);
/// The same for questions about names: each has a port of its own, and one answer.
const DNS_IDLE: Duration = Duration::from_secs(15);
const DNS_PORT: u16 = 53;
/// An echo flow without one for this long has ended.
const ECHO_IDLE: Duration = Duration::from_secs(15);
/// The way back into the mesh.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    pub(super) stack: Netstack,
    pub(super) mtu: usize,
    pub(super) counters: Arc<ForwardCounters>,
}

impl Sink {
    /// Bytes to receive: one more than ever fits shows that it does not.
    const fn room(&self) -> usize {
        self.mtu + 1
    }

    fn send(&self, packet: Option<Vec<u8>>) {
        let Some(packet) = packet else { return };
        if packet.len() > self.mtu {
            self.counters.too_long.fetch_add(1, Ordering::Relaxed);
        } else {
            self.stack.emit(&packet);
        }
    }
}

pub(super) async fn udp(tuple: Tuple, from_mesh: mpsc::Receiver<Vec<u8>>, sink: Sink, flow: Flow) -> Flow {
    match connected(tuple.local).await {
        Ok(_) if super::is_this_host_outside(tuple.local) => {
            tracing::debug!(to = %tuple.local, "not forwarded: an exit is no way to its own host's services");
        }
        Ok(socket) => {
            let answer = |data: &[u8]| sink.send(packet::udp(tuple.local, tuple.remote, data));
            let idle = if tuple.local.port() == DNS_PORT { DNS_IDLE } else { UDP_IDLE };
            pump(&socket, from_mesh, idle, sink.room(), answer).await;
        }
        Err(error) => tracing::debug!(to = %tuple.local, %error, "no socket for a datagram"),
    }
    flow
}

async fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

pub(super) async fn echo(
    local: IpAddr,
    remote: IpAddr,
    id: u16,
    from_mesh: mpsc::Receiver<Vec<u8>>,
    sink: Sink,
    flow: Flow,
) -> Flow {
    match ping_socket(local) {
        Ok(socket) => {
            let answer = |message: &[u8]| {
                let (Some(&[a, b]), Some(data)) = (message.get(6..8), message.get(ECHO_HEADER..)) else {
                    return;
                };
                // The kernel has put an identifier of its own into the request: ours comes back.
                sink.send(packet::echo_reply(local, remote, id, u16::from_be_bytes([a, b]), data));
            };
            pump(&socket, from_mesh, ECHO_IDLE, sink.room(), answer).await;
        }
        Err(error) => {
            sink.counters.no_ping.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%error, "this host allows no ping sockets (sysctl net.ipv4.ping_group_range)");
        }
    }
    flow
}

/// An unprivileged ICMP socket: its messages begin with the ICMP header, the kernel fills in checksum
/// and identifier, and gives it only answers to its own requests.
fn ping_socket(to: IpAddr) -> io::Result<UdpSocket> {
    let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let address = SocketAddr::new(to, 0);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.connect(&address.into())?;
    // A datagram socket is a datagram socket for tokio, too: it only calls send and recv.
    UdpSocket::from_std(socket.into())
}

/// Carries datagrams both ways until neither direction has had one for `idle`.
async fn pump(
    socket: &UdpSocket,
    mut from_mesh: mpsc::Receiver<Vec<u8>>,
    idle: Duration,
    room: usize,
    answer: impl Fn(&[u8]),
) {
    let mut room = vec![0; room];
    loop {
        tokio::select! {
            payload = from_mesh.recv() => match payload {
                // An error is the answer to an earlier datagram (port unreachable): datagrams get lost.
                Some(payload) => drop(socket.send(&payload).await),
                None => return,
            },
            received = socket.recv(&mut room) => match received {
                Ok(len) => answer(&room[..len]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            },
            () = tokio::time::sleep(idle) => return,
        }
    }
}
