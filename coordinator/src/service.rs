//! The one layer with every rule and every permission. API, CLI, pages and the control channel call it;
//! nobody else writes to the store.
//!
//! A change runs under the writer's lock: read the model, plan `Write`s (pure), commit them (durable),
//! apply them to the model, publish. Readers never wait: they take the newest published model.
//!
//! Invariants:
//! - nothing is published that is not on the disk, and nothing committed stays unpublished: a commit
//!   whose caller went away is found by the housekeeping and published;
//! - a function that takes an [`Actor`] checks its permission before anything else;
//! - a token is consumed in the commit that adds the node.

mod accounts;
mod actor;
mod allocate;
mod audit;
mod bound;
mod browsers;
mod clusters;
mod declared;
mod devices;
mod enroll;
mod error;
mod explain_name;
mod explore;
mod found;
mod maintain;
mod nodes;
mod offer;
mod pace;
mod passcode;
mod policy;
mod presence;
mod publish;
mod records;
mod register;
mod relays;
mod resolving;
mod routes;
mod sessions;
mod settings;
mod throttle;
mod tokens;

pub use crate::model::roles::{Permission, Role, Scopes, UnknownRole, UnknownScope};
pub use accounts::{Invited, LinkView, MIN_PASSWORD, NewAccount, SetUp};
pub use actor::Actor;
pub use bound::BoundView;
pub use browsers::BROWSER_LIFETIME;
pub use declared::{BoundText, Declared, RecordText};
pub use devices::Device;
pub use enroll::{Asking, JoinRequest, Outcome};
pub use error::{RegisterError, ServiceError};
pub use explain_name::{NameExplained, NameSeen};
pub use explore::NodeQuery;
pub use found::{FoundError, Founding};
pub use maintain::EPHEMERAL_GRACE;
pub use policy::{PolicyChange, PolicyPlan, PolicyView};
pub use presence::{Paths, Presence};
pub use publish::{ExitSummary, Exposure};
pub use records::RecordInput;
pub(crate) use records::show_value;
pub use register::{RegisterRequest, Registration};
pub use relays::RelayInput;
pub use resolving::{Resolving, ResolvingChange, SplitText};
pub use routes::RouteView;
pub use sessions::{Attempt, LoginError, NewSession, Session};
pub use settings::EMBEDDED_RELAY;
pub use tokens::{ApiTokenRequest, NewApiToken, NewToken, TokenRequest};

use crate::model::{Model, Published, Step};
use crate::store::audit::AuditDraft;
use crate::store::{Batch, Keys, Loaded, Store, StoreError};
use meshd_proto::token::CoordinatorKeys;
use meshd_proto::{NodeId, UnixSeconds, Version};
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard, Notify, watch};

/// The coordinator's rules over its store. Shared by every task.
#[derive(Debug)]
pub struct Service {
    writer: Mutex<Writer>,
    published: watch::Sender<Arc<Published>>,
    keys: Keys,
    presence: presence::Board,
    pace: pace::Pace,
    interrupted: Notify,
    throttle: throttle::Throttle,
    desk: enroll::Desk,
    hashing: tokio::sync::Semaphore,
    started: UnixSeconds,
}

#[derive(Debug)]
struct Writer {
    store: Store,
    next_node: NodeId,
    /// A commit was begun whose end nobody saw: the database knows better than the model.
    stale: bool,
}

impl Service {
    /// Takes over a store that holds a mesh.
    pub fn new(store: Store, loaded: Loaded, now: UnixSeconds) -> Self {
        let Loaded { model, keys, next_node } = loaded;
        let (published, _) = watch::channel(Arc::new(Published::starting(Arc::new(model))));
        Self {
            writer: Mutex::new(Writer { store, next_node, stale: false }),
            published,
            keys,
            presence: presence::Board::default(),
            pace: pace::Pace::default(),
            interrupted: Notify::new(),
            throttle: throttle::Throttle::default(),
            desk: enroll::Desk::default(),
            hashing: tokio::sync::Semaphore::new(2),
            started: now,
        }
    }

    /// The newest model.
    pub fn model(&self) -> Arc<Model> {
        self.published.borrow().model.clone()
    }

    /// The newest model with its history, and every one that follows.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    /// The coordinator's secrets, for the control channel, permits and the embedded relay.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The coordinator's public keys, as tokens pin them.
    pub fn public_keys(&self) -> CoordinatorKeys {
        CoordinatorKeys { control: self.keys.control.public(), signing: self.keys.signing.verifying_key() }
    }

    /// When this process took over the store.
    pub fn started(&self) -> UnixSeconds {
        self.started
    }

    /// Refuses an actor without that permission.
    ///
    /// # Errors
    /// [`ServiceError::Forbidden`].
    pub fn require(actor: &Actor, permission: Permission) -> Result<(), ServiceError> {
        if actor.may(permission) {
            return Ok(());
        }
        Err(ServiceError::Forbidden { actor: actor.to_string(), permission })
    }

    /// Waits for the writer. The model it sees is the one the next commit builds on.
    async fn lock(&self) -> Result<Turn<'_>, StoreError> {
        let mut writer = self.writer.lock().await;
        if writer.stale {
            let loaded = writer.store.load().await?;
            let loaded =
                loaded.ok_or_else(|| StoreError::Corrupt { what: "mesh", why: "it is gone".to_owned() })?;
            writer.next_node = loaded.next_node;
            writer.stale = false;
            if loaded.model.version != self.model().version {
                tracing::info!(version = %loaded.model.version, "published a commit whose caller had gone");
                self.published.send_replace(Arc::new(Published::starting(Arc::new(loaded.model))));
            }
        }
        let model = self.model();
        Ok(Turn { service: self, writer, model })
    }
}

/// One turn at the store, with the model as it is now.
struct Turn<'a> {
    service: &'a Service,
    writer: MutexGuard<'a, Writer>,
    model: Arc<Model>,
}

impl Turn<'_> {
    fn next_node(&self) -> NodeId {
        self.writer.next_node
    }

    /// Makes `batch` durable, then visible. Returns the model it led to.
    async fn commit(mut self, batch: Batch) -> Result<Arc<Model>, StoreError> {
        let grows = !batch.writes.is_empty();
        let version = Version(self.model.version.0 + u64::from(grows));
        self.writer.stale = true;
        let done = self.writer.store.commit(version, &batch).await;
        if matches!(done, Err(StoreError::TokenSpent)) {
            // Rolled back as a whole: what is in memory stands. Reading everything anew would also take a time
            // that tells a right password from a wrong one.
            self.writer.stale = false;
        }
        done?;
        let published = self.service.published.borrow().clone();
        let model = if grows {
            let model = Arc::new(self.model.apply(version, &batch.writes));
            let changes = batch.writes.iter().filter_map(|w| w.change()).collect();
            let step = Step { version, model: model.clone(), changes };
            if let Some(highest) = model.nodes.keys().next_back() {
                self.writer.next_node = self.writer.next_node.max(NodeId(highest.0 + 1));
            }
            self.service.published.send_replace(Arc::new(published.next(step)));
            model
        } else {
            self.model.clone()
        };
        self.writer.stale = false;
        metrics::counter!("meshd_coordinator_commits_total").increment(1);
        Ok(model)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.writer.stale {
            self.service.interrupted.notify_one();
        }
    }
}

fn draft(actor: &Actor, action: &'static str, subject: impl ToString, detail: impl ToString) -> AuditDraft {
    AuditDraft { actor: actor.to_string(), action, subject: subject.to_string(), detail: detail.to_string() }
}

#[cfg(test)]
mod tests;
