//! The way to the coordinator: its REST API over TLS, with the one certificate that we were told.
//!
//! The certificate is compared by its SHA-256 and nothing else: no name, no authority and no date counts, so
//! the self-made one of a coordinator without a domain is as good as any. The token is sent after that, and is
//! never logged.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use meshd_proto::Hostname;
use meshd_proto::cluster::{ClusterState, ServiceSet};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Largest answer that is read.
const MAX_ANSWER: usize = 8 << 20;
/// How long an exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the coordinator did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CoordinatorError {
    /// Nobody there, or not the one that we were told.
    #[error("cannot reach the coordinator at {0}: {1}")]
    Unreachable(String, String),
    /// The set was made from an older state.
    #[error("somebody else changed the cluster meanwhile")]
    Stale,
    /// It said no.
    #[error("the coordinator refused ({0}): {1}")]
    Refused(StatusCode, String),
    /// The answer makes no sense.
    #[error("the coordinator's answer cannot be read: {0}")]
    Answer(String),
}

/// SHA-256 of a certificate, with or without colons in its text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl FromStr for Fingerprint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let hex: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
        let wrong = || "a fingerprint is the SHA-256 of a certificate: 64 hexadecimal digits".to_owned();
        let mut out = [0; 32];
        if hex.len() != 64 {
            return Err(wrong());
        }
        for (byte, pair) in out.iter_mut().zip(hex.chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(out))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02X}"))
    }
}

/// A way to the coordinator of one cluster.
#[derive(Clone)]
pub(crate) struct Coordinator {
    address: String,
    cluster: Hostname,
    token: String,
    tls: tokio_rustls::TlsConnector,
}

impl Coordinator {
    /// `address` is `host:port`.
    pub(crate) fn new(
        address: String,
        pin: Fingerprint,
        cluster: Hostname,
        token: String,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(Pinned { pin, provider: provider.clone() });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { address, cluster, token, tls: Arc::new(config).into() })
    }

    /// What it knows of the cluster.
    pub(crate) async fn state(&self) -> Result<ClusterState, CoordinatorError> {
        self.call(Method::GET, None, None).await
    }

    /// Publishes the whole set, while the cluster has the revision that the set was made from.
    pub(crate) async fn publish(
        &self,
        set: &ServiceSet,
        revision: u64,
    ) -> Result<ClusterState, CoordinatorError> {
        let body = serde_json::to_vec(set).map_err(|e| CoordinatorError::Answer(e.to_string()))?;
        self.call(Method::PUT, Some(body), Some(revision)).await
    }

    async fn call(
        &self,
        method: Method,
        body: Option<Vec<u8>>,
        revision: Option<u64>,
    ) -> Result<ClusterState, CoordinatorError> {
        let exchange = tokio::time::timeout(PATIENCE, self.exchange(method, body, revision));
        let late = |_| self.unreachable(&"it took too long");
        let (status, bytes) = exchange.await.map_err(late)??;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|e| CoordinatorError::Answer(e.to_string()));
        }
        if status == StatusCode::CONFLICT && revision.is_some() {
            return Err(CoordinatorError::Stale);
        }
        let problem: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let part =
            |key: &str| problem[key].as_str().unwrap_or_default().chars().take(300).collect::<String>();
        Err(CoordinatorError::Refused(
            status,
            format!("{} {}", part("detail"), part("hint")).trim().to_owned(),
        ))
    }

    async fn exchange(
        &self,
        method: Method,
        body: Option<Vec<u8>>,
        revision: Option<u64>,
    ) -> Result<(StatusCode, Bytes), CoordinatorError> {
        let stream = TcpStream::connect(&self.address).await.map_err(|e| self.unreachable(&e))?;
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|e| self.unreachable(&e))?;
        let stream = self.tls.connect(name, stream).await.map_err(|e| self.unreachable(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.unreachable(&e))?;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/clusters/{}/services", self.cluster))
            .header(header::HOST, &self.address)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(revision) = revision {
            request = request.header(header::IF_MATCH, format!("\"{revision}\""));
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| CoordinatorError::Answer(e.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| self.unreachable(&e))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|e| CoordinatorError::Answer(e.to_string()))?;
            Ok::<_, CoordinatorError>((status, body.to_bytes()))
        };
        tokio::pin!(exchange);
        tokio::select! {
            done = &mut exchange => done,
            // The connection's own end is the exchange's.
            _ = connection => exchange.await,
        }
    }

    fn unreachable(&self, why: &dyn fmt::Display) -> CoordinatorError {
        CoordinatorError::Unreachable(self.address.clone(), why.to_string())
    }
}

/// Takes one certificate and no other.
#[derive(Debug)]
struct Pinned {
    pin: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Fingerprint(Sha256::digest(end_entity).into());
        if found == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!(
            "its certificate is {found:?}, not the one that this operator was told: `meshd-coordinator` prints its \
             fingerprint when it starts"
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_with_and_without_colons() {
        let plain = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(plain.parse::<Fingerprint>(), colons.parse());
        assert!("ab".parse::<Fingerprint>().is_err() && "zz".repeat(32).parse::<Fingerprint>().is_err());
    }
}
