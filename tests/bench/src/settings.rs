//! What to measure, from the environment: `ROUNDS`, `QUICK`, `ONLY`, `UNDERLAYS`, `MEASURES`.

use crate::contestant::Kind;
use crate::underlay::Underlay;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What can be measured.
pub(crate) const MEASURES: [&str; 6] = ["tcp", "udp", "ping", "idle", "thousand", "userspace"];

/// One run.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Interleaved rounds.
    pub(crate) rounds: usize,
    /// The short form.
    pub(crate) quick: bool,
    /// Who takes part, the plain cable first.
    pub(crate) contestants: Vec<Kind>,
    /// On which cables.
    pub(crate) underlays: Vec<Underlay>,
    /// A part of [`MEASURES`].
    measures: Vec<String>,
    /// Parallel TCP streams.
    pub(crate) streams: Vec<u32>,
    /// Length of one TCP measurement.
    pub(crate) tcp_seconds: u32,
    /// Length of one step of the UDP ladder.
    pub(crate) udp_seconds: u32,
    /// How long to look at idle daemons.
    pub(crate) idle_seconds: u64,
    /// Programs that `tests/bench/tools` installed, by name.
    programs: BTreeMap<String, PathBuf>,
}

impl Settings {
    /// Reads the environment; an unknown word is an error.
    pub(crate) fn from_environment() -> Result<Settings> {
        let quick = std::env::var("QUICK").is_ok_and(|v| !v.is_empty() && v != "0");
        let rounds = match word("ROUNDS") {
            Some(n) => n.parse().with_context(|| format!("ROUNDS={n} is not a number"))?,
            None => {
                if quick {
                    1
                } else {
                    3
                }
            }
        };
        let contestants = match list("ONLY") {
            Some(names) => names.iter().map(|n| Kind::parse(n)).collect::<Result<_>>()?,
            None if quick => vec![Kind::Veth, Kind::Meshd, Kind::WireguardGo, Kind::BoringTun],
            None => Kind::ALL.to_vec(),
        };
        let underlays = match list("UNDERLAYS") {
            Some(names) => names.iter().map(|n| Underlay::parse(n)).collect::<Result<_>>()?,
            None => Underlay::ALL.to_vec(),
        };
        let measures = list("MEASURES").unwrap_or_else(|| MEASURES.map(str::to_owned).to_vec());
        if let Some(unknown) = measures.iter().find(|m| !MEASURES.contains(&m.as_str())) {
            bail!("MEASURES: `{unknown}` is none of {}", MEASURES.join(", "));
        }
        if rounds == 0 {
            bail!("ROUNDS must be 1 or more");
        }
        Ok(Settings {
            rounds,
            quick,
            contestants,
            underlays,
            measures,
            streams: if quick { vec![1, 4] } else { vec![1, 4, 8] },
            tcp_seconds: 2,
            udp_seconds: 1,
            idle_seconds: if quick { 5 } else { 20 },
            programs: programs()?,
        })
    }

    /// Whether a part of [`MEASURES`] is wanted.
    pub(crate) fn wants(&self, measure: &str) -> bool {
        self.measures.iter().any(|m| m == measure)
    }

    /// A program that `tests/bench/tools` installed.
    pub(crate) fn program(&self, name: &str) -> Result<&str> {
        let path = self.programs.get(name).with_context(|| format!("{name}: run tests/bench/tools first"))?;
        if !path.exists() {
            bail!("{} is missing: run tests/bench/tools", path.display());
        }
        path.to_str().context("a printable path")
    }
}

fn word(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
}

fn list(name: &str) -> Option<Vec<String>> {
    let words = word(name)?;
    Some(words.split([',', ' ']).filter(|w| !w.is_empty()).map(str::to_owned).collect())
}

fn programs() -> Result<BTreeMap<String, PathBuf>> {
    let folder = match std::env::var_os("MESHD_TOOLS") {
        Some(folder) => PathBuf::from(folder),
        None => {
            PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache/meshd/tools")
        }
    };
    let file = folder.join("programs");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("{}: run tests/bench/tools first (`make bench` does)", file.display()))?;
    Ok(text.lines().filter_map(|l| l.split_once('=')).map(|(n, p)| (n.to_owned(), p.into())).collect())
}
