//! Small underlays whose routers say nothing: every byte arrives, direct and over the relay.

use std::time::Duration;

use anyhow::{Context, Result};
use meshd_lab::mesh::{SmallInternet, fetch, mesh_address, ping_until, wait_direct};

const MIB: usize = 1 << 20;

/// The laptop's uplink carries packets of at most `mtu` bytes from now on, and nobody says so.
fn narrow(net: &SmallInternet, mtu: u32) -> Result<()> {
    net.away.host.sh(&format!("ip link set wan mtu {mtu}"))?;
    // The third link that was made: VPS, home, away.
    net.lab.internet().sh(&format!("ip link set p2 mtu {mtu}"))?;
    Ok(())
}

fn silence(net: &SmallInternet) -> Result<()> {
    for host in [&net.away.host, net.lab.internet(), &net.home.host] {
        host.nft(
            "table inet quiet { chain out { type filter hook output priority 0; \
             icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }\n",
        )?;
    }
    Ok(())
}

fn everything_arrives(net: &SmallInternet, pi: &str, way: &str, mtu: u32) -> Result<()> {
    let body = net.serve_random(MIB)?;
    let began = meshd_lab::now();
    let got = fetch(&net.laptop, &format!("http://{}/", net.nas4))
        .with_context(|| format!("TCP, {way}, underlay {mtu}"))?;
    assert!(got == body, "other bytes, {way}, underlay {mtu}");
    let took = meshd_lab::now() - began;
    // An inner datagram of 1400 bytes is two fragments already.
    let text = "x".repeat(1400);
    for _ in 0..3 {
        if net.laptop.run("lab-tool", ["udp-ask", &format!("{pi}:7"), &text])?.is_success() {
            println!("{way:<7} underlay {mtu:>4}: 1 MiB in {took:?}, UDP of 1400 bytes");
            return Ok(());
        }
    }
    anyhow::bail!("UDP of 1400 bytes, {way}, underlay {mtu}")
}

const UNDERLAYS: [u32; 5] = [1500, 1492, 1420, 1280, 1124];

#[test]
fn every_byte_arrives_over_small_ipv4_underlays_that_drop_icmp() -> Result<()> {
    let net = SmallInternet::new("mtu")?;
    let _coordinator = net.join_all()?;
    let pi = mesh_address(&net.pi)?.to_string();
    net.pi.spawn("lab-tool", ["udp-echo", "0.0.0.0:7"])?;
    ping_until(&net.laptop, &pi, Duration::from_secs(20))?;
    wait_direct(&net.laptop, "pi")?;
    silence(&net)?;
    for mtu in UNDERLAYS {
        narrow(&net, mtu)?;
        everything_arrives(&net, &pi, "direct", mtu)?;
    }
    // Without the direct path: the relay, over the same uplink.
    let (a, b) = (net.home.wan4, net.away.wan4);
    net.lab.internet().nft(&format!(
        "table ip cut {{ chain f {{ type filter hook forward priority 0; \
         ip saddr {a} ip daddr {b} drop; ip saddr {b} ip daddr {a} drop; }}; }}\n"
    ))?;
    ping_until(&net.laptop, &pi, Duration::from_secs(20))?;
    for mtu in UNDERLAYS {
        narrow(&net, mtu)?;
        everything_arrives(&net, &pi, "relayed", mtu)?;
    }
    Ok(())
}
