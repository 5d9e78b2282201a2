//! `make scenarios`: one line for each id of the scenario list: passed, failed, or not built yet and why.
//!
//! `scenarios [--some] LIST COMMAND…` runs `COMMAND` (cargo test with `--show-output`), passes its output on, and reads
//! from it the tests that are named after an id (`s4_3_…`) and what they print (`scenario S4.3 …`). The ids are
//! the first cells of the tables of LIST; its last part, "Not built yet", says why an id has no test. An id with
//! neither a test nor a reason is an error (with `--some`: it was not run), and so is one with both.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;

/// "S4.15" as (4, 15): sorts as people count.
type Id = (u32, u32);

#[derive(Default)]
struct Seen {
    passed: usize,
    failed: usize,
    /// What the scenario printed of itself: with its feature, without.
    said: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let mut args = std::env::args().skip(1).peekable();
    let some = args.next_if_eq("--some").is_some();
    let list = args.next().context("usage: scenarios LIST COMMAND…")?;
    let command: Vec<String> = args.collect();
    let text = std::fs::read_to_string(&list).with_context(|| format!("cannot read {list}"))?;
    let (wanted, missing) = text
        .split_once("## Not built yet")
        .with_context(|| format!("{list} has no part \"Not built yet\""))?;
    let (wanted, missing) = (rows(wanted), rows(missing));
    ensure!(!wanted.is_empty(), "{list} lists no scenario");
    let seen = run(&command)?;

    let (mut report, mut wrong, mut passed, mut open) = (Vec::new(), 0, 0, 0);
    println!("\n{:<7} {:<9} what it shows, without its feature", "id", "");
    for id in wanted.keys() {
        let (verdict, why) = match (seen.get(id), missing.get(id)) {
            (Some(seen), None) if seen.failed == 0 => {
                passed += 1;
                ("passed", seen.said.join("; "))
            }
            (Some(seen), None) => {
                ("FAILED", format!("{} of {} tests", seen.failed, seen.failed + seen.passed))
            }
            (None, Some(why)) => {
                open += 1;
                ("not built", why.clone())
            }
            (Some(_), Some(_)) => ("WRONG", "it has a test and is listed as not built".to_owned()),
            (None, None) if some => continue,
            (None, None) => ("WRONG", "it has no test and no reason in the list".to_owned()),
        };
        wrong += usize::from(matches!(verdict, "FAILED" | "WRONG"));
        let name = format!("S{}.{}", id.0, id.1);
        println!("{name:<7} {verdict:<9} {why}");
        report.push(json!({ "id": name, "verdict": verdict, "why": why }));
    }
    for id in seen.keys().chain(missing.keys()).filter(|id| !wanted.contains_key(id)) {
        println!("S{}.{}   WRONG     it is not in {list}", id.0, id.1);
        wrong += 1;
    }
    println!("{passed} passed, {open} not built yet, {wrong} failed");
    if let Ok(path) = std::env::var("MESHD_REPORT") {
        std::fs::write(&path, json!(report).to_string()).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The rows of the tables of `text` whose first cell is an id, with their second cell.
fn rows(text: &str) -> BTreeMap<Id, String> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let (major, minor) = cells.next()?.trim_matches('*').strip_prefix('S')?.split_once('.')?;
        Some(((major.parse().ok()?, minor.parse().ok()?), cells.next().unwrap_or_default().to_owned()))
    };
    text.lines().filter_map(row).collect()
}

/// `…::s4_3_a_lan` is a test of (4, 3).
fn id_of_test(path: &str) -> Option<Id> {
    let mut parts = path.rsplit("::").next()?.strip_prefix('s')?.splitn(3, '_');
    let id = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().map(|_| id)
}

/// Runs the tests and passes their output on.
fn run(command: &[String]) -> Result<BTreeMap<Id, Seen>> {
    let (program, args) = command.split_first().context("usage: scenarios LIST COMMAND…")?;
    let mut child = Command::new(program)
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let mut seen: BTreeMap<Id, Seen> = BTreeMap::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        println!("{line}");
        if let Some((name, verdict)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            let Some(id) = id_of_test(name.trim()) else { continue };
            let entry = seen.entry(id).or_default();
            // Anything but "ok" is no proof: "FAILED", "ignored".
            *(if verdict == "ok" { &mut entry.passed } else { &mut entry.failed }) += 1;
        } else if let Some(said) = line.strip_prefix("scenario S") {
            let Some((id, rest)) = said.split_once([' ', ':']) else { continue };
            let Some((major, minor)) = id.split_once('.') else { continue };
            let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
            let said = rest.trim_start_matches([':', ' ']).to_owned();
            seen.entry((major, minor)).or_default().said.push(said);
        }
    }
    let ended = child.wait()?;
    ensure!(
        ended.success() || seen.values().any(|s| s.failed > 0),
        "{program} failed, and no scenario did: {ended}"
    );
    Ok(seen)
}
