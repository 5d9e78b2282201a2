//! Internet traffic through a node: everything goes there, and nothing leaks when it dies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Result;
use meshd_lab::mesh::{Coordinator, fetch, mesh_address, ping_until, up, wait_status};
use meshd_lab::{Lab, Nat, Transport, Uplink6};

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
    let body = std::fs::read(web.file("/var/lib/body"))?;
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

    exit.power_off();
    for target in [web4.to_string(), web6.to_string(), exit_mesh.to_string()] {
        laptop.run("ping", ["-c", "3", "-i", "0.3", "-W", "1", &target])?.failure()?;
    }
    for server in &servers {
        laptop
            .run("curl", ["-s", "-o", "/dev/null", "--max-time", "3", &format!("http://{server}/")])?
            .failure()?;
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
    println!("{} frames on the uplink, 0 leaked", capture.packets.len());

    // Without an exit the laptop is as before.
    laptop.run("meshd", ["set", "--exit-node", ""])?.success()?;
    assert_eq!(fetch(&laptop, &format!("http://{web4}/"))?, body);
    let after = laptop
        .sh("ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list ruleset")?;
    assert_eq!(after, before);
    Ok(())
}

/// Neighbour discovery and multicast never leave the link; the LAN's router is on it.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_multicast() || v4.octets()[..3] == [192, 168, 1],
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local() || v6.segments()[7] == 1,
    }
}
