//! The state machine: control state of one node, owned by value by one task of the host.
//!
//! The parts of its one `impl`: [`map`] applies maps and publishes snapshots, [`handshake`] makes sessions,
//! [`upkeep`] keeps them, [`probing`] proves paths, [`meeting`] crosses difficult NATs, [`owners`] watches
//! routers that share a prefix, [`wan`] knows our own endpoints and the relays, [`report`] answers questions.
//!
//! Invariants: a path change touches no session; a map change touches no session of a peer that stays;
//! what a stranger sends changes nothing before it is authenticated.

mod handshake;
mod map;
mod meeting;
mod owners;
mod probing;
mod report;
mod sink;
mod upkeep;
mod wan;

use crate::data::conntrack::Conntrack;
use crate::data::routes::RouteTable;
use crate::data::{Counters, DataSnapshot, Datagram, DropReason, RuleCounters, open_run};
use crate::entropy::Entropy;
use crate::event::{Destination, EngineConfig, Event, Input, PathReason, Settings, Source, Transmit};
use crate::path::probe::{self, Fitness, SenderTag};
use crate::peers::Peers;
use crate::session::{MessageKind, Session, SessionFactory, SessionIndex};
use crate::stun::Stun;
use crate::timers::Timers;
use arc_swap::ArcSwap;
use meshd_policy::Filter;
use meshd_proto::{Endpoint, NetworkMap, NodeId, NodeKey, RelayId, UnixSeconds};
pub(crate) use owners::Duty;
use sink::Sink;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the engine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
    /// A session's own timers.
    Session(NodeId),
    /// A handshake initiation is repeated.
    Handshake(NodeId),
    /// The end of a handshake is repeated.
    Confirm(NodeId),
    /// A look at a peer's paths.
    Path(NodeId),
    /// A STUN request is due.
    Stun,
    /// The next STUN round.
    StunRound,
    /// A peer's key ends.
    Expiry,
    /// The next probes to random ports of a peer's NAT.
    Sweep(NodeId),
    /// A look at the routers that share a prefix.
    Owners,
}

/// What is known of the relays.
#[derive(Debug, Default)]
struct Relays {
    /// We are attached to these.
    up: BTreeSet<RelayId>,
    /// We have asked the host to attach to these.
    wanted: BTreeSet<RelayId>,
    /// These do not answer right now.
    doubtful: BTreeSet<RelayId>,
    /// We were, or tried to be, and are not.
    lost: BTreeSet<RelayId>,
    /// Where peers send to us.
    home: Option<RelayId>,
    /// And where else, when that one is silent.
    backup: Option<RelayId>,
}

impl Relays {
    fn retain(&mut self, keep: impl Fn(&RelayId) -> bool) {
        self.up.retain(&keep);
        self.wanted.retain(&keep);
        self.doubtful.retain(&keep);
        self.lost.retain(&keep);
    }
}

/// The engine. See the crate's documentation for the order of calls.
pub struct Engine<F: SessionFactory> {
    config: EngineConfig,
    public: NodeKey,
    tag: SenderTag,
    factory: F,
    entropy: Entropy,
    map: Arc<NetworkMap>,
    settings: Settings,
    wall: Option<(UnixSeconds, Instant)>,
    peers: Peers<F::Session>,
    indexes: HashMap<SessionIndex, NodeId>,
    timers: Timers<Timer>,
    stun: Stun,
    relays: Relays,
    /// What this node says of itself in every probe.
    fitness: Fitness,
    local: Vec<Endpoint>,
    /// What a router maps to us.
    port_mapped: Option<Endpoint>,
    endpoints: Vec<Endpoint>,
    generation: u64,
    flows_cut: u64,
    counters: Arc<Counters>,
    epoch: Instant,
    data: Arc<ArcSwap<DataSnapshot<F::Session>>>,
    /// Peers that share a prefix, and when one of them last had something to carry.
    owners: owners::Owners,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl<F: SessionFactory> Engine<F> {
    /// An engine without a map: it does nothing until it gets one.
    ///
    /// `factory` makes the sessions for the same key as `config`. `seed` is 32 random bytes.
    pub fn new(config: EngineConfig, factory: F, seed: [u8; 32], now: Instant) -> Self {
        let mut entropy = Entropy::new(seed);
        let public = config.secret.public();
        let counters = Arc::new(Counters::default());
        let snapshot = DataSnapshot {
            generation: 0,
            routes: RouteTable::default(),
            filter: Filter::default(),
            rules: RuleCounters::default(),
            own: None,
            peers: Vec::new(),
            sources: Vec::new(),
            by_index: HashMap::new(),
            conntrack: Arc::new(Conntrack::new(entropy.bytes())),
            counters: Arc::clone(&counters),
            epoch: now,
        };
        Self {
            tag: SenderTag::of(&config.network, &public),
            map: Arc::new(NetworkMap::empty(config.network)),
            config,
            public,
            factory,
            entropy,
            settings: Settings::default(),
            wall: None,
            peers: Peers::new(),
            indexes: HashMap::new(),
            timers: Timers::new(),
            stun: Stun::default(),
            relays: Relays::default(),
            fitness: Fitness::Fit,
            local: Vec::new(),
            port_mapped: None,
            endpoints: Vec::new(),
            generation: 0,
            flows_cut: 0,
            counters,
            epoch: now,
            data: Arc::new(ArcSwap::from_pointee(snapshot)),
            owners: owners::Owners::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes one input. Drain [`Self::poll_transmit`] and [`Self::poll_event`] afterwards.
    pub fn handle_input(&mut self, input: Input, now: Instant) {
        match input {
            Input::Map(map) => self.apply_map(map, now),
            Input::Preshared(keys) => self.config.preshared = keys,
            Input::Settings(settings) => self.apply_settings(settings, now),
            Input::WallClock(seconds) => self.set_wall_clock(seconds, now),
            Input::Hints(hints) => hints.into_iter().for_each(|h| self.apply_hint(h, now)),
            Input::LinkChanged => self.link_changed(now),
            Input::LocalEndpoints(local) => self.set_local_endpoints(local, now),
            Input::PortMapped(outside) => self.set_port_mapped(outside, now),
            Input::RelayAddresses { relay, addrs } => self.set_relay_addresses(relay, &addrs, now),
            Input::RelayUp(relay) => self.relay_up(relay, now),
            Input::RelayDown(relay) => self.relay_down(relay, now),
            Input::RelayDoubtful { relay, doubtful } => self.relay_doubtful(relay, doubtful, now),
            Input::RelayPeerGone { relay, peer } => self.relay_peer_gone(relay, &peer, now),
            Input::Fitness(fitness) => self.set_fitness(fitness, now),
            Input::Scattered { socket, from, payload } => self.scattered(socket, from, &payload, now),
            Input::Datagram { from, payload } => self.handle_datagram(from, &payload, now),
            Input::Outbound { packet } => self.handle_outbound(packet, now),
            Input::PeerSeen { peer, from } => self.peer_seen(peer, from, now),
            Input::Connect(peer) => self.connect(peer, now),
        }
    }

    /// Does what is due. Call it when the time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Session(peer) => self.tick_session(peer, now),
                Timer::Handshake(peer) => self.retry_handshake(peer, now),
                Timer::Confirm(peer) => self.confirm(peer, now),
                Timer::Path(peer) => self.look_at_paths(peer, now),
                Timer::Stun => self.poll_stun(now),
                Timer::StunRound => self.next_stun_round(now),
                Timer::Expiry => self.check_expiry(now),
                Timer::Sweep(peer) => self.sweep(peer, now),
                Timer::Owners => self.look_at_owners(now),
            }
        }
    }

    /// When [`Self::handle_timeout`] is to be called next; `None`: only after another input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing the host should know or do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What the data threads use. The same cell for the engine's whole life.
    pub fn data(&self) -> Arc<ArcSwap<DataSnapshot<F::Session>>> {
        Arc::clone(&self.data)
    }

    fn send(&mut self, to: Destination, payload: Vec<u8>) {
        self.transmits.push_back(Transmit { to, payload });
    }

    fn handle_datagram(&mut self, from: Source, payload: &[u8], now: Instant) {
        match MessageKind::of(payload) {
            MessageKind::Initiation => self.handle_initiation(from, payload, now),
            MessageKind::Response | MessageKind::Cookie => self.handle_handshake_answer(from, payload, now),
            MessageKind::Data => self.open_slowly(from, payload, now),
            MessageKind::Other if probe::is_probe(payload) => self.handle_probe(from, payload, now),
            MessageKind::Other => self.handle_stun(from, payload, now),
        }
    }

    /// Opens a data message here, not in a data thread.
    fn open_slowly(&mut self, from: Source, payload: &[u8], now: Instant) {
        let snapshot = self.data.load_full();
        let mut sink = Sink::default();
        open_run(&snapshot, [Datagram::unmarked(from, payload)], &mut sink, now);
        self.events.extend(sink.delivered.drain(..).map(Event::Deliver));
        for (peer, from) in sink.seen {
            self.peer_seen(peer, from, now);
        }
    }

    /// Writes a peer's path to its slot after `paths` changed, and says so.
    fn sync_path(&mut self, id: NodeId, change: Option<PathReason>, now: Instant) {
        let Some(why) = change else { return };
        let Some(state) = self.peers.get_mut(id) else { return };
        let choice = state.paths.choice();
        let before = {
            let mut live = state.slot.lock();
            std::mem::replace(&mut live.path, choice)
        };
        let in_doubt = matches!(
            why,
            PathReason::Doubtful
                | PathReason::Recovered
                | PathReason::RelayDoubtful
                | PathReason::RelayRecovered
        );
        if state.up && before != choice && (before.to != choice.to || in_doubt) {
            self.events.push_back(Event::PathChanged { peer: id, from: before.to, to: choice.to, why });
        }
        if before.to.is_none() && choice.to.is_some() && !state.queue.is_empty() {
            self.flush(id, now);
        }
    }

    /// Whether there is a session to send with.
    fn is_ready(&self, id: NodeId, now: Instant) -> bool {
        self.peers.get(id).is_some_and(|p| p.slot.lock().session.as_ref().is_some_and(|s| s.is_ready(now)))
    }

    /// Whether data goes to or from a peer, or is about to.
    fn in_use(&self, id: NodeId, now: Instant) -> bool {
        self.peers.get(id).is_some_and(|p| {
            p.attempt.is_some() || p.activity(self.epoch).idle_for(now) < crate::path::RECENT
        })
    }

    fn count(&self, why: DropReason) {
        self.counters.count(why);
    }
}

/// A timer that would fire at once, but in the next call.
const SOON: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests;
