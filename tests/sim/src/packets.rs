//! IP packets as the simulated hosts send them.

use std::net::{IpAddr, Ipv4Addr};

/// Marks every payload, so that plaintext on the wire is noticed.
pub(crate) const MARK: &[u8; 16] = b"plaintext-marker";

/// What a simulated packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inner {
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Tells packets apart.
    pub serial: u64,
}

impl Inner {
    /// An IPv4 UDP packet with the mark and the serial number in it.
    pub fn encode(&self) -> Vec<u8> {
        let payload = MARK.len() + 8;
        let len = (28 + payload) as u16;
        let mut out = vec![0x45, 0];
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
        out.extend_from_slice(&self.src.octets());
        out.extend_from_slice(&self.dst.octets());
        out.extend_from_slice(&self.src_port.to_be_bytes());
        out.extend_from_slice(&self.dst_port.to_be_bytes());
        out.extend_from_slice(&((8 + payload) as u16).to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(MARK);
        out.extend_from_slice(&self.serial.to_be_bytes());
        out
    }
}

/// Reads what [`Inner::encode`] wrote.
pub fn inner(bytes: &[u8]) -> Option<Inner> {
    let packet = meshd_engine::packet::parse(bytes).ok()?;
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (packet.src, packet.dst) else { return None };
    let ports = packet.ports()?;
    let serial = u64::from_be_bytes(*bytes.get(44..)?.first_chunk::<8>()?);
    Some(Inner { src, dst, src_port: ports.src, dst_port: ports.dst, serial })
}
