//! A session without secrecy for the simulation: WireGuard's messages, sizes, indexes, counters and
//! replay window, its timers from the argument `now`, and a checksum in place of encryption.
//!
//! It is honest where the engine depends on it: who lacks the other side's node key cannot complete a
//! handshake, a wrong index or a changed byte is refused, a replay is refused, the answering side may
//! send only after it has heard, key pairs age and end. It hides nothing and must never carry traffic
//! of anybody: [`Marker`] is not reachable from `meshd`.

use super::{
    Handshake, Initiation, MAX_HANDSHAKE, MessageKind, OVERHEAD, OpenError, Opened, SealError, Sender,
    Session, SessionFactory, SessionIndex, Tick,
};
use meshd_proto::keys::keyed_hash;
use meshd_proto::{NodeKey, NodeSecret};
use std::time::{Duration, Instant};

/// WireGuard paper §6.1.
const REKEY_AFTER: Duration = Duration::from_secs(120);
const REJECT_AFTER: Duration = Duration::from_secs(180);
const REKEY_ATTEMPT: Duration = Duration::from_secs(90);
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(10);
const PAIRS: usize = 8;

/// Makes marker sessions for one node key.
#[derive(Debug)]
pub struct Marker {
    secret: NodeSecret,
    /// Time zero of the handshake timestamps; the same for all nodes of a simulation.
    zero: Instant,
}

impl Marker {
    /// For this node's key. `zero` is the simulation's beginning.
    pub const fn new(secret: NodeSecret, zero: Instant) -> Self {
        Self { secret, zero }
    }
}

impl SessionFactory for Marker {
    type Session = MarkerSession;

    fn create(
        &mut self,
        peer: &NodeKey,
        index: SessionIndex,
        preshared: Option<&[u8; 32]>,
        now: Instant,
    ) -> MarkerSession {
        let preshared = preshared.copied().unwrap_or_default();
        let shared = self.secret.diffie_hellman(peer.as_bytes());
        let secret = shared.map_or([0; 32], |s| s.mac("marker pair", &[&preshared]));
        MarkerSession {
            secret,
            public: self.secret.public(),
            peer: *peer,
            index,
            zero: self.zero,
            generation: 0,
            pairs: Vec::new(),
            current: None,
            sent: None,
            sent_before: None,
            last_timestamp: None,
            idle_since: now,
            last_sent: None,
            last_data_sent: None,
            last_data_received: None,
            waiting_since: None,
        }
    }

    fn identify(&mut self, initiation: &[u8], _from: Sender, _now: Instant) -> Initiation {
        if MessageKind::of(initiation) != MessageKind::Initiation {
            return Initiation::Refused;
        }
        let sender = NodeKey::from_bytes(array(initiation, 8));
        let mac = mac1(&self.secret.public(), initiation);
        if initiation[116..132] == mac { Initiation::From(sender) } else { Initiation::Refused }
    }
}

/// A marker session with one peer.
#[derive(Debug)]
pub struct MarkerSession {
    secret: [u8; 32],
    public: NodeKey,
    peer: NodeKey,
    index: SessionIndex,
    zero: Instant,
    /// Counts our key pairs: the lowest 8 bits of our receiver index.
    generation: u8,
    /// The newest key pairs, newest first: as many as boringtun keeps.
    pairs: Vec<KeyPair>,
    /// Our index of the one to send with. One that we answered with is used once the peer has.
    current: Option<u32>,
    /// Our initiations under way: the newest and the one before.
    sent: Option<Initiated>,
    sent_before: Option<Initiated>,
    last_timestamp: Option<u64>,
    idle_since: Instant,
    last_sent: Option<Instant>,
    last_data_sent: Option<Instant>,
    last_data_received: Option<Instant>,
    /// Data was sent and nothing has come back since.
    waiting_since: Option<Instant>,
}

#[derive(Debug)]
struct KeyPair {
    ours: u32,
    theirs: u32,
    key: [u8; 32],
    initiator: bool,
    born: Instant,
    counter: u64,
    window: Window,
}

#[derive(Clone, Copy, Debug)]
struct Initiated {
    ours: u32,
    first: Instant,
    at: Instant,
}

/// The last 64 counters.
#[derive(Debug, Default)]
struct Window {
    highest: u64,
    seen: u64,
}

impl Window {
    fn accept(&mut self, counter: u64) -> bool {
        let counter = counter + 1;
        if counter > self.highest {
            let ahead = counter - self.highest;
            self.seen = if ahead >= 64 { 0 } else { self.seen << ahead };
            self.seen |= 1;
            self.highest = counter;
            return true;
        }
        let back = self.highest - counter;
        if back >= 64 || self.seen & (1 << back) != 0 {
            return false;
        }
        self.seen |= 1 << back;
        true
    }
}

impl KeyPair {
    fn is_valid(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.born) < REJECT_AFTER
    }

    fn tag(&self, header: &[u8], body: &[u8]) -> [u8; 16] {
        let mut tag = [0; 16];
        tag.copy_from_slice(&keyed_hash(&self.key, "marker data", &[header, body])[..16]);
        tag
    }
}

impl MarkerSession {
    fn next_index(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        (self.index.get() << 8) | u32::from(self.generation)
    }

    fn key(&self, initiator: u32, responder: u32) -> [u8; 32] {
        keyed_hash(&self.secret, "marker key", &[&initiator.to_le_bytes(), &responder.to_le_bytes()])
    }

    fn pair(&self, ours: u32, theirs: u32, initiator: bool, now: Instant) -> KeyPair {
        let (i, r) = if initiator { (ours, theirs) } else { (theirs, ours) };
        KeyPair {
            ours,
            theirs,
            key: self.key(i, r),
            initiator,
            born: now,
            counter: 0,
            window: Window::default(),
        }
    }

    fn keep(&mut self, pair: KeyPair) {
        self.pairs.insert(0, pair);
        self.pairs.truncate(PAIRS);
    }

    fn current(&self, now: Instant) -> Option<&KeyPair> {
        self.pairs.iter().find(|p| Some(p.ours) == self.current && p.is_valid(now))
    }

    fn answer(&mut self, message: &[u8], now: Instant) -> Result<Vec<u8>, OpenError> {
        let theirs = u32_at(message, 4);
        let stamp = u64::from_le_bytes(array(message, 40));
        let proof = keyed_hash(&self.secret, "marker init", &[&message[..48]]);
        if message[48..80] != proof {
            return Err(OpenError::NotAuthentic);
        }
        if self.last_timestamp.is_some_and(|last| stamp <= last) {
            return Err(OpenError::Replayed);
        }
        self.last_timestamp = Some(stamp);
        let ours = self.next_index();
        let pair = self.pair(ours, theirs, false, now);
        self.keep(pair);
        let mut reply = vec![0; 92];
        reply[0] = 2;
        reply[4..8].copy_from_slice(&ours.to_le_bytes());
        reply[8..12].copy_from_slice(&theirs.to_le_bytes());
        let proof = keyed_hash(&self.secret, "marker response", &[&reply[..12]]);
        reply[12..44].copy_from_slice(&proof);
        Ok(reply)
    }

    fn complete(&mut self, message: &[u8], now: Instant) -> Result<(), OpenError> {
        let (theirs, ours) = (u32_at(message, 4), u32_at(message, 8));
        let proof = keyed_hash(&self.secret, "marker response", &[&message[..12]]);
        if message[12..44] != proof {
            return Err(OpenError::NotAuthentic);
        }
        // The two newest initiations count: answers may take longer than a retry. After an answer to the
        // older one, the newer one still waits for its own.
        if self.sent.is_some_and(|s| s.ours == ours) {
            (self.sent, self.sent_before) = (None, None);
        } else if self.sent_before.take_if(|s| s.ours == ours).is_none() {
            return Err(OpenError::NoKeyPair);
        }
        let pair = self.pair(ours, theirs, true, now);
        self.current = Some(pair.ours);
        self.keep(pair);
        Ok(())
    }

    fn seal_with(&mut self, packet: &[u8], out: &mut [u8], now: Instant) -> Result<usize, SealError> {
        let current = self.current;
        let pair = self
            .pairs
            .iter_mut()
            .find(|p| Some(p.ours) == current && p.is_valid(now))
            .ok_or(SealError::NotReady)?;
        let len = packet.len() + OVERHEAD;
        let out = out.get_mut(..len).ok_or(SealError::NoRoom)?;
        out[..4].copy_from_slice(&4u32.to_le_bytes());
        out[4..8].copy_from_slice(&pair.theirs.to_le_bytes());
        out[8..16].copy_from_slice(&pair.counter.to_le_bytes());
        pair.counter += 1;
        // Not secret, but not to be mistaken for plaintext either: the simulation looks for that.
        out[16..len - 16].copy_from_slice(packet);
        out[16..len - 16].iter_mut().for_each(|b| *b ^= 0xa5);
        let tag = pair.tag(&out[..16], &out[16..len - 16]);
        out[len - 16..].copy_from_slice(&tag);
        self.last_sent = Some(now);
        Ok(len)
    }
}

impl Session for MarkerSession {
    fn is_ready(&self, now: Instant) -> bool {
        self.current(now).is_some()
    }

    fn seal(&mut self, packet: &[u8], out: &mut [u8], now: Instant) -> Result<usize, SealError> {
        let len = self.seal_with(packet, out, now)?;
        if !packet.is_empty() {
            self.waiting_since.get_or_insert(now);
            self.last_data_sent = Some(now);
        }
        Ok(len)
    }

    fn open(&mut self, datagram: &[u8], out: &mut [u8], now: Instant) -> Result<Opened, OpenError> {
        if MessageKind::of(datagram) != MessageKind::Data {
            return Err(OpenError::Malformed);
        }
        let (index, counter) = (u32_at(datagram, 4), u64::from_le_bytes(array(datagram, 8)));
        let current = self.current(now).map(|p| p.born);
        let pair =
            self.pairs.iter_mut().find(|p| p.ours == index && p.is_valid(now)).ok_or(OpenError::NoKeyPair)?;
        let (header, rest) = datagram.split_at(16);
        let (body, tag) = rest.split_at(rest.len() - 16);
        if pair.tag(header, body) != tag {
            return Err(OpenError::NotAuthentic);
        }
        let out = out.get_mut(..body.len()).ok_or(OpenError::NoRoom)?;
        if counter == u64::MAX || !pair.window.accept(counter) {
            return Err(OpenError::Replayed);
        }
        out.copy_from_slice(body);
        out.iter_mut().for_each(|b| *b ^= 0xa5);
        if current.is_none_or(|born| pair.born >= born) {
            self.current = Some(index);
        }
        self.waiting_since = None;
        if !body.is_empty() {
            self.last_data_received = Some(now);
        }
        Ok(if body.is_empty() { Opened::Keepalive } else { Opened::Packet(body.len()) })
    }

    fn handshake(
        &mut self,
        message: &[u8],
        replies: &mut Vec<Vec<u8>>,
        now: Instant,
    ) -> Result<Handshake, OpenError> {
        let done = match MessageKind::of(message) {
            MessageKind::Initiation => {
                replies.push(self.answer(message, now)?);
                Handshake::Answered
            }
            MessageKind::Response => {
                self.complete(message, now)?;
                let mut keepalive = vec![0; OVERHEAD];
                if self.seal_with(&[], &mut keepalive, now).is_ok() {
                    replies.push(keepalive);
                }
                Handshake::Completed
            }
            MessageKind::Cookie | MessageKind::Data | MessageKind::Other => return Err(OpenError::Malformed),
        };
        self.idle_since = now;
        self.waiting_since = None;
        Ok(done)
    }

    fn initiate(&mut self, now: Instant) -> Option<Vec<u8>> {
        let ours = self.next_index();
        let first = self.sent.map_or(now, |s| s.first);
        self.sent_before = self.sent.replace(Initiated { ours, first, at: now });
        let mut message = vec![0; MAX_HANDSHAKE];
        message[0] = 1;
        message[4..8].copy_from_slice(&ours.to_le_bytes());
        message[8..40].copy_from_slice(self.public.as_bytes());
        let stamp = now.saturating_duration_since(self.zero).as_nanos() as u64 + 1;
        message[40..48].copy_from_slice(&stamp.to_le_bytes());
        let proof = keyed_hash(&self.secret, "marker init", &[&message[..48]]);
        message[48..80].copy_from_slice(&proof);
        let mac = mac1(&self.peer, &message);
        message[116..132].copy_from_slice(&mac);
        Some(message)
    }

    fn tick(&mut self, now: Instant) -> Tick {
        let age = |at: Instant| now.saturating_duration_since(at);
        self.pairs.retain(|p| p.is_valid(now));
        if let Some(sent) = self.sent {
            if age(sent.first) >= REKEY_ATTEMPT {
                (self.sent, self.sent_before) = (None, None);
            } else if age(sent.at) >= REKEY_TIMEOUT {
                return Tick { transmit: self.initiate(now), expired: false };
            }
        }
        let nothing = self.pairs.is_empty() && self.sent.is_none();
        if nothing {
            return Tick { transmit: None, expired: age(self.idle_since) >= REKEY_ATTEMPT };
        }
        let stale = self.waiting_since.is_some_and(|t| age(t) >= KEEPALIVE + REKEY_TIMEOUT);
        let old = self
            .current(now)
            .is_some_and(|p| p.initiator && age(p.born) >= REKEY_AFTER && self.last_data_sent > Some(p.born));
        if self.sent.is_none() && (stale || old) {
            self.waiting_since = None;
            return Tick { transmit: self.initiate(now), expired: false };
        }
        let owes = self.last_data_received > self.last_sent
            && self.last_data_received.is_some_and(|t| age(t) >= KEEPALIVE);
        let mut keepalive = vec![0; OVERHEAD];
        if owes && self.seal_with(&[], &mut keepalive, now).is_ok() {
            return Tick { transmit: Some(keepalive), expired: false };
        }
        Tick::default()
    }

    fn last_handshake(&self, now: Instant) -> Option<Duration> {
        self.current(now).map(|p| now.saturating_duration_since(p.born))
    }
}

/// Made with the receiver's public key, as in WireGuard (paper §5.4.4): only who knows it is listened to.
fn mac1(receiver: &NodeKey, message: &[u8]) -> [u8; 16] {
    array(&keyed_hash(receiver.as_bytes(), "marker mac1", &[&message[..116]]), 0)
}

/// The bytes at `at`. The callers have checked the message's length by its kind.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

#[cfg(test)]
mod tests;
