//! A relay and its clients in virtual time, for the tests of this crate: no socket, no clock.

use crate::client::{RelayClient, RelayEvent, Transmit};
use crate::forwarder::{Local, RelayLimits, RelayServer};
use meshd_proto::keys::SigningKey;
use meshd_proto::permit::{Permit, SignedPermit};
use meshd_proto::{Endpoint, NetworkId, NodeSecret, UnixSeconds};
use std::time::{Duration, Instant};

pub(crate) const NETWORK: NetworkId = NetworkId::from_bytes([7; 16]);
pub(crate) const START: UnixSeconds = UnixSeconds(1_800_000_000);
pub(crate) const VIA: Local = Local { socket: 0, ip: None };
const RELAY_SEED: [u8; 32] = [0x5e; 32];

pub(crate) fn endpoint(text: &str) -> Endpoint {
    Endpoint(text.parse().unwrap())
}

pub(crate) fn relay_at() -> Endpoint {
    endpoint("203.0.113.1:3478")
}

pub(crate) fn signer() -> SigningKey {
    SigningKey::from_bytes(&[0x51; 32])
}

pub(crate) fn secret(n: u8) -> NodeSecret {
    NodeSecret::from_bytes([n; 32])
}

pub(crate) fn permit_for(n: u8) -> SignedPermit {
    Permit::issue(NETWORK, secret(n).public(), u64::from(n), &signer(), START)
}

/// A WireGuard data message as far as a relay can tell.
pub(crate) fn sealed(fill: u8) -> Vec<u8> {
    let mut out = vec![4, 0, 0, 0];
    out.resize(80, fill);
    out
}

pub(crate) struct Net {
    pub(crate) server: RelayServer,
    pub(crate) clients: Vec<(Endpoint, RelayClient)>,
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    /// Whether the relay hears anything.
    pub(crate) relay_alive: bool,
    pub(crate) events: Vec<(usize, RelayEvent)>,
    /// (client, sender's relay address, payload)
    pub(crate) delivered: Vec<(usize, meshd_proto::relay::RelayAddr, Vec<u8>)>,
}

impl Net {
    pub(crate) fn new(clients: u8) -> Self {
        Self::with_limits(clients, RelayLimits::default())
    }

    #[expect(clippy::disallowed_methods, reason = "virtual time needs some instant to count from")]
    pub(crate) fn with_limits(clients: u8, limits: RelayLimits) -> Self {
        let start = Instant::now();
        let mut net = Self {
            server: server(limits, RELAY_SEED, start),
            clients: Vec::new(),
            start,
            now: start,
            relay_alive: true,
            events: Vec::new(),
            delivered: Vec::new(),
        };
        for n in 1..=clients {
            net.add(n, permit_for(n));
        }
        net
    }

    pub(crate) fn add(&mut self, n: u8, permit: SignedPermit) {
        let relay = self.server.public_key();
        let client = RelayClient::new(secret(n), relay, permit, &[relay_at()], [n; 32], self.now);
        self.clients.push((endpoint(&format!("192.0.2.{n}:41820")), client));
    }

    /// The relay loses all its state, as after a crash.
    pub(crate) fn restart_relay(&mut self) {
        self.server = server(RelayLimits::default(), [0x5f; 32], self.now);
    }

    pub(crate) fn wall(&self) -> UnixSeconds {
        UnixSeconds(START.0 + self.now.duration_since(self.start).as_secs())
    }

    /// Runs for `time`, each hop taking no time, in steps of the next wake-up.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let wakes = self.clients.iter().filter_map(|(_, c)| c.poll_timeout());
            let next = wakes.chain([self.server.poll_timeout()]).min().unwrap();
            if next > end {
                self.now = end;
                return;
            }
            self.now = next.max(self.now);
            let (wall, now) = (self.wall(), self.now);
            self.server.handle_timeout(wall, now);
            self.clients.iter_mut().for_each(|(_, c)| c.handle_timeout(now));
        }
    }

    /// Delivers everything in flight.
    pub(crate) fn settle(&mut self) {
        loop {
            let mut moved = false;
            for i in 0..self.clients.len() {
                while let Some(Transmit { to, payload }) = self.clients[i].1.poll_transmit() {
                    moved = true;
                    assert_eq!(to, relay_at());
                    self.send(self.clients[i].0, payload);
                }
                while let Some(event) = self.clients[i].1.poll_event() {
                    self.events.push((i, event));
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// A datagram from anywhere to the relay, and its consequences.
    pub(crate) fn send(&mut self, from: Endpoint, mut datagram: Vec<u8>) {
        if !self.relay_alive {
            return;
        }
        let (len, wall) = (datagram.len(), self.wall());
        if let Some(forward) = self.server.handle_datagram(VIA, from, &mut datagram, wall, self.now) {
            self.deliver(forward.to, &datagram);
        }
        let mut answers = 0;
        while let Some(answer) = self.server.poll_transmit() {
            answers += 1;
            assert!(answer.payload.len() <= len, "an answer longer than its request");
            assert_eq!(answer.to, from, "an answer goes to who asked");
            self.deliver(answer.to, &answer.payload);
        }
        assert!(answers <= 1, "{answers} answers to one datagram");
    }

    fn deliver(&mut self, to: Endpoint, datagram: &[u8]) {
        let now = self.now;
        if let Some(i) = self.clients.iter().position(|(at, _)| *at == to)
            && let Some(inbound) = self.clients[i].1.handle_datagram(relay_at(), datagram, now)
        {
            self.delivered.push((i, inbound.peer, inbound.payload.to_vec()));
        }
    }

    pub(crate) fn take_events(&mut self) -> Vec<(usize, RelayEvent)> {
        std::mem::take(&mut self.events)
    }
}

fn server(limits: RelayLimits, seed: [u8; 32], now: Instant) -> RelayServer {
    let key = NodeSecret::from_bytes([0xaa; 32]);
    RelayServer::new(NETWORK, vec![signer().verifying_key()], key, limits, seed, now)
}
