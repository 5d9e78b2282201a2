//! HTTP/1.1 and HTTP/2 from clients, to backends.
//!
//! A connection is served by hyper behind `guard::Guarded`, which refuses ambiguous framing. Each request
//! takes the table of that moment, so a new configuration reaches connections that stand. Bodies stream in
//! both directions and are never collected.
//!
//! Invariants: a request goes nowhere but to a backend of the rule that it fits · `CONNECT` is refused ·
//! fields of one hop do not reach the next · what a client says about its own address is believed only from
//! sources that the listener trusts.

mod body;
mod filters;
mod forward;
mod guard;
mod headers;
mod pool;
mod request;

pub use body::Body;
pub(crate) use pool::KEEP;
pub use pool::Pool;

use crate::conn::Peer;
use crate::stream::Stream;
use guard::{Guarded, Watched};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Most header fields of a request.
const MAX_HEADERS: usize = 200;

/// Serves the requests of one connection until it ends, `stop` lets it drain, or it is idle for too long.
pub(crate) async fn serve(peer: Arc<Peer>, stream: Stream, http2: bool, stop: CancellationToken) {
    let limits = peer.bind.limits;
    let moved = Arc::new(AtomicU64::new(0));
    let idle = idle(&moved, limits.idle_timeout);
    let watched = Watched::new(stream, Arc::clone(&moved));
    let service = service_fn(|request| {
        let peer = Arc::clone(&peer);
        async move { Ok::<_, Infallible>(request::handle(&peer, request).await) }
    });
    if http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(limits.header_bytes)
            .max_local_error_reset_streams(Some(256))
            .max_send_buf_size(256 * 1024)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .keep_alive_timeout(Duration::from_secs(20));
        let connection = pin!(builder.serve_connection(TokioIo::new(watched), service));
        drive(connection, |c| c.graceful_shutdown(), stop, idle).await;
    } else {
        let guarded = Guarded::new(watched, limits.header_bytes as usize, Arc::clone(&peer.shared));
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size((limits.header_bytes as usize).max(64 * 1024))
            .max_headers(MAX_HEADERS)
            .half_close(true);
        let connection = pin!(builder.serve_connection(TokioIo::new(guarded), service).with_upgrades());
        drive(connection, |c| c.graceful_shutdown(), stop, idle).await;
    }
}

/// Drives a connection; at `stop` it is asked once to finish what is under way.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    mut connection: std::pin::Pin<&mut C>,
    finish: impl Fn(std::pin::Pin<&mut C>),
    stop: CancellationToken,
    idle: impl Future<Output = ()>,
) {
    let mut idle = pin!(idle);
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::trace!(%error, "connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                finish(connection.as_mut());
            }
            () = idle.as_mut() => return,
        }
    }
}

/// Ends when nothing moved for `limit`.
async fn idle(moved: &Arc<AtomicU64>, limit: Duration) {
    let mut seen = u64::MAX;
    loop {
        tokio::time::sleep(limit).await;
        let now = moved.load(Ordering::Relaxed);
        if now == seen {
            return;
        }
        seen = now;
    }
}
