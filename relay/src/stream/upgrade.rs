//! The HTTP/1.1 heads in front of a protocol of ours: a request to upgrade to it, or to WebSocket, and the
//! answer. One path for each protocol, so one port and one reverse proxy serve them all.

use super::websocket::{Role, WebSocket};
use super::{BoxIo, Io};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// A protocol behind an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Where it is asked for.
    pub path: &'static str,
    /// Its name in `Upgrade`.
    pub name: &'static str,
}

/// Nodes to their coordinator.
pub const CONTROL: Protocol = Protocol { path: "/control", name: "meshd-control" };
/// Nodes to a relay.
pub const RELAY: Protocol = Protocol { path: "/relay", name: "meshd-relay" };

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// An upgrade to the protocol itself: no framing, but a proxy must pass any upgrade.
    Upgrade,
    /// The protocol inside WebSocket, which reverse proxies know.
    WebSocket,
}

/// Why there was no upgrade.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It ended before an answer.
    #[error("it hung up")]
    HungUp,
    /// Not HTTP.
    #[error("it does not speak HTTP")]
    NotHttp,
    /// HTTP, but no.
    #[error("it answered `{0}`")]
    Status(String),
    /// WebSocket, but not for this request.
    #[error("its answer is not that of a WebSocket server")]
    NotWebSocket,
}

/// Longest head that is read.
const MAX_HEAD: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
/// RFC 6455 §1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The answer to a `Sec-WebSocket-Key`.
pub fn websocket_accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key.trim()).chain_update(GUID).finalize())
}

/// Asks the server behind `io` for `protocol`.
///
/// # Errors
/// Says what came instead.
pub async fn request<S: Io + 'static>(
    mut io: S,
    host: &str,
    protocol: Protocol,
    form: Form,
) -> Result<BoxIo, UpgradeError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|e| io::Error::other(e.to_string()))?;
    let key = STANDARD.encode(nonce);
    let asks = match form {
        Form::Upgrade => format!("Upgrade: {}\r\n", protocol.name),
        Form::WebSocket => {
            format!("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n")
        }
    };
    let head = format!("GET {} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n{asks}\r\n", protocol.path);
    io.write_all(head.as_bytes()).await?;
    io.flush().await?;
    let (head, rest) = read_head(&mut io, b"HTTP/").await?;
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(&head).map_err(|_| UpgradeError::NotHttp)?;
    if response.code != Some(101) {
        return Err(UpgradeError::Status(status_line(&head)));
    }
    match form {
        Form::Upgrade => Ok(Box::new(Prefixed { early: rest, io })),
        Form::WebSocket => {
            let accepted = header(response.headers, "sec-websocket-accept").map(str::trim);
            if accepted != Some(websocket_accept(&key).as_str()) {
                return Err(UpgradeError::NotWebSocket);
            }
            Ok(Box::new(WebSocket::new(io, Role::Client, rest)))
        }
    }
}

/// Asks the HTTP proxy behind `io` for a tunnel to `target` (RFC 9110 §9.3.6). What comes back is the
/// connection to it.
///
/// # Errors
/// Says what the proxy answered.
pub async fn connect<S: Io + 'static>(
    mut io: S,
    target: &str,
    authorization: Option<&str>,
) -> Result<BoxIo, UpgradeError> {
    let authorization = authorization.map(|a| format!("Proxy-Authorization: {a}\r\n")).unwrap_or_default();
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
    io.write_all(head.as_bytes()).await?;
    io.flush().await?;
    let (head, rest) = read_head(&mut io, b"HTTP/").await?;
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(&head).map_err(|_| UpgradeError::NotHttp)?;
    match response.code {
        Some(200..=299) => Ok(Box::new(Prefixed { early: rest, io })),
        _ => Err(UpgradeError::Status(status_line(&head))),
    }
}

/// Answers one request for `protocol`, in either form; anything else gets a short refusal.
///
/// # Errors
/// When it was not asked for, or the connection broke.
pub async fn accept<S: Io + 'static>(mut io: S, protocol: Protocol) -> Result<BoxIo, UpgradeError> {
    let (head, rest) = read_head(&mut io, b"").await?;
    let asked = asked_for(&head, protocol);
    let answer = match &asked {
        Some((Form::Upgrade, _)) => format!("Upgrade: {}\r\n", protocol.name),
        Some((Form::WebSocket, accept)) => {
            format!("Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n")
        }
        None => {
            let body = "a relay of a mesh; nothing to see here\n";
            let answer = format!(
                "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            io.write_all(answer.as_bytes()).await?;
            io.shutdown().await?;
            return Err(UpgradeError::NotHttp);
        }
    };
    let answer = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{answer}\r\n");
    io.write_all(answer.as_bytes()).await?;
    io.flush().await?;
    Ok(match asked {
        Some((Form::WebSocket, _)) => Box::new(WebSocket::new(io, Role::Server, rest)),
        Some((Form::Upgrade, _)) | None => Box::new(Prefixed { early: rest, io }),
    })
}

/// Which form a request asks for, with what a WebSocket client expects in the answer.
fn asked_for(head: &[u8], protocol: Protocol) -> Option<(Form, String)> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(head).ok()?;
    if request.method != Some("GET") || request.path != Some(protocol.path) {
        return None;
    }
    let wanted = header(request.headers, "upgrade")?;
    let asks = |name: &str| wanted.split(',').any(|p| p.trim().eq_ignore_ascii_case(name));
    if asks(protocol.name) {
        return Some((Form::Upgrade, String::new()));
    }
    let key = header(request.headers, "sec-websocket-key")?;
    asks("websocket").then(|| (Form::WebSocket, websocket_accept(key)))
}

fn header<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(found.value).ok()
}

/// Reads a head that begins with `begin` up to the empty line; what came behind it as well.
async fn read_head<S: AsyncRead + Unpin>(
    io: &mut S,
    begin: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), UpgradeError> {
    let mut head = Vec::with_capacity(512);
    loop {
        if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = head.split_off(end + 4);
            return Ok((head, rest));
        }
        // A TLS alert, or a banner of something else: no reason to wait for more.
        let strange = head.first().is_some_and(|b| !b.is_ascii_uppercase())
            || head.iter().zip(begin).any(|(got, expected)| got != expected);
        if head.len() > MAX_HEAD || strange {
            return Err(UpgradeError::NotHttp);
        }
        if io.read_buf(&mut head).await? == 0 {
            return Err(UpgradeError::HungUp);
        }
    }
}

fn status_line(head: &[u8]) -> String {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).take(60).collect()
}

/// A stream some of which was read already.
struct Prefixed<S> {
    early: Vec<u8>,
    io: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, out);
        }
        let n = this.early.len().min(out.remaining());
        out.put_slice(&this.early[..n]);
        this.early.drain(..n);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
