//! A kubelet for tests: it runs the pods of one node as processes in namespaces, without images.
//!
//! A container's image names a program (`example/lab-tool:1` is `lab-tool`, found in the build output or in the
//! system), `command` and `args` work as everywhere. Each container has an overlay of the machine's own files, the
//! pod's network comes from the CNI plugins that are configured in `/etc/cni/net.d`, as with a real kubelet.
//! What is there: init containers and native sidecars, restart policies, probes (`httpGet`, `tcpSocket`, `exec`),
//! volumes (`emptyDir`, `hostPath`, `secret`, `configMap`, `downwardAPI`, `projected` with ServiceAccount tokens that
//! are renewed), capabilities, users, `hostNetwork`, logs, deletion with grace.
//! What is not there: images, cgroups and resource limits, `kubectl exec` and `port-forward` (the test bed enters
//! containers itself), lifecycle hooks, static pods, CSI volumes.
//!
//! It never touches a machine outside a lab: it refuses to run unless its process 1 is a lab's.

mod api;
mod clock;
mod container;
mod environment;
mod health;
mod logs;
mod network;
mod node;
mod pod;
mod status;
mod volumes;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Parser;

/// Where everything of a pod lies; gone with the machine.
const STATE: &str = "/run/mini-kubelet/pods";

#[derive(Parser, Debug)]
#[command(version, about = "A kubelet for tests: pods as processes")]
struct Args {
    /// With a client certificate for system:node:NAME.
    #[arg(long)]
    kubeconfig: PathBuf,
    #[arg(long)]
    name: String,
    /// InternalIP; the first one is the hostIP of pods.
    #[arg(long, required = true)]
    address: Vec<IpAddr>,
    /// The resolver that pods get.
    #[arg(long)]
    cluster_dns: IpAddr,
    /// KUBERNETES_SERVICE_HOST of pods.
    #[arg(long)]
    api_service: IpAddr,
    /// Folder with the programs that images name, the CNI plugin too.
    #[arg(long)]
    programs: PathBuf,
    /// key=value
    #[arg(long)]
    label: Vec<String>,
    /// Write the plugin's configuration from the node's pod CIDRs.
    #[arg(long)]
    write_cni_config: bool,
}

/// What all parts of the node share.
#[derive(Debug)]
struct Kubelet {
    args: Args,
    api: api::Api,
}

// One thread: the pods' processes die with the thread that started them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let init = std::fs::read_to_string("/proc/1/cmdline").unwrap_or_default();
    ensure!(
        init.contains("echo ready"),
        "this runs on machines of a lab only: it starts what the API server names"
    );
    let api = api::Api::from_kubeconfig(&args.kubeconfig)
        .with_context(|| format!("{}", args.kubeconfig.display()))?;
    let kubelet = Arc::new(Kubelet { args, api });
    network::clean_up_after_the_last_one(&kubelet).await;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(node::keep_registered(Arc::clone(&kubelet)));
    tasks.spawn(logs::serve());
    tasks.spawn(pod::run_all(Arc::clone(&kubelet)));
    match tasks.join_next().await {
        Some(ended) => ended?,
        None => Ok(()),
    }
}
