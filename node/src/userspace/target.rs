//! Hosts and ports as programs name them. Pure: the fuzzers build this file by itself.

use std::fmt;
use std::net::IpAddr;

/// A host as somebody named it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// By address.
    Ip(IpAddr),
    /// By name.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Where somebody wants to go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A host as a client spells it: an address, or a name of letters, digits, `-`, `_` and dots.
pub(crate) fn host_of(text: &[u8]) -> Option<Host> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(ip) = text.parse() {
        return Some(Host::Ip(ip));
    }
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let labels = text.strip_suffix('.').unwrap_or(text).split('.');
    let whole = text.len() <= 254 && labels.into_iter().all(|label| (1..=63).contains(&label.len()));
    (whole && text.bytes().all(known)).then(|| Host::Name(text.to_ascii_lowercase()))
}
