//! Scenarios S2 of docs/scenarios.md on a real control plane: a cluster whose nodes stand behind different home
//! routers, its pods one network over the mesh. Each is played with its feature and
//! without. Assertions are made by kubectl and curl.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_k8s::{Cluster, ClusterSettings, Node, NodeSettings, PodNetwork, ProxyMode};
use meshd_lab::mesh::{Coordinator, PATIENCE, mesh_address, up};
use meshd_lab::scenario::{Feature, prove};
use meshd_lab::{Host, Lab, Nat, wait_until};

/// What the guide tells an admin: the cluster's nodes and pods reach each other, members nothing of it.
const POLICY: &str = r#"{
  "tagOwners": { "tag:k8s-home": [] },
  "hosts": { "pods": "10.40.0.0/16" },
  "grants": [
    { "src": ["tag:k8s-home", "pods"], "dst": ["tag:k8s-home", "pods"], "ip": ["*"] },
    GRANT
  ],
  "autoApprovers": { "routes": { "10.40.0.0/16": ["tag:k8s-home"], "10.41.0.0/16": ["tag:k8s-home"] } },
}"#;

/// Two pods that say their names at port 80 and 81, one on each node, and a Service of the second one.
const APPS: &str = r"---
apiVersion: v1
kind: Pod
metadata: { name: client, labels: { app: client } }
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{ name: app, image: example/sh:1, command: [sh, -c, 'echo ready; exec sleep 3600'] }]
---
apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web } }
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: example/lab-tool:1
    command: [sh, -c, 'hostname > /body; lab-tool http 0.0.0.0:81 /body & exec lab-tool http 0.0.0.0:80 /body']
    readinessProbe: { tcpSocket: { port: 80 } }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  type: NodePort
  selector: { app: web }
  ports: [{ name: a, port: 80, nodePort: 30080 }, { name: b, port: 81, nodePort: 30081 }]
";

/// A cluster in two homes.
struct Site {
    // The order is the order of ends: the lab last.
    cluster: Cluster,
    _coordinator: Coordinator,
    node1: Node,
    node2: Node,
    _lab: Lab,
}

/// What a site is built without.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    PodRoutes,
    Plugin,
}

fn set_policy(coordinator: &Coordinator, grant: &str) -> Result<()> {
    fs::write(coordinator.host.file("/etc/policy.hujson"), POLICY.replace("GRANT", grant))?;
    coordinator.run(&["policy", "set", "--force", "/etc/policy.hujson"]).map(drop)
}

fn site(name: &str, mode: ProxyMode, without: Without) -> Result<Site> {
    let lab = Lab::new(name)?;
    let (vps, address, _) = lab.server("vps")?;
    let coordinator = Coordinator::start(&vps, address)?;
    set_policy(&coordinator, "")?;
    let (control, address, _) = lab.server("control")?;
    let routers = (
        lab.router("home", Nat::Home)?,
        lab.router("office", Nat::Symmetric)?,
        lab.router("away", Nat::Home)?,
    );
    let (host1, ..) = lab.behind(&routers.0, "node1")?;
    let (host2, ..) = lab.behind(&routers.1, "node2")?;
    let (laptop, ..) = lab.behind(&routers.2, "laptop")?;
    let token = coordinator.token_with(&["--tag", "tag:k8s-home"])?;
    for host in [&control, &host1, &host2] {
        up(host, &[&token, "--snat=false"])?;
    }
    up(&laptop, &[&coordinator.token()?])?;
    let cluster = Cluster::start(&lab, &control, address, ClusterSettings::numbered("home", 0))?;
    let join = |host: &Host| {
        let settings = NodeSettings::at(mesh_address(host)?).proxy(mode).network(PodNetwork::Agent);
        cluster.join(host, settings)
    };
    let (node1, node2) = (join(&host1)?, join(&host2)?);
    for node in [&node1, &node2] {
        cluster.connect_pods(node, without != Without::Plugin, without != Without::PodRoutes)?;
    }
    cluster.apply(APPS)?;
    let ready = cluster.try_kubectl(&["wait", "--for=condition=Ready", "--timeout=40s", "pod", "--all"])?;
    ensure!(
        ready.is_success(),
        "pods do not get ready: {}{}",
        ready.stderr,
        cluster.kubectl(&["get", "pods,nodes,events", "-o", "wide"])?
    );
    Ok(Site { cluster, _coordinator: coordinator, node1, node2, _lab: lab })
}

impl Site {
    fn read(&self, what: &str, path: &str) -> Result<String> {
        self.cluster.kubectl(&["get", what, "web", "-o", &format!("jsonpath={path}")])
    }

    /// Whether the client pod gets the name of the other pod at this place.
    fn pod_fetches(&self, to: &str) -> bool {
        let line = format!("curl -sS --max-time 3 http://{to}/");
        self.cluster.exec(&self.node1, "client", "app", &line).is_ok_and(|said| said.stdout.trim() == "web")
    }
}

fn patience(feature: Feature) -> Duration {
    if feature.is_on() { PATIENCE } else { Duration::from_secs(5) }
}

#[test]
fn s2_1_pods_get_addresses_from_the_plugin() -> Result<()> {
    prove("S2.1", "the plugin's configuration", |feature| {
        let without = if feature.is_on() { Without::Nothing } else { Without::Plugin };
        let site = site("s2_1", ProxyMode::Nftables, without)?;
        let range = site.cluster.kubectl(&["get", "node", "node2", "-o", "jsonpath={.spec.podCIDR}"])?;
        let stem = range.rsplit_once('.').context("an IPv4 CIDR")?.0;
        let address = site.read("pod", "{.status.podIP}")?;
        ensure!(address.starts_with(stem), "{address} is not of {range}");
        let inside =
            site.cluster.exec(&site.node2, "web", "app", "ip -o -4 addr show eth0")?.success()?.stdout;
        ensure!(inside.contains(&format!("inet {address}/32")), "the pod has {inside}");
        Ok(())
    })
}

#[test]
fn s2_2_pods_of_nodes_behind_different_routers_reach_each_other() -> Result<()> {
    prove("S2.2", "pod CIDRs as mesh routes", |feature| {
        let without = if feature.is_on() { Without::Nothing } else { Without::PodRoutes };
        let site = site("s2_2", ProxyMode::Nftables, without)?;
        let address = site.read("pod", "{.status.podIP}")?;
        ensure!(
            wait_until(patience(feature), || site.pod_fetches(&address)),
            "the client does not reach {address}"
        );
        // With its own address: the other pod's network sees no masquerade.
        let own = site.cluster.kubectl(&["get", "pod", "client", "-o", "jsonpath={.status.podIP}"])?;
        let netns = site.node2.host.sh("ls /run/netns")?;
        let line = [
            "netns",
            "exec",
            netns.trim(),
            "tcpdump",
            "-lni",
            "eth0",
            "-c",
            "1",
            "tcp[13] == 2 and dst port 80",
        ];
        let watch = site.node2.host.spawn("ip", line)?;
        watch.wait_for_log("listening on", Duration::from_secs(10))?;
        // Readiness probes come along, too: the client's packets are looked for among them.
        let seen = wait_until(PATIENCE, || site.pod_fetches(&address) && watch.log().contains("IP "));
        ensure!(seen && watch.log().contains(&format!("IP {own}.")), "no packet from {own}: {}", watch.log());
        Ok(())
    })
}
