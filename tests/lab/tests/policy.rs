//! Who may reach whom: enforced by the receiving node, at once, for flows that already run, too.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use meshd_lab::mesh::{Coordinator, SmallInternet, mesh_address, ping_until, status};
use meshd_lab::wait_within;

fn set_policy(coordinator: &Coordinator, text: &str) -> Result<()> {
    fs::write(coordinator.host.file("/etc/policy.hujson"), text)?;
    // Some of these cut the mesh apart on purpose.
    coordinator.run(&["policy", "set", "--force", "/etc/policy.hujson"])?;
    Ok(())
}

#[test]
fn a_denied_port_is_dropped_at_the_receiver_and_a_live_flow_is_cut() -> Result<()> {
    let net = SmallInternet::new("policy")?;
    let coordinator = net.join_all()?;
    let pi = mesh_address(&net.pi)?;
    ping_until(&net.laptop, "pi", Duration::from_secs(10))?;
    let (open, closed) = (format!("{pi}:7001"), format!("{pi}:7002"));
    for address in [&open, &closed] {
        net.pi.spawn("lab-tool", ["tcp-echo", address])?.wait_for_log("listening", Duration::from_secs(5))?;
    }
    let kept = net.laptop.spawn("lab-tool", ["tcp-hold", &open, "20"])?;
    let cut = net.laptop.spawn("lab-tool", ["tcp-hold", &closed, "20"])?;
    kept.wait_for_log("line 3", Duration::from_secs(5))?;
    cut.wait_for_log("line 3", Duration::from_secs(5))?;

    set_policy(
        &coordinator,
        r#"{
          // the laptop keeps port 7001 and ping
          "acls": [
            { "action": "accept", "src": ["*"], "dst": ["*:7001"] },
            { "action": "accept", "proto": "icmp", "src": ["*"], "dst": ["*:*"] },
          ],
        }"#,
    )?;
    let began = meshd_lab::now();
    assert!(!cut.wait(Duration::from_secs(6))?.success(), "the denied flow went on");
    println!("the live flow ended {:?} after the policy changed", meshd_lab::now() - began);
    assert!(net.laptop.run("lab-tool", ["tcp-hold", &open, "1"])?.is_success());
    assert!(
        !net.laptop.run_within(Duration::from_secs(4), "lab-tool", ["tcp-hold", &closed, "1"])?.is_success()
    );

    let said = status(&net.pi)?;
    let counted =
        said["drops"].as_array().is_some_and(|drops| drops.iter().any(|d| d["count"].as_u64() > Some(0)));
    assert!(counted, "status does not say that packets were dropped: {said:#}");
    let ended = wait_within(Duration::from_secs(30), || kept.log().contains("line 199").then_some(()));
    assert!(ended.is_some(), "the permitted flow was cut: {}", kept.log());
    Ok(())
}

#[test]
fn an_empty_policy_denies_everything() -> Result<()> {
    let net = SmallInternet::new("empty_policy")?;
    let coordinator = net.join_all()?;
    ping_until(&net.laptop, "pi", Duration::from_secs(10))?;
    let pi = mesh_address(&net.pi)?.to_string();
    set_policy(&coordinator, "{}")?;
    let denied = wait_within(Duration::from_secs(5), || {
        let ping = net.laptop.run("ping", ["-c", "1", "-W", "1", &pi]).ok()?;
        (!ping.is_success()).then_some(())
    });
    assert!(denied.is_some());
    Ok(())
}

#[test]
fn a_revoked_node_is_cut_within_seconds() -> Result<()> {
    let net = SmallInternet::new("revoked")?;
    let coordinator = net.join_all()?;
    let pi = mesh_address(&net.pi)?.to_string();
    ping_until(&net.laptop, &pi, Duration::from_secs(10))?;
    coordinator.run(&["nodes", "revoke", "laptop"])?;
    let began = meshd_lab::now();
    let denied = wait_within(Duration::from_secs(5), || {
        let ping = net.laptop.run("ping", ["-c", "1", "-W", "1", &pi]).ok()?;
        (!ping.is_success()).then_some(())
    });
    assert!(denied.is_some());
    println!("cut {:?} after the revocation", meshd_lab::now() - began);
    Ok(())
}
