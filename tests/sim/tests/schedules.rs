//! Random schedules: things go wrong in every order, and then the mesh must work again.

use meshd_sim::{Home, NatKind, NodeName, Place, Rules, World, WorldConfig};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// Once nothing more happens, every allowed pair must talk within this time.
const RECOVERY: Duration = Duration::from_secs(12);

fn place(world: &mut World, n: u8) -> Place {
    match world.random().below(4) {
        0 => Place::Public(n),
        1 => Place::Home(Home(1), n),
        _ => Place::Home(Home(n + 10), n),
    }
}

fn open_rules(port: u16) -> Rules {
    let mesh = "100.71.0.0/16".parse().expect("a prefix");
    Rules { allow: vec![(mesh, mesh, 7, port)] }
}

/// One schedule; panics with the seed when an invariant breaks.
fn schedule(seed: u64) {
    let mut chooser = meshd_sim::Random::new(seed);
    let config = WorldConfig {
        seed,
        loss: chooser.below(4) * 2,
        latency: Duration::from_millis(2 + chooser.below(80)),
        relay_latency: Duration::from_millis(chooser.below(60)),
        relay: true,
        backup: chooser.percent(30),
    };
    let mut world = World::new(config);
    world.set_rules(open_rules(9));
    let mut hard = Vec::new();
    for home in std::iter::once(1).chain(11..=15) {
        let kind = [NatKind::Home, NatKind::FullCone, NatKind::AddressRestricted, NatKind::Symmetric]
            [chooser.below(4) as usize];
        world.set_nat(Home(home), kind);
        if kind == NatKind::Symmetric {
            hard.push(Home(home));
        }
    }
    let count = 2 + world.random().below(3) as u8;
    let nodes: Vec<NodeName> = (1..=count)
        .map(|n| {
            let place = place(&mut world, n);
            world.add(place, &[])
        })
        .collect();
    world.publish();
    for _ in 0..30 {
        trouble(&mut world, &nodes);
        let pause = Duration::from_millis(20 + world.random().below(1500));
        world.run(pause);
    }
    calm(&mut world, &nodes);
    for a in &nodes {
        for b in nodes.iter().filter(|b| a < *b) {
            let took = world.ping_pong(*a, *b, RECOVERY);
            assert!(
                took.is_some(),
                "seed {seed}: nodes {a} and {b} do not talk {RECOVERY:?} after the last trouble\n{:?}\n{:?}",
                world.status(*a),
                world.status(*b)
            );
            // A pair that goes on talking becomes direct, unless both its NATs map by destination.
            let behind = |id| matches!(world.place(id), Place::Home(home, _) if hard.contains(&home));
            let same = world.place(*a).same_home(world.place(*b));
            if behind(*a) && behind(*b) && !same {
                continue;
            }
            for _ in 0..80 {
                if !world.is_direct(*a, *b) {
                    world.chat(*a, *b, SECOND * 10);
                }
            }
            assert!(
                world.is_direct(*a, *b),
                "seed {seed}: nodes {a} and {b} talk but do not become direct\n{:?}\n{:?}",
                world.status(*a),
                world.status(*b)
            );
        }
    }
}

fn trouble(world: &mut World, nodes: &[NodeName]) {
    let pick = |world: &mut World| nodes[world.random().below(nodes.len() as u64) as usize];
    let (a, b) = (pick(world), pick(world));
    let yes = world.random().percent(50);
    match world.random().below(12) {
        0 => world.block_direct(a, b, yes),
        1 => world.block_udp(a, yes),
        2 => world.relay(yes),
        3 => world.restart(a),
        4 => {
            let n = a.0 as u8;
            let to = place(world, n);
            world.move_to(a, to);
        }
        5 => {
            let port = 6 + world.random().below(4) as u16;
            world.set_rules(open_rules(port));
            world.publish();
        }
        6 => {
            world.restart_router(Home(1));
            world.restart_router(Home(a.0 as u8 + 10));
        }
        7 => world.run(SECOND * 40),
        8 => world.set_running(a, false),
        9 => world.set_running(a, true),
        _ => {
            for _ in 0..10 {
                if a != b {
                    world.send(a, b, (5000, 7));
                    world.send(b, a, (7, 5000));
                    world.send(b, a, (6000, 9));
                }
                world.run(SECOND / 5);
            }
        }
    }
}

fn calm(world: &mut World, nodes: &[NodeName]) {
    for a in nodes {
        world.block_udp(*a, false);
        for b in nodes {
            world.block_direct(*a, *b, false);
        }
    }
    for a in nodes {
        if !world.is_running(*a) {
            world.set_running(*a, true);
        }
    }
    world.relay(true);
    world.set_rules(open_rules(9));
    world.publish();
    world.run(SECOND);
}

#[test]
fn after_any_trouble_every_allowed_pair_talks_again_and_no_other_ever_did() {
    // One seed of a failure, or all of them.
    let one = std::env::var("MESHD_SIM_SEED").ok().and_then(|s| s.parse().ok());
    let seeds = one.map_or(1..=500, |seed: u64| seed..=seed);
    for seed in seeds {
        let failed = std::panic::catch_unwind(|| schedule(seed)).is_err();
        assert!(!failed, "the schedule with MESHD_SIM_SEED={seed} failed; the reason is above");
    }
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    let run = |seed| {
        let mut world = World::new(WorldConfig { seed, loss: 5, ..WorldConfig::default() });
        world.allow_all();
        let a = world.add(Place::Home(Home(1), 1), &[]);
        let b = world.add(Place::Home(Home(2), 2), &[]);
        world.publish();
        (world.chat(a, b, SECOND * 20), world.datagrams())
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}
