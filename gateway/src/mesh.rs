//! The mesh as a network of the gateway, by a node inside this program.
//!
//! What is dialled goes through the node's own TCP/IP stack and its engine: there is no socket of the host
//! behind it, so an address that is not in the mesh is an error and never a packet.

use crate::dial::{Datagrams, Dialer};
use crate::stream::Raw;
use futures_util::future::BoxFuture;
use meshd_node::userspace::{self, Dialed, Host, Target, UdpSocket};
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use tokio::io::ReadBuf;
use tokio::sync::watch;

/// A node inside this program, as a network.
#[derive(Clone)]
pub struct MeshNode {
    access: watch::Receiver<Option<userspace::Dialer>>,
}

impl MeshNode {
    /// The network that `node` is in.
    pub fn new(node: &userspace::Node) -> Self {
        Self { access: node.access() }
    }

    fn dialer(&self) -> io::Result<userspace::Dialer> {
        let down = || io::Error::new(io::ErrorKind::NotConnected, "this node is not in its mesh now");
        self.access.borrow().clone().ok_or_else(down)
    }
}

impl Dialer for MeshNode {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Raw>> {
        Box::pin(async move {
            let target = Target { host: Host::Ip(to.ip()), port: to.port() };
            // `false`: what the mesh has no way to is an error.
            match self.dialer()?.dial(&target, false).await {
                Ok(Dialed::Mesh(stream)) => Ok(Raw::Other(Box::new(stream))),
                Ok(Dialed::Host(_)) => Err(io::ErrorKind::NetworkUnreachable.into()),
                Err(error) => Err(io::Error::new(error.kind(), error)),
            }
        })
    }

    fn datagrams(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>> {
        Box::pin(async move {
            let socket = self.dialer()?.stack().udp_bind(0)?;
            Ok(Box::new(Connected { socket, to }) as Box<dyn Datagrams>)
        })
    }
}

/// A socket that exchanges with one address.
struct Connected {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Datagrams for Connected {
    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.try_send_to(datagram, self.to)
    }

    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let room = buffer.initialize_unfilled();
            match self.socket.poll_recv_from(cx, room) {
                Poll::Ready(Ok((length, from))) if from == self.to => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // Somebody else's.
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
