//! Connections to one endpoint: idle HTTP/1 ones for reuse, and one shared HTTP/2 connection.
//!
//! An HTTP/1 connection belongs to the request that uses it and is driven by the same task, not by one of
//! its own: no channel wakes another thread on the way. It comes back only when both messages are at their
//! end; a connection whose state is in doubt is closed.

use super::body::RequestBody;
use crate::clock;
use crate::stream::Stream;
use crate::table::Endpoint;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How long an idle connection is kept.
pub(crate) const KEEP: Duration = Duration::from_secs(50);

type Driver = http1::Connection<TokioIo<Stream>, RequestBody>;

/// An HTTP/1 connection.
pub(super) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    driver: Driver,
    since: Instant,
}

/// Connections of one endpoint.
pub struct Pool {
    idle: Mutex<Vec<Connection>>,
    most: usize,
    /// The HTTP/2 connection; the lock is held while one is made, so that one is made.
    pub(super) shared: tokio::sync::Mutex<Http2>,
}

/// The HTTP/2 connection of an endpoint.
#[derive(Default)]
pub(super) struct Http2 {
    pub(super) sender: Option<http2::SendRequest<RequestBody>>,
    /// When making one failed last, and how: who waited for it meanwhile does not try the same again.
    pub(super) failed: Option<(Instant, std::io::ErrorKind)>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("most", &self.most).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool that keeps at most `most` idle connections.
    pub fn new(most: usize) -> Self {
        Self { idle: Mutex::new(Vec::new()), most, shared: tokio::sync::Mutex::default() }
    }

    /// An idle connection that still stands.
    pub(super) fn take(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            // A connection that the backend has closed, or on which it sent something unasked, is done now.
            let closed =
                Pin::new(&mut connection.driver).poll(&mut Context::from_waker(Waker::noop())).is_ready();
            if !closed && connection.sender.is_ready() {
                return Some(connection);
            }
        }
    }

    fn put(&self, mut connection: Connection) {
        connection.since = clock::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.most {
            idle.push(connection);
        }
    }

    /// Closes what was idle since before `limit`.
    pub(crate) fn sweep(&self, limit: Instant) {
        let old = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            // The oldest are at the front: connections are taken from the back.
            let fresh = idle.iter().position(|c| c.since > limit).unwrap_or(idle.len());
            idle.drain(..fresh).collect::<Vec<_>>()
        };
        drop(old);
    }
}

/// Why there is no response.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: hyper::Error,
    /// The request, when nothing of it was sent.
    pub(super) unsent: Option<Request<RequestBody>>,
}

impl Connection {
    pub(super) async fn new(stream: Stream) -> hyper::Result<Self> {
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(256 * 1024)
            .max_headers(200)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Self { sender, driver, since: clock::now() })
    }

    /// Sends `request` and returns the response's header; the body comes through the same connection.
    pub(super) async fn exchange(
        mut self,
        request: Request<RequestBody>,
        endpoint: &Arc<Endpoint>,
    ) -> Result<(Response<()>, Upstream), Failed> {
        let response = {
            let mut answer = pin!(self.sender.try_send_request(request));
            let driver = &mut self.driver;
            poll_fn(|cx| {
                let ended = Pin::new(&mut *driver).poll(cx).is_ready();
                match answer.as_mut().poll(cx) {
                    Poll::Pending if ended => {
                        // The driver has told the other side what happened.
                        answer.as_mut().poll(cx)
                    }
                    polled => polled,
                }
            })
            .await
        };
        match response {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let mut upstream =
                    Upstream { body, connection: Some(self), endpoint: Arc::clone(endpoint), keep: true };
                if upstream.body.is_end_stream() {
                    upstream.give_back(&mut Context::from_waker(Waker::noop()));
                }
                Ok((Response::from_parts(parts, ()), upstream))
            }
            Err(mut failed) => {
                let unsent = failed.take_message();
                Err(Failed { error: failed.into_error(), unsent })
            }
        }
    }
}

/// The body of a response with the connection it comes through.
pub(super) struct Upstream {
    body: Incoming,
    connection: Option<Connection>,
    endpoint: Arc<Endpoint>,
    keep: bool,
}

impl Upstream {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, super::body::BoxError>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending()
            && let Some(connection) = &mut self.connection
        {
            // Reading happens here; whatever it brought is there for the second look.
            let _ = Pin::new(&mut connection.driver).poll(cx);
            polled = Pin::new(&mut self.body).poll_frame(cx);
        }
        let over = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
            Poll::Ready(Some(Err(_))) => {
                self.connection = None;
                false
            }
            Poll::Pending => false,
        };
        if over {
            self.give_back(cx);
        }
        polled.map_err(Into::into)
    }

    /// The connection serves no other request.
    pub(super) fn close_at_end(&mut self) {
        self.keep = false;
    }

    /// Puts the connection back when it is ready for another request.
    fn give_back(&mut self, cx: &mut Context<'_>) {
        let Some(mut connection) = self.connection.take() else { return };
        if Pin::new(&mut connection.driver).poll(cx).is_pending()
            && connection.sender.poll_ready(cx).is_ready()
        {
            if connection.sender.is_closed() || !self.keep {
                return;
            }
            self.endpoint.pool.put(connection);
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
