//! meshd in a mesh of a thousand: what one daemon with that map holds and does while nothing happens.
//!
//! The members are registered through the coordinator's own service layer, in its own database, while it is
//! stopped; then two real nodes join. The thousand are not running: what is measured is the cost of knowing
//! them, with one of them (the other real node) connected. Sessions that are in use cost more.

use crate::contestant::Kind;
use crate::measure::memory_metric;
use crate::process;
use crate::samples::Samples;
use crate::start::daemon_of;
use anyhow::{Context, Result, ensure};
use meshd_coordinator::service::{Actor, RegisterRequest, Service, TokenRequest};
use meshd_coordinator::store::{StateDir, Store};
use meshd_lab::mesh::{Coordinator, PATIENCE, ping_until, status, up, wait_direct};
use meshd_lab::{Host, Lab, now, wait_within};
use meshd_proto::{MachineSecret, NodeSecret, keys};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// Members besides the two that run.
const MEMBERS: usize = 1_000;
/// Let the daemons finish what a new map begins.
const SETTLE: Duration = Duration::from_secs(8);

/// CPU share of a daemon with that map.
pub(crate) const CPU: &str = "CPU % of a core with 1,000 peers";
/// Its wake-ups.
pub(crate) const WAKEUPS: &str = "wake-ups per minute with 1,000 peers";
/// From `meshd up` to the whole map in `status`.
pub(crate) const JOIN: &str = "join with 1,000 peers ms";

/// When it is measured, in the names of the memory figures.
pub(crate) const WHEN: &str = "with 1,000 peers";

/// Measures both daemons for `seconds`; everything ends with this call.
pub(crate) fn measure(seconds: u64, samples: &mut Samples) -> Result<()> {
    let lab = Lab::new("bench-thousand")?;
    let [(left, _), (right, right4)] = lab.pair("left", "right")?;
    let mut coordinator = Coordinator::start(&right, right4)?;
    let token = coordinator.token()?;
    coordinator.kill()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(fill(&right.file("/var/lib/meshd-coordinator")))?;
    drop(runtime);
    coordinator.resume()?;
    up(&right, &[&token])?;
    let began = now();
    up(&left, &[&token])?;
    let knows_all = |host: &Host| {
        wait_within(PATIENCE, || {
            let peers = status(host).ok()?["peers"].as_array()?.len();
            (peers > MEMBERS).then_some(())
        })
        .with_context(|| format!("{} never heard of all {MEMBERS} members", host.name()))
    };
    knows_all(&left)?;
    samples.push(Kind::Meshd, None, JOIN, (now() - began).as_secs_f64() * 1000.0);
    knows_all(&right)?;
    ping_until(&left, right.name(), PATIENCE)?;
    wait_direct(&left, right.name())?;
    std::thread::sleep(SETTLE);
    let pids = [daemon_of(&left)?, daemon_of(&right)?];
    let read = |pid: i32| Ok::<_, anyhow::Error>((process::cpu_nanoseconds(pid)?, process::wakeups(pid)?));
    let before = pids.map(read);
    let began = now();
    std::thread::sleep(Duration::from_secs(seconds));
    let spent = (now() - began).as_secs_f64();
    for (pid, before) in pids.into_iter().zip(before) {
        let ((cpu, woken), (cpu_after, woken_after)) = (before?, read(pid)?);
        let share = cpu_after.saturating_sub(cpu) as f64 / 1e9 / spent * 100.0;
        samples.push(Kind::Meshd, None, CPU, share);
        let often = woken_after.saturating_sub(woken) as f64 / spent * 60.0;
        samples.push(Kind::Meshd, None, WAKEUPS, often);
        let memory = process::memory(pid)?;
        samples.push(Kind::Meshd, None, &memory_metric("RSS", WHEN), memory.rss);
        samples.push(Kind::Meshd, None, &memory_metric("PSS", WHEN), memory.pss);
    }
    Ok(())
}

/// Registers the members in the database in `folder`.
async fn fill(folder: &Path) -> Result<()> {
    let now = meshd_coordinator::clock::unix_now();
    let mut store = Store::open(StateDir::open(folder)?, now).await?;
    let loaded = store.load().await?.context("the coordinator has founded its mesh")?;
    let service = Service::new(store, loaded, now);
    let request = TokenRequest { uses: MEMBERS as u32, ..TokenRequest::default() };
    let token = service.create_token(&Actor::LocalRoot, &request, now).await?.token.secret.clone();
    for i in 0..MEMBERS {
        let key = |what: &str| keys::hash(what, &[&i.to_le_bytes()]);
        let request = RegisterRequest {
            machine_key: MachineSecret::from_bytes(key("bench machine")).public(),
            node_key: NodeSecret::from_bytes(key("bench node")).public(),
            token: Some(token.clone()),
            hostname: format!("member-{i}"),
            machine_id_hash: Some(key("bench machine id")),
            advertised: BTreeSet::new(),
            exit: false,
            ephemeral: false,
            os: "linux".to_owned(),
            client_version: "bench".to_owned(),
            remote: None,
        };
        ensure!(service.register(&request, now).await?.admitted, "member {i} was not admitted");
    }
    Ok(())
}
