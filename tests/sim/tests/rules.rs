//! What the policy, the map and the settings let through.

use meshd_engine::path::probe::Fitness;
use meshd_engine::{Event, Settings};
use meshd_proto::Prefix;
use meshd_sim::{Home, NodeName, Place, Rules, World, WorldConfig};
use std::net::Ipv4Addr;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const NAS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 50);

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn mesh(ports: (u16, u16)) -> Rules {
    Rules { allow: vec![(prefix("100.71.0.0/16"), prefix("100.71.0.0/16"), ports.0, ports.1)] }
}

/// A Pi with the LAN 192.168.1.0/24 behind it and a laptop in another home.
fn pi_and_laptop(rules: Rules) -> (World, NodeName, NodeName) {
    let mut world = World::new(WorldConfig::default());
    world.set_rules(rules);
    let pi = world.add(Place::Home(Home(1), 10), &["192.168.1.0/24"]);
    let laptop = world.add(Place::Home(Home(2), 10), &[]);
    world.publish();
    world.run(SECOND);
    (world, pi, laptop)
}

fn got(world: &World, id: NodeName, serial: u64) -> bool {
    world.delivered(id).iter().any(|d| d.packet.serial == serial)
}

#[test]
fn a_host_behind_the_pi_is_reached_and_answers() {
    let mut rules = mesh((0, 65535));
    rules.allow.push((prefix("100.71.0.0/16"), prefix("192.168.1.0/24"), 0, 65535));
    let (mut world, pi, laptop) = pi_and_laptop(rules);
    let me = world.addr(laptop);
    let ask = world.send_as(laptop, me, NAS, (5000, 80));
    world.run(SECOND);
    assert!(got(&world, pi, ask.serial), "{:?}", world.status(pi));
    // The Pi forwards without masquerade: the answer has the host's own address.
    let answer = world.send_as(pi, NAS, me, (80, 5000));
    world.run(SECOND);
    assert!(got(&world, laptop, answer.serial), "{:?}", world.status(laptop));
}

#[test]
fn a_laptop_that_does_not_accept_routes_sends_nothing_there() {
    let mut rules = mesh((0, 65535));
    rules.allow.push((prefix("100.71.0.0/16"), prefix("192.168.1.0/24"), 0, 65535));
    let (mut world, pi, laptop) = pi_and_laptop(rules);
    world.settings(laptop, Settings { accept_routes: false, ..Settings::default() });
    let me = world.addr(laptop);
    let ask = world.send_as(laptop, me, NAS, (5000, 80));
    world.run(SECOND);
    assert!(!got(&world, pi, ask.serial));
    let drops = world.status(laptop).drops;
    assert!(drops.contains(&("no_route", 1)), "{drops:?}");
}

#[test]
fn a_route_without_a_rule_carries_nothing() {
    let (mut world, pi, laptop) = pi_and_laptop(mesh((0, 65535)));
    let me = world.addr(laptop);
    let ask = world.send_as(laptop, me, NAS, (5000, 80));
    world.run(SECOND);
    assert!(!got(&world, pi, ask.serial));
    assert!(world.status(pi).drops.contains(&("denied", 1)), "{:?}", world.status(pi).drops);
}

#[test]
fn a_peer_cannot_send_as_somebody_else() {
    let (mut world, pi, laptop) = pi_and_laptop(mesh((0, 65535)));
    // The laptop's own engine refuses first; a dishonest one is tried in the engine's own tests.
    let stranger = Ipv4Addr::new(100, 71, 1, 77);
    let forged = world.send_as(laptop, stranger, world.addr(pi), (5000, 80));
    world.run(SECOND);
    assert!(!got(&world, pi, forged.serial));
}

#[test]
fn a_denied_port_is_dropped_at_the_receiver_and_its_neighbour_passes() {
    let (mut world, pi, laptop) = pi_and_laptop(mesh((7, 7)));
    let good = world.send(laptop, pi, (5000, 7));
    let bad = world.send(laptop, pi, (5000, 8));
    world.run(SECOND);
    assert!(got(&world, pi, good.serial) && !got(&world, pi, bad.serial));
}

#[test]
fn a_policy_change_cuts_live_flows_and_only_those() {
    let (mut world, pi, laptop) = pi_and_laptop(mesh((0, 65535)));
    let (to_7, to_9) = (world.send(laptop, pi, (5000, 7)), world.send(laptop, pi, (5000, 9)));
    world.run(SECOND);
    assert!(got(&world, pi, to_7.serial) && got(&world, pi, to_9.serial));
    world.set_rules(mesh((9, 9)));
    world.publish();
    world.run(SECOND * 3);
    let cut = world.events().iter().any(|(_, id, e)| *id == pi && *e == Event::FlowsCut { count: 1 });
    assert!(cut, "the Pi says that one flow was cut: {:?}", world.events());
    let (to_7, to_9) = (world.send(laptop, pi, (5000, 7)), world.send(laptop, pi, (5000, 9)));
    // The server's side of the cut flow must not open it again from inside.
    let back = world.send(pi, laptop, (7, 5000));
    world.run(SECOND);
    let again = world.send(laptop, pi, (5000, 7));
    world.run(SECOND);
    assert!(got(&world, pi, to_9.serial));
    assert!(
        !got(&world, pi, to_7.serial) && !got(&world, pi, again.serial) && !got(&world, laptop, back.serial)
    );
    // Allowed again, it lives again.
    world.set_rules(mesh((0, 65535)));
    world.publish();
    world.run(SECOND * 3);
    let to_7 = world.send(laptop, pi, (5000, 7));
    world.run(SECOND);
    assert!(got(&world, pi, to_7.serial));
}

#[test]
fn replies_pass_where_the_policy_allows_one_direction_only() {
    let rules = Rules { allow: vec![(prefix("100.71.1.2/32"), prefix("100.71.1.1/32"), 7, 7)] };
    let (mut world, pi, laptop) = pi_and_laptop(rules);
    let ask = world.send(laptop, pi, (5000, 7));
    world.run(SECOND);
    let answer = world.send(pi, laptop, (7, 5000));
    let own_idea = world.send(pi, laptop, (5000, 7));
    world.run(SECOND);
    assert!(got(&world, pi, ask.serial) && got(&world, laptop, answer.serial));
    assert!(!got(&world, laptop, own_idea.serial));
}

#[test]
fn a_peer_that_leaves_the_map_gets_nothing_and_gives_nothing() {
    let (mut world, pi, laptop) = pi_and_laptop(mesh((0, 65535)));
    world.chat(pi, laptop, SECOND * 2);
    world.remove(laptop);
    world.run(SECOND);
    let before = (world.delivered(pi).len(), world.delivered(laptop).len());
    world.chat(pi, laptop, SECOND * 5);
    assert_eq!(before, (world.delivered(pi).len(), world.delivered(laptop).len()));
    assert!(world.events().iter().any(|(_, id, e)| *id == pi && *e == Event::PeerDown(laptop)));
}

#[test]
fn an_expired_key_is_dropped_by_the_node_itself() {
    let (mut world, pi, laptop) = pi_and_laptop(mesh((0, 65535)));
    world.expire(laptop, SECOND * 20);
    world.publish();
    world.run(SECOND);
    assert!(world.ping_pong(pi, laptop, SECOND * 3).is_some());
    world.run(SECOND * 20);
    assert!(world.ping_pong(pi, laptop, SECOND * 3).is_none(), "the key has ended");
}

#[test]
fn an_exit_node_forwards_to_public_addresses_only_for_those_who_chose_it() {
    let mut world = World::new(WorldConfig::default());
    let exit_rule = (prefix("100.71.0.0/16"), Prefix::DEFAULT_V4, 0, 65535);
    world.set_rules(Rules { allow: vec![exit_rule] });
    let exit = world.add(Place::Public(1), &["0.0.0.0/0"]);
    let laptop = world.add(Place::Home(Home(2), 10), &[]);
    world.publish();
    world.run(SECOND);
    let (public, private) = (Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(10, 0, 0, 1));
    let me = world.addr(laptop);
    let early = world.send_as(laptop, me, public, (5000, 53));
    world.settings(laptop, Settings { exit_node: Some(exit), ..Settings::default() });
    let (good, bad) =
        (world.send_as(laptop, me, public, (5001, 53)), world.send_as(laptop, me, private, (5002, 53)));
    world.run(SECOND);
    assert!(got(&world, exit, good.serial), "{:?}", world.status(exit));
    assert!(!got(&world, exit, early.serial) && !got(&world, exit, bad.serial));
    let answer = world.send_as(exit, public, me, (53, 5001));
    world.run(SECOND);
    assert!(got(&world, laptop, answer.serial));
}

#[test]
fn a_prefix_with_two_owners_fails_over_for_new_flows() {
    let (mut world, first, second, laptop) = two_routers();
    let (me, host) = (world.addr(laptop), Ipv4Addr::new(10, 1, 2, 3));
    let one = world.send_as(laptop, me, host, (5000, 80));
    world.run(SECOND);
    assert!(got(&world, first, one.serial));
    world.set_running(first, false);
    for _ in 0..150 {
        world.send_as(laptop, me, host, (5000, 80));
        world.run(SECOND / 10);
    }
    let other = world.send_as(laptop, me, host, (5001, 80));
    world.run(SECOND);
    assert!(got(&world, second, other.serial), "{:?}", world.status(laptop));
}

/// A laptop that talks to a host behind two routers of one prefix.
fn two_routers() -> (World, NodeName, NodeName, NodeName) {
    let mut world = World::new(WorldConfig::default());
    let rule = (prefix("100.71.0.0/16"), prefix("10.1.0.0/16"), 0, 65535);
    world.set_rules(Rules { allow: vec![rule] });
    let first = world.add(Place::Public(1), &["10.1.0.0/16"]);
    let second = world.add(Place::Public(2), &["10.1.0.0/16"]);
    let laptop = world.add(Place::Home(Home(3), 10), &[]);
    world.publish();
    world.run(SECOND);
    (world, first, second, laptop)
}

/// Sends every 50 ms from port `port` and returns which packets each router got, by number.
fn stream(
    world: &mut World,
    laptop: NodeName,
    port: u16,
    time: Duration,
    routers: [NodeName; 2],
) -> Vec<[bool; 2]> {
    let (me, host) = (world.addr(laptop), Ipv4Addr::new(10, 1, 2, 3));
    let end = world.now() + time;
    let mut sent = Vec::new();
    while world.now() < end {
        sent.push(world.send_as(laptop, me, host, (port, 80)).serial);
        world.run(SECOND / 20);
    }
    world.run(SECOND / 2);
    sent.into_iter().map(|serial| routers.map(|r| got(world, r, serial))).collect()
}

#[test]
fn a_flow_moves_within_a_second_when_its_router_dies() {
    let (mut world, first, second, laptop) = two_routers();
    let before = stream(&mut world, laptop, 5000, SECOND * 3, [first, second]);
    assert!(before.iter().all(|got| got[0] && !got[1]), "{before:?}");
    world.set_running(first, false);
    let after = stream(&mut world, laptop, 5000, SECOND * 5, [first, second]);
    let lost = after.iter().take_while(|got| !got[1]).count();
    assert!(lost <= 20, "{lost} packets of 50 ms were lost: {:?}", world.status(laptop));
    assert!(after[lost..].iter().all(|got| got[1]), "and none after that: {after:?}");
}

#[test]
fn a_router_without_its_lan_says_so_and_loses_its_flows_at_once() {
    let (mut world, first, second, laptop) = two_routers();
    stream(&mut world, laptop, 5000, SECOND * 3, [first, second]);
    world.input(first, meshd_engine::Input::Fitness(Fitness::LanDown));
    let after = stream(&mut world, laptop, 5000, SECOND * 3, [first, second]);
    let lost = after.iter().take_while(|got| !got[1]).count();
    assert!(lost <= 5, "{lost} packets of 50 ms went to a router without a LAN");
    world.input(first, meshd_engine::Input::Fitness(Fitness::Fit));
    world.run(SECOND * 2);
    let stay = stream(&mut world, laptop, 5000, SECOND, [first, second]);
    assert!(stay.iter().all(|got| got[1]), "a flow stays where it is: {stay:?}");
}

#[test]
fn a_drained_router_keeps_its_flows_and_gets_no_new_ones() {
    let (mut world, first, second, laptop) = two_routers();
    stream(&mut world, laptop, 5000, SECOND * 3, [first, second]);
    world.input(first, meshd_engine::Input::Fitness(Fitness::Draining));
    world.run(SECOND / 2);
    let old = stream(&mut world, laptop, 5000, SECOND, [first, second]);
    assert!(old.iter().all(|got| got[0]), "{old:?}");
    let new = stream(&mut world, laptop, 5001, SECOND, [first, second]);
    assert!(new.iter().all(|got| got[1] && !got[0]), "{new:?}");
}

#[test]
fn routers_of_a_shared_prefix_are_not_probed_while_nobody_uses_it() {
    let (mut world, first, second, laptop) = two_routers();
    stream(&mut world, laptop, 5000, SECOND * 3, [first, second]);
    world.run(SECOND * 600);
    let before = world.datagrams();
    world.run(SECOND * 600);
    assert_eq!(world.datagrams(), before);
}

#[test]
fn a_standby_that_dies_while_nothing_goes_to_it_gets_no_new_flow() {
    let (mut world, first, second, laptop) = two_routers();
    // The flow is with the second router, since the first one wanted nothing new for a while.
    stream(&mut world, laptop, 5000, SECOND, [first, second]);
    world.input(first, meshd_engine::Input::Fitness(Fitness::Draining));
    world.run(SECOND);
    stream(&mut world, laptop, 5001, SECOND * 3, [first, second]);
    world.input(first, meshd_engine::Input::Fitness(Fitness::Fit));
    let kept = stream(&mut world, laptop, 5001, SECOND * 6, [first, second]);
    assert!(kept.iter().all(|got| got[1] && !got[0]), "{kept:?}");
    world.set_running(first, false);
    let kept = stream(&mut world, laptop, 5001, SECOND * 4, [first, second]);
    assert!(kept.iter().all(|got| got[1]), "{kept:?}");
    let new = stream(&mut world, laptop, 5002, SECOND * 3, [first, second]);
    assert!(new.iter().all(|got| got[1]), "a dead router got a new flow: {new:?}");
}
