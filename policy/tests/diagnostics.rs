//! What a person reads about a policy: every message has a place and says what to do.

use meshd_policy::{DenyReason, Diagnostic, MeshFacts, Policy, Verdict};
use meshd_proto::MeshPrefixes;
use std::fmt::Write;

/// Named policies that are refused, or used with warnings.
const CASES: &[(&str, &str)] = &[
    ("nothing at all", ""),
    ("not an object", "[]"),
    ("a missing comma", "{\n  \"groups\": {}\n  \"acls\": []\n}"),
    ("an open comment", "{\n  /* todo\n}"),
    ("an open text", "{\n  \"groups: {}\n}"),
    ("a key without quotes", "{ acls: [] }"),
    ("a bad escape and a bad word", r#"{ "hosts": {"a\q": yes} }"#),
    ("an end too early", "{ \"acls\": ["),
    ("something behind the end", "{}\n{}"),
    ("the same key twice", "{\n \"acls\": [],\n \"acls\": []\n}"),
    ("the same section in two spellings", "{\n \"acls\": [],\n \"ACLs\": []\n}"),
    ("an unknown section", r#"{ "acl": [] }"#),
    (
        "sections of other products",
        "{\n \"ssh\": [],\n \"nodeAttrs\": [],\n \"postures\": {},\n \"acls\": []\n}",
    ),
    ("wrong types", r#"{ "groups": [], "hosts": {"a": 1}, "tagOwners": {"tag:a": "bob"}, "acls": {} }"#),
    (
        "groups",
        r#"{ "groups": {
            "eng": [],
            "group:a b": [],
            "group:x": ["group:y", "tag:z", "*", "two words", "bob", 7],
        } }"#,
    ),
    (
        "hosts",
        r#"{
            "groups": {"group:a": ["nas"]},
            "hosts": {
                "nas": "10.0.0.1",
                "net": "10.0.0.1/8",
                "10.0.0.1": "10.0.0.2",
                "odd": "ten",
                "mapped": "::ffff:10.0.0.1",
                "a:b": "10.0.0.1",
            },
        }"#,
    ),
    (
        "tagOwners",
        r#"{ "tagOwners": { "web": [], "tag:x": ["*", "10.0.0.1", "autogroup:admin", "group:none"] } }"#,
    ),
    (
        "rules that lack something",
        "{ \"acls\": [\n {},\n {\"action\": \"drop\", \"src\": [], \"dst\": [\"*:*\"]},\n {\"action\": \"accept\", \"users\": [\"*\"], \"ports\": [\"*:*\"]},\n \"text\",\n] }",
    ),
    (
        "conditions that cannot be checked",
        r#"{
            "defaultSrcPosture": ["posture:b"],
            "acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"], "srcPosture": ["posture:a"]}],
            "grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "via": ["tag:exit"]}],
        }"#,
    ),
    (
        "sources",
        r#"{ "acls": [{ "action": "accept", "dst": ["*:*"], "src": [
            "group:none", "tag:A", "tag:", "autogroup:self", "autogroup:internet", "autogroup:admin",
            "10.0.0.1/8", "10.0.0.300", "1.2.3", "fd00::zz", "", "a@b@c", "10.0.0.0/33",
        ] }] }"#,
    ),
    (
        "destinations",
        r#"{ "acls": [{ "action": "accept", "src": ["*"], "dst": [
            "bob", "tag:web", "nas:", "nas:0", "nas:70000", "nas:90-80", "nas:80,,81", "nas:http", "nas:+80",
            "fd00::1:80", "fd00::1", "[fd00::1]", "[fd00::1:80", "10.0.0.0/8", "autogroup:self:*",
        ] }] }"#,
    ),
    (
        "protocols",
        r#"{ "acls": [
            {"action": "accept", "src": ["*"], "dst": ["*:22"], "proto": "icmp"},
            {"action": "accept", "src": ["*"], "dst": ["*:22"], "proto": "quic"},
            {"action": "accept", "src": ["*"], "dst": ["*:22"], "proto": 256},
            {"action": "accept", "src": ["*"], "dst": ["*:22"], "proto": ["tcp"]},
        ], "grants": [{"src": ["*"], "dst": ["*"], "ip": ["tcp", "tcp:", "gre:1", "udp:1-2-3"]}] }"#,
    ),
    (
        "grants",
        r#"{ "grants": [
            {"src": ["*"], "dst": ["*"], "app": {}},
            {"src": ["*"], "dst": ["*"]},
            {"src": ["*"], "dst": ["tag:web:80"], "ip": ["*"]},
        ] }"#,
    ),
    (
        "autoApprovers",
        r#"{ "autoApprovers": {
            "routes": {"10.0.0.1/8": ["tag:r"], "lan": [], "10.0.0.0/8": ["*"]},
            "exitNode": ["autogroup:internet"], "services": {}, "route": {},
        } }"#,
    ),
    (
        "tests",
        r#"{ "tests": [
            {"accept": ["bob:22"]},
            {"src": "*", "accept": ["bob:22"]},
            {"src": "bob"},
            {"src": "bob", "accept": ["*:22", "tag:x:*", "tag:x:1-2", "10.0.0.0/8:22", "bob"], "allow": []},
            {"src": "bob", "proto": "icmp", "accept": ["tag:x:*"]},
        ] }"#,
    ),
    (
        "expose",
        r#"{ "expose": [
            {"src": ["tag:k8s"]},
            {"src": ["*"], "names": ["*", "a..b"], "ports": ["https"], "on": ["10.0.0.1"]},
        ] }"#,
    ),
    ("a tag nobody may give", r#"{ "acls": [{"action": "accept", "src": ["tag:x"], "dst": ["tag:x:22"]}] }"#),
    ("columns count characters", "{ /* äöü */ \"größe\": 1 }"),
];

fn show(list: &[Diagnostic]) -> String {
    list.iter().fold(String::new(), |mut out, d| {
        let _ = writeln!(out, "  {d}");
        out
    })
}

#[test]
fn every_remark_has_its_place_and_says_what_to_do() {
    let mut out = String::new();
    for (name, text) in CASES {
        match Policy::parse(text) {
            Ok(policy) => writeln!(out, "{name}: loads\n{}", show(policy.warnings())),
            Err(remarks) => writeln!(out, "{name}: refused\n{}", show(&remarks)),
        }
        .unwrap();
    }
    insta::assert_snapshot!(out);
}

#[test]
fn policies_in_the_shape_of_other_products_load_and_name_what_is_ignored() {
    let read = |name: &str| {
        let path = format!("{}/tests/loads/{name}.hujson", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        Policy::parse(&text).unwrap_or_else(|e| panic!("{name}: {}", show(&e)))
    };
    let tailscale = read("tailscale-like");
    insta::assert_snapshot!(show(tailscale.warnings()));
    assert_eq!(tailscale.rule_count(), 6);
    let prefixes =
        MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() };
    assert_eq!(tailscale.run_tests(&MeshFacts { prefixes, nodes: &[] }), []);
    let headscale = read("headscale-like");
    assert_eq!(headscale.warnings(), []);
    assert_eq!(headscale.groups_of("dev2").collect::<Vec<_>>(), ["dev"]);
}

#[test]
fn a_text_without_bounds_is_refused_and_so_is_its_report() {
    let first = |text: &str| Policy::parse(text).unwrap_err().remove(0).to_string();
    let deep = format!("{{\"acls\": {}", "[".repeat(100_000));
    assert!(first(&deep).contains("levels deep"), "{}", first(&deep));
    assert!(first(&" ".repeat((1 << 20) + 1)).contains("at most"));
    assert!(first(&format!("{{\"acls\": [{}]}}", "0,".repeat(300_000))).contains("more than"));
    let noisy = format!("{{\"acls\": [{}]}}", "{},".repeat(10_000));
    assert!(Policy::parse(&noisy).unwrap_err().len() <= 200);
    let wide = format!(
        r#"{{"acls": [{{"action": "accept", "src": [{}], "dst": ["*:*"]}}]}}"#,
        "\"bob\",".repeat(1025)
    );
    assert!(first(&wide).contains("split the rule"));
    let ports = (1..=1025).map(|p| (p * 2).to_string()).collect::<Vec<_>>().join(",");
    let wide = format!(r#"{{"acls": [{{"action": "accept", "src": ["*"], "dst": ["*:{ports}"]}}]}}"#);
    assert!(first(&wide).contains("split the rule"));
}

#[test]
fn remarks_and_verdicts_have_a_form_for_programs() {
    let remarks = Policy::parse("{\n \"acl\": [] }").unwrap_err();
    let json = serde_json::to_value(&remarks[0]).unwrap();
    assert_eq!(
        (json["line"].as_u64(), json["column"].as_u64(), json["severity"].as_str()),
        (Some(2), Some(2), Some("error"))
    );
    let denied = serde_json::to_value(Verdict::Deny(DenyReason::FilterEmpty)).unwrap();
    assert_eq!(denied, serde_json::json!({"deny": "filter_empty"}));
}
