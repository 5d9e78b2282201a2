use super::*;
use crate::access::tests::{home, prefixes};

fn compare(before: &str, after: &str) -> Plan {
    let nodes = home();
    let mesh = MeshFacts { prefixes: prefixes(), nodes: &nodes };
    plan(&Policy::parse(before).unwrap(), &Policy::parse(after).unwrap(), &mesh)
}

fn acl(src: &str, dst: &str) -> String {
    format!(r#"{{"acls": [{{"action": "accept", "proto": "tcp", "src": ["{src}"], "dst": ["{dst}"]}}]}}"#)
}

#[test]
fn the_same_access_in_other_words_is_no_difference() {
    let wide = acl("alice", "bob:20-30");
    let split =
        r#"{"acls": [{"action": "accept", "proto": "tcp", "src": ["alice"], "dst": ["bob:20-25,26-30"]}]}"#;
    let same = compare(&wide, split);
    assert!(same.gained.is_empty() && same.lost.is_empty(), "{same:?}");
    assert!(!same.cuts_most());
}

#[test]
fn a_narrower_rule_loses_exactly_the_ports_that_it_leaves_out() {
    let found = compare(&acl("alice", "bob:20-30"), &acl("alice", "bob:22"));
    let lost: Vec<_> = found.lost.iter().map(|d| format!("{} {} {}", d.from, d.to, d.ports)).collect();
    assert_eq!(lost, ["alice bob tcp:20-21", "alice bob tcp:23-30"]);
    assert!(found.gained.is_empty());
    let back = compare(&acl("alice", "bob:22"), &acl("alice", "bob:20-30"));
    assert_eq!((back.gained, back.lost), (found.lost, found.gained));
}

#[test]
fn emptying_the_policy_cuts_most_and_strands_everybody() {
    let found = compare(crate::DEFAULT_POLICY, "{}");
    assert!(found.cuts_most() && found.pairs_before == 30 && found.pairs_after == 0, "{found:?}");
    assert_eq!(found.stranded, ["alice", "bob"]);
    assert!(found.gained.is_empty() && !found.lost.is_empty());
}
