//! The measurements of one contestant on one cable, and of all daemons while nothing happens.

use crate::contestant::{Contestant, Kind};
use crate::iperf::{self, Direction};
use crate::samples::Samples;
use crate::settings::Settings;
use crate::underlay::Underlay;
use crate::{ping, process};
use anyhow::Result;
use meshd_lab::now;
use std::time::Duration;

/// CPU seconds of both iperf3 processes for a GB over the plain cable.
pub(crate) const IPERF_COST: &str = "iperf3 CPU-s/GB, both ends";
/// CPU seconds of a daemon for a GB of payload, mean of both sides.
pub(crate) const COST: &str = "TCP CPU-s/GB per side";
/// The best of the ladder at 64 bytes.
pub(crate) const UDP_SMALL: &str = "UDP 64 B kpps delivered";
/// The best of the ladder at 1280 bytes.
pub(crate) const UDP_LARGE: &str = "UDP 1280 B Gb/s delivered";
/// Round trip while four streams run.
pub(crate) const PING_LOADED: &str = "ping under load ms";
/// Round trip while nothing else runs.
pub(crate) const PING_IDLE: &str = "ping idle ms";
/// TCP retransmissions of one stream.
pub(crate) const RETRANSMITS: &str = "TCP 1 → retransmissions";
/// CPU share of an idle daemon.
pub(crate) const IDLE_CPU: &str = "idle CPU ms per minute";
/// Wake-ups of an idle daemon.
pub(crate) const IDLE_WAKEUPS: &str = "idle wake-ups per minute";

/// The loss that a rate of the ladder may have and still count as carried.
const CARRIED: f64 = 0.01;
/// Steps of the UDP ladder: payload bytes, datagrams per second; 0 is a flood.
const LADDER: [(u32, &[u64]); 2] = [(64, &[20_000, 80_000, 0]), (1280, &[25_000, 100_000, 0])];

/// The name of a TCP throughput.
pub(crate) fn tcp_metric(streams: u32, direction: Direction) -> String {
    format!("TCP {streams} {} Gb/s", direction.arrow())
}

/// The name of a memory figure, in MiB.
pub(crate) fn memory_metric(what: &str, when: &str) -> String {
    format!("{what} MiB {when}")
}

/// Everything that is measured of one contestant on one cable in one round.
pub(crate) fn round(
    c: &Contestant,
    underlay: Underlay,
    settings: &Settings,
    samples: &mut Samples,
) -> Result<()> {
    let on = Some(underlay);
    if settings.wants("ping") {
        let rtt = ping::ping(c, 60, 10)?;
        samples.push(c.kind, on, PING_IDLE, rtt.median);
    }
    if settings.wants("tcp") {
        // A first transfer fills caches and wakes the path up.
        iperf::tcp(c, 1, Direction::Forth, 1)?;
        for &streams in &settings.streams {
            for direction in [Direction::Forth, Direction::Back] {
                tcp(c, underlay, streams, direction, settings, samples)?;
            }
        }
    }
    if settings.wants("udp") {
        for (size, steps) in LADDER {
            ladder(c, underlay, size, steps, settings, samples)?;
        }
    }
    Ok(())
}

fn tcp(
    c: &Contestant,
    underlay: Underlay,
    streams: u32,
    direction: Direction,
    settings: &Settings,
    samples: &mut Samples,
) -> Result<()> {
    let on = Some(underlay);
    let with_ping = streams == 4 && direction == Direction::Forth && settings.wants("ping");
    let before = cpu(c)?;
    let (moved, rtt) = std::thread::scope(|scope| {
        let pings = settings.tcp_seconds * 1000 / 20 - 30;
        let pinging = with_ping.then(|| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(400));
                ping::ping(c, pings, 20)
            })
        });
        let moved = iperf::tcp(c, streams, direction, settings.tcp_seconds);
        let rtt = pinging.map(|thread| thread.join().expect("the ping thread does not panic"));
        (moved, rtt)
    });
    let moved = moved?;
    let spent: Vec<f64> = cpu(c)?.iter().zip(&before).map(|(after, before)| after - before).collect();
    samples.push(c.kind, on, &tcp_metric(streams, direction), moved.gbit_s);
    if let Some(rtt) = rtt {
        let rtt = rtt?;
        samples.push(c.kind, on, PING_LOADED, rtt.median);
        samples.push(c.kind, on, "ping under load p95 ms", rtt.p95);
        samples.push(c.kind, on, "ping under load lost %", rtt.lost * 100.0);
    }
    if streams == 1 && direction == Direction::Forth {
        samples.push(c.kind, on, RETRANSMITS, moved.retransmits);
    }
    match spent.as_slice() {
        [] => samples.push(c.kind, on, IPERF_COST, moved.cpu_seconds / moved.gigabytes),
        sides => {
            let sum: f64 = sides.iter().sum();
            samples.push(c.kind, on, COST, sum / sides.len() as f64 / moved.gigabytes);
            let (sender, receiver) = match direction {
                Direction::Forth => (sides[0], sides[1]),
                Direction::Back => (sides[1], sides[0]),
            };
            samples.push(c.kind, on, "TCP CPU-s/GB sending side", sender / moved.gigabytes);
            samples.push(c.kind, on, "TCP CPU-s/GB receiving side", receiver / moved.gigabytes);
        }
    }
    Ok(())
}

/// CPU seconds of the daemons, left and right; nothing for the plain cable.
fn cpu(c: &Contestant) -> Result<Vec<f64>> {
    c.sides.iter().filter_map(|side| side.pid).map(process::cpu_seconds).collect()
}

fn ladder(
    c: &Contestant,
    underlay: Underlay,
    size: u32,
    steps: &[u64],
    settings: &Settings,
    samples: &mut Samples,
) -> Result<()> {
    let on = Some(underlay);
    let mut best: f64 = 0.0;
    let mut carried: f64 = 0.0;
    for &pps in steps {
        let run = iperf::udp(c, size, pps, settings.udp_seconds)?;
        best = best.max(run.delivered_pps);
        if run.loss() <= CARRIED {
            carried = carried.max(run.delivered_pps);
        }
        let step = if pps == 0 { "flood".to_owned() } else { format!("{} kpps", pps / 1000) };
        samples.push(c.kind, on, &format!("UDP {size} B at {step}: loss %"), run.loss() * 100.0);
    }
    let gbit = f64::from(size) * 8.0 / 1e9;
    match size {
        64 => {
            samples.push(c.kind, on, UDP_SMALL, best / 1e3);
            samples.push(c.kind, on, "UDP 64 B kpps at ≤ 1 % loss", carried / 1e3);
        }
        _ => {
            samples.push(c.kind, on, UDP_LARGE, best * gbit);
            samples.push(c.kind, on, "UDP 1280 B Gb/s at ≤ 1 % loss", carried * gbit);
        }
    }
    Ok(())
}

/// CPU and wake-ups of all daemons at the same time, while nobody sends anything.
pub(crate) fn idle(all: &[Contestant], seconds: u64, samples: &mut Samples) -> Result<()> {
    let daemons: Vec<(Kind, i32)> =
        all.iter().flat_map(|c| c.sides.iter().filter_map(|s| Some((c.kind, s.pid?)))).collect();
    let read = |pid: i32| Ok::<_, anyhow::Error>((process::cpu_nanoseconds(pid)?, process::wakeups(pid)?));
    let before = daemons.iter().map(|(_, pid)| read(*pid)).collect::<Result<Vec<_>>>()?;
    let began = now();
    std::thread::sleep(Duration::from_secs(seconds));
    let minutes = (now() - began).as_secs_f64() / 60.0;
    for ((kind, pid), (cpu, wakeups)) in daemons.iter().zip(before) {
        let (cpu_after, wakeups_after) = read(*pid)?;
        samples.push(*kind, None, IDLE_CPU, cpu_after.saturating_sub(cpu) as f64 / 1e6 / minutes);
        samples.push(*kind, None, IDLE_WAKEUPS, wakeups_after.saturating_sub(wakeups) as f64 / minutes);
    }
    Ok(())
}

/// Memory of all daemons.
pub(crate) fn memory(all: &[Contestant], when: &str, samples: &mut Samples) -> Result<()> {
    for c in all {
        for pid in c.sides.iter().filter_map(|side| side.pid) {
            let memory = process::memory(pid)?;
            samples.push(c.kind, None, &memory_metric("RSS", when), memory.rss);
            samples.push(c.kind, None, &memory_metric("PSS", when), memory.pss);
        }
    }
    Ok(())
}

/// One line on the round that just ended.
pub(crate) fn summary(kind: Kind, underlay: Underlay, samples: &Samples) -> String {
    let last = |metric: &str| samples.all(kind, Some(underlay), metric).last().copied();
    let show = |metric: &str, unit: &str| last(metric).map(|v| format!("{v:.2} {unit}"));
    let parts = [
        show(&tcp_metric(1, Direction::Forth), "Gb/s with 1 stream"),
        show(&tcp_metric(4, Direction::Forth), "with 4"),
        show(COST, "CPU-s/GB"),
        show(PING_LOADED, "ms ping under load"),
        show(UDP_SMALL, "kpps of 64 B"),
    ];
    let text: Vec<String> = parts.into_iter().flatten().collect();
    format!("{}: {}", kind.name(), text.join(", "))
}
