//! Scenarios S2 of docs/scenarios.md on a real control plane: a cluster whose nodes stand behind different home
//! routers, its pods one network over the mesh, and a laptop behind a third one. Each is played with its feature and
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
    coordinator: Coordinator,
    node1: Node,
    node2: Node,
    laptop: Host,
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
    Ok(Site { cluster, coordinator, node1, node2, laptop, _lab: lab })
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

    /// For a message: how the laptop and the nodes see an address.
    fn view(&self, of: &str) -> String {
        let line = format!(
            "ip route get {of}; meshd routes; conntrack -L 2>/dev/null | grep {of}; nft list ruleset | grep -c {of}; \
             meshd status | tail -n 12"
        );
        let hosts = [&self.laptop, &self.node1.host, &self.node2.host];
        let see = |host: &&Host| {
            format!("--- {}\n{}\n", host.name(), host.sh(&line).unwrap_or_else(|why| why.to_string()))
        };
        hosts.iter().map(see).collect()
    }

    fn laptop_fetches(&self, to: &str) -> bool {
        self.laptop.sh(&format!("curl -sS --max-time 3 http://{to}/")).is_ok_and(|said| said.trim() == "web")
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

fn cluster_ip(name: &str, mode: ProxyMode, feature: Feature) -> Result<()> {
    let site = site(name, mode, Without::Nothing)?;
    if !feature.is_on() {
        let service = "apiVersion: v1\nkind: Service\nmetadata: { name: web }\n";
        site.cluster.delete(service)?;
        site.node1.stop_proxy()?;
        site.node2.stop_proxy()?;
        site.cluster.apply(APPS)?;
    }
    let service = site.read("service", "{.spec.clusterIP}")?;
    ensure!(
        wait_until(patience(feature), || site.pod_fetches(&service)),
        "the client does not reach {service}"
    );
    // A member of the mesh does where policy grants it.
    ensure!(!site.laptop_fetches(&service), "a member reaches the ClusterIP without a grant");
    set_policy(
        &site.coordinator,
        &format!(r#"{{ "src": ["autogroup:member"], "dst": ["{service}"], "ip": ["tcp:80"] }},"#),
    )?;
    ensure!(
        wait_until(PATIENCE, || site.laptop_fetches(&service)),
        "the grant opens nothing:\n{}",
        site.view(&service)
    );
    ensure!(!site.laptop_fetches(&format!("{service}:81")), "a port without a grant answers");
    Ok(())
}

#[test]
fn s2_3_cluster_ips_work_with_kube_proxy_in_nftables_mode() -> Result<()> {
    prove("S2.3", "kube-proxy (nftables)", |feature| cluster_ip("s2_3n", ProxyMode::Nftables, feature))
}

#[test]
fn s2_3_cluster_ips_work_with_kube_proxy_in_iptables_mode() -> Result<()> {
    prove("S2.3", "kube-proxy (iptables)", |feature| cluster_ip("s2_3i", ProxyMode::Iptables, feature))
}

#[test]
fn s2_4_node_ports_answer_at_mesh_addresses() -> Result<()> {
    prove("S2.4", "a grant for the port", |feature| {
        let site = site("s2_4", ProxyMode::Nftables, Without::Nothing)?;
        if feature.is_on() {
            let grant = r#"{ "src": ["autogroup:member"], "dst": ["tag:k8s-home"], "ip": ["tcp:30080"] },"#;
            set_policy(&site.coordinator, grant)?;
        }
        for node in [&site.node1, &site.node2] {
            let at = format!("{}:30080", mesh_address(&node.host)?);
            ensure!(
                wait_until(patience(feature), || site.laptop_fetches(&at)),
                "the laptop does not reach {at}"
            );
        }
        Ok(())
    })
}

#[test]
fn s2_9_pods_services_and_node_ports_are_closed_until_a_grant_opens_one_port() -> Result<()> {
    prove("S2.9", "a policy that names the cluster (the opening one instead)", |feature| {
        let site = site("s2_9", ProxyMode::Nftables, Without::Nothing)?;
        let (pod, service) =
            (site.read("pod", "{.status.podIP}")?, site.read("service", "{.spec.clusterIP}")?);
        let node = mesh_address(&site.node1.host)?.to_string();
        if !feature.is_on() {
            set_policy(&site.coordinator, r#"{ "src": ["*"], "dst": ["*"], "ip": ["*"] },"#)?;
            // Until the laptop has heard of it.
            wait_until(PATIENCE, || site.laptop_fetches(&pod));
        }
        let ports = |at: &str, first: u16| [format!("{at}:{first}"), format!("{at}:{}", first + 1)];
        let all = [ports(&pod, 80), ports(&service, 80), ports(&node, 30080)];
        for at in all.iter().flatten() {
            ensure!(!site.laptop_fetches(at), "{at} answers without a grant");
        }
        for (dst, port, [open, shut]) in
            [(&pod, 80, &all[0]), (&service, 80, &all[1]), (&node, 30080, &all[2])]
        {
            let grant =
                format!(r#"{{ "src": ["autogroup:member"], "dst": ["{dst}"], "ip": ["tcp:{port}"] }},"#);
            set_policy(&site.coordinator, &grant)?;
            ensure!(
                wait_until(PATIENCE, || site.laptop_fetches(open)),
                "the grant for {open} opens nothing:\n{}",
                site.view(dst)
            );
            ensure!(!site.laptop_fetches(shut), "{shut} answers beside the grant for {open}");
        }
        Ok(())
    })
}
