//! What goes on, and what comes back, when something dies.

use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result};
use meshd_lab::mesh::{
    SmallInternet, fetch, kill_daemon, mesh_address, ping_until, start_daemon, up, wait_direct, wait_status,
};
use meshd_lab::{Host, now, wait_within};

const MIB: usize = 1 << 20;

/// Everything of a host that `meshd` may touch, as text.
fn host_state(host: &Host) -> Result<String> {
    host.sh(
        "set -e; ip rule; ip -6 rule; ip route show table all type unicast; ip -6 route show table all type unicast; \
         ip -o link | sed 's/^[0-9]*: //'; nft list ruleset; cat /etc/resolv.conf; ls -l /etc/resolv.conf | cut -c1-10; \
         cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding \
         /proc/sys/net/ipv4/conf/all/rp_filter /proc/sys/net/ipv4/conf/*/src_valid_mark",
    )
}

/// Fetches until it works: a node that has just come up may need a moment.
fn fetch_until(host: &Host, url: &str, body: &[u8], limit: Duration) -> Result<()> {
    let mut last = String::new();
    let found = wait_within(limit, || match fetch(host, url) {
        Ok(got) if got == body => Some(()),
        Ok(got) => {
            last = format!("{} other bytes", got.len());
            None
        }
        Err(error) => {
            last = error.to_string();
            None
        }
    });
    found.ok_or_else(|| anyhow::anyhow!("{} never fetched {url}: {last}", host.name()))
}

#[test]
fn a_rebooted_pi_is_a_subnet_router_again_without_a_command() -> Result<()> {
    let net = SmallInternet::new("pi_reboot")?;
    let _coordinator = net.join_all()?;
    let body = net.serve_random(MIB)?;
    fetch_until(&net.laptop, "http://nas.home.internal/", &body, Duration::from_secs(15))?;
    net.pi.reboot()?;
    // What the enabled unit does at boot.
    let _daemon = net.pi.spawn("meshd", ["run"])?;
    let body = net.serve_random(MIB)?;
    fetch_until(&net.laptop, "http://nas.home.internal/", &body, Duration::from_secs(20))?;
    ping_until(&net.pi, "laptop", Duration::from_secs(10))?;
    Ok(())
}

#[test]
fn without_the_coordinator_links_go_on_and_a_rebooted_node_starts_from_its_stored_map() -> Result<()> {
    let net = SmallInternet::new("no_coordinator")?;
    let mut coordinator = net.join_all()?;
    wait_direct(&net.laptop, "pi")?;
    wait_direct(&net.pi, "laptop")?;
    coordinator.kill()?;
    let body = net.serve_random(MIB)?;
    fetch_until(&net.laptop, "http://nas.home.internal/", &body, Duration::from_secs(10))?;

    net.pi.reboot()?;
    let _daemon = net.pi.spawn("meshd", ["run"])?;
    wait_status(&net.pi, "up without the coordinator", |status| status["state"] == "up-offline")?;
    let body = net.serve_random(MIB)?;
    fetch_until(&net.laptop, "http://nas.home.internal/", &body, Duration::from_secs(30))?;

    coordinator.resume()?;
    wait_status(&net.pi, "the coordinator is back", |status| status["state"] == "up")?;
    wait_status(&net.laptop, "the coordinator is back", |status| status["state"] == "up")?;
    Ok(())
}

#[test]
fn down_leaves_the_host_as_it_was() -> Result<()> {
    let net = SmallInternet::new("down")?;
    let before = host_state(&net.pi)?;
    let _coordinator = net.join_all()?;
    ping_until(&net.pi, "laptop", Duration::from_secs(10))?;
    assert_ne!(host_state(&net.pi)?, before);
    net.pi.run("meshd", ["down"])?.success()?;
    assert_eq!(host_state(&net.pi)?, before);
    // The settings are still known.
    up(&net.pi, &[])?;
    ping_until(&net.laptop, &net.nas4.to_string(), Duration::from_secs(15))?;
    Ok(())
}

#[test]
fn after_a_killed_daemon_cleanup_leaves_the_host_as_it_was() -> Result<()> {
    let net = SmallInternet::new("killed")?;
    let before = host_state(&net.pi)?;
    let _coordinator = net.join_all()?;
    ping_until(&net.pi, "laptop", Duration::from_secs(10))?;
    kill_daemon(&net.pi)?;
    // A killed process is gone before the kernel has closed its sockets; until then it counts as running.
    let clean = wait_within(Duration::from_secs(5), || net.pi.run("meshd", ["cleanup"]).ok()?.success().ok());
    assert!(clean.is_some(), "cleanup failed: {:?}", net.pi.run("meshd", ["cleanup"]));
    let same = wait_within(Duration::from_secs(5), || (host_state(&net.pi).ok()? == before).then_some(()));
    if same.is_none() {
        assert_eq!(host_state(&net.pi)?, before);
    }
    let daemon = net.pi.spawn("meshd", ["run"])?;
    ping_until(&net.laptop, &net.nas4.to_string(), Duration::from_secs(20))?;
    daemon.terminate()?;
    Ok(())
}

#[test]
fn a_lossy_slow_link_still_carries_a_fetch() -> Result<()> {
    let net = SmallInternet::new("lossy")?;
    let _coordinator = net.join_all()?;
    let body = net.serve_random(MIB / 4)?;
    net.away.host.set_loss("wan", 5)?;
    net.home.host.set_rate("wan", 20)?;
    fetch_until(&net.laptop, &format!("http://{}/", net.nas4), &body, Duration::from_secs(60))
}

#[test]
fn a_forward_drop_of_somebody_else_is_named_with_what_helps() -> Result<()> {
    let net = SmallInternet::new("foreign_drop")?;
    net.pi
        .nft("table ip foreign { chain forward { type filter hook forward priority 0; policy drop; }; }\n")?;
    let _coordinator = net.join_all()?;
    let status = wait_status(&net.pi, "the foreign drop is named", |status| {
        status["problems"].as_array().is_some_and(|all| {
            all.iter().any(|p| {
                format!("{p}").contains("foreign") && p["help"].as_str().is_some_and(|h| !h.is_empty())
            })
        })
    })?;
    println!("{:#}", status["problems"]);
    assert!(!net.laptop.run("ping", ["-c", "1", "-W", "1", &net.nas4.to_string()])?.is_success());
    Ok(())
}

#[test]
fn another_vpn_that_drops_the_mesh_range_is_named() -> Result<()> {
    let net = SmallInternet::new("other_vpn")?;
    let rules = "table inet othervpn { chain input { type filter hook input priority 0; \
                 iifname != \"vpn0\" ip saddr 100.64.0.0/10 drop; }; }\n";
    net.laptop.nft(rules)?;
    let before = net.laptop.sh("nft list ruleset")?;
    let coordinator = net.coordinator()?;
    let token = coordinator.token()?;
    let said = net.laptop.run("meshd", ["up", "--no-service", &token])?;
    let status = net.laptop.run("meshd", ["status", "--json"])?.stdout;
    let all = format!("{}{}{status}", said.stdout, said.stderr);
    assert!(all.contains("othervpn") && all.contains("100.64.0.0/10"), "{all}");
    let _ = net.laptop.run("meshd", ["down"])?;
    assert_eq!(net.laptop.sh("nft list ruleset")?, before);
    Ok(())
}

#[test]
fn a_symmetric_nat_on_one_side_is_carried_by_the_relay() -> Result<()> {
    let net = SmallInternet::with_nats("symmetric", meshd_lab::Nat::Home, meshd_lab::Nat::Symmetric)?;
    let _coordinator = net.join_all()?;
    let body = net.serve_random(MIB)?;
    fetch_until(&net.laptop, "http://nas.home.internal/", &body, Duration::from_secs(20))?;
    assert!(!mesh_address(&net.laptop)?.is_unspecified());
    Ok(())
}

#[test]
fn a_stored_map_past_its_lease_goes_out_of_force_and_comes_back_with_the_coordinator() -> Result<()> {
    let net = SmallInternet::new("lapse")?;
    let mut coordinator = net.join_all()?;
    ping_until(&net.laptop, "pi", Duration::from_secs(10))?;
    kill_daemon(&net.laptop)?;
    coordinator.kill()?;
    // As if the coordinator had been away for almost all of the lease.
    let folder = net.laptop.file("/var/lib/meshd");
    let state = meshd_node::state::StateDir::open(&folder)?;
    let (map, confirmed) = state.map().context("no stored map")?;
    let lease = map.me.as_ref().context("nobody")?.map_lease;
    state.set_map(&map, meshd_proto::UnixSeconds(confirmed.0 - lease + 40))?;

    let _daemon = start_daemon(&net.laptop)?;
    wait_status(&net.laptop, "in force", |status| status["state"] == "up-offline")?;
    ping_until(&net.laptop, "pi", Duration::from_secs(10))?;
    // 40 s, and what housekeeping and a busy machine take.
    let lapsed = wait_within(Duration::from_secs(150), || {
        net.laptop.sh("ip route show table 5200").ok()?.trim().is_empty().then_some(())
    });
    assert!(lapsed.is_some(), "the map stays in force past its lease");
    let conf = net.laptop.sh("cat /etc/resolv.conf")?;
    assert!(conf.contains("192.0.2.53"), "names are asked of nobody: {conf}");
    net.laptop.run("ping", ["-c", "1", "-W", "1", &mesh_address(&net.pi)?.to_string()])?.failure()?;

    coordinator.resume()?;
    wait_status(&net.laptop, "back", |status| status["state"] == "up")?;
    ping_until(&net.laptop, "pi", Duration::from_secs(15))?;
    Ok(())
}

#[test]
fn a_command_that_waits_for_the_coordinator_hears_when_the_session_is_lost() -> Result<()> {
    let net = SmallInternet::new("lost_call")?;
    let coordinator = net.coordinator()?;
    up(&net.pi, &[&coordinator.token()?])?;
    // It takes the question and never answers, until it dies.
    let signal = |name: &str| net.vps.run("pkill", [name, "-f", "meshd-coordinator serve"])?.success();
    signal("-STOP")?;
    let mut asking = net.pi.spawn("meshd", ["export", "wg-quick", "phone", "--no-qr"])?;
    thread::sleep(Duration::from_secs(2));
    assert!(asking.is_running(), "nobody answered it: {}", asking.log());
    signal("-KILL")?;
    let lost = now();
    let log = asking.log.clone();
    assert!(!asking.wait(Duration::from_secs(8))?.success());
    let said = fs::read_to_string(log)?;
    assert!(said.contains("the connection to the coordinator was lost"), "{said}");
    println!("told {:?} after the coordinator died: {}", now() - lost, said.trim());
    Ok(())
}
