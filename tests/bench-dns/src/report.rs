//! The figures: medians of the rounds as a table and as JSON, with what was aimed at.

use crate::contestant::{Contestant, Make};
use crate::generator::Load;
use crate::overload::Overload;
use crate::question::Names;
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// At most so much of the echo's CPU time; at least so many times less than the others'.
const OF_ECHO: f64 = 1.2;
const OF_UNBOUND: f64 = 1.5;
const OF_DNSMASQ: f64 = 1.8;

/// One server with one kind of names under one load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    server: &'static str,
    version: String,
    names: &'static str,
    load: &'static str,
    /// CPU time of a question: median and least of the rounds.
    cpu_us: f64,
    least_us: f64,
    /// Answers a second: median.
    per_second: f64,
    /// Its CPU time divided by ours.
    by_ours: f64,
    #[serde(skip)]
    make: Make,
}

impl Row {
    pub(crate) fn new(
        contestant: &Contestant,
        names: Names,
        load: Load,
        samples: Vec<(f64, u64)>,
        slice: Duration,
    ) -> Self {
        let mut cpu: Vec<f64> = samples.iter().map(|(nanos, _)| nanos / 1000.0).collect();
        cpu.sort_by(f64::total_cmp);
        let mut answered: Vec<u64> = samples.iter().map(|(_, answered)| *answered).collect();
        answered.sort_unstable();
        Self {
            server: contestant.make.title(),
            version: contestant.version.clone(),
            names: names.title(),
            load: load.title(),
            cpu_us: cpu[cpu.len() / 2],
            least_us: cpu[0],
            per_second: answered[answered.len() / 2] as f64 / slice.as_secs_f64(),
            by_ours: 0.0,
            make: contestant.make,
        }
    }
}

/// Puts our own figure beside everybody's.
pub(crate) fn judge(rows: &mut [Row]) {
    let ours: Vec<_> =
        rows.iter().filter(|r| r.make == Make::Meshd).map(|r| (r.names, r.load, r.cpu_us)).collect();
    for row in rows.iter_mut() {
        let found = ours.iter().find(|(names, load, _)| (*names, *load) == (row.names, row.load));
        row.by_ours = found.map_or(f64::NAN, |(_, _, ours)| row.cpu_us / ours);
    }
}

/// What was aimed at in bursts, and whether it is so.
fn aims(rows: &[Row]) -> Vec<(String, bool)> {
    let mut aims = Vec::new();
    for names in [Names::Mesh, Names::Cached] {
        for (make, least) in
            [(Make::Echo, 1.0 / OF_ECHO), (Make::Unbound, OF_UNBOUND), (Make::Dnsmasq, OF_DNSMASQ)]
        {
            let row = rows
                .iter()
                .find(|r| (r.make, r.names, r.load) == (make, names.title(), Load::Bursts.title()));
            let Some(row) = row else { continue };
            let text = match make {
                Make::Echo => format!(
                    "{}: {:.2} times the CPU time of a bare echo (aim: at most {OF_ECHO})",
                    row.names,
                    1.0 / row.by_ours
                ),
                _ => format!(
                    "{}: {} takes {:.2} times our CPU time (aim: at least {least})",
                    row.names, row.server, row.by_ours
                ),
            };
            aims.push((text, row.by_ours >= least));
        }
    }
    aims
}

/// Prints the table, and the aims.
pub(crate) fn print(rows: &[Row]) {
    println!("CPU time of the server for an answered question (median and least of the rounds):");
    println!(
        "{:<12} {:<14} {:<10} {:<10} {:>10} {:>10} {:>12} {:>8}",
        "names", "load", "server", "version", "median us", "least us", "answers/s", "by ours"
    );
    for row in rows {
        let version = if row.make == Make::Echo { "" } else { &row.version };
        println!(
            "{:<12} {:<14} {:<10} {:<10} {:>10.2} {:>10.2} {:>12.0} {:>8.2}",
            row.names, row.load, row.server, version, row.cpu_us, row.least_us, row.per_second, row.by_ours
        );
    }
    for (text, reached) in aims(rows) {
        println!("{}  {text}", if reached { "reached    " } else { "NOT REACHED" });
    }
}

/// Writes everything as JSON where the caller wants the report, else to `target/reports`.
pub(crate) fn write(rows: &[Row], overload: &Overload, rounds: usize) -> Result<()> {
    let path = std::env::var_os("MESHD_REPORT")
        .map_or_else(|| PathBuf::from("target/reports/bench-dns.json"), PathBuf::from);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let aims: Vec<_> = aims(rows)
        .into_iter()
        .map(|(aim, reached)| serde_json::json!({ "aim": aim, "reached": reached }))
        .collect();
    let all = serde_json::json!({ "rounds": rounds, "rows": rows, "aims": aims, "overload": overload });
    std::fs::write(&path, serde_json::to_string_pretty(&all)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}
