//! The UDP loop: what is there in one call, answered and sent in another, up to a bound; then yield. What we
//! know is answered in the loop; what must be asked elsewhere runs beside it, within [`MAX_IN_FLIGHT`].

use super::batch::{Inbox, MESSAGES, Outbox};
use super::gate::Gate;
use super::resolve::{AtOnce, Names, Open, count};
use super::side::Side;
use super::source::Sources;
use crate::answer::Answer;
use crate::clock;
use crate::query::ClientQuery;
use hickory_proto::op::ResponseCode;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Most questions of one listener that wait for upstreams.
const MAX_IN_FLIGHT: usize = 512;
/// Most calls, of up to [`MESSAGES`] questions each, before others get their turn.
const BURST: usize = 2;
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
    let (mut inbox, mut outbox) = (Inbox::default(), Outbox::default());
    loop {
        let ready = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = under_way.join_next() => continue,
            ready = socket.readable() => ready,
        };
        let mut drained = false;
        let mut failed = ready.err();
        for _ in 0..BURST {
            inbox.clear();
            // A call that was not filled has taken all there was: tokio may wait for the kernel's next
            // word at once, without a call that only finds nothing.
            let received = socket.try_io(Interest::READABLE, || {
                inbox.receive(&*socket)?;
                if inbox.count() < MESSAGES { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => drained = true,
                Err(error) => failed = Some(error),
            }
            let now = clock::now();
            for place in 0..inbox.count() {
                let Some((from, packet)) = inbox.question(place) else { continue };
                let Some(side) = gate.side(&names, from.ip(), |ip| sources.kind(ip), now) else { continue };
                let reply = outbox.next();
                let open = match names.at_once(side, packet, reply, now) {
                    AtOnce::Done => None,
                    AtOnce::Refresh(open) => Some((open, false)),
                    AtOnce::Wait(open) => Some((open, true)),
                };
                if !reply.is_empty() {
                    outbox.answers(place);
                }
                if let Some((open, answer)) = open {
                    let client = answer.then_some(from);
                    elsewhere(&socket, &names, side, &mut under_way, open, client, packet);
                }
            }
            outbox.send(&*socket, &inbox);
            if drained || failed.is_some() {
                break;
            }
        }
        if let Some(error) = failed {
            tracing::debug!(%error, "receive error on a name listener");
            tokio::time::sleep(ERROR_PAUSE).await;
        } else if !drained {
            tokio::task::yield_now().await;
        }
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
