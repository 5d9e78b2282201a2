//! The Node object: registered, renewed every few seconds, and the CNI configuration from its pod CIDRs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::Method;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use crate::network::CNI_FOLDER;
use crate::{Kubelet, clock};

const HEARTBEAT: Duration = Duration::from_secs(3);
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Runs for ever; an API server that is away is asked again.
pub(crate) async fn keep_registered(kubelet: Arc<Kubelet>) -> Result<()> {
    let mut round = 0_u32;
    let mut ready = None;
    loop {
        let configured = crate::network::is_configured();
        // The status is written when it changes and every tenth time, the Lease every time.
        let whole = round.is_multiple_of(10)
            || ready != Some(configured)
            || (kubelet.args.write_cni_config && !configured);
        if let Err(why) = beat(&kubelet, whole, configured).await {
            eprintln!("node {}: {why:#}", kubelet.args.name);
            round = 0;
            ready = None;
            sleep(Duration::from_millis(500)).await;
            continue;
        }
        ready = Some(configured);
        round += 1;
        let pause = if configured { HEARTBEAT } else { Duration::from_millis(250) };
        sleep(pause).await;
    }
}

async fn beat(kubelet: &Kubelet, whole: bool, configured: bool) -> Result<()> {
    let name = &kubelet.args.name;
    let path = format!("/api/v1/nodes/{name}");
    if whole {
        let (status, mut node) = kubelet.api.call(Method::GET, &path, "application/json", None).await?;
        if status == 404 {
            node = kubelet.api.post("/api/v1/nodes", &registration(kubelet)).await?;
        }
        if kubelet.args.write_cni_config
            && !configured
            && let Some(cidrs) = node["spec"]["podCIDRs"].as_array()
        {
            write_cni_config(cidrs)?;
        }
        kubelet.api.patch(&format!("{path}/status"), &json!({ "status": node_status(kubelet) })).await?;
    }
    renew(kubelet, name).await
}

async fn renew(kubelet: &Kubelet, name: &str) -> Result<()> {
    let spec =
        json!({ "holderIdentity": name, "leaseDurationSeconds": 12, "renewTime": clock::rfc3339_micros() });
    let path = format!("{LEASES}/{name}");
    let patch = json!({ "spec": spec });
    let (status, said) = kubelet.api.call(Method::PATCH, &path, crate::api::STRATEGIC, Some(&patch)).await?;
    match status {
        200 => Ok(()),
        404 => {
            let lease = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name },
                "spec": spec });
            kubelet.api.post(LEASES, &lease).await.map(drop)
        }
        _ => anyhow::bail!("renewing the Lease: {status} {}", said["message"]),
    }
}

fn registration(kubelet: &Kubelet) -> Value {
    let name = &kubelet.args.name;
    let mut labels = Map::new();
    labels.insert("kubernetes.io/hostname".into(), json!(name));
    labels.insert("kubernetes.io/os".into(), json!("linux"));
    labels.insert("kubernetes.io/arch".into(), json!(arch()));
    for label in &kubelet.args.label {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        labels.insert(key.to_owned(), json!(value));
    }
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels },
        "status": node_status(kubelet) })
}

fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn node_status(kubelet: &Kubelet) -> Value {
    let now = clock::rfc3339();
    let configured = crate::network::is_configured();
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        json!({ "type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now })
    };
    let ready = if configured {
        condition("Ready", true, "KubeletReady", "mini-kubelet runs pods")
    } else {
        condition("Ready", false, "KubeletNotReady", &format!("no CNI configuration in {CNI_FOLDER}"))
    };
    let mut addresses: Vec<Value> =
        kubelet.args.address.iter().map(|a| json!({ "type": "InternalIP", "address": a })).collect();
    addresses.push(json!({ "type": "Hostname", "address": kubelet.args.name }));
    let room = json!({ "cpu": "8", "memory": "16Gi", "ephemeral-storage": "20Gi", "pods": "110" });
    json!({
        "addresses": addresses,
        "capacity": room,
        "allocatable": room,
        "conditions": [
            ready,
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", ""),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", ""),
            condition("PIDPressure", false, "KubeletHasSufficientPID", ""),
        ],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": crate::logs::PORT } },
        "nodeInfo": {
            "kubeletVersion": "v1.35.4", "kubeProxyVersion": "", "containerRuntimeVersion": "mini://1", "osImage": "lab",
            "operatingSystem": "linux", "architecture": arch(), "kernelVersion": "lab", "machineID": kubelet.args.name,
            "systemUUID": kubelet.args.name, "bootID": kubelet.args.name,
        },
    })
}

/// The plugin's configuration as its guide shows it.
fn write_cni_config(cidrs: &[Value]) -> Result<()> {
    let list = json!({ "cniVersion": "1.1.0", "name": "pods", "plugins": [{
        "type": "meshd-cni", "ranges": cidrs, "dataDir": "/run/cni" }] });
    std::fs::create_dir_all(CNI_FOLDER)?;
    let (path, new) = (Path::new(CNI_FOLDER).join("10-meshd.conflist"), Path::new(CNI_FOLDER).join("new"));
    std::fs::write(&new, format!("{list:#}\n"))?;
    std::fs::rename(new, path).context("cannot write the CNI configuration")
}
