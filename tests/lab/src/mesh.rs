//! The programs under test in a lab: the coordinator, nodes, and the small internet of the README.
//!
//! It runs the same commands a person types, and reads the same `--json` output; it knows no type of
//! the programs, so that a change a user would notice is noticed here.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::clock::{wait_until, wait_within};
use crate::host::Host;
use crate::lab::{Lab, Router, program_folder};
use crate::nat::Nat;
use crate::process::{Finished, Process};

/// How long a step of the mesh may take on a machine that does other things, too.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A machine that runs `meshd-coordinator serve`.
#[derive(Debug)]
pub struct Coordinator {
    /// The machine.
    pub host: Host,
    /// Where nodes reach it.
    pub address: Ipv4Addr,
    /// What it is told about that: addresses, or names.
    public: Vec<String>,
    process: Option<Process>,
}

impl Coordinator {
    /// Starts a coordinator that tells nodes to come to `address`.
    pub fn start(host: &Host, address: Ipv4Addr) -> Result<Coordinator> {
        Coordinator::start_as(host, address, &address.to_string())
    }

    /// Starts a coordinator that tells nodes to come to `public`, which somebody resolves to `address`.
    pub fn start_as(host: &Host, address: Ipv4Addr, public: &str) -> Result<Coordinator> {
        Coordinator::start_at(host, address, &[public.to_owned()])
    }

    /// Starts a coordinator at `address` that tells nodes to come to any of `public`.
    pub fn start_at(host: &Host, address: Ipv4Addr, public: &[String]) -> Result<Coordinator> {
        need("meshd-coordinator")?;
        let mut coordinator =
            Coordinator { host: host.clone(), address, public: public.to_vec(), process: None };
        coordinator.resume()?;
        Ok(coordinator)
    }

    /// Starts it again after [`Coordinator::kill`].
    pub fn resume(&mut self) -> Result<()> {
        let public = self.public.iter().flat_map(|at| ["--public", at.as_str()]);
        let process = self.host.spawn("meshd-coordinator", ["serve"].into_iter().chain(public))?;
        let answers = wait_within(PATIENCE, || {
            let nodes = self.host.run("meshd-coordinator", ["nodes", "list", "--json"]).ok()?;
            nodes.is_success().then_some(())
        });
        if answers.is_none() {
            bail!("the coordinator does not answer its command line:\n{}", process.log());
        }
        self.process = Some(process);
        Ok(())
    }

    /// SIGKILL for the coordinator, and with it for relay and STUN, which are inside.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the coordinator does not run")?.kill()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Runs a command of its command line.
    pub fn run(&self, args: &[&str]) -> Result<Finished> {
        self.host.run("meshd-coordinator", args.iter().copied())?.success()
    }

    /// A new join token.
    pub fn token(&self) -> Result<String> {
        self.token_with(&[])
    }

    /// A new join token made with more arguments.
    pub fn token_with(&self, args: &[&str]) -> Result<String> {
        let said = self.run(&[&["token", "create"], args].concat())?.stdout;
        let token = said.split_whitespace().find(|word| word.starts_with("mesh_"));
        token.map(str::to_owned).with_context(|| format!("no token in: {said}"))
    }
}

/// Puts a relay of its own at `public` into every node's map, and starts it on `host`. Returns the arguments.
pub fn second_relay(
    coordinator: &Coordinator,
    host: &Host,
    name: &str,
    public: &[String],
) -> Result<Vec<String>> {
    need("meshd-relay")?;
    let key = host.run("meshd-relay", ["--show-key"])?.success()?.stdout;
    let mut args = vec!["relays", "add", name, "--key", key.trim()];
    args.extend(public.iter().flat_map(|at| ["--host", at.as_str()]));
    let said = coordinator.run(&args)?.stdout;
    let command = said.lines().rev().find_map(|line| line.trim().strip_prefix("meshd-relay "));
    let command = command.with_context(|| format!("no command in: {said}"))?;
    let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    host.spawn("meshd-relay", &command)?;
    Ok(command)
}

/// A program of ours that `make build` has made.
pub fn need(program: &str) -> Result<()> {
    let path = program_folder().join(program);
    ensure!(path.exists(), "{} is missing: run `make build` first", path.display());
    Ok(())
}

/// `meshd up` with more arguments; starts the daemon without systemd.
pub fn up(host: &Host, args: &[&str]) -> Result<Finished> {
    need("meshd")?;
    host.run("meshd", ["up", "--no-service"].iter().chain(args).copied())?.success()
}

/// `meshd status --json`.
pub fn status(host: &Host) -> Result<Value> {
    let said = host.run("meshd", ["status", "--json"])?.success()?.stdout;
    serde_json::from_str(&said).with_context(|| format!("not JSON: {said}"))
}

/// What `status` says of one peer.
pub fn peer(host: &Host, name: &str) -> Result<Value> {
    let status = status(host)?;
    let found = status["peers"].as_array().and_then(|peers| peers.iter().find(|peer| peer["name"] == name));
    found.cloned().with_context(|| format!("{} knows no peer {name}: {status:#}", host.name()))
}

/// Waits until the path from `host` to `name` is direct; traffic makes it so.
pub fn wait_direct(host: &Host, name: &str) -> Result<Value> {
    let mut last = None;
    let found = wait_within(PATIENCE, || {
        let _ = host.run("meshd", ["ping", "-c", "1", "--timeout", "500", name]);
        let now = peer(host, name).ok()?;
        let direct = now["path"] == "direct";
        last = Some(now.clone());
        direct.then_some(now)
    });
    found.with_context(|| format!("{} never reached {name} directly: {last:#?}", host.name()))
}

/// Waits until `condition` holds for the status of `host`.
pub fn wait_status(host: &Host, what: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = None;
    let found = wait_within(PATIENCE, || {
        let now = status(host).ok()?;
        let holds = condition(&now);
        last = Some(now.clone());
        holds.then_some(now)
    });
    found.with_context(|| format!("{}: not so: {what}: {last:#?}", host.name()))
}

/// SIGKILL for the daemon of `host`; its DNS supervisor lives on, as on a real machine.
pub fn kill_daemon(host: &Host) -> Result<()> {
    host.run("pkill", ["-KILL", "-f", "meshd run"])?;
    let gone = wait_until(Duration::from_secs(5), || {
        host.run("pgrep", ["-f", "meshd run"]).is_ok_and(|found| !found.is_success())
    });
    ensure!(gone, "a daemon outlived SIGKILL on {}", host.name());
    Ok(())
}

/// Starts the daemon of `host` anew. A killed one counts as running until the kernel has closed its sockets.
pub fn start_daemon(host: &Host) -> Result<Process> {
    let started = wait_within(PATIENCE, || {
        let mut daemon = host.spawn("meshd", ["run"]).ok()?;
        wait_until(PATIENCE, || daemon.log().contains("meshd is ready") || !daemon.is_running());
        daemon.is_running().then_some(daemon)
    });
    started.with_context(|| format!("no daemon starts on {}", host.name()))
}

/// The first mesh address of a node, by its own status.
pub fn mesh_address(host: &Host) -> Result<Ipv4Addr> {
    let status = status(host)?;
    let address =
        status["self"]["addresses"][0].as_str().with_context(|| format!("no address: {status:#}"))?;
    Ok(address.split('/').next().unwrap_or(address).parse()?)
}

/// One ping of the system to a name or an address, tried again until `limit`.
pub fn ping_until(host: &Host, target: &str, limit: Duration) -> Result<Finished> {
    let mut last = None;
    let found = wait_within(limit, || {
        let done = host.run("ping", ["-c", "1", "-W", "1", target]).ok()?;
        if done.is_success() {
            return Some(done);
        }
        last = Some(done);
        None
    });
    found.with_context(|| format!("{} cannot ping {target}: {last:?}", host.name()))
}

/// The internet of the README: a coordinator on a VPS, a Pi and a NAS at home, a laptop elsewhere.
#[derive(Debug)]
pub struct SmallInternet {
    /// The lab itself.
    pub lab: Lab,
    /// The VPS.
    pub vps: Host,
    /// Its public address.
    pub vps4: Ipv4Addr,
    /// The router of the Pi's home.
    pub home: Router,
    /// A machine on 192.168.1.0/24 that knows nothing of the mesh: 192.168.1.10.
    pub nas: Host,
    /// Its address.
    pub nas4: Ipv4Addr,
    /// The subnet router.
    pub pi: Host,
    /// The router in front of the laptop.
    pub away: Router,
    /// The laptop.
    pub laptop: Host,
}

impl SmallInternet {
    /// Builds it; nothing of ours runs yet.
    pub fn new(name: &str) -> Result<SmallInternet> {
        SmallInternet::with_nats(name, Nat::Home, Nat::Home)
    }

    /// Builds it with other NATs in front of the Pi and the laptop.
    pub fn with_nats(name: &str, pi_nat: Nat, laptop_nat: Nat) -> Result<SmallInternet> {
        let lab = Lab::new(name)?;
        let (vps, vps4, _) = lab.server("vps")?;
        let home = lab.router("home", pi_nat)?;
        let (nas, nas4, _) = lab.behind(&home, "nas")?;
        let (pi, _, _) = lab.behind(&home, "pi")?;
        let away = lab.router("away", laptop_nat)?;
        let (laptop, _, _) = lab.behind(&away, "laptop")?;
        Ok(SmallInternet { lab, vps, vps4, home, nas, nas4, pi, away, laptop })
    }

    /// Starts the coordinator on the VPS.
    pub fn coordinator(&self) -> Result<Coordinator> {
        Coordinator::start(&self.vps, self.vps4)
    }

    /// The commands of the README up to the laptop's `up`: coordinator, Pi with its LAN, approved
    /// route, a name for the NAS, laptop.
    pub fn join_all(&self) -> Result<Coordinator> {
        let coordinator = self.coordinator()?;
        let token = coordinator.token()?;
        up(&self.pi, &[&token, "--advertise-routes=192.168.1.0/24"])?;
        coordinator.run(&["routes", "approve", "pi", "192.168.1.0/24"])?;
        coordinator.run(&["dns", "add", "nas.home.internal", &self.nas4.to_string()])?;
        up(&self.laptop, &[&token])?;
        Ok(coordinator)
    }

    /// Serves `bytes` fresh random bytes at port 80 of the NAS.
    pub fn serve_random(&self, bytes: usize) -> Result<Vec<u8>> {
        let file = self.nas.file("/var/lib/body");
        self.nas.sh(&format!(
            "head -c {bytes} /dev/urandom > /var/lib/body.new && mv /var/lib/body.new /var/lib/body"
        ))?;
        if !self
            .nas
            .run("curl", ["-s", "-o", "/dev/null", "--max-time", "2", "http://127.0.0.1/"])?
            .is_success()
        {
            let server = self.nas.spawn("lab-tool", ["http", "0.0.0.0:80", "/var/lib/body"])?;
            server.wait_for_log("listening", Duration::from_secs(5))?;
        }
        Ok(std::fs::read(file)?)
    }
}

/// Fetches a URL with curl; the body's bytes.
pub fn fetch(host: &Host, url: &str) -> Result<Vec<u8>> {
    let file = host.file("/var/lib/fetched");
    let _ = std::fs::remove_file(&file);
    host.run("curl", ["-sS", "--fail", "--max-time", "20", "-o", "/var/lib/fetched", url])?.success()?;
    Ok(std::fs::read(file)?)
}
