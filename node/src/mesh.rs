//! The mesh task: owns the engine and the relay clients, and is the only one who calls them.
//!
//! Inputs come from the data threads (what is not data), from the daemon (maps, hints, settings) and
//! from time; outputs go to the sockets, to the TUN device and, as [`MeshEvent`]s, to the daemon.

mod history;
mod interest;
mod relays;
mod reports;
mod scatter;
mod streams;

use crate::clock;
use crate::data::{Device, HandUp, RelayPeers, Snapshot, Wire};
use crate::dial::Dialer;
use history::History;
pub use history::Moment;
use interest::Interests;
use meshd_engine::data::Offload;
use meshd_engine::path::probe::Fitness;
use meshd_engine::session::wireguard::WireGuard;
use meshd_engine::status::Status;
use meshd_engine::{Destination, Engine, EngineConfig, Event, Input, Preshared, Settings};
use meshd_proto::control::PathReport;
use meshd_proto::permit::SignedPermit;
use meshd_proto::relay::RelayAddr;
use meshd_proto::{Endpoint, Hint, NetworkMap, NodeId, NodeKey, NodeSecret, RelayId};
pub(crate) use streams::is_stream;

use relays::{RelayLinks, RelayState};
use reports::Reports;
use scatter::{Arrived, Scatter};
use std::collections::{BTreeMap, HashMap};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};
use streams::{RelayStreams, StreamEvent};
use tokio::sync::{mpsc, oneshot};

/// Handed-up packets that may wait.
pub const HAND_UP_QUEUE: usize = 1024;
/// Handed-up packets taken before time and commands get their turn.
const BURST: usize = 64;
/// How often the wall clock is shown to the engine, for the expiry of keys.
const WALL_CLOCK: Duration = Duration::from_secs(30);
/// The coordinator is asked again after this time.
const INTEREST_RENEWAL: Duration = Duration::from_secs(60);

/// What the daemon tells the mesh task.
#[derive(Debug)]
pub enum MeshCommand {
    /// Another map.
    Map(Arc<NetworkMap>),
    /// Where peers may be reached.
    Hints(Vec<Hint>),
    /// What the user chose.
    Settings(Settings),
    /// WireGuard preshared keys of devices joined through this node, all of them.
    Preshared(BTreeMap<NodeKey, Preshared>),
    /// Local addresses with our port.
    LocalEndpoints(Vec<Endpoint>),
    /// A relay's names were resolved.
    RelayAddresses {
        /// Which relay.
        relay: RelayId,
        /// Its addresses with its UDP port.
        addrs: Vec<Endpoint>,
    },
    /// A new relay permit.
    Permit(SignedPermit),
    /// The host's links changed: prove the paths again.
    LinksChanged,
    /// One ping; answered when the peer answers or `until` has come.
    Ping {
        /// Whom.
        peer: NodeId,
        /// When to give up.
        until: Instant,
        /// The result.
        reply: oneshot::Sender<Option<Pong>>,
    },
    /// A router maps this outside endpoint to our port, or no longer.
    PortMapped(Option<Endpoint>),
    /// Whether this node is fit to carry flows for others.
    Fitness(Fitness),
    /// Which ways did data to a peer go?
    History {
        /// Whom.
        peer: NodeId,
        /// Oldest first.
        reply: oneshot::Sender<Vec<Moment>>,
    },
    /// How is it?
    Status(oneshot::Sender<Status>),
}

/// A ping's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// Which way the answer came.
    pub via: Destination,
    /// Round-trip time.
    pub rtt: Duration,
}

/// What the mesh task tells the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshEvent {
    /// Report to the coordinator where we are.
    Endpoints {
        /// Local and mapped.
        endpoints: Vec<Endpoint>,
        /// Where relayed packets for us should go.
        home_relay: Option<RelayId>,
    },
    /// Tell the coordinator whom we talk to.
    Interest(Vec<NodeId>),
    /// Tell the coordinator which ways data goes.
    Paths(Vec<PathReport>),
    /// A peer became reachable or unreachable.
    PeerChanged(NodeId),
}

/// The mesh task.
pub struct Mesh {
    engine: Engine<WireGuard>,
    relays: RelayLinks,
    streams: RelayStreams,
    scatter: Scatter,
    wire: Arc<Wire>,
    device: Device,
    map: Arc<NetworkMap>,
    events: mpsc::Sender<MeshEvent>,
    endpoints: Vec<Endpoint>,
    home_relay: Option<RelayId>,
    /// The daemon does not know the newest of these two yet.
    place_untold: bool,
    interest: Interests,
    interest_told: Instant,
    wall_told: Instant,
    pings: Vec<Waiting>,
    history: History,
    reports: Reports,
}

struct Waiting {
    peer: NodeId,
    until: Instant,
    reply: oneshot::Sender<Option<Pong>>,
}

impl Mesh {
    /// A mesh task with the node's key. `seed` is fresh entropy.
    pub fn new(
        secret: &NodeSecret,
        map: Arc<NetworkMap>,
        wire: Arc<Wire>,
        device: Device,
        seed: [u8; 32],
        rekey_after: Option<Duration>,
        events: mpsc::Sender<MeshEvent>,
    ) -> Self {
        let now = clock::now();
        let mut config = EngineConfig::new(secret.clone(), map.network);
        config.rekey_after = rekey_after;
        let mut engine = Engine::new(config, WireGuard::new(secret), seed, now);
        engine.handle_input(Input::WallClock(clock::wall()), now);
        Self {
            engine,
            relays: RelayLinks::new(secret.clone(), meshd_proto::keys::hash("meshd relay clients", &[&seed])),
            streams: RelayStreams::new(
                secret.clone(),
                meshd_proto::keys::hash("meshd relay streams", &[&seed]),
            ),
            scatter: Scatter::new(),
            wire,
            device,
            map,
            events,
            endpoints: Vec::new(),
            home_relay: None,
            place_untold: false,
            interest: Interests::default(),
            interest_told: now,
            wall_told: now,
            pings: Vec::new(),
            history: History::default(),
            reports: Reports::default(),
        }
    }

    /// Lets it reach relays by TCP where no UDP gets through.
    #[must_use]
    pub fn with_streams(mut self, dialer: Dialer) -> Self {
        self.streams.dial_with(dialer);
        self
    }

    /// What the data threads read.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.engine.data()
    }

    /// Runs until the daemon drops its sender.
    pub async fn run(mut self, mut up: mpsc::Receiver<HandUp>, mut commands: mpsc::Receiver<MeshCommand>) {
        let map = Arc::clone(&self.map);
        self.set_map(map);
        let mut burst = Vec::with_capacity(BURST);
        loop {
            self.flush();
            let wake = self.next_wake();
            // In random order: no source of work keeps the others waiting.
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                () = sleep_until(wake) => self.timeout(),
                arrived = self.scatter.next() => self.arrived(arrived),
                _ = up.recv_many(&mut burst, BURST) => {
                    let now = clock::now();
                    for what in burst.drain(..) {
                        self.handed_up(what, now);
                    }
                }
                event = self.streams.next() => {
                    self.stream_event(event);
                    for _ in 0..BURST {
                        let Some(event) = self.streams.try_next() else { break };
                        self.stream_event(event);
                    }
                }
            }
        }
    }

    fn command(&mut self, command: MeshCommand) {
        let now = clock::now();
        match command {
            MeshCommand::Map(map) => self.set_map(map),
            MeshCommand::Hints(hints) => self.engine.handle_input(Input::Hints(hints), now),
            MeshCommand::Preshared(keys) => self.engine.handle_input(Input::Preshared(keys), now),
            MeshCommand::Settings(settings) => self.engine.handle_input(Input::Settings(settings), now),
            MeshCommand::LocalEndpoints(endpoints) => {
                self.engine.handle_input(Input::LocalEndpoints(endpoints), now);
            }
            MeshCommand::RelayAddresses { relay, addrs } => {
                self.relays.set_addrs(relay, &addrs, now);
                self.engine.handle_input(Input::RelayAddresses { relay, addrs }, now);
            }
            MeshCommand::Permit(permit) => {
                self.relays.set_permit(permit, now);
                self.streams.set_permit(permit, now);
            }
            MeshCommand::LinksChanged => {
                self.relays.reattach(now);
                self.streams.retry(now);
                self.engine.handle_input(Input::LinkChanged, now);
            }
            MeshCommand::Ping { peer, until, reply } => {
                self.engine.handle_input(Input::Connect(peer), now);
                self.pings.retain(|p| !p.reply.is_closed());
                self.pings.push(Waiting { peer, until, reply });
            }
            MeshCommand::PortMapped(outside) => self.engine.handle_input(Input::PortMapped(outside), now),
            MeshCommand::Fitness(fitness) => self.engine.handle_input(Input::Fitness(fitness), now),
            // A caller that gave up needs no answer.
            MeshCommand::History { peer, reply } => drop(reply.send(self.history.of(peer))),
            MeshCommand::Status(reply) => drop(reply.send(self.engine.status(now))),
        }
    }

    fn set_map(&mut self, map: Arc<NetworkMap>) {
        let now = clock::now();
        self.relays.set_map(&map, now);
        self.streams.set_map(&map);
        self.map = Arc::clone(&map);
        self.engine.handle_input(Input::Map(map), now);
        self.publish_relays();
    }

    fn handed_up(&mut self, what: HandUp, now: Instant) {
        match what {
            HandUp::Datagram { from, payload } => {
                self.engine.handle_input(Input::Datagram { from, payload }, now);
            }
            HandUp::Outbound { packet } => self.engine.handle_input(Input::Outbound { packet }, now),
            HandUp::RelayHeard(relay) => self.relays.note_received(relay, now),
            HandUp::Seen { peer, from } => self.engine.handle_input(Input::PeerSeen { peer, from }, now),
            HandUp::RelayFrame { from, frame } => {
                if let Some((relay, addr, payload)) = self.relays.handle_frame(from, &frame, now)
                    && let Some(peer) = self.wire.relays().peers.get(&addr)
                {
                    let from = Destination::Relay { relay, peer: *peer };
                    self.engine.handle_input(Input::Datagram { from, payload: payload.to_vec() }, now);
                }
            }
        }
    }

    /// A datagram at one of the spare sockets.
    fn arrived(&mut self, arrived: Arrived) {
        let now = clock::now();
        let Arrived { socket, from, payload, adopted } = arrived;
        if adopted {
            self.scatter.heard(socket, now);
            let from = Destination::Udp(from);
            self.engine.handle_input(Input::Datagram { from, payload }, now);
        } else {
            self.engine.handle_input(Input::Scattered { socket, from, payload }, now);
        }
    }

    fn timeout(&mut self) {
        let now = clock::now();
        self.scatter.handle_timeout(&self.wire, now);
        if now >= self.wall_told + WALL_CLOCK {
            self.wall_told = now;
            self.engine.handle_input(Input::WallClock(clock::wall()), now);
            self.history.look(&self.engine.status(now), clock::wall());
            self.reports.look_soon(now);
        }
        if self.reports.is_due(now) {
            let news = self.reports.news(&self.engine.status(now));
            // Where the daemon has no time yet, the next look tells.
            if let Some(paths) = news
                && self.events.try_send(MeshEvent::Paths(paths.clone())).is_ok()
            {
                self.reports.told(paths);
            }
        }
        self.engine.handle_timeout(now);
        // The data threads send without asking: silence under traffic has to be noticed all the same.
        for relay in self.engine.relays_in_use(now) {
            self.relays.note_sent(relay, now);
        }
        self.relays.handle_timeout(now);
        self.streams.handle_timeout(now);
        let (due, waiting) = std::mem::take(&mut self.pings).into_iter().partition(|p| p.until <= now);
        self.pings = waiting;
        for ping in Vec::<Waiting>::from_iter(due) {
            let _ = ping.reply.send(None);
        }
    }

    fn next_wake(&self) -> Instant {
        let ping = self.pings.iter().map(|p| p.until).min();
        let interest = (!self.interest.is_over()).then_some(self.interest_told + INTEREST_RENEWAL);
        [
            self.engine.poll_timeout(),
            self.relays.poll_timeout(),
            self.streams.poll_timeout(),
            self.scatter.poll_timeout(),
            self.reports.due(),
            ping,
            interest,
        ]
        .into_iter()
        .flatten()
        .fold(self.wall_told + WALL_CLOCK, Instant::min)
    }

    /// Drains every output of the engine and of the relay clients.
    fn flush(&mut self) {
        self.flush_relays();
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::Interest(node) => self.interest.renew(node, clock::now()),
                Event::EndpointsChanged(endpoints) => {
                    self.endpoints = endpoints;
                    self.place_untold = true;
                }
                Event::HomeRelay(relay) => {
                    self.home_relay = Some(relay);
                    self.relays.want(relay, clock::now());
                    self.streams.want(relay);
                    self.place_untold = true;
                }
                Event::WantRelay(relay) => {
                    self.relays.want(relay, clock::now());
                    self.streams.want(relay);
                }
                Event::Deliver(packet) => {
                    if let Err(error) = self.device.write(Offload::None, &[IoSlice::new(&packet)]) {
                        tracing::debug!(%error, "a packet was not delivered to the host");
                    }
                }
                Event::PathChanged { peer, from, to, why } => {
                    let name = self.map.peers.get(&peer).map(|p| p.name.as_str());
                    tracing::info!(peer = name, ?from, ?to, why = why.as_str(), "path changed");
                    self.history.changed(peer, to, why, clock::wall());
                    self.reports.look_soon(clock::now());
                    self.hint(MeshEvent::PeerChanged(peer));
                }
                Event::PeerUp(peer) | Event::PeerDown(peer) => self.hint(MeshEvent::PeerChanged(peer)),
                Event::FlowsCut { count } => {
                    tracing::info!(count, "a change of policy cut live flows");
                }
                Event::Pong { peer, via, rtt } => self.pong(peer, Pong { via, rtt }),
                Event::Scatter { to, payload, sockets } => {
                    self.scatter.scatter(to, &payload, sockets, clock::now());
                }
                Event::Adopt { socket, endpoint } => {
                    self.scatter.adopt(socket, endpoint, &self.wire, clock::now());
                }
                Event::Release { endpoint } => self.scatter.release(endpoint, &self.wire),
            }
        }
        // After the events: they may say by which socket.
        while let Some(transmit) = self.engine.poll_transmit() {
            if let Err(error) = self.wire.send(transmit.to, &transmit.payload) {
                tracing::trace!(to = ?transmit.to, %error, "a datagram was not sent");
            }
            if let Destination::Relay { relay, .. } = transmit.to {
                self.relays.note_sent(relay, clock::now());
                self.streams.note_sent(relay, clock::now());
            }
        }
        self.flush_relays();
        let now = clock::now();
        let renew = now >= self.interest_told + INTEREST_RENEWAL;
        if self.interest.has_news() || (renew && !self.interest.is_over()) {
            self.interest_told = now;
            let nodes = self.interest.wanted(&self.map, now);
            // A daemon that has no time yet hears of it a little later: handshakes must not wait for that.
            if self.events.try_send(MeshEvent::Interest(nodes.clone())).is_ok() {
                self.interest.told(&nodes);
            }
        }
        if self.place_untold {
            let event =
                MeshEvent::Endpoints { endpoints: self.endpoints.clone(), home_relay: self.home_relay };
            self.place_untold = self.events.try_send(event).is_err();
        }
    }

    fn flush_relays(&mut self) {
        let now = clock::now();
        while let Some(t) = self.relays.poll_transmit() {
            if let Err(error) = self.wire.send_to(t.to, &t.payload) {
                tracing::trace!(to = %t.to, %error, "a relay frame was not sent");
            }
        }
        let mut changed = false;
        while let Some((relay, state)) = self.relays.poll_change() {
            let input = match state {
                RelayState::PeerGone(peer) => {
                    self.peer_gone(relay, peer, now);
                    continue;
                }
                RelayState::Up => Input::RelayUp(relay),
                // Where no UDP gets through that is what it says, while the stream carries everything.
                RelayState::Down if self.streams.attached().any(|(id, _)| id == relay) => continue,
                RelayState::Down => Input::RelayDown(relay),
                RelayState::Doubtful => Input::RelayDoubtful { relay, doubtful: true },
                RelayState::Clear => Input::RelayDoubtful { relay, doubtful: false },
            };
            changed = true;
            self.publish_relays();
            self.engine.handle_input(input, now);
        }
        self.streams.follow(&self.relays.attached(), now);
        while let Some((relay, up)) = self.streams.poll_change() {
            changed = true;
            // A relay that is lost by its stream and attached by UDP is not lost.
            if up || !self.relays.attached().contains_key(&relay) {
                self.publish_relays();
                let input = if up { Input::RelayUp(relay) } else { Input::RelayDown(relay) };
                self.engine.handle_input(input, now);
            }
        }
        while let Some((relay, peer)) = self.streams.poll_gone() {
            self.peer_gone(relay, peer, now);
        }
        if changed {
            self.publish_relays();
        }
    }

    fn peer_gone(&mut self, relay: RelayId, peer: RelayAddr, now: Instant) {
        tracing::trace!(%relay, ?peer, "not at this relay");
        if let Some(peer) = self.wire.relays().peers.get(&peer).copied() {
            self.engine.handle_input(Input::RelayPeerGone { relay, peer }, now);
        }
    }

    fn stream_event(&mut self, event: StreamEvent) {
        let now = clock::now();
        if let Some((relay, addr, payload)) = self.streams.handle(event, now)
            && let Some(peer) = self.wire.relays().peers.get(&addr)
        {
            let from = Destination::Relay { relay, peer: *peer };
            self.engine.handle_input(Input::Datagram { from, payload }, now);
        }
    }

    fn publish_relays(&self) {
        let peers = self.map.peers.values().map(|p| (RelayAddr::of(&p.key), p.key)).collect();
        // UDP goes before a stream.
        let mut relays: HashMap<RelayId, Endpoint> = self.streams.attached().collect();
        relays.extend(self.relays.attached());
        self.wire.set_streams(self.streams.queues());
        self.wire.set_relays(RelayPeers { relays, peers });
    }

    fn pong(&mut self, peer: NodeId, pong: Pong) {
        let (answered, waiting) = std::mem::take(&mut self.pings).into_iter().partition(|p| p.peer == peer);
        self.pings = waiting;
        for ping in Vec::<Waiting>::from_iter(answered) {
            let _ = ping.reply.send(Some(pong));
        }
    }

    /// Tells what the daemon looks at by itself too, a little later: a burst of it must not stop this task.
    fn hint(&self, event: MeshEvent) {
        let _ = self.events.try_send(event);
    }
}

async fn sleep_until(at: Instant) {
    tokio::time::sleep_until(at.into()).await;
}
