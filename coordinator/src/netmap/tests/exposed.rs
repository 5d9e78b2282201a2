//! What is published: who serves it, who is told, and which ports open for it.

use super::*;
use crate::exposing::Exposing;
use crate::model::StoredClaim;
use meshd_proto::expose::{
    CLAIMS_SECTION, Claim, ClaimKind, EXIT_SECTION, ExitOffer, Published, Transport, read_claims,
};
use meshd_proto::gateway::{GatewayConfig, ListenerProtocol};
use meshd_proto::netmap::{RuleTarget, TargetAddr};

const POLICY: &str = r#"{
  "tagOwners": {"tag:exit": ["u1"]},
  "expose": [{"src": ["u1", "u2"], "on": ["tag:exit"],
    "names": ["k.example", "*.k.example", "*.home.internal"],
    "ports": ["tcp:443", "tcp:20000-20002", "udp:5353"]}]}"#;

/// Random histories: a node becomes an exit, or is none.
pub(super) fn offer(node: &mut NodeRecord, b: u8) {
    let taken = if b & 4 == 0 { vec![] } else { vec![(Transport::Tcp, 20_000)] };
    let offer = ExitOffer { name: None, addrs: vec![[192, 0, 2, b].into()], taken };
    node.publishing.exit = (b & 3 != 0).then_some(offer);
}

/// Random histories: a node claims, or ends its claims.
pub(super) fn claim(node: &mut NodeRecord, a: u8, b: u8) {
    let kind = [ClaimKind::Web, ClaimKind::Tcp, ClaimKind::Udp][usize::from(b) % 3];
    let claim = match kind {
        ClaimKind::Web => web(u64::from(b), &format!("a{}.k.example", a % 3)),
        _ => Claim { kind, name: None, port: 0, ..web(u64::from(b), "x.k.example") },
    };
    if b < 64 {
        node.publishing.claims.clear();
    } else {
        node.publishing.claims.push(stored(claim, u64::from(a)));
    }
}

fn web(id: u64, name: &str) -> Claim {
    let name = Some(name.parse().unwrap());
    Claim { id, kind: ClaimKind::Web, name, port: 443, target: 8443, plain_target: 8080, exit: None }
}

fn stored(claim: Claim, since: u64) -> StoredClaim {
    StoredClaim { claim, since: UnixSeconds(since), port: 0, removed: false }
}

/// Node 1 belongs to u1, node 2 to u2, node 3 to u3; node 8 is an exit, node 9 another machine with its tag.
fn world() -> World {
    let mut world = World::new();
    for (id, user) in [(1, "u1"), (2, "u2"), (3, "u3")] {
        world.put(id, owned(user));
    }
    world.put(8, |n| {
        tagged("tag:exit")(n);
        n.publishing.exit = Some(ExitOffer { name: None, addrs: vec![[192, 0, 2, 8].into()], taken: vec![] });
    });
    world.put(9, tagged("tag:exit"));
    world.policy(POLICY);
    world
}

fn answer(world: &World, node: u64) -> Vec<Published> {
    read_claims(world.map(node).gateways.get(CLAIMS_SECTION).map(String::as_str))
}

fn exit(world: &World) -> GatewayConfig {
    GatewayConfig::from_json(&world.map(8).gateways[EXIT_SECTION]).expect("an exit takes its configuration")
}

#[test]
fn a_grant_opens_exactly_its_ports_to_exactly_the_exit_and_a_refusal_nothing() {
    let mut world = world();
    assert!(!world.view.are_peers(NodeId(1), NodeId(8)), "no rule joins them");
    let concern = world.put(1, |n| n.publishing.claims = vec![stored(web(7, "a.k.example"), 5)]);
    assert!(concern.includes(NodeId(1)) && concern.includes(NodeId(8)) && !concern.includes(NodeId(2)));
    assert!(world.view.are_peers(NodeId(1), NodeId(8)) && !world.view.are_peers(NodeId(1), NodeId(9)));
    let map = world.map(1);
    let rule = map.rules.values().next().expect("one rule");
    let addrs = node(8).addrs;
    assert_eq!(rule.srcs, addrs.iter().map(|ip| RuleSource::Prefix(Prefix::host(ip))).collect::<Vec<_>>());
    let port =
        |port| RuleTarget { to: TargetAddr::Myself, protocol: Some(6), first_port: port, last_port: port };
    assert_eq!((map.rules.len(), &rule.dsts), (1, &vec![port(8080), port(8443)]));
    assert!(world.map(8).rules.is_empty(), "nobody gets into an exit");
    let config = exit(&world);
    assert!(!config.holds_keys());
    let listens: Vec<_> = config.listeners.iter().map(|l| (l.port, l.protocol)).collect();
    assert_eq!(listens, [(80, ListenerProtocol::Http), (443, ListenerProtocol::Tls)]);
    assert!(config.backends.iter().all(|b| b.send_proxy));
    assert_eq!(answer(&world, 1)[0].places[0].addrs, ["192.0.2.8"]);

    // Who may not publish gets the line to add, and the exit nothing.
    world.put(3, |n| n.publishing.claims = vec![stored(web(1, "b.k.example"), 6)]);
    let refused = answer(&world, 3).remove(0);
    assert!(refused.places.is_empty() && refused.refused.contains("u3"), "{refused:?}");
    assert!(
        refused.hint.contains(
            r#"{"src": ["u3"], "names": ["b.k.example"], "ports": ["tcp:443"], "on": ["tag:exit"]}"#
        )
    );
    assert!(!world.view.are_peers(NodeId(3), NodeId(8)));
    assert_eq!(exit(&world), config);

    // The policy takes it back: all of it goes.
    world.policy("{}");
    assert!(!world.view.are_peers(NodeId(1), NodeId(8)) && world.map(1).rules.is_empty());
    assert!(exit(&world).listeners.is_empty());
    assert!(!answer(&world, 1)[0].refused.is_empty());
}

#[test]
fn who_came_first_keeps_name_and_port_until_he_ends_it() {
    let mut world = world();
    world.put(2, |n| n.publishing.claims = vec![stored(web(1, "a.k.example"), 10)]);
    world.put(1, |n| n.publishing.claims = vec![stored(web(2, "a.k.example"), 11)]);
    assert!(answer(&world, 1)[0].refused.contains("published by n2 already"), "{:?}", answer(&world, 1));
    assert_eq!(answer(&world, 2)[0].places.len(), 1);
    // An admin takes the first one off: the second has it, without asking again.
    let concern = world.put(2, |n| n.publishing.claims[0].removed = true);
    assert!(concern.includes(NodeId(1)));
    assert!(answer(&world, 2)[0].refused.contains("an admin"));
    assert_eq!(answer(&world, 1)[0].places.len(), 1);

    let any =
        |id| Claim { kind: ClaimKind::Tcp, name: None, port: 0, plain_target: 0, ..web(id, "x.k.example") };
    world.put(1, |n| n.publishing.claims = (0..4).map(|i| stored(any(i), i)).collect());
    let ports: BTreeSet<u32> = answer(&world, 1).iter().flat_map(|p| &p.places).map(|p| p.port).collect();
    assert_eq!(ports, [20_000, 20_001, 20_002].into(), "each its own, within the policy");
    assert!(answer(&world, 1)[3].refused.contains("in use"), "{:?}", answer(&world, 1)[3]);
    // A port that another program has on the exit is given to nobody.
    world.put(8, |n| {
        if let Some(exit) = &mut n.publishing.exit {
            exit.taken = vec![(Transport::Tcp, 20_001)];
        }
    });
    let exposing = Exposing::new(&world.model);
    assert!(exposing.grants.iter().all(|g| g.port != 20_001));
}

#[test]
fn the_same_claim_keeps_its_place_in_time_and_another_one_begins_anew() {
    let mut publishing = crate::model::Publishing::default();
    publishing.take(None, &[web(1, "a.k.example")], UnixSeconds(5));
    publishing.claims[0].removed = true;
    let moved = Claim { target: 9000, ..web(1, "a.k.example") };
    publishing.take(None, &[moved.clone(), moved.clone()], UnixSeconds(9));
    assert_eq!(publishing.claims.len(), 1, "an id is there once");
    let kept = &publishing.claims[0];
    assert_eq!((kept.since, kept.removed, kept.claim.target), (UnixSeconds(5), true, 9000));
    publishing.take(None, &[web(1, "b.k.example")], UnixSeconds(12));
    assert_eq!((publishing.claims[0].since, publishing.claims[0].removed), (UnixSeconds(12), false));
    publishing.take(None, &[], UnixSeconds(13));
    assert!(publishing.is_empty());
}
