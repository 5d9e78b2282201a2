//! Datagrams through the mesh.

use super::netstack::Shared;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::{RecvError, SendError, UdpMetadata};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A UDP socket on the node's own addresses.
pub struct UdpSocket {
    shared: Arc<Shared>,
    handle: SocketHandle,
    port: u16,
}

impl UdpSocket {
    pub(super) const fn new(shared: Arc<Shared>, handle: SocketHandle, port: u16) -> Self {
        Self { shared, handle, port }
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Sends a datagram; waits while the queue is full.
    ///
    /// # Errors
    /// When it is longer than the queue, or the stack has stopped.
    pub async fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        let sent = poll_fn(|cx| {
            let mut stack = self.shared.lock();
            let source = match stack.udp_source(to.ip()) {
                Ok(source) => source,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let mut meta = UdpMetadata::from(smoltcp::wire::IpEndpoint::from(to));
            meta.local_address = Some(source.into());
            let socket = stack.udp_socket(self.handle);
            if data.len() > socket.payload_send_capacity() {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the datagram is too long",
                )));
            }
            match socket.send_slice(data, meta) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(SendError::BufferFull) => {
                    socket.register_send_waker(cx.waker());
                    Poll::Pending
                }
                Err(SendError::Unaddressable) => Poll::Ready(Err(io::ErrorKind::InvalidInput.into())),
            }
        })
        .await;
        self.shared.ring();
        sent
    }

    /// Receives a datagram into `room`: its length (what does not fit is cut) and its sender.
    ///
    /// # Errors
    /// When the stack has stopped.
    pub async fn recv_from(&self, room: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        poll_fn(|cx| self.poll_recv_from(cx, room)).await
    }

    /// [`Self::recv_from`], for who polls by himself.
    ///
    /// # Errors
    /// When the stack has stopped.
    pub fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut stack = self.shared.lock();
        let socket = stack.udp_socket(self.handle);
        if !socket.is_open() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::NotConnected, "this node is down")));
        }
        match socket.recv() {
            Ok((data, meta)) => {
                let len = data.len().min(room.len());
                room[..len].copy_from_slice(&data[..len]);
                Poll::Ready(Ok((len, SocketAddr::new(meta.endpoint.addr.into(), meta.endpoint.port))))
            }
            Err(RecvError::Exhausted | RecvError::Truncated) => {
                socket.register_recv_waker(cx.waker());
                Poll::Pending
            }
        }
    }

    /// Sends a datagram if there is room for it now; a full queue drops it, as networks do.
    ///
    /// # Errors
    /// As [`Self::send_to`].
    pub fn try_send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let sent = std::pin::pin!(self.send_to(data, to)).poll(&mut cx);
        match sent {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.shared.with(|stack, _| stack.udp_close(self.handle, self.port));
    }
}

impl std::fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UdpSocket({})", self.port)
    }
}
