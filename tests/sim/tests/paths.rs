//! Paths between two nodes: direct where the network lets them, over the relay where not.

use meshd_engine::status::PathStatus;
use meshd_sim::{Home, NatKind, NodeName, Place, World, WorldConfig};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Two nodes behind different home routers, everything allowed, maps delivered.
fn two_homes(config: WorldConfig) -> (World, NodeName, NodeName) {
    homes_behind(config, [NatKind::Home; 2])
}

/// The same with routers of these kinds.
fn homes_behind(config: WorldConfig, kinds: [NatKind; 2]) -> (World, NodeName, NodeName) {
    let mut world = World::new(config);
    world.allow_all();
    world.set_nat(Home(1), kinds[0]);
    world.set_nat(Home(2), kinds[1]);
    let a = world.add(Place::Home(Home(1), 10), &[]);
    let b = world.add(Place::Home(Home(2), 10), &[]);
    world.publish();
    world.run(SECOND);
    (world, a, b)
}

#[test]
fn two_nodes_behind_home_routers_become_direct() {
    let (mut world, a, b) = two_homes(WorldConfig::default());
    let took = world.ping_pong(a, b, SECOND * 5).expect("an answer");
    assert!(took <= Duration::from_millis(600), "the first answer took {took:?}");
    world.chat(a, b, SECOND * 3);
    assert!(world.is_direct(a, b), "{:?} {:?}", world.status(a), world.status(b));
    let (sent, got) = world.chat(a, b, SECOND * 20);
    assert_eq!(sent, got, "no packet is lost on the way to, or on, the direct path");
}

#[test]
fn nothing_goes_over_the_relay_once_the_path_is_direct() {
    let (mut world, a, b) = two_homes(WorldConfig::default());
    world.chat(a, b, SECOND * 5);
    let (_, before) = world.datagrams();
    world.chat(a, b, SECOND * 20);
    let (_, after) = world.datagrams();
    assert!(after - before <= 4, "{} datagrams over the relay", after - before);
}

#[test]
fn two_nodes_in_one_home_use_the_lan() {
    let mut world = World::new(WorldConfig::default());
    world.allow_all();
    let a = world.add(Place::Home(Home(1), 10), &[]);
    let b = world.add(Place::Home(Home(1), 11), &[]);
    world.publish();
    world.run(SECOND);
    world.chat(a, b, SECOND * 3);
    let PathStatus::Direct { endpoint, .. } = world.path(a, b) else { panic!("{:?}", world.path(a, b)) };
    assert_eq!(endpoint.to_string(), "192.168.1.11:41820");
    assert!(world.is_direct(a, b));
}

#[test]
fn blocked_udp_leaves_the_relay() {
    let (mut world, a, b) = two_homes(WorldConfig::default());
    world.block_direct(a, b, true);
    assert!(world.ping_pong(a, b, SECOND * 5).is_some());
    let (sent, got) = world.chat(a, b, SECOND * 10);
    assert_eq!(sent, got);
    assert!(matches!(world.path(a, b), PathStatus::Relay(_)), "{:?}", world.path(a, b));
    assert!(matches!(world.path(b, a), PathStatus::Relay(_)));
}

#[test]
fn a_direct_path_that_dies_falls_back_to_the_relay_and_comes_back() {
    let (mut world, a, b) = two_homes(WorldConfig::default());
    world.chat(a, b, SECOND * 5);
    assert!(world.is_direct(a, b));
    world.block_direct(a, b, true);
    let (sent, got) = world.chat(a, b, SECOND * 6);
    // Doubtful after about 300 ms: what was sent before that is lost, nothing after it.
    assert!(got + 12 >= sent, "{got} of {sent} arrived while the path died");
    assert!(matches!(world.path(a, b), PathStatus::Relay(_)), "{:?}", world.path(a, b));
    world.block_direct(a, b, false);
    let (sent, got) = world.chat(a, b, SECOND * 90);
    assert_eq!(sent, got, "going back loses nothing");
    assert!(world.is_direct(a, b), "{:?}", world.status(a));
}

#[test]
fn without_a_relay_two_public_nodes_are_direct() {
    let mut world = World::new(WorldConfig { relay: false, ..WorldConfig::default() });
    world.allow_all();
    let a = world.add(Place::Public(1), &[]);
    let b = world.add(Place::Home(Home(2), 10), &[]);
    world.publish();
    world.run(SECOND);
    assert!(world.ping_pong(b, a, SECOND * 5).is_some(), "{:?}", world.status(b));
    world.chat(a, b, SECOND * 3);
    assert!(world.is_direct(a, b), "{:?} {:?}", world.status(a), world.status(b));
}

#[test]
fn a_moved_node_stays_reachable_without_a_new_session() {
    let (mut world, a, b) = two_homes(WorldConfig::default());
    world.chat(a, b, SECOND * 5);
    world.move_to(b, Place::Home(Home(3), 10));
    let (sent, got) = world.chat(a, b, SECOND * 10);
    assert!(got + 12 >= sent, "{got} of {sent}");
    assert!(world.is_direct(a, b), "{:?} {:?}", world.status(a), world.status(b));
    let ups = world.events().iter().filter(|(_, _, e)| matches!(e, meshd_engine::Event::PeerUp(_))).count();
    assert_eq!(ups, 2, "the sessions of the beginning");
}

#[test]
fn a_restarted_node_is_reached_again_within_a_second() {
    let (mut world, a, b) = two_homes(WorldConfig::default());
    world.chat(a, b, SECOND * 5);
    world.restart(b);
    let took = world.ping_pong(a, b, SECOND * 5).expect("an answer");
    assert!(took <= SECOND + Duration::from_millis(500), "{took:?}");
}

#[test]
fn a_router_that_forgets_is_survived() {
    let (mut world, a, b) = two_homes(WorldConfig::default());
    world.chat(a, b, SECOND * 5);
    world.restart_router(Home(1));
    let (sent, got) = world.chat(a, b, SECOND * 20);
    assert!(got + 12 >= sent, "{got} of {sent}");
    assert!(world.is_direct(a, b), "{:?} {:?}", world.status(a), world.status(b));
}

#[test]
fn an_idle_pair_is_silent() {
    let (mut world, a, b) = two_homes(WorldConfig::default());
    world.chat(a, b, SECOND * 5);
    world.run(SECOND * 600);
    let before = world.datagrams();
    world.run(SECOND * 600);
    assert_eq!(world.datagrams(), before, "an idle pair sends nothing at all");
    assert!(world.ping_pong(a, b, SECOND * 3).is_some());
    world.chat(a, b, SECOND * 5);
    assert!(world.is_direct(a, b));
}

#[test]
fn a_session_without_any_way_looks_for_one_when_there_is_something_to_send() {
    let mut world = World::new(WorldConfig::default());
    world.allow_all();
    // Two homes cannot meet without a relay: nobody tells the other side to try. A public node is met.
    let a = world.add(Place::Home(Home(1), 10), &[]);
    let b = world.add(Place::Public(2), &[]);
    world.publish();
    world.run(SECOND);
    world.block_direct(a, b, true);
    world.chat(a, b, SECOND * 20);
    assert!(matches!(world.path(a, b), PathStatus::Relay(_)), "{:?}", world.path(a, b));
    world.relay(false);
    world.run(SECOND * 30);
    world.block_direct(a, b, false);
    assert!(world.ping_pong(a, b, SECOND * 10).is_some(), "{:?}\n{:?}", world.status(a), world.status(b));
    world.chat(a, b, SECOND * 5);
    assert!(world.is_direct(a, b), "without the relay: {:?}\n{:?}", world.status(a), world.status(b));
}

#[test]
fn both_sides_may_begin_at_the_same_moment() {
    for seed in 1..=20 {
        let (mut world, a, b) = two_homes(WorldConfig { seed, ..WorldConfig::default() });
        let (one, other) = (world.send(a, b, (1, 2)), world.send(b, a, (3, 4)));
        world.run(SECOND * 2);
        for (id, packet) in [(b, one), (a, other)] {
            let got = world.delivered(id).iter().any(|d| d.packet == packet);
            assert!(got, "seed {seed}: the first packet waits for the session and arrives");
        }
    }
}

#[test]
fn one_way_traffic_stays_direct_and_off_the_relay() {
    let (mut world, a, b) = two_homes(WorldConfig::default());
    world.chat(a, b, SECOND * 3);
    let (_, before) = world.datagrams();
    for _ in 0..300 {
        world.send(a, b, (5000, 7));
        world.run(SECOND / 10);
    }
    assert!(world.is_direct(a, b));
    let (_, after) = world.datagrams();
    assert!(after - before <= 4, "{} datagrams over the relay", after - before);
}

#[test]
fn a_packet_sent_before_the_relay_is_attached_goes_out_the_moment_it_is() {
    let mut world = World::new(WorldConfig::default());
    world.allow_all();
    let a = world.add(Place::Home(Home(1), 10), &[]);
    let b = world.add(Place::Home(Home(2), 10), &[]);
    world.block_direct(a, b, true);
    world.publish();
    world.run(Duration::from_millis(40));
    let first = world.send(a, b, (1, 2));
    world.run(Duration::from_millis(260));
    assert!(world.delivered(b).iter().any(|d| d.packet == first), "{:?}", world.status(a));
}

#[test]
fn one_side_s_link_event_makes_both_try_again_at_once() {
    let (mut world, a, b) = two_homes(WorldConfig::default());
    world.block_direct(a, b, true);
    world.chat(a, b, SECOND * 20);
    assert!(matches!(world.path(a, b), PathStatus::Relay(_)));
    world.block_direct(a, b, false);
    world.chat(a, b, SECOND * 2);
    assert!(!world.is_direct(a, b), "silent candidates are left alone");
    world.input(a, meshd_engine::Input::LinkChanged);
    world.chat(a, b, SECOND * 3);
    assert!(world.is_direct(a, b), "{:?}\n{:?}", world.status(a), world.status(b));
}

#[test]
fn an_answer_that_cannot_go_straight_goes_over_the_relay() {
    let mut world = World::new(WorldConfig::default());
    world.allow_all();
    let a = world.add(Place::Public(1), &[]);
    let b = world.add(Place::Public(2), &[]);
    world.publish();
    world.run(SECOND);
    world.block_one_way(b, a, true);
    // Hints come first, so that the initiation arrives straight before its copy comes over the relay.
    world.input(a, meshd_engine::Input::Connect(b));
    world.run(SECOND * 200);
    let took = world.ping_pong(a, b, SECOND * 3).expect("an answer");
    assert!(took < Duration::from_millis(350), "{took:?}: without waiting for a second initiation");
    assert!(matches!(world.path(a, b), PathStatus::Relay(_)));
}

/// How long two homes with these routers need to become direct, of at most `limit`.
fn meet(seed: u64, left: NatKind, right: NatKind, limit: Duration) -> Option<Duration> {
    let mut world = World::new(WorldConfig { seed, ..WorldConfig::default() });
    world.allow_all();
    world.set_nat(Home(1), left);
    world.set_nat(Home(2), right);
    let a = world.add(Place::Home(Home(1), 10), &[]);
    let b = world.add(Place::Home(Home(2), 10), &[]);
    world.publish();
    world.run(SECOND);
    let begin = world.now();
    assert!(world.ping_pong(a, b, SECOND * 2).is_some(), "seed {seed}: the relay carries the first packets");
    while world.now() - begin < limit {
        let (sent, got) = world.chat(a, b, SECOND / 5);
        assert_eq!(sent, got, "seed {seed}: nothing is lost on the way to the direct path");
        if world.is_direct(a, b) {
            return Some(world.now() - begin);
        }
    }
    None
}

#[test]
fn a_symmetric_nat_and_an_open_one_meet_within_seconds_whoever_is_where() {
    for (left, right) in [
        (NatKind::Symmetric, NatKind::FullCone),
        (NatKind::AddressRestricted, NatKind::Symmetric),
        (NatKind::FullCone, NatKind::Home),
    ] {
        let took = meet(3, left, right, SECOND * 5);
        assert!(took.is_some(), "{left:?} and {right:?} do not meet");
    }
}

#[test]
fn a_symmetric_nat_and_one_that_filters_by_port_meet_by_the_birthday_paradox() {
    let mut took = Vec::new();
    for seed in 1..=40 {
        let (left, right) =
            [(NatKind::Symmetric, NatKind::Home), (NatKind::Home, NatKind::Symmetric)][seed as usize % 2];
        took.push(meet(seed, left, right, SECOND * 10).unwrap_or_else(|| panic!("seed {seed}: never")));
    }
    took.sort_unstable();
    assert!(took[20] < SECOND * 5, "the median of {took:?}");
}

#[test]
fn two_symmetric_nats_stay_on_the_relay_and_do_not_try_forever() {
    assert_eq!(meet(1, NatKind::Symmetric, NatKind::Symmetric, SECOND * 10), None);
    let mut world = World::new(WorldConfig::default());
    world.allow_all();
    world.set_nat(Home(1), NatKind::Symmetric);
    world.set_nat(Home(2), NatKind::Symmetric);
    let a = world.add(Place::Home(Home(1), 10), &[]);
    let b = world.add(Place::Home(Home(2), 10), &[]);
    world.publish();
    world.chat(a, b, SECOND * 20);
    let (before, _) = world.datagrams();
    world.chat(a, b, SECOND * 60);
    let (after, _) = world.datagrams();
    assert!(after - before < 300, "{} datagrams towards nothing in a minute", after - before);
}

#[test]
fn a_birthday_that_cannot_succeed_stays_within_its_budget() {
    let mut world = World::new(WorldConfig::default());
    world.allow_all();
    world.set_nat(Home(1), NatKind::Symmetric);
    let a = world.add(Place::Home(Home(1), 10), &[]);
    let b = world.add(Place::Home(Home(2), 10), &[]);
    world.block_direct(a, b, true);
    world.publish();
    world.run(SECOND);
    world.chat(a, b, SECOND * 300);
    let (sent, _) = world.datagrams();
    assert!(sent < 3 * (256 + 1024) + 1200, "{sent} datagrams in five minutes");
}

#[test]
fn a_relay_that_falls_silent_costs_a_second_where_there_is_a_second_one() {
    let mut world = World::new(WorldConfig { backup: true, ..WorldConfig::default() });
    world.allow_all();
    let a = world.add(Place::Home(Home(1), 10), &[]);
    let b = world.add(Place::Home(Home(2), 10), &[]);
    world.block_direct(a, b, true);
    world.publish();
    world.run(SECOND * 2);
    world.chat(a, b, SECOND * 5);
    world.silence_relay();
    world.run(Duration::from_millis(1200));
    let (sent, got) = world.chat(a, b, SECOND * 20);
    assert!(got + 4 >= sent, "{got} of {sent} over the backup: {:?}", world.status(a));
}

#[test]
fn a_node_that_moves_away_from_its_symmetric_nat_becomes_direct_by_its_first_socket() {
    let (mut world, a, b) = homes_behind(WorldConfig::default(), [NatKind::Symmetric, NatKind::Home]);
    world.chat(a, b, SECOND * 15);
    assert!(world.is_direct(a, b), "{:?}", world.status(a));
    world.move_to(a, Place::Home(Home(3), 10));
    world.chat(a, b, SECOND * 15);
    assert!(world.is_direct(a, b), "{:?} {:?}", world.status(a), world.status(b));
}

#[test]
fn a_pair_that_was_idle_crosses_its_symmetric_nat_again_before_the_old_path_counts_as_dead() {
    let (mut world, a, b) = homes_behind(WorldConfig::default(), [NatKind::Symmetric, NatKind::Home]);
    world.chat(a, b, SECOND * 15);
    assert!(world.is_direct(a, b), "{:?}", world.status(a));
    world.run(SECOND * 400);
    let begin = world.events().len();
    let (sent, got) = world.chat(a, b, SECOND * 3);
    assert_eq!(sent, got, "over the relay meanwhile");
    assert!(world.is_direct(a, b), "{:?} {:?}", world.status(a), world.status(b));
    let dead = |e: &meshd_engine::Event| {
        matches!(e, meshd_engine::Event::PathChanged { why: meshd_engine::PathReason::Dead, .. })
    };
    assert!(!world.events()[begin..].iter().any(|(_, _, e)| dead(e)));
}
