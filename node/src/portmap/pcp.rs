//! PCP (RFC 6887) and NAT-PMP (RFC 6886) as bytes: only MAP for UDP, and the outside address.

use meshd_proto::Endpoint;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// NAT-PMP: what is your outside address?
pub(super) const PMP_ADDRESS: [u8; 2] = [0, 0];
const UDP: u8 = 17;
/// Nobody grants longer than a day.
const LONGEST: u32 = 86_400;

/// What a gateway answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// PCP: mapped.
    Mapped { outside: Endpoint, lifetime: Duration },
    /// NAT-PMP: the outside address.
    PmpAddress(Ipv4Addr),
    /// NAT-PMP: mapped to this port of it.
    PmpMapped { port: u16, lifetime: Duration },
}

/// A PCP MAP request (RFC 6887 §7.1, §11.1); lifetime zero deletes.
pub(super) fn encode_map(
    client: Ipv4Addr,
    port: u16,
    wanted: u16,
    nonce: [u8; 12],
    lifetime: Duration,
) -> [u8; 60] {
    let mut out = [0; 60];
    out[0] = 2;
    out[1] = 1;
    out[4..8].copy_from_slice(&seconds(lifetime).to_be_bytes());
    out[8..24].copy_from_slice(&client.to_ipv6_mapped().octets());
    out[24..36].copy_from_slice(&nonce);
    out[36] = UDP;
    out[40..42].copy_from_slice(&port.to_be_bytes());
    out[42..44].copy_from_slice(&wanted.to_be_bytes());
    out[44..60].copy_from_slice(&Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    out
}

/// A NAT-PMP request for a UDP port (RFC 6886 §3.3); lifetime zero deletes.
pub(super) fn encode_pmp_map(port: u16, wanted: u16, lifetime: Duration) -> [u8; 12] {
    let mut out = [0; 12];
    out[1] = 1;
    out[4..6].copy_from_slice(&port.to_be_bytes());
    out[6..8].copy_from_slice(&wanted.to_be_bytes());
    out[8..12].copy_from_slice(&seconds(lifetime).to_be_bytes());
    out
}

fn seconds(lifetime: Duration) -> u32 {
    u32::try_from(lifetime.as_secs()).unwrap_or(LONGEST)
}

/// Reads an answer to one of our requests; nothing else, and no refusal, gives a value.
pub(super) fn parse(datagram: &[u8], port: u16, nonce: &[u8; 12]) -> Option<Answer> {
    match *datagram.first()? {
        2 => parse_map(datagram, port, nonce),
        0 => parse_pmp(datagram, port),
        _ => None,
    }
}

fn parse_map(datagram: &[u8], port: u16, nonce: &[u8; 12]) -> Option<Answer> {
    let bytes: &[u8; 60] = datagram.first_chunk()?;
    let ours = bytes[1] == 0x81 && bytes[24..36] == *nonce && bytes[36] == UDP && u16_at(bytes, 40)? == port;
    if !ours || bytes[3] != 0 {
        return None;
    }
    let ip = Ipv6Addr::from(*bytes[44..].first_chunk::<16>()?).to_canonical();
    let outside = Endpoint(SocketAddr::new(ip, u16_at(bytes, 42)?));
    let lifetime = granted(u32_at(bytes, 4)?)?;
    (!matches!(ip, IpAddr::V4(v4) if v4.is_unspecified())).then_some(Answer::Mapped { outside, lifetime })
}

fn parse_pmp(datagram: &[u8], port: u16) -> Option<Answer> {
    let code = *datagram.get(1)?;
    if u16_at(datagram, 2)? != 0 {
        return None;
    }
    match code {
        128 => {
            let ip = Ipv4Addr::from(*datagram.get(8..12)?.first_chunk::<4>()?);
            (!ip.is_unspecified()).then_some(Answer::PmpAddress(ip))
        }
        129 if u16_at(datagram, 8)? == port => {
            let lifetime = granted(u32_at(datagram, 12)?)?;
            Some(Answer::PmpMapped { port: u16_at(datagram, 10)?, lifetime })
        }
        _ => None,
    }
}

fn granted(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.min(LONGEST).into()))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..at + 2)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..at + 4)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; 12] = [7; 12];

    fn answer() -> [u8; 60] {
        let mut bytes = encode_map(Ipv4Addr::new(192, 168, 1, 9), 41820, 0, NONCE, Duration::from_secs(7200));
        bytes[1] = 0x81;
        bytes[42..44].copy_from_slice(&5000_u16.to_be_bytes());
        bytes[44..60].copy_from_slice(&Ipv4Addr::new(203, 0, 113, 9).to_ipv6_mapped().octets());
        bytes
    }

    #[test]
    fn a_pcp_answer_counts_only_with_our_nonce_and_port_and_without_a_refusal() {
        let outside = Endpoint("203.0.113.9:5000".parse().unwrap());
        let lifetime = Duration::from_secs(7200);
        assert_eq!(parse(&answer(), 41820, &NONCE), Some(Answer::Mapped { outside, lifetime }));
        assert_eq!(parse(&answer(), 41821, &NONCE), None);
        assert_eq!(parse(&answer(), 41820, &[8; 12]), None);
        for (at, value) in [(3, 8), (1, 1), (36, 6)] {
            let mut changed = answer();
            changed[at] = value;
            assert_eq!(parse(&changed, 41820, &NONCE), None, "byte {at}");
        }
        assert_eq!(parse(&answer()[..59], 41820, &NONCE), None);
    }

    #[test]
    fn nat_pmp_answers_are_read() {
        let address = [0, 128, 0, 0, 0, 0, 0, 1, 203, 0, 113, 9];
        assert_eq!(parse(&address, 1, &NONCE), Some(Answer::PmpAddress(Ipv4Addr::new(203, 0, 113, 9))));
        let mut mapped = [0, 129, 0, 0, 0, 0, 0, 1, 0xa3, 0x5c, 0x13, 0x88, 0, 0, 0, 60];
        let expected = Answer::PmpMapped { port: 5000, lifetime: Duration::from_secs(60) };
        assert_eq!(parse(&mapped, 41820, &NONCE), Some(expected));
        mapped[3] = 2;
        assert_eq!(parse(&mapped, 41820, &NONCE), None, "not authorised");
        for len in 0..16 {
            let _ = parse(&mapped[..len], 41820, &NONCE);
        }
    }
}
