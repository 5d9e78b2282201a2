//! Where a run goes besides the terminal: JSON for machines, an SVG plot for the documentation.

use crate::bound::{self, Crypto};
use crate::contestant::{Contestant, Kind};
use crate::figures::Figure;
use crate::plot;
use crate::samples::{Samples, median};
use crate::settings::Settings;
use crate::underlay::Underlay;
use anyhow::{Context, Result};
use meshd_lab::now;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Processor, cores, kernel, and how busy the machine was before the run.
pub(crate) fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    let busy = load.first().and_then(|l| l.parse::<f64>().ok()).is_some_and(|l| l > 0.5);
    let note = if busy { " (others are using this machine: figures are provisional)" } else { "" };
    format!("{model}, {cores} cores, Linux {}, load {}{note}", kernel.trim(), load.join(" "))
}

/// Writes `bench.json` and `bench.svg`; after a whole run the plot of the documentation, too.
pub(crate) fn write(
    running: &[Contestant],
    settings: &Settings,
    samples: &Samples,
    bounds: &BTreeMap<Underlay, f64>,
    figures: &[Figure],
    crypto: &Crypto,
    began: Instant,
) -> Result<()> {
    let json = report(running, settings, samples, bounds, figures, crypto, began);
    let path = std::env::var_os("MESHD_REPORT")
        .map_or_else(|| PathBuf::from("target/reports/bench.json"), PathBuf::from);
    save(&path, &(serde_json::to_string_pretty(&json)? + "\n"))?;
    let kinds: Vec<Kind> = running.iter().map(|c| c.kind).collect();
    let caption = format!("medians of {} rounds, line: minimum to maximum; {}", settings.rounds, machine());
    let svg = plot::svg(&kinds, &settings.underlays, samples, &caption);
    save(Path::new("target/reports/bench.svg"), &svg)?;
    if std::env::var_os("PLOT").is_some() {
        save(Path::new("docs/performance.svg"), &svg)?;
    }
    Ok(())
}

fn save(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn report(
    running: &[Contestant],
    settings: &Settings,
    samples: &Samples,
    bounds: &BTreeMap<Underlay, f64>,
    figures: &[Figure],
    crypto: &Crypto,
    began: Instant,
) -> Value {
    let values = samples.iter().map(|(key, all)| {
        json!({
            "contestant": key.kind.name(),
            "cable": key.underlay.map(Underlay::name),
            "metric": key.metric,
            "median": median(all),
            "min": all.iter().copied().reduce(f64::min),
            "values": all,
        })
    });
    json!({
        "machine": machine(),
        "rounds": settings.rounds,
        "quick": settings.quick,
        "seconds": (now() - began).as_secs_f64(),
        "contestants": running.iter().map(|c| json!({
            "name": c.kind.name(), "version": c.version, "mtu": c.mtu,
        })).collect::<Vec<_>>(),
        "crypto": { "packet": bound::PACKET, "seal_gb_s": crypto.seal_gb_s, "open_gb_s": crypto.open_gb_s },
        "bound_gbit_s": bounds.iter().map(|(u, b)| (u.name().to_owned(), json!(b))).collect::<serde_json::Map<_, _>>(),
        "figures": figures.iter().map(|f| json!({
            "figure": f.what, "measured": f.measured, "wanted": f.wanted, "aim": f.aim,
            "reached": f.reached(), "verdict": f.verdict(),
        })).collect::<Vec<_>>(),
        "values": values.collect::<Vec<_>>(),
    })
}
