use super::*;
use crate::policy::DEFAULT_POLICY;
use crate::verdict::{DenyReason, Filter, Flow, Verdict, verdict};
use meshd_proto::MeshPrefixes;
use std::net::IpAddr;

/// A mesh to ask: nodes with class and routes, and the verdict of whichever node is the destination.
struct Mesh {
    compiled: Compiled,
    nodes: Vec<(ClassId, Vec<Prefix>)>,
}

impl Mesh {
    /// Nodes from 1: `("alice", "")`, `("", "tag:a tag:b")`, with routes.
    fn new(text: &str, nodes: &[(&str, &str, &str)]) -> Self {
        let policy = Policy::parse(text).unwrap_or_else(|e| panic!("{e:?}"));
        let mut classes = BTreeMap::new();
        let mut list = Vec::new();
        for (owner, tags, routes) in nodes {
            let owner = (!owner.is_empty()).then(|| (*owner).to_owned());
            let key = ClassKey { owner, tags: tags.split_whitespace().map(|t| t.parse().unwrap()).collect() };
            let known = classes.iter().find(|(_, k)| **k == key).map(|(id, _)| *id);
            let id = known.unwrap_or(ClassId(classes.len() as u32 + 1));
            classes.insert(id, key);
            list.push((id, routes.split_whitespace().map(|r| r.parse().unwrap()).collect()));
        }
        Self { compiled: Compiled::new(Arc::new(policy), classes), nodes: list }
    }

    fn view(&self, node: usize) -> NodeView<'_> {
        let (class, routes) = &self.nodes[node - 1];
        NodeView { class: *class, addrs: addrs(node), routes }
    }

    /// What `receiver` says of a flow.
    fn ask(&self, receiver: usize, src: &str, dst: &str, protocol: u8, dst_port: u16) -> Verdict {
        let nodes = (1..=self.nodes.len()).map(|n| (addrs(n), self.view(n).class));
        let rules = self.compiled.rules_for(&self.view(receiver));
        let filter = Filter::build(addrs(receiver), prefixes(), nodes, &rules);
        verdict(&filter, &Flow { src: ip(src), dst: ip(dst), protocol, dst_port })
    }

    /// Whether `src` reaches TCP `port` of `dst`'s own address.
    fn tcp(&self, src: usize, dst: usize, port: u16) -> bool {
        self.ask(dst, &addrs(src).v4.to_string(), &addrs(dst).v4.to_string(), 6, port).is_allowed()
    }

    fn connects(&self, a: usize, b: usize) -> bool {
        self.compiled.party(&self.view(a)).unwrap().connects(&self.compiled.party(&self.view(b)).unwrap())
    }

    fn sees_route(&self, node: usize, prefix: &str) -> bool {
        let prefix = self.compiled.prefix_party(prefix.parse().unwrap());
        self.compiled.party(&self.view(node)).unwrap().connects(&prefix)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addrs(n: usize) -> MeshAddrs {
    MeshAddrs {
        v4: format!("100.71.0.{n}").parse().unwrap(),
        v6: format!("fd7a:1:2::{n:x}").parse().unwrap(),
    }
}

fn prefixes() -> MeshPrefixes {
    MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() }
}

#[test]
fn under_the_default_policy_nodes_reach_each_other_approved_prefixes_and_the_internet_through_an_exit() {
    let mesh = Mesh::new(
        DEFAULT_POLICY,
        &[("alice", "", ""), ("bob", "", "192.168.1.0/24"), ("", "tag:exit", "0.0.0.0/0 ::/0"), ("", "", "")],
    );
    for (src, dst) in [(1, 2), (2, 1), (1, 3), (3, 4), (4, 1)] {
        assert!(mesh.tcp(src, dst, 22) && mesh.connects(src, dst), "{src} {dst}");
    }
    assert!(mesh.ask(2, "100.71.0.1", "192.168.1.10", 6, 80).is_allowed());
    assert!(!mesh.ask(1, "100.71.0.2", "192.168.1.10", 6, 80).is_allowed(), "not behind node 1");
    assert!(mesh.ask(3, "100.71.0.1", "1.1.1.1", 17, 53).is_allowed());
    assert!(mesh.ask(3, "fd7a:1:2::1", "2606:4700::1", 6, 443).is_allowed());
    for inside in ["192.168.1.10", "10.0.0.1", "169.254.169.254", "100.71.0.2"] {
        assert!(!mesh.ask(3, "100.71.0.1", inside, 6, 80).is_allowed(), "{inside} through the exit");
    }
    // Hosts behind the router are no source: no rule names their addresses.
    assert_eq!(mesh.ask(1, "192.168.1.10", "100.71.0.1", 6, 22), Verdict::Deny(DenyReason::SourceNotNamed));
    assert!(mesh.sees_route(1, "192.168.1.0/24") && mesh.sees_route(4, "0.0.0.0/0"));
}

#[test]
fn an_empty_policy_denies_and_shows_nobody() {
    for text in ["{}", r#"{"acls": []}"#] {
        let mesh = Mesh::new(text, &[("alice", "", "10.0.0.0/8"), ("alice", "", "")]);
        assert!(mesh.compiled.rules_for(&mesh.view(1)).is_empty());
        assert!(!mesh.tcp(1, 2, 22) && !mesh.connects(1, 2) && !mesh.sees_route(2, "10.0.0.0/8"));
        assert!(!mesh.compiled.reaches(ClassId(1), ClassId(1)));
    }
}

#[test]
fn users_groups_and_tags_name_nodes_and_a_tagged_node_is_no_longer_its_owners() {
    let mesh = Mesh::new(
        r#"{
            "groups": {"group:ops": ["alice", "dave"]},
            "acls": [
                {"action": "accept", "src": ["group:ops"], "dst": ["tag:web:22,443"]},
                {"action": "accept", "src": ["tag:web"], "dst": ["bob:5432"]},
                {"action": "accept", "src": ["bob"], "dst": ["autogroup:tagged:80"]},
            ],
        }"#,
        &[
            ("alice", "", ""),
            ("bob", "", ""),
            ("", "tag:web tag:eu", ""),
            ("alice", "tag:web", ""),
            ("carol", "", ""),
        ],
    );
    assert!(mesh.tcp(1, 3, 22) && mesh.tcp(1, 3, 443) && mesh.tcp(1, 4, 22));
    assert!(!mesh.tcp(1, 3, 80) && !mesh.tcp(2, 3, 22) && !mesh.tcp(5, 3, 22));
    assert!(!mesh.tcp(4, 3, 22), "node 4 has a tag: it is not alice's for the policy");
    assert!(mesh.tcp(3, 2, 5432) && mesh.tcp(2, 3, 80) && !mesh.tcp(2, 5, 80));
    assert!(mesh.connects(3, 1) && !mesh.connects(1, 2) && !mesh.connects(5, 3));
    let class = |n: usize| mesh.nodes[n - 1].0;
    assert!(mesh.compiled.reaches(class(1), class(3)) && !mesh.compiled.reaches(class(3), class(1)));
}

#[test]
fn autogroup_self_joins_the_untagged_nodes_of_one_user_only() {
    let mesh = Mesh::new(
        r#"{"acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]}]}"#,
        &[("alice", "", ""), ("alice", "", ""), ("bob", "", ""), ("alice", "tag:x", ""), ("", "", "")],
    );
    assert!(mesh.tcp(1, 2, 22) && mesh.connects(1, 2));
    for (src, dst) in [(1, 3), (3, 1), (1, 4), (4, 1), (5, 1), (1, 5), (5, 5)] {
        assert!(!mesh.tcp(src, dst, 22) && !mesh.connects(src, dst), "{src} {dst}");
    }
}

#[test]
fn addresses_name_what_lies_behind_routers_and_nodes_by_number() {
    let mesh = Mesh::new(
        r#"{
            "hosts": {"nas": "192.168.1.10", "lan": "192.168.1.0/24", "two": "100.71.0.2"},
            "acls": [
                {"action": "accept", "src": ["alice"], "dst": ["nas:443"]},
                {"action": "accept", "src": ["lan"], "dst": ["two:5000"], "proto": "udp"},
                {"action": "accept", "src": ["bob"], "dst": ["8.8.0.0/16:53", "10.0.0.0/8:*"]},
            ],
        }"#,
        &[("alice", "", ""), ("bob", "", ""), ("", "tag:r", "192.168.0.0/16"), ("", "tag:exit", "0.0.0.0/0")],
    );
    assert!(mesh.ask(3, "100.71.0.1", "192.168.1.10", 6, 443).is_allowed());
    assert!(!mesh.ask(3, "100.71.0.1", "192.168.1.11", 6, 443).is_allowed());
    assert!(!mesh.ask(3, "100.71.0.2", "192.168.1.10", 6, 443).is_allowed());
    assert!(
        mesh.connects(1, 3) && !mesh.connects(1, 2),
        "the router must be known to reach what is behind it"
    );
    assert!(!mesh.tcp(1, 3, 443), "the router itself is not named");
    assert!(mesh.ask(2, "192.168.1.77", "100.71.0.2", 17, 5000).is_allowed());
    assert!(!mesh.ask(2, "192.168.1.77", "100.71.0.2", 6, 5000).is_allowed());
    assert!(
        mesh.connects(2, 3) && mesh.sees_route(2, "192.168.0.0/16") && !mesh.sees_route(4, "192.168.0.0/16")
    );
    assert!(mesh.ask(4, "100.71.0.2", "8.8.8.8", 17, 53).is_allowed());
    assert!(!mesh.ask(4, "100.71.0.2", "9.9.9.9", 17, 53).is_allowed());
    assert!(
        !mesh.ask(4, "100.71.0.2", "10.1.1.1", 6, 80).is_allowed(),
        "a default route is no route to 10/8"
    );
    assert!(
        mesh.sees_route(2, "0.0.0.0/0")
            && !mesh.sees_route(1, "10.1.0.0/16")
            && mesh.sees_route(2, "10.1.0.0/16")
    );
}

#[test]
fn the_internet_needs_its_name_and_an_exit_and_keeps_to_the_exits_families() {
    let mesh = Mesh::new(
        r#"{"acls": [{"action": "accept", "src": ["alice"], "dst": ["autogroup:internet:443"]}]}"#,
        &[("alice", "", ""), ("bob", "", "0.0.0.0/0"), ("bob", "", ""), ("bob", "", "10.0.0.0/8")],
    );
    assert!(mesh.ask(2, "100.71.0.1", "1.1.1.1", 6, 443).is_allowed());
    assert!(!mesh.ask(2, "fd7a:1:2::1", "2606:4700::1", 6, 443).is_allowed(), "no IPv6 there");
    assert!(!mesh.ask(2, "100.71.0.1", "1.1.1.1", 6, 80).is_allowed());
    assert!(!mesh.ask(3, "100.71.0.1", "1.1.1.1", 6, 443).is_allowed(), "not an exit");
    assert!(mesh.connects(1, 2) && !mesh.connects(1, 3) && !mesh.connects(1, 4));
}

#[test]
fn a_rule_keeps_its_id_when_other_rules_come_go_and_move() {
    let rule = |src: &str| format!(r#"{{"action": "accept", "src": ["{src}"], "dst": ["*:22"]}},"#);
    let ids = |rules: &[&str]| {
        let text =
            format!("{{\"acls\": [\n{}\n]}}", rules.iter().map(|r| rule(r)).collect::<Vec<_>>().join("\n"));
        let mesh = Mesh::new(&text, &[("alice", "", ""), ("bob", "", "")]);
        let rules = mesh.compiled.rules_for(&mesh.view(1));
        rules.into_iter().map(|(id, rule)| (rule.line, id)).collect::<BTreeMap<_, _>>()
    };
    let before = ids(&["alice", "bob"]);
    let after = ids(&["*", "bob", "alice", "alice"]);
    assert_eq!(before.len(), 2);
    assert_eq!(after.len(), 4, "equal entries have ids of their own");
    assert_eq!((after[&4], after[&3]), (before[&2], before[&3]));
}

#[test]
fn many_classes_are_split_so_that_a_new_class_changes_one_part() {
    let text =
        r#"{"acls": [{"action": "accept", "src": ["autogroup:member", "10.0.0.0/8"], "dst": ["*:22"]}]}"#;
    let rules = |count: u32| {
        let classes = (0..count).map(|n| (ClassId(n), ClassKey::user(&format!("user{n}")))).collect();
        let compiled = Compiled::new(Arc::new(Policy::parse(text).unwrap()), classes);
        compiled.rules_for(&NodeView { class: ClassId(0), addrs: addrs(1), routes: &[] })
    };
    let (before, after) = (rules(3000), rules(3001));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert_eq!(before.iter().filter(|(id, rule)| after[id] != **rule).count(), 1);
    assert!(before.values().all(|rule| rule.srcs.len() <= limits::MAX_RULE_TERMS));
    assert_eq!(before.values().map(|rule| rule.srcs.len()).sum::<usize>(), 3001);
}

#[test]
fn a_node_of_an_unknown_class_gets_no_rule_and_is_no_party() {
    let mesh = Mesh::new(DEFAULT_POLICY, &[("alice", "", "")]);
    let stranger = NodeView { class: ClassId(77), addrs: addrs(9), routes: &[] };
    assert!(mesh.compiled.rules_for(&stranger).is_empty() && mesh.compiled.party(&stranger).is_none());
    assert!(!mesh.compiled.reaches(ClassId(77), ClassId(1)));
}

#[test]
fn nodes_that_no_rule_names_by_address_share_the_party_of_their_class() {
    let mesh = Mesh::new(
        r#"{"acls": [{"action": "accept", "src": ["alice"], "dst": ["100.71.0.2:22", "alice:80"]}]}"#,
        &[("alice", "", ""), ("alice", "", ""), ("alice", "", "10.0.0.0/8")],
    );
    let party = |n| mesh.compiled.party(&mesh.view(n)).unwrap();
    assert_eq!(&party(1), mesh.compiled.class_party(ClassId(1)).unwrap());
    assert_eq!(party(1), party(3), "no rule names what is behind node 3");
}
