use super::*;

fn link(name: &str, kind: Option<&str>, addresses: &[&str]) -> Link {
    Link {
        index: 1,
        name: name.into(),
        kind: kind.map(Into::into),
        up: true,
        loopback: name == "lo",
        mtu: 1500,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
    }
}

fn host() -> Vec<Link> {
    vec![
        link("lo", None, &["127.0.0.1/8", "::1/128"]),
        link("eth0", Some("veth"), &["192.168.1.7/24", "2001:db8:1::7/64", "fd00:9::7/64", "fe80::1/64"]),
        link("br0", Some("bridge"), &["10.20.0.1/16"]),
        link("docker0", Some("bridge"), &["172.17.0.1/16"]),
        link("br-0123456789ab", Some("bridge"), &["172.18.0.1/16"]),
        link("veth12ab", Some("veth"), &["169.254.1.1/16"]),
        link("wlan0", None, &["203.0.113.9/24"]),
        link("tailscale0", Some("tun"), &["100.101.1.1/32"]),
        link("wg0", Some("wireguard"), &["10.9.0.1/24"]),
        link("mesh0", Some("tun"), &["100.71.0.2/32"]),
    ]
}

#[test]
fn only_addresses_where_a_peer_might_reach_us_are_endpoints() {
    let found: Vec<String> =
        usable_addresses(&host(), &IfName::mesh0()).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["192.168.1.7", "2001:db8:1::7", "fd00:9::7", "10.20.0.1", "203.0.113.9"]);
}

#[test]
fn an_interface_that_is_down_offers_nothing() {
    let mut links = host();
    links.iter_mut().for_each(|l| l.up = false);
    assert!(usable_addresses(&links, &IfName::mesh0()).is_empty());
}

#[test]
fn proposed_lans_are_private_and_outside() {
    let found: Vec<String> = lans(&host(), &IfName::mesh0()).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["10.20.0.0/16", "192.168.1.0/24", "fd00:9::/64"]);
}

#[test]
fn containers_count_as_connected_but_the_mesh_and_loopback_do_not() {
    let found = connected_networks(&host(), &IfName::mesh0());
    let on: Vec<&str> = found.iter().map(|c| c.interface.as_str()).collect();
    assert!(on.contains(&"docker0") && !on.contains(&"mesh0") && !on.contains(&"lo"), "{found:?}");
}

#[test]
fn a_datagram_of_any_bytes_is_read_without_panic() {
    for length in 0..64 {
        for fill in [0u8, 1, 16, 0xff] {
            Changed::default().merge_route_messages(&vec![fill; length]);
        }
    }
    let mut two = vec![16, 0, 0, 0, 25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    two.extend([16, 0, 0, 0, 33, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut changed = Changed::default();
    changed.merge_route_messages(&two);
    assert_eq!(changed, Changed { routes: true, rules: true, ..Changed::default() });
}
