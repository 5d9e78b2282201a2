//! `type: LoadBalancer` on the mesh against a real API server and the real kube-proxy: one clause of the contract
//! after the other, then an operator that is killed again and again.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use meshd_k8s::{Cluster, ClusterSettings, Node, NodeSettings, ProxyMode};
use meshd_lab::mesh::{Coordinator, mesh_address, need, up};
use meshd_lab::{Host, Lab, Nat, Process, wait_within};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(45);
const POOL: &str = "
apiVersion: meshd.dev/v1alpha1
kind: AddressPool
metadata: { name: main }
spec: { addresses: [10.98.0.1-10.98.0.40, 'fd98::/120'] }
";

/// A cluster of two nodes in a mesh, with an operator, and a laptop behind another NAT.
struct Bed {
    _lab: Lab,
    cluster: Cluster,
    coordinator: Coordinator,
    nodes: Vec<Node>,
    laptop: Host,
    operator: Option<Process>,
    fingerprint: String,
}

impl Bed {
    fn new(name: &str, proxy: ProxyMode) -> Result<Self> {
        need("meshd-operator")?;
        let lab = Lab::new(name)?;
        let (vps, vps4, _) = lab.server("vps")?;
        let coordinator = Coordinator::start(&vps, vps4)?;
        coordinator.run(&["clusters", "add", "k", "--range", "10.98.0.0/24", "--range", "fd98::/112"])?;
        let (control, address, _) = lab.server("control")?;
        let cluster = Cluster::start(&lab, &control, address, ClusterSettings::numbered("k", 0))?;
        let token = coordinator.token_with(&["--tag", "tag:k8s-k"])?;
        let mut nodes = Vec::new();
        for n in 1..=2 {
            let (host, address, _) = lab.server(&format!("worker{n}"))?;
            nodes.push(cluster.join(&host, NodeSettings::at(address).proxy(proxy))?);
            up(&host, &[&token])?;
        }
        let home = lab.router("home", Nat::Home)?;
        let (laptop, _, _) = lab.behind(&home, "laptop")?;
        up(&laptop, &[&coordinator.token()?])?;
        let hash = "grep -v CERTIFICATE /var/lib/meshd-coordinator/tls-cert.pem | base64 -d | sha256sum";
        let fingerprint = vps.sh(hash)?.split_whitespace().next().context("a hash")?.to_owned();
        let mut bed = Self { _lab: lab, cluster, coordinator, nodes, laptop, operator: None, fingerprint };
        bed.install()?;
        bed.start_operator()?;
        Ok(bed)
    }

    /// What a person does: definitions, roles, the credential, a pool.
    fn install(&self) -> Result<()> {
        self.cluster.kubectl(&["create", "namespace", "meshd"])?;
        for args in [&["crds"][..], &["rbac", "--namespace", "meshd"]] {
            let printed = self.cluster.control.run("meshd-operator", args.iter().copied())?.success()?.stdout;
            self.cluster.apply(&printed)?;
        }
        self.cluster.wait(&["--for=condition=Established", "crd/addresspools.meshd.dev"])?;
        self.cluster.apply(POOL)?;
        let said = self.coordinator.run(&["clusters", "token", "k"])?.stdout;
        let secret = said.split_whitespace().find(|w| w.starts_with("meshapi_")).context("a credential")?;
        std::fs::write(self.cluster.control.file("/etc/operator-token"), secret)?;
        Ok(())
    }

    fn start_operator(&mut self) -> Result<()> {
        // The groups that a ServiceAccount has, so that only its roles count.
        let user = "system:serviceaccount:meshd:meshd-operator";
        let config = self.cluster.make_kubeconfig("operator", user, &["system:serviceaccounts"])?;
        let line = format!(
            "KUBECONFIG={} exec meshd-operator run --cluster k --coordinator {}:443 --certificate {} --token-file \
             /etc/operator-token --identity one",
            config.display(),
            self.coordinator.address,
            self.fingerprint,
        );
        self.operator = Some(self.cluster.control.spawn("sh", ["-c", &line])?);
        Ok(())
    }

    fn kill_operator(&mut self) -> Result<()> {
        self.operator.take().context("an operator runs")?.kill()
    }

    fn service(&self, name: &str) -> Result<Value> {
        self.cluster.get(&["service", name])
    }

    fn addresses(&self, name: &str) -> Vec<String> {
        let service = self.service(name).unwrap_or_default();
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        ingress.iter().filter_map(|i| i["ip"].as_str().map(str::to_owned)).collect()
    }

    fn condition(&self, name: &str) -> Value {
        let service = self.service(name).unwrap_or_default();
        let all = service["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|c| c["type"] == "meshd.dev/Announced").unwrap_or_default()
    }

    fn wait_addresses(&self, name: &str, count: usize) -> Result<Vec<String>> {
        let found = wait_within(PATIENCE, || Some(self.addresses(name)).filter(|a| a.len() == count));
        found.with_context(|| {
            let log = self.operator.as_ref().map(Process::log).unwrap_or_default();
            format!("{name} has not {count} addresses: {:#}\noperator:\n{log}", self.condition(name))
        })
    }

    fn wait_reason(&self, name: &str, reason: &str) -> Result<Value> {
        let found = wait_within(PATIENCE, || Some(self.condition(name)).filter(|c| c["reason"] == reason));
        found.with_context(|| format!("{name} is not {reason}: {:#}", self.condition(name)))
    }

    fn published(&self) -> Result<Vec<(String, Vec<String>)>> {
        let said = self.coordinator.run(&["clusters", "services", "k", "--json"])?.stdout;
        let state: Value = serde_json::from_str(&said)?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let one = |s: &Value| {
            let ips = s["addresses"].as_array().into_iter().flatten().map(text).collect();
            (text(&s["name"]), ips)
        };
        Ok(state["services"].as_array().into_iter().flatten().map(one).collect())
    }

    fn wait_published(&self, what: &str, condition: impl Fn(&[(String, Vec<String>)]) -> bool) -> Result<()> {
        let found = wait_within(PATIENCE, || self.published().ok().filter(|p| condition(p)));
        found.with_context(|| format!("{what}: {:?}", self.published())).map(drop)
    }

    fn fetch(&self, url: &str) -> Option<String> {
        let done = self.laptop.run("curl", ["-gsS", "--fail", "--max-time", "2", url]).ok()?;
        done.is_success().then(|| done.stdout.trim().to_owned())
    }

    fn fetch_until(&self, url: &str) -> Result<String> {
        wait_within(PATIENCE, || self.fetch(url)).with_context(|| format!("{url} does not answer the laptop"))
    }
}

/// A pod on each worker that says its name and whom it sees, on port 8080.
fn pods() -> String {
    let serve = "import http.server,os\\nclass A(http.server.BaseHTTPRequestHandler):\\n def do_GET(s):\\n  b=(os.environ[\\\"NAME\\\"]+\\\" \\\"+s.client_address[0]).encode();s.send_response(200);s.send_header(\\\"content-length\\\",str(len(b)));s.end_headers();s.wfile.write(b)\\nhttp.server.ThreadingHTTPServer((\\\"0.0.0.0\\\",8080),A).serve_forever()";
    (1..=2)
        .map(|n| {
            format!(
                "---
apiVersion: v1
kind: Pod
metadata: {{ name: web{n}, labels: {{ app: web }} }}
spec:
  nodeName: worker{n}
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: example/python:1
    command: [python3, -c, \"{serve}\"]
    env: [{{ name: NAME, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }}]
"
            )
        })
        .collect()
}

fn lb(name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{ name: {name}{metadata} }}
spec: {{ type: LoadBalancer, loadBalancerClass: meshd.dev/mesh, selector: {{ app: web }}{spec} }}
"
    )
}

const HTTP: &str = ", ports: [{ name: http, port: 80, targetPort: 8080 }]";

type Clause = (&'static str, fn(&Bed) -> Result<()>);

const CLAUSES: &[Clause] = &[
    ("a pending Service gets an address, and a laptop behind a NAT reaches it by address and name", reached),
    ("another class is left alone", other_class),
    ("a fixed address is given, and MetalLB's annotation too", fixed),
    ("TCP and UDP 53 share one address", shared),
    ("an address in use is refused with its holder, and is given when it is free", taken),
    ("an address outside every pool is refused with what to do", outside),
    ("source ranges keep others out", sources),
    ("ipMode is VIP", ip_mode),
    ("with externalTrafficPolicy Local and Cluster the pod sees the client", client_address),
    ("a type change gives the address back", release),
    ("a deleted Service leaves nothing", deleted),
    ("a pool shows its counts, and says when it is exhausted", pool_counts),
    ("a pool that is none is refused by the API server", pool_validation),
];

fn reached(bed: &Bed) -> Result<()> {
    bed.cluster.apply(&lb("web", "", HTTP))?;
    let address = bed.wait_addresses("web", 1)?.remove(0);
    bed.fetch_until(&format!("http://{address}/"))?;
    let state: Value =
        serde_json::from_str(&bed.coordinator.run(&["clusters", "services", "k", "--json"])?.stdout)?;
    let domain = state["domain"].as_str().context("a domain")?;
    bed.fetch_until(&format!("http://web.default.{domain}/")).map(drop)
}

fn other_class(bed: &Bed) -> Result<()> {
    let other = lb("other", "", HTTP).replace("meshd.dev/mesh", "example.com/other");
    bed.cluster.apply(&other)?;
    bed.cluster.apply(&lb("after-other", "", HTTP))?;
    bed.wait_addresses("after-other", 1)?;
    let service = bed.service("other")?;
    ensure!(service["status"]["loadBalancer"] == serde_json::json!({}), "{service:#}");
    bed.cluster.kubectl(&["delete", "service", "other", "after-other"]).map(drop)
}

fn fixed(bed: &Bed) -> Result<()> {
    for (name, place, ip) in [
        ("fixed", "meshd.dev/addresses", "10.98.0.33"),
        ("metallb", "metallb.universe.tf/loadBalancerIPs", "10.98.0.34"),
    ] {
        bed.cluster.apply(&lb(name, &format!(", annotations: {{ {place}: '{ip}' }}"), HTTP))?;
        ensure!(bed.wait_addresses(name, 1)? == [ip], "{name}");
    }
    bed.cluster.kubectl(&["delete", "service", "metallb"]).map(drop)
}

fn shared(bed: &Bed) -> Result<()> {
    for protocol in ["TCP", "UDP"] {
        let name = format!("dns-{}", protocol.to_lowercase());
        let ports = format!(", ports: [{{ name: dns, protocol: {protocol}, port: 53, targetPort: 8080 }}]");
        bed.cluster.apply(&lb(&name, ", annotations: { meshd.dev/allow-shared-ip: dns }", &ports))?;
    }
    let (tcp, udp) = (bed.wait_addresses("dns-tcp", 1)?, bed.wait_addresses("dns-udp", 1)?);
    ensure!(tcp == udp, "{tcp:?} {udp:?}");
    bed.fetch_until(&format!("http://{}:53/", tcp[0]))?;
    bed.cluster.kubectl(&["delete", "service", "dns-tcp", "dns-udp"]).map(drop)
}

fn taken(bed: &Bed) -> Result<()> {
    bed.cluster.apply(&lb("second", ", annotations: { meshd.dev/addresses: 10.98.0.33 }", HTTP))?;
    let condition = bed.wait_reason("second", "AddressTaken")?;
    ensure!(condition["message"].as_str().is_some_and(|m| m.contains("default/fixed")), "{condition:#}");
    ensure!(bed.addresses("second").is_empty());
    bed.cluster.kubectl(&["delete", "service", "fixed"])?;
    ensure!(bed.wait_addresses("second", 1)? == ["10.98.0.33"]);
    bed.cluster.kubectl(&["delete", "service", "second"]).map(drop)
}

fn outside(bed: &Bed) -> Result<()> {
    bed.cluster.apply(&lb("outside", ", annotations: { meshd.dev/addresses: 10.1.1.1 }", HTTP))?;
    bed.wait_reason("outside", "AddressOutsidePools")?;
    bed.cluster.kubectl(&["delete", "service", "outside"]).map(drop)
}

fn sources(bed: &Bed) -> Result<()> {
    let me = mesh_address(&bed.laptop)?;
    let only = |net: &str| lb("only", "", &format!("{HTTP}, loadBalancerSourceRanges: ['{net}']"));
    bed.cluster.apply(&only(&format!("{me}/32")))?;
    let url = format!("http://{}/", bed.wait_addresses("only", 1)?[0]);
    bed.fetch_until(&url)?;
    bed.cluster.apply(&only("192.0.2.0/24"))?;
    let closed = wait_within(PATIENCE, || bed.fetch(&url).is_none().then_some(()));
    ensure!(closed.is_some(), "a source that is not in the list is let in");
    bed.cluster.kubectl(&["delete", "service", "only"]).map(drop)
}

fn ip_mode(bed: &Bed) -> Result<()> {
    let service = bed.service("web")?;
    ensure!(service["status"]["loadBalancer"]["ingress"][0]["ipMode"] == "VIP", "{service:#}");
    Ok(())
}

fn client_address(bed: &Bed) -> Result<()> {
    let me = mesh_address(&bed.laptop)?.to_string();
    let url = format!("http://{}/", bed.wait_addresses("web", 1)?[0]);
    for policy in ["Cluster", "Local"] {
        let patch = format!(r#"{{"spec":{{"externalTrafficPolicy":"{policy}"}}}}"#);
        bed.cluster.kubectl(&["patch", "service", "web", "-p", &patch])?;
        let said = bed.fetch_until(&url)?;
        ensure!(said.ends_with(&format!(" {me}")), "{policy}: the pod sees `{said}`, not {me}");
    }
    Ok(())
}

fn release(bed: &Bed) -> Result<()> {
    bed.cluster.apply(&lb("changing", "", HTTP))?;
    bed.wait_addresses("changing", 1)?;
    let patch = r#"{"spec":{"type":"ClusterIP","loadBalancerClass":null,"allocateLoadBalancerNodePorts":null,"externalTrafficPolicy":null}}"#;
    bed.cluster.kubectl(&["patch", "service", "changing", "--type=merge", "-p", patch])?;
    bed.wait_addresses("changing", 0)?;
    bed.wait_published("released", |all| all.iter().all(|(name, _)| name != "changing"))?;
    bed.cluster.kubectl(&["delete", "service", "changing"]).map(drop)
}

fn deleted(bed: &Bed) -> Result<()> {
    bed.cluster.apply(&lb("short", "", HTTP))?;
    let address = bed.wait_addresses("short", 1)?.remove(0);
    bed.cluster.kubectl(&["delete", "service", "short", "--timeout=20s"])?;
    bed.wait_published("gone", |all| all.iter().all(|(name, _)| name != "short"))?;
    let gone = wait_within(PATIENCE, || {
        let left =
            bed.nodes.iter().any(|n| n.host.sh("nft list ruleset").is_ok_and(|text| text.contains(&address)));
        (!left).then_some(())
    });
    ensure!(gone.is_some(), "{address} is still in a node's rules");
    Ok(())
}

fn pool_counts(bed: &Bed) -> Result<()> {
    bed.cluster.apply(
        "
apiVersion: meshd.dev/v1alpha1
kind: AddressPool
metadata: { name: tiny }
spec: { addresses: [10.98.0.200], autoAssign: false }
",
    )?;
    for name in ["first", "too-many"] {
        bed.cluster.apply(&lb(name, ", annotations: { meshd.dev/address-pool: tiny }", HTTP))?;
        if name == "first" {
            bed.wait_addresses(name, 1)?;
        }
    }
    bed.wait_reason("too-many", "PoolExhausted")?;
    let full = wait_within(PATIENCE, || {
        let pool = bed.cluster.get(&["addresspool", "tiny"]).ok()?;
        (pool["status"]["assigned"] == 1 && pool["status"]["conditions"][0]["reason"] == "Exhausted")
            .then_some(())
    });
    ensure!(full.is_some(), "{:#}", bed.cluster.get(&["addresspool", "tiny"])?);
    bed.cluster.kubectl(&["delete", "service", "first", "too-many"])?;
    bed.cluster.kubectl(&["delete", "addresspool", "tiny"]).map(drop)
}

fn pool_validation(bed: &Bed) -> Result<()> {
    for bad in ["[]", "['everything']", "[10.98.0.0/24 extra]"] {
        let pool = format!(
            "apiVersion: meshd.dev/v1alpha1\nkind: AddressPool\nmetadata: {{ name: bad }}\nspec: {{ addresses: {bad} }}\n"
        );
        if bed.cluster.apply(&pool).is_ok() {
            bail!("{bad} was taken as addresses of a pool");
        }
    }
    Ok(())
}

#[test]
fn each_clause_of_the_load_balancer_contract_holds() -> Result<()> {
    let mut bed = Bed::new("lb", ProxyMode::Nftables)?;
    bed.cluster.apply(&pods())?;
    bed.cluster.wait(&["--for=condition=Ready", "pod", "-l", "app=web"])?;
    let mut failed = Vec::new();
    for (clause, check) in CLAUSES {
        match check(&bed) {
            Ok(()) => println!("passed  {clause}"),
            Err(error) => {
                println!("FAILED  {clause}: {error:#}");
                failed.push(*clause);
            }
        }
    }
    // While nobody looks: a namespace with exposed Services goes, and what it had goes with the next look.
    bed.cluster.kubectl(&["create", "namespace", "apps"])?;
    bed.cluster.apply(&lb("inside", ", namespace: apps", HTTP))?;
    bed.wait_published("published", |all| all.iter().any(|(name, _)| name == "inside"))?;
    bed.kill_operator()?;
    bed.cluster.kubectl(&["delete", "namespace", "apps", "--timeout=40s"])?;
    println!("passed  a namespace with exposed Services deletes while the operator is away");
    bed.start_operator()?;
    bed.wait_published("swept", |all| all.iter().all(|(name, _)| name != "inside"))?;
    println!("passed  what it published goes when the operator is back");
    ensure!(failed.is_empty(), "{} clauses failed: {failed:?}", failed.len());
    Ok(())
}

/// How often the operator is killed: `MESHD_LB_KILLS`, by default a few.
fn kills() -> usize {
    std::env::var("MESHD_LB_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8)
}

#[test]
fn an_operator_that_is_killed_again_and_again_leaks_nothing_and_assigns_nothing_twice() -> Result<()> {
    let mut bed = Bed::new("lb-kill", ProxyMode::Nftables)?;
    let total = kills();
    let mut twice = 0;
    for round in 0..total {
        // Each round makes two Services and deletes an older one; the kill falls at another moment each time.
        for n in [2 * round, 2 * round + 1] {
            bed.cluster.apply(&lb(&format!("s{n}"), "", HTTP))?;
        }
        if round >= 8 {
            bed.cluster.kubectl(&[
                "delete",
                "service",
                &format!("s{}", 2 * (round - 8)),
                &format!("s{}", 2 * (round - 8) + 1),
            ])?;
        }
        std::thread::sleep(Duration::from_millis((round as u64 * 37) % 600));
        bed.kill_operator()?;
        bed.start_operator()?;
        let mut seen = std::collections::BTreeSet::new();
        twice +=
            bed.published()?.iter().flat_map(|(_, ips)| ips).filter(|ip| !seen.insert((*ip).clone())).count();
    }
    let live: Vec<String> = (2 * total.saturating_sub(8)..2 * total).map(|n| format!("s{n}")).collect();
    let mut ips = std::collections::BTreeSet::new();
    for name in &live {
        let address = bed.wait_addresses(name, 1)?.remove(0);
        ensure!(ips.insert(address.clone()), "{address} was given twice");
    }
    bed.wait_published("what lives is published, and nothing else", |all| {
        all.len() == live.len()
            && all.iter().all(|(name, own)| live.contains(name) && own.iter().all(|ip| ips.contains(ip)))
    })?;
    println!(
        "killed {total} times: {} services live, {} published, {twice} assigned twice, 0 leaked",
        live.len(),
        bed.published()?.len()
    );
    ensure!(twice == 0);
    Ok(())
}
