//! What docs/guide/policy.md shows is true: its policies load and pass their own tests, and what it says is
//! refused is refused with the words that it prints.

use meshd_policy::{ClassKey, MeshFacts, NodeFacts, Policy};
use meshd_proto::{MeshAddrs, MeshPrefixes};

const GUIDE: &str = include_str!("../../docs/guide/policy.md");

/// The fenced blocks: what stands behind the opening fence, and the text.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let parts: Vec<&str> = GUIDE.split("\n```").collect();
    parts.chunks(2).filter_map(|two| two.get(1)?.split_once('\n')).collect()
}

#[test]
fn every_policy_of_the_guide_loads_without_a_remark_and_passes_its_own_tests() {
    let prefixes =
        MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() };
    let node = |n: u8, user: &str, routes: &[&str]| NodeFacts {
        name: format!("n{n}"),
        class: ClassKey::user(user),
        addrs: MeshAddrs { v4: [100, 71, 0, n].into(), v6: format!("fd7a:1:2::{n}").parse().unwrap() },
        routes: routes.iter().map(|r| r.parse().unwrap()).collect(),
    };
    let nodes = [node(1, "alice", &[]), node(2, "bob@example.com", &["192.168.1.0/24"]), node(3, "bob", &[])];
    let mut tried = 0;
    for (kind, text) in blocks().into_iter().filter(|(kind, _)| *kind == "hujson") {
        let policy = Policy::parse(text).unwrap_or_else(|e| panic!("{kind} {text}\n{e:#?}"));
        assert_eq!(policy.warnings(), [], "{text}");
        assert!(policy.rule_count() > 0, "{text}");
        assert_eq!(policy.run_tests(&MeshFacts { prefixes, nodes: &nodes }), [], "{text}");
        tried += 1;
    }
    assert_eq!(tried, 5, "the guide shows other policies than this test knows");
}

#[test]
fn what_the_guide_says_is_refused_is_refused_in_these_words() {
    let blocks = blocks();
    let mut tried = 0;
    for pair in blocks.windows(2).filter(|pair| pair[0].0 == "hujson refused") {
        let said: Vec<String> =
            Policy::parse(pair[0].1).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(said.join("\n"), pair[1].1.trim_end(), "{}", pair[0].1);
        tried += 1;
    }
    assert_eq!(tried, 4);
}
