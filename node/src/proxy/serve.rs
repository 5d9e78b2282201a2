//! The listener: accepts clients, reads their request, dials, joins the two streams.

use super::http::{self, Head, HeadError};
use super::socks_udp;
use super::socks5::{self, Command, Parsed, Reply, SocksError};
use crate::userspace::{DialError, Dialed, Dialer, Target};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

/// Clients at once.
const MAX_CLIENTS: usize = 512;
/// How long a client may take to say what it wants.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long finding and reaching the target may take.
const DIAL_LIMIT: Duration = Duration::from_secs(25);
/// Bytes under way in each direction.
const BUFFER: usize = 64 << 10;
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SOCKS5.
    Socks5,
    /// HTTP.
    Http,
}

/// A user and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// From `user:password` in the first line of `text`.
    ///
    /// # Errors
    /// When there is no colon, or a part is empty or longer than SOCKS5 can say.
    pub fn parse(text: &str) -> Result<Self, BadProxy> {
        let line = text.lines().next().unwrap_or_default();
        let (user, password) = line.split_once(':').ok_or(BadProxy::Credentials)?;
        let fits = |part: &str| (1..=255).contains(&part.len());
        if !fits(user) || !fits(password) {
            return Err(BadProxy::Credentials);
        }
        Ok(Self { user: Zeroizing::new(user.to_owned()), password: Zeroizing::new(password.to_owned()) })
    }

    fn fit(&self, user: &[u8], password: &[u8]) -> bool {
        let user = self.user.as_bytes().ct_eq(user);
        (user & self.password.as_bytes().ct_eq(password)).into()
    }

    fn fit_basic(&self, basic: &[u8]) -> bool {
        let decoded = Zeroizing::new(STANDARD.decode(basic).unwrap_or_default());
        let colon = decoded.iter().position(|b| *b == b':');
        colon.is_some_and(|at| self.fit(&decoded[..at], &decoded[at + 1..]))
    }
}

/// Where a proxy listens and for whom. Made by [`ProxyConfig::new`] only: what is not allowed is no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    kind: Kind,
    listen: SocketAddr,
    credentials: Option<Credentials>,
}

/// Why a proxy is not started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadProxy {
    /// Not on loopback.
    #[error(
        "{0} can be reached from other machines: a proxy there needs --proxy-listen-any and \
         --proxy-credentials FILE"
    )]
    NotLoopback(SocketAddr),
    /// The file of credentials.
    #[error("the credentials are not one line `user:password`, with 1 to 255 bytes each")]
    Credentials,
}

impl ProxyConfig {
    /// `any`: the user said in words that other machines may reach it.
    ///
    /// # Errors
    /// When other machines could reach it and nobody said so, or it would serve them without a password.
    pub fn new(
        kind: Kind,
        listen: SocketAddr,
        any: bool,
        credentials: Option<Credentials>,
    ) -> Result<Self, BadProxy> {
        if !listen.ip().is_loopback() && (!any || credentials.is_none()) {
            return Err(BadProxy::NotLoopback(listen));
        }
        Ok(Self { kind, listen, credentials })
    }

    /// Which proxy.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it listens.
    pub const fn listen(&self) -> SocketAddr {
        self.listen
    }
}

/// A running proxy. Dropping it ends it and its clients.
#[derive(Debug)]
pub struct Proxy {
    kind: Kind,
    addr: SocketAddr,
    _task: JoinSet<()>,
    refused: Arc<AtomicU64>,
}

impl Proxy {
    /// Listens and serves.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn start(config: &ProxyConfig, dialer: Dialer) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let addr = listener.local_addr()?;
        let refused = Arc::new(AtomicU64::new(0));
        let service = Service {
            dialer,
            credentials: config.credentials.clone().map(Arc::new),
            // Somebody from another machine must not get at services of this one, or at its LAN.
            outside: config.listen.ip().is_loopback(),
        };
        let mut task = JoinSet::new();
        task.spawn(accept(listener, config.kind, service, Arc::clone(&refused)));
        Ok(Self { kind: config.kind, addr, _task: task, refused })
    }

    /// Where it listens; port 0 has become a real one.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Which one it is.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Clients that came when too many were there.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
pub(super) struct Service {
    pub(super) dialer: Dialer,
    credentials: Option<Arc<Credentials>>,
    pub(super) outside: bool,
}

async fn accept(listener: TcpListener, kind: Kind, service: Service, refused: Arc<AtomicU64>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if clients.len() < MAX_CLIENTS => {
                    let service = service.clone();
                    clients.spawn(async move {
                        let served = match kind {
                            Kind::Socks5 => service.socks5(stream).await,
                            Kind::Http => service.http(stream).await,
                        };
                        if let Err(error) = served {
                            tracing::debug!(%error, "a proxy client was not served");
                        }
                    });
                }
                Ok(_) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    tracing::warn!(%error, "the proxy cannot accept clients for a moment");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

fn bad(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What a client has sent and nobody has read yet.
struct Incoming {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Incoming {
    /// Reads until `parse` has a whole message, which is at most `limit` bytes long.
    async fn message<T>(
        &mut self,
        limit: usize,
        parse: impl Fn(&[u8]) -> Result<Parsed<T>, SocksError>,
    ) -> io::Result<T> {
        loop {
            if let Parsed::Done(message, len) = parse(&self.bytes).map_err(bad)? {
                self.bytes.drain(..len);
                return Ok(message);
            }
            self.more(limit).await?;
        }
    }

    async fn more(&mut self, limit: usize) -> io::Result<()> {
        let mut room = [0; 1024];
        let len = self.stream.read(&mut room).await?;
        if len == 0 || self.bytes.len() > limit {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.extend_from_slice(&room[..len]);
        Ok(())
    }
}

impl Service {
    async fn dial(&self, target: &Target) -> Result<Dialed, DialError> {
        tokio::time::timeout(DIAL_LIMIT, self.dialer.dial(target, self.outside))
            .await
            .unwrap_or_else(|_| Err(DialError::NoAnswer(target.to_string(), "it took too long".to_owned())))
    }

    async fn socks5(self, stream: TcpStream) -> io::Result<()> {
        let mut client = Incoming { stream, bytes: Vec::new() };
        let asked = tokio::time::timeout(REQUEST_LIMIT, self.negotiate(&mut client)).await;
        let Some(request) = asked.map_err(|_| io::ErrorKind::TimedOut)?? else { return Ok(()) };
        match request.command {
            Some(Command::Connect) => match self.dial(&request.target).await {
                Ok(there) => {
                    let bound = there.local_addr().unwrap_or(NOWHERE);
                    client.stream.write_all(&Reply::Succeeded.message(bound)).await?;
                    join(client, there).await
                }
                Err(error) => {
                    tracing::debug!(%error, "SOCKS5");
                    let reply = Reply::of(error.kind());
                    client.stream.write_all(&reply.message(NOWHERE)).await
                }
            },
            Some(Command::UdpAssociate) => socks_udp::associate(self, client.stream).await,
            None => client.stream.write_all(&Reply::CommandNotSupported.message(NOWHERE)).await,
        }
    }

    /// Up to the request. `None`: refused and told so.
    async fn negotiate(&self, client: &mut Incoming) -> io::Result<Option<socks5::Request>> {
        let methods = client.message(socks5::LONGEST, socks5::greeting).await?;
        let method = if self.credentials.is_some() { socks5::PASSWORD } else { socks5::NO_AUTH };
        if !methods.contains(&method) {
            client.stream.write_all(&[5, socks5::NO_METHOD]).await?;
            return Ok(None);
        }
        client.stream.write_all(&[5, method]).await?;
        if let Some(credentials) = &self.credentials {
            let (user, password) = client.message(socks5::LONGEST, socks5::password).await?;
            let password = Zeroizing::new(password);
            let fit = credentials.fit(&user, &password);
            client.stream.write_all(&[1, u8::from(!fit)]).await?;
            if !fit {
                return Ok(None);
            }
        }
        match client.message(socks5::LONGEST, socks5::request).await {
            Ok(request) => Ok(Some(request)),
            Err(error) => {
                let reply = match error.get_ref().and_then(|e| e.downcast_ref()) {
                    Some(SocksError::AddressType(_)) => Reply::AddressTypeNotSupported,
                    _ => Reply::GeneralFailure,
                };
                client.stream.write_all(&reply.message(NOWHERE)).await?;
                Err(error)
            }
        }
    }

    async fn http(self, stream: TcpStream) -> io::Result<()> {
        let mut client = Incoming { stream, bytes: Vec::new() };
        let head = match tokio::time::timeout(REQUEST_LIMIT, read_head(&mut client)).await {
            Ok(Ok(head)) => head?,
            Ok(Err(error)) => {
                return answer(&mut client.stream, error.status(), "", &error.to_string()).await;
            }
            Err(_) => return answer(&mut client.stream, "408 Request Timeout", "", "too slow").await,
        };
        if let Some(credentials) = &self.credentials
            && !head.basic.as_deref().is_some_and(|basic| credentials.fit_basic(basic))
        {
            let realm = "Proxy-Authenticate: Basic realm=\"meshd\"\r\n";
            let status = "407 Proxy Authentication Required";
            return answer(&mut client.stream, status, realm, "a user and a password are needed").await;
        }
        client.bytes.drain(..head.len);
        match self.dial(&head.target).await {
            Ok(there) => {
                if let Some(rewritten) = head.rewritten {
                    client.bytes.splice(..0, rewritten);
                } else {
                    client.stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
                }
                join(client, there).await
            }
            Err(error) => {
                tracing::debug!(%error, "HTTP proxy");
                answer(&mut client.stream, status_of(&error), "", &error.to_string()).await
            }
        }
    }
}

/// The outer error is the client's, the inner one the connection's.
async fn read_head(client: &mut Incoming) -> Result<io::Result<Head>, HeadError> {
    loop {
        if let Some(head) = http::head(&client.bytes)? {
            return Ok(Ok(head));
        }
        if let Err(error) = client.more(http::MAX_HEAD).await {
            return Ok(Err(error));
        }
    }
}

fn status_of(error: &DialError) -> &'static str {
    match error.kind() {
        io::ErrorKind::TimedOut => "504 Gateway Timeout",
        io::ErrorKind::PermissionDenied => "403 Forbidden",
        io::ErrorKind::NotConnected | io::ErrorKind::QuotaExceeded => "503 Service Unavailable",
        _ => "502 Bad Gateway",
    }
}

async fn answer(stream: &mut TcpStream, status: &str, fields: &str, why: &str) -> io::Result<()> {
    let text = format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{why}\n",
        why.len() + 1
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    // What the client still sends would make our close a reset, and the answer unread.
    let mut room = [0; 1024];
    let drain = async { while stream.read(&mut room).await.is_ok_and(|len| len > 0) {} };
    let _ = tokio::time::timeout(Duration::from_secs(1), drain).await;
    Ok(())
}

async fn join(client: Incoming, mut there: Dialed) -> io::Result<()> {
    let Incoming { mut stream, bytes } = client;
    let _ = stream.set_nodelay(true);
    there.write_all(&bytes).await?;
    drop(bytes);
    if let Err(error) = copy_bidirectional_with_sizes(&mut stream, &mut there, BUFFER, BUFFER).await {
        there.abort();
        // Linger 0: close sends a reset, so that half of an answer is not taken for a whole one.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_others_can_reach_needs_words_and_a_password() {
        let anywhere: SocketAddr = "0.0.0.0:1080".parse().unwrap();
        let loopback: SocketAddr = "[::1]:1080".parse().unwrap();
        let credentials = Credentials::parse("me:x:y\n").unwrap();
        let make = |at, any, c: Option<&Credentials>| ProxyConfig::new(Kind::Socks5, at, any, c.cloned());
        assert!(make(loopback, false, None).is_ok());
        assert!(make(anywhere, true, Some(&credentials)).is_ok());
        assert_eq!(make(anywhere, true, None), Err(BadProxy::NotLoopback(anywhere)));
        assert_eq!(make(anywhere, false, Some(&credentials)), Err(BadProxy::NotLoopback(anywhere)));
        assert!(credentials.fit(b"me", b"x:y") && !credentials.fit(b"me", b"x"));
        assert!(credentials.fit_basic(b"bWU6eDp5") && !credentials.fit_basic(b"bWU6eA=="));
        for bad in ["", "nocolon", ":x", "me:"] {
            assert_eq!(Credentials::parse(bad), Err(BadProxy::Credentials), "{bad}");
        }
        assert_eq!(format!("{credentials:?}"), "Credentials");
    }
}
