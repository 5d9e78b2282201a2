//! `make bench`: meshd as a whole product (real coordinator, two daemons, control connected, filter on)
//! beside other VPNs and a plain cable, in interleaved rounds on one machine.
//!
//! Every contestant has two network namespaces of its own, joined by one veth cable, and stays up from
//! the first round to the last. In each round each of them is measured once on each underlay: `whole`
//! (the cable passes super-packets whole, as between virtual machines) and `cut` (the sending card
//! cuts them, the receiving one joins them again, as on a wire). Medians and minima of rounds are compared
//! side by side, never figures of different runs.
//!
//! Invariants: a contestant that cannot be had is an error, never a gap in the table; nothing outside the
//! namespaces is changed; whatever runs ends with this program.

mod bound;
mod contestant;
mod figures;
mod iperf;
mod measure;
mod ping;
mod plot;
mod process;
mod report;
mod samples;
mod settings;
mod start;
mod table;
mod thousand;
mod underlay;
mod userspace;

use anyhow::{Context, Result};
use meshd_lab::{Lab, now};
use samples::Samples;
use settings::Settings;

fn main() -> Result<()> {
    let settings = Settings::from_environment()?;
    let began = now();
    let lab = Lab::new("bench")?;
    println!("machine: {}", report::machine());
    let bound = bound::crypto();
    println!(
        "ring ChaCha20-Poly1305, one core, {}-byte packets: seal {:.2} GB/s, open {:.2} GB/s",
        bound::PACKET,
        bound.seal_gb_s,
        bound.open_gb_s
    );
    let mut samples = Samples::default();
    let handshakes = bound::handshakes();
    println!("WireGuard handshakes, both ends on one core: {handshakes:.0} a second");
    samples.push(contestant::Kind::Meshd, None, bound::HANDSHAKES, handshakes);
    let mut running = Vec::new();
    for kind in &settings.contestants {
        let contestant = start::start(&lab, *kind, &settings, &mut samples)
            .with_context(|| format!("cannot start {}", kind.name()))?;
        println!("{}: {} is up, MTU {}", kind.name(), contestant.version, contestant.mtu);
        running.push(contestant);
    }
    if settings.wants("thousand") && settings.contestants.contains(&contestant::Kind::Meshd) {
        thousand::measure(settings.idle_seconds, &mut samples).context("with 1,000 peers")?;
    }
    if settings.wants("userspace") && settings.contestants.contains(&contestant::Kind::Meshd) {
        userspace::measure(settings.rounds, &mut samples).context("userspace mode")?;
    }
    if settings.wants("idle") {
        measure::idle(&running, settings.idle_seconds, &mut samples)?;
    }
    for round in 1..=settings.rounds {
        for underlay in &settings.underlays {
            for contestant in &running {
                underlay.set(contestant)?;
                measure::round(contestant, *underlay, &settings, &mut samples).with_context(|| {
                    format!("{}, round {round}, {}", contestant.kind.name(), underlay.name())
                })?;
                eprintln!(
                    "{:>5.0} s: round {round}/{}, {}, {}",
                    (now() - began).as_secs_f64(),
                    settings.rounds,
                    underlay.name(),
                    measure::summary(contestant.kind, *underlay, &samples)
                );
            }
        }
    }
    measure::memory(&running, "after load", &mut samples)?;
    drop(lab);
    let bounds = bound::of_run(&bound, &settings.underlays, &samples);
    let figures = figures::judge(&samples, &bounds, &settings);
    let text = table::render(&running, &settings.underlays, &samples, &bounds);
    println!("\n{text}");
    println!("{}", figures::render(&figures));
    report::write(&running, &settings, &samples, &bounds, &figures, &bound, began)
}
