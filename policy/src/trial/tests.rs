use super::*;

fn mesh(nodes: &[NodeFacts]) -> MeshFacts<'_> {
    let prefixes =
        MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() };
    MeshFacts { prefixes, nodes }
}

fn failures(text: &str, nodes: &[NodeFacts]) -> Vec<String> {
    let policy = Policy::parse(text).unwrap_or_else(|e| panic!("{e:?}"));
    policy.run_tests(&mesh(nodes)).iter().map(ToString::to_string).collect()
}

#[test]
fn tests_that_hold_say_nothing_and_tests_that_do_not_say_where_and_why() {
    let text = r#"{
        "groups": {"group:ops": ["alice", "carol"], "group:none": []},
        "hosts": {"nas": "192.168.1.10", "db": "100.71.0.7"},
        "acls": [
            {"action": "accept", "src": ["group:ops"], "dst": ["tag:web:22", "nas:443", "db:5432"]},
            {"action": "accept", "src": ["bob"], "dst": ["autogroup:internet:*", "autogroup:self:*"]},
        ],
        "tests": [
            {"src": "group:ops", "accept": ["tag:web:22", "nas:443", "db:5432"], "deny": ["tag:web:23", "bob:22"]},
            {"src": "bob", "accept": ["8.8.8.8:53", "bob:22"], "deny": ["nas:443", "100.71.0.9:1"]},
            {"src": "192.168.1.77", "deny": ["tag:web:22"]},
            {"src": "alice", "accept": ["tag:web:23"], "deny": ["nas:443"]},
            {"src": "group:none", "accept": ["tag:web:22"]},
            {"src": "192.168.1.77", "accept": ["[fd00::1]:22"]},
        ],
    }"#;
    insta::assert_snapshot!(failures(text, &[]).join("\n"));
}

#[test]
fn an_address_of_a_node_is_tried_with_that_node() {
    let node = |name: &str, n: u8, class: ClassKey| NodeFacts {
        name: name.to_owned(),
        class,
        addrs: MeshAddrs {
            v4: format!("100.71.0.{n}").parse().unwrap(),
            v6: format!("fd7a:1:2::{n:x}").parse().unwrap(),
        },
        routes: vec![],
    };
    let nodes =
        [node("a", 2, ClassKey::user("alice")), node("w", 3, ClassKey::tagged(["tag:web".parse().unwrap()]))];
    let text = r#"{
        "acls": [{"action": "accept", "src": ["alice"], "dst": ["tag:web:22"]}],
        "tests": [
            {"src": "100.71.0.2", "accept": ["100.71.0.3:22"]},
            {"src": "fd7a:1:2::2", "accept": ["[fd7a:1:2::3]:22", "tag:web:22"], "deny": ["[fd7a:1:2::3]:23"]},
            {"src": "100.71.0.9", "deny": ["100.71.0.3:22"]},
        ],
    }"#;
    assert_eq!(failures(text, &nodes), Vec::<String>::new());
}
