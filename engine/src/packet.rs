//! A view of an IP packet as far as routing, filtering and connection tracking need it.
//!
//! It reads bytes that a stranger made. It never panics, never reads behind the packet's own length,
//! walks a bounded number of extension headers and refuses what could be read in two ways: a packet
//! that this parser and the kernel would understand differently is a hole in the filter.

mod ipv6;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// ICMP, RFC 792.
pub const ICMP: u8 = 1;
/// TCP, RFC 9293.
pub const TCP: u8 = 6;
/// UDP, RFC 768.
pub const UDP: u8 = 17;
/// ICMPv6, RFC 4443.
pub const ICMPV6: u8 = 58;
/// SCTP, RFC 9260: ports in the same place as UDP's.
pub const SCTP: u8 = 132;
/// UDP-Lite, RFC 3828: ports in the same place as UDP's.
pub const UDP_LITE: u8 = 136;

/// The TCP flags that matter here.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Hand it to the application now.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment field is valid.
    pub const ACK: u8 = 0x10;
    /// Congestion was met (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// The congestion window was reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// An IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The upper-layer protocol, behind all extension headers.
    pub protocol: u8,
    /// Length of the packet by its own header; the bytes may be longer (padding).
    pub len: usize,
    /// Where the upper layer begins.
    pub upper_at: usize,
    /// What the upper layer says.
    pub upper: Upper,
    /// The fragment's identification, if this is a part of a packet.
    pub fragment: Option<u32>,
}

/// The upper layer of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper {
    /// TCP.
    Tcp {
        /// Source and destination port.
        ports: Ports,
        /// The flags byte.
        flags: u8,
    },
    /// UDP, UDP-Lite or SCTP.
    Ports(Ports),
    /// ICMP or ICMPv6 echo.
    Echo {
        /// Identifier.
        id: u16,
        /// A request; otherwise a reply.
        request: bool,
    },
    /// An ICMP or ICMPv6 error about another packet.
    Error(Embedded),
    /// Another ICMP or ICMPv6 message, or an error that holds too little to tell about what.
    Icmp {
        /// Its type.
        kind: u8,
    },
    /// A later part of a packet: no ports to see.
    LaterFragment,
    /// Another protocol.
    Opaque,
}

/// Source and destination port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// Source.
    pub src: u16,
    /// Destination.
    pub dst: u16,
}

/// The packet that an ICMP error is about, as far as the error quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// Its source: the receiver of the error.
    pub src: IpAddr,
    /// Its destination.
    pub dst: IpAddr,
    /// Its protocol.
    pub protocol: u8,
    /// Its ports; for echo, the identifier twice.
    pub ports: Ports,
}

/// Why bytes are not a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Neither IPv4 nor IPv6.
    #[error("neither IPv4 nor IPv6")]
    Version,
    /// Shorter than its headers say.
    #[error("truncated")]
    Truncated,
    /// A header that contradicts itself.
    #[error("contradicts itself")]
    Inconsistent,
    /// More extension headers than anybody needs, or a forbidden one (RFC 5095).
    #[error("extension headers are not acceptable")]
    Extensions,
    /// A fragment that could hide or rewrite the upper-layer header (RFC 1858, RFC 3128).
    #[error("a fragment that could hide the header")]
    Fragment,
}

/// The destination address alone, for a caller that only wants to route. Does not validate the rest.
pub fn destination(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.first()? >> 4 {
        4 => bytes.get(16..20)?.first_chunk::<4>().map(|b| IpAddr::from(*b)),
        6 => bytes.get(24..40)?.first_chunk::<16>().map(|b| IpAddr::from(*b)),
        _ => None,
    }
}

/// Reads a packet.
///
/// # Errors
/// See [`PacketError`]. The bytes behind the packet's own length are ignored.
pub fn parse(bytes: &[u8]) -> Result<Packet, PacketError> {
    match bytes.first().ok_or(PacketError::Truncated)? >> 4 {
        4 => parse_v4(bytes),
        6 => ipv6::parse(bytes),
        _ => Err(PacketError::Version),
    }
}

/// RFC 791 §3.1.
fn parse_v4(bytes: &[u8]) -> Result<Packet, PacketError> {
    let header = bytes.first_chunk::<20>().ok_or(PacketError::Truncated)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header_len < 20 || len < header_len {
        return Err(PacketError::Inconsistent);
    }
    let payload = bytes.get(header_len..len).ok_or(PacketError::Truncated)?;
    let flags_offset = u16::from_be_bytes([header[6], header[7]]);
    let (more, offset) = (flags_offset & 0x2000 != 0, usize::from(flags_offset & 0x1fff) * 8);
    let id = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let mut packet = Packet {
        src: v4(header, 12),
        dst: v4(header, 16),
        protocol: header[9],
        len,
        upper_at: header_len,
        upper: Upper::Opaque,
        fragment: (more || offset > 0).then_some(id),
    };
    packet.upper = upper(packet.protocol, payload, offset, packet.fragment.is_some())?;
    Ok(packet)
}

fn v4(header: &[u8; 20], at: usize) -> IpAddr {
    Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into()
}

/// The shortest offset a later fragment may have: behind every header that the filter reads.
const MIN_LATER_OFFSET: usize = 24;

/// Reads the upper layer of a whole packet or of a fragment at `offset`.
fn upper(protocol: u8, payload: &[u8], offset: usize, fragment: bool) -> Result<Upper, PacketError> {
    if offset > 0 {
        return if offset < MIN_LATER_OFFSET { Err(PacketError::Fragment) } else { Ok(Upper::LaterFragment) };
    }
    let short = if fragment { PacketError::Fragment } else { PacketError::Truncated };
    match protocol {
        TCP => {
            let header = payload.first_chunk::<20>().ok_or(short)?;
            Ok(Upper::Tcp { ports: ports(header), flags: header[13] })
        }
        UDP | UDP_LITE => Ok(Upper::Ports(ports(payload.first_chunk::<8>().ok_or(short)?))),
        SCTP => Ok(Upper::Ports(ports(payload.first_chunk::<12>().ok_or(short)?))),
        ICMP | ICMPV6 => icmp(protocol, payload, fragment),
        _ => Ok(Upper::Opaque),
    }
}

fn ports<const N: usize>(header: &[u8; N]) -> Ports {
    Ports { src: u16::from_be_bytes([header[0], header[1]]), dst: u16::from_be_bytes([header[2], header[3]]) }
}

/// RFC 792 and RFC 4443: echo, and the errors that quote another packet.
fn icmp(protocol: u8, payload: &[u8], fragment: bool) -> Result<Upper, PacketError> {
    let header = payload.first_chunk::<8>().ok_or(if fragment {
        PacketError::Fragment
    } else {
        PacketError::Truncated
    })?;
    let kind = header[0];
    let id = u16::from_be_bytes([header[4], header[5]]);
    let (request, reply) = if protocol == ICMP { (8, 0) } else { (128, 129) };
    let error = if protocol == ICMP { matches!(kind, 3 | 4 | 5 | 11 | 12) } else { matches!(kind, 1..=4) };
    // A redirect (type 5) rewrites the receiver's routes: never from the mesh.
    if protocol == ICMP && kind == 5 {
        return Ok(Upper::Icmp { kind });
    }
    Ok(if kind == request || kind == reply {
        Upper::Echo { id, request: kind == request }
    } else if error {
        embedded(&payload[8..]).map_or(Upper::Icmp { kind }, Upper::Error)
    } else {
        Upper::Icmp { kind }
    })
}

/// The start of a packet as an ICMP error quotes it: at least the IP header and 8 bytes (RFC 792).
fn embedded(quote: &[u8]) -> Option<Embedded> {
    let (src, dst, protocol, rest) = match quote.first()? >> 4 {
        4 => {
            let header = quote.first_chunk::<20>()?;
            let header_len = usize::from(header[0] & 0x0f) * 4;
            let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
            if header_len < 20 || offset != 0 {
                return None;
            }
            (v4(header, 12), v4(header, 16), header[9], quote.get(header_len..)?)
        }
        6 => {
            let (src, dst) = ipv6::addresses(quote)?;
            let upper = ipv6::upper_header(quote).ok()?;
            if upper.offset != 0 {
                return None;
            }
            (src, dst, upper.protocol, quote.get(upper.at..)?)
        }
        _ => return None,
    };
    let head = rest.first_chunk::<8>()?;
    let ports = match protocol {
        TCP | UDP | UDP_LITE | SCTP => ports(head),
        ICMP if matches!(head[0], 0 | 8) => echo_ports(head),
        ICMPV6 if matches!(head[0], 128 | 129) => echo_ports(head),
        _ => return None,
    };
    Some(Embedded { src, dst, protocol, ports })
}

fn echo_ports(head: &[u8; 8]) -> Ports {
    let id = u16::from_be_bytes([head[4], head[5]]);
    Ports { src: id, dst: id }
}

fn v6(bytes: &[u8; 16]) -> IpAddr {
    Ipv6Addr::from(*bytes).into()
}

impl Packet {
    /// The ports, or for echo the identifier twice; `None` where there is nothing of that kind.
    pub const fn ports(&self) -> Option<Ports> {
        match self.upper {
            Upper::Tcp { ports, .. } | Upper::Ports(ports) => Some(ports),
            Upper::Echo { id, .. } => Some(Ports { src: id, dst: id }),
            Upper::Error(_) | Upper::Icmp { .. } | Upper::LaterFragment | Upper::Opaque => None,
        }
    }
}

#[cfg(test)]
mod tests;
