//! A node of a cluster: a machine of the lab with our mini-kubelet and the real kube-proxy.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};
use meshd_lab::{Host, Process, mesh::need};
use serde_json::json;

use super::Cluster;

/// How kube-proxy turns Services into rules. IPVS is not there: the lab's kernel has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// `mode: iptables`.
    Iptables,
    /// `mode: nftables`.
    Nftables,
}

/// Who writes the configuration of the CNI plugin on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNetwork {
    /// The mini-kubelet, from the node's pod CIDRs: pods of one node reach each other, nothing more.
    Local,
    /// Somebody else, as on a real node: the node is not Ready until it is there.
    Agent,
}

/// How a machine joins.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Its InternalIP, IPv4 and perhaps IPv6: where the API server reaches the kubelet.
    pub addresses: Vec<IpAddr>,
    /// The mode of kube-proxy.
    pub proxy: ProxyMode,
    /// The pods' network.
    pub network: PodNetwork,
    /// Labels of the Node, `key=value`.
    pub labels: Vec<String>,
}

impl NodeSettings {
    /// A node at this address, nftables mode, pods on this node only.
    pub fn at(address: impl Into<IpAddr>) -> NodeSettings {
        NodeSettings {
            addresses: vec![address.into()],
            proxy: ProxyMode::Nftables,
            network: PodNetwork::Local,
            labels: Vec::new(),
        }
    }

    /// The same with another kube-proxy.
    pub fn proxy(mut self, mode: ProxyMode) -> NodeSettings {
        self.proxy = mode;
        self
    }

    /// The same with another pod network.
    pub fn network(mut self, network: PodNetwork) -> NodeSettings {
        self.network = network;
        self
    }
}

/// A node that runs. It ends with its machine.
#[derive(Debug)]
pub struct Node {
    /// The machine; its name is the Node's name.
    pub host: Host,
    /// The mini-kubelet.
    pub kubelet: Process,
    /// kube-proxy.
    pub proxy: Process,
}

impl Node {
    /// SIGKILL for kube-proxy; the rules that it has made stay.
    pub fn stop_proxy(&self) -> Result<()> {
        self.proxy.signal(rustix::process::Signal::KILL)
    }
}

impl Cluster {
    /// Makes `host` a node of the cluster and waits until it is Ready ([`PodNetwork::Agent`]: until it is
    /// registered).
    pub fn join(&self, host: &Host, settings: NodeSettings) -> Result<Node> {
        let node = self.join_without_waiting(host, &settings)?;
        let name = host.name();
        match settings.network {
            PodNetwork::Local => {
                self.wait_for("node", || {
                    self.try_kubectl(&["get", "node", name]).is_ok_and(|d| d.is_success())
                })
                .and_then(|()| self.wait(&["--for=condition=Ready", &format!("node/{name}")]))
                .with_context(|| format!("mini-kubelet: {}", super::tail(&node.kubelet.log())))?;
            }
            PodNetwork::Agent => {
                self.wait_for("node", || {
                    self.try_kubectl(&["get", "node", name]).is_ok_and(|d| d.is_success())
                })?;
            }
        }
        Ok(node)
    }

    /// The same without waiting for anything.
    pub fn join_without_waiting(&self, host: &Host, settings: &NodeSettings) -> Result<Node> {
        need("mini-kubelet")?;
        need("meshd-cni")?;
        let name = host.name();
        host.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        self.make_kubeconfig(&format!("node-{name}"), &format!("system:node:{name}"), &["system:nodes"])?;
        let proxy = self.kube_proxy(host, settings.proxy)?;
        let mut args = vec![
            format!("--kubeconfig={}", self.path(&format!("node-{name}.kubeconfig"))),
            format!("--name={name}"),
            format!("--cluster-dns={}", self.settings.service_address(10)),
            format!("--api-service={}", self.settings.api_service()),
            format!("--programs={}", meshd_lab::program_folder().display()),
        ];
        args.extend(settings.addresses.iter().map(|address| format!("--address={address}")));
        args.extend(settings.labels.iter().map(|label| format!("--label={label}")));
        if settings.network == PodNetwork::Local {
            args.push("--write-cni-config".to_owned());
        }
        let kubelet = host.spawn("mini-kubelet", args)?;
        Ok(Node { host: host.clone(), kubelet, proxy })
    }

    /// Makes the node's pod CIDRs mesh routes and writes the plugin's configuration: what
    /// docs/guide/kubernetes.md has a person do by hand. A node without the plugin or without routes is for tests that
    /// look for the difference.
    pub fn connect_pods(&self, node: &Node, plugin: bool, routes: bool) -> Result<()> {
        let name = node.host.name();
        let read =
            || self.kubectl(&["get", "node", name, "-o", "jsonpath={.spec.podCIDRs}"]).unwrap_or_default();
        let mut text = String::new();
        self.wait_for("pod CIDR", || {
            text = read();
            text.starts_with('[')
        })?;
        let ranges: Vec<String> = serde_json::from_str(&text)?;
        if routes {
            let all = [&ranges[..], &self.settings.services[..1]].concat();
            node.host.run("meshd", ["set", &format!("--advertise-routes={}", all.join(","))])?.success()?;
        }
        if plugin {
            let list = json!({ "cniVersion": "1.1.0", "name": "pods", "plugins": [{
                "type": "meshd-cni", "ranges": ranges, "dataDir": "/run/cni" }] });
            let folder = node.host.file("/etc/cni/net.d");
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("new"), list.to_string())?;
            fs::rename(folder.join("new"), folder.join("10-meshd.conflist"))?;
        }
        Ok(())
    }

    fn kube_proxy(&self, host: &Host, mode: ProxyMode) -> Result<Process> {
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": match mode { ProxyMode::Iptables => "iptables", ProxyMode::Nftables => "nftables" },
            "clientConnection": { "kubeconfig": self.path("kube-proxy.kubeconfig") },
            "hostnameOverride": host.name(),
            "clusterCIDR": self.settings.pods.join(","),
            "detectLocalMode": "ClusterCIDR",
            // The table's size belongs to the machine that the lab runs on.
            "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
        });
        let path = self.path(&format!("kube-proxy-{}.json", host.name()));
        fs::write(&path, config.to_string())?;
        host.spawn(&self.programs.join("kube-proxy").display().to_string(), [format!("--config={path}")])
    }
}
