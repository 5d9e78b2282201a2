//! A pod's network namespace, and the CNI plugins that fill it (specification 1.1, section 3: all plugins of the
//! list in order, each with the result of the one before; `DEL` in reverse).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::{Kubelet, STATE};

/// Where CNI configurations are.
pub(crate) const CNI_FOLDER: &str = "/etc/cni/net.d";
const PLUGIN_LIMIT: Duration = Duration::from_secs(30);

/// The network of one pod.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    /// Name of the namespace.
    name: String,
    namespace: String,
    pod: String,
    uid: String,
    /// Of the pod, in the plugin's order.
    pub(crate) addresses: Vec<String>,
}

/// The first configuration list, by name.
fn config_file() -> Option<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(CNI_FOLDER).ok()?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "conflist"));
    files.sort();
    files.into_iter().next()
}

/// Whether pods can get a network here.
pub(crate) fn is_configured() -> bool {
    config_file().is_some()
}

impl Sandbox {
    /// A namespace with an address.
    pub(crate) async fn new(kubelet: &Kubelet, namespace: &str, pod: &str, uid: &str) -> Result<Sandbox> {
        let mut sandbox = Sandbox {
            name: format!("cni-{uid}"),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            uid: uid.to_owned(),
            addresses: Vec::new(),
        };
        fs::write(Path::new(STATE).join(uid).join("sandbox"), format!("{namespace}\n{pod}\n"))?;
        run("ip", &["netns", "add", &sandbox.name]).await?;
        let inside = ["netns", "exec", sandbox.name.as_str(), "sh", "-c"];
        let settings = "ip link set lo up; echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start";
        run("ip", &[&inside[..], &[settings]].concat()).await?;
        let result = sandbox.plugins(kubelet, "ADD").await?;
        let list = result["ips"].as_array().context("the CNI result has no addresses")?;
        sandbox.addresses = list
            .iter()
            .filter_map(|ip| Some(ip["address"].as_str()?.split('/').next()?.to_owned()))
            .collect();
        ensure!(!sandbox.addresses.is_empty(), "the CNI result has no addresses: {result}");
        Ok(sandbox)
    }

    /// The way to the namespace.
    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Gives the address back and removes the namespace. May be called again.
    pub(crate) async fn remove(&self, kubelet: &Kubelet) -> Result<()> {
        self.plugins(kubelet, "DEL").await?;
        if Path::new(&self.path()).exists() {
            run("ip", &["netns", "del", &self.name]).await?;
        }
        Ok(())
    }

    async fn plugins(&self, kubelet: &Kubelet, command: &str) -> Result<Value> {
        let file = config_file().with_context(|| format!("no CNI configuration in {CNI_FOLDER}"))?;
        let list: Value = serde_json::from_slice(&fs::read(&file)?)?;
        let mut plugins = list["plugins"].as_array().context("a list of plugins")?.clone();
        if command == "DEL" {
            plugins.reverse();
        }
        let mut result = Value::Null;
        for mut config in plugins {
            config["cniVersion"] = list["cniVersion"].clone();
            config["name"] = list["name"].clone();
            if !result.is_null() {
                config["prevResult"] = result;
            }
            result = self.plugin(kubelet, command, &config).await?;
        }
        Ok(result)
    }

    async fn plugin(&self, kubelet: &Kubelet, command: &str, config: &Value) -> Result<Value> {
        let kind = config["type"].as_str().context("a plugin without a type")?;
        let folders = [kubelet.args.programs.clone(), "/opt/cni/bin".into(), "/usr/lib/cni".into()];
        let program = folders.iter().map(|folder| folder.join(kind)).find(|path| path.exists());
        let program = program.with_context(|| format!("the CNI plugin {kind} is not installed"))?;
        let path = folders.map(|folder| folder.display().to_string()).join(":");
        let mut child = Command::new(program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.uid)
            .env("CNI_NETNS", self.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", path)
            .env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={}",
                    self.namespace, self.pod, self.uid
                ),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        child.stdin.take().context("stdin is piped")?.write_all(config.to_string().as_bytes()).await?;
        let done =
            timeout(PLUGIN_LIMIT, child.wait_with_output()).await.context("the CNI plugin hangs")??;
        let said = String::from_utf8_lossy(&done.stdout);
        ensure!(done.status.success(), "{kind} {command}: {said}{}", String::from_utf8_lossy(&done.stderr));
        Ok(serde_json::from_str(&said).unwrap_or(Value::Null))
    }
}

/// A kubelet that was killed took its pods' processes with it; here go their networks and files.
pub(crate) async fn clean_up_after_the_last_one(kubelet: &Kubelet) {
    let Ok(entries) = fs::read_dir(STATE) else { return };
    for entry in entries.flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        match remove_left(kubelet, &uid).await {
            Ok(()) => drop(fs::remove_dir_all(entry.path())),
            Err(why) => eprintln!("cleaning up: {why:#}"),
        }
    }
}

/// The network of a pod that was begun and perhaps not finished.
pub(crate) async fn remove_left(kubelet: &Kubelet, uid: &str) -> Result<()> {
    let file = Path::new(STATE).join(uid).join("sandbox");
    let Ok(text) = fs::read_to_string(&file) else { return Ok(()) };
    let mut lines = text.lines().map(str::to_owned);
    let (namespace, pod) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let uid = uid.to_owned();
    Sandbox { name: format!("cni-{uid}"), namespace, pod, uid, addresses: Vec::new() }
        .remove(kubelet)
        .await?;
    Ok(fs::remove_file(file)?)
}

/// Runs a program of the system.
pub(crate) async fn run(program: &str, args: &[&str]) -> Result<String> {
    let command = Command::new(program).args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let done = timeout(PLUGIN_LIMIT, command).await.with_context(|| format!("{program} hangs"))??;
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "{program} {args:?}: {error}");
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
