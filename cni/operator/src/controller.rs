//! The loop: watch, plan, publish, write statuses.
//!
//! One task owns everything. Any change of a watched object, and every half minute without one, leads to a
//! whole new [`Plan`] from the objects as they are. First the coordinator publishes, fenced by its revision;
//! only what it took is then written to statuses. So an address that a Service shows is reachable, a killed
//! operator leaves nothing that the next run does not find, and of two leaders one is refused.

use crate::clock;
use crate::coordinator::{Coordinator, CoordinatorError};
use crate::crd::AddressPool;
use crate::lease::{Election, RENEW};
use crate::plan::{Input, MANAGER, Plan, Verdict, pool_status, service_status};
use crate::pool::Key;
use anyhow::{Context, Result};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{Store, store};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Changes that come together are one run.
const SETTLE: Duration = Duration::from_millis(100);
/// Without any change: the members of the mesh may have changed.
const IDLE: Duration = Duration::from_secs(20);
/// After a failure; grows to [`IDLE`].
const RETRY: Duration = Duration::from_millis(500);

/// What the operator was started with.
pub(crate) struct Settings {
    /// Where the Lease is.
    pub(crate) namespace: String,
    /// This operator among others.
    pub(crate) identity: String,
    /// Whether Services without a class are ours.
    pub(crate) default_class: bool,
}

struct Watched {
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    nodes: Store<Node>,
    pools: Store<AddressPool>,
}

/// Runs until it is told to stop or cannot go on.
pub(crate) async fn run(
    client: Client,
    coordinator: Coordinator,
    settings: Settings,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let changed = Arc::new(Notify::new());
    let mut watches = JoinSet::new();
    let watched = Watched {
        services: watch(&client, &changed, &mut watches),
        slices: watch(&client, &changed, &mut watches),
        nodes: watch(&client, &changed, &mut watches),
        pools: watch(&client, &changed, &mut watches),
    };
    let mut election = Election::new(client.clone(), &settings.namespace, settings.identity.clone());
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(settings.identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let mut work = Work { client, coordinator, settings, watched, recorder, said: BTreeMap::new() };
    tokio::pin!(stop);
    let done = tokio::select! {
        () = &mut stop => Ok(()),
        ended = watches.join_next() => Err(anyhow::anyhow!("a watch has ended: {ended:?}")),
        done = work.run(&changed, &mut election) => done,
    };
    election.release().await;
    watches.shutdown().await;
    done
}

/// Keeps a copy of all objects of a kind, and says when one changes. A watch that fails is begun anew.
fn watch<K>(client: &Client, changed: &Arc<Notify>, tasks: &mut JoinSet<()>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = store::<K>();
    let changed = changed.clone();
    let stream = watcher(Api::<K>::all(client.clone()), watcher::Config::default());
    let stream = reflector(writer, stream.default_backoff());
    tasks.spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(_) => changed.notify_one(),
                Err(error) => {
                    let kind = K::kind(&());
                    tracing::warn!(%kind, error = %brief(&error), "the API server does not let us watch; trying again");
                }
            }
        }
    });
    reader
}

struct Work {
    client: Client,
    coordinator: Coordinator,
    settings: Settings,
    watched: Watched,
    recorder: Recorder,
    /// Events of kinds that leave no condition: each is said once.
    said: BTreeMap<Key, String>,
}

impl Work {
    async fn run(&mut self, changed: &Notify, election: &mut Election) -> Result<()> {
        let mut renew = tokio::time::interval(RENEW);
        let mut wait = IDLE;
        let mut timer = Box::pin(tokio::time::sleep(wait));
        let mut led = false;
        loop {
            let due = tokio::select! {
                _ = renew.tick() => {
                    if let Err(error) = election.step().await {
                        tracing::warn!(error = %brief(&error), "the Lease cannot be read or written");
                    }
                    // A new leader looks at everything at once.
                    !led && election.leads()
                }
                () = changed.notified() => {
                    tokio::time::sleep(SETTLE).await;
                    true
                }
                () = &mut timer => true,
            };
            led = election.leads();
            if !due {
                continue;
            }
            if !(led && self.ready()) {
                timer = Box::pin(tokio::time::sleep(RETRY));
                continue;
            }
            wait = match self.reconcile().await {
                Ok(()) => IDLE,
                Err(error) => {
                    tracing::warn!(error = %format!("{error:#}"), "not done; trying again");
                    if wait == IDLE { RETRY } else { (wait * 2).min(IDLE) }
                }
            };
            timer = Box::pin(tokio::time::sleep(wait));
        }
    }

    /// Whether every kind was listed once: a plan from half of the objects would take addresses away.
    fn ready(&self) -> bool {
        fn listed<T>(wait: impl Future<Output = T>) -> bool {
            futures_util::FutureExt::now_or_never(wait).is_some()
        }
        let watched = &self.watched;
        listed(watched.services.wait_until_ready())
            && listed(watched.slices.wait_until_ready())
            && listed(watched.nodes.wait_until_ready())
            && listed(watched.pools.wait_until_ready())
    }

    async fn reconcile(&mut self) -> Result<()> {
        let state = match self.coordinator.state().await {
            Ok(state) => state,
            Err(error) => return Err(error).context("the mesh keeps what it has"),
        };
        let input = Input {
            services: self.watched.services.state(),
            slices: self.watched.slices.state(),
            nodes: self.watched.nodes.state(),
            pools: self.watched.pools.state(),
            default_class: self.settings.default_class,
            state,
        };
        let mut plan = Plan::new(&input);
        if differs(&plan, &input) {
            let published = match self.coordinator.publish(&plan.set, input.state.revision).await {
                Ok(published) => published,
                Err(error @ CoordinatorError::Stale) => return Err(error.into()),
                Err(error) => return Err(error).context("nothing was published"),
            };
            tracing::info!(
                services = plan.set.services.len(),
                refused = published.refused.len(),
                "published"
            );
            plan.refuse(&published.refused);
        }
        self.write(&input, &plan).await
    }

    async fn write(&mut self, input: &Input, plan: &Plan) -> Result<()> {
        let now = clock::seconds_text();
        let mut failed = None;
        for service in &input.services {
            let (Some(namespace), name) = (service.namespace(), service.name_any()) else { continue };
            let key = Key { namespace, name };
            let Some(verdict) = plan.services.get(&key) else { continue };
            if let Verdict::Unserved(why) = verdict {
                self.say_once(service, &key, why).await;
                continue;
            }
            let Some(document) = service_status(service, &key, verdict, &now) else { continue };
            let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
            match api.patch_status(&key.name, &manager(), &Patch::Apply(&document)).await {
                Ok(_) => self.tell(service, verdict).await,
                // Deleted meanwhile.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => failed = Some(format!("status of {key}: {}", brief(&error))),
            }
        }
        for pool in &input.pools {
            let Some(document) = pool_status(pool, &plan.pools, &plan.allocation, &now) else { continue };
            let api: Api<AddressPool> = Api::all(self.client.clone());
            match api.patch_status(&pool.name_any(), &manager(), &Patch::Apply(&document)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => failed = Some(format!("status of pool {}: {}", pool.name_any(), brief(&error))),
            }
        }
        self.said.retain(|key, _| plan.services.contains_key(key));
        match failed {
            Some(what) => Err(anyhow::anyhow!(what)),
            None => Ok(()),
        }
    }

    /// An event for people, when something about a Service changed.
    async fn tell(&self, service: &Service, verdict: &Verdict) {
        let (holds, reason, note) = match verdict.condition() {
            Some(condition) => (condition.holds, condition.reason, condition.message),
            None => (true, "Released", "the address is free again".to_owned()),
        };
        self.event(service, holds, reason, note).await;
    }

    async fn say_once(&mut self, service: &Service, key: &Key, why: &str) {
        if self.said.get(key).is_none_or(|said| said != why) {
            self.said.insert(key.clone(), why.to_owned());
            self.event(service, false, "ClassNotServed", why.to_owned()).await;
        }
    }

    async fn event(&self, service: &Service, good: bool, reason: &str, note: String) {
        let event = Event {
            type_: if good { EventType::Normal } else { EventType::Warning },
            reason: reason.to_owned(),
            note: Some(note.chars().take(1000).collect()),
            action: "Announce".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &service.object_ref(&())).await {
            tracing::debug!(error = %brief(&error), "an event was not written");
        }
    }
}

/// Whether the coordinator has to hear of a plan.
fn differs(plan: &Plan, input: &Input) -> bool {
    let sorted = |services: &[meshd_proto::cluster::ServiceClaim]| {
        let mut all = services.to_vec();
        all.sort_by_key(|s| s.key());
        all
    };
    sorted(&plan.set.services) != sorted(&input.state.services)
}

fn manager() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}

/// An error of the API server in one line.
fn brief(error: &dyn std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().chars().take(300).collect()
}
