//! TCP connections through the mesh, as tokio's readers and writers.

use super::netstack::Shared;
use super::stack::Tuple;
use crate::clock;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{RecvError, State};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A TCP connection. Dropping it sends what was written and closes; data that was not read makes that a
/// reset, as with any other socket.
pub struct TcpStream {
    shared: Arc<Shared>,
    handle: SocketHandle,
    tuple: Tuple,
}

impl TcpStream {
    pub(super) const fn new(shared: Arc<Shared>, handle: SocketHandle, tuple: Tuple) -> Self {
        Self { shared, handle, tuple }
    }

    /// Returns when the connection stands.
    pub(super) async fn opened(&self) -> io::Result<()> {
        poll_fn(|cx| self.shared.lock().poll_open(self.handle, cx)).await
    }

    /// This side's address.
    pub const fn local_addr(&self) -> SocketAddr {
        self.tuple.local
    }

    /// The other side's address.
    pub const fn peer_addr(&self) -> SocketAddr {
        self.tuple.remote
    }

    /// Ends the connection with a reset instead of a farewell when it is dropped.
    pub fn abort(&self) {
        self.shared.with(|stack, _| stack.tcp_socket(self.handle).abort());
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut stack = self.shared.lock();
        let socket = stack.tcp_socket(self.handle);
        let waiting = socket.recv_queue();
        if waiting > 0 {
            // The peer hears of a window only when it has doubled: reads below that need no wake-up.
            let tell = waiting >= socket.recv_capacity() / 2;
            let mut left = true;
            while left && buf.remaining() > 0 {
                let copy = |data: &mut [u8]| {
                    let len = data.len().min(buf.remaining());
                    buf.put_slice(&data[..len]);
                    (len, len)
                };
                left = socket.recv(copy).is_ok_and(|len| len > 0);
            }
            drop(stack);
            if tell {
                self.shared.ring();
            }
            return Poll::Ready(Ok(()));
        }
        match socket.recv(|_| (0, ())) {
            Ok(()) if socket.may_recv() => {
                socket.register_recv_waker(cx.waker());
                Poll::Pending
            }
            Err(RecvError::Finished) => Poll::Ready(Ok(())),
            Ok(()) | Err(RecvError::InvalidState) => Poll::Ready(Err(stack.why(self.handle))),
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut stack = self.shared.lock();
        let socket = stack.tcp_socket(self.handle);
        match socket.send_slice(data) {
            Ok(0) => {
                socket.register_send_waker(cx.waker());
                Poll::Pending
            }
            Ok(len) => {
                drop(stack);
                self.shared.ring();
                Poll::Ready(Ok(len))
            }
            Err(_) if socket.state() == State::Closed => Poll::Ready(Err(stack.why(self.handle))),
            // Closed for writing by ourselves.
            Err(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Nothing to wait for: what was written is the stack's.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closes this direction; the other one stays open.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|stack, _| stack.tcp_socket(self.handle).close());
        Poll::Ready(Ok(()))
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        let now = clock::now();
        self.shared.lock().abandon(self.handle, now);
        self.shared.ring();
    }
}

impl std::fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TcpStream({} → {})", self.tuple.local, self.tuple.remote)
    }
}

/// Accepts connections to a port of the node's own addresses.
pub struct TcpListener {
    shared: Arc<Shared>,
    port: u16,
}

impl TcpListener {
    pub(super) const fn new(shared: Arc<Shared>, port: u16) -> Self {
        Self { shared, port }
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The next connection, and who opened it.
    ///
    /// # Errors
    /// When the stack has stopped.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (handle, tuple) = poll_fn(|cx| self.shared.lock().poll_accept(self.port, cx)).await?;
        Ok((TcpStream::new(Arc::clone(&self.shared), handle, tuple), tuple.remote))
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.shared.with(|stack, now| stack.unlisten(self.port, now));
    }
}

impl std::fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TcpListener({})", self.port)
    }
}
