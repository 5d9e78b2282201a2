//! Protobuf forms of the types that cross a wire. Private to the crate: everybody else sees valid types only.
//!
//! Field numbers are never reused. Unknown fields are skipped, so a new field must be one that an old
//! program may ignore.

pub(crate) mod control;
pub(crate) mod entry;
mod expose;
mod forward;
pub(crate) mod key;

use crate::{Endpoint, MeshAddrs, MeshPrefixes, Prefix, id::NameError, keys::KeyError};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why bytes from a wire or a file are not a message.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf, or cut off.
    #[error("not a valid message: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// A field that must be there is not.
    #[error("the message has no `{0}`")]
    Missing(&'static str),
    /// A field has a value that it cannot have.
    #[error("`{field}` is not valid: {why}")]
    Invalid {
        /// Which one.
        field: &'static str,
        /// Why.
        why: String,
    },
    /// More than [`crate::limits`] allows.
    #[error("`{field}` has {got} elements or bytes, at most {max} are accepted")]
    TooLarge {
        /// Which one.
        field: &'static str,
        /// How many there are.
        got: usize,
        /// How many are accepted.
        max: usize,
    },
    /// A kind of message that this version does not know. A receiver skips it.
    #[error("a kind of message that this version does not know")]
    UnknownKind,
}

impl DecodeError {
    pub(crate) fn invalid(field: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Invalid { field, why: why.to_string() }
    }
}

impl From<NameError> for DecodeError {
    fn from(e: NameError) -> Self {
        Self::invalid("name", e)
    }
}

impl From<KeyError> for DecodeError {
    fn from(e: KeyError) -> Self {
        Self::invalid("key", e)
    }
}

pub(crate) type Decoded<T> = Result<T, DecodeError>;

/// Bounds a repeated or byte field.
pub(crate) fn bounded(field: &'static str, got: usize, max: usize) -> Decoded<()> {
    if got > max { Err(DecodeError::TooLarge { field, got, max }) } else { Ok(()) }
}

pub(crate) fn fixed<const N: usize>(field: &'static str, bytes: &[u8]) -> Decoded<[u8; N]> {
    bytes.try_into().map_err(|_| DecodeError::invalid(field, format!("{} bytes instead of {N}", bytes.len())))
}

pub(crate) fn text(field: &'static str, value: String) -> Decoded<String> {
    bounded(field, value.len(), crate::limits::MAX_TEXT)?;
    Ok(value)
}

pub(crate) fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(crate) fn ip(field: &'static str, bytes: &[u8]) -> Decoded<IpAddr> {
    match bytes.len() {
        4 => Ok(Ipv4Addr::from(fixed::<4>(field, bytes)?).into()),
        16 => Ok(Ipv6Addr::from(fixed::<16>(field, bytes)?).into()),
        n => Err(DecodeError::invalid(field, format!("{n} bytes are not an IP address"))),
    }
}

/// Address bytes followed by the prefix length.
pub(crate) fn prefix_bytes(prefix: Prefix) -> Vec<u8> {
    let mut out = ip_bytes(prefix.net().addr());
    out.push(prefix.net().prefix_len());
    out
}

pub(crate) fn prefix(field: &'static str, bytes: &[u8]) -> Decoded<Prefix> {
    let (&len, addr) = bytes.split_last().ok_or(DecodeError::Missing(field))?;
    let net = IpNet::new(ip(field, addr)?, len).map_err(|e| DecodeError::invalid(field, e))?;
    Prefix::new(net).map_err(|e| DecodeError::invalid(field, e))
}

pub(crate) fn prefixes(field: &'static str, list: &[Vec<u8>]) -> Decoded<Vec<Prefix>> {
    bounded(field, list.len(), crate::limits::MAX_ADVERTISED_ROUTES)?;
    list.iter().map(|b| prefix(field, b)).collect()
}

/// Address bytes followed by the port, big-endian.
pub(crate) fn endpoint_bytes(endpoint: Endpoint) -> Vec<u8> {
    let mut out = ip_bytes(endpoint.0.ip());
    out.extend(endpoint.0.port().to_be_bytes());
    out
}

pub(crate) fn endpoint(field: &'static str, bytes: &[u8]) -> Decoded<Endpoint> {
    let (addr, port) = bytes.split_last_chunk::<2>().ok_or(DecodeError::Missing(field))?;
    Ok(Endpoint::canonical(SocketAddr::new(ip(field, addr)?, u16::from_be_bytes(*port))))
}

pub(crate) fn endpoints(field: &'static str, list: &[Vec<u8>]) -> Decoded<Vec<Endpoint>> {
    bounded(field, list.len(), crate::limits::MAX_ENDPOINTS)?;
    list.iter().map(|b| endpoint(field, b)).collect()
}

pub(crate) fn port(field: &'static str, value: u32) -> Decoded<u16> {
    u16::try_from(value).map_err(|_| DecodeError::invalid(field, format!("{value} is not a port")))
}

/// IPv4 bytes followed by IPv6 bytes.
pub(crate) fn addrs_bytes(addrs: MeshAddrs) -> Vec<u8> {
    let mut out = addrs.v4.octets().to_vec();
    out.extend(addrs.v6.octets());
    out
}

pub(crate) fn addrs(field: &'static str, bytes: &[u8]) -> Decoded<MeshAddrs> {
    let all = fixed::<20>(field, bytes)?;
    let (v4, v6) = all.split_at(4);
    Ok(MeshAddrs { v4: fixed::<4>(field, v4)?.into(), v6: fixed::<16>(field, v6)?.into() })
}

pub(crate) fn mesh_prefixes(v4: &[u8], v6: &[u8]) -> Decoded<MeshPrefixes> {
    let net4: Ipv4Net = match prefix("prefix_v4", v4)?.net() {
        IpNet::V4(net) => net,
        IpNet::V6(_) => return Err(DecodeError::invalid("prefix_v4", "an IPv6 prefix")),
    };
    let net6: Ipv6Net = match prefix("prefix_v6", v6)?.net() {
        IpNet::V6(net) => net,
        IpNet::V4(_) => return Err(DecodeError::invalid("prefix_v6", "an IPv4 prefix")),
    };
    Ok(MeshPrefixes { v4: net4, v6: net6 })
}
