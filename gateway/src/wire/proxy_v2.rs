//! The PROXY protocol, version 2: who the client of a forwarded connection is. Read only from sources that
//! a listener names, written only to backends that ask for it. Version 1 (text) is not spoken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every header starts with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header that is read: the addresses and some extensions.
pub const MAX_HEADER: usize = 16 + 1024;

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// More bytes are needed.
    Partial,
    /// A whole header of `length` bytes; nothing in `addresses` is the proxy itself (`LOCAL`).
    Whole {
        /// Client and the address it connected to.
        addresses: Option<(SocketAddr, SocketAddr)>,
        /// Bytes of the header.
        length: usize,
    },
    /// No PROXY v2 header.
    Refused(&'static str),
}

/// Reads the header at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Header {
    let known = bytes.len().min(12);
    if bytes[..known] != SIGNATURE[..known] {
        return Header::Refused("no PROXY v2 signature");
    }
    let Some(fixed) = bytes.get(12..16) else { return Header::Partial };
    let length = 16 + usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if length > MAX_HEADER {
        return Header::Refused("a PROXY v2 header that is too long");
    }
    let (version, command) = (fixed[0] >> 4, fixed[0] & 15);
    if version != 2 || command > 1 {
        return Header::Refused("a PROXY version or command that is not known");
    }
    let Some(body) = bytes.get(16..length) else { return Header::Partial };
    let addresses = match (command, fixed[1] >> 4, fixed[1] & 15) {
        (0, _, _) | (1, 0, _) => None,
        (1, 1, 1 | 2) if body.len() >= 12 => {
            let ip =
                |at: usize| IpAddr::V4(Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]));
            let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
            Some((SocketAddr::new(ip(0), port(8)), SocketAddr::new(ip(4), port(10))))
        }
        (1, 2, 1 | 2) if body.len() >= 36 => {
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&body[at..at + 16]);
                IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
            };
            let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
            Some((SocketAddr::new(ip(0), port(32)), SocketAddr::new(ip(16), port(34))))
        }
        _ => return Header::Refused("a PROXY v2 address family that is not spoken"),
    };
    Header::Whole { addresses, length }
}

/// The header that names `client`, who connected to `server`.
pub fn encode(client: SocketAddr, server: SocketAddr, datagram: bool) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    let transport = if datagram { 2 } else { 1 };
    let (from, to) = (client.ip().to_canonical(), server.ip().to_canonical());
    out.push(0x21);
    if let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) {
        out.extend([0x10 | transport, 0, 12]);
        out.extend(from.octets());
        out.extend(to.octets());
    } else {
        let v6 = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        out.extend([0x20 | transport, 0, 36]);
        out.extend(v6(from).octets());
        out.extend(v6(to).octets());
    }
    out.extend(client.port().to_be_bytes());
    out.extend(server.port().to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (client, server) in
            [("192.0.2.1:40000", "198.51.100.1:443"), ("[2001:db8::1]:40000", "[2001:db8::2]:443")]
        {
            let (client, server): (SocketAddr, SocketAddr) =
                (client.parse().unwrap(), server.parse().unwrap());
            let mut bytes = encode(client, server, false);
            let length = bytes.len();
            bytes.extend(b"data");
            assert_eq!(parse(&bytes), Header::Whole { addresses: Some((client, server)), length });
            for end in 0..length {
                assert_eq!(parse(&bytes[..end]), Header::Partial);
            }
        }
        let mixed = encode("192.0.2.1:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap(), true);
        let Header::Whole { addresses: Some((client, _)), .. } = parse(&mixed) else { panic!() };
        assert_eq!(client, "192.0.2.1:1".parse().unwrap());
    }

    #[test]
    fn a_local_connection_names_nobody_and_other_things_are_refused() {
        let mut local = SIGNATURE.to_vec();
        local.extend([0x20, 0, 0, 0]);
        assert_eq!(parse(&local), Header::Whole { addresses: None, length: 16 });
        let mut long = SIGNATURE.to_vec();
        long.extend([0x21, 0x11, 0xff, 0xff]);
        assert!(matches!(parse(&long), Header::Refused(_)));
        assert!(matches!(parse(b"PROXY TCP4 1.2.3.4"), Header::Refused(_)));
        assert!(matches!(parse(b"GET /"), Header::Refused(_)));
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(tail in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&tail);
            let bytes: Vec<u8> = SIGNATURE.iter().copied().chain(tail).collect();
            if let Header::Whole { length, .. } = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
