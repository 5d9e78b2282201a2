//! The relay's TCP port: TLS or plain by the first byte, then an upgrade to the relay's protocol or to
//! WebSocket. For nodes whose network passes no UDP.
//!
//! The certificate only gets TLS through middleboxes: nodes know the relay by its key. It is self-made and
//! made anew at each start, unless files are given (a browser or proxy may want a real one).

use anyhow::{Context, Result};
use meshd_relay::server::RelayControl;
use meshd_relay::stream::BoxIo;
use meshd_relay::stream::upgrade::{self, RELAY};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A TLS record that begins a handshake (RFC 8446 §5.1). No HTTP method begins so.
const TLS_HANDSHAKE: u8 = 0x16;
/// For the first byte, the TLS handshake and the request together.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most connections of one source (an IPv6 source is a /64) that have no node attached.
const MAX_STRANGERS: usize = 64;
/// Most connections in all.
const MAX_CONNECTIONS: usize = 12_000;

type Strangers = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// Counts for its source until dropped.
struct Stranger(IpAddr, Strangers);

impl Stranger {
    fn admit(ip: IpAddr, strangers: &Strangers) -> Option<Self> {
        let source = match ip.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
            v4 @ IpAddr::V4(_) => v4,
        };
        let mut counts = strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_insert(0);
        // A reverse proxy on this host brings everybody.
        if *count >= MAX_STRANGERS && !source.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Self(source, strangers.clone()))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut counts = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.0);
            }
        }
    }
}

/// Serves the port on the addresses of `listen`; returns where. A port that nobody asked for may be taken.
pub(crate) fn start(
    listen: &[SocketAddr],
    port: u16,
    asked: bool,
    files: Option<(&Path, &Path)>,
    relay: &RelayControl,
    tasks: &mut JoinSet<()>,
) -> Result<Vec<SocketAddr>> {
    let tls = acceptor(files)?;
    let mut served = Vec::new();
    for ip in listen.iter().map(SocketAddr::ip) {
        let at = SocketAddr::new(ip, port);
        match bind(at) {
            Ok(listener) => {
                served.push(listener.local_addr()?);
                tasks.spawn(serve(listener, tls.clone(), relay.clone()));
            }
            Err(error) if asked && !ip.is_unspecified() => {
                return Err(error).with_context(|| format!("the relay cannot listen on TCP {at}"));
            }
            Err(error) => {
                tracing::warn!(%at, %error, "no relaying over TCP there: --tcp-port chooses another")
            }
        }
    }
    anyhow::ensure!(!asked || !served.is_empty(), "the relay cannot listen on TCP port {port}");
    Ok(served)
}

fn bind(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Serves what comes to `listener`, for ever.
async fn serve(listener: TcpListener, tls: TlsAcceptor, relay: RelayControl) {
    let strangers = Strangers::default();
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let Some(stranger) = Stranger::admit(peer.ip(), &strangers) else { continue };
                let (tls, relay) = (tls.clone(), relay.clone());
                connections.spawn(async move {
                    match tokio::time::timeout(PATIENCE, open(stream, tls)).await {
                        Ok(Ok(io)) => relay.serve_stream(io, peer, stranger).await,
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "no relay stream"),
                        Err(_) => tracing::debug!(%peer, "took too long to ask for the relay"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn open(stream: TcpStream, tls: TlsAcceptor) -> Result<BoxIo> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    anyhow::ensure!(stream.peek(&mut first).await? == 1, "it hung up");
    Ok(if first[0] == TLS_HANDSHAKE {
        upgrade::accept(tls.accept(stream).await?, RELAY).await?
    } else {
        upgrade::accept(stream, RELAY).await?
    })
}

/// The certificate in files, or a self-made one.
fn acceptor(files: Option<(&Path, &Path)>) -> Result<TlsAcceptor> {
    let (cert, key) = match files {
        Some((cert, key)) => (read(cert)?, read(key)?),
        None => {
            let made = rcgen::generate_simple_self_signed(vec!["meshd-relay".to_owned()])
                .context("cannot make a TLS certificate")?;
            (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes())
        }
    };
    let chain = CertificateDer::pem_slice_iter(&cert)
        .collect::<Result<Vec<_>, _>>()
        .context("the TLS certificate is not valid PEM")?;
    let key = PrivateKeyDer::from_pem_slice(&key).context("the TLS key is not valid PEM")?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("TLS certificate and key do not fit together")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
