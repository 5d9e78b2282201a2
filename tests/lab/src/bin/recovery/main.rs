//! `make recovery`: how long traffic stands still when something breaks; percentiles over `REPEATS` repeats.
//!
//! Pings 20 times a second through the mesh; what is measured is the longest time without an answer. There are
//! two labs: a pair of nodes behind home routers, whose path is direct, and a pair behind symmetric NATs that
//! have to use one of three relays. Arguments name the rows to keep. A row that is late is named; the exit
//! status is non-zero only when traffic never came back.

mod relays;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use meshd_lab::mesh::{SmallInternet, kill_daemon, mesh_address, ping_until, wait_direct};
use meshd_lab::{longest_gap, wait_within};

/// One row: what happens, what sets it right again, and the goal.
struct Row<S> {
    name: &'static str,
    goal: Duration,
    /// Waits until nothing is broken.
    ready: fn(&S) -> Result<()>,
    /// Breaks it, and says for how long nothing arrived.
    run: fn(&mut S) -> Result<Duration>,
}

/// A direct pair.
struct Stage {
    net: SmallInternet,
    coordinator: meshd_lab::mesh::Coordinator,
    pi: String,
    /// How often the public address has changed.
    changes: u8,
}

const SECOND: Duration = Duration::from_secs(1);

const PAIR: [Row<Stage>; 7] = [
    Row { name: "direct-path-dies", goal: SECOND, ready, run: direct_path_dies },
    Row { name: "direct-path-returns", goal: SECOND, ready, run: direct_path_returns },
    Row { name: "nat-reboot", goal: SECOND, ready, run: nat_reboot },
    Row { name: "public-address", goal: SECOND, ready, run: public_address_changes },
    Row { name: "peer-restart", goal: SECOND, ready, run: peer_restart },
    Row { name: "relays-gone-30s", goal: SECOND, ready, run: relays_gone },
    Row { name: "stopped-20s-resume", goal: Duration::from_secs(2), ready, run: resume },
];

fn main() -> Result<ExitCode> {
    let repeats: usize = std::env::var("REPEATS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let keep = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    println!("{:<22} {:>4} {:>9} {:>9} {:>9} {:>9}", "what", "n", "median", "p95", "worst", "goal p95");
    let mut verdicts = Verdicts::default();
    if PAIR.iter().any(|row| keep(row.name)) {
        let net = SmallInternet::new("recovery")?;
        let coordinator = net.join_all()?;
        let pi = mesh_address(&net.pi)?.to_string();
        let mut stage = Stage { net, coordinator, pi, changes: 0 };
        verdicts.measure(&PAIR, &keep, repeats, &mut stage);
    }
    if relays::ROWS.iter().any(|row| keep(row.name)) {
        verdicts.measure(&relays::ROWS, &keep, repeats, &mut relays::Stage::new()?);
    }
    let names = |rows: &[&str]| if rows.is_empty() { "none".to_owned() } else { rows.join(", ") };
    println!("later than their goal: {}", names(&verdicts.late));
    println!("never came back: {}", names(&verdicts.lost));
    Ok(if verdicts.lost.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The rows that did not reach their goal.
#[derive(Default)]
struct Verdicts {
    late: Vec<&'static str>,
    lost: Vec<&'static str>,
}

impl Verdicts {
    fn measure<S>(&mut self, rows: &[Row<S>], keep: &impl Fn(&str) -> bool, repeats: usize, stage: &mut S) {
        for row in rows.iter().filter(|row| keep(row.name)) {
            let mut gaps = Vec::new();
            for _ in 0..repeats {
                match (row.ready)(stage).and_then(|()| (row.run)(stage)) {
                    Ok(gap) => gaps.push(gap),
                    Err(why) => {
                        println!("{:<22} traffic never came back, or the lab failed: {why:#}", row.name);
                        self.lost.push(row.name);
                        break;
                    }
                }
            }
            if !gaps.is_empty() {
                self.show(row.name, row.goal, &mut gaps);
            }
        }
    }

    fn show(&mut self, name: &'static str, goal: Duration, gaps: &mut [Duration]) {
        gaps.sort_unstable();
        // The nearest rank: of twenty the nineteenth.
        let p95 = gaps[(gaps.len() * 95).div_ceil(100) - 1];
        let ms = |t: Duration| format!("{} ms", t.as_millis());
        let verdict = if p95 <= goal { "" } else { "  LATE" };
        if p95 > goal {
            self.late.push(name);
        }
        println!(
            "{name:<22} {:>4} {:>9} {:>9} {:>9} {:>9}{verdict}",
            gaps.len(),
            ms(gaps[gaps.len() / 2]),
            ms(p95),
            ms(gaps[gaps.len() - 1]),
            ms(goal)
        );
    }
}

/// Both directions direct, before anything breaks.
fn ready(stage: &Stage) -> Result<()> {
    let net = &stage.net;
    ping_until(&net.laptop, &stage.pi, Duration::from_secs(20))?;
    wait_direct(&net.laptop, "pi")?;
    wait_direct(&net.pi, "laptop")?;
    Ok(())
}

fn block(net: &SmallInternet, on: bool) -> Result<()> {
    let (a, b) = (net.home.wan4, net.away.wan4);
    let rules = if on {
        format!(
            "table ip cut {{ chain f {{ type filter hook forward priority 0; \
             ip saddr {a} ip daddr {b} drop; ip saddr {b} ip daddr {a} drop; }}; }}\n"
        )
    } else {
        "table ip cut\ndelete table ip cut\n".to_owned()
    };
    net.lab.internet().nft(&rules)
}

fn direct_path_dies(stage: &mut Stage) -> Result<Duration> {
    let net = &stage.net;
    let gap = longest_gap(&net.laptop, &stage.pi, SECOND * 5, || block(net, true));
    block(net, false)?;
    again(net)?;
    gap
}

/// The way back to the direct path costs nothing.
fn direct_path_returns(stage: &mut Stage) -> Result<Duration> {
    let net = &stage.net;
    block(net, true)?;
    let relayed = wait_within(SECOND * 10, || {
        let _ = net.laptop.run("ping", ["-c", "1", "-W", "1", &stage.pi]);
        (meshd_lab::mesh::peer(&net.laptop, "pi").ok()?["path"] == "relay").then_some(())
    });
    let gap = longest_gap(&net.laptop, &stage.pi, SECOND * 5, || {
        block(net, false)?;
        again(net)
    });
    block(net, false)?;
    relayed.context("the relay was never used")?;
    gap
}

/// A link event, so that silent candidates are tried at once.
fn again(net: &SmallInternet) -> Result<()> {
    for host in [&net.laptop, &net.pi] {
        host.sh("ip addr add 192.0.2.77/32 dev eth0; ip addr del 192.0.2.77/32 dev eth0")?;
    }
    Ok(())
}

fn nat_reboot(stage: &mut Stage) -> Result<Duration> {
    let net = &stage.net;
    longest_gap(&net.laptop, &stage.pi, SECOND * 5, || {
        // The kernel forgets its mappings when the chain that made them and the flows are gone.
        let rules = net.away.host.sh("nft list table ip lab")?;
        net.away.host.sh("nft delete table ip lab; conntrack -F 2>/dev/null || true")?;
        net.away.host.nft(&rules)
    })
}

/// The provider gives the home of the laptop another address, and its router forgets what it knew.
fn public_address_changes(stage: &mut Stage) -> Result<Duration> {
    let net = &stage.net;
    stage.changes = stage.changes % 250 + 1;
    let (address, router) = (format!("203.0.114.{}", stage.changes), &net.away.host);
    net.lab.internet().sh(&format!("ip route replace {address}/32 via {}", net.away.wan4))?;
    longest_gap(&net.laptop, &stage.pi, SECOND * 8, || {
        router.sh(&format!("ip addr replace {address}/32 dev wan"))?;
        router.nft(&format!(
            "flush chain ip lab after\ntable ip lab {{ chain after {{ oifname \"wan\" snat to {address}; }}; }}\n"
        ))?;
        router.sh("conntrack -F 2>/dev/null || true")?;
        Ok(())
    })
}

fn peer_restart(stage: &mut Stage) -> Result<Duration> {
    let net = &stage.net;
    let mut began = None;
    let gap = longest_gap(&net.laptop, &stage.pi, SECOND * 20, || {
        kill_daemon(&net.pi)?;
        began = Some(net.pi.spawn("meshd", ["run"])?);
        Ok(())
    });
    began.context("the daemon was not started again")?;
    gap
}

fn relays_gone(stage: &mut Stage) -> Result<Duration> {
    let Stage { net, coordinator, pi, .. } = stage;
    let gap = longest_gap(&net.laptop, pi, SECOND * 30, || coordinator.kill());
    coordinator.resume()?;
    gap
}

/// From SIGCONT on: while it is stopped nothing can flow.
fn resume(stage: &mut Stage) -> Result<Duration> {
    let net = &stage.net;
    net.pi.sh("pkill -STOP -f 'meshd run'")?;
    std::thread::sleep(SECOND * 20);
    let pings = net.laptop.spawn("ping", ["-D", "-i", "0.05", "-w", "8", &stage.pi])?;
    let before = net.laptop.sh("date +%s.%N")?;
    net.pi.sh("pkill -CONT -f 'meshd run'")?;
    let log = pings.log.clone();
    pings.wait(SECOND * 20)?;
    let text = std::fs::read_to_string(log)?;
    let first = text
        .lines()
        .find(|line| line.contains("time="))
        .and_then(|line| line.strip_prefix('[')?.split(']').next()?.parse::<f64>().ok());
    let Some(first) = first else { bail!("nothing flowed again:\n{text}") };
    Ok(Duration::from_secs_f64((first - before.trim().parse::<f64>()?).max(0.0)))
}
