//! A node's side of one relay, without I/O: attach, stay attached, notice that the relay is gone.
//!
//! Order of calls: hand every relay frame to [`RelayClient::handle_datagram`], wake it at
//! [`RelayClient::poll_timeout`] with [`RelayClient::handle_timeout`], and after either send what
//! [`RelayClient::poll_transmit`] gives and act on [`RelayClient::poll_event`]. Payloads go out by
//! [`encapsulate`] to [`RelayClient::endpoint`]; the data path may do both without asking the client, and
//! says [`RelayClient::note_sent`] from time to time.
//!
//! It never sees plaintext, and the node key goes into one Diffie-Hellman with the relay's key only.
//!
//! Invariants: an attach never ends the one before it until it has succeeded (make-before-break); frames
//! count only from an address of this relay and, after the attach, only with its session token; an
//! unauthenticated *Refused* can hasten an attempt but never end an attachment.

mod timers;

use meshd_proto::keys::keyed_hash;
use meshd_proto::permit::SignedPermit;
use meshd_proto::relay::{AttachKeys, Frame, Nonce, RefuseReason, RelayAddr, SessionToken};
use meshd_proto::{Endpoint, NodeKey, NodeSecret};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use timers::{Timer, TimerTable};

/// A ping goes out after this long without a frame from the relay: keeps the NAT's mapping open.
pub const KEEPALIVE: Duration = Duration::from_secs(15);
/// An idle relay that does not answer a ping for this long is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(5);
/// Least time after which an unanswered ping under traffic makes a relay doubtful; else 3 RTT.
pub const DOUBTFUL_AFTER: Duration = Duration::from_millis(600);
/// Under traffic, this long without a frame from the relay asks for one.
pub const TRAFFIC_PING: Duration = Duration::from_millis(500);
/// How often an unanswered ping is repeated; under traffic a lost one must not look like a silent relay.
const PING_REPEAT: Duration = Duration::from_millis(1000);
/// The same under traffic.
const PING_REPEAT_BUSY: Duration = Duration::from_millis(250);
/// First repeat of an attach frame; doubles up to [`ATTEMPT_MAX`].
const ATTEMPT_FIRST: Duration = Duration::from_millis(250);
/// Slowest repeat of an attach attempt.
pub const ATTEMPT_MAX: Duration = Duration::from_secs(15);
/// First attempt after a refusal: the relay may hear of a new node a moment after the node hears of the
/// relay. Doubles up to [`REFUSED_MAX`]; a new permit starts an attempt at once.
const REFUSED_FIRST: Duration = Duration::from_millis(500);
/// Slowest repeat while the relay refuses.
pub const REFUSED_MAX: Duration = Duration::from_secs(60);
/// *NotAttached* of an unknown sender starts an attempt at most this often.
const HASTE: Duration = Duration::from_secs(1);
/// Waiting *PeerGone* events; more are not told.
const MAX_EVENTS: usize = 64;
/// Addresses of one relay that are tried at once.
pub const MAX_ADDRS: usize = 8;

/// What a relay delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound<'a> {
    /// Who sent it, says the relay; the payload proves itself.
    pub peer: RelayAddr,
    /// A WireGuard message or a probe.
    pub payload: &'a [u8],
}

/// What a node learns about a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayEvent {
    /// Attached (again).
    Up {
        /// The relay's address in use.
        via: Endpoint,
        /// Where the relay sees this node.
        observed: Endpoint,
    },
    /// Silent under traffic: use the backup as well. [`RelayEvent::Clear`] takes it back.
    Doubtful,
    /// Answering again.
    Clear,
    /// Not attached any more, or refused.
    Down {
        /// Why.
        why: DownReason,
    },
    /// The relay does not know that peer.
    PeerGone(RelayAddr),
}

/// Why a relay is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// No answer to pings or attach frames.
    #[error("the relay does not answer")]
    Silent,
    /// It said that it restarts.
    #[error("the relay restarts")]
    Restarting,
    /// It does not serve this node.
    #[error("the relay refused: {0}")]
    Refused(RefuseReason),
    /// Another key than the map names.
    #[error("the relay at that address has another key than the network map says")]
    WrongRelay,
}

/// A datagram to send to the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The relay's address.
    pub to: Endpoint,
    /// A relay frame.
    pub payload: Vec<u8>,
}

/// Appends the frame that carries `payload` to `peer` through a relay both know.
pub fn encapsulate(peer: RelayAddr, payload: &[u8], out: &mut Vec<u8>) {
    Frame::Data { peer, payload }.encode(out);
}

#[derive(Debug)]
struct Attempt {
    nonce: Nonce,
    repeat: Duration,
    /// Once the relay has challenged us.
    answered: Option<Challenged>,
}

#[derive(Debug)]
struct Challenged {
    keys: AttachKeys,
    via: Endpoint,
    echo: [u8; 8],
    frame: Vec<u8>,
}

#[derive(Debug)]
struct Attachment {
    via: Endpoint,
    observed: Endpoint,
    session: SessionToken,
    since: Instant,
    last_received: Instant,
    rtt: Duration,
    /// Sequence number and first sending of the ping that waits for an answer.
    ping: Option<(u32, Instant)>,
    seq: u32,
    doubtful: bool,
}

/// One relay, seen from a node.
#[derive(Debug)]
pub struct RelayClient {
    secret: NodeSecret,
    node: NodeKey,
    relay: NodeKey,
    permit: SignedPermit,
    addrs: Vec<Endpoint>,
    seed: [u8; 32],
    draws: u64,
    attempt: Option<Attempt>,
    attachment: Option<Attachment>,
    /// Refusals in a row.
    refusals: u32,
    /// What was said last, when that is that the relay is down.
    said_down: Option<DownReason>,
    timers: TimerTable,
    outbox: VecDeque<Transmit>,
    events: VecDeque<RelayEvent>,
}

impl RelayClient {
    /// A client of the relay with key `relay` at `addrs` (the first [`MAX_ADDRS`]). It starts with the
    /// first [`Self::handle_timeout`].
    pub fn new(
        secret: NodeSecret,
        relay: NodeKey,
        permit: SignedPermit,
        addrs: &[Endpoint],
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let mut timers = TimerTable::default();
        timers.set(Timer::Attempt, now);
        Self {
            node: secret.public(),
            secret,
            relay,
            permit,
            addrs: usable(addrs),
            seed,
            draws: 0,
            attempt: None,
            attachment: None,
            refusals: 0,
            said_down: None,
            timers,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Where frames for the relay go now; `None` while it is not attached.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.attachment.as_ref().map(|a| a.via)
    }

    /// Where the relay sees this node.
    pub fn observed(&self) -> Option<Endpoint> {
        self.attachment.as_ref().map(|a| a.observed)
    }

    /// The relay's key.
    pub const fn relay(&self) -> NodeKey {
        self.relay
    }

    /// Smoothed round-trip time of pings, once attached.
    pub fn rtt(&self) -> Option<Duration> {
        self.attachment.as_ref().map(|a| a.rtt)
    }

    /// A renewed permit, used from the next attach on; a refused client tries again at once.
    pub fn set_permit(&mut self, permit: SignedPermit, now: Instant) {
        self.permit = permit;
        if self.attachment.is_none() {
            self.attempt = None;
            self.timers.set(Timer::Attempt, now);
        }
    }

    /// The relay's addresses as resolved again.
    pub fn set_addrs(&mut self, addrs: &[Endpoint], now: Instant) {
        let addrs = usable(addrs);
        if addrs != self.addrs {
            self.addrs = addrs;
            self.reattach(now);
        }
    }

    /// Attaches again without giving up the present attachment: after a link change.
    pub fn reattach(&mut self, now: Instant) {
        self.attempt = None;
        self.timers.set(Timer::Attempt, now);
    }

    /// Says that payloads went out: under traffic, silence is noticed sooner.
    pub fn note_sent(&mut self, now: Instant) {
        if let Some(a) = &self.attachment
            && a.ping.is_none()
        {
            let soon = (a.last_received + TRAFFIC_PING).max(now);
            let planned = self.timers.at(Timer::Ping);
            self.timers.set(Timer::Ping, planned.map_or(soon, |at| at.min(soon)));
        }
    }

    /// Says that the data path received a payload from the relay without this client.
    pub fn note_received(&mut self, now: Instant) {
        if let Some(a) = &mut self.attachment {
            a.last_received = a.last_received.max(now);
        }
    }

    /// Handles a relay frame. Returns the payload of a data frame from the attached relay.
    pub fn handle_datagram<'a>(
        &mut self,
        from: Endpoint,
        datagram: &'a [u8],
        now: Instant,
    ) -> Option<Inbound<'a>> {
        if !self.addrs.contains(&from) {
            return None;
        }
        match Frame::parse(datagram).ok()? {
            Frame::Data { peer, payload } => {
                let attachment = self.attachment.as_mut().filter(|a| a.via == from)?;
                attachment.last_received = now;
                return Some(Inbound { peer, payload });
            }
            Frame::Challenge { nonce, cookie, relay } => {
                let waiting = self.attempt.as_ref().is_some_and(|a| a.nonce == nonce && a.answered.is_none());
                if waiting && relay != self.relay {
                    if self.attachment.is_none() {
                        self.say_down(DownReason::WrongRelay);
                    }
                } else if waiting && let Some(keys) = AttachKeys::new(&self.secret, &self.relay, cookie) {
                    self.prove(from, keys, cookie.echo(), now);
                }
            }
            Frame::Attached { proof, observed, lifetime_secs } => {
                let attempt = self.attempt.as_ref().and_then(|a| a.answered.as_ref());
                let genuine = attempt
                    .filter(|c| c.via == from && c.keys.relay_proof(observed, lifetime_secs).matches(&proof));
                if let Some(session) = genuine.map(|c| c.keys.session()) {
                    self.attached(from, observed, session, lifetime_secs, now);
                }
            }
            Frame::Refused { reason, echo } => self.refused(reason, echo, now),
            Frame::Pong { session, seq } => self.pong(session, seq, now),
            Frame::PeerGone { session, peer } => {
                if self.is_session(&session) && self.events.len() < MAX_EVENTS {
                    self.events.push_back(RelayEvent::PeerGone(peer));
                }
            }
            Frame::Restarting { session } => {
                if self.is_session(&session) {
                    self.go_down(DownReason::Restarting);
                    self.timers.set(Timer::Attempt, now + ATTEMPT_FIRST);
                }
            }
            // What only a node sends.
            Frame::Hello { .. } | Frame::Attach { .. } | Frame::Ping { .. } => {}
        }
        None
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.timers.expired(Timer::Renew, now) && self.attempt.is_none() {
            self.timers.set(Timer::Attempt, now);
        }
        if self.timers.expired(Timer::Dead, now) {
            self.maybe_dead(now);
        }
        if self.timers.expired(Timer::Doubt, now) {
            self.maybe_doubtful(now);
        }
        if self.timers.expired(Timer::Ping, now) {
            self.ping(now);
        }
        if self.timers.expired(Timer::Attempt, now) {
            self.try_attach(now);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop_front()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<RelayEvent> {
        self.events.pop_front()
    }

    /// The ping was not answered: doubtful, unless payloads come in; silence is what counts.
    fn maybe_doubtful(&mut self, now: Instant) {
        let Some(a) = &mut self.attachment else { return };
        let silent = a.ping.map_or(a.last_received, |(_, sent)| sent.max(a.last_received));
        let doubt = silent + DOUBTFUL_AFTER.max(a.rtt * 3);
        if now < doubt {
            self.timers.set(Timer::Doubt, doubt);
        } else if !std::mem::replace(&mut a.doubtful, true) {
            self.events.push_back(RelayEvent::Doubtful);
        }
    }

    /// The ping was not answered: dead, unless payloads came in meanwhile; then it is asked on.
    fn maybe_dead(&mut self, now: Instant) {
        match &mut self.attachment {
            Some(a) if a.last_received + DEAD_AFTER > now => {
                let dead = a.last_received + DEAD_AFTER;
                self.timers.set(Timer::Dead, dead);
            }
            Some(_) | None => {
                self.go_down(DownReason::Silent);
                self.timers.set(Timer::Attempt, now);
            }
        }
    }

    fn is_session(&self, session: &SessionToken) -> bool {
        self.attachment.as_ref().is_some_and(|a| a.session.matches(session))
    }

    fn try_attach(&mut self, now: Instant) {
        let nonce = Nonce(self.draw());
        let attempt = self.attempt.get_or_insert(Attempt { nonce, repeat: ATTEMPT_FIRST, answered: None });
        let repeat = attempt.repeat;
        attempt.repeat = (repeat * 2).min(ATTEMPT_MAX);
        let silent = repeat >= ATTEMPT_FIRST * 8;
        match &attempt.answered {
            // The answer to a proof that was lost; after some repeats its cookie is stale.
            Some(challenged) if !silent => {
                let (to, payload) = (challenged.via, challenged.frame.clone());
                self.outbox.push_back(Transmit { to, payload });
            }
            Some(_) | None => {
                attempt.answered = None;
                let mut payload = Vec::new();
                Frame::Hello { node: self.node, nonce: attempt.nonce }.encode(&mut payload);
                for to in &self.addrs {
                    self.outbox.push_back(Transmit { to: *to, payload: payload.clone() });
                }
            }
        }
        if silent && self.attachment.is_none() {
            self.say_down(DownReason::Silent);
        }
        let jitter = Duration::from_millis(u64::from(self.draw()[0]) * repeat.as_millis() as u64 / 1024);
        self.timers.set(Timer::Attempt, now + repeat + jitter);
    }

    fn prove(&mut self, via: Endpoint, keys: AttachKeys, echo: [u8; 8], now: Instant) {
        let mut frame = Vec::new();
        let proof = keys.node_proof(&self.permit);
        Frame::Attach { cookie: keys.cookie(), permit: self.permit, proof }.encode(&mut frame);
        self.outbox.push_back(Transmit { to: via, payload: frame.clone() });
        if let Some(attempt) = &mut self.attempt {
            attempt.answered = Some(Challenged { keys, via, echo, frame });
            attempt.repeat = ATTEMPT_FIRST * 2;
            self.timers.set(Timer::Attempt, now + ATTEMPT_FIRST);
        }
    }

    fn attached(
        &mut self,
        via: Endpoint,
        observed: Endpoint,
        session: SessionToken,
        lifetime_secs: u32,
        now: Instant,
    ) {
        let rtt = self.attachment.as_ref().map_or(Duration::from_millis(200), |a| a.rtt);
        self.attempt = None;
        self.refusals = 0;
        self.said_down = None;
        self.attachment = Some(Attachment {
            via,
            observed,
            session,
            since: now,
            last_received: now,
            rtt,
            ping: None,
            seq: 0,
            doubtful: false,
        });
        self.timers = TimerTable::default();
        self.timers.set(Timer::Ping, now + KEEPALIVE);
        self.timers.set(Timer::Renew, now + Duration::from_secs(lifetime_secs.into()) / 2);
        self.events.push_back(RelayEvent::Up { via, observed });
    }

    fn refused(&mut self, reason: RefuseReason, echo: [u8; 8], now: Instant) {
        if reason == RefuseReason::NotAttached {
            // Anybody can say this: it may start an attempt, which a running one already is.
            let settled = self.attachment.as_ref().is_some_and(|a| a.since + HASTE <= now);
            if settled && self.attempt.is_none() {
                self.timers.set(Timer::Attempt, now);
            }
            return;
        }
        let ours = self.attempt.as_ref().and_then(|a| a.answered.as_ref()).is_some_and(|c| c.echo == echo);
        if !ours {
            return;
        }
        self.attempt = None;
        let retry = match reason {
            RefuseReason::StaleCookie => ATTEMPT_FIRST,
            RefuseReason::NotAttached
            | RefuseReason::Full
            | RefuseReason::BadPermit
            | RefuseReason::ExpiredPermit
            | RefuseReason::BadProof
            | RefuseReason::Revoked
            | RefuseReason::Other(_) => {
                self.refusals += 1;
                (REFUSED_FIRST * 2u32.pow(self.refusals.min(8) - 1)).min(REFUSED_MAX)
            }
        };
        self.timers.set(Timer::Attempt, now + retry);
        if self.attachment.is_none() && reason != RefuseReason::StaleCookie {
            self.say_down(DownReason::Refused(reason));
        }
    }

    fn ping(&mut self, now: Instant) {
        let Some(a) = &mut self.attachment else { return };
        let busy = now.saturating_duration_since(a.last_received) < KEEPALIVE;
        if a.ping.is_none() {
            a.seq = a.seq.wrapping_add(1);
            a.ping = Some((a.seq, now));
            let doubt = DOUBTFUL_AFTER.max(a.rtt * 3);
            if busy {
                self.timers.set(Timer::Doubt, now + doubt);
            }
            self.timers.set(Timer::Dead, now + DEAD_AFTER);
        }
        let mut payload = Vec::new();
        Frame::Ping { session: a.session, seq: a.seq }.encode(&mut payload);
        self.outbox.push_back(Transmit { to: a.via, payload });
        self.timers.set(Timer::Ping, now + if busy { PING_REPEAT_BUSY } else { PING_REPEAT });
    }

    fn pong(&mut self, session: SessionToken, seq: u32, now: Instant) {
        let Some(a) = self.attachment.as_mut().filter(|a| a.session.matches(&session)) else { return };
        a.last_received = now;
        if let Some((expected, sent)) = a.ping
            && expected == seq
        {
            a.ping = None;
            let sample = now.saturating_duration_since(sent);
            a.rtt = (a.rtt * 7 + sample) / 8;
            self.timers.stop(Timer::Dead);
            self.timers.stop(Timer::Doubt);
            self.timers.set(Timer::Ping, now + KEEPALIVE);
            if std::mem::take(&mut a.doubtful) {
                self.events.push_back(RelayEvent::Clear);
            }
        }
    }

    /// Ends the attachment.
    fn go_down(&mut self, why: DownReason) {
        self.attachment = None;
        for timer in [Timer::Ping, Timer::Doubt, Timer::Dead, Timer::Renew] {
            self.timers.stop(timer);
        }
        self.say_down(why);
    }

    fn say_down(&mut self, why: DownReason) {
        if self.said_down != Some(why) {
            self.said_down = Some(why);
            self.events.push_back(RelayEvent::Down { why });
        }
    }

    fn draw(&mut self) -> [u8; 8] {
        self.draws += 1;
        let hash = keyed_hash(&self.seed, "meshd relay client v1", &[&self.draws.to_le_bytes()]);
        let mut out = [0; 8];
        out.copy_from_slice(&hash[..8]);
        out
    }
}

fn usable(addrs: &[Endpoint]) -> Vec<Endpoint> {
    let mut out: Vec<Endpoint> = Vec::new();
    for addr in addrs.iter().map(|a| Endpoint::canonical(a.0)).filter(Endpoint::is_sendable) {
        if !out.contains(&addr) && out.len() < MAX_ADDRS {
            out.push(addr);
        }
    }
    out
}

#[cfg(test)]
mod tests;
