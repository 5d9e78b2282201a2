//! STUN binding (RFC 8489), as much as a node and a relay need to learn an outside address.
//!
//! No I/O, no clock, no entropy: the transaction id is an argument. It never authenticates anything: an
//! answer is believed only by whoever recognises the transaction id it drew, from the address it asked.
//!
//! Invariants: parsing allocates nothing and looks at most at [`MAX_MESSAGE`] bytes; an answer is never
//! longer than its request ([`Binding::answer`]), so a server cannot be used to amplify.
//!
//! DEVIATION: RFC 8489 §6.3 lets a server answer a bare 20-byte request with a longer response. We do
//! not: our requests are padded with an optional attribute to [`REQUEST_LEN`], and a request of another
//! make is answered only when the answer fits into it.
//! DEVIATION: a request with comprehension-required attributes that we do not know is dropped, where
//! RFC 8489 §6.3.1 asks for an error 420; so are all other methods and classes.

use crate::Endpoint;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The magic cookie (RFC 8489 §5).
pub const MAGIC_COOKIE: u32 = 0x2112_a442;
/// Longest message that is looked at.
pub const MAX_MESSAGE: usize = 1280;
/// Length of our binding request: as long as the longest answer to it (IPv6, no FINGERPRINT).
pub const REQUEST_LEN: usize = HEADER_LEN + 4 + 20;

const HEADER_LEN: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const MAPPED_ADDRESS: u16 = 0x0001;
const CHANGE_REQUEST: u16 = 0x0003;
const CHANGE_PORT: u32 = 2;
const ERROR_CODE: u16 = 0x0009;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const FINGERPRINT: u16 = 0x8028;
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// Filler of our requests: comprehension-optional, from the unassigned part of IANA's registry.
const FILLER: u16 = 0xff6d;

/// The 96 bits that tie an answer to its request. Drawn at random by the asker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub [u8; 12]);

/// A message of the binding method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Somebody asks for its outside address.
    Request {
        /// To be repeated in the answer.
        id: TransactionId,
        /// Length of the datagram: the answer's upper bound.
        len: usize,
        /// Whether it demands something that we do not know; such a request gets no answer.
        unknown_required: bool,
        /// Whether the answer is to come from the server's other port (RFC 5780 §7.2, CHANGE-REQUEST).
        change_port: bool,
    },
    /// The answer: the address the server saw.
    Success {
        /// Of the request.
        id: TransactionId,
        /// What the server saw as source.
        mapped: Endpoint,
    },
    /// The server refused.
    Error {
        /// Of the request.
        id: TransactionId,
        /// 300–699 (RFC 8489 §14.8); 0 when the answer names none.
        code: u16,
    },
}

/// Why a datagram is not a STUN binding message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StunError {
    /// No header, wrong cookie, or a length that does not match.
    #[error("not a STUN message")]
    NotStun,
    /// Another method or class than a binding request, success or error.
    #[error("STUN message type {0:#06x} is not used here")]
    Unsupported(u16),
    /// An attribute that runs past the end or whose content does not fit.
    #[error("STUN attribute {0:#06x} is malformed")]
    BadAttribute(u16),
    /// FINGERPRINT present and wrong.
    #[error("STUN fingerprint does not match")]
    BadFingerprint,
    /// A success response that names no address.
    #[error("STUN response without a mapped address")]
    NoAddress,
}

/// Whether `datagram` can only be STUN: two zero bits, the cookie, a length in words (RFC 8489 §5).
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_LEN
        && datagram[0] & 0xc0 == 0
        && datagram[3] & 3 == 0
        && datagram[4..8] == MAGIC_COOKIE.to_be_bytes()
}

/// A binding request, padded so that every answer fits into its length.
pub fn encode_request(id: TransactionId) -> [u8; REQUEST_LEN] {
    let mut out = [0; REQUEST_LEN];
    out[..HEADER_LEN].copy_from_slice(&header(BINDING_REQUEST, REQUEST_LEN - HEADER_LEN, id));
    out[20..22].copy_from_slice(&FILLER.to_be_bytes());
    out[22..24].copy_from_slice(&20u16.to_be_bytes());
    out
}

/// A binding request that asks for the answer from the server's other port: only a NAT that does not
/// filter by port lets it in. As long as [`encode_request`]'s.
pub fn encode_change_port_request(id: TransactionId) -> [u8; REQUEST_LEN] {
    let mut out = encode_request(id);
    out[20..22].copy_from_slice(&CHANGE_REQUEST.to_be_bytes());
    out[22..24].copy_from_slice(&4u16.to_be_bytes());
    out[24..28].copy_from_slice(&CHANGE_PORT.to_be_bytes());
    out[28..30].copy_from_slice(&FILLER.to_be_bytes());
    out[30..32].copy_from_slice(&12u16.to_be_bytes());
    out
}

/// A binding success response that says `seen` in an XOR-MAPPED-ADDRESS.
pub fn encode_success(id: TransactionId, seen: Endpoint) -> Vec<u8> {
    let ip = seen.0.ip().to_canonical();
    let port = seen.0.port() ^ (MAGIC_COOKIE >> 16) as u16;
    let (family, bytes): (u8, Vec<u8>) = match ip {
        IpAddr::V4(v4) => (1, (u32::from(v4) ^ MAGIC_COOKIE).to_be_bytes().to_vec()),
        IpAddr::V6(v6) => (2, (u128::from(v6) ^ v6_mask(id)).to_be_bytes().to_vec()),
    };
    let value_len = 4 + bytes.len();
    let mut out = Vec::with_capacity(HEADER_LEN + 4 + value_len);
    out.extend_from_slice(&header(BINDING_SUCCESS, 4 + value_len, id));
    out.extend_from_slice(&XOR_MAPPED_ADDRESS.to_be_bytes());
    out.extend_from_slice(&(value_len as u16).to_be_bytes());
    out.extend_from_slice(&[0, family]);
    out.extend_from_slice(&port.to_be_bytes());
    out.extend_from_slice(&bytes);
    out
}

impl Binding {
    /// Reads a binding message.
    ///
    /// # Errors
    /// When the datagram is something else or malformed.
    pub fn parse(datagram: &[u8]) -> Result<Self, StunError> {
        if !is_stun(datagram) || datagram.len() > MAX_MESSAGE {
            return Err(StunError::NotStun);
        }
        let kind = u16::from_be_bytes([datagram[0], datagram[1]]);
        let len = usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
        if datagram.len() != HEADER_LEN + len {
            return Err(StunError::NotStun);
        }
        let mut id = TransactionId([0; 12]);
        id.0.copy_from_slice(&datagram[8..20]);
        let found = Attributes::read(datagram, id, kind)?;
        match kind {
            BINDING_REQUEST => {
                let Attributes { unknown_required, change_port, .. } = found;
                Ok(Self::Request { id, len: datagram.len(), unknown_required, change_port })
            }
            BINDING_SUCCESS => {
                let mapped = found.xor_mapped.or(found.mapped).ok_or(StunError::NoAddress)?;
                Ok(Self::Success { id, mapped })
            }
            BINDING_ERROR => Ok(Self::Error { id, code: found.code }),
            other => Err(StunError::Unsupported(other)),
        }
    }

    /// What a server answers to this message, having seen `source`: nothing unless it is a request that
    /// is understood and at least as long as the answer.
    pub fn answer(&self, source: Endpoint) -> Option<Vec<u8>> {
        match *self {
            Self::Request { id, len, unknown_required: false, .. } => {
                Some(encode_success(id, source)).filter(|answer| answer.len() <= len)
            }
            Self::Request { .. } | Self::Success { .. } | Self::Error { .. } => None,
        }
    }
}

#[derive(Default)]
struct Attributes {
    xor_mapped: Option<Endpoint>,
    mapped: Option<Endpoint>,
    code: u16,
    unknown_required: bool,
    change_port: bool,
}

impl Attributes {
    fn read(datagram: &[u8], id: TransactionId, kind: u16) -> Result<Self, StunError> {
        let mut found = Self::default();
        let mut at = HEADER_LEN;
        while at < datagram.len() {
            let Some(head) = datagram.get(at..at + 4) else {
                return Err(StunError::BadAttribute(0));
            };
            let name = u16::from_be_bytes([head[0], head[1]]);
            let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let value = datagram.get(at + 4..at + 4 + len).ok_or(StunError::BadAttribute(name))?;
            match name {
                // RFC 8489 §14: of repeated attributes, the first counts.
                XOR_MAPPED_ADDRESS if kind == BINDING_SUCCESS => {
                    let seen = read_address(name, value, Some(id))?;
                    found.xor_mapped = found.xor_mapped.or(Some(seen));
                }
                MAPPED_ADDRESS if kind == BINDING_SUCCESS => {
                    let seen = read_address(name, value, None)?;
                    found.mapped = found.mapped.or(Some(seen));
                }
                ERROR_CODE if kind == BINDING_ERROR => {
                    let [_, _, class, number, ..] = value else {
                        return Err(StunError::BadAttribute(name));
                    };
                    found.code = u16::from(class & 7) * 100 + u16::from(*number).min(99);
                }
                CHANGE_REQUEST if kind == BINDING_REQUEST => {
                    let flags = <[u8; 4]>::try_from(value).map_err(|_| StunError::BadAttribute(name))?;
                    match u32::from_be_bytes(flags) {
                        0 => {}
                        CHANGE_PORT => found.change_port = true,
                        // Another address: we have only one to offer.
                        _ => found.unknown_required = true,
                    }
                }
                FINGERPRINT => {
                    let crc = crc32_with_length(&datagram[..at], at + 8 - HEADER_LEN) ^ FINGERPRINT_XOR;
                    if value != crc.to_be_bytes() || at + 8 != datagram.len() {
                        return Err(StunError::BadFingerprint);
                    }
                }
                0x0000..=0x7fff => found.unknown_required = true,
                _ => {}
            }
            at += 4 + len.next_multiple_of(4);
        }
        Ok(found)
    }
}

fn header(kind: u16, len: usize, id: TransactionId) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[0..2].copy_from_slice(&kind.to_be_bytes());
    out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    out[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    out[8..20].copy_from_slice(&id.0);
    out
}

fn v6_mask(id: TransactionId) -> u128 {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(&id.0);
    u128::from_be_bytes(mask)
}

/// MAPPED-ADDRESS, or XOR-MAPPED-ADDRESS when `xor` names the transaction (RFC 8489 §14.1, §14.2).
fn read_address(name: u16, value: &[u8], xor: Option<TransactionId>) -> Result<Endpoint, StunError> {
    let (port_mask, v4_mask, v6_mask) = match xor {
        Some(id) => ((MAGIC_COOKIE >> 16) as u16, MAGIC_COOKIE, v6_mask(id)),
        None => (0, 0, 0),
    };
    let (ip, port): (IpAddr, [u8; 2]) = match *value {
        [_, 1, p0, p1, a, b, c, d] => {
            (Ipv4Addr::from(u32::from_be_bytes([a, b, c, d]) ^ v4_mask).into(), [p0, p1])
        }
        [_, 2, p0, p1, ref rest @ ..] => {
            let octets = <[u8; 16]>::try_from(rest).map_err(|_| StunError::BadAttribute(name))?;
            (Ipv6Addr::from(u128::from_be_bytes(octets) ^ v6_mask).into(), [p0, p1])
        }
        _ => return Err(StunError::BadAttribute(name)),
    };
    Ok(Endpoint::canonical(SocketAddr::new(ip, u16::from_be_bytes(port) ^ port_mask)))
}

/// CRC-32 (ITU-T V.42) over `bytes` with the header's length field read as `len` (RFC 8489 §14.7).
fn crc32_with_length(bytes: &[u8], len: usize) -> u32 {
    let length = (len as u16).to_be_bytes();
    let patched = bytes.iter().enumerate().map(|(i, b)| match i {
        2 => length[0],
        3 => length[1],
        _ => *b,
    });
    !patched.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
    })
}

#[cfg(test)]
mod tests;
