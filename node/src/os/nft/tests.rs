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
