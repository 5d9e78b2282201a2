//! Random policies, meshes and flows: what the product decides against a naive evaluator that reads
//! the same rules as a person would, and who must know whom against what may pass.

#![expect(clippy::unwrap_used, reason = "what these helpers read is written here")]

#[path = "naive/evaluator.rs"]
mod evaluator;

use evaluator::{Entry, Mesh, Node};
use meshd_policy::{ClassKey, Compiled, Filter, Flow, NodeView, Party, Policy, Verdict, verdict};
use meshd_proto::{ClassId, Prefix};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const USERS: &[&str] = &["alice", "bob@example.com", "carol", "dave"];
const TAGS: &[&str] = &["tag:web", "tag:db", "tag:exit"];
const ADDRESSES: &[&str] = &[
    "100.71.0.1",
    "100.71.0.2/32",
    "100.71.0.0/16",
    "100.64.0.0/10",
    "[fd7a:1:2::3]",
    "fd7a:1:2::/48",
    "10.1.2.3",
    "10.1.0.0/16",
    "10.0.0.0/8",
    "192.168.0.0/16",
    "8.8.8.0/24",
    "8.0.0.0/6",
    "0.0.0.0/0",
    "::/0",
    "fd00:1::/64",
    "2600::/12",
    "100.71.0.53",
    "nas",
    "lan",
];
const HOSTS: &[(&str, &str)] = &[("nas", "192.168.1.10"), ("lan", "192.168.1.0/24")];
const ROUTES: &[&str] = &[
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "192.168.1.0/24",
    "192.168.0.0/15",
    "fd00:1::/64",
    "fd00::/16",
    "8.8.0.0/16",
    "0.0.0.0/0",
    "::/0",
];
const PORTS: &[&str] = &["*", "22", "80,443", "1000-2000", "1-65535", "22,1000-1500", "65535"];
const PROTOCOLS: &[&str] = &["", "tcp", "udp", "icmp", "gre", "132", "*"];
const GRANT_PORTS: &[&str] = &["*", "tcp:22", "udp:*", "icmp:*", "443", "tcp:1000-2000", "47:*"];
const OUTSIDE: &[&str] = &[
    "10.1.2.3",
    "10.1.9.9",
    "10.9.9.9",
    "192.168.1.10",
    "192.168.1.11",
    "192.168.7.7",
    "8.8.8.8",
    "8.9.9.9",
    "1.1.1.1",
    "169.254.169.254",
    "127.0.0.1",
    "100.71.0.53",
    "100.71.9.9",
    "100.99.0.1",
    "fd00:1::5",
    "fd00:2::5",
    "2606:4700::1",
    "2001:db8::1",
    "fd7a:1:2::53",
    "fe80::1",
    "::1",
    "::ffff:8.8.8.8",
];

fn sources() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec!["*", "group:a", "group:b", "group:none", "autogroup:member", "autogroup:tagged"])
            .prop_map(String::from),
        select(USERS).prop_map(String::from),
        select(TAGS).prop_map(String::from),
        select(ADDRESSES).prop_map(String::from),
    ]
}

fn targets() -> impl Strategy<Value = String> {
    prop_oneof![3 => sources(), 1 => Just("autogroup:internet".to_owned())]
}

fn people() -> impl Strategy<Value = String> {
    let groups = select(vec!["group:a", "group:b", "autogroup:member"]).prop_map(String::from);
    prop_oneof![groups, select(USERS).prop_map(String::from)]
}

fn entry() -> impl Strategy<Value = Entry> {
    let several = |s: BoxedStrategy<String>| prop::collection::vec(s, 1..4);
    let acl = (several(sources().boxed()), several(targets().boxed()), select(PROTOCOLS), select(PORTS))
        .prop_map(|(src, dst, protocol, ports)| {
            let portless = matches!(protocol, "icmp" | "gre");
            Entry {
                src,
                dst,
                grant: false,
                protocol: protocol.to_owned(),
                ports: if portless { "*" } else { ports }.to_owned(),
            }
        });
    let own = (several(people().boxed()), select(PORTS)).prop_map(|(src, ports)| Entry {
        src,
        dst: vec!["autogroup:self".to_owned()],
        grant: false,
        protocol: String::new(),
        ports: ports.to_owned(),
    });
    let grant = (several(sources().boxed()), several(targets().boxed()), select(GRANT_PORTS)).prop_map(
        |(src, dst, ip)| {
            let (protocol, ports) = ip.split_once(':').unwrap_or(("", ip));
            Entry { src, dst, grant: true, protocol: protocol.to_owned(), ports: ports.to_owned() }
        },
    );
    prop_oneof![5 => acl, 1 => own, 2 => grant]
}

fn node() -> impl Strategy<Value = Node> {
    let owner = prop::option::of(select(USERS).prop_map(String::from));
    let tags = prop_oneof![2 => Just(vec![]), 1 => subsequence(TAGS, 1..=2)];
    (owner, tags, subsequence(ROUTES, 0..3)).prop_map(|(owner, tags, routes)| Node {
        owner,
        tags: tags.into_iter().map(String::from).collect(),
        routes: routes.into_iter().map(|r| r.parse().unwrap()).collect(),
    })
}

fn mesh() -> impl Strategy<Value = Mesh> {
    let members = || subsequence(USERS, 0..=3);
    (members(), members(), prop::collection::vec(entry(), 0..9), prop::collection::vec(node(), 1..6))
        .prop_map(|(a, b, entries, nodes)| {
            let own = |users: Vec<&str>| users.into_iter().map(String::from).collect::<Vec<_>>();
            let groups = BTreeMap::from([("group:a", own(a)), ("group:b", own(b)), ("group:none", vec![])]);
            let hosts = HOSTS.iter().copied().collect();
            Mesh { groups, hosts, entries, nodes }
        })
}

/// The product's side of the comparison.
struct Product {
    compiled: Compiled,
    classes: Vec<ClassId>,
    filters: Vec<Filter>,
    parties: Vec<Party>,
}

impl Product {
    fn new(mesh: &Mesh) -> Self {
        let policy = Policy::parse(&mesh.text()).unwrap_or_else(|e| panic!("{}\n{e:?}", mesh.text()));
        let mut ids: BTreeMap<ClassKey, ClassId> = BTreeMap::new();
        let mut classes = Vec::new();
        for node in &mesh.nodes {
            let tags = node.tags.iter().map(|t| t.parse().unwrap()).collect();
            let next = ClassId(ids.len() as u32 * 700);
            classes.push(*ids.entry(ClassKey { owner: node.owner.clone(), tags }).or_insert(next));
        }
        let compiled = Compiled::new(Arc::new(policy), ids.into_iter().map(|(key, id)| (id, key)).collect());
        let views: Vec<_> = (mesh.nodes.iter().enumerate())
            .map(|(i, n)| NodeView { class: classes[i], addrs: Mesh::addrs(i), routes: &n.routes })
            .collect();
        let members: Vec<_> = views.iter().map(|v| (v.addrs, v.class)).collect();
        let filter = |v: &NodeView<'_>| {
            Filter::build(v.addrs, Mesh::prefixes(), members.clone(), &compiled.rules_for(v))
        };
        let filters = views.iter().map(filter).collect();
        let parties = views.iter().map(|v| compiled.party(v).unwrap()).collect();
        drop(views);
        Self { compiled, classes, filters, parties }
    }

    /// Whoever a packet of this flow needs must know of each other.
    fn check_visibility(&self, mesh: &Mesh, receiver: usize, flow: &Flow) -> Result<(), TestCaseError> {
        let is_own = |i: usize, ip: IpAddr| Mesh::addrs(i).contains(ip);
        let routes_to = |i: usize, ip: IpAddr| -> Vec<Prefix> {
            mesh.nodes[i].routes.iter().copied().filter(|r| r.net().contains(&ip)).collect()
        };
        for sender in 0..mesh.nodes.len() {
            let behind = routes_to(sender, flow.src).into_iter().any(|r| !r.is_default());
            if is_own(sender, flow.src) || behind {
                prop_assert!(
                    self.parties[sender].connects(&self.parties[receiver]),
                    "{sender} and {receiver}: {flow:?}"
                );
            }
            if is_own(sender, flow.src) && !Mesh::prefixes().contains(flow.dst) {
                let seen = |r: &Prefix| self.parties[sender].connects(&self.compiled.prefix_party(*r));
                let routes = routes_to(receiver, flow.dst);
                prop_assert!(
                    routes.is_empty() || routes.iter().any(seen),
                    "{sender} lacks a route: {flow:?}"
                );
            }
            if is_own(sender, flow.src) && is_own(receiver, flow.dst) && !mesh.names_addresses() {
                prop_assert!(self.compiled.reaches(self.classes[sender], self.classes[receiver]));
            }
        }
        Ok(())
    }
}

fn flows(mesh: &Mesh) -> Vec<Flow> {
    let outside: Vec<IpAddr> = OUTSIDE.iter().map(|t| t.parse().unwrap()).collect();
    let own = (0..mesh.nodes.len()).flat_map(|i| Mesh::addrs(i).iter().collect::<Vec<_>>());
    let ips: Vec<IpAddr> = own.chain(outside).collect();
    let services =
        [(6, 22), (6, 443), (17, 1000), (17, 1501), (6, 65535), (1, 0), (58, 0), (47, 0), (132, 80)];
    let mut flows = Vec::new();
    for (i, &src) in ips.iter().enumerate() {
        for (j, &dst) in ips.iter().enumerate().filter(|(_, dst)| dst.is_ipv4() == src.is_ipv4()) {
            // Three services for each pair, all of them over all pairs.
            flows.extend((0..3).map(|k| {
                let (protocol, dst_port) = services[(i * 7 + j * 3 + k * 4) % services.len()];
                Flow { src, dst, protocol, dst_port }
            }));
        }
    }
    flows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rules_and_verdict_say_what_the_naive_evaluator_says(mesh in mesh()) {
        let product = Product::new(&mesh);
        for flow in flows(&mesh) {
            for receiver in 0..mesh.nodes.len() {
                let expected = mesh.first_rule(receiver, &flow);
                let line = match verdict(&product.filters[receiver], &flow) {
                    Verdict::Allow { line, .. } => Some(line),
                    Verdict::Deny(_) => None,
                };
                prop_assert_eq!(line, expected, "{:?} at node {}\n{}\n{:?}", flow, receiver, mesh.text(), mesh.nodes);
                if line.is_some() {
                    product.check_visibility(&mesh, receiver, &flow)?;
                }
            }
        }
    }
}

#[test]
fn the_random_meshes_hold_flows_that_pass_and_flows_that_do_not() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut passed, mut all) = (0, 0);
    for _ in 0..50 {
        let mesh = mesh().new_tree(&mut runner).unwrap().current();
        for flow in flows(&mesh) {
            for receiver in 0..mesh.nodes.len() {
                all += 1;
                passed += usize::from(mesh.first_rule(receiver, &flow).is_some());
            }
        }
    }
    assert!(passed * 500 > all && passed * 2 < all, "{passed} of {all}");
}
