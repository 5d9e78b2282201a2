//! One mesh of one size, measured from the outside.

use crate::clock;
use crate::mesh::{Change, Mesh};
use crate::node::{self, Counters, SimNode};
use crate::report::Row;
use anyhow::{Context, Result, bail};
use meshd_proto::control::ToCoordinator;
use meshd_proto::{Endpoint, NetworkId, NetworkMap, NodeId};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How many nodes keep their whole map and check digests.
const CHECKING: usize = 20;
/// A phase that is not done by then has failed.
const PHASE_LIMIT: Duration = Duration::from_secs(120);
/// After a phase: time in which bytes to others would show.
const AFTERMATH: Duration = Duration::from_millis(600);

/// The coordinator's process.
struct Process {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    address: String,
}

impl Process {
    async fn start(dir: &Path, mesh: Mesh, size: usize, port: u16) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--coordinator")
            .arg(dir)
            .args([mesh.word(), &size.to_string(), &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the coordinator's process")?;
        let orders = child.stdin.take().context("no standard input")?;
        let mut answers = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let line = answers.next_line().await?.context("the coordinator did not start")?;
        let address = line.strip_prefix("ready ").with_context(|| format!("`{line}`?"))?.to_owned();
        Ok(Self { child, orders, answers, address })
    }

    async fn order(&mut self, order: &str) -> Result<()> {
        self.orders.write_all(format!("{order}\n").as_bytes()).await?;
        let answer = self.answers.next_line().await?;
        if answer.as_deref() == Some("done") {
            Ok(())
        } else {
            bail!("`{order}`: the coordinator said {answer:?}")
        }
    }

    /// CPU time so far, from the scheduler's own count of each thread.
    fn cpu(&self) -> Result<Duration> {
        let pid = self.child.id().context("the coordinator has ended")?;
        let mut total = 0;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end while we look.
            let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
            total += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(total))
    }

    fn rss_mib(&self) -> Result<f64> {
        let pid = self.child.id().context("the coordinator has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }
}

/// All simulated nodes of a mesh.
struct Swarm {
    mesh: Mesh,
    counters: Vec<Arc<Counters>>,
    orders: Vec<mpsc::Sender<ToCoordinator>>,
    address: Arc<Mutex<String>>,
    _tasks: JoinSet<()>,
}

/// What a node has got so far.
#[derive(Clone, Copy, Default)]
struct Got {
    bytes: u64,
    map_bytes: u64,
    updates: u64,
    hints: u64,
    welcomes: u64,
}

impl Swarm {
    fn got(&self) -> Vec<Got> {
        let of = |c: &Arc<Counters>| {
            let (map_bytes, hints) =
                (c.map_bytes.load(Ordering::Relaxed), c.hint_bytes.load(Ordering::Relaxed));
            Got {
                bytes: map_bytes + hints,
                map_bytes,
                updates: c.updates.load(Ordering::Relaxed),
                hints,
                welcomes: c.welcomes.load(Ordering::Relaxed),
            }
        };
        self.counters.iter().map(of).collect()
    }

    async fn order(&self, node: usize, order: ToCoordinator) -> Result<()> {
        self.orders[node].send(order).await.context("a node has ended")
    }

    fn id(&self, node: usize) -> NodeId {
        NodeId(self.counters[node].id.load(Ordering::Relaxed))
    }
}

/// Waits until all of `concerned` are `done`; when 99 % and all were, and how many were at the end.
async fn wait(
    swarm: &Swarm,
    concerned: &BTreeSet<usize>,
    begun: Instant,
    done: impl Fn(usize, &Got) -> bool,
) -> (f64, f64, usize) {
    let enough = (concerned.len() * 99).div_ceil(100);
    let mut most = None;
    loop {
        let got = swarm.got();
        let reached = concerned.iter().filter(|i| done(**i, &got[**i])).count();
        let elapsed = begun.elapsed().as_secs_f64() * 1e3;
        if reached >= enough {
            most.get_or_insert(elapsed);
        }
        if reached == concerned.len() || begun.elapsed() > PHASE_LIMIT {
            return (most.unwrap_or(elapsed), elapsed, reached);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Measures one mesh of one size.
pub(crate) async fn measure(mesh: Mesh, size: usize) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let mut process = Process::start(dir.path(), mesh, size, 0).await?;
    let mut rows = Vec::new();
    let everybody: BTreeSet<usize> = (0..size).collect();

    let (cpu, begun) = (process.cpu()?, clock::now());
    let swarm = start(mesh, size, &process.address);
    let (most, all, reached) = wait(&swarm, &everybody, begun, |_, got| got.updates > 0).await;
    tokio::time::sleep(AFTERMATH).await;
    let base = Row {
        mesh: mesh.title(),
        nodes: size,
        what: "all connect, first map",
        concerned: size,
        reached,
        wall_ms_99: most,
        wall_ms: all,
        cpu_ms: (process.cpu()?.saturating_sub(cpu)).as_secs_f64() * 1e3,
        bytes: swarm.got().iter().map(|g| g.bytes).sum(),
        bytes_unconcerned: 0,
        rss_mib: process.rss_mib()?,
        broken: broken(&swarm),
        silent: false,
    };
    let complete = reached == size;
    rows.push(base.clone());
    if !complete {
        return Ok(rows);
    }

    let first = swarm.id(0);
    for i in mesh.interested().filter(|i| *i < size) {
        swarm.order(i, ToCoordinator::Interest(vec![first])).await?;
    }
    tokio::time::sleep(AFTERMATH).await;
    for change in [Change::Endpoint, Change::Tag, Change::Policy] {
        rows.push(one_change(&mut process, &swarm, change, &base).await?);
    }

    let port = process.address.rsplit(':').next().and_then(|p| p.parse().ok()).context("no port")?;
    process.child.kill().await?;
    let before = swarm.got();
    let begun = clock::now();
    let process = Process::start(dir.path(), mesh, size, port).await?;
    process.address.clone_into(&mut swarm.address.lock().unwrap_or_else(PoisonError::into_inner));
    let back = |i: usize, got: &Got| got.welcomes > before[i].welcomes;
    let (most, all, reached) = wait(&swarm, &everybody, begun, back).await;
    tokio::time::sleep(AFTERMATH).await;
    let after = swarm.got();
    rows.push(Row {
        what: "all resume after kill -9",
        reached,
        wall_ms_99: most,
        wall_ms: all,
        cpu_ms: process.cpu()?.as_secs_f64() * 1e3,
        bytes: after.iter().zip(&before).map(|(a, b)| a.map_bytes - b.map_bytes).sum(),
        rss_mib: process.rss_mib()?,
        broken: broken(&swarm),
        silent: true,
        ..base
    });
    Ok(rows)
}

async fn one_change(process: &mut Process, swarm: &Swarm, change: Change, base: &Row) -> Result<Row> {
    let size = swarm.counters.len();
    let concerned = swarm.mesh.concerned(change, size);
    let before = swarm.got();
    let (cpu, begun) = (process.cpu()?, clock::now());
    let what = match change {
        Change::Endpoint => {
            let endpoints = vec![Endpoint(([192, 0, 2, 7], 41820).into())];
            swarm.order(0, ToCoordinator::Endpoints { endpoints, home_relay: None }).await?;
            "endpoint change"
        }
        Change::Tag => {
            let (node, tag) = swarm.mesh.retagged(size);
            process.order(&format!("tag {} {tag}", node::name(node))).await?;
            "tag change"
        }
        Change::Policy => {
            process.order("policy").await?;
            "policy change"
        }
    };
    let heard = |i: usize, got: &Got| got.updates > before[i].updates || got.hints > before[i].hints;
    let (most, all, reached) = wait(swarm, &concerned, begun, heard).await;
    tokio::time::sleep(AFTERMATH).await;
    let after = swarm.got();
    let bytes = |to_concerned: bool| {
        let nodes = (0..size).filter(|i| concerned.contains(i) == to_concerned);
        nodes.map(|i| after[i].bytes - before[i].bytes).sum()
    };
    Ok(Row {
        what,
        concerned: concerned.len(),
        reached,
        wall_ms_99: most,
        wall_ms: all,
        cpu_ms: (process.cpu()?.saturating_sub(cpu)).as_secs_f64() * 1e3,
        bytes: bytes(true),
        bytes_unconcerned: bytes(false),
        rss_mib: process.rss_mib()?,
        broken: broken(swarm),
        ..base.clone()
    })
}

fn broken(swarm: &Swarm) -> usize {
    swarm.counters.iter().filter(|c| c.broken.load(Ordering::Relaxed)).count()
}

fn start(mesh: Mesh, size: usize, address: &str) -> Swarm {
    // The founding entropy of the bench's coordinator is fixed, and its network id with it.
    let network = network();
    let address = Arc::new(Mutex::new(address.to_owned()));
    let mut swarm = Swarm {
        mesh,
        counters: Vec::new(),
        orders: Vec::new(),
        address: address.clone(),
        _tasks: JoinSet::new(),
    };
    for index in 0..size {
        let counters = Arc::new(Counters::default());
        let (order, orders) = mpsc::channel(8);
        let checks = index % (size / CHECKING).max(1) == 0;
        let map = checks.then(|| NetworkMap::empty(network));
        let node =
            SimNode { index, network, counters: counters.clone(), orders, position: None, map, parts: None };
        swarm._tasks.spawn(node.run(address.clone()));
        swarm.counters.push(counters);
        swarm.orders.push(order);
    }
    swarm
}

fn network() -> NetworkId {
    NetworkId::from_bytes([7; 16])
}
