//! What other people and other programs do to a node while it runs: it mends that, or says so.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{SmallInternet, fetch, kill_daemon, ping_until, start_daemon, status, up, wait_status};
use meshd_lab::{Host, now, wait_within};

/// The log lines of a daemon that hold `text`.
fn logged(host: &Host, text: &str) -> Result<usize> {
    let said = host.run("meshd", ["logs", "-n", "500"])?.success()?.stdout;
    Ok(said.lines().filter(|line| line.contains(text)).count())
}

fn problems(host: &Host) -> Result<String> {
    Ok(format!("{:#}", status(host)?["problems"]))
}

#[test]
fn a_removed_interface_comes_back_with_addresses_routes_rules_and_names() -> Result<()> {
    let net = SmallInternet::new("link_del")?;
    let _coordinator = net.join_all()?;
    let body = net.serve_random(10_000)?;
    ping_until(&net.laptop, "pi", Duration::from_secs(10))?;
    let look = "ip -o addr show mesh0 | tr -s ' ' | cut -d' ' -f2-4 | sort; ip route show table 5200; ip rule; cat /etc/resolv.conf";
    let before = net.laptop.sh(look)?;
    let warned = logged(&net.laptop, "WARN")?;

    net.laptop.sh("ip link del mesh0")?;
    let same = wait_within(Duration::from_secs(20), || (net.laptop.sh(look).ok()? == before).then_some(()));
    ensure!(same.is_some(), "not as before:\n{}\nbut\n{}", before, net.laptop.sh(look).unwrap_or_default());
    ping_until(&net.laptop, "pi", Duration::from_secs(15))?;
    let got = wait_within(Duration::from_secs(10), || fetch(&net.laptop, "http://nas.home.internal/").ok());
    ensure!(got.as_ref() == Some(&body), "the LAN behind the Pi is not reached any more");
    assert_eq!(logged(&net.laptop, "somebody removed the mesh interface")?, 1);
    assert_eq!(logged(&net.laptop, "WARN")?, warned + 1, "one line says it");
    Ok(())
}

#[test]
fn another_router_at_the_same_address_is_another_network() -> Result<()> {
    let net = SmallInternet::new("other_router")?;
    let _coordinator = net.join_all()?;
    ping_until(&net.laptop, "pi", Duration::from_secs(10))?;
    let changed = "the networks of this host changed";
    let before = logged(&net.laptop, changed)?;
    let addresses = net.laptop.sh("ip -4 -o addr show dev eth0 | cut -d' ' -f7")?;
    // The same LAN with the same address, and another machine as the way out.
    let gateway = net.laptop.sh("ip -4 route show default")?;
    let gateway = gateway.split_whitespace().nth(2).context("no gateway")?.to_owned();
    let other = gateway.rsplit_once('.').map(|(net, _)| format!("{net}.254")).context("no gateway")?;
    net.away.host.sh(&format!("ip addr add {other}/24 dev lan"))?;
    net.laptop.sh(&format!("ip route replace default via {other}"))?;
    let seen =
        wait_within(Duration::from_secs(5), || (logged(&net.laptop, changed).ok()? > before).then_some(()));
    ensure!(seen.is_some(), "nothing was noticed");
    assert_eq!(net.laptop.sh("ip -4 -o addr show dev eth0 | cut -d' ' -f7")?, addresses);
    ping_until(&net.laptop, "pi", Duration::from_secs(10))?;
    Ok(())
}

#[test]
fn a_slow_listing_of_the_firewall_does_not_stop_the_daemon() -> Result<()> {
    let net = SmallInternet::new("slow_nft")?;
    let _coordinator = net.join_all()?;
    net.pi.sh(
        "cp $(readlink -f $(which nft)) /run/nft.real && \
         printf '%s\\n' '#!/bin/sh' 'case \"$*\" in *list?ruleset*) echo asked >> /var/lib/asked; sleep 7;; esac' \
         'exec /run/nft.real \"$@\"' > /run/nft.slow && chmod 755 /run/nft.slow && \
         mount --bind /run/nft.slow $(readlink -f $(which nft))",
    )?;
    let mut slowest = Duration::ZERO;
    let mut after = 0;
    // It is looked at every 15 s.
    while after < 20 {
        let began = now();
        status(&net.pi)?;
        slowest = slowest.max(now() - began);
        after += usize::from(net.pi.file("/var/lib/asked").exists());
        ensure!(after > 0 || slowest < Duration::from_secs(60), "the firewall was never looked at");
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("the slowest answer while the firewall was read: {slowest:?}");
    ensure!(slowest < Duration::from_secs(4), "status took {slowest:?}");
    Ok(())
}

#[test]
fn down_answers_an_up_that_is_still_waiting() -> Result<()> {
    let net = SmallInternet::new("down_while_up")?;
    let mut coordinator = net.coordinator()?;
    let token = coordinator.token()?;
    coordinator.kill()?;
    let mut waiting = net.laptop.spawn("meshd", ["up", "--no-service", "--timeout", "50", &token])?;
    wait_status(&net.laptop, "it tries", |status| status["state"] == "connecting")?;
    let began = now();
    net.laptop.run("meshd", ["down"])?.success()?;
    let ended = wait_within(Duration::from_secs(5), || (!waiting.is_running()).then_some(()));
    ensure!(ended.is_some(), "`up` still waits {:?} after `down`", now() - began);
    assert!(waiting.log().contains("taken down"), "{}", waiting.log());
    Ok(())
}

#[test]
fn a_farewell_is_confirmed_by_the_coordinator_or_said_to_be_lost() -> Result<()> {
    let net = SmallInternet::new("logout")?;
    let mut coordinator = net.join_all()?;
    let said = net.laptop.run("meshd", ["down", "--logout"])?.success()?.stdout;
    assert!(!said.contains("could not be told"), "{said}");
    let members = coordinator.run(&["nodes", "list", "--json"])?.stdout;
    assert!(!members.contains("laptop") && members.contains("\"pi\""), "{members}");

    coordinator.kill()?;
    let began = now();
    let said = net.pi.run("meshd", ["down", "--logout"])?.success()?.stdout;
    ensure!(now() - began < Duration::from_secs(15), "it took {:?}", now() - began);
    assert!(said.contains("could not be told") && said.contains("nodes remove pi"), "{said}");
    wait_status(&net.pi, "out", |status| status["state"] == "needs-token")?;
    coordinator.resume()?;
    let members = coordinator.run(&["nodes", "list", "--json"])?.stdout;
    assert!(members.contains("\"pi\""), "what was said is not so: {members}");
    Ok(())
}

#[test]
fn a_membership_that_cannot_be_stored_is_told_and_stored_later() -> Result<()> {
    let net = SmallInternet::new("unstored")?;
    let coordinator = net.coordinator()?;
    let token = coordinator.token()?;
    // In the way of the file that is written first.
    net.laptop.sh("mkdir -p /var/lib/meshd/membership.new")?;
    let said = net.laptop.run("meshd", ["up", "--no-service", &token])?.failure()?;
    assert!(said.stderr.contains("could not write that down"), "{} {}", said.stdout, said.stderr);
    assert!(problems(&net.laptop)?.contains("not on disk"));
    net.laptop.sh("rmdir /var/lib/meshd/membership.new")?;
    let stored = wait_within(Duration::from_secs(25), || {
        (!problems(&net.laptop).ok()?.contains("not on disk")).then_some(())
    });
    ensure!(stored.is_some(), "it does not try again: {}", problems(&net.laptop)?);
    kill_daemon(&net.laptop)?;
    let _daemon = start_daemon(&net.laptop)?;
    wait_status(&net.laptop, "a member after a restart", |status| status["state"] == "up")?;
    up(&net.laptop, &[])?;
    Ok(())
}
