//! Pod networks over the mesh: nodes behind different home routers, pods by `meshd-cni`, each node's pod CIDR a
//! mesh route that policy approves by the cluster's tag. No control plane is needed to see this.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{Coordinator, PATIENCE, need, up, wait_status};
use meshd_lab::{Host, Lab, Nat, wait_until};
use serde_json::{Value, json};

/// What the guide tells an admin: the cluster's nodes and pods reach each other's pods, members nothing of it.
const POLICY: &str = r#"{
  "tagOwners": { "tag:k8s-home": [] },
  "hosts": { "pods": "10.40.0.0/16" },
  "grants": [
    { "src": ["tag:k8s-home", "pods"], "dst": ["tag:k8s-home", "pods"], "ip": ["*"] },
    GRANT
  ],
  "autoApprovers": { "routes": { "10.40.0.0/16": ["tag:k8s-home"] } },
}"#;

fn set_policy(coordinator: &Coordinator, grant: &str) -> Result<()> {
    fs::write(coordinator.host.file("/etc/policy.hujson"), POLICY.replace("GRANT", grant))?;
    coordinator.run(&["policy", "set", "--force", "/etc/policy.hujson"]).map(drop)
}

/// A pod with a network of the plugin, which serves its name at port 80 and 81; its address.
fn pod(node: &Host, name: &str, cidr: &str) -> Result<String> {
    need("meshd-cni")?;
    node.sh(&format!("ip netns add {name} && ip -n {name} link set lo up"))?;
    let config = json!({ "cniVersion": "1.1.0", "name": "pods", "type": "meshd-cni", "ranges": [cidr], "dataDir": "/run/cni" });
    fs::write(node.file(&format!("/etc/cni-{name}")), config.to_string())?;
    let said = node.sh(&format!(
        "CNI_COMMAND=ADD CNI_CONTAINERID={name} CNI_IFNAME=eth0 CNI_NETNS=/run/netns/{name} meshd-cni < /etc/cni-{name}"
    ))?;
    let result: Value = serde_json::from_str(&said)?;
    let address =
        result["ips"][0]["address"].as_str().and_then(|a| a.split('/').next()).context("an address")?;
    node.sh(&format!("echo {name} > /var/lib/{name}"))?;
    for port in [80, 81] {
        let listen = format!("0.0.0.0:{port}");
        let body = format!("/var/lib/{name}");
        let server = node.spawn("ip", ["netns", "exec", name, "lab-tool", "http", &listen, &body])?;
        server.wait_for_log("listening", Duration::from_secs(10))?;
    }
    Ok(address.to_owned())
}

fn fetch(to: &str, port: u16) -> String {
    format!("curl -sS --fail --max-time 3 http://{to}:{port}/")
}

#[test]
fn pods_behind_two_home_routers_are_one_network_and_members_need_a_grant() -> Result<()> {
    let lab = Lab::new("pod-network")?;
    let (vps, address, _) = lab.server("vps")?;
    let coordinator = Coordinator::start(&vps, address)?;
    set_policy(&coordinator, "")?;
    let (home, office, away) = (
        lab.router("home", Nat::Home)?,
        lab.router("office", Nat::Symmetric)?,
        lab.router("away", Nat::Home)?,
    );
    let (node1, _, _) = lab.behind(&home, "node1")?;
    let (node2, _, _) = lab.behind(&office, "node2")?;
    let (laptop, _, _) = lab.behind(&away, "laptop")?;
    let token = coordinator.token_with(&["--tag", "tag:k8s-home"])?;
    for (node, cidr) in [(&node1, "10.40.1.0/24"), (&node2, "10.40.2.0/24")] {
        up(node, &[&token, &format!("--advertise-routes={cidr}"), "--snat=false"])?;
    }
    up(&laptop, &[&coordinator.token()?])?;
    let (pod1, pod2) = (pod(&node1, "pod1", "10.40.1.0/24")?, pod(&node2, "pod2", "10.40.2.0/24")?);

    // Pod to pod over the mesh, both ways, with the pod's own address as the source: no masquerade.
    let from_pod1 = |line: &str| node1.sh(&format!("ip netns exec pod1 {line}"));
    let across =
        wait_until(PATIENCE, || from_pod1(&fetch(&pod2, 80)).is_ok_and(|said| said.trim() == "pod2"));
    ensure!(across, "pod1 does not reach pod2 ({pod2}):\n{:#}", meshd_lab::mesh::status(&node1)?);
    assert_eq!(node2.sh(&format!("ip netns exec pod2 {}", fetch(&pod1, 80)))?.trim(), "pod1");
    let watch =
        node2.spawn("ip", ["netns", "exec", "pod2", "tcpdump", "-lni", "eth0", "-c", "1", "tcp[13] == 2"])?;
    watch.wait_for_log("listening on", Duration::from_secs(10))?;
    from_pod1(&fetch(&pod2, 80))?;
    watch.wait_for_log(&format!("IP {pod1}."), Duration::from_secs(5))?;
    // A node reaches pods of the other one, as health checks and webhooks do.
    assert_eq!(node1.sh(&fetch(&pod2, 80))?.trim(), "pod2");

    // A member of the mesh knows nothing of pods until a rule names an address and a port.
    let denied = |port| laptop.sh(&fetch(&pod2, port)).is_err();
    assert!(denied(80) && denied(81), "a member reaches a pod without a grant");
    set_policy(
        &coordinator,
        &format!(r#"{{ "src": ["autogroup:member"], "dst": ["{pod2}"], "ip": ["tcp:80"] }},"#),
    )?;
    wait_status(&laptop, "knows the way to node2", |status| {
        status["peers"].as_array().is_some_and(|peers| peers.iter().any(|peer| peer["name"] == "node2"))
    })?;
    let granted =
        wait_until(PATIENCE, || laptop.sh(&fetch(&pod2, 80)).is_ok_and(|said| said.trim() == "pod2"));
    ensure!(granted, "the grant for {pod2}:80 opens nothing:\n{:#}", meshd_lab::mesh::status(&laptop)?);
    assert!(denied(81), "a port without a grant answers");
    assert!(laptop.sh(&fetch(&pod1, 80)).is_err(), "a pod without a grant answers");

    // Taken back, it is shut again.
    set_policy(&coordinator, "")?;
    ensure!(wait_until(PATIENCE, || denied(80)), "the grant was taken back and the pod still answers");
    Ok(())
}
