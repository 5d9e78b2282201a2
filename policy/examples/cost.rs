//! What a policy costs: `cargo run --release -p meshd-policy --example cost`.
//!
//! Prints the time to read a policy, to join it with a mesh's classes, to ask all pairs of classes, to
//! make one node's rules, and of one verdict; for 10,000 nodes in 20 classes and for 3,000 classes.

use meshd_policy::{ClassKey, Compiled, Filter, Flow, NodeView, Policy, verdict};
use meshd_proto::{ClassId, MeshAddrs, MeshPrefixes};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn main() {
    println!(
        "{:34} {:>9} {:>9} {:>10} {:>9} {:>9} {:>9}",
        "mesh", "read", "join", "all pairs", "rules", "filter", "verdict"
    );
    mesh("10,000 nodes, 20 classes", 10_000, 20, 40);
    mesh("3,000 nodes, 3,000 classes", 3000, 3000, 40);
    mesh("10,000 nodes, 20 classes, 5,000 rules", 10_000, 20, 5000);
}

/// Half of the classes are users in ten groups, half are tags.
fn mesh(name: &str, nodes: u32, classes: u32, rules: u32) {
    let mut text = String::from("{\"groups\": {");
    for group in 0..10 {
        let members: Vec<_> =
            (0..classes / 2).filter(|n| n % 10 == group).map(|n| format!("\"user{n}\"")).collect();
        let _ = writeln!(text, "\"group:g{group}\": [{}],", members.join(","));
    }
    text.push_str("}, \"acls\": [\n");
    for n in 0..rules {
        let (group, tag, port) = (n % 10, n % (classes / 2), 1000 + n % 5000);
        let _ = writeln!(
            text,
            "{{\"action\":\"accept\",\"src\":[\"group:g{group}\"],\"dst\":[\"tag:t{tag}:{port}\"]}},"
        );
    }
    text.push_str("]}");
    let (policy, read) = timed(|| Policy::parse(&text).unwrap_or_else(|e| panic!("{e:?}")));
    let keys: BTreeMap<_, _> = (0..classes).map(|n| (ClassId(n), class(n, classes))).collect();
    let (compiled, join) = timed(|| Compiled::new(Arc::new(policy), keys));
    let (_, pairs) = timed(|| {
        let ids = || (0..classes).map(ClassId);
        ids().map(|a| ids().filter(|b| compiled.reaches(a, *b)).count()).sum::<usize>()
    });
    // The first tag: named by a rule however few there are.
    let node = NodeView { class: ClassId(classes / 2), addrs: addrs(classes / 2), routes: &[] };
    let (rules, make) = timed(|| compiled.rules_for(&node));
    let prefixes = MeshPrefixes {
        v4: "100.64.0.0/10".parse().expect("a network"),
        v6: "fd7a:1:2::/48".parse().expect("a network"),
    };
    let members = (0..nodes).map(|n| (addrs(n), ClassId(n % classes)));
    let (filter, build) = timed(|| Filter::build(node.addrs, prefixes, members, &rules));
    let flow = |n: u32| Flow {
        src: addrs(n % nodes).v4.into(),
        dst: node.addrs.v4.into(),
        protocol: 6,
        dst_port: (1000 + n % 5000) as u16,
    };
    let (_, each) = timed(|| (0..100_000).filter(|n| verdict(&filter, &flow(*n)).is_allowed()).count());
    let each = each / 100_000;
    println!("{name:34} {read:>9.1?} {join:>9.1?} {pairs:>10.1?} {make:>9.1?} {build:>9.1?} {each:>9.1?}");
}

fn class(n: u32, classes: u32) -> ClassKey {
    let half = classes / 2;
    if n < half {
        ClassKey::user(&format!("user{n}"))
    } else {
        ClassKey::tagged(format!("tag:t{}", n - half).parse().ok())
    }
}

fn addrs(n: u32) -> MeshAddrs {
    let v6 = (0xfd7a_0001_0002_u128 << 80) | u128::from(n + 256);
    MeshAddrs { v4: Ipv4Addr::from(0x6440_0000 + n + 256), v6: Ipv6Addr::from(v6) }
}

#[expect(clippy::disallowed_methods, reason = "this program measures")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let result = black_box(work());
    (result, started.elapsed())
}
