//! The same random schedules on WireGuard sessions, in virtual time.

mod clock;

use clock::set_virtual_clock;
use meshd_engine::session::wireguard::{WireGuard, WireGuardSession};
use meshd_engine::session::{Initiation, Sender, SessionFactory, SessionIndex};
use meshd_proto::{NodeKey, NodeSecret};
use meshd_sim::schedule::{run_all, schedule_on};
use meshd_sim::{Home, Place, Sessions, World, WorldConfig};
use std::time::{Duration, Instant};

/// Seeds that once failed. 267: a pair whose direct path had died while it was idle waited 3 s for it, before it
/// tried to cross its symmetric NAT again.
const FOUND: [u64; 1] = [267];

/// WireGuard, whose clocks are the simulation's.
struct Real(WireGuard);

impl SessionFactory for Real {
    type Session = WireGuardSession;

    fn create(
        &mut self,
        peer: &NodeKey,
        index: SessionIndex,
        preshared: Option<&[u8; 32]>,
        now: Instant,
    ) -> WireGuardSession {
        self.0.create(peer, index, preshared, now)
    }

    fn identify(&mut self, initiation: &[u8], from: Sender, now: Instant) -> Initiation {
        self.0.identify(initiation, from, now)
    }
}

impl Sessions for Real {
    fn of_node(secret: &NodeSecret, _zero: Instant) -> Self {
        Self(WireGuard::new(secret))
    }

    fn set_clock(since_zero: Duration) {
        set_virtual_clock(since_zero);
    }
}

#[test]
fn after_any_trouble_every_allowed_pair_talks_again_on_real_sessions_too() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("MESHD_SIM_SEED") {
        schedule_on::<Real>(seed);
        return;
    }
    let all = FOUND.into_iter().chain(1..=number("MESHD_SIM_REAL_SCHEDULES").unwrap_or(200));
    let failed = run_all(all, schedule_on::<Real>);
    let Some(first) = failed.first() else { return };
    panic!(
        "schedules {failed:?} failed, the reasons are above: MESHD_SIM_SEED={first} cargo test -p meshd-sim --test real_sessions"
    );
}

#[test]
fn virtual_minutes_pass_for_real_sessions_keys_are_renewed() {
    let mut world = World::<Real>::with_sessions(WorldConfig::default());
    world.allow_all();
    let a = world.add(Place::Home(Home(1), 1), &[]);
    let b = world.add(Place::Home(Home(2), 2), &[]);
    world.publish();
    let mut oldest = Duration::ZERO;
    for _ in 0..40 {
        let (sent, got) = world.chat(a, b, Duration::from_secs(10));
        assert!(got + 2 >= sent, "{got} of {sent}: {:?}", world.status(a));
        let age = world.status(a).peers[0].last_handshake.expect("a session");
        oldest = oldest.max(age);
        assert!(age < Duration::from_secs(135), "the key pair is {age:?} old");
    }
    // WireGuard renews after 120 s: both clocks are the simulation's, or nothing of this would be so.
    assert!(oldest > Duration::from_secs(100), "{oldest:?}");
}
