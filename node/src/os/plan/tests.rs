use super::super::actual::LinkState;
use super::super::journal::Recorded;
use super::super::testmap::{connected, map, prefix, with_exit};
use super::super::{HostSettings, IfName};
use super::*;
use std::collections::BTreeSet;

/// A host with IPv6, a strict reverse-path filter, a router that announces itself, and a new mesh0.
fn fresh() -> Actual {
    let keys = [
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv4/conf/all/accept_redirects", "0"),
        ("net/ipv4/conf/all/rp_filter", "1"),
        ("net/ipv4/conf/all/forwarding", "0"),
        ("net/ipv4/conf/all/src_valid_mark", "0"),
        ("net/ipv4/conf/eth0/forwarding", "0"),
        ("net/ipv4/conf/mesh0/rp_filter", "0"),
        ("net/ipv6/conf/all/forwarding", "0"),
        ("net/ipv6/conf/all/accept_ra", "1"),
        ("net/ipv6/conf/default/forwarding", "0"),
        ("net/ipv6/conf/default/accept_ra", "1"),
        ("net/ipv6/conf/eth0/forwarding", "0"),
        ("net/ipv6/conf/eth0/accept_ra", "1"),
        ("net/ipv6/conf/mesh0/forwarding", "0"),
        ("net/ipv6/conf/mesh0/accept_ra", "1"),
        ("net/ipv6/conf/mesh0/disable_ipv6", "1"),
        ("net/ipv6/conf/mesh0/addr_gen_mode", "0"),
    ];
    let sysctls = keys.map(|(key, value)| (serde_json::from_value(key.into()).unwrap(), value.to_owned()));
    Actual {
        link: Some(LinkState { index: 3, up: false, mtu: 1500, ipv6: true, addresses: BTreeSet::new() }),
        ipv6: true,
        sysctls: sysctls.into(),
        ..Actual::default()
    }
}

/// What the host looks like once everything desired is done.
fn done(desired: &Desired, before: &Actual) -> Actual {
    let mut actual = before.clone();
    for (index, change) in plan(desired, before).into_iter().enumerate() {
        if let Change::Sysctl(change) = change {
            for along in &change.along {
                actual.sysctls.insert(along.key.clone(), along.becomes.clone());
            }
            actual.sysctls.insert(change.key.clone(), change.value.clone());
            actual.recorded.push(Recorded { index, record: Record::Sysctl(change) });
        }
    }
    let addresses = desired.addresses.keys().map(|a| IpNet::from(*a)).collect();
    actual.link = Some(LinkState { index: 3, up: true, mtu: desired.mtu, ipv6: true, addresses });
    actual.routes = desired.routes.clone();
    actual.rules = desired.rules.clone();
    actual.nft = desired.nft.as_ref().map(NftTable::shape);
    actual
}

fn text(changes: &[Change]) -> String {
    changes.iter().map(|c| format!("{c}\n")).collect()
}

fn client() -> Desired {
    Desired::from(
        &map(&[], &[("10.0.0.0/8", 7)]),
        &HostSettings { connected: connected(&["10.1.2.0/24"]), ..HostSettings::default() },
    )
}

fn router() -> Desired {
    Desired::from(&map(&["192.168.1.0/24", "fd00:1::/64"], &[]), &HostSettings::default())
}

fn exit_client(up: bool) -> Desired {
    Desired::from(&map(&[], &[("0.0.0.0/0", 8)]), &with_exit(up))
}

#[test]
fn a_client_on_a_fresh_host() {
    insta::assert_snapshot!(text(&plan(&client(), &fresh())));
}

#[test]
fn a_subnet_router_on_a_fresh_host() {
    insta::assert_snapshot!(text(&plan(&router(), &fresh())));
}

#[test]
fn an_exit_is_chosen() {
    insta::assert_snapshot!(text(&plan(&exit_client(true), &done(&client(), &fresh()))));
}

#[test]
fn the_exit_dies() {
    insta::assert_snapshot!(text(&plan(&exit_client(false), &done(&exit_client(true), &fresh()))));
}

#[test]
fn the_last_subnet_is_withdrawn() {
    insta::assert_snapshot!(text(&plan(&client(), &done(&router(), &fresh()))));
}

#[test]
fn a_host_that_is_as_desired_needs_no_change() {
    for desired in [client(), router(), exit_client(true), exit_client(false)] {
        assert_eq!(text(&plan(&desired, &done(&desired, &fresh()))), "");
    }
}

#[test]
fn whatever_somebody_deletes_is_planned_again() {
    let desired = router();
    let good = done(&desired, &fresh());
    let mut rule_gone = good.clone();
    rule_gone.rules.pop_first();
    let mut route_gone = good.clone();
    route_gone.routes.pop_first();
    let mut table_gone = good.clone();
    table_gone.nft = None;
    let mut down = good.clone();
    down.link.as_mut().unwrap().up = false;
    let mut forwarding_off = good.clone();
    forwarding_off.sysctls.insert(serde_json::from_value("net/ipv4/ip_forward".into()).unwrap(), "0".into());
    for (what, actual) in [
        ("rule", rule_gone),
        ("route", route_gone),
        ("table", table_gone),
        ("link", down),
        ("forwarding", forwarding_off),
    ] {
        assert_eq!(plan(&desired, &actual).len(), 1, "{what}");
    }
}

#[test]
fn a_host_without_ipv6_gets_no_ipv6() {
    let mut actual = fresh();
    actual.ipv6 = false;
    actual.link.as_mut().unwrap().ipv6 = false;
    actual.sysctls.retain(|key, _| !key.to_string().contains("ipv6"));
    let planned = text(&plan(&router(), &actual));
    let planned = planned.replace("replace nft table inet meshd\n", "");
    assert!(!planned.contains("fd7a") && !planned.contains("ipv6"), "{planned}");
}

#[test]
fn an_interface_that_may_not_have_ipv6_still_leaks_none_past_an_exit() {
    let mut actual = fresh();
    actual.link.as_mut().unwrap().ipv6 = false;
    let planned = text(&plan(&exit_client(true), &actual));
    assert!(!planned.contains("address fd7a") && !planned.contains("route fd7a"), "{planned}");
    assert!(planned.contains("ipv6 5230: not fwmark 0x6d657368 unreachable"), "{planned}");
}

#[test]
fn a_stale_route_and_address_are_taken_away() {
    let desired = client();
    let mut actual = done(&desired, &fresh());
    actual.routes.insert(prefix("172.16.0.0/12"), RouteKind::Mesh { source: None });
    actual.link.as_mut().unwrap().addresses.insert("100.71.0.9/32".parse().unwrap());
    assert_eq!(text(&plan(&desired, &actual)), "delete route 172.16.0.0/12\ndelete address 100.71.0.9/32\n");
}

#[test]
fn hooks_are_used_only_with_assist_and_left_when_it_ends() {
    let mut actual = done(&router(), &fresh());
    actual.hooks = [(Hook::DockerUser, false), (Hook::UfwInput, true)].into();
    assert_eq!(text(&plan(&router(), &actual)), "");
    let assisted = Desired { firewall_assist: true, ..router() };
    assert_eq!(text(&plan(&assisted, &actual)), "accept the mesh in chain DOCKER-USER of table ip filter\n");
    let record = Record::Hook { hook: Hook::UfwInput, interface: "mesh0".into() };
    actual.recorded.push(Recorded { index: 40, record });
    let left = text(&plan(&router(), &actual));
    assert_eq!(left, "remove our rules from chain ufw-user-input of table ip filter\n");
}

#[test]
fn nothing_desired_removes_all_that_is_ours() {
    let actual = done(&exit_client(true), &fresh());
    let planned = text(&plan(&Desired::nothing(IfName::mesh0()), &actual));
    assert!(planned.contains("delete nft table inet meshd"), "{planned}");
    assert_eq!(planned.matches("delete rule").count(), actual.rules.len());
    assert_eq!(planned.matches("delete route").count(), actual.routes.len());
    assert!(planned.contains("restore net/ipv4/conf/all/src_valid_mark to 0"));
}
