//! One node with `meshd-cni`, driven by the specification's own `cnitool` or by hand.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::{Finished, Host, Lab};
use serde_json::{Value, json};

/// Where the folder with the built Go tools is told (`tests/k8s/tools/build` prints it, `make cni` sets it).
const TOOLS: &str = "MESHD_K8S_TOOLS";
/// Name of the network.
const NETWORK: &str = "pods";
/// Where the books are unless a test says otherwise (`null`: where the plugin has them by itself). In memory: a
/// disk that others write to makes hundreds of synced files a matter of minutes.
const DATA_DIR: &str = "/run/cni";

/// A node on the lab's internet, with pods.
#[derive(Debug)]
pub struct CniNode {
    /// The lab, with a machine outside: [`Lab::internet`].
    pub lab: Lab,
    /// The node.
    pub host: Host,
    folder: PathBuf,
    tools: PathBuf,
}

/// What the plugin answered when it was started directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Exit status 0.
    pub ok: bool,
    /// Standard output; null when empty.
    pub json: Value,
}

impl Answer {
    /// The error's code, 0 for success.
    pub fn code(&self) -> u64 {
        self.json["code"].as_u64().unwrap_or(0)
    }
}

impl CniNode {
    /// A node whose plugin has the settings `plugin` (`ranges` and more); version 1.1.0.
    pub fn new(name: &str, plugin: &Value) -> Result<CniNode> {
        let tools: PathBuf = std::env::var(TOOLS)
            .map(Into::into)
            .with_context(|| format!("{TOOLS} is not set: run `make cni`, or tests/k8s/tools/build first"))?;
        ensure!(tools.join("cnitool").exists(), "{TOOLS}: no cnitool there; run tests/k8s/tools/build");
        let lab = Lab::new(name)?;
        let (host, ..) = lab.server("node")?;
        let folder = lab.folder().join("cni");
        fs::create_dir(&folder)?;
        let node = CniNode { lab, host, folder, tools };
        node.configure("1.1.0", plugin)?;
        Ok(node)
    }

    /// Another configuration from now on.
    pub fn configure(&self, version: &str, plugin: &Value) -> Result<()> {
        self.configure_chain(version, plugin, &[])
    }

    /// The same, with other plugins behind ours.
    pub fn configure_chain(&self, version: &str, plugin: &Value, behind: &[Value]) -> Result<()> {
        let mut plugin = plugin.clone();
        plugin["type"] = json!("meshd-cni");
        if plugin.get("dataDir").is_none() {
            plugin["dataDir"] = json!(DATA_DIR);
        }
        let mut plugins = vec![plugin.clone()];
        plugins.extend_from_slice(behind);
        let list = json!({ "cniVersion": version, "name": NETWORK, "plugins": plugins });
        fs::write(self.folder.join("10-pods.conflist"), list.to_string())?;
        plugin["cniVersion"] = json!(version);
        plugin["name"] = json!(NETWORK);
        fs::write(self.folder.join("plugin.json"), plugin.to_string())?;
        Ok(())
    }

    /// The configuration as the plugin gets it.
    pub fn config(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.folder.join("plugin.json"))?)?)
    }

    /// A pod without a network; the way to its namespace.
    pub fn pod(&self, name: &str) -> Result<String> {
        self.host.sh(&format!("ip netns add {name}"))?;
        Ok(format!("/run/netns/{name}"))
    }

    /// `cnitool COMMAND pods /run/netns/POD`.
    pub fn cnitool(&self, command: &str, pod: &str) -> Result<Finished> {
        self.host.run("bash", ["-c", &self.cnitool_line(command, pod)])
    }

    /// The same as a shell line.
    pub fn cnitool_line(&self, command: &str, pod: &str) -> String {
        format!(
            "NETCONFPATH={} CNI_PATH={}:{} {} {command} {NETWORK} /run/netns/{pod}",
            self.folder.display(),
            meshd_lab::program_folder().display(),
            self.tools.display(),
            self.tools.join("cnitool").display()
        )
    }

    /// A pod with a network: its result.
    pub fn add(&self, pod: &str) -> Result<Value> {
        self.pod(pod)?;
        Ok(serde_json::from_str(&self.cnitool("add", pod)?.success()?.stdout)?)
    }

    /// The plugin itself, for container `c-POD` and interface eth0, with `config` on standard input.
    pub fn plugin(&self, command: &str, pod: &str, config: &Value) -> Result<Answer> {
        self.plugin_under("", command, pod, config)
    }

    /// The same, started by another program: `wrapper` stands in front of its name.
    pub fn plugin_under(&self, wrapper: &str, command: &str, pod: &str, config: &Value) -> Result<Answer> {
        let input = self.folder.join(format!("{command}-{pod}.json"));
        fs::write(&input, config.to_string())?;
        let environment = format!(
            "CNI_COMMAND={command} CNI_CONTAINERID=c-{pod} CNI_IFNAME=eth0 CNI_NETNS=/run/netns/{pod}"
        );
        let program = meshd_lab::program_folder().join("meshd-cni");
        let line = format!("{environment} {wrapper} {} < {}", program.display(), input.display());
        let done = self.host.run("bash", ["-c", &line])?;
        let json = if done.stdout.is_empty() { Value::Null } else { serde_json::from_str(&done.stdout)? };
        Ok(Answer { ok: done.is_success(), json })
    }

    /// Runs a shell line in a pod; its output.
    pub fn in_pod(&self, pod: &str, line: &str) -> Result<String> {
        Ok(self.host.run("ip", ["netns", "exec", pod, "bash", "-c", line])?.success()?.stdout)
    }

    /// The reservations in the books.
    pub fn reservations(&self) -> Result<Vec<Value>> {
        let folder = match &self.config()?["dataDir"] {
            Value::String(folder) => folder.clone(),
            _ => "/var/lib/meshd/cni".to_owned(),
        };
        let text = self.host.sh(&format!("cat {folder}/{NETWORK}/ledger.json 2>/dev/null || true"))?;
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let ledger: Value = serde_json::from_str(&text)?;
        Ok(ledger["reservations"].as_array().context("a list of reservations")?.clone())
    }

    /// Links, addresses and routes of the node, without what the kernel counts and numbers itself.
    pub fn network(&self) -> Result<String> {
        // An address that the kernel still tries out (RFC 4862 §5.4) is about to change what stands here.
        let settled =
            || self.host.sh("ip -6 -o addr show tentative").is_ok_and(|tentative| tentative.is_empty());
        ensure!(meshd_lab::wait_until(Duration::from_secs(10), settled), "an address stays tentative");
        let lines = self.host.sh(
            "ip -o link; ip -o addr; ip -4 route show table all; ip -6 route show table all; ip rule; ip -6 rule",
        )?;
        Ok(lines.lines().filter(|l| !l.contains("multicast ff00::")).collect::<Vec<_>>().join("\n"))
    }
}
