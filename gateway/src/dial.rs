//! How connections are made: by the host's sockets, or through the mesh.
//!
//! A [`Dialer`] is the seam: the host's is [`HostDialer`]; a userspace mesh node is another. A gateway that
//! was given no host dialer (an exit) cannot open a connection outside the mesh, whatever it is told.

use crate::stream::Raw;
use crate::table::BackendAddr;
use futures_util::future::BoxFuture;
use socket2::{Domain, Socket, Type};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::ReadBuf;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// A network that connections can be opened in.
pub trait Dialer: Send + Sync + 'static {
    /// A TCP connection to `to`.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Raw>>;
    /// A datagram socket that exchanges with `to` alone.
    fn datagrams(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>>;
}

/// A connected datagram socket.
pub trait Datagrams: Send + Sync {
    /// Sends one datagram; a full queue may drop it.
    ///
    /// # Errors
    /// What the network says.
    fn send(&self, datagram: &[u8]) -> io::Result<()>;
    /// Receives one datagram into `buffer`.
    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;
}

/// The host's own sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostDialer;

impl Dialer for HostDialer {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Raw>> {
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(Raw::Tcp(stream))
        })
    }

    fn datagrams(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>> {
        Box::pin(async move {
            let any: SocketAddr = if to.is_ipv4() {
                (Ipv4Addr::UNSPECIFIED, 0).into()
            } else {
                (Ipv6Addr::UNSPECIFIED, 0).into()
            };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(to).await?;
            // A new socket is not yet known to be writable, and the first datagram would be lost.
            socket.writable().await?;
            Ok(Box::new(socket) as Box<dyn Datagrams>)
        })
    }
}

/// The host's sockets, bound to the interface of `meshd`: what is sent leaves by that or not at all.
#[derive(Clone, Debug)]
pub struct MeshInterface {
    name: String,
}

impl MeshInterface {
    /// Sockets bound to the interface `name`.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    fn socket(&self, to: SocketAddr, kind: Type) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(to), kind, None)?;
        socket.bind_device(Some(self.name.as_bytes()))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

impl Dialer for MeshInterface {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Raw>> {
        Box::pin(async move {
            let socket = TcpSocket::from_std_stream(self.socket(to, Type::STREAM)?.into());
            let stream = socket.connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(Raw::Tcp(stream))
        })
    }

    fn datagrams(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>> {
        Box::pin(async move {
            let socket = UdpSocket::from_std(self.socket(to, Type::DGRAM)?.into())?;
            socket.connect(to).await?;
            // A new socket is not yet known to be writable, and the first datagram would be lost.
            socket.writable().await?;
            Ok(Box::new(socket) as Box<dyn Datagrams>)
        })
    }
}

impl Datagrams for UdpSocket {
    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match self.try_send(datagram) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Self::poll_recv(self, cx, buffer)
    }
}

/// The networks that a gateway may open connections in.
#[derive(Clone, Default)]
pub struct Dialers {
    /// The host's; none at an exit.
    pub host: Option<Arc<dyn Dialer>>,
    /// The mesh; none before the gateway is a member. Where `meshd` runs it is the host's, too.
    pub mesh: Option<Arc<dyn Dialer>>,
}

impl fmt::Debug for Dialers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialers")
            .field("host", &self.host.is_some())
            .field("mesh", &self.mesh.is_some())
            .finish()
    }
}

impl Dialers {
    /// The host's sockets for everything: mesh addresses are reached through the interface of `meshd`.
    pub fn host() -> Self {
        Self { host: Some(Arc::new(HostDialer)), mesh: Some(Arc::new(HostDialer)) }
    }

    /// The dialer for `addr`.
    ///
    /// # Errors
    /// When this gateway is not in the network of `addr`.
    pub fn of(&self, addr: BackendAddr) -> io::Result<&Arc<dyn Dialer>> {
        let (dialer, network) = match addr {
            BackendAddr::Host(_) => (&self.host, "host's"),
            BackendAddr::Mesh(..) => (&self.mesh, "mesh"),
        };
        dialer
            .as_ref()
            .ok_or_else(|| io::Error::other(format!("this gateway does not use the {network} network")))
    }
}
