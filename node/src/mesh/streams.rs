//! Relays by TCP, TLS or WebSocket, where no UDP gets through.
//!
//! A relay that is wanted and not attached by UDP within a moment is dialled as well; once it is attached by
//! UDP after all, the stream is closed. The relay itself sees to it that a node is attached once: the newer
//! attach counts. To everybody else a stream is an address of its own kind ([`is_stream`]): the relay client
//! attaches through it as by UDP, the data threads put frames for it into its queue.
//!
//! It never decides which relay is wanted, and it holds one stream to a relay at most.

use crate::dial::{DialError, Dialer};
use meshd_proto::permit::SignedPermit;
use meshd_proto::relay::RelayAddr;
use meshd_proto::{Endpoint, NetworkMap, NodeKey, NodeSecret, RelayId};
use meshd_relay::client::{RelayClient, RelayEvent};
use meshd_relay::stream::upgrade::RELAY;
use meshd_relay::stream::{BoxIo, FrameQueue, pump};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// UDP gets this much of a start.
const UDP_START: Duration = Duration::from_millis(150);
/// First pause after a stream that could not be had; doubles up to the second.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// The first frame of ours is on an open stream long before.
const PATIENCE: Duration = Duration::from_secs(60);
/// Frames from streams that wait for the mesh task.
const QUEUE: usize = 1024;
/// Addresses of streams: the discard-only prefix (RFC 6666), to which nothing can be sent by mistake.
const PREFIX: u128 = 0x0100 << 112;

/// Whether an address is a stream's.
pub(crate) fn is_stream(at: &Endpoint) -> bool {
    matches!(at.0.ip(), IpAddr::V6(ip) if ip.to_bits() >> 64 == PREFIX >> 64)
}

/// What happened on a stream.
pub(super) enum StreamEvent {
    /// A dial ended.
    Dialed { relay: RelayId, turn: u16, result: Box<(Dialer, Result<BoxIo, DialError>)> },
    /// A stream ended.
    Ended { relay: RelayId, turn: u16 },
    /// A frame came by a stream.
    Frame { from: Endpoint, frame: Vec<u8> },
}

#[derive(Debug)]
enum State {
    /// To be dialled then.
    Waiting(Instant),
    Dialing,
    Open {
        client: Box<RelayClient>,
        queue: FrameQueue,
        at: Endpoint,
    },
}

#[derive(Debug)]
struct Link {
    state: State,
    failures: u32,
    /// Which dial or stream an event belongs to.
    turn: u16,
    /// Kept between dials: it knows which way worked.
    dialer: Option<Dialer>,
}

#[derive(Clone, Debug)]
struct Relay {
    key: NodeKey,
    names: Vec<String>,
}

/// The streams, one for each relay that is wanted and not attached by UDP.
pub(super) struct RelayStreams {
    secret: NodeSecret,
    seed: [u8; 32],
    /// `None`: this node dials no streams.
    dialing: Option<Dialer>,
    permit: Option<SignedPermit>,
    relays: HashMap<RelayId, Relay>,
    wanted: BTreeSet<RelayId>,
    links: HashMap<RelayId, Link>,
    tasks: JoinSet<StreamEvent>,
    frames_tx: mpsc::Sender<(Endpoint, Vec<u8>)>,
    frames: mpsc::Receiver<(Endpoint, Vec<u8>)>,
    changes: VecDeque<(RelayId, bool)>,
    gone: VecDeque<(RelayId, RelayAddr)>,
}

impl RelayStreams {
    pub(super) fn new(secret: NodeSecret, seed: [u8; 32]) -> Self {
        let (frames_tx, frames) = mpsc::channel(QUEUE);
        Self {
            secret,
            seed,
            dialing: None,
            permit: None,
            relays: HashMap::new(),
            wanted: BTreeSet::new(),
            links: HashMap::new(),
            tasks: JoinSet::new(),
            frames_tx,
            frames,
            changes: VecDeque::new(),
            gone: VecDeque::new(),
        }
    }

    /// Lets it dial; each link has a copy of its own.
    pub(super) fn dial_with(&mut self, dialer: Dialer) {
        self.dialing = Some(dialer);
    }

    pub(super) fn set_map(&mut self, map: &NetworkMap) {
        let with_tcp = map.relays.values().filter(|r| r.tls_port != 0);
        self.relays = with_tcp
            .map(|r| {
                let names = r.hosts.iter().map(|host| at_port(host, r.tls_port)).collect();
                (r.id, Relay { key: r.key, names })
            })
            .collect();
        let gone: Vec<RelayId> =
            self.links.keys().filter(|id| !self.relays.contains_key(id)).copied().collect();
        gone.into_iter().for_each(|id| self.close(id));
    }

    pub(super) fn set_permit(&mut self, permit: SignedPermit, now: Instant) {
        self.permit = Some(permit);
        for link in self.links.values_mut() {
            if let State::Open { client, .. } = &mut link.state {
                client.set_permit(permit, now);
            }
        }
    }

    pub(super) fn want(&mut self, relay: RelayId) {
        self.wanted.insert(relay);
    }

    /// Opens what UDP has not attached, closes what it has.
    pub(super) fn follow(&mut self, by_udp: &HashMap<RelayId, Endpoint>, now: Instant) {
        if self.dialing.is_none() || self.permit.is_none() {
            return;
        }
        for id in self.wanted.clone() {
            if by_udp.contains_key(&id) {
                self.close(id);
            } else if self.relays.contains_key(&id) {
                let state = State::Waiting(now + UDP_START);
                self.links.entry(id).or_insert(Link { state, failures: 0, turn: 0, dialer: None });
            }
        }
    }

    /// The links changed: what is open may be dead, what failed may work now.
    pub(super) fn retry(&mut self, now: Instant) {
        for link in self.links.values_mut() {
            match &mut link.state {
                State::Waiting(at) => *at = now,
                State::Dialing => {}
                State::Open { client, .. } => client.reattach(now),
            }
            link.failures = 0;
        }
    }

    pub(super) fn note_sent(&mut self, relay: RelayId, now: Instant) {
        if let Some(Link { state: State::Open { client, .. }, .. }) = self.links.get_mut(&relay) {
            client.note_sent(now);
        }
    }

    /// The next thing that happens; pends while nothing does.
    pub(super) async fn next(&mut self) -> StreamEvent {
        loop {
            tokio::select! {
                Some((from, frame)) = self.frames.recv() => return StreamEvent::Frame { from, frame },
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => match ended {
                    Ok(event) => return event,
                    Err(error) if error.is_panic() => tracing::error!(%error, "a relay stream's task broke"),
                    Err(_) => {}
                },
                else => std::future::pending().await,
            }
        }
    }

    /// A frame that has come already.
    pub(super) fn try_next(&mut self) -> Option<StreamEvent> {
        let (from, frame) = self.frames.try_recv().ok()?;
        Some(StreamEvent::Frame { from, frame })
    }

    /// Takes in what [`Self::next`] gave. The payload of a data frame comes back with its relay and sender.
    pub(super) fn handle(
        &mut self,
        event: StreamEvent,
        now: Instant,
    ) -> Option<(RelayId, RelayAddr, Vec<u8>)> {
        let mut found = None;
        match event {
            StreamEvent::Dialed { relay, turn, result } => self.dialed(relay, turn, *result, now),
            StreamEvent::Ended { relay, turn } => {
                if self.links.get(&relay).is_some_and(|l| l.turn == turn) {
                    tracing::debug!(%relay, "the stream to a relay ended");
                    self.lost(relay, now);
                }
            }
            StreamEvent::Frame { from, frame } => {
                for (id, link) in &mut self.links {
                    if let State::Open { client, at, .. } = &mut link.state
                        && *at == from
                        && let Some(inbound) = client.handle_datagram(from, &frame, now)
                    {
                        found = Some((*id, inbound.peer, inbound.payload.to_vec()));
                    }
                }
            }
        }
        self.collect(now);
        found
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (id, link) in &mut self.links {
            match &mut link.state {
                State::Waiting(at) if *at <= now => due.push(*id),
                State::Open { client, .. } if client.poll_timeout().is_some_and(|at| at <= now) => {
                    client.handle_timeout(now);
                }
                State::Waiting(_) | State::Dialing | State::Open { .. } => {}
            }
        }
        due.into_iter().for_each(|id| self.dial(id));
        self.collect(now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = |link: &Link| match &link.state {
            State::Waiting(at) => Some(*at),
            State::Dialing => None,
            State::Open { client, .. } => client.poll_timeout(),
        };
        self.links.values().filter_map(due).min()
    }

    /// The next relay that came up (`true`) or went down by its stream.
    pub(super) fn poll_change(&mut self) -> Option<(RelayId, bool)> {
        self.changes.pop_front()
    }

    /// The next peer that a relay says is not attached there.
    pub(super) fn poll_gone(&mut self) -> Option<(RelayId, RelayAddr)> {
        self.gone.pop_front()
    }

    /// Where each relay is that is attached by a stream.
    pub(super) fn attached(&self) -> impl Iterator<Item = (RelayId, Endpoint)> + '_ {
        self.links.iter().filter_map(|(id, link)| match &link.state {
            State::Open { client, .. } => Some((*id, client.endpoint()?)),
            State::Waiting(_) | State::Dialing => None,
        })
    }

    /// What leads to each open stream.
    pub(super) fn queues(&self) -> HashMap<Endpoint, FrameQueue> {
        let open = self.links.values().filter_map(|link| match &link.state {
            State::Open { queue, at, .. } => Some((*at, queue.clone())),
            State::Waiting(_) | State::Dialing => None,
        });
        open.collect()
    }

    fn dial(&mut self, id: RelayId) {
        let (Some(new), Some(relay)) = (&self.dialing, self.relays.get(&id)) else { return };
        let Some(link) = self.links.get_mut(&id) else { return };
        let dialer = link.dialer.take().unwrap_or_else(|| new.clone());
        link.state = State::Dialing;
        link.turn = link.turn.wrapping_add(1);
        let (turn, names) = (link.turn, relay.names.clone());
        self.tasks.spawn(async move {
            let mut dialer = dialer;
            let result = dialer.open(&names, RELAY, |io, _| std::future::ready(Ok(io))).await;
            let result = Box::new((dialer, result.map(|(io, _)| io)));
            StreamEvent::Dialed { relay: id, turn, result }
        });
    }

    fn dialed(
        &mut self,
        id: RelayId,
        turn: u16,
        (dialer, result): (Dialer, Result<BoxIo, DialError>),
        now: Instant,
    ) {
        let (Some(permit), Some(relay)) = (self.permit, self.relays.get(&id)) else { return };
        let Some(link) = self.links.get_mut(&id).filter(|l| l.turn == turn) else { return };
        let way = dialer.worked().copied();
        link.dialer = Some(dialer);
        let io = match result {
            Ok(io) => io,
            Err(error) => {
                tracing::debug!(relay = %id, %error, "no stream to a relay");
                return self.lost(id, now);
            }
        };
        tracing::debug!(relay = %id, ?way, "a stream to a relay is open");
        let at = address(id, turn);
        let queue = FrameQueue::default();
        let (out, inbound) = (queue.clone(), self.frames_tx.clone());
        self.tasks.spawn(async move {
            let wrap = |frame| (at, frame);
            if let Err(error) = pump(io, &out, &inbound, wrap, |_| true, PATIENCE).await {
                tracing::debug!(relay = %id, %error, "the stream to a relay broke");
            }
            StreamEvent::Ended { relay: id, turn }
        });
        let tag = [&id.0.to_le_bytes()[..], &turn.to_le_bytes()].concat();
        let seed = meshd_proto::keys::keyed_hash(&self.seed, "relay stream", &[&tag]);
        let mut client = Box::new(RelayClient::new(self.secret.clone(), relay.key, permit, &[at], seed, now));
        client.handle_timeout(now);
        link.state = State::Open { client, queue, at };
    }

    /// No stream now: another try after a pause.
    fn lost(&mut self, id: RelayId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let pause = RETRY[0].saturating_mul(1 << link.failures.min(5)).min(RETRY[1]);
        link.failures += 1;
        link.turn = link.turn.wrapping_add(1);
        if let State::Open { client, queue, .. } =
            std::mem::replace(&mut link.state, State::Waiting(now + pause))
        {
            queue.close();
            if client.endpoint().is_some() {
                self.changes.push_back((id, false));
            }
        }
    }

    /// The stream is not needed any more.
    fn close(&mut self, id: RelayId) {
        if let Some(Link { state: State::Open { queue, .. }, .. }) = self.links.remove(&id) {
            queue.close();
        }
    }

    /// Sends what the clients want to send, and notes what they say.
    fn collect(&mut self, now: Instant) {
        let mut broken = Vec::new();
        for (id, link) in &mut self.links {
            let State::Open { client, queue, .. } = &mut link.state else { continue };
            while let Some(transmit) = client.poll_transmit() {
                queue.push(&transmit.payload, now);
            }
            while let Some(event) = client.poll_event() {
                match event {
                    RelayEvent::Up { .. } => {
                        link.failures = 0;
                        tracing::info!(relay = %id, "attached to a relay by a stream: no UDP to it gets through");
                        self.changes.push_back((*id, true));
                    }
                    RelayEvent::Down { why } => {
                        tracing::debug!(relay = %id, %why, "a relay is not usable by its stream");
                        broken.push(*id);
                    }
                    RelayEvent::PeerGone(peer) => self.gone.push_back((*id, peer)),
                    RelayEvent::Doubtful | RelayEvent::Clear => {}
                }
            }
        }
        for id in broken {
            self.changes.push_back((id, false));
            self.lost(id, now);
        }
    }
}

fn address(relay: RelayId, turn: u16) -> Endpoint {
    let ip = Ipv6Addr::from_bits(PREFIX | u128::from(relay.0));
    Endpoint(SocketAddr::new(ip.into(), turn.max(1)))
}

fn at_port(host: &str, port: u16) -> String {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests;
