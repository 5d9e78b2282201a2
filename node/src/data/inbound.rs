//! UDP → host, for one data thread: both families.

use super::{Device, HandUp, RelayPeers, Snapshot, Up, Wire, wait_readable};
use crate::clock;
use crate::udp::batch::{Inbox, MESSAGES};
use meshd_engine::Source;
use meshd_engine::data::{Coalescer, Datagram, OpenSink, open_run};
use meshd_engine::packet::Packet;
use meshd_proto::relay::{DatagramKind, Frame};
use meshd_proto::{Endpoint, NodeId, RelayId};
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often a relay that sends data is reported alive: well below the silence after which its client asks.
const RELAY_NOTE: Duration = Duration::from_millis(200);
/// How often a batch is looked through for that.
const RELAY_LOOK: Duration = Duration::from_millis(50);
/// Batches taken from one socket before the other one gets its turn.
const TURN: usize = 16;
/// Bytes of opened packets: more than an inbox holds.
const SLAB: usize = 512 << 10;

pub(super) struct Inbound {
    /// All queues of the device: see [`Opened::begin`].
    pub(super) queues: Vec<Device>,
    pub(super) wire: Arc<Wire>,
    pub(super) thread: usize,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) up: Up,
}

impl Inbound {
    pub(super) fn run(self, stop: &OwnedFd) {
        let sockets = [self.wire.socket(self.thread, false), self.wire.socket(self.thread, true)];
        let (Some(first), second) = (match sockets {
            [Some(first), second] => (Some(first), second),
            [None, second] => (second, None),
        }) else {
            return;
        };
        let accepts = self.queues.first().map(|queue| queue.accepts()).unwrap_or_default();
        let mut inbox = Inbox::new(self.wire.offloads().gro);
        let mut opened = Opened {
            slab: vec![0; SLAB].into_boxed_slice(),
            used: 0,
            packets: Coalescer::new(accepts, MESSAGES),
            queues: self.queues.clone(),
            queue: 0,
            up: self.up.clone(),
        };
        let mut heard = Heard::default();
        while let Some(readable) = wait_readable(first.as_fd(), second.map(AsFd::as_fd), stop) {
            for socket in [Some(first), second].into_iter().zip(readable).filter_map(|(s, r)| s.filter(|_| r))
            {
                for _ in 0..TURN {
                    if !self.take(socket, &mut inbox, &mut opened, &mut heard) {
                        break;
                    }
                }
            }
        }
    }

    /// One batch of a socket; whether there may be more.
    fn take(&self, socket: &UdpSocket, inbox: &mut Inbox, opened: &mut Opened, heard: &mut Heard) -> bool {
        match inbox.receive(socket) {
            Ok(0) => return false,
            Ok(_) => {}
            // An ICMP error of an earlier send, which the path logic notices by silence.
            Err(_) => return true,
        }
        let now = clock::now();
        let snapshot = self.snapshot.load();
        let relays = self.wire.relays();
        let batch = inbox.messages().flat_map(|(message, bytes)| {
            let from = Endpoint::canonical(message.from);
            bytes.chunks(message.segment).filter_map({
                let relays = &relays;
                move |datagram| {
                    let (from, bytes) = self.classify(relays, from, datagram)?;
                    Some(Datagram { from, ecn: message.ecn, bytes })
                }
            })
        });
        open_run(&snapshot, batch, opened, now);
        self.note_relays(&relays, inbox, heard, now);
        opened.write();
        // Mostly more has come meanwhile: to ask is cheaper than to wait and be woken.
        true
    }

    /// Takes a payload out of its relay frame. What only the mesh task understands goes up at once.
    fn classify<'d>(
        &self,
        relays: &RelayPeers,
        from: Endpoint,
        datagram: &'d [u8],
    ) -> Option<(Source, &'d [u8])> {
        if DatagramKind::of(datagram) != DatagramKind::Relay {
            return Some((Source::Udp(from), datagram));
        }
        if let (Some(relay), Ok(Frame::Data { peer, payload })) =
            (relays.relay_at(from), Frame::parse(datagram))
        {
            // A peer that is not in the map has nothing to say to us.
            let peer = *relays.peers.get(&peer)?;
            return Some((Source::Relay { relay, peer }, payload));
        }
        self.up.send(HandUp::RelayFrame { from, frame: datagram.to_vec() });
        None
    }
}

impl Inbound {
    /// Tells the mesh task which relays are alive, from time to time: a relay's client must not take
    /// it for silent while data flows.
    fn note_relays(&self, relays: &RelayPeers, inbox: &Inbox, heard: &mut Heard, now: Instant) {
        if relays.relays.is_empty() || heard.looked.is_some_and(|at| now < at + RELAY_LOOK) {
            return;
        }
        heard.looked = Some(now);
        let senders = inbox.messages().map(|(message, _)| Endpoint::canonical(message.from));
        for relay in senders.filter_map(|from| relays.relay_at(from)) {
            if heard.is_news(relay, now) {
                self.up.send(HandUp::RelayHeard(relay));
            }
        }
    }
}

/// Which relays were reported alive lately.
#[derive(Default)]
struct Heard {
    looked: Option<Instant>,
    reported: Vec<(RelayId, Instant)>,
}

impl Heard {
    /// Whether that relay is to be reported; if so, it counts as reported.
    fn is_news(&mut self, relay: RelayId, now: Instant) -> bool {
        self.reported.retain(|(_, at)| now < *at + RELAY_NOTE);
        let news = self.reported.iter().all(|(known, _)| *known != relay);
        if news {
            self.reported.push((relay, now));
        }
        news
    }
}

/// Opened packets for the host.
struct Opened {
    slab: Box<[u8]>,
    used: usize,
    packets: Coalescer,
    /// Where packets are written to, and the one that those in the slab go to.
    queues: Vec<Device>,
    queue: usize,
    up: Up,
}

impl Opened {
    /// Writes all packets, joined where the device takes that, and empties the slab.
    fn write(&mut self) {
        let Self { slab, used, packets, queues, queue, up } = self;
        let Some(device) = queues.get(*queue) else { return };
        packets.drain(slab, |offload, parts| {
            if device.write(offload, parts).is_err() {
                up.counters.tun_write.fetch_add(parts.len() as u64, Ordering::Relaxed);
            }
        });
        *used = 0;
    }
}

impl OpenSink for Opened {
    /// The kernel sends a flow's packets to the queue that its last packet was written to. All of a peer are
    /// written to one queue, whatever socket they came by: else its flows would move between threads whenever
    /// its path does, and what one thread has in hand would be overtaken by what the other one reads.
    fn begin(&mut self, peer: NodeId) {
        let queue = usize::try_from(peer.0).unwrap_or(0).checked_rem(self.queues.len()).unwrap_or(0);
        if queue != self.queue {
            self.write();
            self.queue = queue;
        }
    }

    fn room(&mut self, max: usize) -> Option<&mut [u8]> {
        self.slab.get_mut(self.used..self.used + max)
    }

    fn deliver(&mut self, len: usize, packet: &Packet) {
        self.packets.push(&self.slab, self.used, packet);
        self.used += len;
    }

    fn hand_up(&mut self, from: Source, datagram: &[u8]) {
        self.up.send(HandUp::Datagram { from, payload: datagram.to_vec() });
    }

    fn seen(&mut self, peer: NodeId, from: Source) {
        self.up.send(HandUp::Seen { peer, from });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that keeps what is written to it.
    #[derive(Debug)]
    struct Kept(std::fs::File, std::sync::Mutex<Vec<u8>>);

    impl AsFd for Kept {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl super::super::PacketDevice for Kept {
        fn accepts(&self) -> meshd_engine::data::Offloads {
            meshd_engine::data::Offloads::default()
        }

        fn read(&self, _: &mut [u8]) -> std::io::Result<(usize, meshd_engine::data::Offload)> {
            Err(std::io::ErrorKind::WouldBlock.into())
        }

        fn write(
            &self,
            _: meshd_engine::data::Offload,
            parts: &[std::io::IoSlice<'_>],
        ) -> std::io::Result<()> {
            // The last byte tells packets apart.
            self.1.lock().unwrap().extend(parts.last().and_then(|part| part.last()));
            Ok(())
        }
    }

    #[test]
    fn all_of_a_peer_is_written_to_one_queue_whatever_thread_it_came_to() {
        let kept = [(); 2]
            .map(|()| Arc::new(Kept(std::fs::File::open("/dev/null").unwrap(), std::sync::Mutex::default())));
        let packet = |mark: u8| {
            let mut p = vec![0x45, 0, 0, 21, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, mark];
            p[2..4].copy_from_slice(&21u16.to_be_bytes());
            p
        };
        for _thread in 0..2 {
            let up = Up { queue: tokio::sync::mpsc::channel(1).0, counters: Arc::default() };
            let queues: Vec<Device> = kept.iter().map(|queue| Arc::clone(queue) as Device).collect();
            let packets = Coalescer::new(queues[0].accepts(), MESSAGES);
            let mut opened =
                Opened { slab: vec![0; 4096].into_boxed_slice(), used: 0, packets, queues, queue: 0, up };
            for (peer, mark) in [(2, 20), (3, 30), (3, 31), (2, 21), (5, 50)] {
                opened.begin(NodeId(peer));
                let bytes = packet(mark);
                opened.room(bytes.len()).unwrap().copy_from_slice(&bytes);
                opened.deliver(bytes.len(), &meshd_engine::packet::parse(&bytes).unwrap());
            }
            opened.write();
        }
        let written = kept.map(|queue| queue.1.lock().unwrap().clone());
        assert_eq!(written, [vec![20, 21, 20, 21], vec![30, 31, 50, 30, 31, 50]]);
    }

    #[test]
    fn each_relay_in_use_is_reported_alive_every_200_ms() {
        let (mut heard, t) = (Heard::default(), clock::now());
        let (one, other) = (RelayId(1), RelayId(2));
        assert!(heard.is_news(one, t) && heard.is_news(other, t), "not only the first that is found");
        assert!(!heard.is_news(one, t + RELAY_LOOK) && !heard.is_news(other, t + RELAY_LOOK));
        assert!(heard.is_news(one, t + RELAY_NOTE) && heard.is_news(other, t + RELAY_NOTE));
    }
}
