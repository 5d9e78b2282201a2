use super::super::testmap::prefix;
use super::*;
use serde_json::Value;

/// What `nft -j list ruleset` prints where Docker and Tailscale filter through iptables-nft.
const DOCKER_AND_TAILSCALE: &str = include_str!("fixtures/docker-and-tailscale.json");
const UFW: &str = include_str!("fixtures/ufw.json");
const FIREWALLD: &str = include_str!("fixtures/firewalld.json");
/// A ruleset written by hand, and kube-proxy's chain for a service range inside the mesh.
const PLAIN: &str = include_str!("fixtures/plain-nftables.json");
const LEGACY: &str = include_str!("fixtures/iptables-legacy.txt");

fn link(index: u32, name: &str, addresses: &[&str]) -> Link {
    Link {
        index,
        name: name.into(),
        kind: None,
        up: true,
        loopback: false,
        mtu: 1500,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
    }
}

fn facts(ruleset: &str) -> HostFacts {
    let json: Value = serde_json::from_str(ruleset).unwrap();
    HostFacts {
        links: vec![link(2, "eth0", &["192.168.1.2/24"]), link(3, "docker0", &["172.17.0.1/16"])],
        uplinks: vec![2],
        routes: vec![],
        ruleset: Ruleset::from_nft_json(&json),
    }
}

fn report_for(facts: &HostFacts, offered: &[&str], assisted: bool) -> String {
    let prefixes =
        MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() };
    let interface = IfName::mesh0();
    let offered: Vec<Prefix> = offered.iter().map(|p| prefix(p)).collect();
    let mesh = MeshUse { interface: &interface, prefixes: &prefixes, offered: &offered, assisted };
    let say = |c: &Conflict| format!("{:?}: {}\n  {}\n  # {}\n", c.kind, c.what, c.why, c.help_command);
    find(facts, &mesh).iter().map(say).collect()
}

fn report(ruleset: &str) -> String {
    report_for(&facts(ruleset), &["192.168.1.0/24"], false)
}

#[test]
fn docker_and_tailscale() {
    insta::assert_snapshot!(report(DOCKER_AND_TAILSCALE));
}

#[test]
fn ufw() {
    insta::assert_snapshot!(report(UFW));
}

#[test]
fn firewalld() {
    insta::assert_snapshot!(report(FIREWALLD));
}

#[test]
fn a_ruleset_written_by_hand_and_a_kubernetes_service_range() {
    insta::assert_snapshot!(report(PLAIN));
}

#[test]
fn an_old_iptables_ruleset() {
    let mut facts = facts("{}");
    facts.ruleset.chains = iptables::parse(LEGACY, "ip");
    insta::assert_snapshot!(report_for(&facts, &["192.168.1.0/24"], false));
}

#[test]
fn without_an_offered_subnet_nobody_is_blamed_for_forwarding() {
    assert!(!report_for(&facts(DOCKER_AND_TAILSCALE), &[], false).contains("ForwardDropped"));
}

#[test]
fn where_assist_did_not_help_the_rule_itself_is_proposed() {
    let said = report_for(&facts(DOCKER_AND_TAILSCALE), &["192.168.1.0/24"], true);
    assert!(said.contains("# nft 'insert rule ip filter FORWARD iifname \"mesh0\" accept'"), "{said}");
}

#[test]
fn an_empty_or_foreign_output_is_no_conflict() {
    for text in ["{}", "[]", "null", r#"{"nftables": [{"chain": 5}, {"rule": {"expr": [1, {}]}}, 7]}"#] {
        assert_eq!(report(text), "", "{text}");
    }
}

#[test]
fn jumps_in_a_circle_end() {
    let chain = |name: &str, extra: &str| {
        format!(r#"{{"chain": {{"family": "ip", "table": "f", "name": "{name}"{extra}}}}}"#)
    };
    let jump = |from: &str, to: &str| {
        format!(
            r#"{{"rule": {{"family": "ip", "table": "f", "chain": "{from}", "expr": [{{"jump": {{"target": "{to}"}}}}]}}}}"#
        )
    };
    let text = format!(
        r#"{{"nftables": [{}, {}, {}, {}, {}]}}"#,
        chain("a", r#", "hook": "input", "policy": "accept""#),
        chain("b", ""),
        jump("a", "b"),
        jump("b", "b"),
        jump("b", "a"),
    );
    assert_eq!(report(&text), "");
}

#[test]
fn users_of_the_range_are_named_and_a_free_range_is_proposed() {
    let mut facts = facts("{}");
    facts.links = vec![
        link(2, "eth0", &["100.72.3.4/10"]),
        link(3, "tailscale0", &["100.101.1.1/32"]),
        link(4, "cni0", &["100.71.4.1/24"]),
        link(5, "mesh0", &["100.71.0.2/32"]),
        link(6, "br7", &["fd7a:1:2:3::1/64"]),
    ];
    facts.routes =
        vec![(prefix("100.71.9.9/32"), 3), (prefix("100.71.4.0/24"), 4), (prefix("100.71.0.0/16"), 5)];
    insta::assert_snapshot!(report_for(&facts, &[], false));
}
