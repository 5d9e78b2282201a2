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
fn whether_an_owner_is_cut_off_is_known_in_a_mesh_of_any_size() {
    let nodes: Vec<_> = (0..crate::MAX_GROUPS as u16 + 100)
        .map(|n| {
            let owner = crate::ClassKey::user(format!("user{n:04}").as_str());
            crate::access::tests::node(n + 1, "", owner, &[])
        })
        .collect();
    let mesh = MeshFacts { prefixes: prefixes(), nodes: &nodes };
    let last = format!("user{:04}", nodes.len() - 1);
    let all = Policy::parse(crate::DEFAULT_POLICY).unwrap();
    let only_last = Policy::parse(&acl(&last, "user0000:22")).unwrap();
    let all_but_last = Policy::parse(&acl("user0000", &format!("{last}:22"))).unwrap();
    let planned = plan(&all, &all_but_last, &mesh);
    assert!(planned.cut && !planned.stranded.contains(&last), "the plan leaves this owner out");
    assert!(strands(&all, &all_but_last, &mesh, &last));
    assert!(!strands(&all, &only_last, &mesh, &last) && strands(&all, &only_last, &mesh, "user0000"));
    assert!(!strands(&all_but_last, &all_but_last, &mesh, &last), "there was nothing before");
    assert!(!strands(&all, &all_but_last, &mesh, "nobody"));
}

#[test]
fn one_owner_s_row_says_what_the_whole_table_says() {
    let texts = [
        crate::DEFAULT_POLICY.to_owned(),
        "{}".to_owned(),
        acl("alice", "bob:22"),
        acl("bob", "192.168.1.10:80"),
        acl("alice", "192.168.7.1:80"),
        acl("autogroup:member", "autogroup:self:22"),
        acl("100.71.0.3", "tag:web:443"),
        acl("bob", "autogroup:internet:443"),
        acl("bob", "bob:443"),
        acl("tag:web", "alice:22"),
    ];
    let nodes = home();
    let mesh = MeshFacts { prefixes: prefixes(), nodes: &nodes };
    for before in &texts {
        for after in &texts {
            let (old, new) = (Policy::parse(before).unwrap(), Policy::parse(after).unwrap());
            let stranded = plan(&old, &new, &mesh).stranded;
            for owner in ["alice", "bob", "carol"] {
                let says = strands(&old, &new, &mesh, owner);
                assert_eq!(says, stranded.iter().any(|s| s == owner), "{owner}: {before} -> {after}");
            }
        }
    }
}

#[test]
fn emptying_the_policy_cuts_most_and_strands_everybody() {
    let found = compare(crate::DEFAULT_POLICY, "{}");
    assert!(found.cuts_most() && found.pairs_before == 30 && found.pairs_after == 0, "{found:?}");
    assert_eq!(found.stranded, ["alice", "bob"]);
    assert!(found.gained.is_empty() && !found.lost.is_empty());
}
