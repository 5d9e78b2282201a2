//! From a list of addresses to an open channel with the right coordinator.
//!
//! All addresses are tried, the next one a moment after the one before; the first that finishes the
//! whole handshake with the right keys wins. A stranger at one address therefore costs time only.

use super::{ControlConfig, Trust};
use crate::outside_names::OutsideNames;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use meshd_proto::NetworkId;
use meshd_proto::channel::{Channel, ChannelError, Frames, Greeting, Initiator};
use meshd_proto::token::CoordinatorKeys;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

/// An address gets this much of a start before the next one is tried as well.
const STAGGER: Duration = Duration::from_millis(250);
/// One address must have answered the whole handshake by then.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);
/// The host's resolver must have answered by then.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);
/// Sent data that nobody acknowledges for so long ends the connection (Linux TCP_USER_TIMEOUT).
const UNACKED_LIMIT: Duration = Duration::from_secs(20);
/// Longest answer of an HTTP server that we read before we give up.
const MAX_HTTP_HEAD: usize = 8 * 1024;
/// Most socket addresses tried in one round.
const MAX_TARGETS: usize = 16;

/// Why no session could be had at one address.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is nothing to try.
    #[error("no coordinator address is known")]
    NoAddress,
    /// The name has no address.
    #[error("cannot resolve {name}: {source}")]
    Resolve {
        /// The `host:port`.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection failed.
    #[error("{address}: {source}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing came back in time.
    #[error("{0}: no answer within {limit} s", limit = ATTEMPT_LIMIT.as_secs())]
    Slow(SocketAddr),
    /// Somebody answered, but no coordinator.
    #[error("{address}: {answer}; is this the coordinator's address and port?")]
    NotACoordinator {
        /// Where.
        address: SocketAddr,
        /// What came instead.
        answer: String,
    },
    /// A coordinator, but not ours.
    #[error("{0}: this coordinator has other keys than the token or the stored map names; it is not trusted")]
    OtherKeys(SocketAddr),
    /// The handshake broke.
    #[error("{address}: {source}")]
    Channel {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: ChannelError,
    },
}

impl DialError {
    /// The error a person learns most from is reported when all addresses fail.
    const fn weight(&self) -> u8 {
        match self {
            Self::NoAddress => 0,
            Self::Resolve { .. } => 1,
            Self::Slow(_) => 2,
            Self::Io { .. } => 3,
            Self::NotACoordinator { .. } => 4,
            Self::Channel { .. } => 5,
            Self::OtherKeys(_) => 6,
        }
    }
}

/// An open channel and what it runs over.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) channel: Channel,
    pub(super) frames: Frames,
    pub(super) keys: CoordinatorKeys,
    pub(super) address: String,
}

/// Dials, and remembers what names resolved to: a resolver that is down does not cut a node off.
#[derive(Debug)]
pub(super) struct Dialer {
    fwmark: Option<u32>,
    names: OutsideNames,
    resolved: HashMap<String, Vec<SocketAddr>>,
}

impl Dialer {
    pub(super) fn new(fwmark: Option<u32>, names: OutsideNames) -> Self {
        Self { fwmark, names, resolved: HashMap::new() }
    }

    /// Tries `addresses`; the first right coordinator wins.
    pub(super) async fn dial(
        &mut self,
        addresses: &[String],
        config: &ControlConfig,
    ) -> Result<Connection, DialError> {
        let mut worst = DialError::NoAddress;
        let mut targets = Vec::new();
        for name in addresses {
            match self.resolve(name).await {
                Ok(found) => targets.extend(found.into_iter().map(|a| (name.clone(), a))),
                Err(e) => worst = heavier(worst, e),
            }
        }
        targets.truncate(MAX_TARGETS);
        let fwmark = self.fwmark;
        let mut attempts: FuturesUnordered<_> = (0u32..)
            .zip(targets)
            .map(|(i, (name, address))| async move {
                sleep(STAGGER * i).await;
                match timeout(ATTEMPT_LIMIT, attempt(name, address, fwmark, config)).await {
                    Ok(result) => result,
                    Err(_) => Err(DialError::Slow(address)),
                }
            })
            .collect();
        while let Some(result) = attempts.next().await {
            match result {
                Ok(connection) => return Ok(connection),
                Err(e) => worst = heavier(worst, e),
            }
        }
        Err(worst)
    }

    async fn resolve(&mut self, name: &str) -> Result<Vec<SocketAddr>, DialError> {
        if let Ok(literal) = name.parse() {
            return Ok(vec![literal]);
        }
        let failed = |source| DialError::Resolve { name: name.to_owned(), source };
        let answer = match timeout(RESOLVE_LIMIT, self.names.lookup_host(name)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(e)) => Err(failed(e)),
            Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
        };
        match answer {
            Ok(found) => {
                self.resolved.insert(name.to_owned(), found.clone());
                Ok(found)
            }
            Err(e) => self.resolved.get(name).cloned().ok_or(e),
        }
    }
}

fn heavier(a: DialError, b: DialError) -> DialError {
    if b.weight() > a.weight() { b } else { a }
}

async fn attempt(
    name: String,
    address: SocketAddr,
    fwmark: Option<u32>,
    config: &ControlConfig,
) -> Result<Connection, DialError> {
    let io = |source| DialError::Io { address, source };
    let mut stream = connect(address, fwmark).await.map_err(io)?;
    let rest = upgrade(&mut stream, &name, address).await?;
    let mut frames = Frames::handshake();
    frames.push(&rest);
    let broken = |source| DialError::Channel { address, source };
    let greeting = read_frame(&mut stream, &mut frames, address).await?;
    let Greeting(keys) = Greeting::parse(&greeting).map_err(broken)?;
    let (initiator, first) = start(&config.trust, &keys, config, config.network)
        .ok_or(DialError::OtherKeys(address))?
        .map_err(broken)?;
    stream.write_all(&first).await.map_err(io)?;
    let second = read_frame(&mut stream, &mut frames, address).await?;
    let channel = initiator.finish(&second).map_err(broken)?;
    frames.allow_transport();
    Ok(Connection { stream, channel, frames, keys, address: name })
}

/// The first message, only when the keys shown are trusted.
fn start(
    trust: &Trust,
    shown: &CoordinatorKeys,
    config: &ControlConfig,
    network: NetworkId,
) -> Option<Result<(Initiator, Vec<u8>), ChannelError>> {
    trust.accepts(shown).then(|| Initiator::new(&config.machine, &shown.control, network))
}

async fn connect(address: SocketAddr, fwmark: Option<u32>) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(mark) = fwmark {
        socket.set_mark(mark)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(UNACKED_LIMIT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(30)))?;
    TcpSocket::from_std_stream(socket.into()).connect(address).await
}

/// Asks an HTTP/1.1 server for the control protocol; what came behind its answer is the protocol's.
async fn upgrade(stream: &mut TcpStream, name: &str, address: SocketAddr) -> Result<Vec<u8>, DialError> {
    let io = |source| DialError::Io { address, source };
    let request = format!(
        "GET /control HTTP/1.1\r\nHost: {name}\r\nConnection: Upgrade\r\nUpgrade: meshd-control\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(io)?;
    let mut head = Vec::with_capacity(512);
    let end = loop {
        if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        let strange = head.len() > MAX_HTTP_HEAD || (head.len() >= 5 && !head.starts_with(b"HTTP/"));
        if strange {
            return Err(DialError::NotACoordinator { address, answer: "it does not speak HTTP".to_owned() });
        }
        if stream.read_buf(&mut head).await.map_err(io)? == 0 {
            return Err(DialError::NotACoordinator { address, answer: "it hung up".to_owned() });
        }
    };
    let status = head[..end].split(|b| *b == b'\r').next().unwrap_or_default();
    let status =
        String::from_utf8_lossy(status).chars().filter(|c| !c.is_control()).take(60).collect::<String>();
    if status.split(' ').nth(1) == Some("101") {
        return Ok(head.split_off(end + 4));
    }
    Err(DialError::NotACoordinator { address, answer: format!("it answered `{status}`") })
}

async fn read_frame(
    stream: &mut TcpStream,
    frames: &mut Frames,
    address: SocketAddr,
) -> Result<Vec<u8>, DialError> {
    let io = |source| DialError::Io { address, source };
    loop {
        if let Some(body) = frames.next_frame().map_err(|source| DialError::Channel { address, source })? {
            return Ok(body.to_vec());
        }
        let mut buffer = [0; 512];
        let n = stream.read(&mut buffer).await.map_err(io)?;
        if n == 0 {
            return Err(DialError::NotACoordinator { address, answer: "it hung up".to_owned() });
        }
        frames.push(&buffer[..n]);
    }
}
