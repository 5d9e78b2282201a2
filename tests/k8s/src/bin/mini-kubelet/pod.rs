//! Pods from the first sight to the last: one task for each, which owns its processes.
//!
//! Invariants: a pod object is removed from the API only after its processes, its network and its address are gone;
//! a pod whose object vanishes loses them all the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hyper::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::container::{Exit, Run, write_pod_files};
use crate::environment::text;
use crate::health::Probe;
use crate::network::{Sandbox, is_configured};
use crate::{Kubelet, STATE, clock, status, volumes};

/// How often a pod's task looks at its processes.
const TICK: Duration = Duration::from_millis(100);
/// How often Secrets and ConfigMaps are read again.
const REFRESH: Duration = Duration::from_secs(15);
/// Longest pause before a container that ended is started again.
const MOST_BACKOFF: Duration = Duration::from_secs(20);

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ends before the next one starts.
    Init,
    /// An init container that stays (`restartPolicy: Always`).
    Sidecar,
    Main,
}

/// Where the pod as a whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Waiting,
    Running,
    Succeeded,
    Failed,
}

/// A container of the pod, with its runs.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) kind: Kind,
    pub(crate) spec: Value,
    pub(crate) run: Option<Run>,
    /// The last run that ended.
    pub(crate) last: Option<Exit>,
    pub(crate) restarts: u32,
    runs: u32,
    /// Reason and message.
    pub(crate) waiting: Option<(String, String)>,
    not_before: Option<Instant>,
    readiness: Option<Probe>,
    startup: Option<Probe>,
    liveness: Option<Probe>,
}

impl Slot {
    fn new(kind: Kind, spec: &Value) -> Slot {
        Slot {
            kind,
            spec: spec.clone(),
            run: None,
            last: None,
            restarts: 0,
            runs: 0,
            waiting: None,
            not_before: None,
            readiness: None,
            startup: None,
            liveness: None,
        }
    }

    pub(crate) fn is_completed(&self) -> bool {
        self.run.is_none() && self.last.as_ref().is_some_and(|exit| exit.code == 0)
    }

    pub(crate) fn has_started(&self) -> bool {
        self.run.is_some() && self.startup.as_ref().is_none_or(|probe| probe.verdict == Some(true))
    }

    pub(crate) fn is_ready(&self) -> bool {
        match self.kind {
            Kind::Init => self.is_completed(),
            Kind::Sidecar | Kind::Main => {
                self.has_started() && self.readiness.as_ref().is_none_or(|probe| probe.verdict == Some(true))
            }
        }
    }

    /// The container's own rule first: sidecars always start again.
    fn restarts_after(&self, policy: &str) -> bool {
        let code = self.last.as_ref().map_or(0, |exit| exit.code);
        match (self.kind, policy) {
            (Kind::Sidecar, _) => true,
            (Kind::Init, "Always") | (_, "OnFailure") => code != 0,
            (Kind::Main, "Always") => true,
            _ => false,
        }
    }
}

/// What the API server last said of a pod; nothing when it is gone.
type Sight = watch::Sender<Option<Value>>;

/// Runs for ever: every pod that is bound to this node gets a task.
pub(crate) async fn run_all(kubelet: Arc<Kubelet>) -> Result<()> {
    std::fs::create_dir_all(STATE).with_context(|| format!("cannot make {STATE}"))?;
    let mut tasks: JoinSet<()> = JoinSet::new();
    let mut pods: HashMap<String, Sight> = HashMap::new();
    loop {
        if let Err(why) = follow(&kubelet, &mut pods, &mut tasks).await {
            eprintln!("pods: {why:#}");
        }
        sleep(Duration::from_millis(300)).await;
    }
}

/// A list, then what changes, until the connection ends.
async fn follow(
    kubelet: &Arc<Kubelet>,
    pods: &mut HashMap<String, Sight>,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", kubelet.args.name);
    let list = kubelet.api.get(&path).await?;
    let items = list["items"].as_array().context("a list of pods")?;
    let there: Vec<String> = items.iter().map(|pod| text(&pod["metadata"]["uid"])).collect();
    for (uid, sight) in pods.iter() {
        if !there.contains(uid) {
            sight.send_replace(None);
        }
    }
    for pod in items {
        see(kubelet, pods, tasks, pod.clone());
    }
    let version = text(&list["metadata"]["resourceVersion"]);
    let mut watch = kubelet
        .api
        .watch(&format!(
            "{path}&watch=true&timeoutSeconds=300&allowWatchBookmarks=false&resourceVersion={version}"
        ))
        .await?;
    while let Some(event) = watch.next().await? {
        let pod = event["object"].clone();
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => see(kubelet, pods, tasks, pod),
            Some("DELETED") => {
                if let Some(sight) = pods.remove(&text(&pod["metadata"]["uid"])) {
                    sight.send_replace(None);
                }
            }
            other => anyhow::bail!("the watch said {other:?}: {}", event["object"]["message"]),
        }
        while tasks.try_join_next().is_some() {}
    }
    Ok(())
}

fn see(kubelet: &Arc<Kubelet>, pods: &mut HashMap<String, Sight>, tasks: &mut JoinSet<()>, pod: Value) {
    let uid = text(&pod["metadata"]["uid"]);
    if let Some(sight) = pods.get(&uid).filter(|sight| !sight.is_closed()) {
        sight.send_replace(Some(pod));
        return;
    }
    let (sender, receiver) = watch::channel(Some(pod));
    pods.insert(uid, sender);
    let kubelet = Arc::clone(kubelet);
    tasks.spawn(async move {
        let mut pod = Pod::new(kubelet, receiver);
        pod.live().await;
    });
}

struct Pod {
    kubelet: Arc<Kubelet>,
    sight: watch::Receiver<Option<Value>>,
    pod: Value,
    uid: String,
    slots: Vec<Slot>,
    stage: Stage,
    sandbox: Option<Sandbox>,
    addresses: Vec<String>,
    renewals: volumes::Renewals,
    started_at: String,
    reported: Value,
}

impl Pod {
    fn new(kubelet: Arc<Kubelet>, sight: watch::Receiver<Option<Value>>) -> Pod {
        let pod = sight.borrow().clone().unwrap_or_default();
        let list = |name: &str| pod["spec"][name].as_array().cloned().unwrap_or_default();
        let mut slots: Vec<Slot> = list("initContainers")
            .iter()
            .map(|spec| {
                Slot::new(if spec["restartPolicy"] == "Always" { Kind::Sidecar } else { Kind::Init }, spec)
            })
            .collect();
        slots.extend(list("containers").iter().map(|spec| Slot::new(Kind::Main, spec)));
        Pod {
            kubelet,
            sight,
            uid: text(&pod["metadata"]["uid"]),
            pod,
            slots,
            stage: Stage::Waiting,
            sandbox: None,
            addresses: Vec::new(),
            renewals: volumes::Renewals::new(),
            started_at: clock::rfc3339(),
            reported: Value::Null,
        }
    }

    /// From start to end. An error is reported in the status and tried again.
    async fn live(&mut self) {
        let finished = matches!(self.pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if finished {
            // It ended under the kubelet before this one.
            self.stage =
                if self.pod["status"]["phase"] == "Failed" { Stage::Failed } else { Stage::Succeeded };
        }
        let mut next_refresh = clock::now() + REFRESH;
        loop {
            if self.is_going() {
                return self.end().await;
            }
            let worked = match self.stage {
                Stage::Waiting => self.prepare().await,
                Stage::Running => self.advance().await,
                Stage::Succeeded | Stage::Failed => Ok(()),
            };
            if self.stage == Stage::Running && clock::now() >= next_refresh {
                next_refresh = clock::now() + REFRESH;
                let filled = volumes::fill(
                    &self.kubelet,
                    &self.pod,
                    &self.addresses,
                    &mut self.renewals,
                    clock::now(),
                );
                if let Err(why) = filled.await {
                    eprintln!("{}: {why:#}", self.name());
                }
            }
            let mut pause = TICK;
            if let Err(why) = worked {
                eprintln!("{}: {why:#}", self.name());
                for slot in self.slots.iter_mut().filter(|slot| slot.run.is_none() && slot.last.is_none()) {
                    slot.waiting = Some(("ContainerCreating".to_owned(), format!("{why:#}")));
                }
                pause = Duration::from_millis(700);
            }
            if !finished {
                self.report().await;
            }
            // A change of the object ends the pause.
            if self.stage == Stage::Succeeded || self.stage == Stage::Failed {
                pause = Duration::from_secs(3600);
            }
            drop(timeout(pause, self.sight.changed()).await);
            let seen = self.sight.borrow_and_update().clone();
            if let Some(pod) = seen {
                self.pod = pod;
            }
        }
    }

    fn name(&self) -> String {
        format!("{}/{}", text(&self.pod["metadata"]["namespace"]), text(&self.pod["metadata"]["name"]))
    }

    fn is_going(&self) -> bool {
        self.sight.borrow().as_ref().is_none_or(|pod| pod["metadata"]["deletionTimestamp"].is_string())
    }

    /// Network, volumes and files. May be called again after a failure.
    async fn prepare(&mut self) -> Result<()> {
        std::fs::create_dir_all(std::path::Path::new(STATE).join(&self.uid))?;
        if self.pod["spec"]["hostNetwork"] == true {
            self.addresses = self.kubelet.args.address.iter().map(ToString::to_string).collect();
        } else if self.sandbox.is_none() {
            anyhow::ensure!(is_configured(), "the node's pod network is not ready: no CNI configuration");
            let (namespace, name) =
                (text(&self.pod["metadata"]["namespace"]), text(&self.pod["metadata"]["name"]));
            match Sandbox::new(&self.kubelet, &namespace, &name, &self.uid).await {
                Ok(sandbox) => {
                    self.addresses.clone_from(&sandbox.addresses);
                    self.sandbox = Some(sandbox);
                }
                Err(why) => {
                    // What a half-made one left is removed as the runtime does: by DEL.
                    crate::network::remove_left(&self.kubelet, &self.uid).await?;
                    return Err(why);
                }
            }
        }
        write_pod_files(&self.kubelet, &self.pod, &self.addresses)?;
        volumes::fill(&self.kubelet, &self.pod, &self.addresses, &mut self.renewals, clock::now()).await?;
        for slot in &mut self.slots {
            slot.waiting = None;
        }
        self.stage = Stage::Running;
        Ok(())
    }

    /// Notices ends, starts what may start, probes.
    async fn advance(&mut self) -> Result<()> {
        let policy = self.pod["spec"]["restartPolicy"].as_str().unwrap_or("Always").to_owned();
        for slot in &mut self.slots {
            notice_end(slot, &policy);
        }
        if self.has_finished(&policy) {
            let failed = self.slots.iter().any(|slot| {
                slot.kind != Kind::Sidecar && slot.last.as_ref().is_some_and(|exit| exit.code != 0)
            });
            self.stop_all(Duration::from_secs(2)).await;
            self.stage = if failed { Stage::Failed } else { Stage::Succeeded };
            self.release().await?;
            return Ok(());
        }
        self.start_what_may(&policy).await?;
        let address = self.addresses.first().cloned().unwrap_or_default();
        for slot in &mut self.slots {
            probe(slot, &address).await;
        }
        Ok(())
    }

    fn has_finished(&self, policy: &str) -> bool {
        let broken = self.slots.iter().any(|slot| {
            slot.kind == Kind::Init
                && slot.run.is_none()
                && slot.last.as_ref().is_some_and(|exit| exit.code != 0)
                && !slot.restarts_after(policy)
        });
        let mut main = self.slots.iter().filter(|slot| slot.kind == Kind::Main);
        broken || main.all(|slot| slot.run.is_none() && slot.last.is_some() && !slot.restarts_after(policy))
    }

    /// Init containers one after the other; a sidecar lets the next one start when it has started itself.
    async fn start_what_may(&mut self, policy: &str) -> Result<()> {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let over = slot.last.is_some() && !slot.restarts_after(policy);
            let due = slot.not_before.is_none_or(|at| clock::now() >= at);
            if slot.run.is_none() && !over && due {
                let started = Run::start(
                    &self.kubelet,
                    &self.pod,
                    &slot.spec,
                    self.sandbox.as_ref(),
                    &self.addresses,
                    slot.runs,
                )
                .await;
                match started {
                    Ok(run) => {
                        let now = clock::now();
                        slot.restarts = slot.runs;
                        slot.runs += 1;
                        slot.readiness = Probe::new(&slot.spec, "readinessProbe", now);
                        slot.startup = Probe::new(&slot.spec, "startupProbe", now);
                        slot.liveness = Probe::new(&slot.spec, "livenessProbe", now);
                        slot.waiting = None;
                        slot.run = Some(run);
                    }
                    Err(why) => {
                        slot.waiting = Some(("CreateContainerConfigError".to_owned(), format!("{why:#}")));
                        slot.not_before = Some(clock::now() + Duration::from_secs(1));
                    }
                }
            }
            let may_go_on = match slot.kind {
                Kind::Init => slot.is_completed(),
                Kind::Sidecar => slot.has_started(),
                Kind::Main => true,
            };
            if !may_go_on {
                break;
            }
        }
        Ok(())
    }

    async fn report(&mut self) {
        let status =
            status::of(&self.kubelet, &self.pod, &self.slots, self.stage, &self.addresses, &self.started_at);
        if status == self.reported {
            return;
        }
        let body = json!({ "metadata": { "uid": self.uid }, "status": status::stamped(status.clone(), &self.pod["status"]) });
        match self.kubelet.api.patch(&format!("{}/status", self.path()), &body).await {
            Ok(_) => self.reported = status,
            Err(why) => eprintln!("{}: {why:#}", self.name()),
        }
    }

    fn path(&self) -> String {
        let (namespace, name) = (&self.pod["metadata"]["namespace"], &self.pod["metadata"]["name"]);
        format!("/api/v1/namespaces/{}/pods/{}", text(namespace), text(name))
    }

    /// Deletion: the pod's time of grace, then everything goes, the object last.
    async fn end(&mut self) {
        let grace = self
            .sight
            .borrow()
            .as_ref()
            .map_or(0, |pod| pod["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(30));
        self.stop_all(Duration::from_secs(grace)).await;
        while let Err(why) = self.release().await {
            eprintln!("{}: {why:#}", self.name());
            sleep(Duration::from_secs(1)).await;
        }
        let _ = std::fs::remove_dir_all(std::path::Path::new(STATE).join(&self.uid));
        let options = json!({ "gracePeriodSeconds": 0, "preconditions": { "uid": self.uid } });
        while self.sight.borrow().is_some() {
            let done =
                self.kubelet.api.call(Method::DELETE, &self.path(), "application/json", Some(&options)).await;
            match done {
                Ok((200..=299 | 404 | 409, _)) => return,
                Ok((code, said)) => eprintln!("{}: deleting: {code} {}", self.name(), said["message"]),
                Err(why) => eprintln!("{}: deleting: {why:#}", self.name()),
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// SIGTERM, and SIGKILL when the time is over: containers first, then sidecars in reverse order.
    async fn stop_all(&mut self, grace: Duration) {
        let end = clock::now() + grace;
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let of = |kinds: &[Kind], slots: &[Slot]| -> Vec<usize> {
            slots.iter().enumerate().filter(|(_, slot)| kinds.contains(&slot.kind)).map(|(n, _)| n).collect()
        };
        groups.push(of(&[Kind::Main, Kind::Init], &self.slots));
        groups.extend(of(&[Kind::Sidecar], &self.slots).into_iter().rev().map(|n| vec![n]));
        for group in groups {
            for index in &group {
                if let Some(run) = &self.slots[*index].run {
                    run.signal(Signal::TERM);
                }
            }
            let mut killed = false;
            loop {
                for index in &group {
                    let slot = &mut self.slots[*index];
                    if let Some(exit) = slot.run.as_mut().and_then(Run::ended) {
                        slot.last = Some(exit);
                        slot.run = None;
                    }
                }
                if group.iter().all(|index| self.slots[*index].run.is_none()) {
                    break;
                }
                if clock::now() >= end && !killed {
                    killed = true;
                    for index in &group {
                        if let Some(run) = &self.slots[*index].run {
                            run.signal(Signal::KILL);
                        }
                    }
                }
                sleep(Duration::from_millis(30)).await;
            }
        }
    }

    /// The network goes, the address is free.
    async fn release(&mut self) -> Result<()> {
        if let Some(sandbox) = &self.sandbox {
            sandbox.remove(&self.kubelet).await?;
            let _ = std::fs::remove_file(std::path::Path::new(STATE).join(&self.uid).join("sandbox"));
        }
        self.sandbox = None;
        Ok(())
    }
}

fn notice_end(slot: &mut Slot, policy: &str) {
    let Some(run) = &mut slot.run else { return };
    let Some(exit) = run.ended() else { return };
    let lived = clock::now() - run.started;
    slot.run = None;
    slot.last = Some(exit);
    slot.readiness = None;
    if slot.restarts_after(policy) {
        // The first time at once, then ever later, unless it had lived for a while.
        let exponent = if lived > Duration::from_secs(60) { 0 } else { slot.restarts.min(6) };
        let pause = Duration::from_millis(500 << exponent).min(MOST_BACKOFF);
        slot.not_before = Some(clock::now() + if slot.restarts == 0 { Duration::ZERO } else { pause });
        if slot.restarts > 0 {
            slot.waiting =
                Some(("CrashLoopBackOff".to_owned(), "the container ended; it starts again".to_owned()));
        }
    }
}

async fn probe(slot: &mut Slot, address: &str) {
    let Some(pid) = slot.run.as_ref().map(Run::pid) else { return };
    let now = clock::now();
    if let Some(startup) = &mut slot.startup
        && startup.verdict != Some(true)
    {
        startup.tick(address, pid, now).await;
        if startup.verdict == Some(false)
            && let Some(run) = &slot.run
        {
            run.signal(Signal::KILL);
        }
        return;
    }
    if let Some(readiness) = &mut slot.readiness {
        readiness.tick(address, pid, now).await;
    }
    if let Some(liveness) = &mut slot.liveness {
        liveness.tick(address, pid, now).await;
        if liveness.verdict == Some(false)
            && let Some(run) = &slot.run
        {
            run.signal(Signal::TERM);
        }
    }
}
