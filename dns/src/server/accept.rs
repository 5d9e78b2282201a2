//! TCP connections, accepted by us and carried by hickory-server's parts: its framing, its wait for a
//! silent client, its reader of requests and writer of replies, with our lookup as the handler.
//!
//! hickory's own listener accepts whoever comes and hands out no connection, so it could not be bounded
//! without hiding from it who asks. Here a connection has one of [`MAX_CONNECTIONS`] places of its listener;
//! of those, others than this host have [`MAX_OTHERS`] together and [`MAX_FROM_ONE`] from one address (of IPv6: from one /64). What
//! is beyond is closed before anything is read, and counted; what is open stays.

use super::pace::asker;
use super::resolve::count;
use super::source::is_own;
use super::tcp::Handler;
use super::{TCP_BACKLOG, TCP_IDLE};
use futures_util::StreamExt;
use hickory_proto::op::SerialMessage;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_server::net::tcp::TcpStream as DnsStream;
use hickory_server::net::xfer::{DnsStreamHandle, Protocol};
use hickory_server::server::{Request, RequestHandler, ResponseHandle, TimeoutStream};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Most connections of one listener.
pub(super) const MAX_CONNECTIONS: usize = 256;
/// Most of them from others than this host, whose own questions must not wait for anybody.
pub(super) const MAX_OTHERS: usize = 192;
/// Most from one address that is not this host's. A resolver that asks for many keeps a few open.
pub(super) const MAX_FROM_ONE: usize = 16;
/// After an error of the listener itself, such as no file descriptor left.
const PAUSE: Duration = Duration::from_millis(100);
/// A DNS header (RFC 1035 §4.1.1).
const HEADER: usize = 12;

/// Accepts and answers until the shutdown, which ends open connections too.
pub(super) async fn serve(listener: TcpListener, handler: Handler, shutdown: CancellationToken) {
    let handler = Arc::new(handler);
    let places = Arc::new(Places::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match places.take(peer.ip()) {
                Some(place) => {
                    let handler = Arc::clone(&handler);
                    connections.spawn(async move {
                        carry(stream, peer, &handler).await;
                        drop(place);
                    });
                }
                None => count(&handler.names.counters().crowded),
            },
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection for names");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// One connection: request after request, until the client has nothing more or is silent for too long.
async fn carry(stream: TcpStream, peer: SocketAddr, handler: &Handler) {
    let stream = AsyncIoTokioAsStd(stream);
    let (stream, mut replies) = DnsStream::from_stream_with_buffer_size(stream, peer, TCP_BACKLOG);
    let mut requests = TimeoutStream::new(stream, TCP_IDLE);
    while let Some(next) = requests.next().await {
        let packet = match next {
            Ok(message) => message.into_parts().0,
            Err(error) => {
                tracing::trace!(%peer, %error, "connection for names ended");
                return;
            }
        };
        let refusal = malformed_reply(&packet);
        match Request::from_bytes(packet, peer, Protocol::Tcp) {
            // One after the other: a client cannot have many under way.
            Ok(request) => {
                let out = ResponseHandle::new(peer, replies.clone(), Protocol::Tcp);
                handler.handle_request::<_, TokioTime>(&request, out).await;
            }
            Err(_) => {
                count(&handler.names.counters().malformed);
                let sent = refusal.map(|reply| replies.send(SerialMessage::new(reply, peer)));
                if !matches!(sent, Some(Ok(()))) {
                    return;
                }
            }
        }
    }
}

/// What is said to a question that cannot be read: FORMERR with its id. Nothing to what is none.
fn malformed_reply(packet: &[u8]) -> Option<Vec<u8>> {
    const RESPONSE: u8 = 0x80;
    const KEPT: u8 = 0x79;
    const FORMERR: u8 = 1;
    let header = packet.get(..HEADER).filter(|header| header[2] & RESPONSE == 0)?;
    let mut reply = vec![header[0], header[1], header[2] & KEPT | RESPONSE, FORMERR];
    reply.resize(HEADER, 0);
    Some(reply)
}

/// Who holds how many connections of a listener.
#[derive(Debug, Default)]
struct Places(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    own: usize,
    /// Of others, by who asks.
    others: HashMap<IpAddr, usize>,
    /// Their sum.
    all_others: usize,
}

/// A place, given back when dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    /// `None`: this host's.
    other: Option<IpAddr>,
}

impl Places {
    fn take(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let source = source.to_canonical();
        let other = (!is_own(source)).then(|| asker(source));
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.own + held.all_others >= MAX_CONNECTIONS {
            return None;
        }
        match other {
            None => held.own += 1,
            Some(_) if held.all_others >= MAX_OTHERS => return None,
            Some(ip) => {
                let from_there = held.others.entry(ip).or_default();
                if *from_there >= MAX_FROM_ONE {
                    return None;
                }
                *from_there += 1;
                held.all_others += 1;
            }
        }
        Some(Place { places: Arc::clone(self), other })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ip) = self.other else {
            held.own -= 1;
            return;
        };
        held.all_others -= 1;
        if let Some(from_there) = held.others.get_mut(&ip) {
            *from_there -= 1;
            if *from_there == 0 {
                held.others.remove(&ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(places: &Arc<Places>, source: &str, wanted: usize) -> Vec<Place> {
        (0..wanted).map_while(|_| places.take(source.parse().unwrap())).collect()
    }

    #[test]
    fn one_address_has_few_places_and_others_never_have_all() {
        let places = Arc::new(Places::default());
        let mut held = take(&places, "203.0.113.7", MAX_CONNECTIONS);
        assert_eq!(held.len(), MAX_FROM_ONE);
        assert!(places.take("::ffff:203.0.113.7".parse().unwrap()).is_none(), "the same, written otherwise");
        held.extend(take(&places, "2001:db8::1", MAX_FROM_ONE));
        assert!(places.take("2001:db8::2".parse().unwrap()).is_none(), "a machine has more than one there");
        for n in 0..=255u8 {
            held.extend(take(&places, &format!("198.51.100.{n}"), MAX_FROM_ONE));
        }
        assert_eq!(held.len(), MAX_OTHERS);
        let own = take(&places, "127.0.0.1", MAX_CONNECTIONS);
        assert_eq!(own.len(), MAX_CONNECTIONS - MAX_OTHERS, "this host has places left");
        drop(held);
        assert_eq!(take(&places, "203.0.113.7", MAX_CONNECTIONS).len(), MAX_FROM_ONE, "given back");
        drop(own);
        let held = places.0.lock().unwrap();
        assert!(held.others.is_empty() && held.own + held.all_others == 0);
    }

    #[test]
    fn only_a_question_is_told_that_it_cannot_be_read() {
        let mut packet = vec![0x12, 0x34, 0x01, 0x20, 0, 9, 0, 0, 0, 0, 0, 0, 0xff];
        assert_eq!(malformed_reply(&packet).unwrap(), [0x12, 0x34, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        packet[2] |= 0x80;
        assert_eq!(malformed_reply(&packet), None, "a reply");
        assert_eq!(malformed_reply(&packet[..11]), None);
    }
}
