//! iperf3: one client run to its end, and what its JSON says.

use crate::contestant::Contestant;
use anyhow::{Context, Result, bail};
use meshd_lab::wait_within;
use serde_json::Value;
use std::time::Duration;

/// How long a server may take until it listens, and a client until it is done.
const PATIENCE: Duration = Duration::from_secs(60);

/// The direction of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Left sends.
    Forth,
    /// Right sends.
    Back,
}

impl Direction {
    pub(crate) const fn arrow(self) -> &'static str {
        match self {
            Direction::Forth => "→",
            Direction::Back => "←",
        }
    }
}

/// What a TCP run moved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tcp {
    /// Payload that arrived, 10^9 bits per second.
    pub(crate) gbit_s: f64,
    /// Payload that arrived, 10^9 bytes.
    pub(crate) gigabytes: f64,
    pub(crate) retransmits: f64,
    /// CPU seconds of both iperf3 processes.
    pub(crate) cpu_seconds: f64,
}

/// What a UDP run moved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Udp {
    /// Datagrams per second that arrived.
    pub(crate) delivered_pps: f64,
    /// Datagrams per second that were sent.
    pub(crate) sent_pps: f64,
}

impl Udp {
    /// Share that got lost, 0 to 1.
    pub(crate) fn loss(&self) -> f64 {
        if self.sent_pps > 0.0 { (1.0 - self.delivered_pps / self.sent_pps).max(0.0) } else { 1.0 }
    }
}

/// Bytes of TCP payload with `streams` connections for `seconds`.
pub(crate) fn tcp(c: &Contestant, streams: u32, direction: Direction, seconds: u32) -> Result<Tcp> {
    let mut args = vec!["-P".to_owned(), streams.to_string()];
    if direction == Direction::Back {
        args.push("-R".to_owned());
    }
    parse_tcp(&client(c, seconds, &args)?)
}

/// Datagrams of `size` bytes of payload at `pps`, 0: as many as the sender makes.
pub(crate) fn udp(c: &Contestant, size: u32, pps: u64, seconds: u32) -> Result<Udp> {
    let rate = (pps * u64::from(size) * 8).to_string();
    let args =
        ["-u", "-l", &size.to_string(), "-b", &rate, "--get-server-output"].map(str::to_owned).to_vec();
    parse_udp(&client(c, seconds, &args)?)
}

/// A server for one run and a client against it. A flood can leave a server busy with what is over,
/// so that none serves twice.
fn client(c: &Contestant, seconds: u32, args: &[String]) -> Result<Value> {
    let server = c.right().host.spawn("iperf3", ["-s", "-1", "-J"])?;
    let done = wait_within(PATIENCE, || match attempt(c, seconds, args) {
        // It does not listen yet.
        Ok(Err(error)) if error.contains("Connection refused") => None,
        done => Some(done),
    });
    let _ = server.kill();
    match done.context("iperf3's server never listened")?? {
        Ok(value) => Ok(value),
        Err(error) => bail!("iperf3: {error}"),
    }
}

/// The client's JSON, or what it says went wrong.
fn attempt(c: &Contestant, seconds: u32, args: &[String]) -> Result<Result<Value, String>> {
    let (to, time) = (c.right().inner.to_string(), seconds.to_string());
    let all = ["-c", &to, "-t", &time, "-J", "--connect-timeout", "5000"].map(str::to_owned);
    let limit = Duration::from_secs(u64::from(seconds) + 20);
    let done = c.left().host.run_within(limit, "iperf3", all.iter().chain(args))?;
    let value: Value = serde_json::from_str(&done.stdout)
        .with_context(|| format!("iperf3 wrote no JSON: {}{}", done.stdout, done.stderr))?;
    Ok(match value["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None if !done.is_success() => Err(done.stderr),
        None => Ok(value),
    })
}

fn number(value: &Value, path: &str) -> Result<f64> {
    value.pointer(path).and_then(Value::as_f64).with_context(|| format!("iperf3's JSON has no {path}"))
}

fn parse_tcp(value: &Value) -> Result<Tcp> {
    let seconds = number(value, "/end/sum_received/seconds")?;
    let share = number(value, "/end/cpu_utilization_percent/host_total")?
        + number(value, "/end/cpu_utilization_percent/remote_total")?;
    Ok(Tcp {
        gbit_s: number(value, "/end/sum_received/bits_per_second")? / 1e9,
        gigabytes: number(value, "/end/sum_received/bytes")? / 1e9,
        retransmits: number(value, "/end/sum_sent/retransmits").unwrap_or(0.0),
        cpu_seconds: share / 100.0 * seconds,
    })
}

/// The client counts what it sent, the server what came.
fn parse_udp(value: &Value) -> Result<Udp> {
    let sent = number(value, "/end/sum/packets")?;
    let seconds = number(value, "/end/sum/seconds")?;
    let server = &value["server_output_json"];
    let received: f64 = match server["intervals"].as_array() {
        Some(intervals) => intervals
            .iter()
            .map(|i| {
                let count = |name: &str| i["sum"][name].as_f64().unwrap_or(0.0);
                // `packets` counts up to the highest number seen, lost ones included.
                count("packets") - count("lost_packets")
            })
            .sum(),
        None => bail!("iperf3's server sent no JSON"),
    };
    Ok(Udp { delivered_pps: received / seconds, sent_pps: sent / seconds })
}
