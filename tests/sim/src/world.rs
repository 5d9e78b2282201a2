//! The world: virtual time, what is under way, and what a test may do to it.

mod members;
mod wire;

use crate::coordinator::{Coordinator, Member, Rules, addr};
use crate::net::{Home, NatKind, Net, Place};
use crate::node::{Delivered, NodeName, Out, SPARE_SILENCE, SimNode, engine};
use crate::packets::Inner;
use crate::random::Random;
use crate::sessions::Sessions;
use meshd_engine::session::marker::Marker;
use meshd_engine::status::{PathStatus, Status};
use meshd_engine::{Event, Input, Settings, Source};
use meshd_proto::netmap::{NetworkMap, PeerKind};
use meshd_proto::stun::Binding;
use meshd_proto::{Endpoint, NetworkId, NodeId, NodeSecret, Prefix, RelayId, UnixSeconds};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The relay of the simulation.
pub(crate) const RELAY: RelayId = RelayId(1);
/// The second one, where there is one.
pub(crate) const BACKUP: RelayId = RelayId(2);
/// Wall clock at the beginning.
const WALL: u64 = 1_800_000_000;

/// How the network behaves.
#[derive(Clone, Copy, Debug)]
pub struct WorldConfig {
    /// Of everything random.
    pub seed: u64,
    /// Percent of datagrams that are lost between homes.
    pub loss: u64,
    /// One-way latency between homes.
    pub latency: Duration,
    /// One-way latency by way of the relay, on top.
    pub relay_latency: Duration,
    /// Whether there is a relay (and STUN).
    pub relay: bool,
    /// Whether there is a second relay.
    pub backup: bool,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            loss: 0,
            latency: Duration::from_millis(15),
            relay_latency: Duration::from_millis(20),
            relay: true,
            backup: false,
        }
    }
}

enum Happening {
    Datagram { to: NodeId, from: Source, payload: Vec<u8> },
    Input { to: NodeId, input: Box<Input> },
    Scattered { to: NodeId, socket: u64, from: Endpoint, payload: Vec<u8> },
    Stun { server: Endpoint, from: Place, node: NodeId, source: Endpoint, payload: Vec<u8> },
    Wake(NodeId),
}

/// A mesh in virtual time, on sessions of one make.
pub struct World<F: Sessions = Marker> {
    config: WorldConfig,
    random: Random,
    zero: Instant,
    now: Instant,
    order: u64,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: HashMap<u64, Happening>,
    nodes: BTreeMap<NodeId, SimNode<F>>,
    net: Net,
    coordinator: Coordinator,
    coordinator_up: bool,
    /// The map that each node has got last: it starts from it when the coordinator is away.
    stored: BTreeMap<NodeId, NetworkMap>,
    /// Who is out of the mesh for now, to be taken back as it was.
    expelled: BTreeMap<NodeId, Member>,
    /// Since when the others' maps say so.
    left: BTreeMap<NodeId, Instant>,
    relays_down: BTreeSet<RelayId>,
    attached: BTreeSet<(RelayId, NodeId)>,
    next_spare: u64,
    blocked: BTreeSet<(NodeId, NodeId)>,
    serial: u64,
    /// Rules in force at some time in the last moments: a map takes a while to arrive.
    recent_rules: Vec<(Instant, Rules)>,
    /// Every event, for tests.
    events: Vec<(Instant, NodeId, Event)>,
    direct_datagrams: u64,
    relayed_datagrams: u64,
}

impl World {
    /// An empty world on marker sessions.
    pub fn new(config: WorldConfig) -> Self {
        Self::with_sessions(config)
    }
}

impl<F: Sessions> World<F> {
    /// An empty world on sessions of any make.
    pub fn with_sessions(config: WorldConfig) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "virtual time has to begin somewhere; only differences count"
        )]
        let zero = Instant::now();
        F::set_clock(Duration::ZERO);
        let mut random = Random::new(config.seed);
        let mut network = [0; 16];
        network.copy_from_slice(&random.bytes()[..16]);
        let mut coordinator = Coordinator::new(NetworkId::from_bytes(network));
        if config.relay {
            coordinator.relays.insert(RELAY);
            if config.backup {
                coordinator.relays.insert(BACKUP);
            }
        }
        Self {
            config,
            random,
            zero,
            now: zero,
            order: 0,
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            nodes: BTreeMap::new(),
            net: Net::default(),
            coordinator,
            coordinator_up: true,
            stored: BTreeMap::new(),
            expelled: BTreeMap::new(),
            left: BTreeMap::new(),
            relays_down: BTreeSet::new(),
            attached: BTreeSet::new(),
            next_spare: 0,
            blocked: BTreeSet::new(),
            serial: 0,
            recent_rules: Vec::new(),
            events: Vec::new(),
            direct_datagrams: 0,
            relayed_datagrams: 0,
        }
    }

    /// Adds a node. Maps go out with [`Self::publish`].
    pub fn add(&mut self, place: Place, routes: &[&str]) -> NodeName {
        let id = NodeId(self.nodes.len() as u64 + 1);
        let secret = NodeSecret::from_bytes(self.random.bytes());
        let engine = engine(&secret, self.coordinator.network, self.random.bytes(), self.zero, self.now);
        let key = secret.public();
        self.coordinator.members.insert(
            id,
            Member {
                key,
                routes: routes.iter().map(|r| r.parse::<Prefix>().expect("a prefix")).collect(),
                kind: PeerKind::Meshd,
                expires: None,
                endpoints: Vec::new(),
                home_relay: None,
                online: true,
                seq: 1,
                interest: BTreeSet::new(),
            },
        );
        let node = SimNode {
            id,
            secret,
            key,
            place,
            engine,
            running: true,
            udp_blocked: false,
            delivered: Vec::new(),
            asked: HashSet::new(),
            wake: None,
            spares: BTreeMap::new(),
            adopted: BTreeMap::new(),
        };
        self.nodes.insert(id, node);
        self.boot(id);
        id
    }

    fn boot(&mut self, id: NodeId) {
        let local = vec![self.nodes[&id].place.local()];
        let wall = UnixSeconds(WALL + (self.now - self.zero).as_secs());
        self.input(id, Input::WallClock(wall));
        self.input(id, Input::LocalEndpoints(local));
    }

    /// The mesh address of a node.
    pub fn addr(&self, id: NodeName) -> Ipv4Addr {
        addr(id)
    }

    /// Changes a node's settings.
    pub fn settings(&mut self, id: NodeName, settings: Settings) {
        self.input(id, Input::Settings(settings));
    }

    /// All UDP of a node but to its relay is dropped, or no longer.
    pub fn block_udp(&mut self, id: NodeName, blocked: bool) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.udp_blocked = blocked;
        }
    }

    /// Datagrams straight between two nodes are dropped, or no longer.
    pub fn block_direct(&mut self, a: NodeName, b: NodeName, blocked: bool) {
        self.block_one_way(a, b, blocked);
        self.block_one_way(b, a, blocked);
    }

    /// Datagrams straight from `from` to `to` are dropped, or no longer.
    pub fn block_one_way(&mut self, from: NodeName, to: NodeName, blocked: bool) {
        if blocked {
            self.blocked.insert((from, to));
        } else {
            self.blocked.remove(&(from, to));
        }
    }

    /// The relay dies or comes back.
    pub fn relay(&mut self, up: bool) {
        self.set_relay(RELAY, up);
        for id in self.attached_to(RELAY) {
            let input = if up { Input::RelayUp(RELAY) } else { Input::RelayDown(RELAY) };
            self.input_later(id, input, Duration::from_millis(200));
        }
    }

    /// The first relay stops to answer without a word, as it looks to a client under traffic: doubtful
    /// first, dead after 5 s.
    pub fn silence_relay(&mut self) {
        self.set_relay(RELAY, false);
        for id in self.attached_to(RELAY) {
            let doubtful = Input::RelayDoubtful { relay: RELAY, doubtful: true };
            self.input_later(id, doubtful, Duration::from_millis(1100));
            self.input_later(id, Input::RelayDown(RELAY), Duration::from_millis(5500));
        }
    }

    fn set_relay(&mut self, relay: RelayId, up: bool) {
        if up {
            self.relays_down.remove(&relay);
        } else {
            self.relays_down.insert(relay);
        }
    }

    fn attached_to(&self, relay: RelayId) -> Vec<NodeId> {
        self.attached.iter().filter(|(r, _)| *r == relay).map(|(_, id)| *id).collect()
    }

    /// What kind of router a home has from now on.
    pub fn set_nat(&mut self, home: Home, kind: NatKind) {
        self.net.set_kind(home, kind);
    }

    /// A home router restarts.
    pub fn restart_router(&mut self, home: Home) {
        self.net.forget(home);
    }

    /// A node moves to another place.
    pub fn move_to(&mut self, id: NodeName, place: Place) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.place = place;
        }
        self.input(id, Input::LocalEndpoints(vec![place.local()]));
    }

    /// Where a node is.
    pub fn place(&self, id: NodeName) -> Place {
        self.nodes[&id].place
    }

    /// A node's daemon is restarted: same key, everything else forgotten.
    pub fn restart(&mut self, id: NodeName) {
        let seed = self.random.bytes();
        let (zero, now, network) = (self.zero, self.now, self.coordinator.network);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.engine = engine(&node.secret, network, seed, zero, now);
            node.wake = None;
            node.asked.clear();
            node.spares.clear();
            node.adopted.clear();
        }
        self.attached.retain(|(_, node)| *node != id);
        self.boot(id);
        self.publish_to(id);
    }

    /// A node's daemon stops, or runs again.
    pub fn set_running(&mut self, id: NodeName, running: bool) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.running = running;
        }
        if running {
            self.restart(id);
        }
    }

    /// Whether a node's daemon runs.
    pub fn is_running(&self, id: NodeName) -> bool {
        self.nodes.get(&id).is_some_and(|n| n.running)
    }

    /// The host of `from` (or one behind it, with the source `src`) sends a UDP packet.
    pub fn send_as(&mut self, from: NodeName, src: Ipv4Addr, dst: Ipv4Addr, ports: (u16, u16)) -> Inner {
        self.serial += 1;
        let packet = Inner { src, dst, src_port: ports.0, dst_port: ports.1, serial: self.serial };
        let now = self.now;
        if let Some(node) = self.nodes.get_mut(&from).filter(|n| n.running) {
            let out = node.send(packet, now);
            self.put_out(from, out);
        }
        packet
    }

    /// The host of `from` sends a UDP packet to the mesh address of `to`.
    pub fn send(&mut self, from: NodeName, to: NodeName, ports: (u16, u16)) -> Inner {
        self.send_as(from, addr(from), addr(to), ports)
    }

    /// Sends a packet and answers it, again and again, until an answer has come back; fails after `limit`.
    /// Returns how long it took.
    pub fn ping_pong(&mut self, a: NodeName, b: NodeName, limit: Duration) -> Option<Duration> {
        let begin = self.now;
        let (mut asked, mut answered) = (BTreeSet::new(), BTreeSet::new());
        let got = |w: &Self, id, of: &BTreeSet<u64>| {
            w.delivered(id).iter().rev().take(200).any(|d| of.contains(&d.packet.serial))
        };
        while self.now - begin < limit {
            asked.insert(self.send(a, b, (5000, 7)).serial);
            for _ in 0..10 {
                self.run(Duration::from_millis(10));
                if answered.is_empty() && got(self, b, &asked) {
                    answered.insert(self.send(b, a, (7, 5000)).serial);
                }
                if got(self, a, &answered) {
                    return Some(self.now - begin);
                }
            }
            if got(self, b, &asked) {
                answered.insert(self.send(b, a, (7, 5000)).serial);
            }
        }
        None
    }

    /// Sends both ways every 100 ms for `time`; returns how many packets were sent and delivered.
    pub fn chat(&mut self, a: NodeName, b: NodeName, time: Duration) -> (usize, usize) {
        let end = self.now + time;
        let mut sent = BTreeSet::new();
        while self.now < end {
            sent.insert(self.send(a, b, (5000, 7)).serial);
            sent.insert(self.send(b, a, (7, 5000)).serial);
            self.run(Duration::from_millis(100));
        }
        self.run(Duration::from_millis(300));
        let got = |id| self.delivered(id).iter().filter(|d| sent.contains(&d.packet.serial)).count();
        (sent.len(), got(a) + got(b))
    }

    /// What a node's host got.
    pub fn delivered(&self, id: NodeName) -> &[Delivered] {
        &self.nodes[&id].delivered
    }

    /// A node's status.
    pub fn status(&self, id: NodeName) -> Status {
        self.nodes[&id].engine.status(self.now)
    }

    /// Which way a node sends to a peer.
    pub fn path(&self, from: NodeName, to: NodeName) -> PathStatus {
        let status = self.status(from);
        status.peers.iter().find(|p| p.id == to).map_or(PathStatus::None, |p| p.path)
    }

    /// Whether both nodes send straight to each other.
    pub fn is_direct(&self, a: NodeName, b: NodeName) -> bool {
        [(a, b), (b, a)]
            .iter()
            .all(|(x, y)| matches!(self.path(*x, *y), PathStatus::Direct { doubtful: false, .. }))
    }

    /// Everything that engines said.
    pub fn events(&self) -> &[(Instant, NodeId, Event)] {
        &self.events
    }

    /// Datagrams sent straight and over the relay since the beginning.
    pub fn datagrams(&self) -> (u64, u64) {
        (self.direct_datagrams, self.relayed_datagrams)
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What everything random comes from.
    pub fn seed(&self) -> u64 {
        self.config.seed
    }

    /// The world's random numbers, for a test's own choices.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, order))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            F::set_clock(at - self.zero);
            if let Some(happening) = self.happenings.remove(&order) {
                self.happen(happening);
            }
        }
        self.now = end;
        F::set_clock(end - self.zero);
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Datagram { to, from, payload } => {
                let Some(node) = self.nodes.get_mut(&to).filter(|n| n.running) else { return };
                let out = node.receive(from, &payload, now);
                self.put_out(to, out);
            }
            Happening::Input { to, input } => self.input(to, *input),
            Happening::Scattered { to, socket, from, payload } => {
                let open = self.nodes.get(&to).and_then(|n| n.spares.get(&socket)).is_some_and(|s| s.1 > now);
                let adopted = self.nodes.get_mut(&to).and_then(|n| n.adopted.get_mut(&from));
                let adopted = adopted.filter(|(number, until)| *number == socket && *until > now);
                let adopted = adopted.map(|(_, until)| *until = now + SPARE_SILENCE).is_some();
                if adopted {
                    self.happen(Happening::Datagram { to, from: Source::Udp(from), payload });
                } else if open {
                    self.input(to, Input::Scattered { socket, from, payload });
                }
            }
            Happening::Stun { server, from, node, source, payload } => {
                let answer = Binding::parse(&payload).ok().and_then(|b| b.answer(source));
                let current = self.nodes.get(&node).map(|n| n.place);
                if let Some(payload) = answer.filter(|_| current == Some(from)) {
                    let from = Source::Udp(server);
                    self.later(self.config.latency, Happening::Datagram { to: node, from, payload });
                }
            }
            Happening::Wake(id) => {
                let Some(node) = self.nodes.get_mut(&id).filter(|n| n.running && n.wake == Some(now)) else {
                    return;
                };
                node.wake = None;
                node.engine.handle_timeout(now);
                self.pump(id);
            }
        }
    }

    /// Gives a node an input now.
    pub fn input(&mut self, id: NodeName, input: Input) {
        let now = self.now;
        if let Some(node) = self.nodes.get_mut(&id).filter(|n| n.running) {
            node.engine.handle_input(input, now);
            self.pump(id);
        }
    }

    fn input_later(&mut self, to: NodeId, input: Input, wait: Duration) {
        self.later(wait, Happening::Input { to, input: Box::new(input) });
    }

    fn later(&mut self, wait: Duration, happening: Happening) {
        self.order += 1;
        self.happenings.insert(self.order, happening);
        self.queue.push(Reverse((self.now + wait, self.order)));
    }

    /// Handles what a node's data functions handed out.
    fn put_out(&mut self, id: NodeId, out: Out) {
        for (to, datagram) in out.datagrams {
            self.transmit(id, to, datagram);
        }
        for packet in out.packets {
            self.arrived(id, &packet);
        }
        for input in out.inputs {
            self.input(id, input);
        }
    }

    /// Drains an engine's outputs.
    fn pump(&mut self, id: NodeId) {
        loop {
            let Some(node) = self.nodes.get_mut(&id) else { return };
            let (transmit, event) = (node.engine.poll_transmit(), node.engine.poll_event());
            if transmit.is_none() && event.is_none() {
                break;
            }
            if let Some(event) = event {
                self.event(id, event);
            }
            if let Some(t) = transmit {
                self.transmit(id, t.to, t.payload);
            }
        }
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let wake = node.engine.poll_timeout().map(|at| at.max(now));
        if wake != node.wake {
            node.wake = wake;
            if let Some(at) = wake {
                self.later(at - now, Happening::Wake(id));
            }
        }
    }
}

pub(crate) fn stun_server(relay: RelayId) -> Endpoint {
    Endpoint(SocketAddr::new(Ipv4Addr::new(192, 0, 2, relay.0 as u8).into(), 3478))
}

/// The relay whose STUN server is there, on either port.
pub(crate) fn relay_of(at: Endpoint) -> Option<RelayId> {
    let found = [RELAY, BACKUP].into_iter().find(|r| stun_server(*r).0.ip() == at.0.ip())?;
    matches!(at.0.port(), 3478 | 3479).then_some(found)
}
