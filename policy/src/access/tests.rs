use super::*;
use crate::trial::try_flow;
use crate::verdict::Flow;
use meshd_proto::{MeshAddrs, MeshPrefixes};

pub(crate) fn node(n: u16, name: &str, class: ClassKey, routes: &[&str]) -> NodeFacts {
    let addrs = MeshAddrs {
        v4: [100, 71, (n >> 8) as u8, n as u8].into(),
        v6: format!("fd7a:1:2::{n:x}").parse().unwrap(),
    };
    NodeFacts {
        name: name.to_owned(),
        class,
        addrs,
        routes: routes.iter().map(|r| r.parse().unwrap()).collect(),
    }
}

pub(crate) fn prefixes() -> MeshPrefixes {
    MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() }
}

pub(crate) fn home() -> Vec<NodeFacts> {
    let tag = |t: &str| ClassKey::tagged([t.parse().unwrap()]);
    vec![
        node(1, "laptop", ClassKey::user("alice"), &[]),
        node(2, "phone", ClassKey::user("alice"), &[]),
        node(3, "desk", ClassKey::user("bob"), &[]),
        node(4, "web1", tag("tag:web"), &[]),
        node(5, "pi", tag("tag:router"), &["192.168.1.0/24", "0.0.0.0/0"]),
        node(6, "web2", tag("tag:web"), &[]),
    ]
}

const TEXT: &str = r#"{
  "groups": {"group:ops": ["alice"]},
  "tagOwners": {"tag:web": ["group:ops"], "tag:router": []},
  "acls": [
    {"action": "accept", "src": ["group:ops"], "dst": ["tag:web:22,443"]},
    {"action": "accept", "src": ["bob"], "dst": ["192.168.1.10:80"]},
    {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]},
    {"action": "accept", "src": ["100.71.0.4"], "dst": ["100.71.0.3:9000"]},
  ],
}"#;

#[test]
fn edges_name_both_ends_the_ports_the_line_and_the_membership() {
    let policy = Policy::parse(TEXT).unwrap();
    let nodes = home();
    let mesh = MeshFacts { prefixes: prefixes(), nodes: &nodes };
    let table = access_table(&policy, &[], &mesh);
    let says: Vec<String> = table
        .edges
        .iter()
        .map(|e| {
            let (from, to) = (table.from_label(&e.from), table.to_label(&e.to));
            format!(
                "{from} -> {to} {} line {} [{}] [{}]",
                crate::plan::ports_text(&e.ports),
                e.line,
                e.proof[0],
                e.proof[1]
            )
        })
        .collect();
    assert!(
        says.contains(
            &"alice -> web1 22 line 5 [group:ops, in which alice is by line 2] [tag:web]".to_owned()
        ) || says.contains(
            &"alice -> web1 tcp:22 line 5 [group:ops, in which alice is by line 2] [tag:web]".to_owned()
        ),
        "{says:#?}"
    );
    assert!(says.iter().any(|s| s.starts_with("bob -> 192.168.1.10/32 behind tag:router")), "{says:#?}");
    assert!(says.iter().any(|s| s.starts_with("alice -> alice ")), "{says:#?}");
    assert!(says.iter().any(|s| s.starts_with("web1 -> bob ")), "{says:#?}");
    assert!(!says.iter().any(|s| s.starts_with("web2 -> ")), "{says:#?}");
    assert!(!says.iter().any(|s| s.starts_with("bob -> bob")), "one node does not reach itself: {says:#?}");
}

/// The table and the one evaluator agree about every pair of nodes on some ports.
#[test]
fn the_table_shows_what_nodes_enforce() {
    let nodes = home();
    let mesh = MeshFacts { prefixes: prefixes(), nodes: &nodes };
    for text in [
        TEXT,
        crate::DEFAULT_POLICY,
        "{}",
        r#"{"acls": [{"action": "accept", "src": ["100.71.0.0/30"], "dst": ["fd7a:1:2::3:80", "100.71.0.5:*"]}]}"#,
    ] {
        let policy = Policy::parse(&text.replace("fd7a:1:2::3:80", "[fd7a:1:2::3]:80")).unwrap();
        let table = access_table(&policy, &[], &mesh);
        let group_of = |n: usize| table.groups.iter().position(|g| g.nodes.contains(&n)).unwrap();
        for (a, b) in
            (0..nodes.len()).flat_map(|a| (0..nodes.len()).map(move |b| (a, b))).filter(|(a, b)| a != b)
        {
            for port in [22, 80, 443, 9000] {
                let (from, to) = (From::Group(group_of(a)), To::Group(group_of(b)));
                let shown =
                    table.edges.iter().any(|e| e.from == from && e.to == to && e.ports.covers(6, port));
                let flow = |src: IpAddr, dst: IpAddr| Flow { src, dst, protocol: 6, dst_port: port };
                let (s, d) = (&nodes[a], &nodes[b]);
                let flows =
                    [flow(s.addrs.v4.into(), d.addrs.v4.into()), flow(s.addrs.v6.into(), d.addrs.v6.into())];
                let enforced =
                    flows.iter().any(|f| try_flow(&policy, mesh.prefixes, Some(s), d, f).0.is_allowed());
                assert_eq!(shown, enforced, "{} to {} port {port}\n{text}", s.name, d.name);
            }
        }
    }
}
