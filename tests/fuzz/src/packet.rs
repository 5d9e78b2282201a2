//! Inner packets, as a peer or a local program sends them.

use meshd_engine::packet::{Packet, Upper, destination, parse};

/// An IP packet.
pub fn packet(data: &[u8]) {
    let Ok(packet) = parse(data) else { return };
    assert!(packet.len <= data.len());
    assert_eq!(destination(data), Some(packet.dst));
    assert_eq!(packet.src.is_ipv4(), packet.dst.is_ipv4());
    // What lies behind the packet's own end is not looked at.
    assert_eq!(parse(&data[..packet.len]), Ok(packet));
    let mut padded = data[..packet.len].to_vec();
    padded.extend([0xff; 64]);
    assert_eq!(parse(&padded), Ok(packet));
    matches_its_bytes(&packet, data);
}

fn matches_its_bytes(packet: &Packet, data: &[u8]) {
    match packet.upper {
        Upper::Tcp { ports, .. } | Upper::Ports(ports) => {
            assert_eq!(packet.ports(), Some(ports));
            let pair = [ports.src.to_be_bytes(), ports.dst.to_be_bytes()].concat();
            assert!(data[..packet.len].windows(4).any(|w| w == pair), "ports that are not in the packet");
        }
        Upper::LaterFragment => assert!(packet.fragment.is_some() && packet.ports().is_none()),
        Upper::Echo { .. } | Upper::Error(_) | Upper::Icmp { .. } | Upper::Opaque => {}
    }
}
