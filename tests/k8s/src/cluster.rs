//! A real Kubernetes in a lab: etcd, kube-apiserver, kube-controller-manager and kube-scheduler on one machine,
//! kube-proxy and our mini-kubelet on each node. Two clusters at once need settings of their own
//! ([`ClusterSettings::numbered`]) and machines of their own, nothing else.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use meshd_k8s::{Cluster, ClusterSettings, NodeSettings};
//! let lab = meshd_lab::Lab::new("example")?;
//! let (control, address, _) = lab.server("control")?;
//! let cluster = Cluster::start(&lab, &control, address, ClusterSettings::numbered("home", 0))?;
//! let (worker, address, _) = lab.server("worker")?;
//! let _node = cluster.join(&worker, NodeSettings::at(address))?;
//! cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: apps\n")?;
//! println!("{}", cluster.kubectl(&["get", "nodes"])?);
//! # Ok(())
//! # }
//! ```
//!
//! The programs come from `tests/k8s/control-plane/build` (told by `MESHD_K8S_CONTROL_PLANE`, which `make k8s`
//! sets). Where they are missing, [`Cluster::start`] fails and says so.

mod certificates;
mod node;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use meshd_lab::{Finished, Host, Lab, Process, wait_within};
use serde_json::Value;

use certificates::Authority;
pub use node::{Node, NodeSettings, PodNetwork, ProxyMode};

/// Where the folder with the built control plane is told.
const CONTROL_PLANE: &str = "MESHD_K8S_CONTROL_PLANE";
/// How long a program of the control plane may take until it answers, on a machine that does other things, too.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long [`Cluster::wait`] waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Names and ranges of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Its name, for folders and messages.
    pub name: String,
    /// Ranges of all pods, IPv4 first; each node gets a /24 and a /64 of them.
    pub pods: Vec<String>,
    /// Ranges of Services, IPv4 first.
    pub services: Vec<String>,
}

impl ClusterSettings {
    /// Ranges that no other number below 100 has: pods in 10.(40+2n).0.0/16, Services in 10.(41+2n).0.0/16.
    pub fn numbered(name: &str, n: u8) -> ClusterSettings {
        let (pods, services) = (40 + 2 * n, 41 + 2 * n);
        ClusterSettings {
            name: name.to_owned(),
            pods: vec![format!("10.{pods}.0.0/16"), format!("fd00:{pods}::/56")],
            services: vec![format!("10.{services}.0.0/16"), format!("fd00:{services}::/112")],
        }
    }

    /// The API server's own Service, the first address of the range.
    pub fn api_service(&self) -> String {
        self.service_address(1)
    }

    /// The `n`th address of the Services' first range; by custom, 10 is the cluster's resolver.
    pub fn service_address(&self, n: u8) -> String {
        let network = self.services[0].split('/').next().unwrap_or_default();
        let stem = network.rsplit_once('.').map_or(network, |(stem, _)| stem);
        format!("{stem}.{n}")
    }
}

/// A running control plane. It ends with its lab.
#[derive(Debug)]
pub struct Cluster {
    /// The machine of the control plane.
    pub control: Host,
    /// Where the API server is: port 6443.
    pub address: Ipv4Addr,
    /// What it was started with.
    pub settings: ClusterSettings,
    pub(crate) folder: PathBuf,
    pub(crate) programs: PathBuf,
    authority: Authority,
    api_server: Option<Process>,
    /// They end with their machine; their logs are read after a failure.
    _others: Vec<Process>,
    manifests: AtomicUsize,
}

impl Cluster {
    /// Starts a control plane on `control`, which others reach at `address`; takes about 15 s.
    pub fn start(lab: &Lab, control: &Host, address: Ipv4Addr, settings: ClusterSettings) -> Result<Cluster> {
        let programs: PathBuf = std::env::var(CONTROL_PLANE).map(Into::into).with_context(|| {
            format!("{CONTROL_PLANE} is not set: run `make k8s`, or set it to what tests/k8s/control-plane/build prints")
        })?;
        ensure!(
            programs.join(".complete").exists(),
            "{CONTROL_PLANE}: no control plane there; run tests/k8s/control-plane/build"
        );
        let folder = lab.folder().join(format!("k8s-{}", settings.name));
        fs::create_dir(&folder).with_context(|| format!("{}", folder.display()))?;
        let authority = Authority::new(&folder)?;
        let mut names = vec![address.to_string(), settings.api_service(), "127.0.0.1".to_owned()];
        for name in [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ] {
            names.push(name.to_owned());
        }
        authority.server("apiserver", names)?;
        let mut cluster = Cluster {
            control: control.clone(),
            address,
            settings,
            folder,
            programs,
            authority,
            api_server: None,
            _others: Vec::new(),
            manifests: AtomicUsize::new(0),
        };
        cluster.make_kubeconfig("admin", "kubernetes-admin", &["system:masters"])?;
        cluster.make_kubeconfig("controller-manager", "system:kube-controller-manager", &[])?;
        cluster.make_kubeconfig("scheduler", "system:kube-scheduler", &[])?;
        cluster.make_kubeconfig("kube-proxy", "system:kube-proxy", &[])?;
        let etcd = cluster.etcd()?;
        cluster.start_api_server()?;
        let controllers = cluster.controller_manager()?;
        let scheduler = cluster.scheduler()?;
        cluster._others = vec![etcd, controllers, scheduler];
        // Pods need the ServiceAccount of their namespace.
        cluster.wait_for("the default ServiceAccount", || {
            cluster.try_kubectl(&["get", "serviceaccount", "default"]).is_ok_and(|done| done.is_success())
        })?;
        Ok(cluster)
    }

    /// A file of the cluster, as a path that every machine of the lab sees.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn program(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }

    /// The kubectl that fits to the cluster.
    pub fn kubectl_program(&self) -> String {
        self.program("kubectl")
    }

    fn server(&self) -> String {
        format!("https://{}:6443", self.address)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// A kubeconfig for a user of any name and groups; RBAC decides what it may.
    pub fn make_kubeconfig(&self, file: &str, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let path = self.folder.join(format!("{file}.kubeconfig"));
        self.authority.kubeconfig(&path, &self.server(), user, groups)?;
        Ok(path)
    }

    fn etcd(&self) -> Result<Process> {
        self.control.spawn(
            &self.program("etcd"),
            [
                "--data-dir=/var/lib/etcd",
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
                // Its data need not outlive the machine that the lab runs on.
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
        )
    }

    fn start_api_server(&mut self) -> Result<()> {
        let services = self.settings.services.join(",");
        let mut args: Vec<String> = [
            "--etcd-servers=http://127.0.0.1:2379",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            "--secure-port=6443",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            // Tests ask for short-lived tokens, too.
            "--service-account-extend-token-expiration=false",
            "--kubelet-preferred-address-types=InternalIP",
            "--enable-priority-and-fairness=false",
        ]
        .map(str::to_owned)
        .to_vec();
        args.push(format!("--advertise-address={}", self.address));
        args.push(format!("--service-cluster-ip-range={services}"));
        for (flag, file) in [
            ("client-ca-file", "ca.crt"),
            ("tls-cert-file", "apiserver.crt"),
            ("tls-private-key-file", "apiserver.key"),
            ("service-account-key-file", "sa.pub"),
            ("service-account-signing-key-file", "sa.key"),
        ] {
            args.push(format!("--{flag}={}", self.path(file)));
        }
        let mut process = self.control.spawn(&self.program("kube-apiserver"), args)?;
        let ready = wait_within(START_LIMIT, || {
            if !process.is_running() {
                return Some(false);
            }
            let done = self.try_kubectl(&["get", "--raw=/readyz"]).ok()?;
            done.is_success().then_some(true)
        });
        if ready != Some(true) {
            bail!(
                "the API server has ended, or is not ready after {START_LIMIT:?}:\n{}",
                tail(&process.log())
            );
        }
        self.api_server = Some(process);
        Ok(())
    }

    /// SIGKILL for the API server, and a new one over the same data.
    pub fn restart_api_server(&mut self) -> Result<()> {
        self.stop_api_server()?;
        self.start_api_server()
    }

    /// SIGKILL for the API server; [`Cluster::restart_api_server`] brings it back.
    pub fn stop_api_server(&mut self) -> Result<()> {
        self.api_server.take().map_or(Ok(()), Process::kill)
    }

    fn controller_manager(&self) -> Result<Process> {
        let ranges = |list: &[String]| list.join(",");
        self.control.spawn(
            &self.program("kube-controller-manager"),
            [
                format!("--kubeconfig={}", self.path("controller-manager.kubeconfig")),
                format!("--service-account-private-key-file={}", self.path("sa.key")),
                format!("--root-ca-file={}", self.path("ca.crt")),
                format!("--cluster-signing-cert-file={}", self.path("ca.crt")),
                format!("--cluster-signing-key-file={}", self.path("ca.key")),
                format!("--cluster-name={}", self.settings.name),
                format!("--cluster-cidr={}", ranges(&self.settings.pods)),
                format!("--service-cluster-ip-range={}", ranges(&self.settings.services)),
                "--allocate-node-cidrs=true".to_owned(),
                "--node-cidr-mask-size-ipv4=24".to_owned(),
                "--node-cidr-mask-size-ipv6=64".to_owned(),
                "--use-service-account-credentials=true".to_owned(),
                "--leader-elect=false".to_owned(),
                // A killed node is noticed and its pods are gone before a test has lost its patience.
                "--node-monitor-grace-period=12s".to_owned(),
                "--node-monitor-period=2s".to_owned(),
            ],
        )
    }

    fn scheduler(&self) -> Result<Process> {
        let kubeconfig = format!("--kubeconfig={}", self.path("scheduler.kubeconfig"));
        self.control.spawn(&self.program("kube-scheduler"), [kubeconfig.as_str(), "--leader-elect=false"])
    }

    /// Runs kubectl as the administrator; its output, or an error when it fails.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        Ok(self.try_kubectl(args)?.success()?.stdout)
    }

    /// The same; how it ended.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<Finished> {
        self.kubectl_as(&self.kubeconfig(), args)
    }

    /// The same, with a kubeconfig of [`Cluster::make_kubeconfig`].
    pub fn kubectl_as(&self, kubeconfig: &Path, args: &[&str]) -> Result<Finished> {
        let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
        self.control.run(&self.program("kubectl"), [&[kubeconfig.as_str()], args].concat())
    }

    /// `kubectl get … -o json`.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], args].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// `kubectl apply` of a manifest (YAML or JSON, several documents).
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let path = self.write(manifest)?;
        self.kubectl(&["apply", "-f", &path]).map(drop)
    }

    /// `kubectl delete` of a manifest; waits until the objects are gone.
    pub fn delete(&self, manifest: &str) -> Result<()> {
        let path = self.write(manifest)?;
        self.kubectl(&["delete", "-f", &path, "--timeout=50s"]).map(drop)
    }

    fn write(&self, manifest: &str) -> Result<String> {
        let number = self.manifests.fetch_add(1, Ordering::Relaxed);
        let path = self.path(&format!("manifest-{number}.yaml"));
        fs::write(&path, manifest)?;
        Ok(path)
    }

    /// Waits for `kubectl wait --for=…` with a limit of 50 s.
    pub fn wait(&self, args: &[&str]) -> Result<()> {
        let done = self.try_kubectl(&[&["wait", "--timeout=50s"], args].concat())?;
        if done.is_success() {
            return Ok(());
        }
        let said = done.stderr.clone();
        let objects = self.try_kubectl(&["get", "pods,events,nodes", "-A", "-o", "wide"])?.stdout;
        bail!("kubectl wait {args:?}: {said}\n{objects}")
    }

    /// Waits until `condition` holds.
    pub fn wait_for(&self, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
        let holds = wait_within(PATIENCE, || condition().then_some(()));
        holds.with_context(|| format!("cluster {}: no {what} within {PATIENCE:?}", self.settings.name))
    }
}

impl Cluster {
    /// Runs a shell line in a container of a pod, as `kubectl exec` would; its output.
    ///
    /// # Errors
    /// When the pod does not run on `node`, or the line fails.
    pub fn exec(&self, node: &Node, pod: &str, container: &str, line: &str) -> Result<Finished> {
        let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
        let uid = self.kubectl(&["get", "pod", "-n", namespace, name, "-o", "jsonpath={.metadata.uid}"])?;
        let file = format!("/run/mini-kubelet/pods/{uid}/c-{container}/pid");
        let outer = node.host.sh(&format!("cat {file}"))?;
        let outer = outer.trim();
        let pid = node.host.sh(&format!("cat /proc/{outer}/task/{outer}/children"))?;
        let target =
            pid.split_whitespace().next().with_context(|| format!("{pod}: {container} does not run"))?;
        let doors =
            ["--mount", "--net", "--uts", "--ipc", "--pid", "--root", "--wd", "--", "bash", "-c", line];
        node.host.run("nsenter", [&["--target", target], &doors[..]].concat())
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
