//! Random schedules of troubles on marker sessions (`make sim` runs more of them; the real ones: `real_sessions`).

use meshd_sim::schedule::{run_all, schedule};
use meshd_sim::{Home, Place, World, WorldConfig};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// Of `cargo test`; each takes about 25 ms of one core.
const SCHEDULES: u64 = 500;

/// A number that the caller may have set.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn after_any_trouble_every_allowed_pair_talks_again_and_no_other_ever_did() {
    // One seed of a failure, or all of them.
    if let Some(seed) = number("MESHD_SIM_SEED") {
        schedule(seed);
        return;
    }
    let failed = run_all(1..=number("MESHD_SIM_SCHEDULES").unwrap_or(SCHEDULES), schedule);
    assert!(
        failed.is_none(),
        "a schedule failed, the reason is above: MESHD_SIM_SEED={} cargo test -p meshd-sim --test schedules",
        failed.unwrap_or_default()
    );
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
