//! What the checkout holds, and what it never says.

use std::fs;

use meshd_tidy::{all_files, expect_none, root};

/// What stands in the root: the crates of the design and the files every visitor looks for.
const ROOT: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "CHANGELOG.md",
    "Makefile",
    ".ci/run",
    "deny.toml",
    "rust-toolchain.toml",
    "proto",
    "policy",
    "engine",
    "dns",
    "relay",
    "node",
    "gateway",
    "meshd",
    "coordinator",
    "cni/operator",
    "cni/plugin",
    "tests/bench",
    "tests/lab",
    "tests/sim",
    "tests/tidy",
    "docs/architecture.md",
    "docs/performance.md",
    "docs/protocol.md",
    "docs/security.md",
    "docs/guide",
    "docs/decisions",
    "packaging",
];

/// Places where one person works say nothing to the next. In two halves, so that this list does not
/// find itself.
const WORKPLACE: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("/fa", "rm/"),
    ("fa", "rm-bench"),
    ("fa", "rm-studio"),
    (".lib", "rary/"),
    ("/tmp/ba", "sh_"),
    ("/root/.ca", "rgo"),
    ("/root/.ca", "che"),
    ("/home/", "runner"),
    ("artifac", "tory"),
    ("NAT_", "LAB.md"),
    ("REC", "IPES.md"),
    ("MOD", "ELS.md"),
    ("SCENA", "RIOS.md"),
    ("shared/", "DESIGN"),
];

#[test]
fn the_root_holds_what_a_visitor_expects() {
    let missing: Vec<String> =
        ROOT.iter().filter(|path| !root().join(path).exists()).map(|path| (*path).to_owned()).collect();
    expect_none("missing in the checkout:", &missing);
}

#[test]
fn nothing_names_the_place_where_it_was_written() {
    let mut breaches = Vec::new();
    for path in all_files() {
        let Ok(bytes) = fs::read(root().join(&path)) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        for (index, line) in text.lines().enumerate() {
            for (head, tail) in WORKPLACE {
                if line.contains(&format!("{head}{tail}")) {
                    breaches.push(format!("{path}:{}: {}", index + 1, line.trim()));
                }
            }
        }
    }
    expect_none("a path or name of one workplace:", &breaches);
}

#[test]
fn decisions_are_numbered_and_one_page_each() {
    let mut breaches = Vec::new();
    for path in all_files().into_iter().filter(|p| p.starts_with("docs/decisions/")) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let numbered =
            name.len() > 5 && name[..4].bytes().all(|b| b.is_ascii_digit()) && name.as_bytes()[4] == b'-';
        let lines = fs::read_to_string(root().join(&path)).map_or(0, |text| text.lines().count());
        if !numbered || lines > 80 {
            breaches.push(format!("{path}: {lines} lines"));
        }
    }
    expect_none("docs/decisions/NNNN-title.md, one page:", &breaches);
}
