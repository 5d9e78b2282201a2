use super::*;
use crate::ports::PortRange;
use meshd_proto::Prefix;

fn rules(text: &str) -> Vec<crate::policy::Rule> {
    Policy::parse(&format!("{{{text}}}")).unwrap_or_else(|e| panic!("{e:?}")).rules
}

#[test]
fn destinations_are_split_into_name_and_ports() {
    let dst = |text: &str| {
        let rules = rules(&format!(
            r#""hosts": {{"nas": "10.0.0.9"}}, "acls": [{{"action": "accept", "src": ["*"], "dst": ["{text}"]}}]"#
        ));
        let target = rules[0].targets[0].clone();
        (
            target.selector.to_string(),
            target.ports.iter().map(PortRange::to_string).collect::<Vec<_>>().join(" "),
        )
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(dst("*:*"), pair("*", "*"));
    assert_eq!(dst("tag:web:80,443"), pair("tag:web", "80 443"));
    assert_eq!(dst("nas:1000-2000"), pair("10.0.0.9/32", "1000-2000"));
    assert_eq!(dst("[fd00::1]:22"), pair("fd00::1/128", "22"));
    assert_eq!(dst("[fd00::/64]:22"), pair("fd00::/64", "22"));
    assert_eq!(dst("fd00::/64:22"), pair("fd00::/64", "22"));
    assert_eq!(dst("10.0.0.0/8:*"), pair("10.0.0.0/8", "*"));
    assert_eq!(dst("alice@example.com:5432"), pair("alice@example.com", "5432"));
    assert_eq!(dst("autogroup:internet:443"), pair("autogroup:internet", "443"));
}

#[test]
fn a_name_under_hosts_is_an_address_and_any_other_plain_name_a_user() {
    let rules = rules(
        r#""hosts": {"nas": "10.0.0.9"}, "acls": [{"action": "accept", "src": ["nas", "bob", "carol@"], "dst": ["*:1"]}]"#,
    );
    let selectors: Vec<_> = rules[0].sources.iter().map(|t| t.selector.clone()).collect();
    let nas: Prefix = "10.0.0.9/32".parse().unwrap();
    assert_eq!(
        selectors,
        [Selector::Addresses(nas), Selector::User("bob".into()), Selector::User("carol".into())]
    );
}

#[test]
fn icmp_means_both_families_and_numbers_are_protocols_too() {
    let protocols = |proto: &str| {
        let rules = rules(&format!(
            r#""acls": [{{"action": "accept", "proto": {proto}, "src": ["*"], "dst": ["*:*"]}}]"#
        ));
        rules[0].targets[0].ports.iter().map(|r| r.protocol).collect::<Vec<_>>()
    };
    assert_eq!(protocols("\"icmp\""), [Some(1), Some(58)]);
    assert_eq!(protocols("6"), [Some(6)]);
    assert_eq!(protocols("\"17\""), [Some(17)]);
    assert_eq!(protocols("\"*\""), [None]);
}

#[test]
fn rule_ids_come_from_content_and_not_from_order_spelling_or_place() {
    let id = |src: &str| {
        rules(&format!(r#""acls": [{{"action": "accept", "src": [{src}], "dst": ["*:22"]}}]"#))[0].id
    };
    assert_eq!(id(r#""a", "b""#), id("\n\n \"b\", \"a\", \"a\""));
    assert_ne!(id(r#""a""#), id(r#""b""#));
    let grant = rules(r#""grants": [{"src": ["a"], "dst": ["*"], "ip": ["22"]}]"#)[0].id;
    assert_eq!(grant, id(r#""a""#));
}
