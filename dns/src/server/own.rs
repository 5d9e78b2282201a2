//! Whether a question comes from this host itself.
//!
//! The resolver's address is local on every interface, so packets of LAN hosts, containers and peers
//! reach its socket, too. Their sources are not addresses of this host: the kernel drops what arrives
//! from outside under one of those (a "martian", whatever rp_filter says, unless accept_local is set).
//! Binding to a device would not tell: what a host sends to its own address counts as received by the
//! interface that has the address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Most addresses remembered; hosts with more ask the kernel again.
const MAX_KNOWN: usize = 32;
/// After this many questions everything is asked anew: addresses go away.
const REFRESH: u32 = 4096;

/// Remembers which sources are this host's own.
#[derive(Debug, Default)]
pub(super) struct OwnSources {
    known: Vec<IpAddr>,
    uses: u32,
}

impl OwnSources {
    /// Whether `source` is an address of this host.
    pub(super) fn contains(&mut self, source: IpAddr) -> bool {
        self.uses += 1;
        if self.uses > REFRESH || self.known.len() > MAX_KNOWN {
            *self = Self::default();
        }
        let own = self.known.contains(&source) || is_own(source);
        if own && !self.known.contains(&source) {
            self.known.push(source);
        }
        own
    }
}

/// Asks the kernel: for an address of its own it would use the same one as source. Sends nothing.
pub(super) fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source_towards = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, 53))?;
        socket.local_addr()
    };
    address.is_loopback() || source_towards().is_ok_and(|source| source.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_own_and_a_documentation_address_is_not() {
        let mut sources = OwnSources::default();
        for own in ["127.0.0.1", "127.8.8.8", "::1"] {
            assert!(sources.contains(own.parse().unwrap()), "{own}");
        }
        for other in ["203.0.113.7", "2001:db8::7", "172.17.0.2"] {
            assert!(!sources.contains(other.parse().unwrap()), "{other}");
        }
        assert_eq!(sources.known.len(), 3);
    }
}
