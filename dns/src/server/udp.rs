//! The UDP loop: one receive, then what else is there up to a bound, then yield. What we know is
//! answered in the loop; what must be asked elsewhere runs beside it, within [`MAX_IN_FLIGHT`].
//!
//! recvmmsg and sendmmsg belong here, and nowhere else.

use super::gate::Gate;
use super::resolve::{AtOnce, Names, Open, count};
use super::side::Side;
use super::source::Sources;
use crate::answer::Answer;
use crate::clock;
use crate::query::{ClientQuery, MAX_QUERY};
use hickory_proto::op::ResponseCode;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Most questions of one listener that wait for upstreams.
const MAX_IN_FLIGHT: usize = 512;
/// Most datagrams taken before others get their turn.
const BURST: usize = 64;
/// Pause after a receive error, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

pub(super) async fn serve(
    socket: UdpSocket,
    names: Arc<Names>,
    gate: Arc<Gate>,
    shutdown: CancellationToken,
) {
    let socket = Arc::new(socket);
    let mut sources = Sources::default();
    let mut under_way = JoinSet::new();
    // One byte more than we read, so that a longer datagram is seen to be longer.
    let mut buffer = vec![0; MAX_QUERY + 1];
    let mut reply = Vec::new();
    loop {
        let mut received = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = under_way.join_next() => continue,
            received = socket.recv_from(&mut buffer) => received,
        };
        for _ in 0..BURST {
            match received {
                Ok((len, from)) => {
                    let now = clock::now();
                    if let Some(side) = gate.side(&names, from.ip(), |ip| sources.kind(ip), now) {
                        let packet = &buffer[..len];
                        let open = match names.at_once(side, packet, &mut reply) {
                            AtOnce::Done => None,
                            AtOnce::Refresh(open) => Some((open, false)),
                            AtOnce::Wait(open) => Some((open, true)),
                        };
                        if !reply.is_empty() {
                            send(&socket, &reply, from);
                        }
                        if let Some((open, answer)) = open {
                            elsewhere(
                                &socket,
                                &names,
                                side,
                                &mut under_way,
                                open,
                                answer.then_some(from),
                                packet,
                            );
                        }
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!(%error, "receive error on a name listener");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    break;
                }
            }
            received = socket.try_recv_from(&mut buffer);
        }
        tokio::task::yield_now().await;
    }
    // They hold the socket, too: the address is free only when they have ended.
    under_way.shutdown().await;
}

/// Asks upstreams beside the loop; the reply goes to `client`, or only into the cache.
fn elsewhere(
    socket: &Arc<UdpSocket>,
    names: &Arc<Names>,
    side: &Arc<Side>,
    under_way: &mut JoinSet<()>,
    open: Box<Open>,
    client: Option<SocketAddr>,
    packet: &[u8],
) {
    if under_way.len() >= MAX_IN_FLIGHT {
        count(&names.counters().overloaded);
        if let (Some(client), Ok(query)) = (client, ClientQuery::parse(packet)) {
            send(socket, &Answer::code(ResponseCode::ServFail).to_udp(&query), client);
        }
        return;
    }
    let (socket, names, side) = (Arc::clone(socket), Arc::clone(names), Arc::clone(side));
    under_way.spawn(async move {
        let reply = names.in_time(&side, *open, client.map(|c| c.ip())).await;
        if let Some(client) = client {
            send(&socket, &reply, client);
        }
    });
}

/// Sends if the socket takes it now: a client that gets nothing asks again.
fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
    if let Err(error) = socket.try_send_to(reply, to) {
        tracing::trace!(%error, %to, "reply not sent");
    }
}
