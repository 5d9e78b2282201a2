//! One question over HTTPS, and its answer: HTTP/1.1, one connection for each, blocking. It follows no
//! redirect, sends no cookie, and knows the answers that an API gives.

use super::Place;
use crate::output::CliError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use zeroize::Zeroizing;

/// How long one address may take to answer a connection, and a peer to go on with what it says.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer, head included.
const MAX_ANSWER: u64 = 64 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum HttpsError {
    Resolve(io::Error),
    Connect(io::Error),
    /// The certificate is not trusted; its SHA-256 where it was seen.
    Untrusted {
        why: String,
        seen: Option<[u8; 32]>,
    },
    Lost(io::Error),
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
            Self::Untrusted { seen: Some(seen), .. } if place.fingerprint.is_some() => CliError::new(
                format!("{at} shows another certificate than you named; nothing was sent"),
                format!(
                    "it shows {}: somebody may sit between, or the coordinator has a new certificate",
                    hex(&seen)
                ),
            ),
            Self::Untrusted { why, seen } => CliError::new(
                format!("the certificate of {at} cannot be trusted: {why}; nothing was sent"),
                match seen {
                    Some(seen) => format!(
                        "compare it with what the coordinator printed as `Certificate, SHA-256`; only if it is the \
                         same, add: --coordinator-key {}",
                        hex(&seen)
                    ),
                    None => {
                        "name it: --coordinator-key FINGERPRINT, as the coordinator printed it".to_owned()
                    }
                },
            ),
        }
    }
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":")
}

/// Sends `body` (JSON) to `path`: status and body of the answer.
pub(super) fn post(place: &Place, path: &str, body: &[u8]) -> Result<(u16, Zeroizing<Vec<u8>>), HttpsError> {
    let check = Arc::new(Check::new(place.fingerprint)?);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| HttpsError::Setup(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Check>::clone(&check))
        .with_no_client_auth();
    let name = ServerName::try_from(place.host.clone()).map_err(|e| HttpsError::Setup(e.to_string()))?;
    let mut session =
        ClientConnection::new(Arc::new(config), name).map_err(|e| HttpsError::Setup(e.to_string()))?;
    let mut tcp = connect(place)?;
    while session.is_handshaking() {
        if let Err(error) = session.complete_io(&mut tcp) {
            return Err(match check.refused() {
                Some((why, seen)) => HttpsError::Untrusted { why, seen: Some(seen) },
                None => HttpsError::Lost(error),
            });
        }
    }
    let mut stream = StreamOwned::new(session, tcp);
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAccept: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        place.authority(),
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).map_err(HttpsError::Lost)?;
    stream.flush().map_err(HttpsError::Lost)?;
    let mut answer = Zeroizing::new(Vec::new());
    match stream.take(MAX_ANSWER).read_to_end(&mut answer) {
        Ok(_) => {}
        // Servers that hang up without a farewell: the length tells whether all is there.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(e) => return Err(HttpsError::Lost(e)),
    }
    parse(&answer).ok_or(HttpsError::NotHttp)
}

fn connect(place: &Place) -> Result<TcpStream, HttpsError> {
    let found = (place.host.as_str(), place.port).to_socket_addrs().map_err(HttpsError::Resolve)?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in found.take(8) {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(tcp) => {
                let limited =
                    tcp.set_read_timeout(Some(PATIENCE)).and_then(|()| tcp.set_write_timeout(Some(PATIENCE)));
                return limited.map(|()| tcp).map_err(HttpsError::Connect);
            }
            Err(error) => last = error,
        }
    }
    Err(HttpsError::Connect(last))
}

/// Status and body; `None` when it is not a whole answer.
fn parse(answer: &[u8]) -> Option<(u16, Zeroizing<Vec<u8>>)> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let field = |wanted: &str| {
        lines.clone().find_map(|l| {
            l.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(wanted)).map(|f| f.1.trim())
        })
    };
    let rest = &answer[end + 4..];
    if field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Some((status, chunks(rest)?));
    }
    let body = match field("content-length") {
        Some(length) => rest.get(..length.parse().ok()?)?,
        None => rest,
    };
    Some((status, Zeroizing::new(body.to_vec())))
}

/// RFC 9112 §7.1, without trailers.
fn chunks(mut rest: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut body = Zeroizing::new(Vec::new());
    loop {
        let line = rest.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        let start = line + 2;
        let end = start.checked_add(size)?;
        body.extend_from_slice(rest.get(start..end)?);
        rest = rest.get(end + 2..)?;
    }
}

/// A certificate is good when it is the one that was named, or when an authority of this system vouches for
/// it under the host's name.
#[derive(Debug)]
struct Check {
    provider: Arc<CryptoProvider>,
    named: Option<[u8; 32]>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    refused: Mutex<Option<(String, [u8; 32])>>,
}

impl Check {
    fn new(named: Option<[u8; 32]>) -> Result<Self, HttpsError> {
        let provider = Arc::new(ring::default_provider());
        let mut store = RootCertStore::empty();
        if named.is_none() {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let authorities = match store.is_empty() {
            true => None,
            false => Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
                    .build()
                    .map_err(|e| HttpsError::Setup(e.to_string()))?,
            ),
        };
        Ok(Self { provider, named, authorities, refused: Mutex::new(None) })
    }

    fn refused(&self) -> Option<(String, [u8; 32])> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Check {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen: [u8; 32] = Sha256::digest(end_entity).into();
        let verdict = match (self.named, &self.authorities) {
            (Some(named), _) if named == seen => Ok(ServerCertVerified::assertion()),
            (Some(_), _) => Err(rustls::Error::General("it is not the one that was named".to_owned())),
            (None, Some(authorities)) => {
                authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            (None, None) => {
                Err(rustls::Error::General("this system knows no certificate authority".to_owned()))
            }
        };
        if let Err(error) = &verdict {
            let why = match error {
                rustls::Error::General(why) => why.clone(),
                other => other.to_string(),
            };
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some((why, seen));
        }
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_with_a_length_in_chunks_or_to_the_end_and_halves_are_refused() {
        let read =
            |text: &str| parse(text.as_bytes()).map(|(s, b)| (s, String::from_utf8(b.to_vec()).unwrap()));
        let ok = |body: &str| Some((200, body.to_owned()));
        assert_eq!(read("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"), ok("{}"));
        assert_eq!(
            read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"),
            ok("abcd")
        );
        assert_eq!(read("HTTP/1.0 200 OK\r\n\r\nabc"), ok("abc"));
        for half in [
            "",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc",
            "HTTP/1.1 x\r\n\r\n",
        ] {
            assert_eq!(read(half), None, "{half}");
        }
    }
}
