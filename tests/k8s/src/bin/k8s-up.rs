//! `make k8s-up`: a real control plane and two nodes for a person, until Ctrl-C. `k8s-up 3 iptables`: three nodes with
//! kube-proxy in iptables mode.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, bail};
use meshd_k8s::{Cluster, ClusterSettings, NodeSettings, ProxyMode};
use meshd_lab::Lab;

const NAMES: [&str; 5] = ["worker0", "worker1", "worker2", "worker3", "worker4"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let count: usize = args.first().map_or(Ok(2), |n| n.parse()).context("how many nodes: a number")?;
    let mode = match args.get(1).map(String::as_str) {
        None | Some("nftables") => ProxyMode::Nftables,
        Some("iptables") => ProxyMode::Iptables,
        Some(other) => bail!("{other}: kube-proxy runs in mode nftables or iptables here"),
    };
    let names = NAMES.get(..count).with_context(|| format!("at most {} nodes", NAMES.len()))?;
    let lab = Lab::new("k8s-up")?;
    let (control, address, _) = lab.server("control")?;
    println!("starting a control plane");
    let cluster = Cluster::start(&lab, &control, address, ClusterSettings::numbered("test", 0))?;
    let mut nodes = Vec::new();
    for name in names {
        println!("starting node {name}");
        let (host, address, _) = lab.server(name)?;
        nodes.push(cluster.join(&host, NodeSettings::at(address).proxy(mode))?);
    }
    let kubectl = lab.folder().join("kubectl");
    let door = lab.doors().lines().find_map(|line| line.strip_prefix("control: ").map(str::to_owned));
    let door = door.context("the control plane's machine has gone")?;
    let door = door.replace(" --root --wd", "").replace(" --mount --uts --ipc --pid", "");
    fs::write(
        &kubectl,
        format!(
            "#!/bin/sh\nexec {door} {} --kubeconfig={} \"$@\"\n",
            cluster.kubectl_program(),
            cluster.kubeconfig().display()
        ),
    )?;
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755))?;
    println!("{}", cluster.kubectl(&["get", "nodes", "-o", "wide"])?);
    println!("kubeconfig: {}", cluster.kubeconfig().display());
    println!("kubectl, from here: {}", kubectl.display());
    println!("the machines, from another terminal:\n{}", lab.doors());
    println!("Ctrl-C ends it.");
    tokio::signal::ctrl_c().await?;
    Ok(())
}
