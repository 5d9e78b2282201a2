//! `make recovery`: how long traffic stands still when something breaks; percentiles over `REPEATS` repeats.
//!
//! One pair of nodes behind home routers, pings 20 times a second through the mesh. What is measured is the
//! longest time without an answer. Arguments name the rows to keep. A row that is late is named; the exit
//! status is non-zero only when traffic never came back.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use meshd_lab::mesh::{SmallInternet, kill_daemon, mesh_address, ping_until, wait_direct};
use meshd_lab::{longest_gap, wait_within};

/// One row: what happens, what sets it right again, and the goal.
struct Row {
    name: &'static str,
    goal: Duration,
    run: fn(&SmallInternet, &mut Stage) -> Result<Duration>,
}

/// What a row needs besides the lab.
struct Stage {
    coordinator: meshd_lab::mesh::Coordinator,
    pi: String,
}

const SECOND: Duration = Duration::from_secs(1);

const ROWS: [Row; 6] = [
    Row { name: "direct-path-dies", goal: SECOND, run: direct_path_dies },
    Row { name: "direct-path-returns", goal: SECOND, run: direct_path_returns },
    Row { name: "nat-reboot", goal: SECOND, run: nat_reboot },
    Row { name: "peer-restart", goal: SECOND, run: peer_restart },
    Row { name: "relays-gone-10s", goal: SECOND, run: relays_gone },
    Row { name: "stopped-20s-resume", goal: Duration::from_secs(2), run: resume },
];

fn main() -> Result<ExitCode> {
    let repeats: usize = std::env::var("REPEATS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let net = SmallInternet::new("recovery")?;
    let coordinator = net.join_all()?;
    let pi = mesh_address(&net.pi)?.to_string();
    let mut stage = Stage { coordinator, pi };
    println!("{:<22} {:>4} {:>9} {:>9} {:>9} {:>9}", "what", "n", "median", "p95", "worst", "goal p95");
    let (mut late, mut lost) = (Vec::new(), Vec::new());
    for row in ROWS.iter().filter(|r| wanted.is_empty() || wanted.iter().any(|w| w == r.name)) {
        let mut gaps = Vec::new();
        for _ in 0..repeats {
            match ready(&net, &stage).and_then(|()| (row.run)(&net, &mut stage)) {
                Ok(gap) => gaps.push(gap),
                Err(why) => {
                    println!("{:<22} traffic never came back, or the lab failed: {why:#}", row.name);
                    lost.push(row.name);
                    break;
                }
            }
        }
        if gaps.is_empty() {
            continue;
        }
        gaps.sort_unstable();
        let p95 = gaps[(gaps.len() * 95 / 100).min(gaps.len() - 1)];
        let ms = |t: Duration| format!("{} ms", t.as_millis());
        let verdict = if p95 <= row.goal { "" } else { "  LATE" };
        if p95 > row.goal {
            late.push(row.name);
        }
        println!(
            "{:<22} {:>4} {:>9} {:>9} {:>9} {:>9}{verdict}",
            row.name,
            gaps.len(),
            ms(gaps[gaps.len() / 2]),
            ms(p95),
            ms(gaps[gaps.len() - 1]),
            ms(row.goal)
        );
    }
    let names = |rows: &[&str]| if rows.is_empty() { "none".to_owned() } else { rows.join(", ") };
    println!("later than their goal: {}", names(&late));
    println!("never came back: {}", names(&lost));
    Ok(if lost.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Both directions direct, before anything breaks.
fn ready(net: &SmallInternet, stage: &Stage) -> Result<()> {
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

fn direct_path_dies(net: &SmallInternet, stage: &mut Stage) -> Result<Duration> {
    let gap = longest_gap(&net.laptop, &stage.pi, SECOND * 5, || block(net, true));
    block(net, false)?;
    again(net)?;
    gap
}

/// The way back to the direct path costs nothing.
fn direct_path_returns(net: &SmallInternet, stage: &mut Stage) -> Result<Duration> {
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

fn nat_reboot(net: &SmallInternet, stage: &mut Stage) -> Result<Duration> {
    longest_gap(&net.laptop, &stage.pi, SECOND * 5, || {
        // The kernel forgets its mappings when the chain that made them and the flows are gone.
        let rules = net.away.host.sh("nft list table ip lab")?;
        net.away.host.sh("nft delete table ip lab; conntrack -F 2>/dev/null || true")?;
        net.away.host.nft(&rules)
    })
}

fn peer_restart(net: &SmallInternet, stage: &mut Stage) -> Result<Duration> {
    let mut began = None;
    let gap = longest_gap(&net.laptop, &stage.pi, SECOND * 20, || {
        kill_daemon(&net.pi)?;
        began = Some(net.pi.spawn("meshd", ["run"])?);
        Ok(())
    });
    began.context("the daemon was not started again")?;
    gap
}

fn relays_gone(net: &SmallInternet, stage: &mut Stage) -> Result<Duration> {
    let gap = longest_gap(&net.laptop, &stage.pi, SECOND * 10, || stage.coordinator.kill());
    stage.coordinator.resume()?;
    gap
}

/// From SIGCONT on: while it is stopped nothing can flow.
fn resume(net: &SmallInternet, stage: &mut Stage) -> Result<Duration> {
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
