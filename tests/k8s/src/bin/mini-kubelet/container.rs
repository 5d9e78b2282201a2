//! One run of a container: a process with its own mounts, process ids and host name, in the pod's network.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::environment::{expand, text, variables};
use crate::network::Sandbox;
use crate::{Kubelet, STATE, clock, logs, volumes};

/// What container runtimes let a container have unless it asks for other things.
const CAPABILITIES: [&str; 14] = [
    "chown",
    "dac_override",
    "fsetid",
    "fowner",
    "mknod",
    "net_raw",
    "setgid",
    "setuid",
    "setfcap",
    "setpcap",
    "net_bind_service",
    "sys_chroot",
    "kill",
    "audit_write",
];

/// Mounts, then the program: $1 is the container's folder, $2 the folder with programs, $3 its working directory,
/// $4 the user's arguments of setpriv; the command follows.
const SETUP: &str = r#"
set -e
D=$1; programs=$2; work=$3; rights=$4; shift 4
R=$D/root
mount --make-rprivate / 2>/dev/null || true
mkdir -p "$D"/{root,files,files-work,etc,etc-work}
mount -t overlay overlay -o "lowerdir=/,upperdir=$D/files,workdir=$D/files-work" "$R"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$D/etc,workdir=$D/etc-work" "$R/etc"
mount -t proc proc "$R/proc"
mount -t sysfs sysfs "$R/sys" 2>/dev/null || true
mount --rbind /dev "$R/dev"
mount -t tmpfs -o mode=755 tmpfs "$R/run"
mount -t tmpfs -o mode=1777 tmpfs "$R/tmp"
mkdir -p "$R$programs"
mount --bind "$programs" "$R$programs"
rm -f "$R/etc/resolv.conf" "$R/etc/hosts"
cp "$D/../resolv.conf" "$D/../hosts" "$R/etc/"
cat "$D/../hostname" > "$R/etc/hostname"
cat "$D/../hostname" > /proc/sys/kernel/hostname
while IFS=$'\t' read -r source target mode; do
  # /var/run is a link to /run, of the container and not of the machine.
  target=$(chroot "$R" readlink -m "$target")
  if [ -d "$source" ]; then mkdir -p "$R$target"; else mkdir -p "$R${target%/*}"; [ -e "$R$target" ] || : > "$R$target"; fi
  mount --rbind "$source" "$R$target"
  [ "$mode" = rw ] || mount -o remount,bind,ro "$R$target"
done < "$D/mounts"
mkdir -p "$R$work"
exec chroot "$R" setpriv $rights -- env -i -C "$work" "$@"
"#;

/// A run that has been started.
#[derive(Debug)]
pub(crate) struct Run {
    child: Child,
    /// For the status.
    pub(crate) started_at: String,
    pub(crate) started: Instant,
    folder: PathBuf,
    log: PathBuf,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
}

/// Where the pod keeps its containers.
fn folder(uid: &str, name: &str) -> PathBuf {
    Path::new(STATE).join(uid).join(format!("c-{name}"))
}

/// What all containers of a pod share: names and the resolver.
pub(crate) fn write_pod_files(kubelet: &Kubelet, pod: &Value, addresses: &[String]) -> Result<()> {
    let uid = text(&pod["metadata"]["uid"]);
    let (namespace, name) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
    let place = Path::new(STATE).join(uid);
    let spec = &pod["spec"];
    let on_host = spec["hostNetwork"] == true;
    let host_name = if on_host {
        kubelet.args.name.clone()
    } else {
        spec["hostname"].as_str().unwrap_or(&name).to_owned()
    };
    let policy = spec["dnsPolicy"].as_str().unwrap_or("ClusterFirst");
    let cluster = policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && !on_host);
    let mut resolv = if policy == "None" {
        String::new()
    } else if cluster {
        let search = format!("{namespace}.svc.cluster.local svc.cluster.local cluster.local");
        format!("search {search}\nnameserver {}\noptions ndots:5\n", kubelet.args.cluster_dns)
    } else {
        fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
    };
    let list = |name: &str| {
        let all = spec["dnsConfig"][name].as_array();
        all.into_iter().flatten().map(text).collect::<Vec<_>>()
    };
    resolv.extend(list("nameservers").iter().map(|address| format!("nameserver {address}\n")));
    if !list("searches").is_empty() {
        resolv.push_str(&format!("search {}\n", list("searches").join(" ")));
    }
    let mut hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost\n".to_owned();
    hosts.extend(addresses.iter().map(|address| format!("{address}\t{host_name}\n")));
    for alias in spec["hostAliases"].as_array().into_iter().flatten() {
        let names: Vec<String> = alias["hostnames"].as_array().into_iter().flatten().map(text).collect();
        hosts.push_str(&format!("{}\t{}\n", text(&alias["ip"]), names.join(" ")));
    }
    fs::write(place.join("resolv.conf"), resolv)?;
    fs::write(place.join("hosts"), hosts)?;
    fs::write(place.join("hostname"), format!("{host_name}\n"))?;
    Ok(fs::write(place.join("pod"), format!("{namespace}\n{name}\n"))?)
}

/// Program and arguments: `command` and `args`, or the program that the image is named after.
fn command_line(container: &Value) -> Result<Vec<String>> {
    let list =
        |name: &str| -> Vec<String> { container[name].as_array().into_iter().flatten().map(text).collect() };
    let mut line = list("command");
    if line.is_empty() {
        let image = text(&container["image"]);
        let name = image.rsplit('/').next().unwrap_or_default();
        let name = name.split(['@', ':']).next().unwrap_or_default();
        if name.is_empty() {
            bail!("a container without command and image");
        }
        line.push(name.to_owned());
    }
    line.extend(list("args"));
    Ok(line)
}

/// Arguments of setpriv for the container's security context.
fn rights(pod: &Value, container: &Value) -> String {
    let (outer, inner) = (&pod["spec"]["securityContext"], &container["securityContext"]);
    let either = |name: &str| inner[name].as_u64().or(outer[name].as_u64());
    let mut args = Vec::new();
    if inner["privileged"] != true {
        let named = |name: &str| -> Vec<String> {
            let all = inner["capabilities"][name].as_array();
            all.into_iter()
                .flatten()
                .map(|c| text(c).to_lowercase().trim_start_matches("cap_").to_owned())
                .collect()
        };
        let (add, drop) = (named("add"), named("drop"));
        let mut has: Vec<String> = CAPABILITIES.map(str::to_owned).to_vec();
        has.retain(|name| !drop.iter().any(|d| d == name || d == "all"));
        has.extend(add.iter().filter(|name| *name != "all").cloned());
        let plus: String = has.iter().map(|name| format!(",+{name}")).collect();
        let set =
            if add.iter().any(|name| name == "all") { "+all".to_owned() } else { format!("-all{plus}") };
        args.push(format!("--bounding-set={set} --inh-caps=-all --ambient-caps=-all"));
    }
    if let Some(user) = either("runAsUser")
        .or((inner["runAsNonRoot"] == true || outer["runAsNonRoot"] == true).then_some(65534))
    {
        let group = either("runAsGroup").unwrap_or(if user == 65534 { 65534 } else { 0 });
        args.push(format!("--reuid={user} --regid={group} --clear-groups"));
    }
    if inner["allowPrivilegeEscalation"] == false {
        args.push("--no-new-privs".to_owned());
    }
    args.join(" ")
}

impl Run {
    pub(crate) async fn start(
        kubelet: &Kubelet,
        pod: &Value,
        container: &Value,
        sandbox: Option<&Sandbox>,
        addresses: &[String],
        restarts: u32,
    ) -> Result<Run> {
        let uid = text(&pod["metadata"]["uid"]);
        let name = text(&container["name"]);
        let variables = variables(kubelet, pod, container, addresses).await?;
        let folder = folder(&uid, &name);
        if folder.exists() {
            fs::remove_dir_all(&folder).context("cannot remove the files of the run before")?;
        }
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("mounts"), volumes::mounts(pod, container)?)?;
        let log = logs::path(&uid, &name, restarts);
        fs::create_dir_all(log.parent().context("a folder")?)?;
        let file = File::create(&log)?;
        let mut args: Vec<String> = ["--pdeathsig", "KILL"].map(str::to_owned).to_vec();
        if let Some(sandbox) = sandbox {
            args.extend(["nsenter".to_owned(), format!("--net={}", sandbox.path()), "--".to_owned()]);
        }
        args.extend(
            ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL"]
                .map(str::to_owned),
        );
        args.extend(["bash", "-c", SETUP, "container"].map(str::to_owned));
        args.push(folder.display().to_string());
        args.push(kubelet.args.programs.display().to_string());
        args.push(container["workingDir"].as_str().unwrap_or("/").to_owned());
        args.push(rights(pod, container));
        args.extend(variables.iter().map(|(key, value)| format!("{key}={value}")));
        args.extend(command_line(container)?.iter().map(|word| expand(word, &variables)));
        let child = Command::new("setpriv")
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start setpriv")?;
        let run = Run { child, started_at: clock::rfc3339(), started: clock::now(), folder, log };
        if let Some(pid) = run.child.id() {
            fs::write(run.folder.join("pid"), format!("{pid}\n"))?;
        }
        Ok(run)
    }

    /// The container's process 1, as this machine sees it.
    pub(crate) fn pid(&self) -> Option<i32> {
        let outer = self.child.id()?;
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// How it ended, when it has.
    pub(crate) fn ended(&mut self) -> Option<Exit> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.child.try_wait().ok()??;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let _ = fs::write(self.log.with_extension("ended"), "");
        Some(Exit { code, started_at: self.started_at.clone(), finished_at: clock::rfc3339() })
    }
}
