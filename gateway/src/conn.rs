//! One accepted connection: whose it is, what it speaks, and to whom it goes.

use crate::clock;
use crate::http;
use crate::limit::Permit;
use crate::log::StreamEntry;
use crate::pump::{Carried, pump};
use crate::runtime::Shared;
use crate::stream::{Prefixed, Raw, Stream};
use crate::table::{Bind, BindKey, BindKind, Endpoint, StreamRoute, contains};
use crate::wire::client_hello::{self, ClientHello, Hello};
use crate::wire::proxy_v2::{self, Header};
use meshd_proto::gateway::ListenerProtocol;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// The preface of an HTTP/2 connection (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Endpoints tried for one connection.
const TRIES: usize = 3;

/// Who is at the other end of a connection from a client.
pub(crate) struct Peer {
    pub(crate) shared: Arc<Shared>,
    /// Where it was accepted.
    pub(crate) key: BindKey,
    /// What was served there when it was.
    pub(crate) bind: Arc<Bind>,
    /// The client, as PROXY tells it where that is believed.
    pub(crate) client: SocketAddr,
    /// The address it connected to.
    pub(crate) local: SocketAddr,
    /// TLS ends here.
    pub(crate) tls: bool,
    /// The server name it asked for.
    pub(crate) server_name: Option<String>,
}

impl Peer {
    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// Client and local address, for PROXY.
    pub(crate) fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.client, self.local)
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve(mut peer: Peer, raw: Raw, mut permit: Permit, stop: CancellationToken) {
    let mut stream = Prefixed::new(raw);
    let timeout = peer.bind.limits.header_timeout;
    if contains(&peer.bind.proxy_from, peer.client.ip()) {
        match tokio::time::timeout(timeout, proxy_header(&mut stream)).await {
            Ok(Ok(Some((client, local)))) => (peer.client, peer.local) = (client, local),
            Ok(Ok(None)) => {}
            Ok(Err(why)) => return refused(&peer, why),
            Err(_) => return refused(&peer, "no PROXY header in time"),
        }
        if !permit.claim(peer.client.ip(), peer.bind.limits.per_source) {
            peer.shared.stats.over_limit.fetch_add(1, Relaxed);
            return;
        }
    }
    match peer.bind.kind {
        BindKind::Udp => {}
        BindKind::Tcp => {
            let Some(route) = peer.bind.listeners.first().and_then(|l| l.stream(None)).cloned() else {
                return unrouted(&peer);
            };
            forward(&peer, &route, &mut Stream::Plain(stream)).await;
        }
        BindKind::Http => match tokio::time::timeout(timeout, is_http2(&mut stream)).await {
            Ok(Ok(http2)) => http::serve(Arc::new(peer), Stream::Plain(stream), http2, stop).await,
            Ok(Err(_)) => {}
            Err(_) => refused(&peer, "no request in time"),
        },
        BindKind::Tls => match tokio::time::timeout(timeout, hello(&mut stream)).await {
            Ok(Ok(hello)) => tls(peer, stream, hello, stop).await,
            Ok(Err(why)) => refused(&peer, why),
            Err(_) => refused(&peer, "no ClientHello in time"),
        },
    }
}

fn refused(peer: &Peer, why: &'static str) {
    peer.shared.stats.refused.fetch_add(1, Relaxed);
    tracing::debug!(client = %peer.client, port = peer.key.port, why, "connection refused");
}

fn unrouted(peer: &Peer) {
    peer.shared.stats.unrouted.fetch_add(1, Relaxed);
    tracing::debug!(client = %peer.client, port = peer.key.port, name = ?peer.server_name, "no route for a connection");
}

type Addresses = Option<(SocketAddr, SocketAddr)>;

async fn proxy_header(stream: &mut Prefixed) -> Result<Addresses, &'static str> {
    loop {
        match proxy_v2::parse(stream.head()) {
            Header::Whole { addresses, length } => {
                stream.consume(length);
                return Ok(addresses);
            }
            Header::Refused(why) => return Err(why),
            Header::Partial => {}
        }
        // Bytes behind the header may come along: they stay in front of the stream.
        if !matches!(stream.look(proxy_v2::MAX_HEADER + 4096).await, Ok(1..)) {
            return Err("the connection ended within the PROXY header");
        }
    }
}

/// Whether the client starts with the preface of HTTP/2.
async fn is_http2(stream: &mut Prefixed) -> io::Result<bool> {
    loop {
        let head = stream.head();
        let seen = head.len().min(PREFACE.len());
        if head[..seen] != PREFACE[..seen] {
            return Ok(false);
        }
        if seen == PREFACE.len() {
            return Ok(true);
        }
        if stream.look(4096).await? == 0 {
            return Ok(false);
        }
    }
}

async fn hello(stream: &mut Prefixed) -> Result<ClientHello, &'static str> {
    loop {
        match client_hello::parse(stream.head()) {
            Hello::Whole(hello) => return Ok(hello),
            Hello::Refused(why) => return Err(why),
            Hello::Partial => {}
        }
        if !matches!(stream.look(client_hello::MAX_HELLO).await, Ok(1..)) {
            return Err("the connection ended within the ClientHello");
        }
    }
}

/// A connection that starts with TLS: ended here, or passed through, by its server name.
async fn tls(mut peer: Peer, mut stream: Prefixed, hello: ClientHello, stop: CancellationToken) {
    peer.server_name = hello.server_name;
    let name = peer.server_name.as_deref();
    if hello.is_acme
        && let Some(config) = name.and_then(|n| peer.shared.challenges.tls(n))
    {
        let _ = tokio::time::timeout(Duration::from_secs(10), TlsAcceptor::from(config).accept(stream)).await;
        return;
    }
    // A client without a known name sees the default certificate and then 404; where nothing ends TLS, the
    // connection is closed.
    let Some(listener) = peer.bind.listener(name).or_else(|| peer.bind.fallback_tls()).cloned() else {
        return unrouted(&peer);
    };
    if listener.protocol == ListenerProtocol::Tls {
        let Some(route) = listener.stream(name).cloned() else { return unrouted(&peer) };
        return forward(&peer, &route, &mut stream).await;
    }
    let active = peer.shared.active.load_full();
    let Some(config) = active.material.servers.get(&listener.name).cloned() else { return unrouted(&peer) };
    drop(active);
    let limit = peer.bind.limits.header_timeout;
    let accepted = match tokio::time::timeout(limit, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => {
            tracing::debug!(client = %peer.client, %error, "TLS handshake failed");
            return refused(&peer, "TLS handshake failed");
        }
        Err(_) => return refused(&peer, "no TLS handshake in time"),
    };
    let http2 = accepted.get_ref().1.alpn_protocol() == Some(b"h2");
    peer.tls = true;
    http::serve(Arc::new(peer), Stream::Tls(Box::new(accepted.into())), http2, stop).await;
}

/// Carries a connection to an endpoint of `route`, byte for byte.
async fn forward<S>(peer: &Peer, route: &StreamRoute, client: &mut S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let started = clock::now();
    let mut upstream = None;
    let (carried, result) = match open(peer, route).await {
        Some((mut backend, endpoint)) => {
            upstream = Some(endpoint.addr);
            endpoint.active.fetch_add(1, Relaxed);
            let done = pump(client, &mut backend, peer.bind.limits.idle_timeout).await;
            endpoint.active.fetch_sub(1, Relaxed);
            done
        }
        None => (Carried::default(), Err(io::ErrorKind::NotConnected.into())),
    };
    StreamEntry {
        peer,
        route: (&route.route, &route.stats),
        upstream,
        started,
        up: carried.up,
        down: carried.down,
        broken: result.is_err(),
    }
    .finish();
}

/// A connection to an endpoint, the next one when one fails.
async fn open(peer: &Peer, route: &StreamRoute) -> Option<(Stream, Arc<Endpoint>)> {
    let backend = route.targets.pick()?;
    let mut tried = Vec::new();
    while tried.len() < TRIES {
        let endpoint = backend.pick(peer.client.ip(), &tried, clock::now())?;
        if tried.contains(&endpoint.addr) {
            break;
        }
        match peer.shared.connect(backend, &endpoint, Some(peer.addresses())).await {
            Ok(stream) => {
                endpoint.wellness.succeeded();
                return Some((stream, endpoint));
            }
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.addr, %error, "no connection to a backend");
                endpoint.wellness.failed(clock::now(), true);
                tried.push(endpoint.addr);
            }
        }
    }
    None
}
