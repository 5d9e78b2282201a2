//! One connection: TLS or plain HTTP by its first byte, then requests, then maybe the control protocol.

use super::slots::Slot;
use crate::api::Transport;
use crate::control::Hub;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// A TLS record begins with its content type; 22 is a handshake (RFC 8446 §5.1). No HTTP method does.
const TLS_HANDSHAKE: u8 = 0x16;
/// For the first byte, a TLS handshake and each request head.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where nodes speak the control protocol, and its name.
const CONTROL_PATH: &str = "/control";
const CONTROL_PROTOCOL: &str = "meshd-control";

/// The slot of a connection, until an upgrade takes it.
type SharedSlot = Arc<Mutex<Option<Slot>>>;

/// What every connection needs.
pub(super) struct Shared {
    pub(super) control: Arc<Hub>,
    pub(super) router: Router,
    pub(super) tls: TlsAcceptor,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

pub(super) async fn serve_tcp(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>, slot: Slot) {
    // Small messages, answered at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let mut first = [0];
    let Ok(Ok(1)) = tokio::time::timeout(PATIENCE, stream.peek(&mut first)).await else { return };
    if first[0] != TLS_HANDSHAKE {
        return serve_http(stream, Transport::Plain(peer), shared, Some(slot)).await;
    }
    match tokio::time::timeout(PATIENCE, shared.tls.accept(stream)).await {
        Ok(Ok(stream)) => serve_http(stream, Transport::Tls(peer), shared, Some(slot)).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}

pub(super) async fn serve_unix(stream: UnixStream, shared: Arc<Shared>) {
    let Ok(credentials) = stream.peer_cred() else { return };
    serve_http(stream, Transport::Unix { uid: credentials.uid() }, shared, None).await;
}

async fn serve_http<S>(stream: S, transport: Transport, shared: Arc<Shared>, slot: Option<Slot>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let slot = Arc::new(Mutex::new(slot));
    let stop = shared.stop.clone();
    let service = service_fn(move |request| {
        let (shared, slot) = (shared.clone(), slot.clone());
        async move { Ok::<_, Infallible>(answer(request, transport, &shared, slot).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended with an error");
    }
}

async fn answer(
    mut request: Request<Incoming>,
    transport: Transport,
    shared: &Arc<Shared>,
    slot: SharedSlot,
) -> Response<Body> {
    if request.uri().path() == CONTROL_PATH {
        return match transport {
            Transport::Tls(peer) | Transport::Plain(peer) => upgrade(&mut request, peer, shared, slot),
            Transport::Unix { .. } => plain(StatusCode::NOT_FOUND, "the control protocol is served on TCP\n"),
        };
    }
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(transport);
    match shared.router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn upgrade(
    request: &mut Request<Incoming>,
    peer: SocketAddr,
    shared: &Arc<Shared>,
    slot: SharedSlot,
) -> Response<Body> {
    if !asks_for_control(request.headers()) {
        let mut response =
            plain(StatusCode::UPGRADE_REQUIRED, "nodes speak the meshd-control protocol here\n");
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(CONTROL_PROTOCOL));
        return response;
    }
    let upgraded = hyper::upgrade::on(request);
    let (hub, stop) = (shared.control.clone(), shared.stop.clone());
    shared.tasks.spawn(async move {
        let slot = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (_place, stranger) = slot.map(Slot::split).unzip();
        match upgraded.await {
            Ok(io) => tokio::select! {
                () = stop.cancelled() => {}
                () = hub.accept_stranger(TokioIo::new(io), peer, stranger) => {}
            },
            Err(error) => tracing::debug!(%peer, %error, "control upgrade failed"),
        }
    });
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "");
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(CONTROL_PROTOCOL));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

fn asks_for_control(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok());
    upgrade.is_some_and(|v| v.split(',').any(|p| p.trim().eq_ignore_ascii_case(CONTROL_PROTOCOL)))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}
