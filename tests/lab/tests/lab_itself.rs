//! The lab proven by itself, with ping, curl and small echo servers, before any of our programs runs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use meshd_lab::{Finished, Host, Lab, Nat, Process, Router, Transport, Uplink6, wait_until};

fn echo(host: &Host, address: impl Into<IpAddr>, port: u16) -> Result<Process> {
    let process = host.spawn("lab-tool", ["udp-echo", &SocketAddr::new(address.into(), port).to_string()])?;
    process.wait_for_log("listening", Duration::from_secs(5))?;
    Ok(process)
}

/// Asks by UDP, three times at most: a second is short on a busy machine.
fn udp_ask<S: AsRef<str>>(host: &Host, args: &[S]) -> Result<Finished> {
    let args: Vec<&str> = std::iter::once("udp-ask").chain(args.iter().map(AsRef::as_ref)).collect();
    let mut answer = host.run("lab-tool", &args)?;
    for _ in 0..2 {
        if answer.is_success() {
            break;
        }
        answer = host.run("lab-tool", &args)?;
    }
    Ok(answer)
}

fn ask(host: &Host, address: impl Into<IpAddr>, port: u16) -> Result<String> {
    let at = SocketAddr::new(address.into(), port).to_string();
    Ok(udp_ask(host, &[at.as_str(), "hello"])?.success()?.stdout)
}

fn ping(host: &Host, address: impl Into<IpAddr>) -> Result<bool> {
    let address: IpAddr = address.into();
    Ok(host.run("ping", ["-c", "1", "-W", "1", &address.to_string()])?.is_success())
}

/// The outside address and port that a server sees for a socket at `port` of `host`.
fn mapping(host: &Host, port: u16, server: Ipv4Addr, server_port: u16) -> Result<SocketAddr> {
    let server = format!("{server}:{server_port}");
    let answer = udp_ask(host, &[server.as_str(), "x", &port.to_string()])?.success()?.stdout;
    Ok(answer.split_whitespace().next().unwrap_or_default().parse()?)
}

#[test]
fn servers_reach_each_other_by_both_families() -> Result<()> {
    let lab = Lab::new("servers")?;
    let (a, _, _) = lab.server("a")?;
    let (_b, b4, b6) = lab.server("b")?;
    assert!(ping(&a, b4)?);
    assert!(ping(&a, b6)?);
    Ok(())
}

#[test]
fn nothing_in_a_lab_has_a_way_out() -> Result<()> {
    let before = std::fs::read_to_string("/proc/net/dev")?.lines().count();
    let lab = Lab::new("no_way_out")?;
    let (a, _, _) = lab.server("a")?;
    assert!(!ping(&a, Ipv4Addr::new(1, 1, 1, 1))?);
    assert_eq!(std::fs::read_to_string("/proc/net/dev")?.lines().count(), before, "an interface outside");
    Ok(())
}

#[test]
fn every_machine_has_its_own_files_names_and_processes() -> Result<()> {
    let lab = Lab::new("own_files")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    a.sh("mkdir -p /var/lib/meshd /run/meshd && echo 1 > /var/lib/meshd/x && echo 2 > /run/meshd/y")?;
    assert!(b.sh("ls /var/lib /run")?.trim().lines().all(|line| !line.contains("meshd")));
    assert!(!Path::new("/run/meshd/y").exists());
    assert_eq!(a.sh("hostname")?.trim(), "a");
    assert_ne!(a.sh("cat /etc/machine-id")?, b.sh("cat /etc/machine-id")?);
    a.sh("mv /etc/resolv.conf /etc/x && echo nameserver 127.0.0.1 > /etc/resolv.conf")?;
    assert!(!std::fs::read_to_string("/etc/resolv.conf")?.contains("nameserver 127.0.0.1\n"));
    assert!(a.sh("ls /proc | grep -c '^[0-9]'")?.trim().parse::<u32>()? < 12);
    Ok(())
}

#[test]
fn a_rebooted_machine_keeps_files_and_cables_and_nothing_else() -> Result<()> {
    let lab = Lab::new("reboot")?;
    let home = lab.router("home", Nat::Home)?;
    let (pi, pi4, _) = lab.behind(&home, "pi")?;
    let (nas, _, _) = lab.behind(&home, "nas")?;
    let mut server = echo(&pi, pi4, 7)?;
    pi.sh("mkdir -p /var/lib/x && echo kept > /var/lib/x/y && echo gone > /run/z && ip route add 10.9.0.0/16 dev lo")?;
    assert!(ping(&nas, pi4)?);
    pi.power_off();
    assert!(!ping(&nas, pi4)?);
    assert!(wait_until(Duration::from_secs(2), || !server.is_running()));
    pi.power_on()?;
    assert!(ping(&nas, pi4)?);
    assert_eq!(pi.sh("cat /var/lib/x/y")?.trim(), "kept");
    assert_eq!(pi.sh("ls /run | grep z; ip route show 10.9.0.0/16")?, "");
    Ok(())
}

#[test]
fn a_home_nat_keeps_one_port_for_all_and_lets_nobody_in() -> Result<()> {
    let lab = Lab::new("home_nat")?;
    let (one, one4, _) = lab.server("one")?;
    let (two, two4, _) = lab.server("two")?;
    let home = lab.router("home", Nat::Home)?;
    let (laptop, _, _) = lab.behind(&home, "laptop")?;
    let _servers = (echo(&one, one4, 3478)?, echo(&two, two4, 3478)?);
    let (a, b) = (mapping(&laptop, 5000, one4, 3478)?, mapping(&laptop, 5000, two4, 3478)?);
    assert_eq!(a, b);
    assert_eq!(a, SocketAddr::new(home.wan4.into(), 5000));
    assert!(!knock(&two, &laptop, a)?, "a stranger's packet came in");
    Ok(())
}

/// Whether a packet of `two`, where the laptop has never sent to its port 9999, reaches port 5000.
fn knock(two: &Host, laptop: &Host, outside: SocketAddr) -> Result<bool> {
    let listener = laptop.spawn("lab-tool", ["udp-echo", "0.0.0.0:5000"])?;
    listener.wait_for_log("listening", Duration::from_secs(5))?;
    let answer = udp_ask(two, &[outside.to_string().as_str(), "x", "9999"])?;
    listener.kill()?;
    Ok(answer.is_success())
}

#[test]
fn a_symmetric_nat_takes_a_new_port_for_every_destination() -> Result<()> {
    let lab = Lab::new("symmetric_nat")?;
    let (one, one4, _) = lab.server("one")?;
    let (two, two4, _) = lab.server("two")?;
    let home = lab.router("home", Nat::Symmetric)?;
    let (laptop, _, _) = lab.behind(&home, "laptop")?;
    let _servers = (echo(&one, one4, 3478)?, echo(&two, two4, 3478)?);
    let (a, b) = (mapping(&laptop, 5000, one4, 3478)?, mapping(&laptop, 5000, two4, 3478)?);
    assert_ne!(a.port(), b.port());
    assert!(!knock(&two, &laptop, a)?);
    Ok(())
}

#[test]
fn a_full_cone_lets_everybody_in_to_a_mapped_port() -> Result<()> {
    let lab = Lab::new("full_cone")?;
    let (one, one4, _) = lab.server("one")?;
    let (two, _, _) = lab.server("two")?;
    let home = lab.router("home", Nat::FullCone)?;
    let (laptop, _, _) = lab.behind(&home, "laptop")?;
    let _server = echo(&one, one4, 3478)?;
    let outside = mapping(&laptop, 5000, one4, 3478)?;
    assert!(knock(&two, &laptop, outside)?);
    Ok(())
}

#[test]
fn a_udp_blocker_lets_tcp_through_and_no_udp() -> Result<()> {
    let lab = Lab::new("udp_blocked")?;
    let (server, server4, _) = lab.server("server")?;
    let cafe = lab.router("cafe", Nat::UdpBlocked)?;
    let (laptop, _, _) = lab.behind(&cafe, "laptop")?;
    let _udp = echo(&server, server4, 3478)?;
    assert!(ask(&laptop, server4, 3478).is_err());
    let _dns = echo(&server, server4, 53)?;
    assert!(ask(&laptop, server4, 53).is_ok());
    server.sh("head -c 100000 /dev/urandom > /var/lib/body")?;
    let http = server.spawn("lab-tool", ["http", &format!("{server4}:80"), "/var/lib/body"])?;
    http.wait_for_log("listening", Duration::from_secs(5))?;
    let body = laptop.sh(&format!("curl -s --max-time 5 http://{server4}/ | wc -c"))?;
    assert_eq!(body.trim(), "100000");
    Ok(())
}

#[test]
fn a_firewalled_ipv6_home_asks_and_is_not_asked() -> Result<()> {
    let lab = Lab::new("ipv6_home")?;
    let (server, _, server6) = lab.server("server")?;
    let home = lab.router_with("home", Nat::Home, Uplink6::Firewalled)?;
    let (laptop, _, laptop6) = lab.behind(&home, "laptop")?;
    assert!(ping(&laptop, server6)?);
    assert!(!ping(&server, laptop6)?);
    Ok(())
}

#[test]
fn carrier_grade_nat_is_two_routers_in_a_row() -> Result<()> {
    let lab = Lab::new("cgnat")?;
    let (server, server4, _) = lab.server("server")?;
    let carrier = lab.router("carrier", Nat::Symmetric)?;
    let home: Router = lab.router_behind(&carrier, "home", Nat::Home)?;
    let (laptop, _, _) = lab.behind(&home, "laptop")?;
    let _server = echo(&server, server4, 3478)?;
    assert_eq!(mapping(&laptop, 5000, server4, 3478)?.ip(), IpAddr::V4(carrier.wan4));
    Ok(())
}

#[test]
fn loss_rate_and_pulled_cables_happen_to_a_link() -> Result<()> {
    let lab = Lab::new("loss")?;
    let (a, a4, _) = lab.server("a")?;
    let (b, _, _) = lab.server("b")?;
    a.set_loss("eth0", 50)?;
    let out = b.run("ping", ["-c", "60", "-i", "0.01", "-W", "1", &a4.to_string()])?.stdout;
    let received: u32 = out
        .lines()
        .find_map(|line| line.split(", ").nth(1)?.strip_suffix(" received")?.parse().ok())
        .unwrap_or(0);
    assert!((10..50).contains(&received), "{out}");
    a.set_loss("eth0", 0)?;
    a.set_rate("eth0", 8)?;
    a.sh("head -c 2000000 /dev/zero > /var/lib/body")?;
    let http = a.spawn("lab-tool", ["http", "0.0.0.0:80", "/var/lib/body"])?;
    http.wait_for_log("listening", Duration::from_secs(5))?;
    let took = b.run("curl", ["-s", "-o", "/dev/null", &format!("http://{a4}/")])?.success()?.took;
    assert!(took > Duration::from_millis(1200) && took < Duration::from_secs(10), "{took:?}");
    a.set_link("eth0", false)?;
    assert!(!ping(&b, a4)?);
    Ok(())
}

#[test]
fn a_capture_holds_every_packet_of_the_link() -> Result<()> {
    let lab = Lab::new("capture")?;
    let (a, a4, _) = lab.server("a")?;
    let (b, b4, _) = lab.server("b")?;
    let capturing = b.capture("eth0")?;
    let _server = echo(&a, a4, 7000)?;
    assert!(ask(&b, a4, 7000)?.contains("hello"));
    assert!(ping(&b, a4)?);
    let capture = capturing.finish()?;
    let udp = capture.count(|p| p.transport == Transport::Udp && p.is_between(a4.into(), b4.into()));
    assert_eq!(udp, 2);
    assert_eq!(capture.count(|p| p.holds(&[b"hello"])), 2);
    assert_eq!(capture.count(|p| p.transport == Transport::Icmp && p.touches(a4.into())), 2);
    assert_eq!(capture.count(|p| p.wireguard().is_some()), 0);
    Ok(())
}

#[test]
fn a_killed_run_leaves_no_process_behind() -> Result<()> {
    // A process of its own makes a lab and is killed; what it started has to be gone.
    if std::env::var_os("LAB_VICTIM").is_some() {
        let lab = Lab::new("victim")?;
        let (host, _, _) = lab.server("victim")?;
        let _sleeper = host.spawn("sleep", ["4242"])?;
        println!("VICTIM READY");
        std::thread::sleep(Duration::from_secs(60));
        return Ok(());
    }
    let mut victim = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", "a_killed_run_leaves_no_process_behind", "--nocapture"])
        .env("LAB_VICTIM", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(victim.stdout.take().expect("piped")));
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("VICTIM READY"))));
    let sleepers = || -> usize {
        let Ok(processes) = std::fs::read_dir("/proc") else { return 0 };
        processes
            .flatten()
            .filter(|p| std::fs::read(p.path().join("cmdline")).is_ok_and(|c| c == b"sleep\x004242\0"))
            .count()
    };
    assert!(wait_until(Duration::from_secs(5), || sleepers() == 1));
    victim.kill()?;
    victim.wait()?;
    assert!(wait_until(Duration::from_secs(5), || sleepers() == 0), "a process outlived its lab");
    let folder = std::env::temp_dir().join(format!("meshd-lab-{}-0", victim.id()));
    meshd_lab::reap();
    assert!(!folder.exists());
    Ok(())
}
