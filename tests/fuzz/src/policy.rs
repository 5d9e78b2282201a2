//! Policy text → rules → filter → verdict.

use meshd_policy::{
    ClassKey, Compiled, Filter, Flow, MeshFacts, NodeFacts, NodeView, Policy, explain, verdict,
};
use meshd_proto::{ClassId, MeshAddrs, MeshPrefixes};
use std::net::IpAddr;
use std::sync::Arc;

/// Text of a policy, in a mesh of four nodes: a user's, another's with a LAN behind it, a tagged one and
/// an exit node.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let policy = match Policy::parse(text) {
        Ok(policy) => Arc::new(policy),
        Err(remarks) => {
            assert!(!remarks.is_empty() && remarks.len() <= 200);
            remarks
                .iter()
                .for_each(|r| assert!(r.pos.line >= 1 && r.pos.column >= 1 && !r.to_string().is_empty()));
            return;
        }
    };
    assert_eq!(policy.text(), text);
    let nodes = nodes();
    let classes = nodes.iter().enumerate().map(|(i, n)| (ClassId(i as u32), n.class.clone())).collect();
    let compiled = Compiled::new(policy.clone(), classes);
    let views: Vec<_> = (nodes.iter().enumerate())
        .map(|(i, n)| NodeView { class: ClassId(i as u32), addrs: n.addrs, routes: &n.routes })
        .collect();
    let parties: Vec<_> = views.iter().map(|v| compiled.party(v).expect("a known class")).collect();
    let prefixes = prefixes();
    let mesh = MeshFacts { prefixes, nodes: &nodes };
    for (receiver, view) in views.iter().enumerate() {
        let rules = compiled.rules_for(view);
        let members = views.iter().map(|v| (v.addrs, v.class));
        let filter = Filter::build(view.addrs, prefixes, members, &rules);
        for flow in flows() {
            if !verdict(&filter, &flow).is_allowed() {
                continue;
            }
            assert!(!rules.is_empty());
            if let Some(sender) = nodes.iter().position(|n| n.addrs.contains(flow.src)) {
                assert!(parties[sender].connects(&parties[receiver]), "{flow:?} passes unseen");
            }
            if view.addrs.contains(flow.dst) {
                assert!(explain(&policy, &mesh, &flow).is_allowed(), "{flow:?} is not explained");
            }
        }
    }
    policy.run_tests(&mesh).iter().for_each(|failure| assert!(!failure.to_string().is_empty()));
}

fn nodes() -> Vec<NodeFacts> {
    let tags = |text: &str| ClassKey::tagged(text.parse().ok());
    let list = [
        ("laptop", ClassKey::user("alice"), &[][..]),
        ("pi", ClassKey::user("bob@example.com"), &["192.168.1.0/24", "fd00:1::/64"]),
        ("web", tags("tag:web"), &["10.0.0.0/8"]),
        ("exit", tags("tag:exit"), &["0.0.0.0/0", "::/0"]),
    ];
    let node = |(i, (name, class, routes)): (usize, (&str, ClassKey, &[&str]))| NodeFacts {
        name: name.to_owned(),
        class,
        addrs: MeshAddrs {
            v4: [100, 71, 0, i as u8 + 1].into(),
            v6: [0xfd7a, 1, 2, 0, 0, 0, 0, i as u16 + 1].into(),
        },
        routes: routes.iter().map(|r| r.parse().expect("a prefix")).collect(),
    };
    list.into_iter().enumerate().map(node).collect()
}

fn prefixes() -> MeshPrefixes {
    MeshPrefixes {
        v4: "100.71.0.0/16".parse().expect("a network"),
        v6: "fd7a:1:2::/48".parse().expect("a network"),
    }
}

fn flows() -> Vec<Flow> {
    let v4 = ["100.71.0.1", "100.71.0.2", "100.71.0.3", "192.168.1.10", "10.1.2.3", "8.8.8.8", "100.71.0.53"];
    let v6 = ["fd7a:1:2::1", "fd7a:1:2::3", "fd00:1::10", "2606:4700::1"];
    let services = [(6, 22), (17, 53), (1, 0), (47, 0)];
    let mut flows = Vec::new();
    for family in [&v4[..], &v6[..]] {
        let ips: Vec<IpAddr> = family.iter().map(|ip| ip.parse().expect("an address")).collect();
        for &src in &ips {
            let to = |&dst| services.map(|(protocol, dst_port)| Flow { src, dst, protocol, dst_port });
            flows.extend(ips.iter().flat_map(to));
        }
    }
    flows
}
