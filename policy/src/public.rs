//! The public part of a prefix: what an exit node may forward of it.

use ipnet::IpNet;
use meshd_proto::Prefix;

/// Blocks that are not public unicast, as in `meshd_proto::addr::is_public_unicast`; a test compares.
const SPECIAL: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "::/3",
    "4000::/2",
    "8000::/1",
    "2002::/16",
    "2001::/23",
    "2001:db8::/32",
    "3fff::/20",
];

/// The largest prefixes that together are the public part of `prefix`.
pub(crate) fn public_parts(prefix: Prefix) -> Vec<Prefix> {
    let special: Vec<IpNet> = SPECIAL.iter().filter_map(|text| text.parse().ok()).collect();
    let mut parts = Vec::new();
    split(prefix.net(), &special, &mut parts);
    parts
}

fn split(net: IpNet, special: &[IpNet], parts: &mut Vec<Prefix>) {
    if special.iter().any(|block| block.contains(&net)) {
        return;
    }
    if !special.iter().any(|block| net.contains(block)) {
        parts.extend(Prefix::new(net));
        return;
    }
    // A block inside the network is longer than it, so there are two halves.
    for half in net.subnets(net.prefix_len() + 1).into_iter().flatten() {
        split(half, special, parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_proto::addr::is_public_unicast;
    use std::net::IpAddr;

    #[test]
    fn the_parts_of_everything_are_what_is_public_unicast() {
        let mut parts = public_parts(Prefix::DEFAULT_V4);
        parts.extend(public_parts(Prefix::DEFAULT_V6));
        assert!(parts.len() < 200, "{}", parts.len());
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            seed >> 16
        };
        let edges =
            SPECIAL.iter().map(|t| t.parse::<IpNet>().unwrap()).flat_map(|n| [n.network(), n.broadcast()]);
        let near = edges.flat_map(|ip| match ip {
            IpAddr::V4(v4) => {
                [-1i64, 0, 1].map(|d| IpAddr::from(u32::from(v4).wrapping_add(d as u32).to_be_bytes()))
            }
            IpAddr::V6(v6) => {
                [-1i128, 0, 1].map(|d| IpAddr::from(u128::from(v6).wrapping_add(d as u128).to_be_bytes()))
            }
        });
        let mut ips: Vec<IpAddr> = near.collect();
        ips.extend((0..20_000).map(|_| IpAddr::from((random() as u32).to_be_bytes())));
        ips.extend(
            (0..20_000)
                .map(|_| IpAddr::from(((u128::from(random()) << 80) ^ u128::from(random())).to_be_bytes())),
        );
        for ip in ips.into_iter().filter(|ip| ip.to_canonical() == *ip) {
            assert_eq!(parts.iter().any(|p| p.net().contains(&ip)), is_public_unicast(ip), "{ip}");
        }
    }

    #[test]
    fn a_private_prefix_has_no_public_part_and_a_public_one_is_its_own() {
        assert!(public_parts("10.1.0.0/16".parse().unwrap()).is_empty());
        let dns: Prefix = "8.8.8.0/24".parse().unwrap();
        assert_eq!(public_parts(dns), [dns]);
    }
}
