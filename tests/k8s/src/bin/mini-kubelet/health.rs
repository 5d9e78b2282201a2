//! Probes of a container: `httpGet`, `tcpSocket` and `exec`, from the node as a kubelet does.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::environment::text;

/// One probe of one container, with what it has seen.
#[derive(Debug)]
pub(crate) struct Probe {
    spec: Value,
    /// The numbers behind named ports.
    ports: Value,
    next: Instant,
    successes: u64,
    failures: u64,
    /// What counts now; nothing before the first decision.
    pub(crate) verdict: Option<bool>,
}

impl Probe {
    pub(crate) fn new(container: &Value, kind: &str, now: Instant) -> Option<Probe> {
        let spec = container[kind].clone();
        spec.is_object().then(|| Probe {
            next: now + Duration::from_secs(spec["initialDelaySeconds"].as_u64().unwrap_or(0)),
            ports: container["ports"].clone(),
            spec,
            successes: 0,
            failures: 0,
            verdict: None,
        })
    }

    /// Probes when it is time; whether the verdict has changed.
    pub(crate) async fn tick(&mut self, address: &str, pid: Option<i32>, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        let number = |name: &str, or: u64| self.spec[name].as_u64().filter(|n| *n > 0).unwrap_or(or);
        let (period, wait) = (number("periodSeconds", 10), number("timeoutSeconds", 1));
        let (enough, too_many) = (number("successThreshold", 1), number("failureThreshold", 3));
        self.next = now + Duration::from_secs(period);
        let good = timeout(Duration::from_secs(wait), self.ask(address, pid)).await.unwrap_or(false);
        let before = self.verdict;
        if good {
            self.successes += 1;
            self.failures = 0;
            if self.successes >= enough {
                self.verdict = Some(true);
            }
        } else {
            self.failures += 1;
            self.successes = 0;
            if self.failures >= too_many {
                self.verdict = Some(false);
            }
            // A pod that has never been ready is asked soon again: tests wait for it.
            if self.verdict != Some(true) {
                self.next = now + Duration::from_secs(period.min(1));
            }
        }
        before != self.verdict
    }

    fn port(&self, value: &Value) -> Option<u16> {
        if let Some(number) = value.as_u64() {
            return u16::try_from(number).ok();
        }
        let named = self.ports.as_array()?.iter().find(|port| port["name"] == *value)?;
        u16::try_from(named["containerPort"].as_u64()?).ok()
    }

    async fn ask(&self, address: &str, pid: Option<i32>) -> bool {
        if self.spec["httpGet"].is_object() {
            self.http(address).await
        } else if self.spec["tcpSocket"].is_object() {
            let Some(port) = self.port(&self.spec["tcpSocket"]["port"]) else { return false };
            TcpStream::connect((self.spec["tcpSocket"]["host"].as_str().unwrap_or(address), port))
                .await
                .is_ok()
        } else if let (Some(command), Some(pid)) = (self.spec["exec"]["command"].as_array(), pid) {
            let target = pid.to_string();
            let mut run = Command::new("nsenter");
            run.args([
                "--target", &target, "--mount", "--net", "--uts", "--ipc", "--pid", "--root", "--wd", "--",
            ]);
            run.args(command.iter().map(text)).stdin(std::process::Stdio::null());
            run.kill_on_drop(true).output().await.is_ok_and(|done| done.status.success())
        } else {
            false
        }
    }

    /// curl speaks HTTP and HTTPS, and does not look at certificates here, as kubelets do not.
    async fn http(&self, address: &str) -> bool {
        let get = &self.spec["httpGet"];
        let Some(port) = self.port(&get["port"]) else { return false };
        let scheme = get["scheme"].as_str().unwrap_or("HTTP").to_lowercase();
        let host = get["host"].as_str().unwrap_or(address);
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let url = format!("{scheme}://{host}:{port}{}", get["path"].as_str().unwrap_or("/"));
        let mut run = Command::new("curl");
        run.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "30"]);
        for header in get["httpHeaders"].as_array().into_iter().flatten() {
            run.arg("-H").arg(format!("{}: {}", text(&header["name"]), text(&header["value"])));
        }
        let done = run.arg(url).stdin(std::process::Stdio::null()).kill_on_drop(true).output().await;
        done.is_ok_and(|done| {
            String::from_utf8_lossy(&done.stdout)
                .trim()
                .parse::<u16>()
                .is_ok_and(|code| (200..400).contains(&code))
        })
    }
}
