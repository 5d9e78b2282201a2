//! One connection: TLS or plain HTTP by its first byte, then requests, then maybe the control protocol or
//! the relay's, each by an upgrade of its own or inside WebSocket.

use super::slots::Slot;
use crate::api::{Transport, TrustedProxies};
use crate::certificate::{ALPN_PROOF, Certificates};
use crate::control::Hub;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use meshd_relay::server::RelayControl;
use meshd_relay::stream::BoxIo;
use meshd_relay::stream::upgrade::{CONTROL, Form, Protocol, RELAY, websocket_accept};
use meshd_relay::stream::websocket::{Role, WebSocket};
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
/// How long a request may take until its answer begins.
const REQUEST: Duration = Duration::from_secs(60);

/// The slot of a connection, until an upgrade takes it.
type SharedSlot = Arc<Mutex<Option<Slot>>>;

/// What every connection needs.
pub(super) struct Shared {
    pub(super) control: Arc<Hub>,
    /// The embedded relay, where there is one.
    pub(super) relay: Option<RelayControl>,
    pub(super) router: Router,
    pub(super) proxies: TrustedProxies,
    pub(super) tls: TlsAcceptor,
    pub(super) certificates: Arc<Certificates>,
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
        // An authority saw the certificate that it wanted to see; nothing follows (RFC 8737 §3).
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(ALPN_PROOF) => {}
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
    let path = request.uri().path();
    if let Some(protocol) = [CONTROL, RELAY].into_iter().find(|p| p.path == path) {
        return match transport {
            Transport::Tls(peer) | Transport::Plain(peer) => {
                upgrade(&mut request, protocol, peer, shared, slot)
            }
            Transport::Unix { .. } => plain(StatusCode::NOT_FOUND, "nodes are served on TCP\n"),
        };
    }
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(transport);
    // Bodies are read before the answer, so a body that never ends is a request that takes too long.
    match tokio::time::timeout(REQUEST, shared.router.clone().oneshot(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => plain(StatusCode::REQUEST_TIMEOUT, "the request took too long\n"),
    }
}

fn upgrade(
    request: &mut Request<Incoming>,
    protocol: Protocol,
    peer: SocketAddr,
    shared: &Arc<Shared>,
    slot: SharedSlot,
) -> Response<Body> {
    if protocol == RELAY && shared.relay.is_none() {
        return plain(StatusCode::NOT_FOUND, "there is no relay here\n");
    }
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    let form = match asked_for(request.headers(), protocol) {
        Some(Asked::Protocol) => {
            headers.insert(header::UPGRADE, HeaderValue::from_static(protocol.name));
            Form::Upgrade
        }
        Some(Asked::WebSocket(accept)) => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            Form::WebSocket
        }
        None => {
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(protocol.name));
            return response;
        }
    };
    let upgraded = hyper::upgrade::on(request);
    let shared = shared.clone();
    shared.tasks.clone().spawn(async move {
        let slot = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (_place, stranger) = slot.map(Slot::split).unzip();
        let io = match upgraded.await {
            Ok(io) => TokioIo::new(io),
            Err(error) => return tracing::debug!(%peer, %error, "an upgrade failed"),
        };
        let io: BoxIo = match form {
            Form::Upgrade => Box::new(io),
            Form::WebSocket => Box::new(WebSocket::new(io, Role::Server, Vec::new())),
        };
        let serve = async {
            match (&shared.relay, protocol == RELAY) {
                (Some(relay), true) => relay.serve_stream(io, peer, stranger).await,
                _ => shared.control.clone().accept_stranger(io, peer, stranger).await,
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = serve => {}
        }
    });
    response
}

/// What an upgrade is asked to.
enum Asked {
    Protocol,
    /// With what the client expects in the answer.
    WebSocket(HeaderValue),
}

fn asked_for(headers: &HeaderMap, protocol: Protocol) -> Option<Asked> {
    let wanted = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok())?;
    let asks = |name: &str| wanted.split(',').any(|p| p.trim().eq_ignore_ascii_case(name));
    if asks(protocol.name) {
        return Some(Asked::Protocol);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|v| v.to_str().ok())?;
    let accept = HeaderValue::from_str(&websocket_accept(key)).ok()?;
    asks("websocket").then_some(Asked::WebSocket(accept))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}
