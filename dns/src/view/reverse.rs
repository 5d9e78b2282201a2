//! The reverse zones of an address range (RFC 1035 §3.5, RFC 3596 §2.5).

use hickory_proto::rr::LowerName;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Most zones made for one range: /9 makes 128.
const MAX_ZONES: usize = 256;

/// The origins that cover `net`: one when its length ends at a label, else one for each label value
/// inside it. Nothing for a range so wide that it cannot be a mesh's (wider than /8, or /4 in IPv6).
pub(super) fn origins(net: IpNet) -> Vec<LowerName> {
    match net {
        IpNet::V4(net) => v4(net),
        IpNet::V6(net) => v6(net),
    }
}

fn v4(net: Ipv4Net) -> Vec<LowerName> {
    let len = net.prefix_len().next_multiple_of(8);
    let Ok(subnets) = net.subnets(len) else { return Vec::new() };
    if len < 8 {
        return Vec::new();
    }
    let name = |sub: Ipv4Net| {
        let octets = sub.network().octets();
        let labels: Vec<String> = octets[..usize::from(len / 8)].iter().rev().map(u8::to_string).collect();
        format!("{}.in-addr.arpa.", labels.join(".")).parse().ok()
    };
    subnets.take(MAX_ZONES).filter_map(name).collect()
}

fn v6(net: Ipv6Net) -> Vec<LowerName> {
    let len = net.prefix_len().next_multiple_of(4);
    let Ok(subnets) = net.subnets(len) else { return Vec::new() };
    if len < 4 {
        return Vec::new();
    }
    let name = |sub: Ipv6Net| {
        let bits = u128::from(sub.network());
        let nibbles = (0..len / 4).rev().map(|i| format!("{:x}", (bits >> (124 - 4 * u32::from(i))) & 0xf));
        format!("{}.ip6.arpa.", nibbles.collect::<Vec<_>>().join(".")).parse().ok()
    };
    subnets.take(MAX_ZONES).filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(net: &str) -> Vec<String> {
        origins(net.parse().unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_range_that_ends_at_a_label_is_one_zone() {
        assert_eq!(of("100.71.0.0/16"), ["71.100.in-addr.arpa."]);
        assert_eq!(of("10.1.2.0/24"), ["2.1.10.in-addr.arpa."]);
        assert_eq!(of("fd7a:1:2::/48"), ["2.0.0.0.1.0.0.0.a.7.d.f.ip6.arpa."]);
    }

    #[test]
    fn a_range_between_labels_is_one_zone_for_each_value() {
        assert_eq!(of("100.64.0.0/15"), ["64.100.in-addr.arpa.", "65.100.in-addr.arpa."]);
        assert_eq!(of("10.0.0.4/31"), ["4.0.0.10.in-addr.arpa.", "5.0.0.10.in-addr.arpa."]);
        assert_eq!(of("fd00::/7").len(), 2);
        assert_eq!(of("0.0.0.0/0"), Vec::<String>::new());
    }
}
