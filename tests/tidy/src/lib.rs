//! House rules as tests: what the tests in `tests/` read the workspace through.
//!
//! It reads files and `cargo metadata` and never changes anything. A rule that is broken is reported
//! with file and line, all breaches of one rule at once, so that one run shows the whole list.
//!
//! Invariants: comments and literals never count as code; inline test modules and test files never
//! count as production code; build output and `.git` are never read.

mod lex;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub use lex::{blank_non_code, blank_test_modules};

/// Files longer than this, without their tests, hold more than one idea.
pub const MAX_PRODUCTION_LINES: usize = 600;

/// A struct with more fields is a program in disguise.
pub const MAX_STRUCT_FIELDS: usize = 25;

/// One Rust file of the workspace.
#[derive(Debug)]
pub struct RustFile {
    /// Path below the workspace root, with forward slashes.
    pub path: String,
    /// The file as it is.
    pub text: String,
    /// The same lines with comments, literals and inline test modules blanked out.
    pub code: String,
    /// Whether another file declares it as `#[cfg(test)] mod …;`.
    pub is_test_module: bool,
}

impl RustFile {
    /// Whether the file ships: not a test, a bench, a fixture or generated code.
    pub fn is_production(&self) -> bool {
        let path = &self.path;
        !(self.is_test_module
            || path.starts_with("tests/")
            || path.contains("/tests/")
            || path.ends_with("/tests.rs")
            || path.contains("/benches/")
            || path.contains("/examples/")
            || path.contains("/generated/"))
    }

    /// The file name alone.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Lines that are not part of an inline test module.
    pub fn production_lines(&self) -> usize {
        let blanked = blank_test_modules(&blank_non_code(&self.text));
        let tests = blank_non_code(&self.text)
            .lines()
            .zip(blanked.lines())
            .filter(|(before, after)| before.trim() != after.trim())
            .count();
        self.text.lines().count() - tests
    }

    /// Every line of code that holds `needle` as a whole path or word, as `path:line: text`.
    pub fn lines_with(&self, needle: &str) -> Vec<String> {
        self.code
            .lines()
            .zip(self.text.lines())
            .enumerate()
            .filter(|(_, (code, _))| has_word(code, needle))
            .map(|(index, (_, text))| format!("{}:{}: {}", self.path, index + 1, text.trim()))
            .collect()
    }

    /// Structs with named fields, as `(name, line, number of fields)`.
    pub fn structs(&self) -> Vec<(String, usize, usize)> {
        lex::structs(&self.code)
    }
}

/// Whether `line` holds `needle` and not as a part of a longer word.
pub fn has_word(line: &str, needle: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(needle).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + needle.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The workspace root: two folders above this crate.
pub fn root() -> PathBuf {
    // Read when it runs: build output is shared between checkouts, and a compiled-in path may be another's.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    let here = Path::new(&here);
    here.ancestors().nth(2).expect("tests/tidy lies two folders below the root").to_path_buf()
}

/// Every Rust file of the workspace.
pub fn rust_files() -> Vec<RustFile> {
    let mut files: Vec<RustFile> = all_files()
        .into_iter()
        .filter(|path| path.ends_with(".rs"))
        .map(|path| {
            let text = fs::read_to_string(root().join(&path)).expect("a listed file can be read");
            let code = blank_test_modules(&blank_non_code(&text));
            RustFile { path, text, code, is_test_module: false }
        })
        .collect();
    let tests: BTreeSet<String> = files.iter().flat_map(test_modules).collect();
    for file in &mut files {
        let stem = file.path.trim_end_matches(".rs");
        file.is_test_module = tests.iter().any(|test| stem == test || stem.starts_with(&format!("{test}/")));
    }
    files
}

/// Paths, without `.rs`, of the modules that `file` declares for tests only.
fn test_modules(file: &RustFile) -> Vec<String> {
    let stem = file.path.trim_end_matches(".rs");
    let folder = match stem.rsplit_once('/') {
        Some((folder, "lib" | "main" | "mod")) => folder,
        _ => stem,
    };
    let lines: Vec<&str> = file.code.lines().map(str::trim).collect();
    lines
        .windows(2)
        .filter(|pair| pair[0] == "#[cfg(test)]")
        .filter_map(|pair| pair[1].strip_prefix("mod ")?.strip_suffix(';'))
        .map(|name| format!("{folder}/{name}"))
        .collect()
}

/// Every file of the checkout that could be committed, as paths below the root, sorted.
pub fn all_files() -> Vec<String> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the checkout can be listed") {
            let path = entry.expect("an entry can be read").path();
            let below = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
            if is_output(&below) {
                continue;
            }
            if path.is_symlink() || path.is_file() {
                found.push(below);
            } else {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What `.gitignore` names, and git's own folder.
fn is_output(below: &str) -> bool {
    below == ".git"
        || below == "target"
        || below == "tests/fuzz/target"
        || below == "tests/fuzz/artifacts"
        || below.ends_with(".deb")
        || below.ends_with(".snap.new")
}

/// Panics with the whole list when a rule is broken.
pub fn expect_none(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}\n  {}", breaches.join("\n  "));
}
