//! One question over HTTPS, and its answer: HTTP/1.1, one connection for each, blocking. It follows no
//! redirect, sends no cookie, and takes no answer that is larger than an API's or was cut off.

use super::Place;
use crate::output::CliError;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use meshd_node::tls::{self, Shown};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use sha2::{Digest, Sha256};
use std::error::Error;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// Status and body.
type Answer = (u16, Zeroizing<Vec<u8>>);
/// Why a certificate was refused, and its SHA-256.
type Refusal = (String, [u8; 32]);

/// How long one address may take to answer a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long everything behind that may take: TLS, question and answer.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(20);
/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;
/// Largest head of an answer, and its largest body.
const MAX_ANSWER: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum HttpsError {
    Resolve(io::Error),
    Connect(io::Error),
    /// The certificate is not trusted; its SHA-256.
    Untrusted {
        why: String,
        seen: [u8; 32],
    },
    /// It ended before the answer was whole, or took too long.
    Lost(io::Error),
    /// What came is not an answer, or larger than any that an API gives.
    NotHttp,
    Setup(String),
}

impl HttpsError {
    pub(super) fn into_cli(self, place: &Place) -> CliError {
        let at = place.authority();
        match self {
            Self::Resolve(e) => {
                CliError::new(format!("cannot resolve {}: {e}", place.host), "is the name right?")
            }
            Self::Connect(e) => CliError::new(
                format!("cannot reach {at}: {e}"),
                "is the coordinator running, and its port open to this machine?",
            ),
            Self::Lost(e) => CliError::new(format!("the connection to {at} was lost: {e}"), ""),
            Self::NotHttp => {
                CliError::new(format!("{at} does not speak HTTP"), "is this the coordinator's address?")
            }
            Self::Setup(why) => CliError::new(format!("TLS cannot be set up: {why}"), ""),
            Self::Untrusted { seen, .. } if place.fingerprint.is_some() => CliError::new(
                format!("{at} shows another certificate than you named; nothing was sent"),
                format!(
                    "it shows {}: somebody may sit between, or the coordinator has a new certificate",
                    hex(&seen)
                ),
            ),
            Self::Untrusted { why, seen } => CliError::new(
                format!("the certificate of {at} cannot be trusted: {why}; nothing was sent"),
                format!(
                    "compare it with what the coordinator printed as `Certificate, SHA-256`; only if it is the same, \
                     add: --coordinator-key {}",
                    hex(&seen)
                ),
            ),
        }
    }
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":")
}

/// Sends `body` (JSON) to `path`: status and body of the answer.
pub(super) fn post(place: &Place, path: &str, body: &[u8]) -> Result<Answer, HttpsError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(HttpsError::Connect)?;
    runtime.block_on(post_within(EXCHANGE_LIMIT, place, path, body))
}

async fn post_within(limit: Duration, place: &Place, path: &str, body: &[u8]) -> Result<Answer, HttpsError> {
    let refused = Arc::new(OnceLock::new());
    let config = config(place.fingerprint, Arc::clone(&refused))?;
    let name = ServerName::try_from(place.host.clone()).map_err(|e| HttpsError::Setup(e.to_string()))?;
    // The secret in it is wiped when the connection has let go of it.
    let body = Full::new(Bytes::from_owner(Zeroizing::new(body.to_vec())));
    let request = Request::post(path)
        .header(HOST, place.authority())
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close")
        .body(body)
        .map_err(|e| HttpsError::Setup(e.to_string()))?;
    let tcp = connect(place).await?;
    let exchange = async {
        let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| {
            match refused.get().cloned() {
                Some((why, seen)) => HttpsError::Untrusted { why, seen },
                None => HttpsError::Lost(error),
            }
        })?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_ANSWER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // It ends with this exchange; what goes wrong there is told here, too.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        read(sender.send_request(request).await.map_err(broken)?).await
    };
    let slow = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs()));
    timeout(limit, exchange).await.unwrap_or_else(|_| Err(HttpsError::Lost(slow())))
}

async fn connect(place: &Place) -> Result<TcpStream, HttpsError> {
    let found = lookup_host((place.host.as_str(), place.port)).await.map_err(HttpsError::Resolve)?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in found.take(MAX_ADDRESSES) {
        match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "connection timed out"),
        }
    }
    Err(HttpsError::Connect(last))
}

async fn read(answer: Response<hyper::body::Incoming>) -> Result<Answer, HttpsError> {
    let status = answer.status().as_u16();
    let mut body = Limited::new(answer.into_body(), MAX_ANSWER);
    // Room for all of it: a token in a buffer that grew would stay behind in the smaller one.
    let mut whole = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => broken(*error),
            Err(error) if error.is::<LengthLimitError>() => HttpsError::NotHttp,
            Err(error) => HttpsError::Lost(io::Error::other(error)),
        })?;
        if let Ok(data) = frame.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    Ok((status, whole))
}

/// Whose fault it is that there is no whole answer: the way's, or that of a peer which speaks something else.
fn broken(error: hyper::Error) -> HttpsError {
    if error.is_parse() {
        return HttpsError::NotHttp;
    }
    if error.is_incomplete_message() {
        return HttpsError::Lost(io::ErrorKind::UnexpectedEof.into());
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(source) if is_no_chunk(source) => HttpsError::NotHttp,
        Some(source) => HttpsError::Lost(io::Error::new(source.kind(), source.to_string())),
        None => HttpsError::Lost(io::Error::other(error)),
    }
}

/// Whether the pieces of a body are none. hyper says so by the kinds of error that a broken TLS record has,
/// too; there, rustls' own error is inside.
fn is_no_chunk(error: &io::Error) -> bool {
    let kind = matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData);
    kind && !error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// A certificate is good when it is the one that was named, or when an authority of this system vouches for
/// it under the host's name. Why another one is not, is left in `refused`.
fn config(named: Option<[u8; 32]>, refused: Arc<OnceLock<Refusal>>) -> Result<Arc<ClientConfig>, HttpsError> {
    let authorities = if named.is_none() { authorities()? } else { None };
    let judge = move |shown: Shown<'_>| {
        let seen: [u8; 32] = Sha256::digest(shown.certificate).into();
        let verdict = match (named, &authorities) {
            (Some(named), _) if named == seen => Ok(()),
            (Some(_), _) => Err(rustls::Error::General("it is not the one that was named".to_owned())),
            (None, Some(authorities)) => authorities
                .verify_server_cert(shown.certificate, shown.chain, shown.name, shown.ocsp, shown.now)
                .map(|_| ()),
            (None, None) => {
                Err(rustls::Error::General("this system knows no certificate authority".to_owned()))
            }
        };
        verdict.inspect_err(|error| {
            let why = match error {
                rustls::Error::General(why) => why.clone(),
                other => other.to_string(),
            };
            // One connection shows one certificate: the first word is the only one.
            refused.get_or_init(|| (why, seen));
        })
    };
    tls::client(judge).map(Arc::new).map_err(|e| HttpsError::Setup(e.to_string()))
}

/// Whom this system trusts; `None` when that is nobody.
fn authorities() -> Result<Option<Arc<WebPkiServerVerifier>>, HttpsError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        return Ok(None);
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::new(ring::default_provider()))
        .build()
        .map(Some)
        .map_err(|e| HttpsError::Setup(e.to_string()))
}

#[cfg(test)]
mod tests;
