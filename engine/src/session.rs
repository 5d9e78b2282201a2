//! Encrypted sessions with one peer, behind a trait.
//!
//! [`wireguard`] is the real thing (boringtun), [`marker`] an honest fake for the simulation: same
//! messages, indexes, counters and replay window, no secrecy, and time only by argument.
//!
//! Nothing outside this module knows which one it is; nothing outside [`wireguard`] uses boringtun.

pub mod marker;
mod message;
pub mod wireguard;

pub use message::{MessageKind, receiver_index};

use meshd_proto::NodeKey;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Bytes that sealing adds to a packet: header 16, tag 16 (WireGuard paper §5.4.6).
pub const OVERHEAD: usize = 32;
/// Room that any handshake message fits in (the largest is the initiation, 148 bytes, §5.4.2).
pub const MAX_HANDSHAKE: usize = 148;
/// How often [`Session::tick`] wants to be called while there is anything to keep.
pub const TICK: Duration = Duration::from_secs(1);

/// A session index: 24 bits name the peer, the lowest 8 bits of a `receiver_index` on the wire count
/// its key pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIndex(u32);

impl SessionIndex {
    /// Bits of an index.
    pub const BITS: u32 = 24;

    /// The index, cut to 24 bits.
    pub const fn new(raw: u32) -> Self {
        Self(raw & 0x00ff_ffff)
    }
    /// The peer's part of a `receiver_index`.
    pub const fn of_receiver(receiver_index: u32) -> Self {
        Self(receiver_index >> 8)
    }
    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// The encrypted session with one peer: its key pairs, its handshake, its timers.
pub trait Session: Send + 'static {
    /// Whether there is a key pair to send with.
    fn is_ready(&self, now: Instant) -> bool;

    /// Encrypts `packet` into `out`, which has at least `packet.len() + OVERHEAD` bytes.
    ///
    /// # Errors
    /// Without a key pair. The packet is not kept.
    fn seal(&mut self, packet: &[u8], out: &mut [u8], now: Instant) -> Result<usize, SealError>;

    /// Opens a data message into `out`, which has at least the datagram's length. Replays are refused.
    ///
    /// # Errors
    /// Says what is wrong with the datagram; it has changed nothing then.
    fn open(&mut self, datagram: &[u8], out: &mut [u8], now: Instant) -> Result<Opened, OpenError>;

    /// Takes a handshake message (kinds 1 to 3) and pushes what is to be sent because of it.
    ///
    /// # Errors
    /// Says what is wrong with the message.
    fn handshake(
        &mut self,
        message: &[u8],
        replies: &mut Vec<Vec<u8>>,
        now: Instant,
    ) -> Result<Handshake, OpenError>;

    /// Makes a handshake initiation, replacing one that is under way.
    fn initiate(&mut self, now: Instant) -> Option<Vec<u8>>;

    /// Does what the session's own timers ask for: rekey, keepalive, expiry. Call every [`TICK`].
    fn tick(&mut self, now: Instant) -> Tick;

    /// Time since the last handshake that gave the key pair in use.
    fn last_handshake(&self, now: Instant) -> Option<Duration>;
}

/// Makes sessions, and finds out whose an initiation is.
pub trait SessionFactory: Send + 'static {
    /// What it makes.
    type Session: Session;

    /// A session with `peer` that uses `index`.
    fn create(
        &mut self,
        peer: &NodeKey,
        index: SessionIndex,
        preshared: Option<&[u8; 32]>,
        now: Instant,
    ) -> Self::Session;

    /// Who sent this handshake initiation.
    fn identify(&mut self, initiation: &[u8], from: Sender, now: Instant) -> Initiation;
}

/// Where a handshake initiation came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// By UDP, from this address: proved by nothing, so that a cookie may be asked for.
    Udp(IpAddr),
    /// Over a relay, which has seen a proof that the sender has this key.
    Relayed(NodeKey),
}

/// What a handshake initiation turned out to be, before anything of it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initiation {
    /// It names this peer; the session proves it.
    From(NodeKey),
    /// Too many at once: send this cookie back, do no more (WireGuard paper §5.4.7).
    Cookie(Vec<u8>),
    /// Not for us, or too many at once from where a cookie cannot go.
    Refused,
}

/// What a data message held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// An IP packet: this many bytes, padding included.
    Packet(usize),
    /// Nothing: a keepalive.
    Keepalive,
}

/// What a handshake message did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// We answered an initiation. The key pair is used once the peer has used it.
    Answered,
    /// Our initiation was answered: there is a key pair to send with.
    Completed,
    /// A cookie for the next attempt.
    Cookie,
}

/// What a session's timers asked for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tick {
    /// A datagram to send.
    pub transmit: Option<Vec<u8>>,
    /// No keys are left and nothing is under way: no tick is needed before the next handshake.
    pub expired: bool,
}

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No key pair.
    #[error("no session with the peer yet")]
    NotReady,
    /// The output is too small for the packet.
    #[error("the output has no room for the packet and {OVERHEAD} bytes")]
    NoRoom,
}

/// Why a datagram was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not a message of the kind that was expected, or of a wrong length.
    #[error("malformed")]
    Malformed,
    /// No key pair of that index.
    #[error("no key pair of that index")]
    NoKeyPair,
    /// Seen before.
    #[error("replayed")]
    Replayed,
    /// So late that it cannot be told whether it was seen before.
    #[error("too late")]
    TooLate,
    /// Forged, corrupted, or for another key.
    #[error("not authentic")]
    NotAuthentic,
    /// The output is too small.
    #[error("no room for the packet")]
    NoRoom,
}
