//! What sessions share, and the task that follows the model.

use super::hints::HintBoard;
use super::{COALESCE, HANDSHAKE_LIMIT, KEPT_VIEWS, MAX_HANDSHAKES, MAX_LARGE_UPDATES, handshake, session};
use crate::clock;
use crate::model::{Change, Published};
use crate::netmap::{Concern, View, ViewChange};
use crate::service::Service;
use meshd_proto::control::MapPosition;
use meshd_proto::{Endpoint, Hint, NodeId, RelayId, Version};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// What all sessions share.
#[derive(Debug)]
pub struct Hub {
    service: Arc<Service>,
    state: Mutex<State>,
    /// Rings whenever the view has moved on.
    moved: Notify,
    handshakes: Semaphore,
    large_updates: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    view: Arc<View>,
    /// Older views, newest last, for nodes that come back.
    kept: VecDeque<Arc<View>>,
    /// Steps from older views to the present one that sessions asked for. Each is computed by the first
    /// who needs it, outside of the lock; others who need the same wait for that one only.
    steps: Vec<(Arc<View>, Step)>,
    sessions: HashMap<NodeId, Entry>,
    next_session: u64,
    hints: HintBoard,
}

/// A step, once somebody has computed it.
type Step = Arc<OnceLock<Arc<ViewChange>>>;

#[derive(Debug)]
struct Entry {
    session: u64,
    mailbox: Arc<Mailbox>,
}

/// What the hub tells one session.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    pub(super) bell: Notify,
}

/// The content of a mailbox: levels, not a queue.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// The view that the node's map is of, when the present one may differ for it.
    base: Option<Arc<View>>,
    /// Peers whose hints are new.
    hints: BTreeSet<NodeId>,
    /// The session has to end.
    cut: Option<Cut>,
}

/// Why a session has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// A newer session of the same node.
    Replaced,
    /// An admin revoked the node.
    Revoked,
    /// The node is no member any more.
    Removed,
    /// An admin took the admission back.
    NotAdmitted,
}

impl Mailbox {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cut(&self) -> Option<Cut> {
        self.mail().cut
    }

    pub(super) fn is_behind(&self) -> bool {
        self.mail().base.is_some()
    }

    fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail());
        self.bell.notify_one();
    }
}

/// A session's place in the hub. Dropping it closes the session.
pub(super) struct Seat {
    hub: Arc<Hub>,
    pub(super) node: NodeId,
    session: u64,
    pub(super) mailbox: Arc<Mailbox>,
}

/// How a node's map that it already has relates to the present view.
pub(super) enum Standing {
    /// It is the same: nothing to send.
    Current,
    /// It is that of a view that is still known.
    Behind,
    /// Unknown: only a snapshot helps.
    Unknown,
}

impl Hub {
    /// The hub of a service. Run [`Hub::run`] beside the sessions.
    pub fn new(service: Arc<Service>) -> Arc<Self> {
        let state = State {
            view: Arc::new(View::new(service.model())),
            kept: VecDeque::new(),
            steps: Vec::new(),
            sessions: HashMap::new(),
            next_session: 0,
            hints: HintBoard::default(),
        };
        Arc::new(Self {
            service,
            state: Mutex::new(state),
            moved: Notify::new(),
            handshakes: Semaphore::new(MAX_HANDSHAKES),
            large_updates: Arc::new(Semaphore::new(MAX_LARGE_UPDATES)),
        })
    }

    /// Follows the service's models until the service is gone: the first change at once, those that
    /// come shortly after it together.
    pub async fn run(self: Arc<Self>) {
        let mut models = self.service.subscribe();
        models.mark_changed();
        while models.changed().await.is_ok() {
            let published = models.borrow_and_update().clone();
            let before = self.view();
            if published.model.version == before.model().version {
                continue;
            }
            // A policy change in a large mesh takes a while; sessions go on meanwhile.
            let step = tokio::task::spawn_blocking(move || {
                let (view, concern) = follow(&before, &published);
                (before, Arc::new(view), concern)
            });
            match step.await {
                Ok((before, view, concern)) => self.publish(before, view, &concern),
                Err(error) => {
                    tracing::error!(%error, "the map compiler failed; nodes keep the maps they have")
                }
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    /// Serves one connection that asked for the control protocol, until it ends.
    pub async fn accept<S>(self: Arc<Self>, io: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        self.accept_stranger(io, peer, ()).await;
    }

    /// The same with something that is held while the other side is a stranger, and dropped once it is
    /// known to be a member.
    pub async fn accept_stranger<S, G>(self: Arc<Self>, mut io: S, peer: SocketAddr, stranger: G)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        G: Send,
    {
        let greeted = {
            let Ok(Ok(_slot)) = tokio::time::timeout(HANDSHAKE_LIMIT, self.handshakes.acquire()).await else {
                tracing::debug!(%peer, "too many handshakes at once, hung up");
                return;
            };
            let network = self.view().model().network;
            let shake = handshake::shake(&mut io, &self, network);
            match tokio::time::timeout(HANDSHAKE_LIMIT, Box::pin(shake)).await {
                Ok(Ok(greeted)) => greeted,
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "no session");
                    return;
                }
                Err(_) => {
                    tracing::debug!(%peer, "the handshake took too long");
                    return;
                }
            }
        };
        Box::pin(session::serve(self, io, peer, greeted, stranger)).await;
    }

    /// How many sessions stand.
    pub fn session_count(&self) -> usize {
        self.state().sessions.len()
    }

    pub(super) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic halfway through a change that others rely on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.state().view.clone()
    }

    /// Waits until the view is at least at `version`.
    pub(super) async fn reach(&self, version: Version) {
        loop {
            let moved = self.moved.notified();
            if self.view().model().version >= version {
                return;
            }
            moved.await;
        }
    }

    /// Makes `view` the present one and wakes whom it concerns.
    fn publish(&self, before: Arc<View>, view: Arc<View>, concern: &Concern) {
        let mut state = self.state();
        let state = &mut *state;
        state.steps.clear();
        state.kept.push_back(before.clone());
        if state.kept.len() > KEPT_VIEWS {
            state.kept.pop_front();
        }
        state.view = view.clone();
        let woken: Vec<NodeId> = match concern {
            Concern::All => state.sessions.keys().copied().collect(),
            Concern::Nodes(nodes) => nodes.iter().copied().collect(),
        };
        for node in woken {
            let cut = state.reason_without_map(node);
            if cut.is_some() {
                state.hints.forget(node);
            }
            if let Some(entry) = state.sessions.get(&node) {
                entry.mailbox.put(|mail| match cut {
                    Some(cut) => mail.cut = Some(cut),
                    None => {
                        mail.base.get_or_insert_with(|| before.clone());
                    }
                });
            }
        }
        self.moved.notify_waiters();
        metrics::gauge!("meshd_coordinator_map_version").set(view.model().version.0 as f64);
    }

    /// A session of `node` begins; an older one ends. Also says how the map it has stands.
    pub(super) fn open(
        self: &Arc<Self>,
        node: NodeId,
        peer: SocketAddr,
        resume: Option<&MapPosition>,
    ) -> (Seat, Standing) {
        // Digests over large views are not computed under the lock either.
        let (view, kept) = {
            let state = self.state();
            (state.view.clone(), state.kept.clone())
        };
        let found = standing(node, resume, &view, &kept);
        self.seat(node, peer, found, view)
    }

    /// Seats a session whose standing was found by `view`.
    fn seat(
        self: &Arc<Self>,
        node: NodeId,
        peer: SocketAddr,
        found: (Standing, Option<Arc<View>>),
        view: Arc<View>,
    ) -> (Seat, Standing) {
        let now = clock::now();
        let wall = clock::unix_now();
        let mailbox = Arc::new(Mailbox::default());
        let (session, standing) = {
            let mut state = self.state();
            let (standing, base) = match found {
                // The view moved on meanwhile: the node is where that view was.
                (Standing::Current, _) if !Arc::ptr_eq(&view, &state.view) => (Standing::Behind, Some(view)),
                found => found,
            };
            if base.is_some() {
                mailbox.put(|mail| mail.base = base);
            }
            if let Some(cut) = state.reason_without_map(node) {
                mailbox.put(|mail| mail.cut = Some(cut));
            }
            state.next_session += 1;
            let session = state.next_session;
            let entry = Entry { session, mailbox: mailbox.clone() };
            if let Some(older) = state.sessions.insert(node, entry) {
                older.mailbox.put(|mail| mail.cut = Some(Cut::Replaced));
            }
            let listeners = state.hints.set_online(node, true, wall, now);
            state.spread(node, &listeners);
            (session, standing)
        };
        self.service.session_opened(node, Some(peer), wall);
        (Seat { hub: self.clone(), node, session, mailbox }, standing)
    }

    /// A permit to send a large update; `None`: ask again later.
    pub(super) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        self.large_updates.clone().try_acquire_owned().ok()
    }

    /// A node says where it is.
    pub(super) fn place(&self, node: NodeId, endpoints: Vec<Endpoint>, home_relay: Option<RelayId>) {
        let mut state = self.state();
        let listeners = state.hints.place(node, endpoints, home_relay, clock::unix_now(), clock::now());
        state.spread(node, &listeners);
    }

    /// A node wants to reach `others`. Those it does not see are left out without a word.
    pub(super) fn want(&self, node: NodeId, others: &[NodeId]) {
        let now = clock::now();
        let mut state = self.state();
        for other in others {
            if state.view.are_peers(node, *other) && state.hints.want(node, *other, now) {
                state.spread(*other, &[node]);
                state.spread(node, &[*other]);
            }
        }
    }
}

impl State {
    fn reason_without_map(&self, node: NodeId) -> Option<Cut> {
        if self.view.has_map(node) {
            return None;
        }
        Some(match self.view.model().nodes.get(&node) {
            None => Cut::Removed,
            Some(record) if record.revoked => Cut::Revoked,
            Some(_) => Cut::NotAdmitted,
        })
    }

    /// Tells the listeners' sessions that there is news of `node`.
    fn spread(&self, node: NodeId, listeners: &[NodeId]) {
        if self.hints.hint(node).is_none() {
            return;
        }
        for listener in listeners.iter().filter(|l| self.view.are_peers(**l, node)) {
            if let Some(entry) = self.sessions.get(listener) {
                entry.mailbox.put(|mail| mail.hints.extend([node]));
            }
        }
    }
}

impl Seat {
    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The present view, with the step to it from the one the node has; the node counts as current then.
    pub(super) fn take_step(&self) -> Option<(Arc<View>, Arc<ViewChange>)> {
        self.take_step_with(View::change_since)
    }

    fn take_step_with(
        &self,
        compare: impl FnOnce(&View, Arc<View>) -> ViewChange,
    ) -> Option<(Arc<View>, Arc<ViewChange>)> {
        let (view, base, cell) = {
            let mut state = self.hub.state();
            let base = self.mailbox.mail().base.take()?;
            let view = state.view.clone();
            let known = state.steps.iter().find(|(before, _)| Arc::ptr_eq(before, &base));
            let cell = match known {
                Some((_, cell)) => cell.clone(),
                None => {
                    let cell = Arc::new(OnceLock::new());
                    state.steps.push((base.clone(), cell.clone()));
                    cell
                }
            };
            (view, base, cell)
        };
        // Comparing two views of a large mesh takes a while: nobody else waits for it.
        let step = cell.get_or_init(|| Arc::new(compare(&view, base))).clone();
        Some((view, step))
    }

    /// The present view; the node counts as current then.
    pub(super) fn take_whole(&self) -> Arc<View> {
        let state = self.hub.state();
        self.mailbox.mail().base = None;
        state.view.clone()
    }

    /// The step could not be sent: the node is where it was.
    pub(super) fn put_back(&self, base: Arc<View>) {
        self.mailbox.mail().base = Some(base);
    }

    /// New hints for this node.
    pub(super) fn take_hints(&self) -> Vec<Hint> {
        if self.mailbox.mail().hints.is_empty() {
            return Vec::new();
        }
        let state = self.hub.state();
        let nodes = std::mem::take(&mut self.mailbox.mail().hints);
        let seen = nodes.into_iter().filter(|other| state.view.are_peers(self.node, *other));
        seen.filter_map(|other| state.hints.hint(other).cloned()).collect()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let wall = clock::unix_now();
        {
            let mut state = self.hub.state();
            if state.sessions.get(&self.node).is_some_and(|e| e.session == self.session) {
                state.sessions.remove(&self.node);
                state.hints.forget_interest(self.node);
                if state.view.has_map(self.node) {
                    let listeners = state.hints.set_online(self.node, false, wall, clock::now());
                    state.spread(self.node, &listeners);
                }
            }
        }
        self.hub.service.session_closed(self.node, wall);
    }
}

/// Compares the map that a node has with the views that are known; also the one that it is of, when that
/// is an older one.
fn standing(
    node: NodeId,
    resume: Option<&MapPosition>,
    present: &View,
    kept: &VecDeque<Arc<View>>,
) -> (Standing, Option<Arc<View>>) {
    let model = present.model();
    let Some(resume) = resume.filter(|r| r.network == model.network && r.epoch == model.epoch) else {
        return (Standing::Unknown, None);
    };
    let same = |view: &View| view.digest(node) == Some(resume.digest);
    if resume.version <= model.version && same(present) {
        return (Standing::Current, None);
    }
    match kept.iter().rev().find(|view| same(view)) {
        Some(view) => (Standing::Behind, Some(view.clone())),
        None => (Standing::Unknown, None),
    }
}

/// The next view, by steps where the history reaches.
fn follow(before: &View, published: &Published) -> (View, Concern) {
    match published.changes_after(before.model().version) {
        Some(changes) => {
            let changes: BTreeSet<Change> = changes.cloned().collect();
            let changes: Vec<Change> = changes.into_iter().collect();
            before.next(published.model.clone(), &changes)
        }
        None => (View::new(published.model.clone()), Concern::All),
    }
}

#[cfg(test)]
mod tests;
