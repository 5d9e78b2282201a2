//! Joining without a token: the machine shows a code, an admin approves it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{Coordinator, SmallInternet, mesh_address, ping_until, status, up};
use meshd_lab::{Process, wait_within};
use serde_json::Value;

#[test]
fn a_machine_without_a_token_is_let_in_by_its_code_and_turned_away_by_a_word() -> Result<()> {
    let net = SmallInternet::new("joining")?;
    let coordinator = net.coordinator()?;
    up(&net.pi, &[&coordinator.token()?])?;
    let (url, fingerprint) = place(&coordinator)?;

    // No authority vouches for the certificate: nothing is asked, and what to do is said.
    let said = net.laptop.run("meshd", ["up", "--no-service", "--coordinator", &url])?.failure()?.stderr;
    ensure!(said.contains("cannot be trusted") && said.contains(&fingerprint), "{said}");
    let wrong =
        fingerprint.replace(&fingerprint[..2], if fingerprint.starts_with("00") { "01" } else { "00" });
    let said = asking(&net, &url, &wrong)?;
    said.wait_for_log("another certificate than you named", Duration::from_secs(10))?;
    ensure!(requests(&coordinator)?.is_empty(), "somebody asks");

    // Refused by a word of the admin.
    let mut machine = asking(&net, &url, &fingerprint)?;
    let shown = code(&coordinator, &machine)?;
    coordinator.run(&["join", "refuse", &shown])?;
    machine.wait_for_log("was not let in", Duration::from_secs(15))?;
    ensure!(wait_within(Duration::from_secs(5), || (!machine.is_running()).then_some(())).is_some());

    // Approved by its code; any other code lets nobody in.
    let machine = asking(&net, &url, &fingerprint)?;
    let shown = code(&coordinator, &machine)?;
    machine.wait_for_log("/approvals", Duration::from_secs(5))?;
    let other = if shown == "000000" { "000001" } else { "000000" };
    coordinator.host.run("meshd-coordinator", ["join", "approve", other])?.failure()?;
    coordinator.run(&["join", "approve", &shown])?;
    ensure!(machine.wait(Duration::from_secs(40))?.success(), "`meshd up` ended with a failure");
    ping_until(&net.laptop, "pi", Duration::from_secs(20))?;
    ensure!(requests(&coordinator)?.is_empty(), "the request is over");
    let used: Value = serde_json::from_str(&coordinator.run(&["token", "list", "--json"])?.stdout)?;
    let made = used
        .as_array()
        .and_then(|all| all.iter().find(|t| t["note"].as_str().is_some_and(|n| n.contains(&shown))));
    let made = made.with_context(|| format!("no token of the approval: {used:#}"))?;
    ensure!(made["used"] == 1 && made["uses"] == 1, "{made:#}");
    mesh_address(&net.laptop)?;
    ensure!(status(&net.laptop)?["coordinator"]["connected"] == true, "{:#}", status(&net.laptop)?);
    Ok(())
}

/// `meshd up --coordinator`, left running.
fn asking(net: &SmallInternet, url: &str, fingerprint: &str) -> Result<Process> {
    net.laptop.spawn("meshd", ["up", "--no-service", "--coordinator", url, "--coordinator-key", fingerprint])
}

fn requests(coordinator: &Coordinator) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&coordinator.run(&["join", "list", "--json"])?.stdout)?)
}

/// The code that the coordinator shows; the machine must show the same.
fn code(coordinator: &Coordinator, machine: &Process) -> Result<String> {
    let found = wait_within(Duration::from_secs(15), || {
        let list = requests(coordinator).ok()?;
        list.first()?["code"].as_str().map(str::to_owned)
    });
    let code = found.with_context(|| format!("nobody asks: {}", machine.log()))?;
    machine.wait_for_log(&code, Duration::from_secs(5))?;
    Ok(code)
}

/// URL and fingerprint, from what the coordinator prints for a new link.
fn place(coordinator: &Coordinator) -> Result<(String, String)> {
    let link: Value = serde_json::from_str(&coordinator.run(&["admin-link", "--json"])?.stdout)?;
    let url = link["urls"][0].as_str().with_context(|| format!("{link:#}"))?;
    let url = url.split("/welcome/").next().unwrap_or(url);
    let fingerprint = link["certificate_sha256"].as_str().with_context(|| format!("{link:#}"))?;
    Ok((url.to_owned(), fingerprint.to_owned()))
}
