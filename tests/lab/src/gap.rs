//! How long traffic stands still while something happens.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::host::Host;

/// Between two pings.
const EVERY: &str = "0.05";
/// Pings before anything happens.
const BEFORE: Duration = Duration::from_secs(2);

/// Pings `target` 20 times a second, lets `what` happen after two seconds, goes on for `after`, and returns
/// the longest time between two answers (50 ms: nothing happened). An error if it stands still in the end.
pub fn longest_gap(
    from: &Host,
    target: &str,
    after: Duration,
    what: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let whole = (BEFORE + after).as_secs().to_string();
    let pings = from.spawn("ping", ["-D", "-i", EVERY, "-W", "1", "-w", &whole, target])?;
    std::thread::sleep(BEFORE);
    what()?;
    let log = pings.log.clone();
    pings.wait(BEFORE + after + Duration::from_secs(10))?;
    let text = std::fs::read_to_string(log)?;
    let stamp = |line: &str| line.strip_prefix('[')?.split(']').next()?.parse::<f64>().ok();
    let answered = text.lines().filter(|line| line.contains("time="));
    let mut stamps: Vec<f64> = answered.filter_map(stamp).collect();
    stamps.sort_by(f64::total_cmp);
    ensure!(stamps.len() > 20, "hardly any answer from {target}:\n{text}");
    let (first, last) = (stamps.first().copied().unwrap_or(0.0), stamps.last().copied().unwrap_or(0.0));
    ensure!(last - first > after.as_secs_f64(), "{target} did not come back:\n{text}");
    let longest = stamps.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    Ok(Duration::from_secs_f64(longest))
}
