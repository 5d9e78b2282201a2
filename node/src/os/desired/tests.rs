use super::super::testmap::{connected, map, prefix, with_exit};
use super::*;

fn rules(desired: &Desired) -> Vec<String> {
    desired.rules.iter().map(ToString::to_string).collect()
}

#[test]
fn a_map_without_this_node_wants_nothing() {
    let empty = NetworkMap::empty(meshd_proto::NetworkId::from_bytes([0; 16]));
    let desired = Desired::from(&empty, &HostSettings::default());
    assert_eq!(desired, Desired::nothing(IfName::mesh0()));
}

#[test]
fn own_and_resolver_addresses_and_both_mesh_ranges_are_there() {
    let desired = Desired::from(&map(&[], &[]), &HostSettings::default());
    let addrs: Vec<String> = desired.addresses.iter().map(|(a, never)| format!("{a} {never}")).collect();
    assert_eq!(addrs, ["100.71.0.2 false", "100.71.0.53 true", "fd7a:1:2::2 false", "fd7a:1:2::53 true"]);
    let own = RouteKind::Mesh { source: Some("100.71.0.2".parse().unwrap()) };
    assert_eq!(desired.routes.get(&prefix("100.71.0.0/16")), Some(&own));
    assert!(desired.routes.contains_key(&prefix("fd7a:1:2::/48")));
    assert_eq!(desired.rules.len(), 2, "{:?}", rules(&desired));
    assert!(!desired.forward_v4 && !desired.forward_v6);
}

#[test]
fn accepted_routes_of_peers_go_into_the_mesh_and_own_or_foreign_ones_do_not() {
    let map = map(
        &["10.9.0.0/16"],
        &[
            ("10.1.0.0/16", 7),
            ("10.9.0.0/16", 7),
            ("10.2.0.0/16", 99),
            ("0.0.0.0/0", 8),
            ("100.71.9.9/32", 7),
        ],
    );
    let desired = Desired::from(&map, &HostSettings::default());
    assert!(desired.routes.contains_key(&prefix("10.1.0.0/16")));
    for absent in ["10.9.0.0/16", "10.2.0.0/16", "0.0.0.0/0", "100.71.9.9/32"] {
        assert!(!desired.routes.contains_key(&prefix(absent)), "{absent}");
    }
    let refuses = HostSettings { accept_routes: false, ..HostSettings::default() };
    assert!(!Desired::from(&map, &refuses).routes.contains_key(&prefix("10.1.0.0/16")));
}

#[test]
fn a_connected_network_wins_over_the_same_prefix_from_the_mesh_and_says_so() {
    let map = map(&[], &[("192.168.1.0/24", 7), ("192.168.1.0/24", 8), ("192.168.1.128/25", 7)]);
    let settings = HostSettings { connected: connected(&["192.168.1.0/24"]), ..HostSettings::default() };
    let desired = Desired::from(&map, &settings);
    assert!(!desired.routes.contains_key(&prefix("192.168.1.0/24")));
    assert!(!desired.routes.contains_key(&prefix("192.168.1.128/25")), "a part of the LAN stays local too");
    let said: Vec<String> = desired.overlaps.iter().map(ToString::to_string).collect();
    assert_eq!(
        said[0],
        "route 192.168.1.0/24 of pi, vps overlaps 192.168.1.0/24, connected here on eth0: local wins; \
         `meshd set --prefer-mesh 192.168.1.0/24` reverses it"
    );
    assert_eq!(said.len(), 2);
    assert_eq!(desired.refused_routes(), [prefix("192.168.1.0/24"), prefix("192.168.1.128/25")]);
}

#[test]
fn a_preferred_prefix_goes_into_the_mesh_although_it_is_connected() {
    let map = map(&[], &[("192.168.1.0/24", 7)]);
    let settings = HostSettings {
        connected: connected(&["192.168.1.0/24"]),
        prefer_mesh: [prefix("192.168.1.0/24")].into(),
        ..HostSettings::default()
    };
    let desired = Desired::from(&map, &settings);
    assert!(matches!(desired.routes.get(&prefix("192.168.1.0/24")), Some(RouteKind::Mesh { .. })));
    assert!(desired.overlaps[0].mesh_wins);
}

#[test]
fn a_wider_accepted_route_leaves_out_what_is_connected_inside_it() {
    let map = map(&[], &[("10.0.0.0/8", 7)]);
    let settings = HostSettings { connected: connected(&["10.1.2.0/24"]), ..HostSettings::default() };
    let desired = Desired::from(&map, &settings);
    assert!(matches!(desired.routes.get(&prefix("10.0.0.0/8")), Some(RouteKind::Mesh { .. })));
    assert_eq!(desired.routes.get(&prefix("10.1.2.0/24")), Some(&RouteKind::Throw));
    assert_eq!(desired.refused_routes(), []);
    assert!(desired.overlaps[0].to_string().ends_with("10.1.2.0/24 stays local, the rest goes to the mesh"));
}

#[test]
fn an_exit_without_ipv6_leaves_ipv6_unreachable() {
    let desired = Desired::from(&map(&[], &[("0.0.0.0/0", 8)]), &with_exit(true));
    assert_eq!(
        rules(&desired),
        [
            "ipv4 5210: not fwmark 0x6d657368 lookup 5200 suppress_prefixlength 0",
            "ipv6 5210: not fwmark 0x6d657368 lookup 5200 suppress_prefixlength 0",
            "ipv4 5220: not fwmark 0x6d657368 lookup main suppress_prefixlength 0",
            "ipv6 5220: not fwmark 0x6d657368 lookup main suppress_prefixlength 0",
            "ipv4 5225: not fwmark 0x6d657368 lookup 5200",
            "ipv4 5230: not fwmark 0x6d657368 unreachable",
            "ipv6 5230: not fwmark 0x6d657368 unreachable",
        ]
    );
    assert!(desired.routes.contains_key(&Prefix::DEFAULT_V4));
    assert!(!desired.routes.contains_key(&Prefix::DEFAULT_V6));
    assert!(desired.marks_valid_for_source);
}

#[test]
fn a_dead_or_vanished_exit_blocks_unless_fallback_is_chosen() {
    for map in [map(&[], &[("0.0.0.0/0", 8)]), map(&[], &[])] {
        let down = with_exit(false);
        let desired = Desired::from(&map, &down);
        assert!(!desired.routes.contains_key(&Prefix::DEFAULT_V4));
        let blocks = desired.rules.iter().filter(|r| r.action == RuleAction::Unreachable).count();
        assert_eq!(blocks, 2);
        let open = Desired::from(&map, &HostSettings { exit_fallback: true, ..down });
        assert_eq!(open.rules.len(), 2, "only the mesh itself: {:?}", rules(&open));
    }
}

#[test]
fn approved_routes_turn_forwarding_on_by_family() {
    let v4 = Desired::from(&map(&["192.168.1.0/24"], &[]), &HostSettings::default());
    assert!(v4.forward_v4 && !v4.forward_v6);
    let v6 = Desired::from(&map(&["fd00:1::/64"], &[]), &HostSettings::default());
    assert!(!v6.forward_v4 && v6.forward_v6);
}

#[test]
fn every_rule_has_one_of_our_priorities() {
    let desired = Desired::from(&map(&[], &[("0.0.0.0/0", 8), ("::/0", 8)]), &with_exit(true));
    assert!(desired.rules.iter().all(|r| PRIORITIES.contains(&r.priority)));
}

#[test]
fn an_interface_name_cannot_break_out_of_a_script() {
    for bad in ["", "mesh0\" accept", "a/b", "sixteen-letters-x", "..", "a b", "mesh0\n"] {
        assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
    }
    assert_eq!("mesh1.5".parse::<IfName>().unwrap().as_str(), "mesh1.5");
}
