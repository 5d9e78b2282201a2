//! How many kills, where, and who makes them.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meshd_lab::{Host, Process, now};
use rustix::process::Signal;

/// For each kill, on a machine that does other things, too: starts, a change, a cleanup and a comparison.
const TIME_PER_KILL: Duration = Duration::from_secs(8);
/// For what comes before and after the kills.
const TIME_AROUND: Duration = Duration::from_secs(120);

/// What all tests of this run have counted, for the report of the make target.
static REPORT: Mutex<BTreeMap<String, BTreeMap<String, usize>>> = Mutex::new(BTreeMap::new());

/// The part of `N` that one test makes, and what became of it.
pub(crate) struct Budget {
    pub(crate) kills: usize,
    began: Instant,
    end: Instant,
    phases: BTreeMap<String, usize>,
    places: BTreeMap<String, usize>,
    random: u64,
}

impl Budget {
    /// `percent` of the `N` of the make target.
    pub(crate) fn share(percent: usize) -> Result<Budget> {
        let wanted = std::env::var("TORTURE_N").ok().map(|n| n.parse::<usize>()).transpose();
        let wanted = wanted.context("TORTURE_N is not a number")?.unwrap_or(30);
        let seed = match std::env::var("TORTURE_SEED") {
            Ok(seed) => seed.parse().context("TORTURE_SEED is not a number")?,
            Err(_) => u64::from(std::process::id()).wrapping_mul(0x9e37_79b9),
        };
        println!("{percent} % of {wanted} kills, TORTURE_SEED={seed}");
        let kills = (wanted * percent).div_ceil(100);
        Ok(Budget {
            kills,
            began: now(),
            end: now() + TIME_AROUND + TIME_PER_KILL * u32::try_from(kills)?,
            phases: BTreeMap::new(),
            places: BTreeMap::new(),
            random: seed,
        })
    }

    pub(crate) fn made(&self) -> usize {
        self.phases.values().sum()
    }

    /// Whether `part` percent of the kills are still to be made, and there is time.
    pub(crate) fn goes_on(&self, part: usize) -> bool {
        self.made() * 100 < self.kills * part && now() < self.end
    }

    pub(crate) fn killed(&mut self, phase: &str) {
        *self.phases.entry(phase.to_owned()).or_default() += 1;
        if self.made().is_multiple_of(25) {
            println!("… {} of {} kills after {:?}", self.made(), self.kills, now() - self.began);
        }
    }

    /// The kill just counted hit this kind of change.
    pub(crate) fn hit(&mut self, place: &str) {
        *self.places.entry(place.to_owned()).or_default() += 1;
    }

    /// A number below `below` (splitmix64).
    pub(crate) fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    /// Prints the counts; an error when the time limit has cut some.
    pub(crate) fn report(&self, what: &str, result: &str) -> Result<()> {
        println!("{what}: {} kills in {:?}: {:#?}", self.made(), now() - self.began, self.phases);
        if !self.places.is_empty() {
            println!("{what}: where they hit: {:#?}", self.places);
        }
        println!("{what}: {result}");
        ensure!(
            self.made() >= self.kills,
            "{what}: only {} of {} kills within the time limit",
            self.made(),
            self.kills
        );
        let mut all = REPORT.lock().expect("not poisoned");
        all.insert(what.to_owned(), self.phases.clone());
        if !self.places.is_empty() {
            all.insert(format!("{what}, kinds of changes"), self.places.clone());
        }
        if let Some(path) = std::env::var_os("MESHD_REPORT") {
            fs::write(path, serde_json::to_string(&*all)?)?;
        }
        Ok(())
    }
}

/// A class of system calls that are steps.
pub(crate) struct Steps {
    pub(crate) calls: &'static str,
}

impl Steps {
    /// Arguments of strace that only watch, one line per step.
    pub(crate) fn watch(&self) -> [String; 2] {
        ["-e".into(), format!("trace={}", self.calls)]
    }

    /// Arguments of strace that kill at one step. It counts per thread and per system call.
    pub(crate) fn kill_at(&self, step: &Step) -> [String; 4] {
        let [flag, trace] = self.watch();
        [flag, trace, "-e".into(), format!("inject={}:signal=SIGKILL:when={}", step.call, step.k)]
    }
}

/// The `k`-th time that a thread makes a system call.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) call: String,
    pub(crate) k: usize,
}

/// Every step in what `strace -f -o` wrote.
pub(crate) fn steps(host: &Host, file: &str) -> Result<Vec<Step>> {
    let text = fs::read_to_string(host.file(file)).context("no trace")?;
    let mut made: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut most: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(char::is_whitespace) else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if !call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        let count = made.entry((thread, call)).or_default();
        *count += 1;
        let most = most.entry(call).or_default();
        *most = (*most).max(*count);
    }
    Ok(most
        .into_iter()
        .flat_map(|(call, most)| (1..=most).map(move |k| Step { call: call.to_owned(), k }))
        .collect())
}

/// Attaches strace to all threads of a program that runs.
pub(crate) fn attach<S: AsRef<str>>(
    host: &Host,
    program: &Process,
    args: &[S],
    out: &str,
) -> Result<Process> {
    let pid = program.pid()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let inside = status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last());
    let inside = inside.context("no process id inside")?;
    let fixed = ["-f", "-o", out, "-p", inside];
    let tracer = host.spawn("strace", fixed.into_iter().chain(args.iter().map(AsRef::as_ref)))?;
    tracer.wait_for_log("attached", Duration::from_secs(5))?;
    Ok(tracer)
}

/// SIGKILL for a program that may be dead already; gives whether it was.
pub(crate) fn end(mut program: Process) -> Result<bool> {
    let dead = !program.is_running();
    if !dead {
        // It may die between the question and the signal.
        let _ = program.signal(Signal::KILL);
    }
    let gone = program.is_gone_within(Duration::from_secs(5))?;
    ensure!(gone, "a program outlived SIGKILL");
    Ok(dead)
}
