//! A run of addresses of one family: `10.98.0.0/24`, `192.168.0.50-192.168.0.99`, or one address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A run of addresses, both ends included. Both have the same family, and the first is not behind the last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// A text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not in one of the forms.
    #[error("`{0}` is no address range: write 10.98.0.0/24, 10.98.0.50-10.98.0.99 or one address")]
    Syntax(String),
    /// The ends do not fit.
    #[error("`{0}` is no address range: both ends have one family, and the first is not behind the last")]
    Ends(String),
    /// Bits set behind the length.
    #[error("`{0}` has bits set behind its length: write the network, or FIRST-LAST")]
    HostBits(String),
}

impl AddressRange {
    /// The addresses from `first` to `last`.
    ///
    /// # Errors
    /// When they are of two families, or in the wrong order.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, RangeError> {
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(RangeError::Ends(format!("{first}-{last}")));
        }
        Ok(Self { first, last })
    }

    /// The first address.
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address.
    pub const fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether it is of IPv4.
    pub const fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// Whether `ip` is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_ipv4() && self.first <= ip && ip <= self.last
    }

    /// Whether every address of `other` is in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.contains(other.first) && self.contains(other.last)
    }

    /// Whether an address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.is_ipv4() == other.is_ipv4() && self.first <= other.last && other.first <= self.last
    }

    /// How many addresses it has; more than `u64` counts are counted as `u64::MAX`.
    pub fn count(&self) -> u64 {
        let span = number(self.last) - number(self.first);
        u64::try_from(span).ok().and_then(|s| s.checked_add(1)).unwrap_or(u64::MAX)
    }

    /// The addresses, in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.is_ipv4();
        (number(self.first)..=number(self.last)).map(move |n| address(n, v4))
    }
}

impl From<ipnet::IpNet> for AddressRange {
    fn from(net: ipnet::IpNet) -> Self {
        let last = match net {
            ipnet::IpNet::V4(net) => IpAddr::V4(net.broadcast()),
            ipnet::IpNet::V6(net) => IpAddr::V6(net.broadcast()),
        };
        Self { first: net.network(), last }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    if v4 {
        IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;
    fn from_str(text: &str) -> Result<Self, RangeError> {
        let short = || text.chars().take(100).collect::<String>();
        let syntax = || RangeError::Syntax(short());
        let text = text.trim();
        if let Some((first, last)) = text.split_once('-') {
            let end = |t: &str| t.trim().parse::<IpAddr>().map_err(|_| syntax());
            return Self::new(end(first)?, end(last)?);
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self { first: ip, last: ip });
        }
        let net: ipnet::IpNet = text.parse().map_err(|_| syntax())?;
        if net.addr() != net.network() {
            return Err(RangeError::HostBits(short()));
        }
        Ok(net.into())
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        let span = number(self.last) - number(self.first);
        let bits = if self.is_ipv4() { 32 } else { 128 };
        let size_fits = span & span.wrapping_add(1) == 0;
        if size_fits && number(self.first) & span == 0 {
            return write!(f, "{}/{}", self.first, bits - (128 - span.leading_zeros()));
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for AddressRange {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for AddressRange {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
