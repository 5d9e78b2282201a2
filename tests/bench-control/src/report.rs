//! The figures: one row for each measurement, as a table and as JSON.

use anyhow::{Context, Result};
use serde::Serialize;
use std::path::PathBuf;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// Which mesh.
    pub(crate) mesh: &'static str,
    /// How many nodes.
    pub(crate) nodes: usize,
    /// What was done.
    pub(crate) what: &'static str,
    /// Nodes that the change concerns.
    pub(crate) concerned: usize,
    /// Nodes of those that heard of it.
    pub(crate) reached: usize,
    /// Until 99 % of the concerned had it.
    pub(crate) wall_ms_99: f64,
    /// Until all of the concerned had it.
    pub(crate) wall_ms: f64,
    /// CPU time of the coordinator.
    pub(crate) cpu_ms: f64,
    /// Bytes of map and hint messages to the concerned.
    pub(crate) bytes: u64,
    /// The same to all others.
    pub(crate) bytes_unconcerned: u64,
    /// Memory of the coordinator afterwards.
    pub(crate) rss_mib: f64,
    /// Digests that were wrong, nodes that were refused.
    pub(crate) broken: usize,
    /// Whether no byte at all of map may be sent.
    #[serde(skip)]
    pub(crate) silent: bool,
}

impl Row {
    /// What is wrong with it.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.broken > 0 {
            return Some(format!("{} nodes have a wrong map or were refused", self.broken));
        }
        if self.reached < self.concerned {
            return Some(format!("{} of {} were reached", self.reached, self.concerned));
        }
        if self.bytes_unconcerned > 0 {
            return Some(format!("{} bytes to nodes that it does not concern", self.bytes_unconcerned));
        }
        (self.silent && self.bytes > 0)
            .then(|| format!("{} bytes of map, though nothing had changed", self.bytes))
    }
}

const HEAD: [&str; 11] = [
    "mesh",
    "nodes",
    "what",
    "concerned",
    "reached",
    "99% ms",
    "all ms",
    "CPU ms",
    "bytes",
    "to others",
    "RSS MiB",
];

/// Prints an aligned table.
pub(crate) fn print(rows: &[Row]) {
    let mut table = vec![HEAD.map(str::to_owned)];
    table.extend(rows.iter().map(|r| {
        [
            r.mesh.to_owned(),
            r.nodes.to_string(),
            r.what.to_owned(),
            r.concerned.to_string(),
            r.reached.to_string(),
            format!("{:.0}", r.wall_ms_99),
            format!("{:.0}", r.wall_ms),
            format!("{:.1}", r.cpu_ms),
            r.bytes.to_string(),
            r.bytes_unconcerned.to_string(),
            format!("{:.0}", r.rss_mib),
        ]
    }));
    let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    for row in &table {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, w))| match i {
            0 | 2 => format!("{cell:<w$}"),
            _ => format!("{cell:>w$}"),
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    println!("CPU and RSS are the coordinator's; bytes are sealed map and hint messages, keepalives apart.");
}

/// Writes the rows as JSON where the caller wants the report, else to `target/reports`.
pub(crate) fn write(rows: &[Row]) -> Result<()> {
    let path = std::env::var_os("MESHD_REPORT")
        .map_or_else(|| PathBuf::from("target/reports/bench-control.json"), PathBuf::from);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let text = serde_json::to_string_pretty(&serde_json::json!({ "rows": rows }))?;
    std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}
