//! UDP frames between a node and its relay, and how they are told from everything else on the socket.
//!
//! A relay forwards ciphertext between nodes that it knows by their node keys. It holds no key of
//! theirs, so what it forwards it cannot read. A node attaches in two round trips: *Hello* → *Challenge*
//! proves its source address (the cookie), *Attach* → *Attached* proves permit and node key. All frames
//! from strangers are answered with at most their own length.
//!
//! No I/O, no clock; parsing borrows from the datagram and allocates nothing.
//!
//! Layout: three bytes [`MAGIC`], one byte frame type, then fixed fields (integers little-endian); what
//! follows the last field is ignored, except that a data frame's payload runs to the end.
//!
//! DEVIATION: relay control frames have a fixed layout instead of protobuf, since their sizes are part
//! of their safety (an answer is never longer than its request) and a relay parses them per packet.

use crate::keys::{NodeSecret, constant_time_eq, hash, keyed_hash};
use crate::permit::{PERMIT_LEN, SignedPermit};
use crate::stun::is_stun;
use crate::{Endpoint, NodeKey, SharedSecret};
use std::net::{Ipv6Addr, SocketAddr};

/// First three bytes of every relay frame. 0xf6 is no WireGuard type, its top bits are not STUN's, and it
/// does not begin [`PROBE_MAGIC`].
pub const MAGIC: [u8; 3] = [0xf6, b'm', b'r'];
/// First 32 bits (little-endian) of a probe between nodes.
pub const PROBE_MAGIC: u32 = 0x6d73_6864;
/// Bytes that relaying adds to a datagram.
pub const DATA_HEADER_LEN: usize = 4 + RelayAddr::LEN;
/// Shortest payload a relay forwards: the smallest WireGuard message, an empty data packet.
pub const MIN_PAYLOAD: usize = 32;
/// Length of a *Hello*, padded beyond its answer.
pub const HELLO_LEN: usize = 96;

const LEN_TOKEN: usize = 8;
const LEN_COOKIE: usize = 24;
const LEN_PROOF: usize = 16;

/// What a datagram on a mesh socket is, by its first bytes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramKind {
    /// WireGuard message types 1–4 (WireGuard paper §5.4).
    Wireguard,
    /// RFC 8489.
    Stun,
    /// A probe between nodes.
    Probe,
    /// A frame of this module.
    Relay,
    /// None of ours.
    Unknown,
}

impl DatagramKind {
    /// Looks at the first bytes.
    pub fn of(datagram: &[u8]) -> Self {
        let Some((first, _)) = datagram.split_first_chunk::<4>() else {
            return Self::Unknown;
        };
        if first.starts_with(&MAGIC) {
            return Self::Relay;
        }
        match u32::from_le_bytes(*first) {
            1..=4 => Self::Wireguard,
            PROBE_MAGIC => Self::Probe,
            _ if is_stun(datagram) => Self::Stun,
            _ => Self::Unknown,
        }
    }
}

/// A node's address on a relay: eight bytes of a hash of its node key. On the way to the relay a data
/// frame carries the destination's, on the way out the source's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayAddr([u8; Self::LEN]);

impl RelayAddr {
    /// Length on the wire.
    pub const LEN: usize = 8;

    /// The address of the node that holds `key`.
    pub fn of(key: &NodeKey) -> Self {
        Self(head(&hash("meshd relay address v1", &[key.as_bytes()])))
    }

    /// The eight bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Reads the eight bytes.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for RelayAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RelayAddr({:016x})", u64::from_be_bytes(self.0))
    }
}

/// Eight random bytes that the node draws for one attach; the relay repeats them in its *Challenge*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; LEN_TOKEN]);

/// What a relay gives to prove a source address: when it was made (milliseconds of the relay's own
/// clock) and a keyed hash over that, the source and the node key. The relay stores nothing for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cookie([u8; LEN_COOKIE]);

impl Cookie {
    /// Makes the cookie for `node` at `source`.
    pub fn make(secret: &[u8; 32], source: Endpoint, node: &NodeKey, made_ms: u64) -> Self {
        let at = made_ms.to_le_bytes();
        let tag =
            keyed_hash(secret, "meshd relay cookie v1", &[&at, &encode_endpoint(source), node.as_bytes()]);
        let mut out = [0; LEN_COOKIE];
        out[..8].copy_from_slice(&at);
        out[8..].copy_from_slice(&tag[..16]);
        Self(out)
    }

    /// When it says it was made; believe it only after comparing with [`Cookie::make`].
    pub fn made_ms(&self) -> u64 {
        u64::from_le_bytes(head(&self.0))
    }

    /// Compares in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Cookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cookie(…)")
    }
}

/// Names one attachment in the frames that follow it, so that nobody off the path can forge them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionToken([u8; LEN_TOKEN]);

impl SessionToken {
    /// Compares in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionToken(…)")
    }
}

/// A keyed hash that proves possession of a key in one attach.
#[derive(Clone, Copy)]
pub struct Proof([u8; LEN_PROOF]);

impl Proof {
    /// Compares in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl PartialEq for Proof {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other)
    }
}
impl Eq for Proof {}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof(…)")
    }
}

/// What both ends of one attach derive from static DH(node key, relay key) and the cookie.
#[derive(Clone, Debug)]
pub struct AttachKeys {
    shared: SharedSecret,
    cookie: Cookie,
}

impl AttachKeys {
    /// `None` for a key of low order.
    pub fn new(mine: &NodeSecret, theirs: &NodeKey, cookie: Cookie) -> Option<Self> {
        Some(Self { shared: mine.diffie_hellman(theirs.as_bytes())?, cookie })
    }

    /// The cookie they are bound to.
    pub const fn cookie(&self) -> Cookie {
        self.cookie
    }

    /// The node's proof over its permit.
    pub fn node_proof(&self, permit: &SignedPermit) -> Proof {
        Proof(head(&self.shared.mac("meshd relay attach v1", &[&self.cookie.0, permit.as_bytes()])))
    }

    /// The relay's proof over what it answers.
    pub fn relay_proof(&self, observed: Endpoint, lifetime_secs: u32) -> Proof {
        let parts: [&[u8]; 3] = [&self.cookie.0, &encode_endpoint(observed), &lifetime_secs.to_le_bytes()];
        Proof(head(&self.shared.mac("meshd relay attached v1", &parts)))
    }

    /// Names the attachment in later frames.
    pub fn session(&self) -> SessionToken {
        SessionToken(head(&self.shared.mac("meshd relay session v1", &[&self.cookie.0])))
    }
}

/// Why a relay does not serve a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RefuseReason {
    /// The sender's address is not attached (the relay restarted, or the sender's address changed).
    #[error("not attached")]
    NotAttached,
    /// The cookie is too old, of another address, or overtaken by a newer attach.
    #[error("the cookie is stale")]
    StaleCookie,
    /// The permit is malformed, not the coordinator's, or of another network.
    #[error("the permit is not one of this network's coordinator")]
    BadPermit,
    /// The permit has ended.
    #[error("the permit has ended")]
    ExpiredPermit,
    /// The proof of the node key is wrong.
    #[error("the node key was not proved")]
    BadProof,
    /// The node was removed from the network.
    #[error("the node key is revoked")]
    Revoked,
    /// The relay has as many clients as it may have.
    #[error("the relay is full")]
    Full,
    /// A reason of a newer version.
    #[error("refused (reason {0})")]
    Other(u8),
}

/// One relay frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Node → relay: may I prove my address? Padded to [`HELLO_LEN`].
    Hello {
        /// Who asks.
        node: NodeKey,
        /// To be repeated.
        nonce: Nonce,
    },
    /// Relay → node, answering *Hello*.
    Challenge {
        /// Of the *Hello*.
        nonce: Nonce,
        /// To be returned.
        cookie: Cookie,
        /// The relay's key; a node accepts only the one its map names.
        relay: NodeKey,
    },
    /// Node → relay: permit and proofs.
    Attach {
        /// Of the *Challenge*.
        cookie: Cookie,
        /// Names network and node key.
        permit: SignedPermit,
        /// [`AttachKeys::node_proof`].
        proof: Proof,
    },
    /// Relay → node, answering *Attach*.
    Attached {
        /// [`AttachKeys::relay_proof`].
        proof: Proof,
        /// Where the relay sees the node.
        observed: Endpoint,
        /// Seconds until the node must attach again.
        lifetime_secs: u32,
    },
    /// Relay → node: not served, and why.
    Refused {
        /// Why.
        reason: RefuseReason,
        /// The cookie's last eight bytes when an *Attach* is refused, else zero.
        echo: [u8; LEN_TOKEN],
    },
    /// Node → relay: are you there?
    Ping {
        /// Which attachment.
        session: SessionToken,
        /// To be repeated.
        seq: u32,
    },
    /// Relay → node, answering *Ping*.
    Pong {
        /// Of the *Ping*.
        session: SessionToken,
        /// Of the *Ping*.
        seq: u32,
    },
    /// Relay → node: nobody is attached under the address that a data frame named.
    PeerGone {
        /// Which attachment.
        session: SessionToken,
        /// Who is not there.
        peer: RelayAddr,
    },
    /// Relay → node: about to stop; attach again soon, or elsewhere.
    Restarting {
        /// Which attachment.
        session: SessionToken,
    },
    /// Either way: a datagram of the mesh.
    Data {
        /// To the relay: the destination. From the relay: the source.
        peer: RelayAddr,
        /// Ciphertext.
        payload: &'a [u8],
    },
}

/// Why a datagram is not a relay frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not [`MAGIC`].
    #[error("not a relay frame")]
    NotRelay,
    /// A type of a newer version, or noise.
    #[error("relay frame type {0:#04x} is not known")]
    UnknownType(u8),
    /// Shorter than its fields.
    #[error("relay frame of type {0:#04x} is too short")]
    Truncated(u8),
    /// A field that does not fit.
    #[error("relay frame of type {0:#04x} has a malformed {1}")]
    BadField(u8, &'static str),
}

const HELLO: u8 = 0x01;
const CHALLENGE: u8 = 0x02;
const ATTACH: u8 = 0x03;
const ATTACHED: u8 = 0x04;
const REFUSED: u8 = 0x05;
const PING: u8 = 0x06;
const PONG: u8 = 0x07;
const PEER_GONE: u8 = 0x08;
const RESTARTING: u8 = 0x09;
const DATA: u8 = 0x10;

/// The header that goes before a payload for (or from) `peer`. For who gathers instead of copying.
pub fn data_header(peer: RelayAddr) -> [u8; DATA_HEADER_LEN] {
    let mut out = [0; DATA_HEADER_LEN];
    out[..3].copy_from_slice(&MAGIC);
    out[3] = DATA;
    out[4..].copy_from_slice(&peer.0);
    out
}

/// Where [`data_header`] stands in a data frame that is forwarded in place: overwrites its address.
/// Does nothing to another frame.
pub fn readdress(frame: &mut [u8], source: RelayAddr) {
    if frame.len() >= DATA_HEADER_LEN && frame.starts_with(&MAGIC) && frame[3] == DATA {
        frame[4..DATA_HEADER_LEN].copy_from_slice(&source.0);
    }
}

impl Cookie {
    /// What a *Refused* repeats of the cookie it answers.
    pub fn echo(&self) -> [u8; LEN_TOKEN] {
        let mut out = [0; LEN_TOKEN];
        out.copy_from_slice(&self.0[LEN_COOKIE - LEN_TOKEN..]);
        out
    }
}

impl<'a> Frame<'a> {
    /// Reads a frame.
    ///
    /// # Errors
    /// When the datagram is not a frame of a known type with all its fields.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, FrameError> {
        let Some(([m0, m1, m2, kind], body)) = datagram.split_first_chunk::<4>() else {
            return Err(FrameError::NotRelay);
        };
        if [*m0, *m1, *m2] != MAGIC {
            return Err(FrameError::NotRelay);
        }
        let kind = *kind;
        let mut fields = Fields { kind, rest: body };
        match kind {
            HELLO => {
                let node = NodeKey::from_bytes(fields.take()?);
                let nonce = Nonce(fields.take()?);
                if datagram.len() < HELLO_LEN {
                    return Err(FrameError::Truncated(kind));
                }
                Ok(Self::Hello { node, nonce })
            }
            CHALLENGE => Ok(Self::Challenge {
                nonce: Nonce(fields.take()?),
                cookie: Cookie(fields.take()?),
                relay: NodeKey::from_bytes(fields.take()?),
            }),
            ATTACH => {
                let cookie = Cookie(fields.take()?);
                let permit = SignedPermit::from_bytes(&fields.take::<PERMIT_LEN>()?)
                    .map_err(|_| FrameError::BadField(kind, "permit"))?;
                Ok(Self::Attach { cookie, permit, proof: Proof(fields.take()?) })
            }
            ATTACHED => {
                let proof = Proof(fields.take()?);
                let observed = decode_endpoint(fields.take()?);
                Ok(Self::Attached { proof, observed, lifetime_secs: u32::from_le_bytes(fields.take()?) })
            }
            REFUSED => {
                let [code] = fields.take()?;
                Ok(Self::Refused { reason: RefuseReason::from_code(code), echo: fields.take()? })
            }
            PING => {
                let session = SessionToken(fields.take()?);
                Ok(Self::Ping { session, seq: u32::from_le_bytes(fields.take()?) })
            }
            PONG => {
                let session = SessionToken(fields.take()?);
                Ok(Self::Pong { session, seq: u32::from_le_bytes(fields.take()?) })
            }
            PEER_GONE => {
                let session = SessionToken(fields.take()?);
                Ok(Self::PeerGone { session, peer: RelayAddr(fields.take()?) })
            }
            RESTARTING => Ok(Self::Restarting { session: SessionToken(fields.take()?) }),
            DATA => Ok(Self::Data { peer: RelayAddr(fields.take()?), payload: fields.rest }),
            other => Err(FrameError::UnknownType(other)),
        }
    }

    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        match self {
            Self::Hello { node, nonce } => {
                put(out, HELLO, &[node.as_bytes(), &nonce.0]);
                out.resize(start + HELLO_LEN, 0);
            }
            Self::Challenge { nonce, cookie, relay } => {
                put(out, CHALLENGE, &[&nonce.0, &cookie.0, relay.as_bytes()]);
            }
            Self::Attach { cookie, permit, proof } => {
                put(out, ATTACH, &[&cookie.0, permit.as_bytes(), &proof.0]);
            }
            Self::Attached { proof, observed, lifetime_secs } => {
                put(out, ATTACHED, &[&proof.0, &encode_endpoint(*observed), &lifetime_secs.to_le_bytes()]);
            }
            Self::Refused { reason, echo } => put(out, REFUSED, &[&[reason.code()], echo]),
            Self::Ping { session, seq } => put(out, PING, &[&session.0, &seq.to_le_bytes()]),
            Self::Pong { session, seq } => put(out, PONG, &[&session.0, &seq.to_le_bytes()]),
            Self::PeerGone { session, peer } => put(out, PEER_GONE, &[&session.0, &peer.0]),
            Self::Restarting { session } => put(out, RESTARTING, &[&session.0]),
            Self::Data { peer, payload } => put(out, DATA, &[&peer.0, payload]),
        }
    }
}

impl RefuseReason {
    const fn code(self) -> u8 {
        match self {
            Self::NotAttached => 1,
            Self::StaleCookie => 2,
            Self::BadPermit => 3,
            Self::ExpiredPermit => 4,
            Self::BadProof => 5,
            Self::Revoked => 6,
            Self::Full => 7,
            Self::Other(code) => code,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::NotAttached,
            2 => Self::StaleCookie,
            3 => Self::BadPermit,
            4 => Self::ExpiredPermit,
            5 => Self::BadProof,
            6 => Self::Revoked,
            7 => Self::Full,
            other => Self::Other(other),
        }
    }
}

struct Fields<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(FrameError::Truncated(self.kind))?;
        self.rest = rest;
        Ok(*field)
    }
}

fn put(out: &mut Vec<u8>, kind: u8, fields: &[&[u8]]) {
    out.push(kind);
    fields.iter().for_each(|f| out.extend_from_slice(f));
}

fn head<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

/// Address (IPv4 as IPv4-mapped IPv6) and port: 18 bytes.
fn encode_endpoint(endpoint: Endpoint) -> [u8; 18] {
    let ip = match endpoint.0.ip() {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        std::net::IpAddr::V6(v6) => v6,
    };
    let mut out = [0; 18];
    out[..16].copy_from_slice(&ip.octets());
    out[16..].copy_from_slice(&endpoint.0.port().to_le_bytes());
    out
}

fn decode_endpoint(bytes: [u8; 18]) -> Endpoint {
    let ip = Ipv6Addr::from(head::<16>(&bytes));
    Endpoint::canonical(SocketAddr::new(ip.into(), u16::from_le_bytes([bytes[16], bytes[17]])))
}

#[cfg(test)]
mod tests;
