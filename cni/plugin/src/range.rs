//! The addresses of a node's pods: CIDRs of both families, and which address follows which.

use ipnet::IpNet;
use std::net::IpAddr;

/// Most CIDRs in one configuration.
const MAX_RANGES: usize = 16;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The CIDRs, in the order in which they are used. A pod gets one address of each family that occurs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    ranges: Vec<Range>,
}

/// One CIDR and the addresses of it that pods may have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    net: IpNet,
    first: u128,
    last: u128,
}

impl Ranges {
    /// # Errors
    /// What is wrong, with the text that is.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, String> {
        if texts.is_empty() {
            return Err("it is empty; list the node's pod CIDRs, as [\"10.42.1.0/24\"]".to_owned());
        }
        if texts.len() > MAX_RANGES {
            return Err(format!("it lists more than {MAX_RANGES} CIDRs"));
        }
        let mut ranges: Vec<Range> = Vec::new();
        for text in texts {
            let shown: String = text.chars().take(60).collect();
            let net: IpNet = text.parse().map_err(|_| {
                format!("{shown:?} is not a CIDR; write it as 10.42.1.0/24 or fd00:42:1::/64")
            })?;
            if net.trunc() != net {
                return Err(format!("{net} has bits set behind its length; write {}", net.trunc()));
            }
            if !is_for_pods(&net) {
                return Err(format!("{net} cannot be given to pods; use a private unicast range"));
            }
            if let Some(other) = ranges.iter().find(|r| overlap(&r.net, &net)) {
                return Err(format!("{net} and {} overlap; remove one of them", other.net));
            }
            ranges.push(Range::of(net));
        }
        Ok(Self { ranges })
    }

    /// The families that occur.
    pub(crate) fn families(&self) -> impl Iterator<Item = Family> {
        [Family::V4, Family::V6].into_iter().filter(|f| self.of(*f).next().is_some())
    }

    /// Whether pods may have `address`.
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        let number = number(address);
        self.of(Family::of(address)).any(|r| (r.first..=r.last).contains(&number))
    }

    /// Every address of `family`, each once: first the one that follows `after`, at the end `after` itself.
    pub(crate) fn cycle(&self, family: Family, after: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
        let own: Vec<&Range> = self.of(family).collect();
        let after = after.map(number);
        let found = after.and_then(|n| own.iter().position(|r| (r.first..=r.last).contains(&n)).zip(after));
        let mut spans: Vec<(u128, u128)> = Vec::new();
        match found {
            None => spans.extend(own.iter().map(|r| (r.first, r.last))),
            Some((index, number)) => {
                if number < own[index].last {
                    spans.push((number + 1, own[index].last));
                }
                spans.extend(own[index + 1..].iter().chain(&own[..index]).map(|r| (r.first, r.last)));
                spans.push((own[index].first, number));
            }
        }
        spans.into_iter().flat_map(move |(first, last)| (first..=last).map(move |n| family.address(n)))
    }

    fn of(&self, family: Family) -> impl Iterator<Item = &Range> {
        self.ranges.iter().filter(move |r| Family::of(r.net.addr()) == family)
    }

    /// The CIDRs of `family`, for a message.
    pub(crate) fn shown(&self, family: Family) -> String {
        self.of(family).map(|r| r.net.to_string()).collect::<Vec<_>>().join(", ")
    }
}

impl Range {
    /// Of an IPv4 CIDR the first and the last address stay free, since much software takes them for the
    /// network and the broadcast; of an IPv6 CIDR the first, the routers' anycast address (RFC 4291 §2.6.1).
    fn of(net: IpNet) -> Self {
        let (mut first, mut last) = (number(net.network()), number(net.broadcast()));
        let (host_bits, is_v4) = (net.max_prefix_len() - net.prefix_len(), net.addr().is_ipv4());
        if host_bits > 1 {
            first += 1;
            last -= u128::from(is_v4);
        }
        Self { net, first, last }
    }
}

impl Family {
    pub(crate) const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4((u32::try_from(number).unwrap_or(u32::MAX)).into()),
            Self::V6 => IpAddr::V6(number.into()),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Unicast, not of this host, not of the link alone, and not the default route.
fn is_for_pods(net: &IpNet) -> bool {
    let never =
        ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8"];
    never.iter().filter_map(|n| n.parse::<IpNet>().ok()).all(|n| !overlap(&n, net))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Ranges {
        Ranges::parse(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()).expect("good ranges")
    }

    fn shown(ranges: &Ranges, family: Family, after: Option<&str>) -> String {
        let after = after.map(|a| a.parse().expect("an address"));
        ranges.cycle(family, after).map(|a| a.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_cycle_begins_behind_the_last_address_and_holds_each_once() {
        let r = ranges(&["10.1.0.0/30", "fd00::/126", "10.2.0.0/31"]);
        assert_eq!(shown(&r, Family::V4, None), "10.1.0.1 10.1.0.2 10.2.0.0 10.2.0.1");
        assert_eq!(shown(&r, Family::V4, Some("10.1.0.1")), "10.1.0.2 10.2.0.0 10.2.0.1 10.1.0.1");
        assert_eq!(shown(&r, Family::V4, Some("10.2.0.1")), "10.1.0.1 10.1.0.2 10.2.0.0 10.2.0.1");
        assert_eq!(shown(&r, Family::V4, Some("192.0.2.1")), shown(&r, Family::V4, None), "of an old range");
        assert_eq!(shown(&r, Family::V6, Some("fd00::3")), "fd00::1 fd00::2 fd00::3");
    }

    #[test]
    fn a_huge_range_costs_nothing_to_walk_into() {
        let r = ranges(&["fd00:42::/48"]);
        assert_eq!(r.cycle(Family::V6, None).take(2).count(), 2);
    }

    #[test]
    fn what_pods_cannot_have_is_refused_with_what_to_write() {
        for (text, says) in [
            ("10.1.0.5/24", "write 10.1.0.0/24"),
            ("10.1.0.0", "is not a CIDR"),
            ("127.0.0.0/24", "cannot be given"),
            ("0.0.0.0/0", "cannot be given"),
            ("::/0", "cannot be given"),
            ("fe80::/64", "cannot be given"),
            ("224.1.0.0/24", "cannot be given"),
            ("10.0.0.0/33", "is not a CIDR"),
        ] {
            let error = Ranges::parse(&[text.to_owned()]).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(Ranges::parse(&[]).is_err());
        let twice = ["10.1.0.0/16".to_owned(), "10.1.2.0/24".to_owned()];
        assert!(Ranges::parse(&twice).expect_err("they overlap").contains("overlap"));
    }
}
