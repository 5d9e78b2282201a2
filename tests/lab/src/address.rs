//! Which addresses a lab's links and LANs have. Pure: one number per link, one per LAN.
//!
//! Links to the internet take blocks of the documentation ranges (RFC 5737, RFC 3849), which look
//! public and exist nowhere; the internet side is host 1, the machine host 2.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Addresses of one link between a machine and the internet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkPlan {
    pub(crate) gateway4: Ipv4Addr,
    pub(crate) machine4: Ipv4Addr,
    pub(crate) gateway6: Ipv6Addr,
    pub(crate) machine6: Ipv6Addr,
    /// The /64 that the internet routes to the machine, for the LAN behind it.
    pub(crate) routed6: Ipv6Addr,
}

/// The `index`th link: a /30 of 203.0.113.0/24 or, every other one, of 198.51.100.0/24.
pub(crate) fn link(index: u8) -> LinkPlan {
    assert!(index < 60, "a lab has room for 60 links to the internet");
    let base = if index.is_multiple_of(2) { [203, 0, 113] } else { [198, 51, 100] };
    let host = |n: u8| Ipv4Addr::new(base[0], base[1], base[2], 4 * index + n);
    let six = |sub: u16, n: u16| Ipv6Addr::new(0x2001, 0xdb8, u16::from(index) + 0x100, sub, 0, 0, 0, n);
    LinkPlan {
        gateway4: host(1),
        machine4: host(2),
        gateway6: six(0, 1),
        machine6: six(0, 2),
        routed6: six(1, 0),
    }
}

/// Addresses of one LAN: 192.168.`index`.0/24 and a unique local /64; the router is host 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LanPlan {
    pub(crate) index: u8,
    /// A global /64 of the uplink, where there is one.
    pub(crate) global6: Option<Ipv6Addr>,
}

impl LanPlan {
    pub(crate) fn host4(self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, self.index, n)
    }

    /// The unique local or, where the LAN has one, the global address of host `n`.
    pub(crate) fn host6(self, n: u8) -> Ipv6Addr {
        let mut segments = match self.global6 {
            Some(prefix) => prefix.segments(),
            None => [0xfd6c, 0x6162, 0, u16::from(self.index), 0, 0, 0, 0],
        };
        segments[7] = u16::from(n);
        segments.into()
    }
}
