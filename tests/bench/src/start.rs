//! Brings each contestant up the way its own documentation says, and times its first answer: from the
//! start of the left daemon, while the right one waits, to the first reply to a ping.

use crate::contestant::{Contestant, Kind, Side};
use crate::process;
use crate::samples::Samples;
use crate::settings::Settings;
use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{Coordinator, mesh_address, ping_until, up, wait_direct};
use meshd_lab::{Host, Lab, Process, now, wait_until, wait_within};
use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a daemon may take until it answers.
const PATIENCE: Duration = Duration::from_secs(20);
/// Let a daemon finish its start before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);
/// From the start of the left daemon to the first reply.
pub(crate) const FIRST_PING: &str = "first reply ms";

/// A pair of machines and the addresses of their cable.
struct Pair {
    left: Host,
    left4: Ipv4Addr,
    right: Host,
    right4: Ipv4Addr,
}

/// What is needed to know of the daemons of a pair.
struct Daemons {
    version: String,
    interface: &'static str,
    inner: [Ipv4Addr; 2],
    pids: [Option<i32>; 2],
    /// When the left one was started.
    began: Instant,
    /// What to ping.
    target: String,
}

/// Starts a contestant on machines of its own.
pub(crate) fn start(lab: &Lab, kind: Kind, settings: &Settings, samples: &mut Samples) -> Result<Contestant> {
    let name = kind.name();
    let [(left, left4), (right, right4)] = lab.pair(&format!("{name}-l"), &format!("{name}-r"))?;
    let pair = Pair { left, left4, right, right4 };
    let daemons = match kind {
        Kind::Veth => plain(&pair),
        Kind::Meshd => meshd(&pair),
        Kind::WireguardGo => wireguard(&pair, settings.program("wireguard-go")?, &["-f", "wg0"]),
        Kind::WireguardGoDebian => wireguard(&pair, "/usr/bin/wireguard-go", &["-f", "wg0"]),
        Kind::BoringTun => {
            wireguard(&pair, settings.program("boringtun-cli")?, &["-f", "--disable-drop-privileges", "wg0"])
        }
        Kind::GotaTun => {
            wireguard(&pair, settings.program("gotatun-cli")?, &["-f", "--disable-drop-privileges", "wg0"])
        }
        Kind::Nebula => nebula(&pair),
    }?;
    ping_until(&pair.left, &daemons.target, PATIENCE)?;
    samples.push(kind, None, FIRST_PING, (now() - daemons.began).as_secs_f64() * 1000.0);
    if kind == Kind::Meshd {
        wait_direct(&pair.left, pair.right.name())?;
    }
    let mtu = fs_number(&pair.left, &format!("/sys/class/net/{}/mtu", daemons.interface))?;
    std::thread::sleep(SETTLE);
    let [left_pid, right_pid] = daemons.pids;
    let [left_inner, right_inner] = daemons.inner;
    for pid in [left_pid, right_pid].into_iter().flatten() {
        let memory = process::memory(pid)?;
        samples.push(kind, None, &crate::measure::memory_metric("RSS", "idle"), memory.rss);
        samples.push(kind, None, &crate::measure::memory_metric("PSS", "idle"), memory.pss);
        samples.push(kind, None, "threads", process::thread_count(pid)? as f64);
    }
    let sides = [
        Side { host: pair.left, inner: left_inner, pid: left_pid },
        Side { host: pair.right, inner: right_inner, pid: right_pid },
    ];
    Ok(Contestant { kind, version: daemons.version, mtu, sides })
}

fn fs_number(host: &Host, path: &str) -> Result<u32> {
    let text = host.run("cat", [path])?.success()?.stdout;
    text.trim().parse().with_context(|| format!("{path} holds {text}"))
}

fn plain(pair: &Pair) -> Result<Daemons> {
    let version = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    Ok(Daemons {
        version: format!("Linux {version}"),
        interface: "eth0",
        inner: [pair.left4, pair.right4],
        pids: [None, None],
        began: now(),
        target: pair.right4.to_string(),
    })
}

/// The whole product: coordinator on the right machine, a daemon on each.
fn meshd(pair: &Pair) -> Result<Daemons> {
    let coordinator = Coordinator::start(&pair.right, pair.right4)?;
    let token = coordinator.token()?;
    up(&pair.right, &[&token])?;
    let began = now();
    up(&pair.left, &[&token])?;
    Ok(Daemons {
        version: pair.left.sh("meshd version")?.trim().to_owned(),
        interface: "mesh0",
        inner: [mesh_address(&pair.left)?, mesh_address(&pair.right)?],
        pids: [Some(daemon_of(&pair.left)?), Some(daemon_of(&pair.right)?)],
        began,
        target: pair.right.name().to_owned(),
    })
}

/// The process id, as seen from outside, of the one `meshd run` on a machine.
pub(crate) fn daemon_of(host: &Host) -> Result<i32> {
    let inside = host.sh("pgrep -o -f meshd.run")?;
    let inside: i32 = inside.trim().parse().with_context(|| format!("one daemon, not `{inside}`"))?;
    let space = host.sh("readlink /proc/self/ns/pid")?;
    let all = fs::read_dir("/proc")?.flatten();
    let pids = all.filter_map(|e| e.file_name().to_str().and_then(|n| n.parse::<i32>().ok()));
    let found = pids.into_iter().find(|pid| {
        let here = fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let ids = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap_or_default();
        here.to_string_lossy() == space.trim()
            && ids.split_whitespace().last().and_then(|n| n.parse().ok()) == Some(inside)
    });
    found.context("the daemon cannot be found from outside")
}

/// A userspace WireGuard of another make, configured by `wg`.
fn wireguard(pair: &Pair, program: &str, args: &[&str]) -> Result<Daemons> {
    let version = version_of(program)?;
    let inner = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];
    let key = |host: &Host| -> Result<(String, String)> {
        let secret = host.sh("wg genkey")?.trim().to_owned();
        let public = host.sh(&format!("echo {secret} | wg pubkey"))?.trim().to_owned();
        Ok((secret, public))
    };
    let (left_secret, left_public) = key(&pair.left)?;
    let (right_secret, right_public) = key(&pair.right)?;
    let right =
        wireguard_side(&pair.right, program, args, &right_secret, (&left_public, pair.left4), inner[1])?;
    let began = now();
    let left =
        wireguard_side(&pair.left, program, args, &left_secret, (&right_public, pair.right4), inner[0])?;
    Ok(Daemons {
        version,
        interface: "wg0",
        inner,
        pids: [Some(left.pid()?), Some(right.pid()?)],
        began,
        target: inner[1].to_string(),
    })
}

fn wireguard_side(
    host: &Host,
    program: &str,
    args: &[&str],
    secret: &str,
    (peer, endpoint): (&str, Ipv4Addr),
    inner: Ipv4Addr,
) -> Result<Process> {
    fs::write(
        host.file("/etc/wg0.conf"),
        format!(
            "[Interface]\nPrivateKey = {secret}\nListenPort = 51820\n\
             [Peer]\nPublicKey = {peer}\nEndpoint = {endpoint}:51820\nAllowedIPs = 10.9.0.0/24\n"
        ),
    )?;
    let daemon = host.spawn(program, args)?;
    let listens = wait_until(PATIENCE, || host.run("wg", ["show", "wg0"]).is_ok_and(|d| d.is_success()));
    ensure!(listens, "{program} did not start: {}", daemon.log());
    host.sh(&format!(
        "wg setconf wg0 /etc/wg0.conf && ip addr add {inner}/24 dev wg0 && ip link set wg0 mtu 1420 up"
    ))?;
    Ok(daemon)
}

/// Its exact version: what the file name pins, or what the program or its package says.
fn version_of(program: &str) -> Result<String> {
    if program.starts_with("/usr/bin/") {
        let package = program.rsplit('/').next().unwrap_or(program);
        let said = Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).output()?;
        ensure!(said.status.success(), "{package} is not an installed Debian package");
        return Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned());
    }
    let name = program.rsplit('/').next().unwrap_or(program);
    let at = name
        .find(|c: char| c.is_ascii_digit())
        .context("an installed program has its version in its name")?;
    Ok(name[at..].to_owned())
}

/// Nebula with a certificate authority of its own; the right machine is the lighthouse.
fn nebula(pair: &Pair) -> Result<Daemons> {
    let inner = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];
    pair.right.sh("mkdir -p /var/lib/n && cd /var/lib/n && nebula-cert ca -name bench")?;
    for (name, address) in [("left", inner[0]), ("right", inner[1])] {
        pair.right.sh(&format!("cd /var/lib/n && nebula-cert sign -name {name} -ip {address}/24"))?;
    }
    fs::create_dir_all(pair.left.file("/var/lib/n"))?;
    for file in ["ca.crt", "left.crt", "left.key"] {
        fs::copy(
            pair.right.file(&format!("/var/lib/n/{file}")),
            pair.left.file(&format!("/var/lib/n/{file}")),
        )?;
    }
    let config = |name: &str, lighthouse: bool| {
        let hosts = if lighthouse { String::new() } else { format!("  hosts: [\"{}\"]\n", inner[1]) };
        format!(
            "pki: {{ca: /var/lib/n/ca.crt, cert: /var/lib/n/{name}.crt, key: /var/lib/n/{name}.key}}\n\
             static_host_map: {{\"{}\": [\"{}:4242\"]}}\nlighthouse:\n  am_lighthouse: {lighthouse}\n{hosts}\
             listen: {{host: 0.0.0.0, port: 4242}}\npunchy: {{punch: true}}\n\
             tun: {{dev: nebula1, mtu: 1300}}\n\
             firewall:\n  outbound: [{{port: any, proto: any, host: any}}]\n  \
             inbound: [{{port: any, proto: any, host: any}}]\n",
            inner[1], pair.right4
        )
    };
    fs::write(pair.right.file("/etc/nebula.yml"), config("right", true))?;
    fs::write(pair.left.file("/etc/nebula.yml"), config("left", false))?;
    let begin = |host: &Host| -> Result<Process> {
        let daemon = host.spawn("nebula", ["-config", "/etc/nebula.yml"])?;
        let is_up = wait_within(PATIENCE, || {
            host.run("ip", ["-br", "addr", "show", "dev", "nebula1"])
                .ok()?
                .stdout
                .contains("10.9.")
                .then_some(())
        });
        ensure!(is_up.is_some(), "nebula did not start: {}", daemon.log());
        Ok(daemon)
    };
    let right = begin(&pair.right)?;
    let began = now();
    let left = begin(&pair.left)?;
    Ok(Daemons {
        version: version_of("/usr/bin/nebula")?,
        interface: "nebula1",
        inner,
        pids: [Some(left.pid()?), Some(right.pid()?)],
        began,
        target: inner[1].to_string(),
    })
}
