//! Random schedules: things go wrong in every order, and then the mesh must work again.
//!
//! A schedule is a function of its seed. After its last trouble three things must hold, beside those
//! that always do: every allowed pair talks within [`RECOVERY`]; a pair that goes on talking becomes direct where
//! its NATs let it; and then it stays where it is (`MOST_SWITCHES`).

use crate::{Home, NatKind, NodeName, Place, Random, Rules, Sessions, World, WorldConfig};
use meshd_engine::Event;
use meshd_engine::session::marker::Marker;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// Once nothing more happens, every allowed pair must talk within this time.
pub const RECOVERY: Duration = Duration::from_secs(12);
/// So many seeds that fail are enough to look at.
pub const MOST_FAILURES: usize = 8;
/// Troubles in one schedule.
const TROUBLES: usize = 24;
/// How long a calm mesh is watched for changes of path.
const CALM: Duration = Duration::from_secs(10);
/// How often one node may change its way to one peer in that time, one peer that it does not lose.
const MOST_SWITCHES: usize = 1;

/// The schedule of one seed on marker sessions; panics with the seed when something does not hold.
pub fn schedule(seed: u64) {
    schedule_on::<Marker>(seed);
}

/// Runs the schedules of all seeds, on as many threads as there are cores. Returns the seeds that failed; after
/// [`MOST_FAILURES`] of them no more are begun.
pub fn run_all(seeds: impl Iterator<Item = u64> + Send, run: fn(u64)) -> Vec<u64> {
    let (seeds, failed) = (Mutex::new(seeds), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = || {
        let enough = failed.lock().unwrap_or_else(PoisonError::into_inner).len() >= MOST_FAILURES;
        seeds.lock().unwrap_or_else(PoisonError::into_inner).next().filter(|_| !enough)
    };
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    if std::panic::catch_unwind(|| run(seed)).is_err() {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_unstable();
    failed
}

/// The schedule of one seed on sessions of any make.
pub fn schedule_on<F: Sessions>(seed: u64) {
    let mut chooser = Random::new(seed);
    let config = WorldConfig {
        seed,
        loss: chooser.below(4) * 2,
        latency: Duration::from_millis(2 + chooser.below(80)),
        relay_latency: Duration::from_millis(chooser.below(60)),
        relay: true,
        backup: chooser.percent(30),
    };
    let mut world = World::<F>::with_sessions(config);
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
    for _ in 0..TROUBLES {
        trouble(&mut world, &nodes);
        let pause = Duration::from_millis(20 + world.random().below(1500));
        world.run(pause);
    }
    calm(&mut world, &nodes);
    for a in &nodes {
        for b in nodes.iter().filter(|b| a < *b) {
            talks(&mut world, *a, *b, &hard);
        }
    }
    stays(&mut world, &nodes);
}

/// The pair talks, and becomes direct where it can.
fn talks<F: Sessions>(world: &mut World<F>, a: NodeName, b: NodeName, hard: &[Home]) {
    let seed = world.seed();
    let took = world.ping_pong(a, b, RECOVERY);
    assert!(
        took.is_some(),
        "seed {seed}: nodes {a} and {b} do not talk {RECOVERY:?} after the last trouble\n{:?}\n{:?}",
        world.status(a),
        world.status(b)
    );
    // A pair that goes on talking becomes direct, unless both its NATs map by destination.
    let behind = |id| matches!(world.place(id), Place::Home(home, _) if hard.contains(&home));
    if behind(a) && behind(b) && !world.place(a).same_home(world.place(b)) {
        return;
    }
    for _ in 0..80 {
        if world.is_direct(a, b) {
            return;
        }
        world.chat(a, b, SECOND * 10);
    }
    assert!(
        world.is_direct(a, b),
        "seed {seed}: nodes {a} and {b} talk but do not become direct\n{:?}\n{:?}",
        world.status(a),
        world.status(b)
    );
}

/// Nothing more happens: nobody changes its mind again and again.
fn stays<F: Sessions>(world: &mut World<F>, nodes: &[NodeName]) {
    let pairs: Vec<_> =
        nodes.iter().flat_map(|a| nodes.iter().filter(move |b| a < *b).map(move |b| (*a, *b))).collect();
    // The other pairs were idle while one became direct: each comes to its way first.
    for time in [SECOND * 3, CALM] {
        let before = world.events().len();
        let end = world.now() + time;
        while world.now() < end {
            for (a, b) in &pairs {
                world.send(*a, *b, (5000, 7));
                world.send(*b, *a, (7, 5000));
            }
            world.run(SECOND / 4);
        }
        for (a, b) in pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).filter(|_| time == CALM) {
            let changes: Vec<_> = world.events()[before..]
                .iter()
                .filter(|(_, id, e)| {
                    *id == a
                        && matches!(e, Event::PathChanged { peer, from, to, .. } if *peer == b && from != to)
                })
                .collect();
            assert!(
                changes.len() <= MOST_SWITCHES,
                "seed {}: node {a} flaps, although nothing happens: {changes:?}",
                world.seed()
            );
        }
    }
}

fn place<F: Sessions>(world: &mut World<F>, n: u8) -> Place {
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

fn trouble<F: Sessions>(world: &mut World<F>, nodes: &[NodeName]) {
    let pick = |world: &mut World<F>| nodes[world.random().below(nodes.len() as u64) as usize];
    let (a, b) = (pick(world), pick(world));
    let yes = world.random().percent(50);
    match world.random().below(15) {
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
        10 => world.set_coordinator(yes),
        11 if yes => world.remove(a),
        11 => world.take_back(a),
        12 => world.block_one_way(a, b, yes),
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

fn calm<F: Sessions>(world: &mut World<F>, nodes: &[NodeName]) {
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
    world.set_coordinator(true);
    world.set_rules(open_rules(9));
    for a in nodes {
        world.take_back(*a);
    }
    world.publish();
    world.run(SECOND);
}
