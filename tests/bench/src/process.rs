//! What `/proc` says of a daemon: CPU time, memory, wake-ups.

use anyhow::{Context, Result};
use std::fs;

/// The unit of `/proc/PID/stat`: USER_HZ, which Linux fixes at 100 towards programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds (user and system, all threads) since the start; 10 ms steps.
pub(crate) fn cpu_seconds(pid: i32) -> Result<f64> {
    let text = read(pid, "stat")?;
    Ok(stat_ticks(&text).with_context(|| format!("unexpected: {text}"))? as f64 / TICKS_PER_SECOND)
}

/// utime + stime of a `/proc/PID/stat` line; the name in it may hold spaces and brackets.
fn stat_ticks(text: &str) -> Option<u64> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Nanoseconds on a CPU, summed over the threads that live now.
pub(crate) fn cpu_nanoseconds(pid: i32) -> Result<u64> {
    let mut sum = 0;
    for task in threads(pid)? {
        let text = fs::read_to_string(format!("{task}/schedstat")).unwrap_or_default();
        sum += text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// How often any thread went to sleep and was woken: voluntary context switches.
pub(crate) fn wakeups(pid: i32) -> Result<u64> {
    let mut sum = 0;
    for task in threads(pid)? {
        let text = fs::read_to_string(format!("{task}/status")).unwrap_or_default();
        sum += field(&text, "voluntary_ctxt_switches:").unwrap_or(0);
    }
    Ok(sum)
}

/// How many threads it has.
pub(crate) fn thread_count(pid: i32) -> Result<usize> {
    Ok(threads(pid)?.len())
}

/// Resident memory and the proportional share of it, in MiB (2^20).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) rss: f64,
    pub(crate) pss: f64,
}

/// From `smaps_rollup`.
pub(crate) fn memory(pid: i32) -> Result<Memory> {
    let text = read(pid, "smaps_rollup")?;
    let kib = |name| field(&text, name).with_context(|| format!("no {name} in smaps_rollup"));
    Ok(Memory { rss: kib("Rss:")? as f64 / 1024.0, pss: kib("Pss:")? as f64 / 1024.0 })
}

fn read(pid: i32, name: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{name}")).with_context(|| format!("process {pid} has ended"))
}

fn threads(pid: i32) -> Result<Vec<String>> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).with_context(|| format!("process {pid} has ended"))?;
    Ok(entries.flatten().map(|e| e.path().to_string_lossy().into_owned()).collect())
}

/// The number behind `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_hold_brackets_and_spaces() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 9 8 7 6 120 30 0 0 20 0 5 0 100 200 300";
        assert_eq!(stat_ticks(line), Some(150));
    }

    #[test]
    fn this_process_has_memory_threads_and_cpu_time() {
        let me = std::process::id() as i32;
        let memory = memory(me).unwrap();
        assert!(memory.rss > 0.5 && memory.pss <= memory.rss, "{memory:?}");
        assert!(thread_count(me).unwrap() >= 1);
        assert!(cpu_seconds(me).unwrap() >= 0.0 && cpu_nanoseconds(me).unwrap() > 0);
        assert!(wakeups(1).is_ok());
    }
}
