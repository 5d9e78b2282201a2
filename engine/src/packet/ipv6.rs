//! IPv6 and its extension headers (RFC 8200 §4).

use super::{Packet, PacketError, Upper, upper, v6};
use std::net::IpAddr;

/// More extension headers than this nobody sends.
const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT: u8 = 59;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

/// Where the upper layer begins.
pub(super) struct UpperHeader {
    pub(super) protocol: u8,
    /// Offset in the packet.
    pub(super) at: usize,
    /// Fragment offset in bytes.
    pub(super) offset: usize,
    pub(super) fragment: Option<u32>,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Packet, PacketError> {
    let header = bytes.first_chunk::<40>().ok_or(PacketError::Truncated)?;
    // A jumbogram (length 0, RFC 2675) is not for links of this size: it reads as an empty packet.
    let len = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let bytes = bytes.get(..len).ok_or(PacketError::Truncated)?;
    let (src, dst) = addresses(bytes).ok_or(PacketError::Truncated)?;
    let found = upper_header(bytes)?;
    let payload = bytes.get(found.at..).ok_or(PacketError::Truncated)?;
    let upper = if found.protocol == NO_NEXT {
        Upper::Opaque
    } else {
        upper(found.protocol, payload, found.offset, found.fragment.is_some())?
    };
    Ok(Packet {
        src,
        dst,
        protocol: found.protocol,
        len,
        upper_at: found.at,
        upper,
        fragment: found.fragment,
    })
}

pub(super) fn addresses(bytes: &[u8]) -> Option<(IpAddr, IpAddr)> {
    Some((v6(bytes.get(8..)?.first_chunk()?), v6(bytes.get(24..)?.first_chunk()?)))
}

/// Walks the extension headers of `bytes`, which may be cut behind the upper-layer header.
pub(super) fn upper_header(bytes: &[u8]) -> Result<UpperHeader, PacketError> {
    let mut next = *bytes.get(6).ok_or(PacketError::Truncated)?;
    let mut at = 40;
    let (mut offset, mut fragment) = (0, None);
    for _ in 0..=MAX_EXTENSIONS {
        let step = match next {
            HOP_BY_HOP | DESTINATION | MOBILITY => 8 + 8 * usize::from(byte(bytes, at + 1)?),
            ROUTING => {
                // Type 0 sends a packet through a list of hosts: deprecated and refused (RFC 5095).
                if byte(bytes, at + 2)? == 0 {
                    return Err(PacketError::Extensions);
                }
                8 + 8 * usize::from(byte(bytes, at + 1)?)
            }
            // Length in units of 4 bytes, minus 2 (RFC 4302 §2.2).
            AUTHENTICATION => 8 + 4 * usize::from(byte(bytes, at + 1)?),
            FRAGMENT => {
                if fragment.is_some() {
                    return Err(PacketError::Extensions);
                }
                let header =
                    bytes.get(at..).and_then(|b| b.first_chunk::<8>()).ok_or(PacketError::Truncated)?;
                let word = u16::from_be_bytes([header[2], header[3]]);
                offset = usize::from(word & 0xfff8);
                // An atomic fragment (offset 0, no more) is a whole packet (RFC 6946).
                if word & 0xfff9 != 0 {
                    fragment = Some(u32::from_be_bytes([header[4], header[5], header[6], header[7]]));
                }
                if offset > 0 {
                    return Ok(UpperHeader { protocol: header[0], at: at + 8, offset, fragment });
                }
                8
            }
            protocol => return Ok(UpperHeader { protocol, at, offset, fragment }),
        };
        next = byte(bytes, at)?;
        at += step;
    }
    Err(PacketError::Extensions)
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, PacketError> {
    bytes.get(at).copied().ok_or(PacketError::Truncated)
}
