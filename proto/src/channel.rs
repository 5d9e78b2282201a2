//! The control channel between a node and its coordinator: Noise_IK_25519_ChaChaPoly_BLAKE2s,
//! as a state machine over bytes.
//!
//! Order on the wire, each a frame (2-byte big-endian length, then at most 65535 bytes):
//! 1. coordinator → node: [`Greeting`], its two public keys in the clear. The node compares them with the
//!    hash in its token, or with the keys it stored, and goes no further when they differ.
//! 2. node → coordinator: first IK message ([`Initiator::new`]).
//! 3. coordinator → node: second IK message ([`Responder::accept`]).
//! 4. node → coordinator: the first transport message. Only now has the node proved its key *now*: the
//!    first IK message can be replayed by anybody who recorded it. [`Responder::accept`] therefore returns
//!    an [`Unproven`], which can do nothing but open that message.
//! 5. messages both ways. Each frame's plaintext is a flag byte (1: last piece of its message) and a piece.
//!
//! Invariants: nothing larger than [`limits::MAX_CONTROL_MESSAGE`] is ever reassembled; any error is final
//! for the channel; the prologue binds protocol and mesh, so that a handshake of one is none of another.
//!
//! DEVIATION: `snow` draws the ephemeral keys from the operating system itself.

use crate::token::CoordinatorKeys;
use crate::{
    CoordinatorKey, CoordinatorSecret, MachineKey, MachineSecret, NetworkId, NodeKey, NodeSecret,
    VerifyingKey, keys, limits,
};
use snow::StatelessTransportState;
use std::sync::Arc;

const NOISE: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
const LABEL: &[u8] = b"meshd control 1";
const TAG_BYTES: usize = 16;
/// Most plaintext in one frame, besides the flag byte.
const MAX_PIECE: usize = limits::MAX_NOISE_FRAME - TAG_BYTES - 1;
const LAST_PIECE: u8 = 1;
/// Largest frame before the handshake is finished: a greeting or an IK message without payload.
pub const MAX_HANDSHAKE_FRAME: usize = 256;

/// Why a channel ends. Every one of these is final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// A frame above the limit that applies at this point.
    #[error("a frame of {0} bytes is larger than this point of the protocol allows")]
    FrameTooLarge(usize),
    /// Reassembled beyond the limit, or asked to send beyond it.
    #[error("a message is larger than {max} bytes", max = limits::MAX_CONTROL_MESSAGE)]
    MessageTooLarge,
    /// Not a greeting of this protocol.
    #[error("the other side does not speak this control protocol: is this the coordinator's address?")]
    NotAGreeting,
    /// A handshake message that does not decrypt: another mesh, another key, or not Noise at all.
    #[error("the handshake failed: the keys of the two sides do not fit")]
    Handshake,
    /// A transport frame that does not decrypt, or has no flag byte.
    #[error("a message was damaged on its way")]
    Damaged,
    /// The first message must come in one frame.
    #[error("the first message is split, which it must not be")]
    FirstMessageSplit,
    /// 2^64 - 1 frames; unreachable in practice.
    #[error("the channel has carried all it may")]
    Exhausted,
}

/// The coordinator's first bytes: its public keys, in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting(pub CoordinatorKeys);

impl Greeting {
    const MAGIC: &'static [u8; 8] = b"meshd\0c1";
    const BYTES: usize = 8 + 32 + 32;

    /// The frame, with its length in front.
    pub fn to_frame(&self) -> Vec<u8> {
        let mut body = Self::MAGIC.to_vec();
        body.extend(self.0.control.as_bytes());
        body.extend(self.0.signing.as_bytes());
        framed(&body)
    }

    /// Reads a frame's body. Bytes behind the keys are room for later versions.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(body: &[u8]) -> Result<Self, ChannelError> {
        let body = body.get(..Self::BYTES).ok_or(ChannelError::NotAGreeting)?;
        let (magic, keys) = body.split_at(8);
        if magic != Self::MAGIC {
            return Err(ChannelError::NotAGreeting);
        }
        let key =
            |at: usize| <[u8; 32]>::try_from(&keys[at..at + 32]).map_err(|_| ChannelError::NotAGreeting);
        Ok(Self(CoordinatorKeys {
            control: CoordinatorKey::from_bytes(key(0)?),
            signing: VerifyingKey::from_bytes(key(32)?),
        }))
    }
}

/// Cuts a byte stream into frames, without trusting it.
#[derive(Debug)]
pub struct Frames {
    buffer: Vec<u8>,
    start: usize,
    limit: usize,
}

impl Frames {
    /// Accepts handshake frames only, until [`Self::allow_transport`].
    pub const fn handshake() -> Self {
        Self { buffer: Vec::new(), start: 0, limit: MAX_HANDSHAKE_FRAME }
    }

    /// From now on frames of full size.
    pub const fn allow_transport(&mut self) {
        self.limit = limits::MAX_NOISE_FRAME;
    }

    /// Adds what was read. The caller reads a bounded piece and takes all frames out before it reads on.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The body of the next whole frame, if one is there.
    ///
    /// # Errors
    /// When its announced length is above the limit.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, ChannelError> {
        let rest = &self.buffer[self.start..];
        let Some((head, body)) = rest.split_at_checked(2) else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([head[0], head[1]]));
        if length > self.limit {
            return Err(ChannelError::FrameTooLarge(length));
        }
        if body.len() < length {
            return Ok(None);
        }
        let at = self.start + 2;
        self.start = at + length;
        Ok(Some(&self.buffer[at..at + length]))
    }

    /// Whether bytes are left that are no whole frame yet.
    pub const fn has_partial(&self) -> bool {
        self.buffer.len() > self.start
    }
}

/// The node's side of the handshake.
#[derive(Debug)]
pub struct Initiator(snow::HandshakeState);

impl Initiator {
    /// Begins towards the coordinator with exactly that key; the bytes are the first IK message, framed.
    ///
    /// # Errors
    /// When the operating system gives no randomness or the key is degenerate.
    pub fn new(
        me: &MachineSecret,
        coordinator: &CoordinatorKey,
        network: NetworkId,
    ) -> Result<(Self, Vec<u8>), ChannelError> {
        let prologue = prologue(network);
        let mut state = builder()?
            .local_private_key(me.as_bytes())
            .and_then(|b| b.remote_public_key(coordinator.as_bytes()))
            .and_then(|b| b.prologue(&prologue))
            .and_then(snow::Builder::build_initiator)
            .map_err(|_| ChannelError::Handshake)?;
        let mut out = [0; MAX_HANDSHAKE_FRAME];
        let n = state.write_message(&[], &mut out).map_err(|_| ChannelError::Handshake)?;
        Ok((Self(state), framed(&out[..n])))
    }

    /// Takes the second IK message (the body of its frame).
    ///
    /// # Errors
    /// When it was not made by the holder of the coordinator's key.
    pub fn finish(mut self, body: &[u8]) -> Result<Channel, ChannelError> {
        let mut none = [0; MAX_HANDSHAKE_FRAME];
        self.0.read_message(body, &mut none).map_err(|_| ChannelError::Handshake)?;
        Channel::new(self.0)
    }
}

/// The coordinator's side of the handshake.
#[derive(Debug)]
pub struct Responder;

impl Responder {
    /// Answers a first IK message (the body of its frame); the bytes are the second one, framed.
    ///
    /// # Errors
    /// When it is for another key or mesh, or no handshake at all.
    pub fn accept(
        me: &CoordinatorSecret,
        network: NetworkId,
        body: &[u8],
    ) -> Result<(Unproven, Vec<u8>), ChannelError> {
        let prologue = prologue(network);
        let mut state = builder()?
            .local_private_key(me.as_bytes())
            .and_then(|b| b.prologue(&prologue))
            .and_then(snow::Builder::build_responder)
            .map_err(|_| ChannelError::Handshake)?;
        let mut scratch = [0; MAX_HANDSHAKE_FRAME];
        state.read_message(body, &mut scratch).map_err(|_| ChannelError::Handshake)?;
        let n = state.write_message(&[], &mut scratch).map_err(|_| ChannelError::Handshake)?;
        Ok((Unproven(Channel::new(state)?), framed(&scratch[..n])))
    }
}

/// A channel whose client has not yet shown that it is there now.
#[derive(Debug)]
pub struct Unproven(Channel);

impl Unproven {
    /// Opens the client's first message (the body of its frame), which proves its key.
    ///
    /// # Errors
    /// When it does not decrypt or is only a piece.
    pub fn prove(mut self, body: &[u8]) -> Result<(Channel, Vec<u8>), ChannelError> {
        let first = self.0.opener.open(body)?.ok_or(ChannelError::FirstMessageSplit)?;
        Ok((self.0, first))
    }
}

/// An open channel. Take its halves apart to read and write at the same time.
#[derive(Debug)]
pub struct Channel {
    /// Who is at the other end: the static key of the handshake.
    pub remote: [u8; 32],
    /// Names this one handshake: bind proofs to it.
    pub handshake_hash: HandshakeHash,
    /// The sending half.
    pub sealer: Sealer,
    /// The receiving half.
    pub opener: Opener,
}

/// The hash that names one handshake (Noise specification §11.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandshakeHash([u8; 32]);

impl HandshakeHash {
    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Channel {
    fn new(state: snow::HandshakeState) -> Result<Self, ChannelError> {
        let hash = state.get_handshake_hash().try_into().map_err(|_| ChannelError::Handshake)?;
        let remote =
            state.get_remote_static().and_then(|k| k.try_into().ok()).ok_or(ChannelError::Handshake)?;
        let state = state.into_stateless_transport_mode().map_err(|_| ChannelError::Handshake)?;
        let state = Arc::new(state);
        Ok(Self {
            remote,
            handshake_hash: HandshakeHash(hash),
            sealer: Sealer { state: state.clone(), nonce: 0 },
            opener: Opener { state, nonce: 0, partial: Vec::new() },
        })
    }

    /// The other end as a machine: for the coordinator's side.
    pub const fn machine(&self) -> MachineKey {
        MachineKey::from_bytes(self.remote)
    }
}

/// The sending half of a channel.
#[derive(Debug)]
pub struct Sealer {
    state: Arc<StatelessTransportState>,
    nonce: u64,
}

impl Sealer {
    /// Appends `message` to `out` as one or more frames, ready to be written.
    ///
    /// # Errors
    /// When the message is too large; nothing was appended then.
    pub fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), ChannelError> {
        if message.len() > limits::MAX_CONTROL_MESSAGE {
            return Err(ChannelError::MessageTooLarge);
        }
        let mut rest = message;
        let mut plain = Vec::with_capacity(message.len().min(MAX_PIECE) + 1);
        loop {
            let (piece, tail) = rest.split_at(rest.len().min(MAX_PIECE));
            rest = tail;
            plain.clear();
            plain.push(if rest.is_empty() { LAST_PIECE } else { 0 });
            plain.extend_from_slice(piece);
            let length = plain.len() + TAG_BYTES;
            out.extend_from_slice(&(length as u16).to_be_bytes());
            let at = out.len();
            out.resize(at + length, 0);
            self.state
                .write_message(next(&mut self.nonce)?, &plain, &mut out[at..])
                .map_err(|_| ChannelError::Damaged)?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }
}

/// The receiving half of a channel.
#[derive(Debug)]
pub struct Opener {
    state: Arc<StatelessTransportState>,
    nonce: u64,
    partial: Vec<u8>,
}

impl Opener {
    /// Opens the body of a frame; a message when it was the last piece of one.
    ///
    /// # Errors
    /// When it does not decrypt or the message grows too large.
    pub fn open(&mut self, body: &[u8]) -> Result<Option<Vec<u8>>, ChannelError> {
        let mut plain = vec![0; body.len()];
        let n = self
            .state
            .read_message(next(&mut self.nonce)?, body, &mut plain)
            .map_err(|_| ChannelError::Damaged)?;
        plain.truncate(n);
        let (&flags, piece) = plain.split_first().ok_or(ChannelError::Damaged)?;
        if self.partial.len() + piece.len() > limits::MAX_CONTROL_MESSAGE {
            return Err(ChannelError::MessageTooLarge);
        }
        self.partial.extend_from_slice(piece);
        Ok((flags & LAST_PIECE != 0).then(|| std::mem::take(&mut self.partial)))
    }
}

/// What a node sends to prove that it holds its node key: a MAC under X25519(node, coordinator), bound to
/// this handshake. `None` when the coordinator's key is degenerate.
pub fn prove_possession(
    node: &NodeSecret,
    coordinator: &CoordinatorKey,
    machine: &MachineKey,
    hash: &HandshakeHash,
) -> Option<[u8; 32]> {
    let shared = node.diffie_hellman(coordinator.as_bytes())?;
    Some(possession_mac(&shared, machine, &node.public(), hash))
}

/// Checks [`prove_possession`] in constant time.
pub fn check_possession(
    coordinator: &CoordinatorSecret,
    node: &NodeKey,
    machine: &MachineKey,
    hash: &HandshakeHash,
    proof: &[u8; 32],
) -> bool {
    let Some(shared) = coordinator.diffie_hellman(node.as_bytes()) else {
        return false;
    };
    keys::constant_time_eq(&possession_mac(&shared, machine, node, hash), proof)
}

fn possession_mac(
    shared: &crate::SharedSecret,
    machine: &MachineKey,
    node: &NodeKey,
    hash: &HandshakeHash,
) -> [u8; 32] {
    shared.mac(crate::control::NODE_KEY_PROOF, &[hash.as_bytes(), machine.as_bytes(), node.as_bytes()])
}

fn next(nonce: &mut u64) -> Result<u64, ChannelError> {
    let now = *nonce;
    *nonce = now.checked_add(1).filter(|n| *n < u64::MAX).ok_or(ChannelError::Exhausted)?;
    Ok(now)
}

fn prologue(network: NetworkId) -> Vec<u8> {
    [LABEL, network.as_bytes()].concat()
}

fn builder<'a>() -> Result<snow::Builder<'a>, ChannelError> {
    NOISE.parse().map(snow::Builder::new).map_err(|_| ChannelError::Handshake)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + body.len());
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests;
