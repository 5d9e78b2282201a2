//! Userspace mode beside kernel mode: `curl`, as a user without any privilege, fetches from a machine behind
//! another node, through SOCKS5 and HTTP CONNECT of a daemon of its own, and in turn a node in kernel mode
//! fetches the same.
//!
//! Everybody is on one small internet whose cables pass super-packets whole. What arrives is compared with what
//! was sent: a fast wrong answer is an error.

use crate::contestant::Kind;
use crate::process;
use crate::samples::Samples;
use crate::start::daemon_of;
use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{Coordinator, PATIENCE, need, up};
use meshd_lab::{Finished, Host, Lab, Process, program_folder, wait_until};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

/// The network behind the router, and the machine in it.
const LAN: &str = "192.168.77.0/24";
const NAS: &str = "192.168.77.2";
/// Nobody, and where nobody lives.
const ID: u32 = 65534;
const HOME: &str = "/var/lib/user";
const SOCKS: &str = "127.0.0.1:1080";
const HTTP: &str = "127.0.0.1:8080";
/// What is fetched.
const MIB: u64 = 256;

/// By which way, and the name of its figure.
pub(crate) const WAYS: [&str; 3] = [
    "curl to a LAN behind a node, kernel mode, Gb/s",
    "curl to a LAN behind a node, SOCKS5 of a user, Gb/s",
    "curl to a LAN behind a node, CONNECT of a user, Gb/s",
];
/// Resident memory of the user's daemon after that.
pub(crate) const MEMORY: &str = "RSS MiB of the user's daemon after it";

/// Measures all ways in `rounds` interleaved rounds; everything ends with this call.
pub(crate) fn measure(rounds: usize, samples: &mut Samples) -> Result<()> {
    let lab = Lab::new("bench-userspace")?;
    let (router, router4, _) = lab.server("router")?;
    let (kernel, _, _) = lab.server("kernel")?;
    let (host, _, _) = lab.server("user")?;
    let nas = lan(&lab, &router)?;
    for machine in [&router, &kernel, &host, &nas, lab.internet()] {
        whole(machine)?;
    }
    let coordinator = Coordinator::start(&router, router4)?;
    let token = coordinator.token()?;
    up(&router, &[&token, &format!("--advertise-routes={LAN}")])?;
    coordinator.run(&["routes", "approve", router.name(), LAN])?;
    up(&kernel, &[&token])?;
    let _daemon = join(&host, &token)?;
    nas.sh(&format!("head -c {} /dev/urandom > /var/lib/body", MIB << 20))?;
    let sent = digest(&nas, "/var/lib/body")?;
    need("lab-tool")?;
    let server = nas.spawn("lab-tool", ["http", "0.0.0.0:80", "/var/lib/body"])?;
    server.wait_for_log("listening", Duration::from_secs(5))?;
    let proxy = format!("http://{HTTP}");
    let ways = [
        (&kernel, vec![]),
        (&host, vec!["--socks5-hostname", SOCKS]),
        (&host, vec!["--proxytunnel", "--proxy", &proxy]),
    ];
    // A first, short fetch wakes each path up.
    for (from, proxy) in &ways {
        let short = [proxy.clone(), vec!["--range", "0-99"]].concat();
        let answers = wait_until(PATIENCE, || fetch(from, &short).is_ok());
        ensure!(answers, "{} never reached {NAS} by {proxy:?}", from.name());
    }
    for _ in 0..rounds {
        for ((from, proxy), figure) in ways.iter().zip(WAYS) {
            let rate: f64 = fetch(from, proxy)?.stdout.trim().parse().context("curl says how fast it was")?;
            ensure!(digest(from, &format!("{HOME}/fetched"))? == sent, "{figure}: not what was sent");
            samples.push(Kind::Meshd, None, figure, rate * 8.0 / 1e9);
        }
    }
    samples.push(Kind::Meshd, None, MEMORY, process::memory(daemon_of(&host)?)?.rss);
    Ok(())
}

/// A network of its own behind `router`, with one machine on it.
fn lan(lab: &Lab, router: &Host) -> Result<Host> {
    router
        .sh("ip link add lan type bridge && ip addr add 192.168.77.1/24 dev lan && ip link set lan up && \
         echo 1 > /proc/sys/net/ipv4/ip_forward")?;
    let nas = lab.host("nas")?;
    lab.cable(&nas, "eth0", &format!("{NAS}/24"), router, "port0", "lan")?;
    nas.sh("ip route add default via 192.168.77.1")?;
    Ok(nas)
}

/// Lets every cable of a machine pass super-packets whole.
fn whole(host: &Host) -> Result<()> {
    host.sh("for d in $(ls /sys/class/net); do [ $d = lo ] || ip link set $d gso_max_segs 65535; done")
        .map(drop)
}

/// A user without privileges on a machine, with a daemon in userspace mode that has joined.
fn join(host: &Host, token: &str) -> Result<Process> {
    let program = host.file(HOME).join("meshd");
    home(host)?;
    need("meshd")?;
    fs::copy(program_folder().join("meshd"), &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let meshd = format!("{HOME}/meshd");
    let run = [&meshd, "run", "--tun=userspace", "--socks5", SOCKS, "--http-proxy", HTTP];
    let daemon = host.spawn("setpriv", as_user(&run))?;
    daemon.wait_for_log("meshd is ready", Duration::from_secs(20))?;
    host.run("setpriv", as_user(&[&meshd, "up", token]))?.success()?;
    Ok(daemon)
}

/// A place where that user may write.
fn home(host: &Host) -> Result<()> {
    let home = host.file(HOME);
    if !home.exists() {
        fs::create_dir(&home)?;
        chown(&home, Some(ID), Some(ID))?;
    }
    Ok(())
}

/// The line that runs a program as that user: no group, no capability, and no way to get one.
fn as_user(line: &[&str]) -> Vec<String> {
    let id = ID.to_string();
    let home = format!("HOME={HOME}");
    let drop = ["--reuid", &id, "--regid", &id, "--clear-groups", "--no-new-privs"];
    let none = ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"];
    let own = ["env", "-u", "XDG_RUNTIME_DIR", &home];
    drop.iter().chain(&none).chain(&own).chain(line).map(|word| (*word).to_owned()).collect()
}

/// Fetches the body into the user's home; curl says the bytes per second.
fn fetch(from: &Host, proxy: &[&str]) -> Result<Finished> {
    home(from)?;
    let out = format!("{HOME}/fetched");
    let url = format!("http://{NAS}/");
    let fixed = ["curl", "-sS", "--fail", "--max-time", "110", "-o", &out, "-w", "%{speed_download}"];
    let line = [&fixed, proxy, &[url.as_str()]].concat();
    from.run_within(Duration::from_secs(120), "setpriv", as_user(&line))?.success()
}

fn digest(host: &Host, file: &str) -> Result<String> {
    let said = host.sh(&format!("sha256sum {file}"))?;
    said.split_whitespace().next().map(str::to_owned).context("sha256sum says a sum")
}
