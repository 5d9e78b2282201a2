//! Limits of size and the purity of the cores, read from the source.

use meshd_tidy::{MAX_PRODUCTION_LINES, MAX_STRUCT_FIELDS, RustFile, expect_none, rust_files};

/// What a core never does: read a clock, open a socket or a file, start a thread or a task.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::net::UdpSocket",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "UdpSocket::bind",
    "std::fs",
    "std::process",
    "thread::spawn",
    "thread::sleep",
    "tokio",
    "getrandom",
];

/// Crates that are cores as a whole.
const CORES: &[&str] = &["proto/src/", "policy/src/", "engine/src/"];

/// The shell of the crates that are part core, part I/O: everything else in them is core.
const SHELLS: &[(&str, &[&str])] =
    &[("dns/src/", &["server", "forward"]), ("relay/src/", &["server", "stream", "main", "bin"])];

/// The files that may hold `unsafe`, each with what for. Every block has its own SAFETY line.
const UNSAFE: &[&str] = &[
    // recvmmsg, sendmsg and their control messages.
    "node/src/udp/batch.rs",
    // recvmmsg and sendmmsg.
    "dns/src/server/batch.rs",
    // The clocks of one test program are the simulation's.
    "tests/sim/tests/real_sessions/clock.rs",
];

fn production() -> Vec<RustFile> {
    rust_files().into_iter().filter(RustFile::is_production).collect()
}

fn is_core(path: &str) -> bool {
    let mixed = SHELLS.iter().find(|(folder, _)| path.starts_with(folder));
    match mixed {
        Some((folder, shell)) => {
            let below = &path[folder.len()..];
            let module = below.split(['/', '.']).next().unwrap_or_default();
            !shell.contains(&module) && module != "clock"
        }
        None => CORES.iter().any(|core| path.starts_with(core)),
    }
}

#[test]
fn files_hold_one_idea() {
    let breaches: Vec<String> = rust_files()
        .iter()
        .filter(|f| !f.path.contains("/generated/") && f.name() != "tests.rs" && !f.path.contains("/tests/"))
        .filter(|f| f.production_lines() > MAX_PRODUCTION_LINES)
        .map(|f| format!("{}: {} lines", f.path, f.production_lines()))
        .collect();
    expect_none("files over 600 production lines:", &breaches);
}

#[test]
fn structs_stay_small() {
    let breaches: Vec<String> = rust_files()
        .iter()
        .filter(|f| !f.path.contains("/generated/"))
        .flat_map(|f| f.structs().into_iter().map(move |s| (f, s)))
        .filter(|(_, (_, _, fields))| *fields > MAX_STRUCT_FIELDS)
        .map(|(f, (name, line, fields))| format!("{}:{line}: {name} has {fields} fields", f.path))
        .collect();
    expect_none("structs over 25 fields:", &breaches);
}

#[test]
fn the_cores_read_no_clock_and_do_no_io() {
    let breaches: Vec<String> = production()
        .iter()
        .filter(|f| is_core(&f.path))
        .flat_map(|f| IMPURE.iter().flat_map(move |word| f.lines_with(word)))
        .collect();
    expect_none("time, entropy and I/O are arguments of the cores:", &breaches);
}

#[test]
fn only_clock_files_read_a_clock() {
    let breaches: Vec<String> = production()
        .iter()
        .filter(|f| f.name() != "clock.rs")
        .flat_map(|f| {
            ["Instant::now", "SystemTime::now", "Timestamp::now", "Zoned::now"]
                .into_iter()
                .flat_map(|w| f.lines_with(w))
        })
        .collect();
    expect_none("a shell crate reads clocks in its clock.rs alone:", &breaches);
}

#[test]
fn unsafe_stands_in_named_modules_with_its_reason() {
    let mut breaches = Vec::new();
    for file in rust_files() {
        for found in file.lines_with("unsafe") {
            let line: usize = found.split(':').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
            if !UNSAFE.contains(&file.path.as_str()) {
                breaches.push(format!("{found} (not a named module)"));
            } else if !has_safety_line(&file.text, line) {
                breaches.push(format!("{found} (no SAFETY line above)"));
            }
        }
    }
    expect_none("unsafe code:", &breaches);
}

/// A `SAFETY:` comment on the line or in the comment block right above it.
fn has_safety_line(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let above = lines[..line].iter().rev().skip(1).take_while(|l| {
        let l = l.trim_start();
        l.starts_with("//") || l.starts_with("#[") || l.ends_with('=') || l.ends_with('(')
    });
    lines[line - 1].contains("SAFETY:") || above.into_iter().any(|l| l.contains("SAFETY:"))
}

#[test]
fn names_say_what_a_thing_is() {
    let mut breaches = Vec::new();
    for file in production() {
        if file
            .path
            .split('/')
            .any(|part| ["utils", "utils.rs", "util", "util.rs", "common.rs", "helpers.rs"].contains(&part))
        {
            breaches.push(file.path.clone());
        }
        for (index, line) in file.code.lines().enumerate() {
            let manager = ["struct ", "enum ", "trait ", "type "].iter().any(|kind| {
                line.split(kind).skip(1).any(|rest| {
                    let name: String =
                        rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    name.ends_with("Manager")
                })
            });
            if manager || line.contains("Arc<Mutex<Engine") {
                breaches.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
            }
        }
    }
    expect_none("no utils, no Manager, no Arc<Mutex<Engine>>:", &breaches);
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    let breaches: Vec<String> = rust_files()
        .iter()
        .flat_map(|f| {
            f.code
                .lines()
                .enumerate()
                .filter(|(_, line)| line.contains("#[allow(") || line.contains("#![allow("))
                .map(|(index, line)| format!("{}:{}: {}", f.path, index + 1, line.trim()))
                .collect::<Vec<_>>()
        })
        .collect();
    expect_none("use #[expect(lint, reason = …)]:", &breaches);
}

#[test]
fn no_test_is_switched_off() {
    let mark = concat!("#[", "ignore");
    let breaches: Vec<String> = rust_files()
        .iter()
        .flat_map(|f| {
            let lines = f.code.lines().enumerate().filter(|(_, line)| line.contains(mark));
            lines.map(|(index, _)| format!("{}:{}", f.path, index + 1)).collect::<Vec<_>>()
        })
        .collect();
    expect_none("a test that cannot run fails, it does not skip:", &breaches);
}
