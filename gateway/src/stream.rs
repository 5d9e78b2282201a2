//! Byte streams: a socket or something like one, with bytes already read before it, with or without TLS.

use bytes::{Buf, BytesMut};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// Both directions of a byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// What a network hands out.
pub enum Raw {
    /// A socket of the host.
    Tcp(TcpStream),
    /// Something else: a stream of a userspace mesh node.
    Other(Box<dyn Duplex>),
}

/// A raw stream, and the bytes that were read from it to see what it is.
pub struct Prefixed {
    head: BytesMut,
    raw: Raw,
}

/// A stream, with or without TLS.
pub enum Stream {
    /// As it comes.
    Plain(Prefixed),
    /// Within TLS that ends here.
    Tls(Box<TlsStream<Prefixed>>),
}

impl Prefixed {
    /// A stream of which nothing was read.
    pub fn new(raw: Raw) -> Self {
        Self { head: BytesMut::new(), raw }
    }

    /// What was read and not yet consumed.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Takes `count` bytes off what was read.
    pub fn consume(&mut self, count: usize) {
        self.head.advance(count);
    }

    /// Reads more, to look at it, until there are `most` bytes. 0 is the end.
    ///
    /// # Errors
    /// What the network says.
    pub async fn look(&mut self, most: usize) -> io::Result<usize> {
        let room = most.saturating_sub(self.head.len()).min(4096);
        let mut part = [0; 4096];
        let count = self.raw.read(&mut part[..room]).await?;
        self.head.extend_from_slice(&part[..count]);
        Ok(count)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Tls(_) => "Tls",
        })
    }
}

macro_rules! write_through {
    ($kind:ty, $self:ident => $($pattern:pat => $inner:expr),+) => {
        impl AsyncWrite for $kind {
            fn poll_write($self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                match $self.get_mut() { $($pattern => Pin::new($inner).poll_write(cx, bytes)),+ }
            }
            fn poll_flush($self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match $self.get_mut() { $($pattern => Pin::new($inner).poll_flush(cx)),+ }
            }
            fn poll_shutdown($self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match $self.get_mut() { $($pattern => Pin::new($inner).poll_shutdown(cx)),+ }
            }
            fn poll_write_vectored(
                $self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match $self.get_mut() { $($pattern => Pin::new($inner).poll_write_vectored(cx, parts)),+ }
            }
            fn is_write_vectored(&$self) -> bool {
                match $self { $($pattern => $inner.is_write_vectored()),+ }
            }
        }
    };
}
write_through!(Raw, self => Self::Tcp(tcp) => tcp, Self::Other(other) => other);
write_through!(Prefixed, self => Self { raw, .. } => raw);
write_through!(Stream, self => Self::Plain(plain) => plain, Self::Tls(tls) => tls);

impl AsyncRead for Raw {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Other(other) => Pin::new(other).poll_read(cx, buffer),
        }
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.head.is_empty() {
            return Pin::new(&mut this.raw).poll_read(cx, buffer);
        }
        let count = this.head.len().min(buffer.remaining());
        buffer.put_slice(&this.head[..count]);
        this.head.advance(count);
        if this.head.is_empty() {
            this.head = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}
