//! Packets as far as the stack's doorman must read them, and the few that are made by hand: datagrams
//! and echo replies of hosts behind this node, which no socket of the stack stands for.
//!
//! [`meshd_engine::packet::parse`] has the last word on what a packet is; this only finds payloads in
//! what it accepted.

use meshd_engine::packet::{self, Embedded, Ports, Upper, tcp_flag};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, IpRepr,
    UdpPacket, UdpRepr,
};
use std::net::{IpAddr, SocketAddr};

/// Bytes of an ICMP echo message before its data.
pub(super) const ECHO_HEADER: usize = 8;
const UDP_HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;

/// What came from the mesh, sorted by what is done with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen<'p> {
    /// TCP.
    Tcp {
        /// Our side.
        local: SocketAddr,
        /// The peer's side.
        remote: SocketAddr,
        /// Opens a connection.
        opens: bool,
        /// Ends one.
        resets: bool,
    },
    /// UDP, whole.
    Udp { local: SocketAddr, remote: SocketAddr, payload: &'p [u8] },
    /// An echo request, whole: `message` begins with the ICMP header.
    Echo { local: IpAddr, remote: IpAddr, id: u16, message: &'p [u8] },
    /// An ICMP error: a TCP segment of ours did not arrive, and will not.
    Unreachable { local: SocketAddr, remote: SocketAddr, prohibited: bool },
    /// Anything else.
    Other { local: IpAddr },
}

/// Sorts a packet from the mesh. `None`: not a packet.
pub(super) fn see(bytes: &[u8]) -> Option<Seen<'_>> {
    let packet = packet::parse(bytes).ok()?;
    let at = |ip, port| SocketAddr::new(ip, port);
    let (local, remote) = (packet.dst, packet.src);
    let other = Seen::Other { local };
    if packet.fragment.is_some() {
        return Some(other);
    }
    // Behind plain headers only: hop-by-hop options and the like are nothing that hosts behind us need.
    let upper = bytes.get(header_len(bytes, packet.protocol)?..packet.len);
    Some(match packet.upper {
        Upper::Tcp { ports, flags } => Seen::Tcp {
            local: at(local, ports.dst),
            remote: at(remote, ports.src),
            opens: flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN,
            resets: flags & tcp_flag::RST != 0,
        },
        Upper::Ports(Ports { src, dst }) if packet.protocol == packet::UDP => {
            let len = upper.and_then(|u| Some(usize::from(u16::from_be_bytes([*u.get(4)?, *u.get(5)?]))));
            match upper.zip(len).and_then(|(u, len)| u.get(UDP_HEADER..len)) {
                Some(payload) => Seen::Udp { local: at(local, dst), remote: at(remote, src), payload },
                None => other,
            }
        }
        Upper::Echo { id, request: true } => match upper {
            Some(message) => Seen::Echo { local, remote, id, message },
            None => other,
        },
        Upper::Error(about) => unreachable(packet.protocol, upper, about).unwrap_or(other),
        _ => other,
    })
}

/// Only what says that the other end cannot be reached (RFC 792 type 3, RFC 4443 type 1). "Fragmentation
/// needed" is no end: it is code 4 of the former, a type of its own in the latter.
fn unreachable<'p>(protocol: u8, upper: Option<&[u8]>, about: Embedded) -> Option<Seen<'p>> {
    let (kind, code) = (*upper?.first()?, *upper?.get(1)?);
    let ends = match protocol {
        packet::ICMP => kind == 3 && code != 4,
        _ => kind == 1,
    };
    (ends && about.protocol == packet::TCP).then(|| Seen::Unreachable {
        local: SocketAddr::new(about.src, about.ports.src),
        remote: SocketAddr::new(about.dst, about.ports.dst),
        prohibited: matches!((protocol, code), (packet::ICMP, 9 | 10 | 13) | (packet::ICMPV6, 1 | 5 | 6)),
    })
}

/// Bytes before the upper protocol's header. `None`: something lies between.
pub(super) fn header_len(bytes: &[u8], protocol: u8) -> Option<usize> {
    match bytes.first()? >> 4 {
        4 => Some(usize::from(bytes.first()? & 0xf) * 4),
        _ => (*bytes.get(6)? == protocol).then_some(40),
    }
}

/// A UDP datagram `from` → `to`. `None`: the families differ.
pub(super) fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    if from.is_ipv4() != to.is_ipv4() {
        return None;
    }
    let (src, dst) = (IpAddress::from(from.ip()), IpAddress::from(to.ip()));
    let ip = IpRepr::new(src, dst, IpProtocol::Udp, UDP_HEADER + payload.len(), HOP_LIMIT);
    let mut bytes = vec![0; ip.buffer_len()];
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut bytes[..], &checksums);
    let mut packet = UdpPacket::new_unchecked(&mut bytes[ip.header_len()..]);
    let repr = UdpRepr { src_port: from.port(), dst_port: to.port() };
    repr.emit(&mut packet, &src, &dst, payload.len(), |room| room.copy_from_slice(payload), &checksums);
    Some(bytes)
}

/// An echo reply `from` → `to`. `None`: the families differ.
pub(super) fn echo_reply(from: IpAddr, to: IpAddr, id: u16, seq: u16, data: &[u8]) -> Option<Vec<u8>> {
    let checksums = ChecksumCapabilities::default();
    let len = ECHO_HEADER + data.len();
    match (from, to) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let ip = IpRepr::new(src.into(), dst.into(), IpProtocol::Icmp, len, HOP_LIMIT);
            let mut bytes = vec![0; ip.buffer_len()];
            ip.emit(&mut bytes[..], &checksums);
            let repr = Icmpv4Repr::EchoReply { ident: id, seq_no: seq, data };
            let mut packet = Icmpv4Packet::new_unchecked(&mut bytes[ip.header_len()..]);
            packet.set_msg_type(Icmpv4Message::EchoReply);
            repr.emit(&mut packet, &checksums);
            Some(bytes)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let ip = IpRepr::new(src.into(), dst.into(), IpProtocol::Icmpv6, len, HOP_LIMIT);
            let mut bytes = vec![0; ip.buffer_len()];
            ip.emit(&mut bytes[..], &checksums);
            let repr = Icmpv6Repr::EchoReply { ident: id, seq_no: seq, data };
            let mut packet = Icmpv6Packet::new_unchecked(&mut bytes[ip.header_len()..]);
            repr.emit(&src, &dst, &mut packet, &checksums);
            Some(bytes)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_and_an_echo_reply_made_here_read_back_as_what_they_are() {
        for (a, b) in [("10.0.0.1", "100.64.0.7"), ("fd00::1", "fd00::7")] {
            let (a, b): (IpAddr, IpAddr) = (a.parse().unwrap(), b.parse().unwrap());
            let (from, to) = (SocketAddr::new(a, 53), SocketAddr::new(b, 4000));
            let bytes = udp(from, to, b"hello").unwrap();
            assert_eq!(see(&bytes), Some(Seen::Udp { local: to, remote: from, payload: b"hello" }));
            let mut request = echo_reply(a, b, 7, 9, b"data").unwrap();
            let seen = packet::parse(&request).unwrap();
            assert_eq!(seen.upper, Upper::Echo { id: 7, request: false });
            // The same message as a request.
            let at = header_len(&request, seen.protocol).unwrap();
            request[at] = if a.is_ipv4() { 8 } else { 128 };
            match see(&request) {
                Some(Seen::Echo { id: 7, message, .. }) => assert_eq!(&message[ECHO_HEADER..], b"data"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(udp("10.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap(), b""), None);
        assert_eq!(see(b"E"), None);
    }
}
