//! WireGuard by boringtun's `Tunn`, of which this module is the only user.
//!
//! DEVIATION: boringtun reads the monotonic and the wall clock itself and draws its ephemeral keys from
//! the operating system. `now` is passed in and ignored here; the simulation therefore runs on
//! [`marker`](super::marker). Consequences that this module takes care of:
//!
//! - a `Tunn` stamps events with the time of its last `update_timers`: that is called before every
//!   handshake message and at least every [`TICK`](super::TICK);
//! - it queues packets on its own while it has no key pair: `seal` asks first, so that its queue stays
//!   empty and the engine's bounded one is the only one;
//! - its rate limiter counts twice when asked twice: whoever identifies an initiation is limited here
//!   (UDP together, with cookies; over relays each peer by itself, since a cookie needs an address), the
//!   `Tunn`s get one without a limit;
//! - a handshake timestamp must grow: a peer whose wall clock went back is refused until it catches up.

use super::{
    Handshake, Initiation, MAX_HANDSHAKE, MessageKind, OVERHEAD, OpenError, Opened, SealError, Sender,
    Session, SessionFactory, SessionIndex, Tick,
};
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use meshd_proto::{NodeKey, NodeSecret};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use x25519_dalek::{PublicKey, StaticSecret};

/// Initiations answered per second before cookies are asked for (UDP).
const INITIATIONS_PER_SECOND: u64 = 200;
/// Initiations of one peer answered per second over relays; it sends one at a time, over a few ways.
const RELAYED_PER_SECOND: u32 = 20;
/// Peers whose relayed initiations are counted before those of an earlier second are forgotten.
const COUNTED_PEERS: usize = 1024;

/// Makes WireGuard sessions for one private key.
pub struct WireGuard {
    secret: StaticSecret,
    public: PublicKey,
    direct: RateLimiter,
    relayed: HashMap<NodeKey, Second>,
    unlimited: Arc<RateLimiter>,
}

/// What one peer sent over relays in the second that began then.
struct Second {
    began: Instant,
    initiations: u32,
}

impl WireGuard {
    /// For this node's key.
    pub fn new(secret: &NodeSecret) -> Self {
        let secret = StaticSecret::from(*secret.as_bytes());
        let public = PublicKey::from(&secret);
        Self {
            direct: RateLimiter::new(&public, INITIATIONS_PER_SECOND),
            relayed: HashMap::new(),
            unlimited: Arc::new(RateLimiter::new(&public, u64::MAX)),
            secret,
            public,
        }
    }

    /// Counts a relayed initiation of `peer`. `false`: it has sent too many.
    fn admits(&mut self, peer: NodeKey, now: Instant) -> bool {
        let over = |second: &Second| now.saturating_duration_since(second.began) >= Duration::from_secs(1);
        if self.relayed.len() >= COUNTED_PEERS {
            self.relayed.retain(|_, second| !over(second));
        }
        let second = self.relayed.entry(peer).or_insert(Second { began: now, initiations: 0 });
        if over(second) {
            *second = Second { began: now, initiations: 0 };
        }
        second.initiations += 1;
        second.initiations <= RELAYED_PER_SECOND
    }
}

impl std::fmt::Debug for WireGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WireGuard(redacted)")
    }
}

impl SessionFactory for WireGuard {
    type Session = WireGuardSession;

    fn create(
        &mut self,
        peer: &NodeKey,
        index: SessionIndex,
        preshared: Option<&[u8; 32]>,
        _now: Instant,
    ) -> WireGuardSession {
        let tunn = Tunn::new(
            self.secret.clone(),
            PublicKey::from(*peer.as_bytes()),
            preshared.copied(),
            None,
            index.get(),
            Some(Arc::clone(&self.unlimited)),
        );
        WireGuardSession { tunn, ready: false }
    }

    fn identify(&mut self, initiation: &[u8], from: Sender, now: Instant) -> Initiation {
        let (limiter, addr, peer) = match from {
            Sender::Udp(addr) => (&self.direct, Some(addr), None),
            Sender::Relayed(peer) if self.admits(peer, now) => (&*self.unlimited, None, Some(peer)),
            Sender::Relayed(_) => return Initiation::Refused,
        };
        limiter.reset_count();
        let mut cookie = [0; MAX_HANDSHAKE];
        match limiter.verify_packet(addr, initiation, &mut cookie) {
            Ok(Packet::HandshakeInit(init)) => {
                let sender = parse_handshake_anon(&self.secret, &self.public, &init)
                    .map(|half| NodeKey::from_bytes(half.peer_static_public));
                match sender {
                    // A peer relays its own initiations only: those of others would count as theirs.
                    Ok(key) if peer.is_none_or(|peer| peer == key) => Initiation::From(key),
                    Ok(_) | Err(_) => Initiation::Refused,
                }
            }
            Err(TunnResult::WriteToNetwork(reply)) => Initiation::Cookie(reply.to_vec()),
            Ok(_) | Err(_) => Initiation::Refused,
        }
    }
}

/// A WireGuard session with one peer.
pub struct WireGuardSession {
    tunn: Tunn,
    /// There is a key pair to send with. Kept here, because asking boringtun reads a clock.
    ready: bool,
}

impl std::fmt::Debug for WireGuardSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WireGuardSession")
    }
}

impl Session for WireGuardSession {
    fn is_ready(&self, _now: Instant) -> bool {
        self.ready
    }

    fn seal(&mut self, packet: &[u8], out: &mut [u8], _now: Instant) -> Result<usize, SealError> {
        if !self.ready {
            return Err(SealError::NotReady);
        }
        // boringtun panics on a short buffer.
        if out.len() < packet.len() + OVERHEAD {
            return Err(SealError::NoRoom);
        }
        match self.tunn.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(sealed) if MessageKind::of(sealed) == MessageKind::Data => {
                Ok(sealed.len())
            }
            _ => Err(SealError::NotReady),
        }
    }

    fn open(&mut self, datagram: &[u8], out: &mut [u8], _now: Instant) -> Result<Opened, OpenError> {
        if MessageKind::of(datagram) != MessageKind::Data {
            return Err(OpenError::Malformed);
        }
        if out.len() < datagram.len() {
            return Err(OpenError::NoRoom);
        }
        let opened = match self.tunn.decapsulate(None, datagram, out) {
            TunnResult::Done => Opened::Keepalive,
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Opened::Packet(packet.len())
            }
            TunnResult::Err(e) => return Err(refused(&e)),
            TunnResult::WriteToNetwork(_) => return Err(OpenError::Malformed),
        };
        if !self.ready {
            self.look();
        }
        Ok(opened)
    }

    fn handshake(
        &mut self,
        message: &[u8],
        replies: &mut Vec<Vec<u8>>,
        now: Instant,
    ) -> Result<Handshake, OpenError> {
        let kind = MessageKind::of(message);
        if matches!(kind, MessageKind::Data | MessageKind::Other) {
            return Err(OpenError::Malformed);
        }
        replies.extend(self.tick(now).transmit);
        let mut out = [0; MAX_HANDSHAKE];
        match self.tunn.decapsulate(None, message, &mut out) {
            TunnResult::WriteToNetwork(reply) => replies.push(reply.to_vec()),
            TunnResult::Done => {}
            TunnResult::Err(e) => return Err(refused(&e)),
            TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
                return Err(OpenError::Malformed);
            }
        }
        self.look();
        Ok(match kind {
            MessageKind::Initiation => Handshake::Answered,
            MessageKind::Response => Handshake::Completed,
            MessageKind::Cookie | MessageKind::Data | MessageKind::Other => Handshake::Cookie,
        })
    }

    fn initiate(&mut self, _now: Instant) -> Option<Vec<u8>> {
        let mut out = [0; MAX_HANDSHAKE];
        match self.tunn.format_handshake_initiation(&mut out, true) {
            TunnResult::WriteToNetwork(message) => Some(message.to_vec()),
            _ => None,
        }
    }

    fn tick(&mut self, _now: Instant) -> Tick {
        let mut out = [0; MAX_HANDSHAKE];
        let tick = match self.tunn.update_timers(&mut out) {
            TunnResult::WriteToNetwork(message) => Tick { transmit: Some(message.to_vec()), expired: false },
            TunnResult::Err(WireGuardError::ConnectionExpired) => Tick { transmit: None, expired: true },
            _ => Tick::default(),
        };
        self.look();
        tick
    }

    fn last_handshake(&self, _now: Instant) -> Option<Duration> {
        self.tunn.time_since_last_handshake()
    }
}

impl WireGuardSession {
    /// After anything that can make or end a key pair.
    fn look(&mut self) {
        self.ready = self.tunn.time_since_last_handshake().is_some();
    }
}

const fn refused(error: &WireGuardError) -> OpenError {
    match error {
        WireGuardError::DuplicateCounter | WireGuardError::WrongTai64nTimestamp => OpenError::Replayed,
        WireGuardError::InvalidCounter => OpenError::TooLate,
        WireGuardError::NoCurrentSession | WireGuardError::WrongIndex => OpenError::NoKeyPair,
        WireGuardError::DestinationBufferTooSmall => OpenError::NoRoom,
        WireGuardError::IncorrectPacketLength
        | WireGuardError::WrongPacketType
        | WireGuardError::InvalidPacket
        | WireGuardError::UnexpectedPacket => OpenError::Malformed,
        _ => OpenError::NotAuthentic,
    }
}

#[cfg(test)]
mod tests;
