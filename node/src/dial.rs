//! One way to reach a coordinator or a relay from anywhere.
//!
//! Where the straight way is closed, something else mostly is open: TLS on 443, a proxy that grants CONNECT,
//! a reverse proxy that passes WebSocket only. All of them are tried, the next one a moment after the one
//! before or as soon as that has failed; the first that is right wins and is tried first next time.
//!
//! **Certificates are not checked, on purpose.** TLS here only gets us past middleboxes. Who the coordinator
//! is says the key in the join token (Noise IK inside), who the relay is says the map (Diffie-Hellman with
//! its key, and what it carries is sealed for the peer). So a self-made certificate, an expired one or that
//! of an intercepting proxy changes nothing: the proxy sees what any router on the way sees. Nothing secret
//! may ever be sent through [`Dialer::open`] that relies on TLS.
//!
//! Invariants: a stranger at one address costs time only; the number of attempts and their time are bounded;
//! sockets carry the mark that keeps them out of the tunnel; a proxy's password is never logged.

mod plan;
mod proxy;
mod tls;

pub use plan::{Target, Way};
pub use proxy::{BadProxy, Proxy};

use crate::clock;
use crate::outside_names::OutsideNames;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use meshd_relay::stream::BoxIo;
use meshd_relay::stream::upgrade::{self, Protocol, UpgradeError};
use socket2::{Domain, Protocol as IpProtocol, Socket, TcpKeepalive, Type};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// An attempt gets this much of a start before the next one is made as well.
const STAGGER: Duration = Duration::from_millis(250);
/// One attempt must have come to its end by then.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);
/// The host's resolver must have answered by then.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);
/// Sent data that nobody acknowledges for so long ends the connection (Linux TCP_USER_TIMEOUT).
const UNACKED_LIMIT: Duration = Duration::from_secs(20);
/// Most attempts in one round.
const MAX_ATTEMPTS: usize = 48;

/// Why nothing could be had by one way, or by any.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is nothing to try.
    #[error("no address is known")]
    NoAddress,
    /// The name has no address.
    #[error("cannot resolve {name}: {source}")]
    Resolve {
        /// The `host:port`.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The connection failed.
    #[error("{at}: {source}")]
    Io {
        /// Where, and by which way.
        at: String,
        /// Why.
        source: io::Error,
    },
    /// Nothing came back in time.
    #[error("{0}: no answer within {limit} s", limit = ATTEMPT_LIMIT.as_secs())]
    Slow(String),
    /// The proxy did not let us through.
    #[error("{at}: the proxy {why}")]
    Proxy {
        /// Which way.
        at: String,
        /// What it said.
        why: UpgradeError,
    },
    /// Somebody answered, but not who we want.
    #[error("{at}: {why}; is this the right address and port?")]
    Stranger {
        /// Which way.
        at: String,
        /// What came instead.
        why: UpgradeError,
    },
    /// A coordinator, but not ours.
    #[error("{0}: this coordinator has other keys than the token or the stored map names; it is not trusted")]
    OtherKeys(String),
    /// The handshake inside broke.
    #[error("{at}: {why}")]
    Handshake {
        /// Which way.
        at: String,
        /// Why.
        why: String,
    },
}

impl DialError {
    /// The error a person learns most from is reported when everything fails.
    const fn weight(&self) -> u8 {
        match self {
            Self::NoAddress => 0,
            Self::Slow(_) => 1,
            Self::Io { .. } => 2,
            Self::Resolve { .. } => 3,
            Self::Stranger { .. } => 4,
            Self::Proxy { .. } => 5,
            Self::Handshake { .. } => 6,
            Self::OtherKeys(_) => 7,
        }
    }
}

/// Dials, and remembers what names resolved to (a resolver that is down does not cut a node off) and which
/// way worked.
#[derive(Clone, Debug)]
pub struct Dialer {
    fwmark: Option<u32>,
    proxy: Option<Proxy>,
    names: OutsideNames,
    resolved: HashMap<String, Vec<SocketAddr>>,
    worked: Option<(Target, Way)>,
}

impl Dialer {
    /// A dialer whose sockets carry `fwmark`, which may go through `proxy`, and resolves by `names`.
    pub fn new(fwmark: Option<u32>, proxy: Option<Proxy>, names: OutsideNames) -> Self {
        Self { fwmark, proxy, names, resolved: HashMap::new(), worked: None }
    }

    /// The way that worked last.
    pub fn worked(&self) -> Option<&Way> {
        self.worked.as_ref().map(|(_, way)| way)
    }

    /// Asks those behind `names` (`host:port`, in order) for `protocol`, by every way. `finish` is what makes
    /// an answer the right one; the first that it accepts wins. Also returns the name that it was.
    ///
    /// # Errors
    /// The most telling of all failures.
    pub async fn open<T, F, Fut>(
        &mut self,
        names: &[String],
        protocol: Protocol,
        finish: F,
    ) -> Result<(T, String), DialError>
    where
        F: Fn(BoxIo, String) -> Fut,
        Fut: Future<Output = Result<T, DialError>>,
    {
        let mut worst = DialError::NoAddress;
        let mut targets = Vec::new();
        for name in names {
            if self.proxy.as_ref().is_some_and(|p| p.serves(name)) {
                targets.push(Target::through_proxy(name));
            }
            match self.resolve(name).await {
                Ok(found) => targets.extend(found.into_iter().map(|at| Target::direct(name, at))),
                Err(e) => worst = heavier(worst, e),
            }
        }
        let proxy_at = match &self.proxy {
            Some(proxy) if targets.iter().any(Target::is_through_proxy) => {
                let address = proxy.address().to_owned();
                match self.resolve(&address).await {
                    Ok(found) => found.first().copied(),
                    Err(e) => {
                        worst = heavier(worst, e);
                        None
                    }
                }
            }
            _ => None,
        };
        let mut waiting = plan::attempts(targets, self.worked.as_ref());
        waiting.truncate(MAX_ATTEMPTS);
        let mut waiting = waiting.into_iter();
        let this = &*self;
        let finish = &finish;
        let mut running = FuturesUnordered::new();
        let won = loop {
            let next = waiting.next();
            let idle = next.is_none();
            if let Some((target, way)) = next {
                running.push(async move {
                    let at = way.describe(&target);
                    let attempt = async {
                        let io = this.attempt(&target, way, proxy_at, protocol).await?;
                        finish(io, at.clone()).await
                    };
                    match timeout(ATTEMPT_LIMIT, attempt).await {
                        Ok(Ok(won)) => Ok((won, target, way)),
                        Ok(Err(e)) => Err(e),
                        Err(_) => Err(DialError::Slow(at)),
                    }
                });
            }
            // The next attempt follows after the pause, or as soon as one has failed.
            let pause = clock::timer_now() + STAGGER;
            let ended = tokio::select! {
                ended = running.next() => ended,
                () = tokio::time::sleep_until(pause), if !idle => continue,
            };
            match ended {
                Some(Ok(won)) => break Some(won),
                Some(Err(e)) => worst = heavier(worst, e),
                None => break None,
            }
        };
        drop(running);
        let Some((won, target, way)) = won else { return Err(worst) };
        let name = target.name().to_owned();
        self.worked = Some((target, way));
        Ok((won, name))
    }

    async fn attempt(
        &self,
        target: &Target,
        way: Way,
        proxy_at: Option<SocketAddr>,
        protocol: Protocol,
    ) -> Result<BoxIo, DialError> {
        let at = || way.describe(target);
        let io = |source| DialError::Io { at: at(), source };
        let mut stream: BoxIo = match target.address() {
            Some(address) => Box::new(connect(address, self.fwmark).await.map_err(io)?),
            None => {
                let (Some(proxy), Some(address)) = (&self.proxy, proxy_at) else {
                    return Err(DialError::NoAddress);
                };
                let stream = connect(address, self.fwmark).await.map_err(io)?;
                upgrade::connect(stream, target.name(), proxy.authorization())
                    .await
                    .map_err(|why| DialError::Proxy { at: at(), why })?
            }
        };
        if way.tls {
            stream = Box::new(tls::connect(stream, target.host()).await.map_err(io)?);
        }
        upgrade::request(stream, target.name(), protocol, way.form)
            .await
            .map_err(|why| DialError::Stranger { at: at(), why })
    }

    async fn resolve(&mut self, name: &str) -> Result<Vec<SocketAddr>, DialError> {
        if let Ok(literal) = name.parse() {
            return Ok(vec![literal]);
        }
        let failed = |source| DialError::Resolve { name: name.to_owned(), source };
        let answer = match timeout(RESOLVE_LIMIT, self.names.lookup_host(name)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(e)) => Err(failed(e)),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
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

async fn connect(address: SocketAddr, fwmark: Option<u32>) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(IpProtocol::TCP))?;
    if let Some(mark) = fwmark {
        socket.set_mark(mark)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(UNACKED_LIMIT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(30)))?;
    TcpSocket::from_std_stream(socket.into()).connect(address).await
}

#[cfg(test)]
mod tests;
