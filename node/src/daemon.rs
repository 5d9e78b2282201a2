//! The daemon: answers the local API, keeps the node in the state its user wants, and stops cleanly.
//!
//! One task owns everything (`Daemon`); a node that is up is a `Running` value inside it.
//! What the user wants ([`crate::state::Intent`]) is on disk before it is acknowledged, so that a reboot
//! brings the same state back without a command.

mod answers;
mod apart;
mod apply;
mod keep_map;
mod lan_names;
mod names;
mod nearness;
mod paths;
mod publish;
mod relay_names;
mod running;
mod scan;
mod status;
mod targets;
mod waiting;

use crate::clock;
use crate::config::DaemonConfig;
use crate::local_api::{LocalApi, Question};
use crate::logs::LogRing;
use crate::os::{self, Host};
use crate::state::{Identity, Intent, Membership, StateDir, StateError};
use crate::suspend::Suspends;
use crate::userspace::Dialer;
use meshd_proto::control::Refusal;
use meshd_proto::localapi::{Failure, Response, Tell};
use meshd_proto::token::{JoinToken, TokenSecret};
use meshd_proto::{MachineSecret, NodeSecret};
use names::HostNames;
use publish::Publishers;
use running::{Running, RunningEvent};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use waiting::Waiting;

pub use names::supervise_dns;
pub(crate) use publish::Seam;
pub use publish::Sections;

/// Questions that wait for the daemon.
const QUESTION_QUEUE: usize = 16;
/// How often the daemon looks after what nothing announces: lease, clock, host state.
const HOUSEKEEPING: Duration = Duration::from_secs(15);
/// How often it is looked which of several addresses of a name are near.
const RANKING: Duration = Duration::from_secs(3);

/// Why the daemon ended or could not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Files.
    #[error(transparent)]
    State(#[from] StateError),
    /// The host.
    #[error(transparent)]
    Os(#[from] os::OsError),
    /// The local API.
    #[error("cannot listen on {path}: {why}")]
    Socket {
        /// Where.
        path: String,
        /// Why.
        why: String,
    },
    /// Signals.
    #[error("cannot watch for signals: {0}")]
    Signal(std::io::Error),
    /// The host's DNS.
    #[error(transparent)]
    Dns(#[from] crate::host_dns::HostDnsError),
    /// Keys.
    #[error("cannot make keys: {0}")]
    Entropy(std::io::Error),
}

/// Why a node is not up although it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Hindrance {
    #[default]
    None,
    /// The coordinator said no.
    Refused(Refusal),
    /// The coordinator put it out.
    Revoked(String),
    /// It could not be started.
    Broken(Failure),
}

/// The daemon and all that it owns.
struct Daemon {
    config: DaemonConfig,
    state: StateDir,
    identity: Identity,
    membership: Option<Membership>,
    /// A join that the coordinator has not heard of yet.
    joining: Option<JoinToken>,
    intent: Intent,
    host: Host,
    names: HostNames,
    running: Option<Running>,
    hindrance: Hindrance,
    /// Who waits for the node to be up.
    waiting: Waiting,
    /// Who waits for the node to be out of the mesh, and until when at the most.
    leaving: Option<(Waiting, tokio::time::Instant)>,
    /// Why the membership in force is not on disk.
    unstored: Option<String>,
    /// The daemon ends: not even an exit's absence keeps anything on the host.
    stopping: bool,
    ring: LogRing,
    /// Answers that take longer than a moment.
    answers: JoinSet<()>,
    /// In userspace mode: the way into the mesh, while the node is up.
    access: watch::Sender<Option<Dialer>>,
    /// What local clients publish.
    publishers: Publishers,
    /// The program around a node in userspace mode, if there is one.
    seam: Seam,
}

/// What a node needs to begin.
struct Join {
    membership: Membership,
    trust: crate::control::Trust,
    token: Option<TokenSecret>,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When it cannot start: no root, another daemon, damaged files.
pub async fn run(config: DaemonConfig, ring: LogRing) -> Result<(), DaemonError> {
    crate::steps::watch(config.stop_file.clone());
    let api = LocalApi::listen(&config.socket).await.map_err(|e| DaemonError::Socket {
        path: config.socket.display().to_string(),
        why: match e.kind() {
            std::io::ErrorKind::AddrInUse => "another meshd daemon is running".to_owned(),
            _ => e.to_string(),
        },
    })?;
    let (questions_tx, questions) = mpsc::channel(QUESTION_QUEUE);
    let mut serving = JoinSet::new();
    serving.spawn(api.serve(questions_tx));
    let stop = CancellationToken::new();
    serving.spawn(cancel_by_signal(stop.clone())?);
    run_inside(config, ring, questions, (watch::channel(None).0, Seam::none()), stop).await
}

/// The daemon without a local API of its own: for [`crate::userspace::Node`], which asks by `questions`
/// and finds its way into the mesh in `access`.
pub(crate) async fn run_inside(
    config: DaemonConfig,
    ring: LogRing,
    questions: mpsc::Receiver<Question>,
    (access, seam): (watch::Sender<Option<Dialer>>, Seam),
    stop: CancellationToken,
) -> Result<(), DaemonError> {
    let state = StateDir::open(&config.state_dir)?;
    let host = Host::open(state.path()).await?;
    let identity = state.identity(new_identity)?;
    let membership = state.membership()?;
    let joining = state.joining();
    let intent = state.intent()?;
    let names = match config.userspace {
        None => HostNames::start(state.path()).await?,
        Some(_) => HostNames::apart(),
    };
    let mut daemon = Daemon {
        config,
        state,
        identity,
        membership,
        joining,
        intent,
        host,
        names,
        running: None,
        hindrance: Hindrance::None,
        waiting: Waiting::default(),
        leaving: None,
        unstored: None,
        stopping: false,
        ring,
        answers: JoinSet::new(),
        access,
        publishers: Publishers::default(),
        seam,
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "meshd is ready");
    let result = daemon.serve(questions, stop).await;
    daemon.stopping = true;
    daemon.left(false).await;
    daemon.waiting.fail(&Failure::new("the daemon was stopped", "start it again: `meshd up`"));
    daemon.take_down().await;
    daemon.names.stop().await;
    tracing::info!("meshd has stopped; the host is as it was");
    result
}

impl Daemon {
    async fn serve(
        &mut self,
        mut questions: mpsc::Receiver<Question>,
        stop: CancellationToken,
    ) -> Result<(), DaemonError> {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ranking = tokio::time::interval(RANKING);
        ranking.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut suspends = Suspends::watch();
        if self.intent.up {
            self.bring_up(None).await;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                question = questions.recv() => match question {
                    Some(question) => self.answer(question).await,
                    None => return Ok(()),
                },
                event = next_event(&mut self.running) => self.event(event).await,
                () = self.names.changed() => self.node_is_up().await,
                slept = suspends.resumed() => self.resumed(slept).await,
                () = over(self.leaving.as_ref().map(|(_, until)| *until)) => self.left(false).await,
                _ = housekeeping.tick() => self.housekeeping().await,
                _ = ranking.tick() => self.rank_addresses().await,
                Some(_) = self.answers.join_next() => self.reap_publishers(),
                () = self.seam.changed() => self.advertise(),
            }
            if self.running.as_ref().is_some_and(Running::must_be_made_again) {
                self.make_again().await;
            }
        }
    }

    /// Somebody removed our interface, and with it went addresses and routes: all is made anew, since
    /// nothing of a removed device can be used again.
    async fn make_again(&mut self) {
        tracing::warn!(
            interface = %self.config.interface,
            "somebody removed the mesh interface: it is made again, with all that belongs to it"
        );
        self.take_down().await;
        if self.membership.is_some() || self.joining.is_some() {
            self.bring_up(None).await;
        } else {
            let interface = &self.config.interface;
            let why = format!("somebody removed the interface {interface} while this node was joining");
            self.waiting.fail(&Failure::new(why, "try again; the token may be used up"));
        }
    }

    /// Starts the node if it is not running. Problems end up in `hindrance` and with who waits.
    async fn bring_up(&mut self, join: Option<Join>) {
        if self.running.is_some() && join.is_none() {
            return;
        }
        self.take_down().await;
        let broken = std::mem::take(&mut self.hindrance);
        let join = join.or_else(|| self.joining.as_ref().map(Join::from_token)).or_else(|| {
            let membership = self.membership.clone()?;
            let trust = membership.trust(self.state.map().map(|(map, _)| map).as_ref());
            Some(Join { membership, trust, token: None })
        });
        let Some(join) = join else { return };
        let names = (self.names.names(), self.names.outside());
        match Running::start(&self.config, &self.state, &self.identity, &mut self.intent, join, names) {
            Ok(running) => {
                self.access.send_replace(running.service.as_ref().map(|s| s.dialer().clone()));
                self.running = Some(running);
                self.advertise_published();
                self.apply_map().await;
            }
            Err(failure) => {
                if broken != Hindrance::Broken(failure.clone()) {
                    tracing::error!(message = %failure.message, "the node cannot start");
                }
                self.waiting.fail(&failure);
                self.hindrance = Hindrance::Broken(failure);
            }
        }
    }

    /// Stops the node and leaves the host as it was, but for [`Daemon::leave_host`].
    async fn take_down(&mut self) {
        self.store_map();
        let Some(mut running) = self.running.take() else {
            self.leave_host().await;
            return;
        };
        self.access.send_replace(None);
        self.no_sections();
        self.names.take_down().await;
        self.leave_host().await;
        let gone = Failure::new("this node is no longer up", "bring it up: `meshd up`");
        running.calls.fail_all(&gone);
        running.stop().await;
    }

    /// Puts the host back as it was. Where the user chose an exit, the door stays shut until he says
    /// `down` or chooses none: a node that the mesh put out must not let everything out beside the exit.
    async fn leave_host(&mut self) {
        let result = if self.keeps_door_shut() {
            let block = os::Desired::exit_block(self.config.interface.clone());
            self.host.apply(&block).await.map(drop)
        } else {
            self.host.down().await
        };
        if let Err(error) = result {
            tracing::error!(%error, "the host could not be restored whole; `meshd cleanup` tries again");
        }
    }

    /// Whether internet traffic may only leave through an exit, or not at all.
    const fn keeps_door_shut(&self) -> bool {
        let settings = &self.intent.settings;
        self.intent.up
            && settings.exit_node.is_some()
            && !settings.exit_fallback
            && !self.stopping
            && self.config.userspace.is_none()
    }

    async fn event(&mut self, event: RunningEvent) {
        match event {
            RunningEvent::Control(event) => self.control_event(event).await,
            RunningEvent::Mesh(event) => self.mesh_event(event).await,
            RunningEvent::StoreMap => self.store_map(),
            RunningEvent::HostChanged(changed) => self.host_changed(changed).await,
            RunningEvent::Scanned(found) => self.scanned(found).await,
            RunningEvent::Resolved { relay, addrs } => {
                if let Some(running) = &self.running {
                    running.relay_resolved(relay, addrs).await;
                }
            }
        }
    }

    fn progress(&mut self, text: &str) {
        self.waiting.tell(&Response::more(Tell::Progress(text.to_owned())));
    }
}

impl Membership {
    /// Which coordinator is the right one: by the map if it is of this mesh, else as stored.
    fn trust(&self, map: Option<&meshd_proto::NetworkMap>) -> crate::control::Trust {
        let of_this_mesh = map.filter(|m| m.network == self.network);
        of_this_mesh.and_then(crate::control::Trust::from_map).unwrap_or(crate::control::Trust::Pinned {
            keys: meshd_proto::token::CoordinatorKeys {
                control: self.coordinator_key,
                signing: self.signing_key,
            },
            next_control: None,
            next_signing: None,
        })
    }
}

impl Join {
    /// From a join token. The keys are known only by their hash until the first session.
    fn from_token(token: &JoinToken) -> Self {
        Self {
            membership: Membership {
                network: token.network,
                coordinator_key: meshd_proto::CoordinatorKey::from_bytes([0; 32]),
                signing_key: meshd_proto::VerifyingKey::from_bytes([0; 32]),
                addresses: token.addresses().to_vec(),
            },
            trust: crate::control::Trust::Hash(token.keys_hash),
            token: Some(token.secret.clone()),
        }
    }
}

/// SIGTERM and SIGINT end the daemon. Watched from the moment of the call on.
fn cancel_by_signal(stop: CancellationToken) -> Result<impl Future<Output = ()>, DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signal)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    })
}

async fn next_event(running: &mut Option<Running>) -> RunningEvent {
    match running {
        Some(running) => running.next_event().await,
        None => std::future::pending().await,
    }
}

/// Returns at this moment; without one, never.
async fn over(until: Option<tokio::time::Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn new_identity() -> std::io::Result<Identity> {
    Ok(Identity {
        machine: MachineSecret::from_bytes(clock::entropy()?),
        node: NodeSecret::from_bytes(clock::entropy()?),
    })
}
