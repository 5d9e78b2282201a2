//! The machines of these tests.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use meshd_lab::mesh::{Coordinator, PATIENCE, SmallInternet, need, up};
use meshd_lab::{Finished, Host, Nat, Process, wait_within};
use rustix::process::Signal;

/// Members reach each other; the exit, which is tagged, reaches nobody by that. What is published: names of
/// two domains, some ports.
pub(crate) const POLICY: &str = r#"{
  "tagOwners": { "tag:exit": ["autogroup:member"] },
  "acls": [{ "action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:member:*"] }],
  "expose": [{ "src": ["autogroup:member"], "on": ["tag:exit"],
    "names": ["k.example", "*.k.example", "kl.example", "*.kl.example", "*.home.internal"],
    "ports": ["tcp:443", "tcp:20000-20999", "tcp:5432", "udp:5353"] }]
}"#;
/// The same without a word about publishing.
pub(crate) const NOTHING: &str = r#"{
  "tagOwners": { "tag:exit": ["autogroup:member"] },
  "acls": [{ "action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:member:*"] }]
}"#;

/// A mesh with an exit, and somebody outside.
pub(crate) struct Net {
    pub(crate) net: SmallInternet,
    pub(crate) coordinator: Coordinator,
    /// The exit.
    pub(crate) exit: Host,
    pub(crate) exit4: Ipv4Addr,
    pub(crate) gateway: Option<Process>,
    /// Somebody on the internet, who is no member.
    pub(crate) outside: Host,
    pub(crate) outside4: Ipv4Addr,
    /// Another machine there: what nobody may be led to.
    pub(crate) victim: Host,
    pub(crate) victim4: Ipv4Addr,
    pub(crate) victim6: Ipv6Addr,
}

impl Net {
    pub(crate) fn new(name: &str) -> Result<Net> {
        Net::with_nat(name, Nat::Home)
    }

    /// The laptop is behind that NAT.
    pub(crate) fn with_nat(name: &str, nat: Nat) -> Result<Net> {
        need("meshd-gateway")?;
        let net = SmallInternet::with_nats(name, Nat::Home, nat)?;
        let (exit, exit4, _) = net.lab.server("exit1")?;
        let (outside, outside4, _) = net.lab.server("outside")?;
        let (victim, victim4, victim6) = net.lab.server("victim")?;
        let coordinator = net.coordinator()?;
        let mut all =
            Net { net, coordinator, exit, exit4, gateway: None, outside, outside4, victim, victim4, victim6 };
        all.set_policy(POLICY)?;
        let token = all.coordinator.token_with(&["--tag", "tag:exit"])?;
        all.gateway = Some(start_exit(&all.exit, &token)?);
        Ok(all)
    }

    /// The laptop is a member.
    pub(crate) fn join(&self) -> Result<()> {
        let token = self.coordinator.token()?;
        up(&self.net.laptop, &[&token]).map(drop)
    }

    pub(crate) fn set_policy(&self, text: &str) -> Result<()> {
        fs::write(self.coordinator.host.file("/etc/policy.hujson"), text)?;
        self.coordinator.run(&["policy", "set", "--force", "/etc/policy.hujson"]).map(drop)
    }

    /// A website on the laptop that says `body`.
    pub(crate) fn website(&self, port: u16, body: &str) -> Result<Process> {
        website(&self.net.laptop, port, body)
    }

    /// Runs `meshd expose` on the laptop until it says `text`.
    pub(crate) fn expose(&self, args: &[&str], text: &str) -> Result<Process> {
        let line = [&["expose"], args].concat();
        let process = self.net.laptop.spawn("meshd", line)?;
        process.wait_for_log(text, PATIENCE)?;
        Ok(process)
    }

    /// The first URL that it printed.
    pub(crate) fn url(process: &Process) -> Result<String> {
        let log = process.log();
        let found = log.split_whitespace().find(|word| word.contains("://"));
        found.map(str::to_owned).with_context(|| format!("no URL in: {log}"))
    }

    /// Asks from outside until the body is `body`.
    pub(crate) fn reads(&self, args: &[&str], body: &str) -> Result<()> {
        let mut last = String::new();
        let found = wait_within(PATIENCE, || {
            let done = self.curl(args).ok()?;
            last = format!("{}{}", done.stdout, done.stderr);
            (done.stdout == body).then_some(())
        });
        found.with_context(|| {
            format!("outside, {args:?} does not answer {body:?} but {last}\n{}", self.logs())
        })
    }

    pub(crate) fn curl(&self, args: &[&str]) -> Result<Finished> {
        self.outside.run("curl", ["-sS", "--max-time", "5"].iter().chain(args).copied())
    }

    pub(crate) fn logs(&self) -> String {
        let exit = self.gateway.as_ref().map(Process::log).unwrap_or_default();
        format!("exit: {exit}\ncoordinator: {}\n{}", self.coordinator.log(), self.net.lab.log_tails())
    }

    /// What the coordinator lists as published.
    pub(crate) fn exposures(&self) -> Result<serde_json::Value> {
        let said = self.coordinator.run(&["exposures", "list", "--json"])?.stdout;
        serde_json::from_str(&said).with_context(|| said.clone())
    }

    /// `name:443` leads to the exit.
    pub(crate) fn resolve(&self, name: &str) -> String {
        format!("{name}:443:{}", self.exit4)
    }
}

/// Starts an exit and waits until it is in the mesh.
pub(crate) fn start_exit(host: &Host, token: &str) -> Result<Process> {
    let args =
        ["--exit", "--token", token, "--hostname", host.name(), "--state", "/var/lib/gw", "--drain", "1"];
    let gateway = host.spawn("meshd-gateway", args)?;
    gateway.wait_for_log("exit is ready", Duration::from_secs(60))?;
    Ok(gateway)
}

/// A website that says `body`.
pub(crate) fn website(host: &Host, port: u16, body: &str) -> Result<Process> {
    let file = format!("/var/lib/site-{port}");
    fs::write(host.file(&file), body)?;
    let server = host.spawn("lab-tool", ["http", &format!("127.0.0.1:{port}"), &file])?;
    server.wait_for_log("listening", Duration::from_secs(10))?;
    Ok(server)
}

/// A certificate of its own authority for these names: `/var/lib/NAME.pem` and `.key` on `host`.
pub(crate) fn certificate(host: &Host, file: &str, names: &[&str]) -> Result<String> {
    let names: Vec<String> = names.iter().map(|n| format!("DNS:{n}")).collect();
    let path = format!("/var/lib/{file}");
    let line = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=test",
        "-addext",
        &format!("subjectAltName={}", names.join(",")),
        "-keyout",
        &format!("{path}.key"),
        "-out",
        &format!("{path}.pem"),
    ];
    host.run("openssl", line)?.success()?;
    Ok(fs::read_to_string(host.file(&format!("{path}.pem")))?)
}

/// Ctrl-C, and how it ended.
pub(crate) fn interrupt(process: Process) -> Result<String> {
    process.signal(Signal::INT)?;
    let log = process.log.clone();
    let status = process.wait(Duration::from_secs(10))?;
    let text = fs::read_to_string(log)?;
    ensure!(status.success(), "{status}: {text}");
    Ok(text)
}

/// Waits until a port of `host` no longer answers `client`.
pub(crate) fn closes(client: &Host, address: Ipv4Addr, port: u16) -> Result<()> {
    let line = format!("exec 3<>/dev/tcp/{address}/{port}");
    let closed = wait_within(PATIENCE, || {
        let tried = client.run_within(Duration::from_secs(6), "timeout", ["3", "bash", "-c", &line]).ok()?;
        (!tried.is_success()).then_some(())
    });
    match closed {
        Some(()) => Ok(()),
        None => bail!("{address}:{port} still answers"),
    }
}

/// What `make scenarios` reads: how it failed without its feature.
pub(crate) fn without(id: &str, feature: &str, why: &str) {
    let why: String =
        why.lines().find(|l| !l.trim().is_empty()).unwrap_or("no answer").chars().take(100).collect();
    println!("scenario {id} without {feature}: {why}");
}

/// What `make scenarios` reads: that it works.
pub(crate) fn with(id: &str, what: &str) {
    println!("scenario {id}: {what}");
}
