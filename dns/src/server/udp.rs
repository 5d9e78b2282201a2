//! The UDP loop: one receive, then what else is there up to a bound, then yield. What we know is
//! answered in the loop; what must be asked elsewhere runs beside it, within [`MAX_IN_FLIGHT`].
//!
//! recvmmsg and sendmmsg belong here, and nowhere else.

use super::Audience;
use super::resolve::{Names, Outcome, count};
use super::source::Sources;
use crate::answer::{Answer, reject};
use crate::forward::{Transport, wire};
use crate::query::{ClientQuery, MAX_QUERY, QueryError};
use crate::view::{Decision, View};
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
    audience: Audience,
    shutdown: CancellationToken,
) {
    let socket = Arc::new(socket);
    let mut sources = Sources::default();
    let mut under_way = JoinSet::new();
    // One byte more than we read, so that a longer datagram is seen to be longer.
    let mut buffer = vec![0; MAX_QUERY + 1];
    loop {
        let mut received = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Some(_) = under_way.join_next() => continue,
            received = socket.recv_from(&mut buffer) => received,
        };
        for _ in 0..BURST {
            match received {
                Ok((len, from)) => {
                    if let Some(view) = names.view_for(&audience, from.ip(), |ip| sources.kind(ip)) {
                        handle(&socket, &names, &view, &mut under_way, &buffer[..len], from);
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
}

fn handle(
    socket: &Arc<UdpSocket>,
    names: &Arc<Names>,
    view: &View,
    under_way: &mut JoinSet<()>,
    packet: &[u8],
    from: SocketAddr,
) {
    let query = match ClientQuery::parse(packet) {
        Ok(query) => query,
        Err(error) => {
            count(&names.counters().malformed);
            if let QueryError::Reject { metadata, code } = error {
                send(socket, &reject(&metadata, code), from);
            }
            return;
        }
    };
    match view.decide(&query.name, query.kind(), query.class()) {
        Decision::Answer(answer) => {
            count(&names.counters().answered);
            send(socket, &answer.to_udp(&query), from);
        }
        _ if under_way.len() >= MAX_IN_FLIGHT => {
            count(&names.counters().overloaded);
            send(socket, &Answer::code(ResponseCode::ServFail).to_udp(&query), from);
        }
        elsewhere => {
            let (socket, names, packet) = (Arc::clone(socket), Arc::clone(names), packet.to_vec());
            under_way.spawn(async move {
                let reply = match names.carry_out(elsewhere, &query, &packet, Transport::Udp).await {
                    Outcome::Own(answer) => answer.to_udp(&query),
                    Outcome::Raw(reply) => wire::cut_to(reply, query.question_end, query.udp_limit()),
                };
                send(&socket, &reply, from);
            });
        }
    }
}

/// Sends if the socket takes it now: a client that gets nothing asks again.
fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
    if let Err(error) = socket.try_send_to(reply, to) {
        tracing::trace!(%error, %to, "reply not sent");
    }
}
