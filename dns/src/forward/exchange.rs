//! One question to one upstream, over one new socket.

use super::wire::{self, Reply, Verdict};
use super::{ATTEMPT, Upstream};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

/// Largest reply by UDP or TCP.
const MAX_REPLY: usize = 65_535;
/// Most datagrams read in one attempt that are not the answer.
const MAX_STRAYS: usize = 16;

/// Why an upstream gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("no reply in time")]
    Late,
    #[error("the reply is to another question")]
    NotOurs,
    #[error("the reply changes the letter case of the name")]
    OtherCase,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Asks by UDP. A new socket for each question: the kernel picks a random port, and being connected
/// it takes datagrams from that upstream only and hears of a closed port at once.
pub(crate) async fn over_udp(to: Upstream, question: &[u8], question_end: usize) -> Result<Reply, Failure> {
    let socket = Socket::new(Domain::for_address(to.addr), Type::DGRAM, Some(Protocol::UDP))?;
    mark(&SockRef::from(&socket), to)?;
    socket.set_nonblocking(true)?;
    socket.bind(&any_port(to.addr).into())?;
    socket.connect(&to.addr.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(question).await?;
    let answer = async {
        // Who waits holds no room for a reply: hundreds may, when upstreams are silent.
        socket.readable().await?;
        let mut buffer = vec![0; MAX_REPLY];
        let mut other_case = false;
        for _ in 0..MAX_STRAYS {
            let len = socket.recv(&mut buffer).await?;
            match wire::judge(question, question_end, &buffer[..len]) {
                Verdict::Ours => {
                    buffer.truncate(len);
                    buffer.shrink_to_fit();
                    return Ok(wire::sort(buffer));
                }
                Verdict::OtherCase => {
                    other_case = true;
                    break;
                }
                Verdict::NotOurs => (),
            }
        }
        Err(if other_case { Failure::OtherCase } else { Failure::NotOurs })
    };
    timeout(ATTEMPT, answer).await.unwrap_or(Err(Failure::Late))
}

/// Asks by TCP (RFC 7766). The caller bounds the time over all upstreams; one takes half of it at most.
pub(crate) async fn over_tcp(to: Upstream, question: &[u8], question_end: usize) -> Result<Reply, Failure> {
    let talk = async {
        let socket = if to.addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        mark(&SockRef::from(&socket), to)?;
        let mut stream = socket.connect(to.addr).await?;
        let len = u16::try_from(question.len()).map_err(io::Error::other)?;
        let mut framed = Vec::with_capacity(question.len() + 2);
        framed.extend_from_slice(&len.to_be_bytes());
        framed.extend_from_slice(question);
        stream.write_all(&framed).await?;
        let len = stream.read_u16().await?;
        let mut reply = vec![0; usize::from(len)];
        stream.read_exact(&mut reply).await?;
        match wire::judge(question, question_end, &reply) {
            // Nobody off the path can write into the connection: the letter case proves nothing more.
            Verdict::Ours | Verdict::OtherCase => Ok(wire::sort(reply)),
            Verdict::NotOurs => Err(Failure::NotOurs),
        }
    };
    timeout(super::TOTAL / 2, talk).await.unwrap_or(Err(Failure::Late))
}

fn mark(socket: &SockRef<'_>, to: Upstream) -> io::Result<()> {
    to.mark.map_or(Ok(()), |mark| socket.set_mark(mark))
}

fn any_port(like: SocketAddr) -> SocketAddr {
    match like.ip() {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}
