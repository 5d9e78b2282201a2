//! Addresses with their roles. An address inside the mesh is never confused with one outside.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// An address inside the mesh.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct MeshAddr(pub IpAddr);

/// An address and UDP (or TCP) port outside the mesh, where encrypted packets go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Endpoint(pub SocketAddr);

impl Endpoint {
    /// The endpoint with an IPv4-mapped IPv6 address turned into plain IPv4 (RFC 4291 §2.5.5.2).
    pub fn canonical(addr: SocketAddr) -> Self {
        Self(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
    }

    /// Whether a node may send to it at all: not multicast, broadcast, unspecified or port 0.
    pub fn is_sendable(&self) -> bool {
        let ip = self.0.ip();
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        self.0.port() != 0 && !ip.is_multicast() && !ip.is_unspecified() && !broadcast
    }
}

macro_rules! show_inner {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
show_inner!(MeshAddr);
show_inner!(Endpoint);
show_inner!(Prefix);

/// Both mesh addresses of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct MeshAddrs {
    /// Inside [`MeshPrefixes::v4`].
    pub v4: Ipv4Addr,
    /// Inside [`MeshPrefixes::v6`].
    pub v6: Ipv6Addr,
}

impl MeshAddrs {
    /// Whether `ip` is one of the two.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => v4 == self.v4,
            IpAddr::V6(v6) => v6 == self.v6,
        }
    }

    /// Both, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        [IpAddr::V4(self.v4), IpAddr::V6(self.v6)].into_iter()
    }
}

/// The ranges a mesh uses: by default a random /16 of 100.64.0.0/10 and a random ULA /48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MeshPrefixes {
    /// IPv4 range.
    pub v4: Ipv4Net,
    /// IPv6 range.
    pub v6: Ipv6Net,
}

impl MeshPrefixes {
    /// Whether `ip` belongs to the mesh.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => self.v4.contains(&v4),
            IpAddr::V6(v6) => self.v6.contains(&v6),
        }
    }

    /// The resolver's addresses, local on every node: host `.0.53` and `::53`.
    pub fn resolver(&self) -> MeshAddrs {
        MeshAddrs {
            v4: Ipv4Addr::from(u32::from(self.v4.network()) | 53),
            v6: Ipv6Addr::from(u128::from(self.v6.network()) | 0x53),
        }
    }
}

/// An IP prefix without host bits: a route.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpNet);

/// Why a text or network is not a [`Prefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not `address/length`.
    #[error("`{0}` is not a prefix: write it like 192.168.1.0/24 or fd00:1::/64")]
    Syntax(String),
    /// Bits set behind the length.
    #[error("`{given}` has bits set behind its length: did you mean `{meant}`?")]
    HostBits {
        /// As given.
        given: String,
        /// The network it lies in.
        meant: IpNet,
    },
}

impl Prefix {
    /// `0.0.0.0/0`.
    pub const DEFAULT_V4: Self = Self(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)));
    /// `::/0`.
    pub const DEFAULT_V6: Self = Self(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)));

    /// Accepts a network without host bits.
    ///
    /// # Errors
    /// When host bits are set.
    pub fn new(net: IpNet) -> Result<Self, PrefixError> {
        if net.trunc() == net {
            Ok(Self(net))
        } else {
            Err(PrefixError::HostBits { given: net.to_string(), meant: net.trunc() })
        }
    }

    /// The prefix of one host.
    pub fn host(ip: IpAddr) -> Self {
        Self(IpNet::from(ip))
    }

    /// The network.
    pub const fn net(&self) -> IpNet {
        self.0
    }

    /// Whether this is `0.0.0.0/0` or `::/0`.
    pub fn is_default(&self) -> bool {
        self.0.prefix_len() == 0
    }

    /// Whether such a range can be behind a node at all: not loopback, link-local, multicast, unspecified
    /// or reserved (RFC 6890). A default route is asked about elsewhere.
    pub fn can_lie_behind_a_node(&self) -> bool {
        let first = self.0.network();
        let local = match first {
            IpAddr::V4(v4) => v4.is_link_local() || v4.octets()[0] >= 240 || v4.octets()[0] == 0,
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !(local || first.is_multicast() || first.is_loopback() || first.is_unspecified())
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let net = text.parse().map_err(|_| PrefixError::Syntax(text.chars().take(64).collect()))?;
        Self::new(net)
    }
}

impl serde::Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether `ip` is public unicast: what an exit node forwards to without a rule of its own.
/// Private, shared, loopback, link-local, documentation, benchmarking, multicast and reserved
/// ranges are not (RFC 6890 and its registry).
pub fn is_public_unicast(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let o = v4.octets();
            !(o[0] == 0
                || v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_documentation()
                || (o[0] == 100 && (64..128).contains(&o[1]))
                || (o[0] == 192 && o[1] == 0 && o[2] == 0)
                || (o[0] == 198 && (o[1] & 0xfe) == 18)
                || o[0] >= 240)
        }
        // Only global unicast 2000::/3 is delegated to the internet (RFC 4291 §2.4), without
        // documentation, Teredo, 6to4 and the other special blocks that embed or replace addresses.
        IpAddr::V6(v6) => {
            let s = v6.segments();
            (s[0] & 0xe000) == 0x2000
                && s[0] != 0x2002
                && !(s[0] == 0x2001 && (s[1] < 0x0200 || s[1] == 0x0db8))
                && !(s[0] == 0x3fff && s[1] < 0x1000)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_refuses_host_bits_and_says_what_was_meant() {
        let e = "192.168.1.7/24".parse::<Prefix>().unwrap_err();
        assert_eq!(
            e.to_string(),
            "`192.168.1.7/24` has bits set behind its length: did you mean `192.168.1.0/24`?"
        );
        assert!("192.168.1.0".parse::<Prefix>().is_err());
        assert!("::/0".parse::<Prefix>().unwrap().is_default());
    }

    #[test]
    fn ranges_of_one_link_or_of_nobody_lie_behind_no_node() {
        for prefix in ["192.168.1.0/24", "100.64.0.0/10", "8.8.8.0/24", "fd00:1::/64", "2a00::/16"] {
            assert!(prefix.parse::<Prefix>().unwrap().can_lie_behind_a_node(), "{prefix}");
        }
        for prefix in [
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "0.0.0.0/8",
            "::1/128",
            "fe80::/64",
            "ff00::/8",
        ] {
            assert!(!prefix.parse::<Prefix>().unwrap().can_lie_behind_a_node(), "{prefix}");
        }
    }

    #[test]
    fn the_resolver_sits_at_host_53() {
        let p = MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() };
        assert_eq!(p.resolver().v4.to_string(), "100.71.0.53");
        assert_eq!(p.resolver().v6.to_string(), "fd7a:1:2::53");
    }

    #[test]
    fn public_unicast_excludes_every_special_range() {
        for ip in ["1.1.1.1", "8.8.8.8", "2a00:1450::1", "192.0.1.1"] {
            assert!(is_public_unicast(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "::ffff:10.0.0.1",
            "64:ff9b::1",
        ] {
            assert!(!is_public_unicast(ip.parse().unwrap()), "{ip}");
        }
    }
}
