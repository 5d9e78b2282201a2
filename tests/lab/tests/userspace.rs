//! Userspace mode: a user without any privilege has the mesh in proxies, forwards and streams, and the
//! host has nothing of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{SmallInternet, fetch, need, peer, ping_until, up};
use meshd_lab::{Finished, Host, Process, program_folder, wait_within};
use serde_json::Value;

const MIB: usize = 1 << 20;
const HOME: &str = "/var/lib/user";
/// Nobody.
const ID: u32 = 65534;
const SOCKS: &str = "127.0.0.1:1080";
const HTTP: &str = "127.0.0.1:8080";

/// A user without privileges on a machine, with copies of the programs.
struct User {
    host: Host,
}

impl User {
    fn new(host: &Host, programs: &[&str]) -> Result<User> {
        let home = host.file(HOME);
        fs::create_dir(&home)?;
        for program in programs {
            need(program)?;
            let name = program.rsplit('/').next().unwrap_or(program);
            fs::copy(program_folder().join(program), home.join(name))?;
            fs::set_permissions(home.join(name), fs::Permissions::from_mode(0o755))?;
        }
        chown(&home, Some(ID), Some(ID))?;
        Ok(User { host: host.clone() })
    }

    fn line<'a>(&self, program: &'a str, args: &[&'a str]) -> Vec<String> {
        let id = ID.to_string();
        let drop = ["--reuid", &id, "--regid", &id, "--clear-groups", "--no-new-privs"];
        let none = ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"];
        let own = ["env", "-u", "XDG_RUNTIME_DIR", &format!("HOME={HOME}"), &format!("{HOME}/{program}")]
            .map(str::to_owned);
        drop.iter()
            .chain(&none)
            .map(|arg| (*arg).to_owned())
            .chain(own)
            .chain(args.iter().map(|a| (*a).to_owned()))
            .collect()
    }

    fn spawn(&self, program: &str, args: &[&str]) -> Result<Process> {
        self.host.spawn("setpriv", self.line(program, args))
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<Finished> {
        self.host.run("setpriv", self.line(program, args))
    }

    fn status(&self) -> Result<Value> {
        let said = self.run("meshd", &["status", "--json"])?.success()?.stdout;
        serde_json::from_str(&said).with_context(|| format!("not JSON: {said}"))
    }

    /// Starts the daemon and joins.
    fn join(&self, token: &str, run: &[&str], up: &[&str]) -> Result<Process> {
        let daemon = self.spawn("meshd", &[&["run", "--tun=userspace"], run].concat())?;
        daemon.wait_for_log("meshd is ready", Duration::from_secs(20))?;
        self.run("meshd", &[&["up", token], up].concat())?.success()?;
        Ok(daemon)
    }
}

/// The state of the host that a mesh could leave traces in.
fn traces(host: &Host) -> Result<String> {
    host.sh("ip link; ip rule; ip -6 rule; ip route show table all; nft list ruleset; cat /etc/resolv.conf")
}

/// Fetches through a proxy; the body and the bytes per second.
fn fetch_by(host: &Host, proxy: &[&str], url: &str) -> Result<(Vec<u8>, f64)> {
    let file: PathBuf = host.file("/var/lib/fetched");
    let _ = fs::remove_file(&file);
    let fixed = ["-sS", "--fail", "--max-time", "50", "-o", "/var/lib/fetched", "-w", "%{speed_download}"];
    let done = host.run("curl", fixed.iter().chain(proxy).chain(&[url]).copied())?.success()?;
    Ok((fs::read(file)?, done.stdout.trim().parse()?))
}

const BY_SOCKS: &[&str] = &["--socks5-hostname", SOCKS];

#[test]
fn a_user_without_privileges_reaches_and_serves_the_mesh_and_routes_a_network() -> Result<()> {
    let net = SmallInternet::new("userspace")?;
    let (printer, printer4, _) = net.lab.behind(&net.away, "printer")?;
    let coordinator = net.coordinator()?;
    let token = coordinator.token()?;
    up(&net.pi, &[&token, "--advertise-routes=192.168.1.0/24"])?;
    coordinator.run(&["routes", "approve", "pi", "192.168.1.0/24"])?;
    coordinator.run(&["dns", "add", "nas.home.internal", &net.nas4.to_string()])?;
    net.laptop.sysctl(&[("ipv4/ping_group_range", "0 2147483647")])?;
    let before = traces(&net.laptop)?;

    let user = User::new(&net.laptop, &["meshd"])?;
    let services = ["--socks5", SOCKS, "--http-proxy", HTTP, "--forward", "8000=127.0.0.1:3000"];
    let lan = net.away.lan.prefix4();
    let daemon = user.join(&token, &services, &["--hostname", "laptop", "--advertise-routes", &lan])?;
    coordinator.run(&["routes", "approve", "laptop", &lan])?;
    let status = user.status()?;
    assert_eq!(status["userspace"]["proxies"][0], format!("socks5h://{SOCKS}"));
    assert_eq!(status["userspace"]["forwards"][0], "8000=127.0.0.1:3000");
    assert!(user.run("meshd", &["status"])?.success()?.stdout.contains("userspace"));
    let pid = net.laptop.sh("pgrep -u 65534 -f meshd.run")?;
    let caps = net.laptop.sh(&format!("grep ^Cap /proc/{}/status", pid.trim()))?;
    assert_eq!(caps.matches("0000000000000000").count(), 5, "{caps}");

    // Out: by name through both proxies, to a machine behind a node in kernel mode.
    let body = net.serve_random(MIB)?;
    let url = "http://nas.home.internal/";
    assert!(fetch_by(&net.laptop, BY_SOCKS, url)?.0 == body, "another body through SOCKS5");
    let proxy = format!("http://{HTTP}");
    assert!(fetch_by(&net.laptop, &["-p", "-x", &proxy], url)?.0 == body, "another body through CONNECT");
    assert!(fetch_by(&net.laptop, &["-x", &proxy], url)?.0 == body, "another body through the HTTP proxy");
    let server = net.nas.spawn("lab-tool", ["dns", "0.0.0.0:53", "wiki.corp.example", "10.9.8.7"])?;
    server.wait_for_log("listening", Duration::from_secs(5))?;
    let asked = net.laptop.run("lab-tool", ["socks-dns", SOCKS, "nas.home.internal", "wiki.corp.example"])?;
    assert!(asked.success()?.stdout.contains("10.9.8.7"));
    let pong = user.run("meshd", &["ping", "pi"])?.success()?;
    assert!(pong.stdout.contains("pi"), "{}", pong.stdout);

    // Refused there is refused here, and quickly.
    let closed = ["-sS", "--max-time", "20", "--socks5-hostname", SOCKS, "http://nas.home.internal:81/"];
    let began = meshd_lab::now();
    let refused = net.laptop.run("curl", closed)?;
    assert!(!refused.is_success() && refused.stderr.contains("(5)"), "not `refused`: {refused:?}");
    assert!(meshd_lab::now() - began < Duration::from_secs(5));

    // In: a forwarded port, from a node in kernel mode.
    fs::write(net.laptop.file("/var/lib/page"), "inbound")?;
    let page = net.laptop.spawn("lab-tool", ["http", "127.0.0.1:3000", "/var/lib/page"])?;
    page.wait_for_log("listening", Duration::from_secs(5))?;
    assert_eq!(fetch(&net.pi, "http://laptop.home.internal:8000/")?, b"inbound");

    routed(&net, &printer, &printer4.to_string())?;

    // Nothing of all that is visible on the host.
    assert_eq!(traces(&net.laptop)?, before);
    throughput(&net, &token)?;
    denied(&net, &coordinator)?;
    dead_peer(&net)?;
    assert!(daemon.terminate()?.success(), "the daemon ended badly");
    assert_eq!(traces(&net.laptop)?, before);
    Ok(())
}

/// The LAN behind the user's machine, from a node in kernel mode: TCP, UDP, echo, and what is closed.
fn routed(net: &SmallInternet, printer: &Host, address: &str) -> Result<()> {
    printer.sh("head -c 300000 /dev/urandom > /var/lib/body")?;
    let web = printer.spawn("lab-tool", ["http", "0.0.0.0:80", "/var/lib/body"])?;
    let echo = printer.spawn("lab-tool", ["udp-echo", "0.0.0.0:7000"])?;
    for server in [&web, &echo] {
        server.wait_for_log("listening", Duration::from_secs(5))?;
    }
    let known = wait_within(Duration::from_secs(10), || {
        peer(&net.pi, "laptop").ok().filter(|laptop| !laptop["routes"][0].is_null())
    });
    ensure!(known.is_some(), "pi never learned of the laptop's network");
    ping_until(&net.pi, address, Duration::from_secs(10))?;
    let body = fs::read(printer.file("/var/lib/body"))?;
    assert!(fetch(&net.pi, &format!("http://{address}/"))? == body, "another body from the printer");
    let said = net.pi.run("lab-tool", ["udp-ask", &format!("{address}:7000"), "hello"])?.success()?;
    assert!(said.stdout.contains("hello"), "{said:?}");
    // The printer saw the laptop, as with masquerading.
    let closed = net.pi.run("curl", ["-sS", "--max-time", "10", &format!("http://{address}:81/")])?;
    assert!(closed.stderr.to_lowercase().contains("refused") || closed.stderr.contains("(7)"), "{closed:?}");
    Ok(())
}

/// Prints both modes side by side: the same machine behind the same node, a kernel node's own sockets
/// and the proxy of userspace mode.
fn throughput(net: &SmallInternet, token: &str) -> Result<()> {
    up(&net.vps, &[token])?;
    ping_until(&net.vps, &net.nas4.to_string(), Duration::from_secs(10))?;
    let body = net.serve_random(32 * MIB)?;
    let url = format!("http://{}/", net.nas4);
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        for (rates, (host, proxy)) in rates.iter_mut().zip([(&net.vps, &[][..]), (&net.laptop, BY_SOCKS)]) {
            let (got, rate) = fetch_by(host, proxy, &url)?;
            assert!(got == body, "another body");
            rates.push(rate * 8.0 / 1e6);
        }
    }
    let [kernel, userspace] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[1]
    });
    println!(
        "32 MiB from behind a node, median of 3: kernel {kernel:.0} Mbit/s, userspace {userspace:.0} Mbit/s"
    );
    Ok(())
}

/// What policy takes away is refused at once: the node is not known any more.
fn denied(net: &SmallInternet, coordinator: &meshd_lab::mesh::Coordinator) -> Result<()> {
    let set = |text: &str| -> Result<()> {
        fs::write(coordinator.host.file("/etc/policy.hujson"), text)?;
        coordinator.run(&["policy", "set", "--force", "/etc/policy.hujson"]).map(drop)
    };
    let before = coordinator.run(&["policy", "show"])?.stdout;
    set("{}")?;
    let line = ["-sS", "--max-time", "20", "--socks5-hostname", SOCKS, "http://pi.home.internal/"];
    let refused = wait_within(Duration::from_secs(10), || {
        let began = meshd_lab::now();
        let done = net.laptop.run("curl", line).ok()?;
        let took = meshd_lab::now() - began;
        (!done.is_success() && took < Duration::from_secs(3)).then_some(done)
    });
    let refused = refused.context("a peer that policy hides was not refused quickly")?;
    assert!(refused.stderr.contains("(4)"), "not `host unreachable`: {}", refused.stderr);
    set(&before)?;
    let again = wait_within(Duration::from_secs(10), || {
        fetch_by(&net.laptop, BY_SOCKS, "http://nas.home.internal/").ok()
    });
    ensure!(again.is_some(), "nothing came back with the policy");
    Ok(())
}

/// A stream whose peer dies ends by itself.
fn dead_peer(net: &SmallInternet) -> Result<()> {
    let slow = ["-sS", "--socks5-hostname", SOCKS, "--limit-rate", "200k", "-o", "/dev/null"];
    let url = format!("http://{}/", net.nas4);
    let mut stream = net.laptop.spawn("curl", slow.iter().copied().chain([url.as_str()]))?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(stream.is_running(), "the download ended before: {}", stream.log());
    net.pi.power_off();
    let began = meshd_lab::now();
    let ended = stream.wait(Duration::from_secs(120))?;
    println!("a stream to a dead peer ended after {:?}", meshd_lab::now() - began);
    assert!(!ended.success(), "half a body was taken for a whole one");
    Ok(())
}
#[test]
fn two_nodes_inside_one_program_exchange_ten_megabytes_each_way() -> Result<()> {
    let net = SmallInternet::new("pair")?;
    let coordinator = net.coordinator()?;
    let token = coordinator.token()?;
    let user = User::new(&net.laptop, &["examples/userspace_pair"])?;
    let (first, second) = (format!("{HOME}/one"), format!("{HOME}/two"));
    // Longer than a dead connection is waited for (75 s): where the two stand still, the error says so.
    let line = user.line("userspace_pair", &[&token, &first, &second]);
    let done = user.host.run_within(Duration::from_secs(150), "setpriv", line)?;
    println!("took {:.0?}", done.took);
    print!("{}", done.stdout);
    assert!(done.stdout.ends_with("done\n"), "{done:?}");
    // The one that left is forgotten, the one that was shut down is still a member.
    let nodes = coordinator.run(&["nodes", "list", "--json"])?.stdout;
    assert!(nodes.contains("pair-two") && !nodes.contains("pair-one"), "{nodes}");
    Ok(())
}
