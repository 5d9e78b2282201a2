use super::*;
use meshd_proto::netmap::{Peer, PeerKind, RuleTarget, SelfNode};
use meshd_proto::{NetworkId, NodeId, NodeKey, Prefix};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn addrs(n: u8) -> MeshAddrs {
    MeshAddrs {
        v4: format!("100.71.0.{n}").parse().unwrap(),
        v6: format!("fd7a:1:2::{n:x}").parse().unwrap(),
    }
}

fn prefixes() -> MeshPrefixes {
    MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() }
}

/// This node is 1 of class 1; peers 2 and 3 are of classes 2 and 3.
fn filter(rules: &[FilterRule]) -> Filter {
    let numbered = rules.iter().enumerate().map(|(i, r)| (RuleId(i as u64 + 100), r.clone())).collect();
    let nodes = (1..=3).map(|n| (addrs(n), ClassId(n.into())));
    Filter::build(addrs(1), prefixes(), nodes, &numbered)
}

fn rule(line: u32, srcs: &[RuleSource], dsts: &[RuleTarget]) -> FilterRule {
    FilterRule { line, srcs: srcs.to_vec(), dsts: dsts.to_vec() }
}

fn ports(to: TargetAddr, protocol: Option<u8>, first_port: u16, last_port: u16) -> RuleTarget {
    RuleTarget { to, protocol, first_port, last_port }
}

fn ask(filter: &Filter, src: &str, dst: &str, protocol: u8, dst_port: u16) -> Verdict {
    verdict(filter, &Flow { src: ip(src), dst: ip(dst), protocol, dst_port })
}

const ME: TargetAddr = TargetAddr::Myself;

#[test]
fn an_absent_an_unaddressed_and_an_empty_filter_deny_with_different_reasons() {
    let mut map = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
    let reason = |map: &NetworkMap| ask(&Filter::compile(map), "100.71.0.2", "100.71.0.1", 6, 22);
    assert_eq!(reason(&map), Verdict::Deny(DenyReason::FilterAbsent));
    map.filter_present = true;
    assert_eq!(reason(&map), Verdict::Deny(DenyReason::SelfUnknown));
    map.me = Some(me());
    assert_eq!(reason(&map), Verdict::Deny(DenyReason::FilterEmpty));
    assert_eq!(ask(&Filter::default(), "::1", "::1", 6, 1), Verdict::Deny(DenyReason::FilterAbsent));
}

fn me() -> SelfNode {
    SelfNode {
        id: NodeId(1),
        name: "pi".parse().unwrap(),
        addrs: addrs(1),
        class: ClassId(1),
        tags: vec![],
        prefixes: prefixes(),
        approved_routes: vec![],
        pending_routes: vec![],
        key_expires: None,
        map_lease: 0,
    }
}

#[test]
fn a_class_expands_to_the_mesh_addresses_of_its_peers_and_of_the_node_itself() {
    let mut map = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
    map.filter_present = true;
    map.me = Some(me());
    for n in [2u8, 3] {
        let peer = Peer {
            id: NodeId(n.into()),
            key: NodeKey::from_bytes([n; 32]),
            name: format!("peer{n}").parse().unwrap(),
            addrs: addrs(n),
            class: ClassId(n.into()),
            tags: vec![],
            owner: String::new(),
            key_expires: None,
            kind: PeerKind::Meshd,
        };
        map.peers.insert(peer.id, peer);
    }
    let only = rule(7, &[RuleSource::Class(ClassId(2))], &[RuleTarget::all(ME)]);
    map.rules.insert(RuleId(9), only);
    let filter = Filter::compile(&map);
    let allow = Verdict::Allow { rule: RuleId(9), line: 7 };
    assert_eq!(ask(&filter, "100.71.0.2", "100.71.0.1", 6, 22), allow);
    assert_eq!(ask(&filter, "fd7a:1:2::2", "fd7a:1:2::1", 58, 0), allow);
    assert_eq!(ask(&filter, "100.71.0.3", "100.71.0.1", 6, 22), Verdict::Deny(DenyReason::SourceNotNamed));
    map.rules.insert(RuleId(9), rule(7, &[RuleSource::AnyNode], &[RuleTarget::all(ME)]));
    let filter = Filter::compile(&map);
    for src in ["100.71.0.1", "100.71.0.2", "fd7a:1:2::3"] {
        assert_eq!(ask(&filter, src, "100.71.0.1", 17, 53), allow, "{src}");
    }
    for stranger in ["100.71.0.9", "192.168.1.5", "fd7a:1:2::9"] {
        assert!(!ask(&filter, stranger, "100.71.0.1", 17, 53).is_allowed(), "{stranger}");
    }
}

#[test]
fn myself_is_the_own_addresses_and_the_resolver_and_nothing_else() {
    let f = filter(&[rule(1, &[RuleSource::AnyNode], &[RuleTarget::all(ME)])]);
    for dst in ["100.71.0.1", "100.71.0.53", "fd7a:1:2::1", "fd7a:1:2::53"] {
        let src = if dst.contains(':') { "fd7a:1:2::2" } else { "100.71.0.2" };
        assert!(ask(&f, src, dst, 17, 53).is_allowed(), "{dst}");
    }
    for dst in ["100.71.0.2", "192.168.1.1", "8.8.8.8"] {
        assert_eq!(ask(&f, "100.71.0.2", dst, 17, 53), Verdict::Deny(DenyReason::TargetNotAllowed), "{dst}");
    }
}

#[test]
fn hosts_behind_a_router_count_by_address_only() {
    let lan = RuleSource::Prefix(prefix("192.168.1.0/24"));
    let f = filter(&[rule(3, &[lan], &[RuleTarget::all(ME)])]);
    assert!(ask(&f, "192.168.1.77", "100.71.0.1", 6, 80).is_allowed());
    assert!(!ask(&f, "192.168.2.77", "100.71.0.1", 6, 80).is_allowed());
    assert!(!ask(&f, "100.71.0.2", "100.71.0.1", 6, 80).is_allowed());
    let f = filter(&[rule(
        3,
        &[RuleSource::AnyNode],
        &[RuleTarget::all(TargetAddr::Prefix(prefix("10.0.0.0/8")))],
    )]);
    assert!(ask(&f, "100.71.0.2", "10.1.2.3", 6, 80).is_allowed());
    assert!(!ask(&f, "100.71.0.2", "11.1.2.3", 6, 80).is_allowed());
    assert!(!ask(&f, "100.71.0.2", "100.71.0.1", 6, 80).is_allowed());
}

#[test]
fn the_internet_is_public_unicast_also_where_a_rule_names_the_default_prefix() {
    let everything = TargetAddr::Prefix(Prefix::DEFAULT_V4);
    for to in [TargetAddr::Internet, everything] {
        let f = filter(&[rule(1, &[RuleSource::AnyNode], &[RuleTarget::all(to)])]);
        assert!(ask(&f, "100.71.0.2", "8.8.8.8", 6, 443).is_allowed());
        for dst in ["192.168.1.1", "169.254.169.254", "100.71.0.1", "100.71.0.9", "127.0.0.1", "224.0.0.1"] {
            assert!(!ask(&f, "100.71.0.2", dst, 6, 443).is_allowed(), "{dst} by {to:?}");
        }
    }
    let f = filter(&[rule(
        1,
        &[RuleSource::Prefix(Prefix::DEFAULT_V6)],
        &[RuleTarget::all(TargetAddr::Internet)],
    )]);
    assert_eq!(
        ask(&f, "::ffff:100.71.0.2", "::ffff:8.8.8.8", 6, 443),
        Verdict::Deny(DenyReason::MappedAddress)
    );
}

#[test]
fn a_mesh_in_a_public_range_is_not_the_internet() {
    let prefixes = MeshPrefixes { v4: "5.0.0.0/16".parse().unwrap(), ..prefixes() };
    let rules =
        [(RuleId(1), rule(1, &[RuleSource::AnyNode], &[RuleTarget::all(TargetAddr::Internet)]))].into();
    let f = Filter::build(addrs(1), prefixes, [(addrs(2), ClassId(2))], &rules);
    assert!(ask(&f, "100.71.0.2", "5.1.0.1", 6, 443).is_allowed());
    assert!(!ask(&f, "100.71.0.2", "5.0.0.1", 6, 443).is_allowed());
}

#[test]
fn ports_and_protocols_are_exact_and_portless_protocols_need_a_rule_for_all_ports() {
    let f = filter(&[
        rule(1, &[RuleSource::AnyNode], &[ports(ME, Some(6), 22, 22), ports(ME, None, 1000, 2000)]),
        rule(2, &[RuleSource::Class(ClassId(3))], &[ports(ME, None, 0, u16::MAX)]),
        rule(3, &[RuleSource::Class(ClassId(2))], &[ports(ME, Some(1), 0, u16::MAX)]),
        rule(4, &[RuleSource::AnyNode], &[ports(ME, None, 30, 29)]),
    ]);
    let two = |protocol, port| ask(&f, "100.71.0.2", "100.71.0.1", protocol, port);
    let three = |protocol, port| ask(&f, "100.71.0.3", "100.71.0.1", protocol, port);
    assert_eq!(two(6, 22), Verdict::Allow { rule: RuleId(100), line: 1 });
    assert!(!two(17, 22).is_allowed() && !two(6, 23).is_allowed() && !two(6, 29).is_allowed());
    for edge in [1000, 1500, 2000] {
        assert!(two(6, edge).is_allowed() && two(17, edge).is_allowed(), "{edge}");
    }
    assert!(!two(6, 999).is_allowed() && !two(17, 2001).is_allowed());
    assert_eq!(two(1, 0), Verdict::Allow { rule: RuleId(102), line: 3 });
    assert!(!two(47, 1500).is_allowed(), "GRE has no ports: a rule for some ports does not cover it");
    assert_eq!(three(47, 0), Verdict::Allow { rule: RuleId(101), line: 2 });
    assert_eq!(three(6, 22), Verdict::Allow { rule: RuleId(100), line: 1 }, "the lowest line is named");
}

#[test]
fn an_address_that_two_classes_claim_belongs_to_neither() {
    let rules = [(RuleId(1), rule(1, &[RuleSource::Class(ClassId(2))], &[RuleTarget::all(ME)]))].into();
    let clash = [(addrs(2), ClassId(2)), (addrs(2), ClassId(3)), (addrs(2), ClassId(2))];
    let f = Filter::build(addrs(1), prefixes(), clash, &rules);
    assert!(!ask(&f, "100.71.0.2", "100.71.0.1", 6, 22).is_allowed());
}

#[test]
fn ten_thousand_rules_give_what_a_linear_scan_gives() {
    let mut rules = Vec::new();
    for n in 0..10_000u32 {
        let lan = format!("10.{}.{}.0/24", n / 250, n % 250);
        let port = (n % 60_000) as u16;
        rules.push(rule(
            n,
            &[RuleSource::Class(ClassId(2 + n % 2)), RuleSource::Prefix(prefix(&lan))],
            &[
                ports(ME, Some(6), port, port.saturating_add((n % 7) as u16)),
                ports(ME, Some(17), port, u16::MAX),
            ],
        ));
    }
    let f = filter(&rules);
    let flows: Vec<Flow> = (0..2_000u32)
        .map(|n| Flow {
            src: ip(if n % 3 == 0 { "100.71.0.2" } else { "10.3.7.9" }),
            dst: ip("100.71.0.1"),
            protocol: if n % 2 == 0 { 6 } else { 17 },
            dst_port: (n * 31 % 65_536) as u16,
        })
        .collect();
    let mut allowed = 0;
    for flow in &flows {
        let found = rules.iter().find(|r| {
            let named = r.srcs.iter().any(|s| match s {
                RuleSource::Class(class) => flow.src == ip("100.71.0.2") && *class == ClassId(2),
                RuleSource::Prefix(p) => p.net().contains(&flow.src),
                RuleSource::AnyNode => false,
            });
            let hit = |t: &RuleTarget| (t.first_port..=t.last_port).contains(&flow.dst_port);
            named && r.dsts.iter().any(|t| t.protocol == Some(flow.protocol) && hit(t))
        });
        let expected = found.map(|r| r.line);
        let line = match verdict(&f, flow) {
            Verdict::Allow { line, .. } => Some(line),
            Verdict::Deny(_) => None,
        };
        assert_eq!(line, expected, "{flow:?}");
        allowed += usize::from(line.is_some());
    }
    assert!(allowed > 500 && allowed < 2000, "{allowed}");
}

#[test]
fn who_may_reach_anything_outside_is_let_out_and_nobody_else() {
    let class = |n| RuleSource::Class(ClassId(n));
    let web = ports(TargetAddr::Internet, Some(6), 443, 443);
    let f = filter(&[
        rule(1, &[class(2)], &[RuleTarget::all(ME), web]),
        rule(
            2,
            &[class(3)],
            &[RuleTarget::all(ME), RuleTarget::all(TargetAddr::Prefix(prefix("10.0.0.0/8")))],
        ),
    ]);
    assert!(f.lets_out(ip("100.71.0.2")) && f.lets_out(ip("fd7a:1:2::2")));
    for src in ["100.71.0.3", "100.71.0.1", "192.168.1.1", "::ffff:100.71.0.2"] {
        assert!(!f.lets_out(ip(src)), "{src}");
    }
    let default = RuleTarget::all(TargetAddr::Prefix(Prefix::DEFAULT_V4));
    assert!(filter(&[rule(1, &[RuleSource::AnyNode], &[default])]).lets_out(ip("100.71.0.3")));
    assert!(!Filter::default().lets_out(ip("100.71.0.2")));
}
