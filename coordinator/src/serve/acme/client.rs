//! HTTPS towards a certificate authority: one connection for each request, bounded in time and size.
//!
//! The gateway, which orders for other names, has one of the same kind; the two crates do not see each other.

use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// For one request.
const LIMIT: Duration = Duration::from_secs(30);
/// Largest answer.
const MAX_ANSWER: usize = 1 << 20;

type Problem = Box<dyn std::error::Error + Send + Sync>;

/// Speaks to one authority.
pub(super) struct Client(TlsConnector);

impl Client {
    /// Trusts the certificates of `ca`, else the system's.
    pub(super) fn new(ca: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        match ca {
            Some(path) => {
                let said = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
                for certificate in CertificateDer::pem_file_iter(path).map_err(|e| said(&e))? {
                    let certificate = certificate.map_err(|e| said(&e))?;
                    roots.add(certificate).map_err(|e| said(&e))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err("there are no certificates to check the authority by; install ca-certificates".into());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let tls = self.0.clone();
        Box::pin(async move {
            tokio::time::timeout(LIMIT, exchange(tls, request))
                .await
                .unwrap_or_else(|_| Err("it took too long".into()))
                .map_err(Error::Other)
        })
    }
}

async fn exchange(
    tls: TlsConnector,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, Problem> {
    let uri = request.uri().clone();
    let host = uri.host().ok_or("its URL names no host")?.trim_matches(['[', ']']).to_owned();
    if uri.scheme_str() != Some("https") {
        return Err("its URL is not https".into());
    }
    let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
    let stream = tls.connect(ServerName::try_from(host)?, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    if let Some(authority) = uri.authority() {
        request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
    }
    *request.uri_mut() = uri.path_and_query().cloned().map(Uri::from).unwrap_or_default();
    let answer = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
        Ok::<_, Problem>(BytesResponse { parts, body: Box::new(body) })
    };
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        biased;
        done = &mut answer => done,
        _ = &mut connection => answer.await,
    }
}
