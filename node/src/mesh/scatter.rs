//! Many sockets for a short while, for a NAT that maps by destination; and those of them that became paths.
//!
//! The engine says when ([`meshd_engine::Event::Scatter`]) and which one to keep. A socket that was not
//! adopted is closed after [`SCATTER_LIFE`]; an adopted one when nothing came in on it for [`SILENCE`]: by
//! then the NAT has forgotten it.

use crate::clock;
use crate::data::Wire;
use crate::udp;
use meshd_engine::path::birthday::SCATTER_LIFE;
use meshd_proto::Endpoint;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

/// An adopted socket that hears nothing for this long is closed.
const SILENCE: Duration = Duration::from_secs(180);
/// Most sockets that are no path (yet), for all peers: two rounds' worth. An unprivileged `meshd run` has
/// 1024 descriptors in all.
const MAX_SPARE: usize = 512;
/// Datagrams that wait for the mesh task.
const QUEUE: usize = 512;
/// Nothing of ours is longer.
const ROOM: usize = 2048;

/// What came in at one of the sockets.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) socket: u64,
    pub(super) from: Endpoint,
    pub(super) payload: Vec<u8>,
    /// The socket is a path already.
    pub(super) adopted: bool,
}

#[derive(Debug)]
struct Spare {
    socket: Arc<UdpSocket>,
    /// Whom it was opened towards.
    to: Endpoint,
    adopted: Option<Endpoint>,
    is_adopted: Arc<AtomicBool>,
    until: Instant,
    task: AbortHandle,
}

/// The sockets.
#[derive(Debug)]
pub(super) struct Scatter {
    spares: HashMap<u64, Spare>,
    last: u64,
    tasks: JoinSet<()>,
    send: mpsc::Sender<Arrived>,
    arrived: mpsc::Receiver<Arrived>,
}

impl Scatter {
    pub(super) fn new() -> Self {
        let (send, arrived) = mpsc::channel(QUEUE);
        Self { spares: HashMap::new(), last: 0, tasks: JoinSet::new(), send, arrived }
    }

    /// The next datagram; never ends.
    pub(super) async fn next(&mut self) -> Arrived {
        match self.arrived.recv().await {
            Some(arrived) => arrived,
            None => std::future::pending().await,
        }
    }

    /// Opens `count` sockets and sends `payload` to `to` from each, in place of those of the round before.
    /// The host may give fewer, and more than [`MAX_SPARE`] are not taken.
    pub(super) fn scatter(&mut self, to: Endpoint, payload: &[u8], count: usize, now: Instant) {
        self.retain(|_, s| s.adopted.is_some() || s.to != to);
        let (mut opened, mut refused) = (0, None);
        let room = MAX_SPARE.saturating_sub(self.spares.values().filter(|s| s.adopted.is_none()).count());
        for _ in 0..count.min(room) {
            match self.open(to, payload, now) {
                Ok(()) => opened += 1,
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        tracing::debug!(%to, opened, ?refused, "sockets towards a peer behind a difficult NAT");
    }

    fn open(&mut self, to: Endpoint, payload: &[u8], now: Instant) -> io::Result<()> {
        let socket = udp::bind_spare(to.0.is_ipv6())?;
        // Before the runtime has it: that takes a socket for full until it has looked at it once, and would
        // send from hardly any of them. A full buffer: one try less.
        let _ = socket.send_to(payload, to.0);
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let is_adopted = Arc::new(AtomicBool::new(false));
        self.last += 1;
        let receive = receive(self.last, Arc::clone(&socket), Arc::clone(&is_adopted), self.send.clone());
        let task = self.tasks.spawn(receive);
        let spare = Spare { socket, to, adopted: None, is_adopted, until: now + SCATTER_LIFE, task };
        self.spares.insert(self.last, spare);
        Ok(())
    }

    /// From now on datagrams for `endpoint` leave by this socket; the others that were opened towards it are
    /// closed. Those of other peers' rounds stay.
    pub(super) fn adopt(&mut self, socket: u64, endpoint: Endpoint, wire: &Wire, now: Instant) {
        if let Some(spare) = self.spares.get_mut(&socket) {
            tracing::debug!(%endpoint, "a spare socket became a path");
            spare.adopted = Some(endpoint);
            spare.is_adopted.store(true, Ordering::Relaxed);
            spare.until = now + SILENCE;
            self.retain(|id, s| *id == socket || s.adopted.unwrap_or(s.to) != endpoint);
            self.publish(wire);
        }
    }

    /// Datagrams for `endpoint` leave by the node's first socket again; the one that was adopted is closed.
    pub(super) fn release(&mut self, endpoint: Endpoint, wire: &Wire) {
        tracing::debug!(%endpoint, "a spare socket is no path any more");
        self.retain(|_, s| s.adopted != Some(endpoint));
        self.publish(wire);
    }

    /// Something came in at a socket that is a path.
    pub(super) fn heard(&mut self, socket: u64, now: Instant) {
        if let Some(spare) = self.spares.get_mut(&socket) {
            spare.until = now + SILENCE;
        }
    }

    /// Closes those whose time is over.
    pub(super) fn handle_timeout(&mut self, wire: &Wire, now: Instant) {
        let before = self.spares.len();
        self.retain(|_, s| s.until > now);
        if self.spares.len() != before {
            self.publish(wire);
        }
        while self.tasks.try_join_next().is_some() {}
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.spares.values().map(|s| s.until).min()
    }

    fn retain(&mut self, keep: impl Fn(&u64, &Spare) -> bool) {
        self.spares.retain(|id, spare| {
            let kept = keep(id, spare);
            if !kept {
                spare.task.abort();
            }
            kept
        });
    }

    fn publish(&self, wire: &Wire) {
        let adopted = self.spares.values().filter_map(|s| Some((s.adopted?, Arc::clone(&s.socket))));
        wire.set_spares(adopted.collect());
    }
}

async fn receive(
    number: u64,
    socket: Arc<UdpSocket>,
    is_adopted: Arc<AtomicBool>,
    send: mpsc::Sender<Arrived>,
) {
    let mut room = vec![0; ROOM];
    loop {
        match socket.recv_from(&mut room).await {
            Ok((len, from)) if len < ROOM => {
                let arrived = Arrived {
                    socket: number,
                    from: Endpoint::canonical(from),
                    payload: room[..len].to_vec(),
                    adopted: is_adopted.load(Ordering::Relaxed),
                };
                // Full: the protocols retry.
                let _ = send.try_send(arrived);
            }
            Ok(_) => {}
            // An ICMP error of what was sent: silence tells as much.
            Err(_) => tokio::time::sleep_until((clock::now() + Duration::from_millis(20)).into()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::{UdpOffloads, UdpSockets};

    fn wire() -> Wire {
        Wire::new(UdpSockets::bind(0, 1, UdpOffloads { gso: false, gro: false }).unwrap())
    }

    #[tokio::test]
    async fn every_socket_of_a_round_sends() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut scatter = Scatter::new();
        scatter.scatter(Endpoint(listener.local_addr().unwrap()), b"open", 100, clock::now());
        let mut from = std::collections::BTreeSet::new();
        while let Ok((len, source)) = listener.recv_from(&mut [0; 16]) {
            assert_eq!(len, 4);
            from.insert(source.port());
        }
        assert_eq!(from.len(), 100);
    }

    #[tokio::test]
    async fn one_peer_s_success_closes_its_own_sockets_and_nobody_else_s_and_all_of_them_are_bounded() {
        let (mut scatter, wire, now) = (Scatter::new(), wire(), clock::now());
        let to = |n: u16| Endpoint(([127, 0, 0, 1], 40_000 + n).into());
        let open = |s: &Scatter, n: u16| s.spares.values().filter(|spare| spare.to == to(n)).count();
        scatter.scatter(to(1), b"x", 20, now);
        scatter.scatter(to(2), b"x", 20, now);
        assert_eq!((open(&scatter, 1), open(&scatter, 2)), (20, 20));
        scatter.scatter(to(1), b"x", 20, now);
        assert_eq!((open(&scatter, 1), open(&scatter, 2)), (20, 20), "in place of the round before");
        let first = scatter.spares.iter().find(|(_, s)| s.to == to(1)).map(|(id, _)| *id).unwrap();
        scatter.adopt(first, to(1), &wire, now);
        assert_eq!((open(&scatter, 1), open(&scatter, 2)), (1, 20));
        for n in 3..=30 {
            scatter.scatter(to(n), b"x", 64, now);
        }
        assert_eq!(scatter.spares.len(), MAX_SPARE + 1);
        scatter.handle_timeout(&wire, now + SCATTER_LIFE);
        assert_eq!(scatter.spares.len(), 1, "the path stays");
        scatter.release(to(2), &wire);
        assert_eq!(scatter.spares.len(), 1, "another peer's");
        scatter.release(to(1), &wire);
        assert_eq!(scatter.spares.len(), 0, "until it is released");
    }
}
