//! Round-trip times by the system's `ping`.

use crate::contestant::Contestant;
use crate::samples::median;
use anyhow::{Result, bail};
use std::time::Duration;

/// Times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rtt {
    pub(crate) median: f64,
    pub(crate) p95: f64,
    /// Share without an answer, 0 to 1.
    pub(crate) lost: f64,
}

/// `count` pings from left to right, one every `interval_ms`.
pub(crate) fn ping(c: &Contestant, count: u32, interval_ms: u32) -> Result<Rtt> {
    let to = c.right().inner.to_string();
    let interval = format!("{:.3}", f64::from(interval_ms) / 1000.0);
    let args = ["-n", "-i", &interval, "-c", &count.to_string(), "-W", "1", &to].map(str::to_owned);
    let limit = Duration::from_millis(u64::from(count * interval_ms) + 10_000);
    let done = c.left().host.run_within(limit, "ping", args)?;
    let mut times = times(&done.stdout);
    times.sort_by(f64::total_cmp);
    let Some(middle) = median(&times) else { bail!("no answer to ping: {}{}", done.stdout, done.stderr) };
    let p95 = times[(times.len() * 95 / 100).min(times.len() - 1)];
    Ok(Rtt { median: middle, p95, lost: 1.0 - times.len() as f64 / f64::from(count) })
}

fn times(text: &str) -> Vec<f64> {
    let words = text.split_whitespace().filter_map(|word| word.strip_prefix("time="));
    words.filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_each_answer() {
        let text = "64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.5 ms\nRequest timeout\n\
                    64 bytes from 10.0.0.2: icmp_seq=2 ttl=64 time=12 ms\n";
        assert_eq!(times(text), [0.5, 12.0]);
    }
}
