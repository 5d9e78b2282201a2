use super::*;
use meshd_proto::{MeshAddrs, MeshPrefixes};

const POLICY: &str = r#"{
  "groups": {
    "group:ops": [
      "alice",
    ],
  },
  "hosts": {"nas": "192.168.1.10"},
  "acls": [
    {"action": "accept", "src": ["group:ops"], "dst": ["tag:web:22"]},
    {"action": "accept", "src": ["bob", "alice"], "dst": ["nas:443"]},
    {"action": "accept", "src": ["192.168.1.0/24"], "dst": ["group:ops:*"]},
    {"action": "accept", "src": ["*"], "dst": ["autogroup:internet:443"]},
  ],
}"#;

fn node(name: &str, n: u8, class: ClassKey, routes: &[&str]) -> NodeFacts {
    let addrs = MeshAddrs {
        v4: format!("100.71.0.{n}").parse().unwrap(),
        v6: format!("fd7a:1:2::{n:x}").parse().unwrap(),
    };
    NodeFacts {
        name: name.to_owned(),
        class,
        addrs,
        routes: routes.iter().map(|r| r.parse().unwrap()).collect(),
    }
}

#[test]
fn an_answer_names_receiver_rule_line_and_the_chain_of_membership() {
    let tag = |t: &str| ClassKey::tagged([t.parse().unwrap()]);
    let nodes = [
        node("laptop", 2, ClassKey::user("alice"), &[]),
        node("shop", 3, tag("tag:web"), &[]),
        node("pi", 4, ClassKey::user("bob"), &["192.168.1.0/24"]),
        node("exit", 5, ClassKey::default(), &["0.0.0.0/0"]),
    ];
    let prefixes =
        MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() };
    let mesh = MeshFacts { prefixes, nodes: &nodes };
    let policy = Policy::parse(POLICY).unwrap();
    let ask = |src: &str, dst: &str, dst_port| {
        let flow = Flow { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol: 6, dst_port };
        format!("{src} -> {dst}:{dst_port}\n{}\n", explain(&policy, &mesh, &flow))
    };
    let answers = [
        ask("100.71.0.2", "100.71.0.3", 22),
        ask("100.71.0.2", "100.71.0.3", 80),
        ask("100.71.0.2", "192.168.1.10", 443),
        ask("100.71.0.4", "192.168.1.10", 443),
        ask("192.168.1.77", "100.71.0.2", 80),
        ask("100.71.0.3", "1.1.1.1", 443),
        ask("100.71.0.3", "10.1.1.1", 443),
        ask("100.71.0.3", "100.71.0.99", 443),
        ask("100.71.0.4", "100.71.0.2", 1),
    ];
    insta::assert_snapshot!(answers.join("\n"));
}
