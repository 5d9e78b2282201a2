//! Ports and protocols as a policy writes them: `*`, `22`, `80,443`, `1000-2000`, `tcp`, `6`.

use crate::index::has_ports;
use std::fmt;

/// A protocol and a range of destination ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// IP protocol number; `None`: every protocol.
    pub protocol: Option<u8>,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// Every protocol and port.
    pub const ALL: Self = Self { protocol: None, first: 0, last: u16::MAX };

    /// Whether it names all ports.
    pub const fn is_every_port(&self) -> bool {
        self.first == 0 && self.last == u16::MAX
    }

    /// Whether it covers the protocol and port; protocols without ports need all ports.
    pub const fn covers(&self, protocol: u8, port: u16) -> bool {
        let protocol_fits = match self.protocol {
            None => true,
            Some(own) => own == protocol,
        };
        let port_fits =
            if has_ports(protocol) { self.first <= port && port <= self.last } else { self.is_every_port() };
        protocol_fits && port_fits
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(protocol) = self.protocol {
            write!(f, "{protocol}:")?;
        }
        match (self.first, self.last) {
            (0, u16::MAX) => f.write_str("*"),
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// Reads a protocol's name or number (IANA protocol numbers); `icmp` means ICMP of both families.
pub(crate) fn protocols(text: &str) -> Result<Vec<Option<u8>>, String> {
    let numbers: &[u8] = match text {
        "*" => return Ok(vec![None]),
        "icmp" => &[1, 58],
        "igmp" => &[2],
        "ipv4" | "ip-in-ip" => &[4],
        "tcp" => &[6],
        "egp" => &[8],
        "igp" => &[9],
        "udp" => &[17],
        "dccp" => &[33],
        "gre" => &[47],
        "esp" => &[50],
        "ah" => &[51],
        "ipv6-icmp" | "icmpv6" => &[58],
        "sctp" => &[132],
        _ => {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            return match text.parse::<u8>() {
                Ok(number) if digits && number > 0 => Ok(vec![Some(number)]),
                _ => Err(format!(
                    "{} is not a protocol: write tcp, udp, icmp, sctp, gre, esp, ah, igmp or a number from 1 to 255",
                    crate::diagnostic::quoted(text)
                )),
            };
        }
    };
    Ok(numbers.iter().copied().map(Some).collect())
}

/// Reads `*`, a port, a range or several of them with commas.
pub(crate) fn ports(text: &str) -> Result<Vec<(u16, u16)>, String> {
    if text == "*" {
        return Ok(vec![(0, u16::MAX)]);
    }
    text.split(',').map(|part| one_range(part.trim())).collect()
}

fn one_range(part: &str) -> Result<(u16, u16), String> {
    let wrong = || {
        let shown = crate::diagnostic::quoted(part);
        format!("{shown} is not a port: write `*`, a port such as 443, a list 80,443 or a range 1000-2000")
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or_else(wrong)
    };
    let (first, last) = match part.split_once('-') {
        None => (number(part)?, number(part)?),
        Some((first, last)) => (number(first.trim())?, number(last.trim())?),
    };
    if first > last {
        return Err(format!("the range {part} ends before it begins: write {last}-{first}"));
    }
    Ok((first, last))
}

/// Joins protocols and ports; ports on a protocol that has none are refused.
pub(crate) fn combine(protocols: &[Option<u8>], ports: &[(u16, u16)]) -> Result<Vec<PortRange>, String> {
    let mut out = Vec::with_capacity(protocols.len() * ports.len());
    for &protocol in protocols {
        for &(first, last) in ports {
            let range = PortRange { protocol, first, last };
            if let Some(number) = protocol.filter(|p| !has_ports(*p) && !range.is_every_port()) {
                return Err(format!("protocol {number} has no ports: write `*` as its port"));
            }
            out.push(range);
        }
    }
    Ok(out)
}

/// Reads an entry of a grant's `ip`: `*`, `443`, `tcp:443`, `udp:1000-2000`, `icmp:*`.
pub(crate) fn grant_ports(text: &str) -> Result<Vec<PortRange>, String> {
    match text.split_once(':') {
        None => combine(&[None], &ports(text)?),
        Some((protocol, rest)) => combine(&protocols(protocol)?, &ports(rest)?),
    }
}
