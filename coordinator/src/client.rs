//! The command line's way to a running coordinator: the API over its unix socket.

use crate::api::ProblemBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Largest answer that is read.
const MAX_ANSWER: usize = 1 << 30;
/// How long an answer may take; a backup of a large mesh takes the longest.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a request had no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("cannot reach the coordinator at {socket}: {source}")]
    NotRunning {
        /// Where it should listen.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The coordinator refused.
    #[error("{}", .0.detail)]
    Refused(Box<ProblemBody>),
    /// The answer could not be read.
    #[error("the coordinator's answer cannot be read: {0}")]
    Answer(String),
}

/// A way to a coordinator.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Talks to the coordinator on that socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// GET, with a JSON answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parse(&self.send(Method::GET, path, None).await?)
    }

    /// POST without a body, with an answer of bytes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn fetch(&self, path: &str) -> Result<Bytes, ClientError> {
        self.send(Method::POST, path, None).await
    }

    /// A request with a JSON body and a JSON answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        parse(&self.send(method, path, Some(encode(body)?)).await?)
    }

    /// A request whose answer says only that it is done.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn act(&self, method: Method, path: &str, body: &impl Serialize) -> Result<(), ClientError> {
        self.send(method, path, Some(encode(body)?)).await.map(|_| ())
    }

    async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Bytes, ClientError> {
        let answer = |e: &dyn std::fmt::Display| ClientError::Answer(e.to_string());
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::NotRunning { socket: self.socket.clone(), source })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| answer(&e))?;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "coordinator");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request =
            request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(|e| answer(&e))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| answer(&e))?;
            let status = response.status();
            let collected = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok::<_, ClientError>((status, collected.map_err(|e| answer(&e))?.to_bytes()))
        };
        let driven = async {
            // The connection ends when the exchange is done; its own error is the exchange's.
            tokio::pin!(exchange);
            tokio::select! {
                done = &mut exchange => done,
                _ = connection => exchange.await,
            }
        };
        let (status, bytes) =
            tokio::time::timeout(PATIENCE, driven).await.map_err(|_| answer(&"it took too long"))??;
        if status.is_success() { Ok(bytes) } else { Err(refusal(status, &bytes)) }
    }
}

fn encode(body: &impl Serialize) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(body).map_err(|e| ClientError::Answer(e.to_string()))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|e| {
        ClientError::Answer(format!("{e}; are command and running coordinator of the same version?"))
    })
}

fn refusal(status: StatusCode, bytes: &[u8]) -> ClientError {
    match serde_json::from_slice(bytes) {
        Ok(problem) => ClientError::Refused(Box::new(problem)),
        Err(_) => {
            let text: String =
                String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(200).collect();
            ClientError::Answer(format!("{status} {text}"))
        }
    }
}

/// A text as one segment of a path (RFC 3986 §2.3: what is not unreserved is escaped).
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
