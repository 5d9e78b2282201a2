//! `make torture N=…`: `kill -9` at the k-th system call that records or makes a change, and at random
//! moments. Afterwards the host is as it was, and nothing that was acknowledged is lost.
//!
//! The node stops before or after each planned change and is killed there (see `torture/node.rs`). To the
//! coordinator `strace` attaches and injects the signal at the entry of the call. In both cases a run
//! that nobody disturbs counts the steps first: the kills are spread over all of them.

#[path = "torture/kills.rs"]
mod kills;
#[path = "torture/node.rs"]
mod node;
#[path = "torture/store.rs"]
mod store;

use std::fs;

use anyhow::{Context, Result, ensure};
use kills::Budget;
use meshd_lab::mesh::SmallInternet;
use meshd_lab::wait_until;
use std::time::Duration;

#[test]
fn a_node_killed_at_any_step_leaves_the_host_as_it_was_and_keeps_what_it_acknowledged() -> Result<()> {
    node::torture(Budget::share(60)?)
}

#[test]
fn a_coordinator_killed_at_any_store_step_loses_no_acknowledged_change() -> Result<()> {
    store::torture(Budget::share(40)?)
}

#[test]
fn an_acknowledgement_comes_after_its_fdatasync() -> Result<()> {
    let net = SmallInternet::new("torture_trace")?;
    net.coordinator()?.kill()?;
    let serve = store::serve(&net)?;
    let calls = "trace=fdatasync,fsync,write,writev,sendto,sendmsg";
    let tracer = kills::attach(&net.vps, &serve, &["-y", "-s", "64", "-e", calls], "/var/lib/trace")?;
    net.vps.run("meshd-coordinator", ["dns", "add", "traced.home.internal", "192.168.1.10"])?.success()?;
    serve.kill()?;
    tracer.wait(Duration::from_secs(5))?;
    let text = fs::read_to_string(net.vps.file("/var/lib/trace"))?;
    let lines: Vec<&str> = text.lines().collect();
    let answer = lines.iter().position(|line| line.contains("HTTP/1.1 2"));
    let answer = answer.with_context(|| format!("no acknowledgement in the trace: {lines:#?}"))?;
    let synced = lines[..answer]
        .iter()
        .any(|line| (line.contains("fdatasync(") || line.contains("fsync(")) && line.contains("-wal"));
    assert!(synced, "acknowledged before the WAL was on the disk: {:#?}", &lines[..=answer]);
    println!("coordinator: the WAL is synced before the answer leaves: {}", lines[answer]);
    Ok(())
}

#[test]
fn a_node_acknowledges_a_setting_after_its_fdatasync() -> Result<()> {
    let net = SmallInternet::new("torture_node_trace")?;
    let daemon = net.pi.spawn("meshd", ["run"])?;
    let ready =
        wait_until(Duration::from_secs(10), || net.pi.run("meshd", ["status"]).is_ok_and(|s| s.is_success()));
    ensure!(ready, "no answer: {}", daemon.log());
    let calls = "trace=fdatasync,fsync,rename,write,writev,sendto,sendmsg";
    let tracer = kills::attach(&net.pi, &daemon, &["-yy", "-s", "16", "-e", calls], "/var/lib/trace")?;
    net.pi.run("meshd", ["set", "--snat=false"])?.success()?;
    daemon.kill()?;
    tracer.wait(Duration::from_secs(5))?;
    let text = fs::read_to_string(net.pi.file("/var/lib/trace"))?;
    let lines: Vec<&str> = text.lines().collect();
    let answer = lines.iter().rposition(|line| line.contains("UNIX-STREAM") || line.contains("api.sock"));
    let answer = answer.with_context(|| format!("no acknowledgement in the trace: {lines:#?}"))?;
    let step = |what: &str, of: &str| {
        let found = lines[..answer].iter().position(|line| line.contains(what) && line.contains(of));
        found.with_context(|| format!("acknowledged without {what} of {of}: {lines:#?}"))
    };
    let data = step("fdatasync(", "settings.json")?;
    let renamed = step("rename(", "settings.json")?;
    ensure!(data < renamed, "renamed before it was on the disk: {lines:#?}");
    let folder = lines[renamed..answer].iter().any(|line| line.contains("fsync("));
    ensure!(folder, "acknowledged before the folder was on the disk: {lines:#?}");
    println!("node: settings.json and its folder are synced before the answer leaves: {}", lines[answer]);
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
    let known = coordinator.run(&["dns", "list", "--json"])?.stdout;
    assert!(known.contains("first.home.internal"), "{known}");
    coordinator.run(&["audit", "verify"])?;
    coordinator.run(&["dns", "add", "after.home.internal", "192.168.1.10"])?;
    println!("a WAL of {length} bytes without its last 2000 recovers");
    Ok(())
}
