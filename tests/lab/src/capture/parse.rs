//! pcap → frames → packets: Ethernet, IPv4, IPv6, UDP, TCP, ICMP. Written for captures of our own
//! making; a frame that is cut short is an error, since a proof must not rest on half a frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};

use super::{Packet, Transport};

/// All packets of a pcap file with Ethernet frames (microseconds or nanoseconds, little endian).
pub(super) fn pcap(bytes: &[u8]) -> Result<Vec<Packet>> {
    let header = bytes.first_chunk::<24>().context("shorter than a pcap header")?;
    let fraction = match word(header, 0) {
        0xa1b2_c3d4 => 1e-6,
        0xa1b2_3c4d => 1e-9,
        other => bail!("not a little-endian pcap file: magic {other:08x}"),
    };
    ensure!(word(header, 20) & 0xffff == 1, "not a capture of Ethernet frames");
    let mut packets = Vec::new();
    let mut rest = &bytes[24..];
    while !rest.is_empty() {
        let record = rest.first_chunk::<16>().context("a record header is cut short")?;
        let (kept, length) = (word(record, 8) as usize, word(record, 12) as usize);
        ensure!(kept == length, "a frame of {length} bytes was cut to {kept}");
        let frame = rest.get(16..16 + kept).context("a frame is cut short")?;
        let time = f64::from(word(record, 0)) + f64::from(word(record, 4)) * fraction;
        packets.push(ethernet(time, frame)?);
        rest = &rest[16 + kept..];
    }
    Ok(packets)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn short(bytes: &[u8], at: usize) -> Result<u16> {
    let pair = bytes.get(at..at + 2).context("a header is cut short")?;
    Ok(u16::from_be_bytes([pair[0], pair[1]]))
}

fn ethernet(time: f64, frame: &[u8]) -> Result<Packet> {
    let body = frame.get(14..).context("shorter than an Ethernet header")?;
    match short(frame, 12)? {
        0x0800 => ipv4(time, body),
        0x86dd => ipv6(time, body),
        _ => {
            let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
            let payload = body.to_vec();
            Ok(Packet { time, source: nobody, destination: nobody, transport: Transport::NotIp, payload })
        }
    }
}

fn ipv4(time: f64, bytes: &[u8]) -> Result<Packet> {
    let header = bytes.first_chunk::<20>().context("shorter than an IPv4 header")?;
    let start = usize::from(header[0] & 15) * 4;
    // Frames are padded to 60 bytes: the header says where the packet ends.
    let body = bytes.get(start..usize::from(short(bytes, 2)?)).context("an IPv4 packet is cut short")?;
    let address =
        |at: usize| IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
    let is_later_fragment = short(bytes, 6)? & 0x1fff != 0;
    let protocol = if is_later_fragment { 44 } else { header[9] };
    transport(time, address(12), address(16), protocol, body)
}

fn ipv6(time: f64, bytes: &[u8]) -> Result<Packet> {
    let header = bytes.first_chunk::<40>().context("shorter than an IPv6 header")?;
    let mut body =
        bytes.get(40..40 + usize::from(short(bytes, 4)?)).context("an IPv6 packet is cut short")?;
    let address = |at: usize| -> IpAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        Ipv6Addr::from(octets).into()
    };
    let mut protocol = header[6];
    // Hop-by-hop and destination options, routing.
    while matches!(protocol, 0 | 43 | 60) {
        let options = body.first_chunk::<2>().context("an IPv6 extension is cut short")?;
        protocol = options[0];
        body = body.get(8 + 8 * usize::from(options[1])..).context("an IPv6 extension is cut short")?;
    }
    transport(time, address(8), address(24), protocol, body)
}

fn transport(time: f64, source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8]) -> Result<Packet> {
    let (transport, header, ports) = match protocol {
        17 => (Transport::Udp, 8, true),
        6 => (Transport::Tcp, usize::from(body.get(12).context("a TCP header is cut short")? >> 4) * 4, true),
        1 | 58 => (Transport::Icmp, 0, false),
        other => (Transport::Other(other), 0, false),
    };
    let (from, to) = if ports { (short(body, 0)?, short(body, 2)?) } else { (0, 0) };
    let payload = body.get(header..).context("a transport header is cut short")?.to_vec();
    let (source, destination) = (SocketAddr::new(source, from), SocketAddr::new(destination, to));
    Ok(Packet { time, source, destination, transport, payload })
}

#[cfg(test)]
mod tests {
    use super::super::WireGuard;
    use super::*;

    fn file(frame: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for value in
            [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1, 7, 500_000, frame.len() as u32, frame.len() as u32]
        {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(frame);
        bytes
    }

    fn udp4(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(((28 + payload.len()) as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 203, 0, 113, 2, 198, 51, 100, 6]);
        frame.extend([0xa3, 0x5c, 0, 53]);
        frame.extend(((8 + payload.len()) as u16).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn a_udp_packet_is_read_with_its_ends_and_without_the_padding() {
        let mut frame = udp4(b"hello");
        frame.extend([0; 20]);
        let packets = pcap(&file(&frame)).expect("a capture");
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0].source, "203.0.113.2:41820".parse().expect("an address"));
        assert_eq!(packets[0].destination, "198.51.100.6:53".parse().expect("an address"));
        assert_eq!(packets[0].payload, b"hello");
        assert!((packets[0].time - 7.5).abs() < 1e-9);
    }

    #[test]
    fn only_what_has_the_length_of_a_wireguard_message_is_one() {
        for (first, length, expected) in [
            (1, 148, Some(WireGuard::Initiation)),
            (2, 92, Some(WireGuard::Response)),
            (4, 32, Some(WireGuard::Data)),
            (4, 31, None),
            (1, 147, None),
            (5, 148, None),
        ] {
            let mut payload = vec![0; length];
            payload[0] = first;
            let packets = pcap(&file(&udp4(&payload))).expect("a capture");
            assert_eq!(packets[0].wireguard(), expected, "type {first}, {length} bytes");
        }
    }

    #[test]
    fn half_a_frame_is_an_error() {
        let mut bytes = file(&udp4(b"hello"));
        bytes.pop();
        assert!(pcap(&bytes).is_err());
    }
}
