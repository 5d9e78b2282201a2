//! `make sim-mutants`: builds all faults into one copy of the engine and runs the simulation on it, with each of them
//! in turn, which must fail. Arguments name the faults to keep. Nothing in the checkout is changed.
//!
//! For each fault the table says how many scenario tests saw it, and at which of the random schedules it was seen.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use meshd_sim::faults::{FAULTS, Fault, SWITCH};

/// Schedules that a fault is given to show itself.
const SCHEDULES: u32 = 500;
/// What the simulation is made of.
const CRATES: [&str; 4] = ["proto", "policy", "engine", "tests/sim"];

fn main() -> io::Result<ExitCode> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let faults: Vec<&Fault> =
        FAULTS.iter().filter(|f| wanted.is_empty() || wanted.iter().any(|w| w == f.name)).collect();
    let tree = Tree::new()?;
    if let Some(why) = tree.build()? {
        println!("the copy does not compile:\n{why}");
        return Ok(ExitCode::FAILURE);
    }
    let sound = tree.test("none")?;
    if !sound.failed.is_empty() {
        println!("without a fault the simulation fails already:\n{}", sound.output);
        return Ok(ExitCode::FAILURE);
    }
    println!("{:<22} {:<28} scenarios", "fault", "random schedules");
    println!("{:<22} {:<28} all hold", "none", format!("{SCHEDULES} hold"));
    let mut missed = Vec::new();
    for fault in &faults {
        let found = tree.test(fault.name)?;
        let seed = found.output.split("MESHD_SIM_SEED=").nth(1).and_then(|t| t.split_whitespace().next());
        let scenarios = found.failed.iter().filter(|name| !name.starts_with("after_any_trouble")).count();
        let schedules = seed.map_or("all hold".to_owned(), |seed| format!("seen with seed {seed}"));
        println!("{:<22} {schedules:<28} {scenarios} fail", fault.name);
        if found.failed.is_empty() {
            missed.push(fault.name);
        }
    }
    println!("{} faults, {} not seen{}", faults.len(), missed.len(), list(&missed));
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) }
}

/// A copy of the sources with all faults in it.
struct Tree {
    copy: PathBuf,
    build: PathBuf,
}

/// What the tests said.
struct Found {
    failed: Vec<String>,
    output: String,
}

impl Tree {
    fn new() -> io::Result<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        // The build folder is the checkout's: other people's crates are there.
        let build = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| source.join("target"), PathBuf::from);
        let tree = Self { copy: build.join("sim-mutants"), build };
        let _ = fs::remove_dir_all(&tree.copy);
        for folder in CRATES {
            copy_folder(&source.join(folder), &tree.copy.join(folder))?;
        }
        for file in ["Cargo.lock", "rust-toolchain.toml", "clippy.toml"] {
            if source.join(file).exists() {
                fs::copy(source.join(file), tree.copy.join(file))?;
            }
        }
        let manifest = fs::read_to_string(source.join("Cargo.toml"))?;
        let (head, rest) =
            manifest.split_once("members = [").ok_or_else(|| io::Error::other("no members"))?;
        let (_, rest) = rest.split_once(']').ok_or_else(|| io::Error::other("no end of the members"))?;
        let members = CRATES.map(|folder| format!("{folder:?}")).join(", ");
        // Profiles of packages that are not in the copy are only warned about.
        fs::write(tree.copy.join("Cargo.toml"), format!("{head}members = [{members}]{rest}"))?;
        for edit in FAULTS.iter().flat_map(|fault| fault.edits) {
            let path = tree.copy.join(edit.file);
            let wrong = edit.apply(&fs::read_to_string(&path)?).map_err(io::Error::other)?;
            fs::write(path, wrong)?;
        }
        let root = tree.copy.join("engine/src/lib.rs");
        let text = fs::read_to_string(&root)?;
        fs::write(root, text + SWITCH)?;
        Ok(tree)
    }

    fn cargo(&self) -> Command {
        let mut cargo = Command::new("cargo");
        cargo
            .args(["test", "-p", "meshd-sim", "--no-fail-fast"])
            .args(["--test", "paths", "--test", "rules", "--test", "schedules"])
            .current_dir(&self.copy)
            .env("CARGO_TARGET_DIR", &self.build)
            .env("RUST_BACKTRACE", "0")
            .env("MESHD_SIM_SCHEDULES", SCHEDULES.to_string());
        cargo
    }

    /// Builds what simulates; why that did not work.
    fn build(&self) -> io::Result<Option<String>> {
        let built = self.cargo().arg("--no-run").output()?;
        Ok((!built.status.success()).then(|| String::from_utf8_lossy(&built.stderr).into_owned()))
    }

    /// Runs the scenarios and the schedules with one fault.
    fn test(&self, fault: &str) -> io::Result<Found> {
        let run = self.cargo().env("MESHD_FAULT", fault).output()?;
        let output =
            String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
        let failed = output
            .lines()
            .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"))
            .map(str::to_owned)
            .collect();
        Ok(Found { failed, output })
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
