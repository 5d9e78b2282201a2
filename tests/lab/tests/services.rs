//! Addresses of a cluster's services on the mesh: each node with a ready endpoint owns them, translates to its
//! own pods and keeps the client's address; whom the policy does not let in gets nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{Coordinator, mesh_address, up, wait_status};
use meshd_lab::{Host, Lab, Nat, Process, wait_within};

const VIP: &str = "10.98.0.7";
/// Answers every request with the pod's name and the client's address.
const POD: &str = "
import http.server, sys, threading
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f'{sys.argv[1]} {self.client_address[0]}'.encode()
        self.send_response(200); self.send_header('content-length', str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
for port in (8080, 8081):
    threading.Thread(target=http.server.ThreadingHTTPServer(('0.0.0.0', port), Answer).serve_forever).start()
print('listening', flush=True)
";

/// A node of the cluster with one pod behind it.
struct Node {
    host: Host,
    id: u64,
    _pod: (Host, Process),
}

struct Cluster {
    _lab: Lab,
    coordinator: Coordinator,
    nodes: [Node; 2],
    laptop: Host,
}

impl Cluster {
    fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (vps, vps4, _) = lab.server("vps")?;
        let home = lab.router("home", Nat::Home)?;
        let (laptop, _, _) = lab.behind(&home, "laptop")?;
        let coordinator = Coordinator::start(&vps, vps4)?;
        coordinator.run(&["clusters", "add", "home", "--range", "10.98.0.0/24"])?;
        let token = coordinator.token_with(&["--tag", "tag:k8s-home"])?;
        let node = |n: u8| -> Result<Node> {
            let host = lab.server(&format!("node{n}"))?.0;
            host.sh(&format!(
                "ip link add cni0 type bridge && ip addr add 10.42.{n}.1/24 dev cni0 && ip link set cni0 up"
            ))?;
            let pod = lab.host(&format!("pod{n}"))?;
            lab.cable(&pod, "eth0", &format!("10.42.{n}.5/24"), &host, "pod", "cni0")?;
            pod.sh(&format!("ip route add default via 10.42.{n}.1"))?;
            let server = pod.spawn("python3", ["-c", POD, pod.name()])?;
            server.wait_for_log("listening", Duration::from_secs(20))?;
            up(&host, &[&token])?;
            let nodes = coordinator.run(&["nodes", "list", "--json"])?.stdout;
            let nodes: serde_json::Value = serde_json::from_str(&nodes)?;
            let own = nodes.as_array().and_then(|all| all.iter().find(|node| node["name"] == host.name()));
            let id =
                own.and_then(|node| node["id"].as_u64()).with_context(|| format!("no id in {nodes:#}"))?;
            Ok(Node { host, id, _pod: (pod, server) })
        };
        let nodes = [node(1)?, node(2)?];
        up(&laptop, &[&coordinator.token()?])?;
        Ok(Self { _lab: lab, coordinator, nodes, laptop })
    }

    /// Publishes as an operator does: the whole set.
    fn publish(&self, services: &serde_json::Value) -> Result<()> {
        let body = serde_json::json!({ "services": services }).to_string();
        let said = self.coordinator.host.run(
            "curl",
            [
                "-sS",
                "--fail-with-body",
                "--unix-socket",
                "/run/meshd-coordinator/api.sock",
                "-X",
                "PUT",
                "-H",
                "content-type: application/json",
                "-d",
                &body,
                "http://coordinator/api/v1/clusters/home/services",
            ],
        )?;
        let said = said.success()?.stdout;
        ensure!(!said.contains("\"refused\""), "refused: {said}");
        Ok(())
    }

    fn web(&self) -> serde_json::Value {
        let port = |port: u16, end: u16| {
            let owner = |(n, node): (usize, &Node)| serde_json::json!({"node": node.id, "endpoints": [format!("10.42.{}.5:{end}", n + 1)]});
            let owners: Vec<_> = self.nodes.iter().enumerate().map(owner).collect();
            serde_json::json!({"protocol": "tcp", "port": port, "owners": owners})
        };
        serde_json::json!([{
            "namespace": "default", "name": "web", "addresses": [VIP], "ports": [port(80, 8080), port(81, 8081)],
        }])
    }

    fn policy(&self, text: &str) -> Result<()> {
        std::fs::write(self.coordinator.host.file("/etc/policy.hujson"), text)?;
        self.coordinator.run(&["policy", "set", "--force", "/etc/policy.hujson"])?;
        Ok(())
    }

    /// One request; the body, or nothing.
    fn ask(&self, url: &str) -> Option<String> {
        let done = self.laptop.run("curl", ["-sS", "--fail", "--max-time", "1", url]).ok()?;
        done.is_success().then_some(done.stdout)
    }

    fn ask_until(&self, url: &str) -> Result<String> {
        let found = wait_within(Duration::from_secs(30), || self.ask(url));
        found.with_context(|| {
            let nft = |n: &Node| n.host.run("nft", ["list", "table", "inet", "meshd"]).map(|d| d.stdout);
            format!("no answer from {url}: {:?}", self.nodes.iter().map(nft).collect::<Vec<_>>())
        })
    }
}

#[test]
fn an_address_of_two_nodes_is_reached_by_name_keeps_the_client_and_moves_when_a_node_dies() -> Result<()> {
    let net = Cluster::new("services")?;
    net.publish(&net.web())?;
    let by_address = format!("http://{VIP}/");
    let first = net.ask_until(&by_address)?;
    let me = mesh_address(&net.laptop)?.to_string();
    ensure!(first.ends_with(&format!(" {me}")), "the pod sees the client {me}: {first}");
    let name = net.coordinator.run(&["clusters", "services", "home", "--json"])?.stdout;
    let domain: serde_json::Value = serde_json::from_str(&name)?;
    let name = format!("web.default.{}", domain["domain"].as_str().context("a domain")?);
    let named = net.ask_until(&format!("http://{name}/"))?;
    ensure!(named.ends_with(&format!(" {me}")), "by name: {named}");

    // Deny by default, and exactly what is granted.
    net.policy("{}")?;
    ensure!(wait_within(Duration::from_secs(20), || net.ask(&by_address).is_none().then_some(())).is_some());
    net.policy(r#"{"hosts":{"web":"10.98.0.7"},"acls":[{"action":"accept","src":["*"],"dst":["web:80"]}]}"#)?;
    net.ask_until(&by_address)?;
    for closed in [format!("http://{VIP}:81/"), format!("http://{VIP}:22/")] {
        ensure!(net.ask(&closed).is_none(), "{closed} was not granted");
    }
    for n in [1, 2] {
        ensure!(
            net.ask(&format!("http://10.42.{n}.5:8080/")).is_none(),
            "a pod's own address is not granted"
        );
    }

    let served = net.ask_until(&by_address)?;
    let dead = net.nodes.iter().find(|n| served.starts_with(&n.host.name().replace("node", "pod")));
    let dead = dead.with_context(|| format!("whose pod is {served}?"))?;
    dead.host.power_off();
    let began = meshd_lab::now();
    let moved = net.ask_until(&by_address)?;
    let gap = meshd_lab::now() - began;
    println!("after the owner died the next connection worked in {gap:?}: {served} then {moved}");
    ensure!(moved.split(' ').next() != served.split(' ').next(), "the other pod answers: {moved}");
    ensure!(gap < Duration::from_secs(10), "{gap:?}");
    Ok(())
}

#[test]
fn what_is_unpublished_leaves_nothing_behind() -> Result<()> {
    let net = Cluster::new("unpublish")?;
    let table = |host: &Host| host.sh("nft list table inet meshd");
    let before = table(&net.nodes[0].host)?;
    net.publish(&net.web())?;
    net.ask_until(&format!("http://{VIP}/"))?;
    let serving = table(&net.nodes[0].host)?;
    ensure!(serving.contains("dnat ip to 10.42.1.5:8080"), "{serving}");
    let addresses = net.nodes[0].host.sh("ip addr")?;
    ensure!(!addresses.contains(VIP), "the address is on no interface: {addresses}");

    net.publish(&serde_json::json!([]))?;
    let gone = wait_within(Duration::from_secs(20), || {
        let now = table(&net.nodes[0].host).ok()?;
        (now == before && net.ask(&format!("http://{VIP}/")).is_none()).then_some(())
    });
    ensure!(gone.is_some(), "left behind: {}", table(&net.nodes[0].host)?);
    wait_status(&net.laptop, "no route is left", |status| !status.to_string().contains(VIP))?;

    // And a node that goes down takes its rules with it.
    net.publish(&net.web())?;
    net.ask_until(&format!("http://{VIP}/"))?;
    net.nodes[0].host.run("meshd", ["down"])?.success()?;
    let left = net.nodes[0].host.run("nft", ["list", "tables"])?.stdout;
    ensure!(!left.contains("meshd"), "{left}");
    Ok(())
}
