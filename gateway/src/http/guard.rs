//! What hyper reads from: a stream that counts, and one that withholds ambiguous messages.

use crate::runtime::Shared;
use crate::wire::framing::{Ambiguous, Framing, Step};
use bytes::{Buf, BytesMut};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counts the bytes that move, so that idle connections are seen.
pub(super) struct Watched<S> {
    inner: S,
    moved: Arc<AtomicU64>,
}

impl<S> Watched<S> {
    pub(super) fn new(inner: S, moved: Arc<AtomicU64>) -> Self {
        Self { inner, moved }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.inner).poll_read(cx, buffer);
        this.moved.fetch_add((buffer.filled().len() - before) as u64, Relaxed);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.inner).poll_write(cx, bytes))?;
        this.moved.fetch_add(count as u64, Relaxed);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, parts))?;
        this.moved.fetch_add(count as u64, Relaxed);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// An HTTP/1 byte stream of which only unambiguous messages are seen. At the first other one it shows a byte
/// that no message may hold, so that hyper answers 400, and then the end.
pub(super) struct Guarded<S> {
    inner: S,
    framing: Framing,
    /// Read and not yet released.
    kept: BytesMut,
    /// Released and not yet taken.
    released: BytesMut,
    refused: Option<Ambiguous>,
    shown: bool,
    shared: Arc<Shared>,
}

impl<S> Guarded<S> {
    pub(super) fn new(inner: S, most: usize, shared: Arc<Shared>) -> Self {
        Self {
            inner,
            framing: Framing::new(most),
            kept: BytesMut::new(),
            released: BytesMut::new(),
            refused: None,
            shown: false,
            shared,
        }
    }

    fn refuse(&mut self, why: Ambiguous) {
        self.kept = BytesMut::new();
        self.refused = Some(why);
        self.shared.stats.refused.fetch_add(1, Relaxed);
        tracing::debug!(?why, "ambiguous HTTP/1 message refused");
    }

    /// Looks at what is kept; whether something was decided.
    fn examine(&mut self) -> bool {
        match self.framing.advance(&self.kept) {
            Step::Release(count) => {
                self.released = self.kept.split_to(count);
                true
            }
            Step::Wait => false,
            Step::Refuse(why) => {
                self.refuse(why);
                true
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.released.is_empty() {
                let count = this.released.len().min(buffer.remaining());
                buffer.put_slice(&this.released[..count]);
                this.released.advance(count);
                return Poll::Ready(Ok(()));
            }
            if this.refused.is_some() {
                if !this.shown {
                    this.shown = true;
                    buffer.put_slice(&[0]);
                }
                return Poll::Ready(Ok(()));
            }
            if !this.kept.is_empty() && this.examine() {
                continue;
            }
            // Read into hyper's own buffer; only what has to wait is taken out of it again.
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
            let fresh = &buffer.filled()[before..];
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !this.kept.is_empty() {
                this.kept.extend_from_slice(fresh);
                buffer.set_filled(before);
                continue;
            }
            match this.framing.advance(fresh) {
                Step::Release(count) => {
                    this.kept.extend_from_slice(&fresh[count..]);
                    buffer.set_filled(before + count);
                    return Poll::Ready(Ok(()));
                }
                Step::Wait => {
                    this.kept.extend_from_slice(fresh);
                    buffer.set_filled(before);
                }
                Step::Refuse(why) => {
                    buffer.set_filled(before);
                    this.refuse(why);
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
