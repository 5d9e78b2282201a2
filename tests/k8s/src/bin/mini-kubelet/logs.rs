//! The kubelet's port: `kubectl logs` comes here by way of the API server.
//!
//! A test bed: any client that reaches the port may read logs. Nothing can be changed here.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::STATE;

/// The port that all kubelets have.
pub(crate) const PORT: u16 = 10250;
const CHUNK: usize = 64 << 10;

type Body = BoxBody<Bytes, Infallible>;

/// The file of one run of a container.
pub(crate) fn path(uid: &str, container: &str, restarts: u32) -> PathBuf {
    Path::new(STATE).join(uid).join("logs").join(format!("{container}.{restarts}.log"))
}

/// Serves for ever.
pub(crate) async fn serve() -> Result<()> {
    let made = rcgen::generate_simple_self_signed(vec!["kubelet".to_owned()])?;
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("::", PORT)).await.context("the kubelet's port is taken")?;
    let mut tasks = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tasks.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper::service::service_fn(async |request| answer(&request));
            let http = hyper::server::conn::http1::Builder::new();
            drop(http.serve_connection(TokioIo::new(stream), service).await);
        });
        while tasks.try_join_next().is_some() {}
    }
}

fn answer(request: &Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let parts: Vec<&str> = request.uri().path().split('/').filter(|part| !part.is_empty()).collect();
    let query: HashMap<&str, &str> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .collect();
    let (status, body) = match parts[..] {
        ["healthz"] => (StatusCode::OK, say("ok")),
        ["containerLogs", namespace, pod, container] => {
            match find(namespace, pod, container, query.get("previous") == Some(&"true")) {
                Some(log) => {
                    let tail = query.get("tailLines").and_then(|n| n.parse().ok());
                    (StatusCode::OK, stream_of(log, query.get("follow") == Some(&"true"), tail))
                }
                None => (StatusCode::NOT_FOUND, say("no log of this container\n")),
            }
        }
        _ => (StatusCode::NOT_FOUND, say("a test kubelet has /containerLogs and /healthz only\n")),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    Ok(response)
}

fn say(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes())).boxed()
}

/// The log of the last run of a container, or of the one before.
fn find(namespace: &str, pod: &str, container: &str, previous: bool) -> Option<PathBuf> {
    let wanted = format!("{namespace}\n{pod}\n");
    let folders = std::fs::read_dir(STATE).ok()?.flatten();
    let folder = folders
        .map(|f| f.path())
        .find(|f| std::fs::read_to_string(f.join("pod")).is_ok_and(|t| t == wanted))?;
    let uid = folder.file_name()?.to_str()?.to_owned();
    let last = (0..).take_while(|n| path(&uid, container, *n).exists()).last()?;
    let number = if previous { last.checked_sub(1)? } else { last };
    Some(path(&uid, container, number))
}

/// What is in the file from the last `tail` lines on, and what comes when the reader wants to follow. The end of a
/// followed log is seen when its file is removed or the container's next run begins.
fn stream_of(log: PathBuf, follow: bool, tail: Option<usize>) -> Body {
    let Ok(mut file) = File::open(&log) else { return say("") };
    if let Some(lines) = tail {
        let mut all = Vec::new();
        let _ = file.read_to_end(&mut all);
        let body = all.strip_suffix(b"\n").unwrap_or(&all);
        let ends: Vec<usize> =
            body.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
        let start = if lines == 0 { all.len() } else { ends.len().checked_sub(lines).map_or(0, |n| ends[n]) };
        let _ = file.seek(SeekFrom::Start(start as u64));
    }
    let next = move |(mut file, log): (File, PathBuf)| async move {
        loop {
            let mut buffer = vec![0; CHUNK];
            match file.read(&mut buffer) {
                Ok(0) if follow && log.exists() && !log.with_extension("ended").exists() => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(0) | Err(_) => return None,
                Ok(n) => {
                    buffer.truncate(n);
                    return Some((Ok(Frame::data(Bytes::from(buffer))), (file, log)));
                }
            }
        }
    };
    BodyExt::boxed(StreamBody::new(Box::pin(stream::unfold((file, log), next)) as SyncStream))
}

type SyncStream =
    std::pin::Pin<Box<dyn stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync>>;
