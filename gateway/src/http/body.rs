//! Bodies on their way: of requests with a bound on their size, of responses with what happens at their end.

use super::pool::Upstream;
use crate::log::Entry;
use crate::table::Endpoint;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request had more bytes than the listener allows.
#[derive(Debug, thiserror::Error)]
#[error("the request's body is longer than the listener allows")]
pub(super) struct TooLong;

/// The body of a request on its way to a backend.
pub(super) enum RequestBody {
    Empty,
    Streaming { body: Incoming, left: u64, seen: Arc<AtomicU64> },
}

impl std::fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Streaming { .. } => "Streaming",
        })
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streaming { body, left, seen } => Pin::new(body).poll_frame(cx).map(|frame| match frame? {
                Err(error) => Some(Err(error.into())),
                Ok(frame) => {
                    let count = frame.data_ref().map_or(0, Bytes::len) as u64;
                    seen.fetch_add(count, Relaxed);
                    match left.checked_sub(count) {
                        None => Some(Err(TooLong.into())),
                        Some(rest) => {
                            *left = rest;
                            Some(Ok(frame))
                        }
                    }
                }
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming { body, .. } => body.size_hint(),
        }
    }
}

/// Where the bytes of a response come from.
pub(super) enum Source {
    Empty,
    Text(Option<Bytes>),
    /// HTTP/1: the connection goes back to its pool at the end.
    Upstream(Box<Upstream>),
    /// HTTP/2: a stream of a shared connection.
    Stream(Incoming),
}

/// The body of a response on its way to the client.
pub struct Body {
    source: Source,
    /// Written to the log, and counted, when the body ends or is dropped.
    entry: Option<Box<Entry>>,
    /// Keeps the endpoint counted as busy.
    busy: Option<Busy>,
}

/// One request under way at an endpoint.
pub(super) struct Busy(Arc<Endpoint>);

impl Busy {
    pub(super) fn at(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Relaxed);
        Self(Arc::clone(endpoint))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

impl Body {
    pub(super) fn new(source: Source) -> Self {
        Self { source, entry: None, busy: None }
    }

    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        Self::new(Source::Text(Some(text.into())))
    }

    pub(super) fn with(mut self, busy: Busy) -> Self {
        self.busy = Some(busy);
        self
    }

    pub(super) fn take_busy(&mut self) -> Option<Busy> {
        self.busy.take()
    }

    pub(super) fn finish_with(&mut self, entry: Box<Entry>) {
        self.entry = Some(entry);
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let polled = match &mut this.source {
            Source::Empty => Poll::Ready(None),
            Source::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Source::Upstream(upstream) => upstream.poll_frame(cx),
            Source::Stream(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        };
        if let (Poll::Ready(Some(frame)), Some(entry)) = (&polled, &mut this.entry) {
            match frame {
                Ok(frame) => entry.down += frame.data_ref().map_or(0, Bytes::len) as u64,
                Err(_) => entry.broken = true,
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Text(text) => text.is_none(),
            Source::Upstream(upstream) => upstream.is_end_stream(),
            Source::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Upstream(upstream) => upstream.size_hint(),
            Source::Stream(body) => body.size_hint(),
        }
    }
}
