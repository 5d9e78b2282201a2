//! The sockets: our UDP loop, and TCP by hickory-server's parts with our lookup as the request handler.
//!
//! [`Names`] is what all listeners answer from; its parts are whole values that are swapped. Who asks
//! decides what is answered: this host itself gets the node's view; its containers, and sources that a
//! listener was opened for, get the guest's; others get no reply.

mod accept;
mod ask;
mod batch;
mod gate;
mod pace;
mod resolve;
mod side;
mod source;
mod tcp;
mod udp;

pub use ask::{BadQuestion, Queried};
pub use batch::address_of;
pub use resolve::{Counters, Names};

use gate::Gate;

use crate::clock;
use ipnet::IpNet;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a TCP client may stay silent (RFC 7766 §6.2.3).
const TCP_IDLE: Duration = Duration::from_secs(10);
/// How many replies wait for a slow TCP client.
const TCP_BACKLOG: usize = 16;

/// Where to listen, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address and port, for UDP and TCP. It need not be there yet (`IP_FREEBIND`).
    pub addr: SocketAddr,
    /// The only device whose packets are heard. What this host sends to itself counts as received by
    /// the interface that has the address.
    pub device: Option<String>,
    /// Who gets a reply.
    pub audience: Audience,
}

/// Who gets a reply from a listener, and from which view. Others get none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// This host itself, and plain WireGuard devices joined through it: the node's own view. Containers on it, which inherit its resolv.conf: the
    /// guest's view.
    Node {
        /// Who else: the guest's view, too.
        guests: Vec<IpNet>,
    },
    /// Guests only: nothing of the mesh, the rest forwarded.
    Guests(Vec<IpNet>),
    /// A network whose machines run nothing of ours.
    Lan(Lan),
}

/// A network that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lan {
    /// Who may ask.
    pub allow: Vec<IpNet>,
    /// Most questions a second from one address; what is beyond gets no reply.
    pub rate: u32,
    /// Whether they get the node's own view; else the guest's, which holds nothing of the mesh.
    pub sees_mesh: bool,
}

impl Listener {
    /// The node's own listener on its resolver address, for questions of this host.
    pub fn own(addr: IpAddr) -> Self {
        Self {
            addr: SocketAddr::new(addr, 53),
            device: None,
            audience: Audience::Node { guests: Vec::new() },
        }
    }
}

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for names on {addr} ({protocol}): {source}")]
pub struct SpawnError {
    /// Where.
    pub addr: SocketAddr,
    /// `UDP` or `TCP`.
    pub protocol: &'static str,
    /// Why.
    pub source: io::Error,
}

/// Listeners that answer. Dropping it closes them.
#[derive(Debug)]
pub struct DnsServer {
    addrs: Vec<SocketAddr>,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
}

impl DnsServer {
    /// Opens all listeners in the current network namespace and answers on them. When this returns,
    /// they are ready.
    ///
    /// # Errors
    /// When one cannot be opened; then none is.
    pub fn spawn(listeners: &[Listener], names: Arc<Names>) -> Result<Self, SpawnError> {
        let mut open = Vec::new();
        for listener in listeners {
            let (udp, tcp) = bind(listener)?;
            open.push((listener.audience.clone(), udp, tcp));
        }
        let addrs: Vec<_> = open.iter().filter_map(|(_, udp, _)| udp.local_addr().ok()).collect();
        names.listening_on(&addrs);
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for (audience, udp, tcp) in open {
            let gate = Arc::new(Gate::new(audience, clock::now()));
            tasks.spawn(udp::serve(udp, Arc::clone(&names), Arc::clone(&gate), shutdown.clone()));
            let handler = tcp::Handler { names: Arc::clone(&names), gate };
            tasks.spawn(accept::serve(tcp, handler, shutdown.clone()));
        }
        Ok(Self { addrs, tasks, shutdown })
    }

    /// Where it listens, in the order given; port 0 has become a real one.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Stops listening and waits until everything has ended.
    pub async fn shutdown(mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Most tries to find a port that is free for UDP and TCP.
const PORT_TRIES: usize = 32;

fn bind(listener: &Listener) -> Result<(UdpSocket, TcpListener), SpawnError> {
    let mut tries = 1;
    loop {
        match bind_both(listener) {
            // Port 0: UDP got one that TCP has in use.
            Err(SpawnError { protocol: "TCP", source, .. })
                if listener.addr.port() == 0
                    && source.kind() == io::ErrorKind::AddrInUse
                    && tries < PORT_TRIES =>
            {
                tries += 1;
            }
            bound => return bound,
        }
    }
}

fn bind_both(listener: &Listener) -> Result<(UdpSocket, TcpListener), SpawnError> {
    let error = |protocol| move |source| SpawnError { addr: listener.addr, protocol, source };
    let open = |kind, protocol, addr: SocketAddr| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        } else {
            socket.set_freebind_v4(true)?;
        }
        if let Some(device) = &listener.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if kind == Type::STREAM {
            // Connections of the daemon before us may still linger.
            socket.set_reuse_address(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(addr))?;
        Ok(socket)
    };
    let udp = open(Type::DGRAM, Protocol::UDP, listener.addr)
        .and_then(|s| UdpSocket::from_std(s.into()))
        .map_err(error("UDP"))?;
    // Port 0 (tests): TCP on the port that UDP got.
    let addr = udp.local_addr().map_err(error("UDP"))?;
    let tcp = open(Type::STREAM, Protocol::TCP, addr)
        .and_then(|s| s.listen(128).map(|()| s))
        .and_then(|s| TcpListener::from_std(s.into()))
        .map_err(error("TCP"))?;
    Ok((udp, tcp))
}

#[cfg(test)]
mod tests;
