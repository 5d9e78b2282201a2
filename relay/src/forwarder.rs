//! The relay as a state machine: who is attached where, what is forwarded to whom, what is answered.
//!
//! It does no I/O and reads no clock. The shell hands in every datagram with its source, the wall-clock
//! time (for permits) and the monotonic time, sends what [`RelayServer::poll_transmit`] gives, and sends a
//! forwarded datagram itself, from the buffer it received it in.
//!
//! Invariants:
//! - one datagram in causes at most one datagram out, which is never longer unless the sender is attached
//!   and the datagram is forwarded as it is;
//! - nothing is stored for a source that has not proved its address, its permit and its node key;
//! - of two attaches of one node key the one with the newer cookie counts, whatever the order of arrival;
//! - only WireGuard messages and sealed probes are forwarded; neither can be read here.

mod admission;
mod counters;

pub use counters::{Counters, DropReason};

pub use crate::rate::Rate;

use crate::rate::TokenBucket;
use admission::Admission;
use meshd_proto::permit::{PERMIT_LIFETIME, SignedPermit};
use meshd_proto::relay::{
    AttachKeys, Cookie, DatagramKind, Frame, MIN_PAYLOAD, Proof, RefuseReason, RelayAddr, SessionToken,
    readdress,
};
use meshd_proto::stun::Binding;
use meshd_proto::{Endpoint, NetworkId, NodeKey, NodeSecret, UnixSeconds, VerifyingKey};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A client that was silent for this long is forgotten: three missed keepalives and a spare.
pub const CLIENT_IDLE: Duration = Duration::from_secs(60);
/// How often the table is swept.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// At most one *PeerGone* to a client in this time.
pub const PEER_GONE_INTERVAL: Duration = Duration::from_millis(50);
/// Answers waiting for the shell; more are dropped. The shell drains after each datagram.
const MAX_PENDING: usize = 1024;

/// Bounds of a relay; the defaults suit a small public server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Most attached nodes.
    pub max_clients: usize,
    /// Bytes one node may send through, per second and at once.
    pub client_bytes: Rate,
    /// How long an attach is good for (less when its permit ends earlier).
    pub attach_lifetime: Duration,
    /// Attach attempts with a valid cookie per source network, per second and at once: each costs a
    /// signature check and a Diffie-Hellman.
    pub source_attaches: Rate,
    /// *Refused* to data of sources that are not attached, in total.
    pub strays: Rate,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            max_clients: 10_000,
            client_bytes: Rate { per_second: 31_250_000, burst: 4 << 20 },
            attach_lifetime: Duration::from_secs(3600),
            source_attaches: Rate { per_second: 200, burst: 500 },
            strays: Rate { per_second: 2000, burst: 2000 },
        }
    }
}

/// The local end of a datagram: an answer leaves by the socket, and from the address, that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Local {
    /// Which of the shell's sockets.
    pub socket: u8,
    /// Which of the host's addresses, where the system says.
    pub ip: Option<IpAddr>,
}

/// An answer to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From where.
    pub from: Local,
    /// Where to.
    pub to: Endpoint,
    /// The datagram.
    pub payload: Vec<u8>,
}

/// The datagram that was handed in, changed in place, goes on to this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// From where.
    pub from: Local,
    /// Where to.
    pub to: Endpoint,
}

type Source = (Local, Endpoint);

#[derive(Debug)]
struct Client {
    node: NodeKey,
    at: Source,
    session: SessionToken,
    /// When the cookie of its attach was made: an older one does not replace it.
    cookie_ms: u64,
    lifetime_secs: u32,
    expires: Instant,
    last_seen: Instant,
    bytes: TokenBucket,
    next_peer_gone: Instant,
}

/// The relay of one network.
#[derive(Debug)]
pub struct RelayServer {
    key: NodeSecret,
    public: NodeKey,
    limits: RelayLimits,
    admission: Admission,
    clients: HashMap<RelayAddr, Client>,
    sources: HashMap<Source, RelayAddr>,
    /// Revoked keys, and until when it matters: a permit cannot live longer.
    revoked: BTreeMap<NodeKey, UnixSeconds>,
    /// The only keys to admit, where somebody tells; else every key with a permit.
    members: Option<BTreeSet<NodeKey>>,
    strays: TokenBucket,
    /// Socket → the one at the other port of the same address, for *change port* (RFC 5780).
    other_ports: BTreeMap<u8, u8>,
    pending: VecDeque<Transmit>,
    next_sweep: Instant,
    counters: Counters,
}

/// What came in, with where and when.
#[derive(Clone, Copy)]
struct Arrival {
    from: Source,
    len: usize,
    wall: UnixSeconds,
    now: Instant,
}

impl RelayServer {
    /// A relay that admits nodes of `network` with a permit that one of `permit_keys` signed (the
    /// coordinator's key, and its successor during a rotation). `seed` makes its cookies unguessable.
    pub fn new(
        network: NetworkId,
        permit_keys: Vec<VerifyingKey>,
        key: NodeSecret,
        limits: RelayLimits,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        Self {
            public: key.public(),
            key,
            limits,
            admission: Admission::new(network, permit_keys, limits.source_attaches, seed, now),
            clients: HashMap::new(),
            sources: HashMap::new(),
            revoked: BTreeMap::new(),
            members: None,
            strays: TokenBucket::full(limits.strays, now),
            other_ports: BTreeMap::new(),
            pending: VecDeque::new(),
            next_sweep: now + SWEEP_INTERVAL,
            counters: Counters::default(),
        }
    }

    /// The relay's public key, as the map names it.
    pub const fn public_key(&self) -> NodeKey {
        self.public
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.clients = self.clients.len() as u64;
        counters
    }

    /// Counts datagrams that the shell could not send: its socket would have blocked, or refused.
    pub fn note_unsent(&mut self, reason: DropReason, datagrams: u64) {
        self.counters.drop_many(reason, datagrams);
    }

    /// Replaces the keys that permits may be signed with.
    pub fn set_permit_keys(&mut self, keys: Vec<VerifyingKey>) {
        self.admission.set_permit_keys(keys);
    }

    /// Detaches a node key at once and admits it no more.
    pub fn revoke(&mut self, node: NodeKey, wall: UnixSeconds) {
        self.revoked.insert(node, UnixSeconds(wall.0.saturating_add(2 * PERMIT_LIFETIME)));
        if let Some(members) = &mut self.members {
            members.remove(&node);
        }
        self.detach(RelayAddr::of(&node));
    }

    /// Takes a revocation back, or adds a member.
    pub fn reinstate(&mut self, node: NodeKey) {
        self.revoked.remove(&node);
        if let Some(members) = &mut self.members {
            members.insert(node);
        }
    }

    /// From now on only these keys are admitted, permit or not; everybody else is detached at once. A
    /// relay that knows the members (the coordinator's) needs no memory of who was revoked before it
    /// started.
    pub fn set_members(&mut self, members: BTreeSet<NodeKey>) {
        let gone: Vec<RelayAddr> =
            self.clients.iter().filter(|(_, c)| !members.contains(&c.node)).map(|(addr, _)| *addr).collect();
        gone.into_iter().for_each(|addr| self.detach(addr));
        self.members = Some(members);
    }

    /// A source is gone for good: the stream that it came by has ended.
    pub fn source_gone(&mut self, local: Local, from: Endpoint) {
        if let Some(addr) = self.sources.get(&(local, from)).copied() {
            self.detach(addr);
        }
    }

    /// Whether `node` is attached.
    pub fn is_attached(&self, node: &NodeKey) -> bool {
        self.clients.contains_key(&RelayAddr::of(node))
    }

    /// Names the sockets that share an address and differ in their port, both ways.
    pub fn set_other_ports(&mut self, pairs: BTreeMap<u8, u8>) {
        self.other_ports = pairs;
    }

    /// Handles a datagram that came in by a socket that serves STUN only.
    pub fn handle_stun(&mut self, local: Local, from: Endpoint, datagram: &[u8]) {
        if !from.is_sendable() {
            self.counters.drop(DropReason::BadSource);
            return;
        }
        let binding = Binding::parse(datagram).ok();
        let other = match binding {
            Some(Binding::Request { change_port: true, .. }) => {
                self.other_ports.get(&local.socket).map(|socket| Local { socket: *socket, ..local })
            }
            _ => Some(local),
        };
        let Some(local) = other else {
            self.counters.drop(DropReason::BadStun);
            return;
        };
        match binding.and_then(|binding| binding.answer(from)) {
            Some(payload) => {
                self.counters.stun_answers += 1;
                self.push(local, from, payload, datagram.len());
            }
            None => self.counters.drop(DropReason::BadStun),
        }
    }

    /// Handles a datagram. When it is to be forwarded, it has been readdressed in place and goes to the
    /// returned client; whatever is to be answered waits in [`Self::poll_transmit`].
    pub fn handle_datagram(
        &mut self,
        local: Local,
        from: Endpoint,
        datagram: &mut [u8],
        wall: UnixSeconds,
        now: Instant,
    ) -> Option<Forward> {
        if !from.is_sendable() {
            self.counters.drop(DropReason::BadSource);
            return None;
        }
        match DatagramKind::of(datagram) {
            DatagramKind::Relay => {}
            DatagramKind::Stun => {
                self.handle_stun(local, from, datagram);
                return None;
            }
            DatagramKind::Wireguard | DatagramKind::Probe | DatagramKind::Unknown => {
                self.counters.drop(DropReason::NotForRelay);
                return None;
            }
        }
        let arrival = Arrival { from: (local, from), len: datagram.len(), wall, now };
        match Frame::parse(datagram) {
            Ok(Frame::Data { peer, payload }) => {
                let (source, forward) = self.route(arrival, peer, payload)?;
                readdress(datagram, source);
                return Some(forward);
            }
            Ok(Frame::Hello { node, nonce }) => {
                let cookie = self.admission.cookie(from, &node, now);
                self.answer(arrival, Frame::Challenge { nonce, cookie, relay: self.public });
            }
            Ok(Frame::Attach { cookie, permit, proof }) => {
                let frame = match self.attach(arrival, cookie, &permit, proof) {
                    Ok(attached) => attached,
                    Err(reason) => {
                        self.counters.refuse(reason);
                        Frame::Refused { reason, echo: cookie.echo() }
                    }
                };
                self.answer(arrival, frame);
            }
            Ok(Frame::Ping { session, seq }) => match self.client_at(arrival) {
                Some((_, client)) if client.session.matches(&session) => {
                    client.last_seen = now;
                    self.answer(arrival, Frame::Pong { session, seq });
                }
                Some(_) | None => self.refuse_stray(arrival),
            },
            // What only a relay sends.
            Ok(
                Frame::Challenge { .. }
                | Frame::Attached { .. }
                | Frame::Refused { .. }
                | Frame::Pong { .. }
                | Frame::PeerGone { .. }
                | Frame::Restarting { .. },
            )
            | Err(_) => self.counters.drop(DropReason::BadFrame),
        }
        None
    }

    /// Forgets who is silent or whose attach has ended.
    pub fn handle_timeout(&mut self, wall: UnixSeconds, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP_INTERVAL;
        let gone: Vec<RelayAddr> = self
            .clients
            .iter()
            .filter(|(_, c)| c.expires <= now || c.last_seen + CLIENT_IDLE <= now)
            .map(|(addr, _)| *addr)
            .collect();
        gone.into_iter().for_each(|addr| self.detach(addr));
        self.revoked.retain(|_, until| *until > wall);
    }

    /// When [`Self::handle_timeout`] is due.
    pub const fn poll_timeout(&self) -> Instant {
        self.next_sweep
    }

    /// The next answer to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.pending.pop_front()
    }

    /// Says to every client that the relay stops, and forgets them all. The shell drains
    /// [`Self::poll_transmit`] afterwards; there is one frame for each client.
    pub fn stop(&mut self) {
        for (_, client) in self.clients.drain() {
            let mut payload = Vec::new();
            Frame::Restarting { session: client.session }.encode(&mut payload);
            let (from, to) = client.at;
            self.pending.push_back(Transmit { from, to, payload });
        }
        self.sources.clear();
    }

    fn client_at(&mut self, arrival: Arrival) -> Option<(RelayAddr, &mut Client)> {
        let addr = *self.sources.get(&arrival.from)?;
        let client = self.clients.get_mut(&addr)?;
        (client.expires > arrival.now).then_some((addr, client))
    }

    fn route(&mut self, arrival: Arrival, to: RelayAddr, payload: &[u8]) -> Option<(RelayAddr, Forward)> {
        let limits = self.limits;
        let Some((source, sender)) = self.client_at(arrival) else {
            self.refuse_stray(arrival);
            return None;
        };
        sender.last_seen = arrival.now;
        let sealed = matches!(DatagramKind::of(payload), DatagramKind::Wireguard | DatagramKind::Probe);
        if !sealed || payload.len() < MIN_PAYLOAD || to == source {
            self.counters.drop(DropReason::NotCiphertext);
            return None;
        }
        if !sender.bytes.take(arrival.len as u64, limits.client_bytes, arrival.now) {
            self.counters.drop(DropReason::RateLimited);
            return None;
        }
        let session = sender.session;
        let notice = sender.next_peer_gone <= arrival.now;
        match self.clients.get(&to).filter(|peer| peer.expires > arrival.now) {
            Some(peer) => {
                self.counters.forwarded_packets += 1;
                self.counters.forwarded_bytes += payload.len() as u64;
                let (from, to) = peer.at;
                Some((source, Forward { from, to }))
            }
            None => {
                self.counters.drop(DropReason::PeerGone);
                if notice {
                    if let Some((_, sender)) = self.client_at(arrival) {
                        sender.next_peer_gone = arrival.now + PEER_GONE_INTERVAL;
                    }
                    self.answer(arrival, Frame::PeerGone { session, peer: to });
                }
                None
            }
        }
    }

    fn attach(
        &mut self,
        arrival: Arrival,
        cookie: Cookie,
        permit: &SignedPermit,
        proof: Proof,
    ) -> Result<Frame<'static>, RefuseReason> {
        let Arrival { from: (local, source), wall, now, .. } = arrival;
        let claimed = permit.unverified();
        let addr = RelayAddr::of(&claimed.node);
        self.admission.check_cookie(cookie, source, &claimed.node, now)?;
        let stranger = self.members.as_ref().is_some_and(|members| !members.contains(&claimed.node));
        if stranger || self.revoked.contains_key(&claimed.node) {
            return Err(RefuseReason::Revoked);
        }
        let known = self.clients.get(&addr);
        // Only somebody who found a second key for an address of 64 bits comes to the first guard.
        if known.is_some_and(|c| c.node != claimed.node) {
            return Err(RefuseReason::BadPermit);
        }
        if known.is_some_and(|c| c.cookie_ms > cookie.made_ms()) {
            return Err(RefuseReason::StaleCookie);
        }
        if known.is_none() && self.clients.len() >= self.limits.max_clients {
            return Err(RefuseReason::Full);
        }
        let keys = AttachKeys::new(&self.key, &claimed.node, cookie).ok_or(RefuseReason::BadProof)?;
        if !keys.node_proof(permit).matches(&proof) {
            return Err(RefuseReason::BadProof);
        }
        let permit = self.admission.check_permit(permit, wall)?;
        let left = permit.not_after.0.saturating_sub(wall.0).max(1);
        let lifetime_secs = left.min(self.limits.attach_lifetime.as_secs()).try_into().unwrap_or(u32::MAX);
        let bytes = self
            .clients
            .get(&addr)
            .map_or_else(|| TokenBucket::full(self.limits.client_bytes, now), |known| known.bytes);
        self.detach(addr);
        if let Some(other) = self.sources.get(&(local, source)).copied() {
            self.detach(other);
        }
        self.sources.insert((local, source), addr);
        let client = Client {
            node: permit.node,
            at: (local, source),
            session: keys.session(),
            cookie_ms: cookie.made_ms(),
            lifetime_secs,
            expires: now + Duration::from_secs(lifetime_secs.into()),
            last_seen: now,
            bytes,
            next_peer_gone: now,
        };
        self.counters.attaches += 1;
        let proof = keys.relay_proof(source, client.lifetime_secs);
        self.clients.insert(addr, client);
        Ok(Frame::Attached { proof, observed: source, lifetime_secs })
    }

    fn detach(&mut self, addr: RelayAddr) {
        if let Some(client) = self.clients.remove(&addr) {
            self.sources.remove(&client.at);
        }
    }

    /// Tells an unknown source to attach (again), so that a relay's restart or a changed address costs one
    /// round trip and not a timeout.
    fn refuse_stray(&mut self, arrival: Arrival) {
        self.counters.drop(DropReason::NotAttached);
        if self.strays.take(1, self.limits.strays, arrival.now) {
            self.answer(arrival, Frame::Refused { reason: RefuseReason::NotAttached, echo: [0; 8] });
        }
    }

    fn answer(&mut self, arrival: Arrival, frame: Frame<'_>) {
        let mut payload = Vec::new();
        frame.encode(&mut payload);
        self.push(arrival.from.0, arrival.from.1, payload, arrival.len);
    }

    /// Queues an answer of at most `request_len` bytes.
    fn push(&mut self, local: Local, to: Endpoint, payload: Vec<u8>, request_len: usize) {
        if payload.len() <= request_len && self.pending.len() < MAX_PENDING {
            self.pending.push_back(Transmit { from: local, to, payload });
        } else {
            self.counters.drop(DropReason::AnswerTooLong);
        }
    }
}

#[cfg(test)]
mod tests;
