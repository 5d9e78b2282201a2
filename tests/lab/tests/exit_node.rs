//! Internet traffic through a node: everything goes there, and nothing leaks when it dies.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use meshd_lab::mesh::{
    Coordinator, fetch, kill_daemon, mesh_address, ping_until, start_daemon, status, up, wait_status,
};
use meshd_lab::{Host, Lab, Nat, Process, Router, Transport, Uplink6, wait_until};

#[test]
fn a_dead_exit_node_leaks_no_packet_of_either_family() -> Result<()> {
    let lab = Lab::new("exit")?;
    let (vps, vps4, _) = lab.server("vps")?;
    let (web, via4, via6) = lab.server("web")?;
    let home = lab.router_with("home", Nat::Home, Uplink6::Firewalled)?;
    let (exit, exit4, exit6) = lab.server("exit")?;
    let (laptop, laptop4, laptop6) = lab.behind(&home, "laptop")?;
    // An exit forwards to public addresses only, and those of the lab's links are documentation ranges.
    let (web4, web6): (Ipv4Addr, Ipv6Addr) = ("45.66.77.88".parse()?, "2a0a:4cab::88".parse()?);
    web.sh(&format!("ip addr add {web4}/32 dev eth0; ip addr add {web6}/128 dev eth0 nodad"))?;
    lab.internet().sh(&format!("ip route add {web4} via {via4}; ip route add {web6} via {via6}"))?;
    web.sh("head -c 100000 /dev/urandom > /var/lib/body")?;
    let body = fs::read(web.file("/var/lib/body"))?;
    let servers = [format!("{web4}:80"), format!("[{web6}]:80")];
    let mut logs = Vec::new();
    for address in &servers {
        let server = web.spawn("lab-tool", ["http", address, "/var/lib/body"])?;
        server.wait_for_log("listening", Duration::from_secs(5))?;
        logs.push(server);
    }

    let coordinator = Coordinator::start(&vps, vps4)?;
    let token = coordinator.token()?;
    up(&exit, &[&token, "--advertise-exit-node"])?;
    coordinator.run(&["routes", "approve", "exit", "0.0.0.0/0"])?;
    coordinator.run(&["routes", "approve", "exit", "::/0"])?;
    up(&laptop, &[&token])?;
    let before = laptop
        .sh("ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list ruleset")?;
    ping_until(&laptop, "exit", Duration::from_secs(10))?;
    let exit_mesh = mesh_address(&exit)?;
    laptop.run("meshd", ["set", "--exit-node", "exit"])?.success()?;
    wait_status(&laptop, "the exit carries", |status| {
        status["peers"].as_array().is_some_and(|peers| peers.iter().any(|p| p["exit_node"] == true))
    })?;

    // From here on the laptop's uplink may carry nothing but the tunnel and the control channel.
    let capturing = home.host.capture("lan")?;
    assert_eq!(fetch(&laptop, &format!("http://{web4}/"))?, body);
    assert!(logs[0].log().contains(&format!("{exit4}:")), "the web saw somebody else: {}", logs[0].log());
    assert_eq!(fetch(&laptop, &format!("http://[{web6}]/"))?, body);
    assert!(logs[1].log().contains(&format!("[{exit6}]:")), "the web saw somebody else: {}", logs[1].log());

    // Traffic of every kind goes on while the exit is killed: first its daemon, then the machine.
    let asks = servers.iter().map(|server| format!("curl -s -o /dev/null -m 1 http://{server}/; "));
    let asks = format!("while :; do {} getent ahosts up.example; done", asks.collect::<String>());
    let four = laptop.spawn("ping", ["-i", "0.1", &web4.to_string()])?;
    let six = laptop.spawn("ping", ["-i", "0.1", &web6.to_string()])?;
    let asking = laptop.spawn("bash", ["-c", &asks])?;
    let replies = || [&four, &six].map(|ping| ping.log().matches("time=").count());
    assert!(wait_until(Duration::from_secs(10), || replies().iter().all(|n| *n > 10)), "{:?}", replies());
    kill_daemon(&exit)?;
    thread::sleep(Duration::from_secs(5));
    let dead = replies();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(replies(), dead, "something answers beside the exit");
    let _daemon = start_daemon(&exit)?;
    let back = wait_until(Duration::from_secs(30), || replies().iter().zip(dead).all(|(now, n)| *now > n));
    assert!(back, "the exit does not carry again: {:?} {dead:?}", replies());

    exit.power_off();
    thread::sleep(Duration::from_secs(2));
    let dead = replies();
    for target in [web4.to_string(), web6.to_string(), exit_mesh.to_string()] {
        laptop.run("ping", ["-c", "3", "-i", "0.3", "-W", "1", &target])?.failure()?;
    }
    for server in &servers {
        laptop
            .run("curl", ["-s", "-o", "/dev/null", "--max-time", "3", &format!("http://{server}/")])?
            .failure()?;
    }
    assert_eq!(replies(), dead, "something answers beside the exit");
    for busy in [four, six, asking] {
        busy.kill()?;
    }
    let capture = capturing.finish()?;
    let laptop_is = |ip: IpAddr| ip == IpAddr::V4(laptop4) || ip == IpAddr::V6(laptop6);
    let allowed = |ip: IpAddr| [IpAddr::V4(exit4), IpAddr::V6(exit6), IpAddr::V4(vps4)].contains(&ip);
    let leaked: Vec<String> = capture
        .packets
        .iter()
        .filter(|p| laptop_is(p.source.ip()) && !allowed(p.destination.ip()))
        .filter(|p| p.transport != Transport::NotIp && !is_link_local(p.destination.ip()))
        .map(|p| format!("{} → {} {:?}", p.source, p.destination, p.transport))
        .collect();
    assert!(leaked.is_empty(), "{leaked:#?}");
    assert!(capture.count(|p| p.wireguard().is_some()) > 50);
    println!(
        "{} frames on the uplink while the exit was killed twice, 0 leaked; replies through it: {dead:?}",
        capture.packets.len()
    );

    // Without an exit the laptop is as before.
    laptop.run("meshd", ["set", "--exit-node", ""])?.success()?;
    assert_eq!(fetch(&laptop, &format!("http://{web4}/"))?, body);
    let after = laptop
        .sh("ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list ruleset")?;
    assert_eq!(after, before);
    Ok(())
}

/// A laptop behind a router, with the internet's web server, a resolver there, and a coordinator by name.
struct Around {
    lab: Lab,
    vps: Host,
    vps4: Ipv4Addr,
    web4: Ipv4Addr,
    home: Router,
    laptop: Host,
    /// What the resolver knows.
    zone: PathBuf,
    resolver: Process,
}

const NAMED: &str = "vpn.example.net";

impl Around {
    fn new(name: &str) -> Result<Around> {
        let lab = Lab::new(name)?;
        let (vps, vps4, _) = lab.server("vps")?;
        let (web, via4, _) = lab.server("web")?;
        let home = lab.router("home", Nat::Home)?;
        let (laptop, _, _) = lab.behind(&home, "laptop")?;
        let web4: Ipv4Addr = "45.66.77.88".parse()?;
        web.sh(&format!("ip addr add {web4}/32 dev eth0"))?;
        // The resolver that every machine's resolv.conf names.
        web.sh("ip addr add 192.0.2.53/32 dev eth0")?;
        for here in [web4.to_string(), "192.0.2.53".into()] {
            lab.internet().sh(&format!("ip route add {here} via {via4}"))?;
        }
        let zone = web.file("/var/lib/zone");
        fs::write(&zone, format!("{NAMED} {vps4}\nup.example {web4}\n"))?;
        let resolver = web.spawn("lab-tool", ["zone", "192.0.2.53:53", "/var/lib/zone"])?;
        resolver.wait_for_log("listening", Duration::from_secs(5))?;
        web.sh("head -c 1000 /dev/urandom > /var/lib/body")?;
        let http = web.spawn("lab-tool", ["http", &format!("{web4}:80"), "/var/lib/body"])?;
        http.wait_for_log("listening", Duration::from_secs(5))?;
        Ok(Around { lab, vps, vps4, web4, home, laptop, zone, resolver })
    }

    fn reaches_the_web(&self) -> bool {
        let url = format!("http://{}/", self.web4);
        let args = ["-s", "-o", "/dev/null", "--max-time", "3", &url];
        self.laptop.run("curl", args).is_ok_and(|done| done.is_success())
    }

    fn resolves(&self, name: &str) -> Result<bool> {
        Ok(self.laptop.run("getent", ["ahostsv4", name])?.is_success())
    }
}

#[test]
fn a_node_that_was_put_out_keeps_the_door_shut_until_its_user_opens_it() -> Result<()> {
    let around = Around::new("exit_revoked")?;
    let coordinator = Coordinator::start(&around.vps, around.vps4)?;
    let laptop = &around.laptop;
    let untouched = laptop.sh("ip rule; ip -6 rule; nft list ruleset; cat /etc/resolv.conf")?;
    let out = |how: &str| -> Result<()> {
        // An exit that nobody carries is a shut door already; what counts is what comes after.
        up(laptop, &[&coordinator.token()?, "--exit-node", "exit"])?;
        assert!(!around.reaches_the_web());
        coordinator.run(&["nodes", how, "laptop"])?;
        wait_status(laptop, "put out", |status| status["state"] == "refused")?;
        Ok(())
    };
    out("remove")?;
    let capturing = around.home.host.capture("lan")?;
    for _ in 0..3 {
        assert!(!around.reaches_the_web(), "it went out beside the exit");
        assert!(!around.resolves("up.example")?, "a question went out beside the exit");
    }
    let capture = capturing.finish()?;
    let outside = [IpAddr::V4(around.web4), "192.0.2.53".parse()?];
    assert_eq!(capture.count(|p| outside.contains(&p.destination.ip())), 0);
    let said = status(laptop)?;
    assert!(format!("{}", said["problems"]).contains("internet traffic is blocked"), "{said:#}");
    // Also across a restart of the daemon.
    kill_daemon(laptop)?;
    let _daemon = start_daemon(laptop)?;
    wait_status(laptop, "shut", |s| format!("{}", s["problems"]).contains("internet traffic is blocked"))?;
    assert!(!around.reaches_the_web(), "it went out after a restart");

    laptop.run("meshd", ["set", "--exit-node", ""])?.success()?;
    assert!(around.reaches_the_web() && around.resolves("up.example")?);
    assert_eq!(laptop.sh("ip rule; ip -6 rule; nft list ruleset; cat /etc/resolv.conf")?, untouched);

    out("remove")?;
    laptop.run("meshd", ["down"])?.success()?;
    assert!(around.reaches_the_web());
    assert_eq!(laptop.sh("ip rule; ip -6 rule; nft list ruleset; cat /etc/resolv.conf")?, untouched);
    Ok(())
}

#[test]
fn while_the_exit_is_missing_no_name_is_asked_outside_and_the_coordinator_is_found_by_name() -> Result<()> {
    let around = Around::new("exit_missing")?;
    let laptop = &around.laptop;
    let mut coordinator = Coordinator::start_as(&around.vps, around.vps4, NAMED)?;
    up(laptop, &[&coordinator.token()?])?;
    wait_status(laptop, "lent", |status| status["dns"]["mode"] != "off")?;
    assert!(around.resolves("up.example")? && around.resolves("laptop")?);

    laptop.run("meshd", ["set", "--exit-node", "nobody"])?.success()?;
    let asked = || around.resolver.log().matches("asks for up.example").count();
    let before = asked();
    assert!(!around.resolves("up.example")?, "a name was resolved beside the exit");
    assert_eq!(asked(), before, "a question left beside the exit");
    assert!(around.resolves("laptop")?, "names of the mesh need no exit");
    assert!(!around.reaches_the_web());

    // The coordinator moves, as a machine at home does; our own resolver answers nothing about it.
    let known = |log: String| log.matches(&format!("asks for {NAMED}")).count();
    let before = known(around.resolver.log());
    coordinator.kill()?;
    around.vps.sh("ip addr add 45.66.77.99/32 dev eth0")?;
    let via = around.vps4;
    around.lab.internet().sh(&format!("ip route add 45.66.77.99 via {via}"))?;
    fs::write(&around.zone, format!("{NAMED} 45.66.77.99\n"))?;
    around.vps.nft(&format!(
        "table ip moved {{ chain input {{ type filter hook input priority 0; ip daddr {via} drop; }}; }}\n"
    ))?;
    coordinator.resume()?;
    wait_status(laptop, "found again", |status| status["coordinator"]["connected"] == true)?;
    assert!(known(around.resolver.log()) > before, "its name was never asked for again");
    Ok(())
}

/// Neighbour discovery and multicast never leave the link; the LAN's router is on it.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_multicast() || v4.octets()[..3] == [192, 168, 1],
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local() || v6.segments()[7] == 1,
    }
}
