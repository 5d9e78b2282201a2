use super::super::testmap::{map, with_exit};
use super::super::{Desired, HostSettings};
use super::*;

fn table(approved: &[&str], settings: &HostSettings) -> NftTable {
    Desired::from(&map(approved, &[("0.0.0.0/0", 8)]), settings).nft.unwrap()
}

#[test]
fn the_table_of_a_subnet_router() {
    let routes = ["192.168.1.0/24", "10.0.0.0/8", "10.1.0.0/16", "fd00:1::/64"];
    insta::assert_snapshot!(table(&routes, &HostSettings::default()).script());
}

#[test]
fn the_table_of_an_exit_that_routes_its_subnet_without_masquerade() {
    let settings = HostSettings { snat: false, ..HostSettings::default() };
    insta::assert_snapshot!(table(&["0.0.0.0/0", "::/0", "192.168.1.0/24"], &settings).script());
}

#[test]
fn the_table_of_a_node_that_uses_an_exit() {
    insta::assert_snapshot!(table(&[], &with_exit(true)).script());
}

#[test]
fn the_table_of_a_node_that_serves_addresses_of_services() {
    let forward = |address: &str, port, endpoints: &[&str], sticky, sources: &[&str]| Forward {
        address: address.parse().unwrap(),
        protocol: if port == 53 { 17 } else { 6 },
        port,
        endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
        sticky,
        sources: sources.iter().map(|p| p.parse().unwrap()).collect(),
    };
    let mut map = map(&[], &[("10.98.0.7/32", 2), ("10.98.0.7/32", 7)]);
    for forward in [
        forward("10.98.0.7", 80, &["10.42.0.5:8080", "10.42.0.6:8080"], false, &[]),
        forward("10.98.0.7", 53, &["10.42.0.9:5353"], false, &[]),
        forward("10.98.0.8", 22, &["10.42.0.5:22", "10.42.0.6:22"], true, &["100.71.0.9/32", "10.0.0.0/8"]),
        forward("fd98::7", 80, &["[fd42::5]:8080", "[fd42::6]:8080"], true, &[]),
    ] {
        map.forwards.insert((forward.address, forward.protocol, forward.port), forward);
    }
    let desired = Desired::from(&map, &HostSettings::default());
    assert!(desired.forward_v4 && desired.forward_v6);
    assert!(!desired.routes.contains_key(&"10.98.0.7/32".parse().unwrap()), "its own address is no route");
    let script = desired.nft.unwrap().script();
    assert!(!script.contains("masquerade"));
    let mut at = script.find("type nat hook prerouting priority -110; policy accept;").unwrap();
    // In this order: who may not is dropped before anything is translated, what nobody takes at the end.
    for rule in [
        r#"iifname "mesh0" ip daddr 10.98.0.7 tcp dport 80 dnat ip to numgen random mod 2 map { 0 : 10.42.0.5 . 8080, 1 : 10.42.0.6 . 8080 } comment"#,
        r#"iifname "mesh0" ip daddr 10.98.0.7 udp dport 53 dnat ip to 10.42.0.9:5353 comment"#,
        r#"iifname "mesh0" ip daddr 10.98.0.8 tcp dport 22 ip saddr != { 10.0.0.0/8, 100.71.0.9/32 } drop comment"#,
        r#"iifname "mesh0" ip daddr 10.98.0.8 tcp dport 22 dnat ip to jhash ip saddr mod 2 seed 0x"#,
        r#"iifname "mesh0" ip6 daddr fd98::7 tcp dport 80 dnat ip6 to jhash ip6 saddr mod 2 seed 0x"#,
        r#"iifname "mesh0" ip daddr { 10.98.0.7, 10.98.0.8 } drop comment"#,
        r#"iifname "mesh0" ip6 daddr { fd98::7 } drop comment"#,
    ] {
        let found = script[at..].find(rule);
        at += found.unwrap_or_else(|| panic!("not there, or not in its place: {rule}\n{script}"));
    }
}

#[test]
fn without_snat_a_subnet_is_not_masqueraded() {
    let settings = HostSettings { snat: false, ..HostSettings::default() };
    assert!(!table(&["192.168.1.0/24"], &settings).script().contains("masquerade"));
}

#[test]
fn another_rule_text_is_another_shape() {
    let one = table(&["192.168.1.0/24"], &HostSettings::default());
    let other = table(&["192.168.2.0/24"], &HostSettings::default());
    assert_ne!(one.shape(), other.shape());
    assert_eq!(NftShape::from_json(&Value::Null), NftShape::default());
}
