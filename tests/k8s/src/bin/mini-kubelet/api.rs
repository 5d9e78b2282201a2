//! The Kubernetes API over HTTP/1.1 and TLS: one connection for each call, one for each watch.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a call may take.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// How long a watch may be silent: the server ends it before.
const WATCH_LIMIT: Duration = Duration::from_secs(600);

/// How a patch is merged.
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// The API server, and who we are.
pub(crate) struct Api {
    authority: String,
    server_name: ServerName<'static>,
    tls: tokio_rustls::TlsConnector,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("authority", &self.authority).finish_non_exhaustive()
    }
}

/// Events of a watch, a line of JSON each.
pub(crate) struct Watch {
    body: Incoming,
    rest: Vec<u8>,
    _connection: JoinSet<()>,
}

impl Api {
    pub(crate) fn from_kubeconfig(path: &Path) -> Result<Api> {
        let config: Value =
            serde_json::from_slice(&std::fs::read(path)?).context("kubeconfigs of the test bed are JSON")?;
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let pem = |value: &Value| -> Result<Vec<u8>> {
            Ok(STANDARD.decode(value.as_str().context("a field is missing")?)?)
        };
        let server = cluster["server"].as_str().context("no server")?;
        let authority = server.strip_prefix("https://").context("the server must be https")?.to_owned();
        let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host).to_owned();
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem(&cluster["certificate-authority-data"])?) {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&pem(&user["client-certificate-data"])?)
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Api { authority, server_name: ServerName::try_from(host)?, tls: Arc::new(tls).into() })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<(Response<Incoming>, JoinSet<()>)> {
        let stream = TcpStream::connect(&self.authority).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(self.server_name.clone(), stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut task = JoinSet::new();
        task.spawn(async move { drop(connection.await) });
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority)
            .header("accept", "application/json")
            .header("content-type", content_type)
            .body(Full::new(Bytes::from(body)))?;
        Ok((sender.send_request(request).await?, task))
    }

    /// Status and body of the answer.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let call = async {
            let (response, _connection) = self.send(method.clone(), path, content_type, body).await?;
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await?.to_bytes();
            Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
        };
        timeout(CALL_LIMIT, call).await.with_context(|| format!("{method} {path}: no answer"))?
    }

    /// The body of an answer with status 2xx; an error says what the server said.
    async fn good(&self, method: Method, path: &str, kind: &str, body: Option<&Value>) -> Result<Value> {
        let (status, value) = self.call(method.clone(), path, kind, body).await?;
        ensure!((200..300).contains(&status), "{method} {path}: {status} {}", value["message"]);
        Ok(value)
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.good(Method::GET, path, "application/json", None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.good(Method::POST, path, "application/json", Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.good(Method::PATCH, path, STRATEGIC, Some(body)).await
    }

    /// What changes from now on.
    pub(crate) async fn watch(&self, path: &str) -> Result<Watch> {
        let (response, connection) =
            timeout(CALL_LIMIT, self.send(Method::GET, path, "application/json", None)).await??;
        if !response.status().is_success() {
            bail!("GET {path}: {}", response.status());
        }
        Ok(Watch { body: response.into_body(), rest: Vec::new(), _connection: connection })
    }
}

impl Watch {
    /// The next event; nothing when the server has ended the watch.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            let Some(frame) = timeout(WATCH_LIMIT, self.body.frame()).await? else { return Ok(None) };
            if let Ok(data) = frame?.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}
