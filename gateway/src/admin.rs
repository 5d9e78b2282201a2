//! The page for those who watch a gateway: `/healthz`, `/readyz` and `/metrics`, on a listener of its own.

use crate::clock;
use crate::runtime::Shared;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at a time.
const MOST: usize = 32;

/// Answers on `listener` for as long as it is polled. `ready` is false while the gateway drains.
pub async fn serve(shared: Arc<Shared>, listener: TcpListener, ready: Arc<AtomicBool>) {
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (state, ready) = (Arc::clone(&shared), Arc::clone(&ready));
        shared.tasks.spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&state, &request, ready.load(Relaxed));
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(Duration::from_secs(30), connection).await;
            drop(place);
        });
    }
}

fn answer(shared: &Shared, request: &Request<Incoming>, ready: bool) -> Response<String> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => (StatusCode::OK, "well\n".to_owned()),
        (&Method::GET, "/readyz") if ready => (StatusCode::OK, "ready\n".to_owned()),
        (&Method::GET, "/readyz") => (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
        (&Method::GET, "/metrics") => {
            (StatusCode::OK, shared.stats.page(&shared.active.load(), clock::now()))
        }
        _ => (StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n".to_owned()),
    };
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}
