//! `make bench-control`: what a change of the mesh costs the coordinator.
//!
//! The coordinator (real service, real SQLite, real control channel) runs in a process of its own, so that
//! its CPU time is its own; simulated nodes speak the real protocol to it over loopback TCP. They
//! acknowledge what they get; every twentieth or so keeps its whole map and checks every digest.
//!
//! Two meshes: 20 policy classes in a ring, and one owner for each node with a few shared servers. For each
//! size: all connect for the first time, an endpoint change, a tag change, a policy change, and all
//! come back after `kill -9` of the coordinator. Bytes to nodes that a change does not concern must be 0,
//! map bytes after the restart too; otherwise the program fails.

mod clock;
mod coordinator;
mod mesh;
mod node;
mod report;
mod swarm;

use anyhow::{Context, Result, bail};
use mesh::Mesh;
use report::Row;

/// Sizes of the mesh when none are named.
const SIZES: [usize; 3] = [100, 1_000, 3_000];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    raise_file_limit()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if args.first().is_some_and(|a| a == "--coordinator") {
        return runtime.block_on(coordinator::run(&args[1..]));
    }
    let sizes: Vec<usize> = if args.is_empty() {
        SIZES.to_vec()
    } else {
        args.iter()
            .map(|a| a.parse().with_context(|| format!("`{a}` is not a number of nodes")))
            .collect::<Result<_>>()?
    };
    if sizes.iter().any(|n| !(40..=50_000).contains(n)) {
        bail!("a size between 40 and 50000 nodes, please");
    }
    let mut rows = Vec::new();
    for mesh in [Mesh::Classes, Mesh::Owners] {
        for &size in &sizes {
            eprintln!("{size} nodes, {}…", mesh.title());
            rows.extend(runtime.block_on(swarm::measure(mesh, size))?);
        }
    }
    report::print(&rows);
    report::write(&rows)?;
    let faults: Vec<&Row> = rows.iter().filter(|r| r.fault().is_some()).collect();
    for row in &faults {
        eprintln!("{}, {} nodes, {}: {}", row.mesh, row.nodes, row.what, row.fault().unwrap_or_default());
    }
    if faults.is_empty() { Ok(()) } else { bail!("{} of {} measurements failed", faults.len(), rows.len()) }
}

/// Each node is a socket here and one in the coordinator.
fn raise_file_limit() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")
}
