//! Probes: small sealed datagrams by which two nodes prove a path, without a session.
//!
//! # Wire format
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | [`MAGIC`], little-endian: outside WireGuard's message types 1–4, and its first byte outside STUN's 0–3 |
//! | 4 | 8 | the sender's tag, see [`SenderTag::of`] |
//! | 12 | 24 | nonce, random |
//! | 36 | n | content, sealed with XChaCha20-Poly1305; bytes 0–11 are authenticated with it |
//! | 36 + n | 16 | tag |
//!
//! The key belongs to the pair of nodes and the mesh ([`ProbeKey::derive`]); both directions use it. A
//! datagram that is thrown back at its sender carries the sender's own tag and finds no peer there.
//!
//! Content, little-endian: kind (1), flags (1), transaction id (12), the sender's run (8) and the number of this
//! probe in it (8), by which a recorded one is known ([`replay`](super::replay)), then by kind
//!
//! - ping (1): zeros up to the length of a pong, so that an answer is never longer than its question;
//! - pong (2): the endpoint the ping came from, as the receiver saw it (19, family 0: over a relay);
//! - candidates (3): whether a home relay follows (1), its id (4), a count (1), that many endpoints; then,
//!   where there is room for it, whether a backup relay follows (1), its id (4), the mapping of the sender's
//!   NAT (1: 0 unknown, 1 independent of the destination, 2 dependent) and its IPv4 endpoint as STUN sees it;
//! - meet (4): the round (1). The sender has opened many sockets towards us: probe its ports.
//!
//! Flags: 1 the sender has a session with the receiver, 2 its LAN side is down, 4 it is being drained.
//!
//! An endpoint is family (1: 0 none, 4, 6), port (2), address (16, IPv4 in the first four). Bytes behind
//! the content are ignored: they are padding.

use super::replay::{Run, Stamp};
use crate::nat::Mapping;
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use meshd_proto::keys::{SharedSecret, hash};
use meshd_proto::{Endpoint, NetworkId, NodeKey, RelayId};
use std::net::{IpAddr, SocketAddr};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// `mshd` as a number; the same as [`meshd_proto::relay::PROBE_MAGIC`].
pub const MAGIC: u32 = meshd_proto::relay::PROBE_MAGIC;
/// Most endpoints in one candidates frame.
pub const MAX_CANDIDATES: usize = 16;
/// Longest datagram that is looked at.
pub const MAX_PROBE: usize = 1500;

const HEADER: usize = 12;
const NONCE: usize = 24;
const TAG: usize = 16;
const COMMON: usize = 30;
const ENDPOINT: usize = 19;
const PONG: usize = COMMON + ENDPOINT;
const FLAG_SESSION: u8 = 1;
const FLAG_LAN_DOWN: u8 = 2;
const FLAG_DRAINING: u8 = 4;

/// Ties a pong to its ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(pub [u8; 12]);

/// Names the sender to those who know its key, and nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SenderTag([u8; 8]);

impl SenderTag {
    /// The tag of the node with `key` in `network`.
    pub fn of(network: &NetworkId, key: &NodeKey) -> Self {
        let full = hash("meshd probe tag v1", &[network.as_bytes(), key.as_bytes()]);
        let mut tag = [0; 8];
        tag.copy_from_slice(&full[..8]);
        Self(tag)
    }
}

/// The key of one pair of nodes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ProbeKey([u8; 32]);

impl ProbeKey {
    /// From the static Diffie-Hellman of the two node keys, in their order, and the mesh.
    pub fn derive(shared: &SharedSecret, network: &NetworkId, a: &NodeKey, b: &NodeKey) -> Self {
        let (lower, higher) = if a <= b { (a, b) } else { (b, a) };
        let parts: [&[u8]; 3] = [network.as_bytes(), lower.as_bytes(), higher.as_bytes()];
        Self(shared.mac("meshd probe v1", &parts))
    }
}

impl std::fmt::Debug for ProbeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProbeKey(redacted)")
    }
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Ties a pong to its ping.
    pub txid: TxId,
    /// What makes it another one than all before.
    pub stamp: Stamp,
    /// The sender has a session with the receiver. A receiver that has none begins a handshake: this
    /// is how a restarted node hears of the sessions it lost.
    pub has_session: bool,
    /// Whether the sender is fit to carry flows for others.
    pub fitness: Fitness,
    /// What it says.
    pub content: Content,
}

/// Whether a node is fit to carry flows for others: a subnet router says so in every probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Fitness {
    /// Nothing wrong.
    #[default]
    Fit,
    /// It carries what it carries, but wants nothing new.
    Draining,
    /// What lies behind it cannot be reached through it.
    LanDown,
}

impl Fitness {
    pub(crate) const fn flags(self) -> u8 {
        match self {
            Self::Fit => 0,
            Self::Draining => FLAG_DRAINING,
            Self::LanDown => FLAG_LAN_DOWN,
        }
    }

    pub(crate) const fn of_flags(flags: u8) -> Self {
        match (flags & FLAG_LAN_DOWN != 0, flags & FLAG_DRAINING != 0) {
            (true, _) => Self::LanDown,
            (false, true) => Self::Draining,
            (false, false) => Self::Fit,
        }
    }
}

/// Where a node may be reached, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its home relay.
    pub home_relay: Option<RelayId>,
    /// The relay to use when that one is silent.
    pub backup_relay: Option<RelayId>,
    /// How its NAT maps IPv4.
    pub mapping: Mapping,
    /// Its IPv4 endpoint as STUN sees it.
    pub mapped: Option<Endpoint>,
    /// Its endpoints, at most [`MAX_CANDIDATES`].
    pub endpoints: Vec<Endpoint>,
}

/// What a probe says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Answer this.
    Ping,
    /// The answer.
    Pong {
        /// Where the ping came from; `None`: over a relay.
        observed: Option<Endpoint>,
    },
    /// Where the sender may be reached.
    Candidates(Whereabouts),
    /// The sender has opened many sockets towards our mapped endpoint: probe its ports.
    Meet {
        /// Which try this is.
        round: u8,
    },
}

/// Why a datagram is not a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Too short, too long, or another magic.
    #[error("not a probe")]
    NotProbe,
    /// Forged or for another pair.
    #[error("not authentic")]
    NotAuthentic,
    /// Authentic, but not of a form that is known here.
    #[error("content of unknown form")]
    Content,
}

/// Whether a datagram claims to be a probe.
pub fn is_probe(datagram: &[u8]) -> bool {
    datagram.first_chunk::<4>().is_some_and(|b| u32::from_le_bytes(*b) == MAGIC)
}

/// Who claims to have sent a probe.
///
/// # Errors
/// When it is not a probe by its form.
pub fn sender(datagram: &[u8]) -> Result<SenderTag, ProbeError> {
    if !is_probe(datagram) || datagram.len() < HEADER + NONCE + COMMON + TAG || datagram.len() > MAX_PROBE {
        return Err(ProbeError::NotProbe);
    }
    let tag = datagram.get(4..).and_then(|b| b.first_chunk::<8>()).ok_or(ProbeError::NotProbe)?;
    Ok(SenderTag(*tag))
}

/// Opens a probe of the peer that shares `key`.
///
/// # Errors
/// See [`ProbeError`].
pub fn open(key: &ProbeKey, datagram: &[u8]) -> Result<Probe, ProbeError> {
    sender(datagram)?;
    let (header, rest) = datagram.split_at(HEADER);
    let (nonce, rest) = rest.split_at(NONCE);
    let (sealed, tag) = rest.split_at(rest.len() - TAG);
    let mut content = sealed.to_vec();
    XChaCha20Poly1305::new((&key.0).into())
        .decrypt_in_place_detached(nonce.into(), header, &mut content, tag.into())
        .map_err(|_| ProbeError::NotAuthentic)?;
    decode(&content)
}

/// Seals a probe. `nonce` is 24 random bytes, never used twice.
pub fn seal(key: &ProbeKey, sender: SenderTag, nonce: &[u8; 24], probe: &Probe) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + NONCE + PONG + TAG);
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&sender.0);
    let mut content = encode(probe);
    // Sealing fails only for contents of gigabytes.
    let tag = XChaCha20Poly1305::new((&key.0).into())
        .encrypt_in_place_detached(nonce.into(), &out, &mut content)
        .unwrap_or_default();
    out.extend_from_slice(nonce);
    out.extend_from_slice(&content);
    out.extend_from_slice(&tag);
    out
}

fn encode(probe: &Probe) -> Vec<u8> {
    let kind = match probe.content {
        Content::Ping => 1,
        Content::Pong { .. } => 2,
        Content::Candidates(_) => 3,
        Content::Meet { .. } => 4,
    };
    let session = if probe.has_session { FLAG_SESSION } else { 0 };
    let mut out = vec![kind, session | probe.fitness.flags()];
    out.extend_from_slice(&probe.txid.0);
    out.extend_from_slice(&probe.stamp.run.0);
    out.extend_from_slice(&probe.stamp.number.to_le_bytes());
    match &probe.content {
        Content::Ping => out.resize(PONG, 0),
        Content::Pong { observed } => put_endpoint(&mut out, *observed),
        Content::Candidates(at) => {
            put_relay(&mut out, at.home_relay);
            let endpoints = &at.endpoints[..at.endpoints.len().min(MAX_CANDIDATES)];
            out.push(u8::try_from(endpoints.len()).unwrap_or_default());
            endpoints.iter().for_each(|e| put_endpoint(&mut out, Some(*e)));
            put_relay(&mut out, at.backup_relay);
            out.push(at.mapping as u8);
            put_endpoint(&mut out, at.mapped);
        }
        Content::Meet { round } => {
            out.push(*round);
            out.resize(PONG, 0);
        }
    }
    out
}

fn put_relay(out: &mut Vec<u8>, relay: Option<RelayId>) {
    out.push(u8::from(relay.is_some()));
    out.extend_from_slice(&relay.unwrap_or_default().0.to_le_bytes());
}

fn put_endpoint(out: &mut Vec<u8>, endpoint: Option<Endpoint>) {
    let mut field = [0; ENDPOINT];
    if let Some(Endpoint(addr)) = endpoint {
        field[1..3].copy_from_slice(&addr.port().to_le_bytes());
        match addr.ip() {
            IpAddr::V4(ip) => {
                field[0] = 4;
                field[3..7].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                field[0] = 6;
                field[3..].copy_from_slice(&ip.octets());
            }
        }
    }
    out.extend_from_slice(&field);
}

/// Reads the content of an opened probe.
///
/// # Errors
/// [`ProbeError::Content`] for an unknown kind or a content that is too short.
pub fn decode(content: &[u8]) -> Result<Probe, ProbeError> {
    let (common, rest) = content.split_first_chunk::<COMMON>().ok_or(ProbeError::Content)?;
    let (mut txid, mut run, mut number) = ([0; 12], [0; 8], [0; 8]);
    txid.copy_from_slice(&common[2..14]);
    run.copy_from_slice(&common[14..22]);
    number.copy_from_slice(&common[22..]);
    let stamp = Stamp { run: Run(run), number: u64::from_le_bytes(number) };
    let content = match common[0] {
        1 => Content::Ping,
        2 => Content::Pong { observed: take_endpoint(rest).ok_or(ProbeError::Content)?.0 },
        3 => take_candidates(rest).ok_or(ProbeError::Content)?,
        4 => Content::Meet { round: *rest.first().ok_or(ProbeError::Content)? },
        _ => return Err(ProbeError::Content),
    };
    let (has_session, fitness) = (common[1] & FLAG_SESSION != 0, Fitness::of_flags(common[1]));
    Ok(Probe { txid: TxId(txid), stamp, has_session, fitness, content })
}

fn take_candidates(bytes: &[u8]) -> Option<Content> {
    let (home_relay, rest) = take_relay(bytes)?;
    let (count, mut rest) = rest.split_first()?;
    let mut at = Whereabouts { home_relay, ..Whereabouts::default() };
    for _ in 0..usize::from(*count).min(MAX_CANDIDATES) {
        let (endpoint, after) = take_endpoint(rest)?;
        at.endpoints.extend(endpoint);
        rest = after;
    }
    // Older nodes end here.
    if let Some((backup, rest)) = take_relay(rest)
        && let Some((mapping, rest)) = rest.split_first()
        && let Some((mapped, _)) = take_endpoint(rest)
    {
        at.backup_relay = backup;
        at.mapping = Mapping::of_code(*mapping);
        at.mapped = mapped.filter(|e| e.0.is_ipv4());
    }
    Some(Content::Candidates(at))
}

fn take_relay(bytes: &[u8]) -> Option<(Option<RelayId>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<5>()?;
    let relay = RelayId(u32::from_le_bytes([head[1], head[2], head[3], head[4]]));
    Some(((head[0] == 1).then_some(relay), rest))
}

fn take_endpoint(bytes: &[u8]) -> Option<(Option<Endpoint>, &[u8])> {
    let (field, rest) = bytes.split_first_chunk::<ENDPOINT>()?;
    let port = u16::from_le_bytes([field[1], field[2]]);
    let ip = match field[0] {
        4 => IpAddr::from([field[3], field[4], field[5], field[6]]),
        6 => IpAddr::from(*field[3..].first_chunk::<16>()?),
        _ => return Some((None, rest)),
    };
    Some((Some(Endpoint::canonical(SocketAddr::new(ip, port))), rest))
}

#[cfg(test)]
mod tests;
