//! `make torture N=…`: `kill -9` at the k-th system call that plans, records or makes a change, and at
//! random moments. Afterwards the host is as it was, and nothing that was acknowledged is lost.
//!
//! `strace` injects the signal at the entry of the call, so that "the k-th step" is exact per thread
//! and the programs need no test hooks.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{SmallInternet, ping_until, status, up};
use meshd_lab::{Host, Process, wait_until, wait_within};
use rustix::process::Signal;

/// Calls that record a change, make one, or start a program that does.
const STEPS: &str = "fdatasync,fsync,rename,renameat,unlink,sendto,sendmsg,clone3,vfork";

/// How many kills in all: `N` of the make target.
fn kills() -> usize {
    std::env::var("TORTURE_N").ok().and_then(|n| n.parse().ok()).unwrap_or(30)
}

/// Everything of a host that `meshd` may touch, as text.
fn host_state(host: &Host) -> Result<String> {
    host.sh(
        "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all | grep -v '^multicast'; \
         ip -o link | sed 's/^[0-9]*: //'; nft list ruleset; cat /etc/resolv.conf; stat -c '%a %U %F' /etc/resolv.conf; \
         cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding \
         /proc/sys/net/ipv4/conf/all/rp_filter /proc/sys/net/ipv4/conf/*/src_valid_mark",
    )
}

/// The daemon, killed at the `k`-th of [`STEPS`].
fn daemon_that_dies(host: &Host, k: usize) -> Result<Process> {
    let inject = format!("inject={STEPS}:signal=SIGKILL:when={k}");
    let trace = format!("trace={STEPS}");
    host.spawn("strace", ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, "meshd", "run"])
}

fn kill_daemon(host: &Host) -> Result<()> {
    host.run("pkill", ["-KILL", "-x", "meshd"])?;
    let gone = wait_until(Duration::from_secs(5), || {
        host.run("pgrep", ["-x", "meshd"]).is_ok_and(|found| !found.is_success())
    });
    ensure!(gone, "a meshd outlived SIGKILL");
    Ok(())
}

/// A number that looks random and is the same in every run.
fn scatter(n: usize, below: usize) -> usize {
    let mixed = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from((mixed >> 33) % below as u64).unwrap_or(0)
}

#[test]
fn a_node_killed_at_any_step_leaves_the_host_as_it_was_and_keeps_what_it_acknowledged() -> Result<()> {
    let net = SmallInternet::new("torture_node")?;
    let before = host_state(&net.pi)?;
    let coordinator = net.coordinator()?;
    let token = coordinator.token()?;
    up(&net.pi, &[&token, "--advertise-routes=192.168.1.0/24"])?;
    coordinator.run(&["routes", "approve", "pi", "192.168.1.0/24"])?;
    up(&net.laptop, &[&token])?;
    net.pi.run("meshd", ["down"])?.success()?;
    kill_daemon(&net.pi)?;

    let rounds = kills() / 2;
    let (mut died, mut acknowledged, mut snat) = (0, 0, true);
    for round in 0..rounds {
        let k = 1 + scatter(round, 60);
        let mut daemon = daemon_that_dies(&net.pi, k)?;
        wait_until(Duration::from_secs(3), || {
            !daemon.is_running() || net.pi.run("meshd", ["status"]).is_ok_and(|s| s.is_success())
        });
        // Each command may meet a daemon that is dead already: only an acknowledgement counts.
        let _ = net.pi.run_within(Duration::from_secs(10), "meshd", ["up", "--no-service", "--timeout", "4"]);
        let wanted = round % 2 == 0;
        let said =
            net.pi.run_within(Duration::from_secs(5), "meshd", ["set", &format!("--snat={wanted}")])?;
        let unknown = !said.is_success();
        if !unknown {
            snat = wanted;
            acknowledged += 1;
        }
        if round % 3 == 0 {
            let _ = net.pi.run_within(Duration::from_secs(5), "meshd", ["down"]);
        }
        died += usize::from(!daemon.is_running());
        kill_daemon(&net.pi)?;
        let clean = net.pi.run("meshd", ["cleanup"])?;
        ensure!(clean.is_success(), "round {round}, k = {k}: cleanup failed: {clean:?}");
        let restored =
            wait_until(Duration::from_secs(3), || host_state(&net.pi).is_ok_and(|state| state == before));
        if !restored {
            assert_eq!(host_state(&net.pi)?, before, "round {round}, k = {k}");
        }
        if unknown {
            // Whether it was stored is open; the daemon says which, and is held to it from now on.
            let daemon = net.pi.spawn("meshd", ["run"])?;
            let now = wait_within(Duration::from_secs(10), || {
                status(&net.pi).ok().filter(|status| status["settings"].is_object())
            });
            let now = now.with_context(|| format!("round {round}, k = {k}: no status: {}", daemon.log()))?;
            snat = now["settings"]["snat"].as_bool().unwrap_or(true);
            kill_daemon(&net.pi)?;
            net.pi.run("meshd", ["cleanup"])?.success()?;
        } else if round % 5 == 0 {
            let _daemon = net.pi.spawn("meshd", ["run"])?;
            let kept = wait_until(Duration::from_secs(10), || {
                status(&net.pi)
                    .is_ok_and(|status| status["settings"]["snat"].as_bool().unwrap_or(true) == snat)
            });
            ensure!(kept, "round {round}, k = {k}: the acknowledged --snat={snat} is lost");
            kill_daemon(&net.pi)?;
            net.pi.run("meshd", ["cleanup"])?.success()?;
        }
    }
    // The mesh works again.
    up(&net.pi, &["--snat=true"])?;
    ping_until(&net.laptop, &net.nas4.to_string(), Duration::from_secs(20))?;
    println!(
        "{rounds} kills of the node ({died} at an exact step, the others at the end of the round), \
         {acknowledged} acknowledged changes, 0 lost, the host as before each time"
    );
    Ok(())
}

/// Runs `meshd-coordinator serve` so that it dies at its `k`-th write to the disk.
fn coordinator_that_dies(host: &Host, address: &str, k: usize) -> Result<Process> {
    let steps = "fdatasync,fsync,pwrite64";
    let inject = format!("inject={steps}:signal=SIGKILL:when={k}");
    let trace = format!("trace={steps}");
    let arguments = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    host.spawn("strace", arguments.into_iter().chain(["meshd-coordinator", "serve", "--public", address]))
}

fn names(host: &Host) -> Option<String> {
    host.run("meshd-coordinator", ["dns", "list", "--json"]).ok().filter(|d| d.is_success()).map(|d| d.stdout)
}

fn kill_coordinator(host: &Host) -> Result<()> {
    host.run("pkill", ["-KILL", "-f", "meshd-coordinator serve"])?;
    let gone = wait_until(Duration::from_secs(5), || {
        host.run("pgrep", ["-f", "meshd-coordinator serve"]).is_ok_and(|found| !found.is_success())
    });
    ensure!(gone, "a coordinator outlived SIGKILL");
    Ok(())
}

#[test]
fn a_coordinator_killed_at_any_store_step_loses_no_acknowledged_change() -> Result<()> {
    let net = SmallInternet::new("torture_store")?;
    let address = net.vps4.to_string();
    net.coordinator()?.kill()?;
    let rounds = kills() / 2;
    let mut acknowledged: Vec<String> = Vec::new();
    let mut died = 0;
    for round in 0..rounds {
        let mut serve = coordinator_that_dies(&net.vps, &address, 1 + scatter(round, 40))?;
        let ready = wait_until(Duration::from_secs(10), || !serve.is_running() || names(&net.vps).is_some());
        ensure!(ready, "round {round}: no answer: {}", serve.log());
        for n in 0..4 {
            let name = format!("r{round}x{n}.home.internal");
            let said = net.vps.run("meshd-coordinator", ["dns", "add", &name, "192.168.1.10"])?;
            if said.is_success() {
                acknowledged.push(name);
            } else {
                break;
            }
        }
        died += usize::from(!serve.is_running());
        kill_coordinator(&net.vps)?;
        if round % 10 == 9 || round + 1 == rounds {
            let serve = net.vps.spawn("meshd-coordinator", ["serve", "--public", &address])?;
            let known = wait_within(Duration::from_secs(10), || names(&net.vps));
            let known =
                known.with_context(|| format!("round {round}: it does not start: {}", serve.log()))?;
            let lost: Vec<&String> =
                acknowledged.iter().filter(|name| !known.contains(name.as_str())).collect();
            ensure!(lost.is_empty(), "round {round}: acknowledged and lost: {lost:?}");
            kill_coordinator(&net.vps)?;
        }
    }
    println!(
        "{rounds} kills of the coordinator ({died} at an exact store step), {} acknowledged changes, 0 lost",
        acknowledged.len()
    );
    Ok(())
}

#[test]
fn an_acknowledgement_comes_after_its_fdatasync() -> Result<()> {
    let net = SmallInternet::new("torture_trace")?;
    net.coordinator()?.kill()?;
    let trace = "trace=fdatasync,fsync,write,writev,sendto,sendmsg";
    let address = net.vps4.to_string();
    let serve = net.vps.spawn(
        "strace",
        [
            "-f",
            "-y",
            "-s",
            "64",
            "-o",
            "/var/lib/trace",
            "-e",
            trace,
            "meshd-coordinator",
            "serve",
            "--public",
            &address,
        ],
    )?;
    let ready = wait_until(Duration::from_secs(15), || names(&net.vps).is_some());
    ensure!(ready, "no answer: {}", serve.log());
    let file = net.vps.file("/var/lib/trace");
    let start = fs::read_to_string(&file)?.lines().count();
    net.vps.run("meshd-coordinator", ["dns", "add", "traced.home.internal", "192.168.1.10"])?.success()?;
    let text = fs::read_to_string(&file)?;
    let lines: Vec<&str> = text.lines().skip(start).collect();
    let answer = lines.iter().position(|line| line.contains("HTTP/1.1 2"));
    let answer = answer.with_context(|| format!("no acknowledgement in the trace: {lines:#?}"))?;
    let synced = lines[..answer]
        .iter()
        .any(|line| (line.contains("fdatasync(") || line.contains("fsync(")) && line.contains("-wal"));
    assert!(synced, "acknowledged before the WAL was on the disk: {:#?}", &lines[..=answer]);
    println!("the WAL is synced before the answer leaves: {}", lines[answer]);
    serve.signal(Signal::KILL)?;
    Ok(())
}

#[test]
fn a_torn_last_wal_frame_recovers() -> Result<()> {
    let net = SmallInternet::new("torture_torn")?;
    let mut coordinator = net.coordinator()?;
    coordinator.run(&["dns", "add", "first.home.internal", "192.168.1.10"])?;
    coordinator.run(&["dns", "add", "last.home.internal", "192.168.1.10"])?;
    coordinator.kill()?;
    let folder = net.vps.file("/var/lib/meshd-coordinator");
    let wal = fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with("-wal"))
        .context("no WAL file")?;
    let length = fs::metadata(&wal)?.len();
    ensure!(length > 4096, "an empty WAL proves nothing");
    // The last frame is half there, as after a power cut.
    fs::OpenOptions::new().write(true).open(&wal)?.set_len(length - 2000)?;
    coordinator.resume()?;
    let known = names(&net.vps).context("no names")?;
    assert!(known.contains("first.home.internal"), "{known}");
    coordinator.run(&["dns", "add", "after.home.internal", "192.168.1.10"])?;
    Ok(())
}
