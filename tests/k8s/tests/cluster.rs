//! A real control plane, our mini-kubelet and plugin, the real kube-proxy: what users of Kubernetes take for granted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_k8s::{Cluster, ClusterSettings, Node, NodeSettings, ProxyMode};
use meshd_lab::{Lab, wait_until, wait_within};

/// A pod that serves its own name on port 80.
fn web(name: &str, node: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: web }} }}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 2
  containers:
  - name: web
    image: example/lab-tool:1
    command: [sh, -c, 'echo hello of $NAME; hostname > /body; lab-tool http 0.0.0.0:80 /body & wait $!']
    env: [{{ name: NAME, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }}]
    readinessProbe: {{ httpGet: {{ path: /, port: 80 }} }}
"
    )
}

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { type: NodePort, selector: { app: web }, ports: [{ port: 80, nodePort: 30080 }] }
";

fn cluster_with_node(lab: &Lab, number: u8, proxy: ProxyMode) -> Result<(Cluster, Node)> {
    let (control, address, _) = lab.server(&format!("control{number}"))?;
    let settings = ClusterSettings::numbered(&format!("test{number}"), number);
    let cluster = Cluster::start(lab, &control, address, settings)?;
    let (host, address, _) = lab.server(&format!("worker{number}"))?;
    let node = cluster.join(&host, NodeSettings::at(address).proxy(proxy))?;
    Ok((cluster, node))
}

/// What pods leave on a node when they are gone: nothing.
fn leftovers(node: &Node) -> Result<String> {
    node.host.sh("ip -o link | grep -v -e ' lo:' -e ' eth0@'; find /run/netns /run/mini-kubelet/pods -mindepth 1 -maxdepth 1 2>/dev/null; \
         grep -o container /run/cni/pods/ledger.json || true")
}

fn pods_services_logs_and_deletion(name: &str, mode: ProxyMode) -> Result<()> {
    let lab = Lab::new(name)?;
    let (cluster, node) = cluster_with_node(&lab, 0, mode)?;
    let before = leftovers(&node)?;
    cluster.apply(&format!("{}{}{SERVICE}", web("web0", "worker0"), web("web1", "worker0")))?;
    cluster.wait(&["--for=condition=Ready", "pod", "-l", "app=web"])?;

    // Addresses of the node's own pod CIDRs.
    let pods = cluster.get(&["pods", "-l", "app=web"])?;
    let cidr = cluster.kubectl(&["get", "node", "worker0", "-o", "jsonpath={.spec.podCIDR}"])?;
    ensure!(cidr.starts_with("10.40.") && cidr.ends_with("/24"), "{cidr}");
    let stem = cidr.rsplit_once('.').context("an IPv4 CIDR")?.0.to_owned();
    let mut addresses = Vec::new();
    for pod in pods["items"].as_array().context("a list")? {
        let ips = pod["status"]["podIPs"].as_array().context("addresses")?;
        assert_eq!(ips.len(), 2, "both families: {ips:?}");
        addresses.push(ips[0]["ip"].as_str().context("an address")?.to_owned());
    }
    assert!(
        addresses.iter().all(|ip| ip.starts_with(&stem)) && addresses[0] != addresses[1],
        "{addresses:?}"
    );

    // Pod to pod, the ClusterIP from pod and node, and the NodePort from outside.
    let fetch = |to: &str| format!("curl -sS --max-time 3 {to}");
    let said = cluster.exec(&node, "web0", "web", &fetch(&format!("http://{}/", addresses[1])))?.success()?;
    assert_eq!(said.stdout.trim(), "web1");
    let service = cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    let url = format!("http://{service}/");
    cluster.wait_for("ClusterIP", || node.host.sh(&fetch(&url)).is_ok())?;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        seen.insert(cluster.exec(&node, "web0", "web", &fetch(&url))?.success()?.stdout.trim().to_owned());
        if seen.len() == 2 {
            break;
        }
    }
    assert_eq!(seen.len(), 2, "both pods are behind the Service: {seen:?}");
    let worker =
        cluster.kubectl(&["get", "node", "worker0", "-o", "jsonpath={.status.addresses[0].address}"])?;
    let outside = lab.internet().sh(&fetch(&format!("http://{worker}:30080/")))?;
    assert!(outside.starts_with("web"), "{outside}");

    // Logs by the API server; a second run of the container; its end is seen.
    assert_eq!(cluster.kubectl(&["logs", "web1"])?.lines().next(), Some("hello of web1"));
    // It is the container's first process: with it the kernel kills this shell, too.
    cluster.exec(&node, "web1", "web", "kill $(pidof lab-tool)")?;
    cluster.wait_for("second run", || {
        let count = "jsonpath={.status.containerStatuses[0].restartCount}";
        cluster.kubectl(&["get", "pod", "web1", "-o", count]).is_ok_and(|n| n == "1")
    })?;
    assert!(cluster.kubectl(&["logs", "web1", "--previous"])?.contains("hello of web1"));

    // Gone is gone.
    let full = leftovers(&node)?;
    assert!(full.matches("container").count() >= 2 && full.contains("/run/netns/cni-"), "{full}");
    cluster.kubectl(&["delete", "pod", "--all", "--timeout=50s"])?;
    cluster.kubectl(&["delete", "service", "web"])?;
    let after = wait_within(Duration::from_secs(10), || leftovers(&node).ok().filter(|now| *now == before));
    ensure!(after.is_some(), "left behind:\n{}\nbefore:\n{before}", leftovers(&node)?);
    let silent = wait_until(Duration::from_secs(20), || node.host.sh(&fetch(&url)).is_err());
    ensure!(silent, "the ClusterIP of a deleted Service still answers");
    Ok(())
}

#[test]
fn pods_services_logs_and_deletion_with_kube_proxy_in_nftables_mode() -> Result<()> {
    pods_services_logs_and_deletion("k8s-nft", ProxyMode::Nftables)
}

#[test]
fn pods_services_logs_and_deletion_with_kube_proxy_in_iptables_mode() -> Result<()> {
    pods_services_logs_and_deletion("k8s-ipt", ProxyMode::Iptables)
}
