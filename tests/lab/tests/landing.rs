//! The main job: a mesh in a minute, a LAN behind a Pi, by the commands that a person types.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use meshd_lab::mesh::{
    Coordinator, SmallInternet, fetch, mesh_address, peer, ping_until, status, up, wait_direct, wait_status,
};
use meshd_lab::{Lab, Nat, Process, Transport, WireGuard, now};

const MIB: usize = 1 << 20;

#[test]
fn two_nodes_behind_home_nats_ping_each_other_by_name() -> Result<()> {
    let net = SmallInternet::new("landing")?;
    let mut coordinator = net.join_all()?;
    let capturing = net.home.host.capture("wan")?;

    // By name, through a tunnel that is direct in the end, and both nodes say so.
    ping_until(&net.laptop, "pi", Duration::from_secs(10))?;
    ping_until(&net.pi, "laptop", Duration::from_secs(10))?;
    wait_direct(&net.laptop, "pi")?;
    wait_direct(&net.pi, "laptop")?;
    let pong = net.laptop.run("meshd", ["ping", "pi"])?.success()?;
    assert!(pong.stdout.contains("direct"), "{}", pong.stdout);

    // The LAN behind the Pi, by address and by name.
    let body = net.serve_random(MIB)?;
    assert_eq!(fetch(&net.laptop, &format!("http://{}/", net.nas4))?, body);
    assert_eq!(fetch(&net.laptop, "http://nas.home.internal/")?, body);

    // On the wire between the homes: WireGuard and nothing else that we did not ask for.
    let capture = capturing.finish()?;
    let (home, away) = (net.home.wan4.into(), net.away.wan4.into());
    let data = capture.count(|p| p.is_between(home, away) && p.wireguard() == Some(WireGuard::Data));
    assert!(data > 2 * MIB / 1500, "{data} data messages carried two fetches");
    let pieces: Vec<&[u8]> = body.chunks(4096).map(|chunk| &chunk[..16]).collect();
    assert_eq!(capture.count(|p| p.holds(&pieces) || p.holds(&[b"HTTP/1.1", b"nas.home"])), 0);
    let strangers = capture.count(|p| {
        let known = p.touches(away) || p.touches(net.vps4.into()) || p.is_probe();
        p.transport == Transport::Udp && p.touches(home) && !known
    });
    assert_eq!(strangers, 0, "the Pi's home talks to somebody else");

    // Nobody needs the coordinator or the relay to go on.
    coordinator.kill()?;
    let body = net.serve_random(MIB)?;
    assert_eq!(fetch(&net.laptop, "http://nas.home.internal/")?, body);
    Ok(())
}

#[test]
fn from_up_to_the_first_reply_by_name_takes_about_a_second() -> Result<()> {
    let rounds: usize = std::env::var("REPEATS").map_or(Ok(1), |n| n.parse())?;
    let mut took = Vec::new();
    for _ in 0..rounds.max(1) {
        let net = SmallInternet::new("start")?;
        let coordinator = net.coordinator()?;
        let token = coordinator.token()?;
        up(&net.pi, &[&token])?;
        let began = now();
        up(&net.laptop, &[&token])?;
        let joined = now() - began;
        ping_until(&net.laptop, "pi", Duration::from_secs(10))?;
        let replied = now() - began;
        println!("meshd up: {joined:?}; first reply by name after {replied:?}");
        took.push(replied);
    }
    took.sort_unstable();
    let (least, median, most) = (took[0], took[took.len() / 2], took[took.len() - 1]);
    println!("first reply by name, {} times: {least:?} to {most:?}, median {median:?}", took.len());
    assert!(median < Duration::from_secs(10), "{took:?}");
    Ok(())
}

#[test]
fn a_coordinator_behind_a_one_to_one_nat_finds_its_outside_address() -> Result<()> {
    let lab = Lab::new("one_to_one")?;
    // Somebody else's coordinator is as good a STUN server as any.
    let (other, other4, _) = lab.server("other")?;
    let _stun = Coordinator::start(&other, other4)?;
    // A cloud: the machine knows 192.168.…, the internet knows 45.66.77.99, and nothing else leads there.
    let cloud = lab.router("cloud", Nat::None)?;
    let (vm, vm4, _) = lab.behind(&cloud, "vm")?;
    let outside: Ipv4Addr = "45.66.77.99".parse()?;
    let gone = cloud.lan.prefix4();
    lab.internet().sh(&format!("ip route del {gone}; ip route add {outside} via {}", cloud.wan4))?;
    cloud.host.nft(&format!(
        "table ip one {{ chain before {{ type nat hook prerouting priority dstnat; ip daddr {outside} dnat to {vm4}; }}\n\
         chain after {{ type nat hook postrouting priority srcnat; ip saddr {vm4} snat to {outside}; }}; }}\n"
    ))?;

    let serve = |stun: &str| -> Result<Process> {
        let serving = vm.spawn("meshd-coordinator", ["serve", "--stun-server", stun])?;
        serving.wait_for_log("administer the mesh", Duration::from_secs(20))?;
        Ok(serving)
    };
    let refused = serve("none")?;
    assert!(!refused.log().contains(&outside.to_string()), "it asked nobody: {}", refused.log());
    refused.kill()?;
    let serving = serve(&other4.to_string())?;
    assert!(serving.log().contains(&format!("sees it as {outside}")), "{}", serving.log());

    let said = vm.run("meshd-coordinator", ["token", "create"])?.success()?.stdout;
    let token = said.split_whitespace().find(|word| word.starts_with("mesh_")).context("no token")?;
    let (laptop, _, _) = lab.server("laptop")?;
    up(&laptop, &[token])?;
    let said = wait_status(&laptop, "joined", |status| status["coordinator"]["connected"] == true)?;
    assert!(said["coordinator"].to_string().contains(&outside.to_string()), "{said:#}");
    Ok(())
}

#[test]
fn a_route_that_nobody_approved_carries_nothing() -> Result<()> {
    let net = SmallInternet::new("pending")?;
    let coordinator = net.coordinator()?;
    let token = coordinator.token()?;
    let said = up(&net.pi, &[&token, "--advertise-routes=192.168.1.0/24"])?;
    assert!(format!("{}{}", said.stdout, said.stderr).contains("approve"), "{said:?}");
    up(&net.laptop, &[&token])?;
    ping_until(&net.laptop, "pi", Duration::from_secs(10))?;
    assert_eq!(status(&net.pi)?["self"]["pending_routes"][0], "192.168.1.0/24");
    let arriving = net.nas.capture("eth0")?;
    net.laptop.run("ping", ["-c", "3", "-i", "0.3", "-W", "1", &net.nas4.to_string()])?.failure()?;
    let laptop = mesh_address(&net.laptop)?;
    let pi_lan = "192.168.1.11".parse()?;
    let capture = arriving.finish()?;
    assert_eq!(capture.count(|p| p.transport == Transport::Icmp && p.touches(net.nas4.into())), 0);
    assert_eq!(
        capture.count(|p| p.touches(laptop.into()) || p.transport == Transport::Icmp && p.touches(pi_lan)),
        0
    );

    // Approved, it works; taken back, it ends.
    coordinator.run(&["routes", "approve", "pi", "192.168.1.0/24"])?;
    ping_until(&net.laptop, &net.nas4.to_string(), Duration::from_secs(10))?;
    assert_eq!(peer(&net.laptop, "pi")?["routes"][0], "192.168.1.0/24");
    Ok(())
}
