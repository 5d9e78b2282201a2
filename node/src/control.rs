//! The control client: this node's one conversation with its coordinator.
//!
//! [`ControlClient`] is a task that its owner runs: it dials, proves, resumes, applies map updates and
//! starts again with a growing delay. It takes [`Command`]s and reports [`ControlEvent`]s. It never
//! touches a disk, the kernel's routes or the engine.
//!
//! Invariants:
//! - nothing is sent to, or believed of, a coordinator whose keys are not those of [`Trust`]; then the
//!   transport below may be plain HTTP through anybody;
//! - a map that is reported was applied whole and its digest equals the coordinator's; on any doubt a
//!   snapshot is asked for and the last good map stays (fail static);
//! - a final refusal and a revocation end the task; everything else is tried again.

mod backoff;
mod dial;
mod session;
mod wishes;

pub use crate::dial::DialError;

use crate::dial::{Dialer, Proxy};
use crate::outside_names::OutsideNames;
use backoff::Backoff;
use meshd_proto::control::{Answer, Call, MapPosition, Offer, PathReport, Refusal};
use meshd_proto::permit::SignedPermit;
use meshd_proto::token::{CoordinatorKeys, KeysHash, TokenSecret};
use meshd_proto::{
    CoordinatorKey, Endpoint, Hint, Hostname, MachineSecret, NetworkId, NetworkMap, NodeId, NodeSecret,
    RelayId, UnixSeconds, VerifyingKey,
};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
pub use wishes::Commands;
use wishes::{Asked, Wishes};

/// Calls that wait while the client is busy.
const CALL_QUEUE: usize = 64;
/// Events that wait for the owner; the client pauses when they are full.
const EVENT_QUEUE: usize = 64;

/// Which coordinator is the right one.
#[derive(Clone, Debug)]
pub enum Trust {
    /// From a join token: the keys that have this hash.
    Hash(KeysHash),
    /// From an earlier session or the map: these keys, or the announced next ones.
    Pinned {
        /// The keys in use.
        keys: CoordinatorKeys,
        /// The control key that follows.
        next_control: Option<CoordinatorKey>,
        /// The signing key that follows.
        next_signing: Option<VerifyingKey>,
    },
}

impl Trust {
    /// Trust as a stored map has it.
    pub fn from_map(map: &NetworkMap) -> Option<Self> {
        let info = map.coordinator.as_ref()?;
        Some(Self::Pinned {
            keys: CoordinatorKeys { control: info.key, signing: info.signing_key },
            next_control: info.next_key,
            next_signing: info.next_signing_key,
        })
    }

    fn accepts(&self, shown: &CoordinatorKeys) -> bool {
        match self {
            Self::Hash(hash) => hash.matches(shown),
            Self::Pinned { keys, next_control, next_signing } => {
                (shown.control == keys.control || Some(shown.control) == *next_control)
                    && (shown.signing == keys.signing || Some(shown.signing) == *next_signing)
            }
        }
    }
}

/// All that the client needs to begin.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// `host:port`, tried in order. The map's own list follows once there is one.
    pub addresses: Vec<String>,
    /// Which mesh.
    pub network: NetworkId,
    /// Which coordinator is the right one.
    pub trust: Trust,
    /// This machine's key.
    pub machine: MachineSecret,
    /// This node's WireGuard key; only a proof of it is sent.
    pub node: NodeSecret,
    /// For a machine that is not a member yet. Sent until the first welcome, then forgotten.
    pub token: Option<TokenSecret>,
    /// What the machine is and offers.
    pub profile: Profile,
    /// The stored map.
    pub map: Option<Arc<NetworkMap>>,
    /// Mark of the sockets, so that they never enter the tunnel; `None`: unmarked.
    pub fwmark: Option<u32>,
    /// How the coordinator's names are resolved.
    pub names: OutsideNames,
    /// A proxy that may be needed to get out.
    pub proxy: Option<Proxy>,
}

/// What the machine tells of itself.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What the machine calls itself.
    pub hostname: Hostname,
    /// A hash of its machine id.
    pub machine_id: [u8; 32],
    /// Version of the software.
    pub client_version: String,
    /// Operating system.
    pub os: String,
    /// Whether the node disappears with its session.
    pub ephemeral: bool,
    /// What it offers at the start.
    pub offer: Offer,
}

/// What the owner tells the client.
#[derive(Clone, Debug)]
pub enum Command {
    /// From now on the node offers this.
    Advertise(Offer),
    /// From now on the node is reached here.
    Endpoints {
        /// At most [`meshd_proto::limits::MAX_ENDPOINTS`] are sent.
        endpoints: Vec<Endpoint>,
        /// Where it listens for relayed packets.
        home_relay: Option<RelayId>,
    },
    /// The peers that the node talks to or wants to; the client renews the interest until told otherwise.
    Interest(Vec<NodeId>),
    /// Which ways data to peers goes; at most [`meshd_proto::limits::MAX_PATHS`] are sent.
    Paths(Vec<PathReport>),
    /// A question; the answer is [`ControlEvent::Reply`] with the same id.
    Call {
        /// Chosen by the owner.
        id: u64,
        /// The question.
        call: Call,
    },
    /// The network has changed: drop the session that may be dead and dial at once.
    Reconnect,
    /// Leave the mesh for good; the client ends with [`ControlEvent::Left`], within
    /// `session::LEAVE_LIMIT` when there is a session.
    Leave,
}

/// What the client reports.
#[derive(Clone, Debug)]
pub enum ControlEvent {
    /// A session stands.
    Connected {
        /// Who this node is.
        node: NodeId,
        /// The coordinator's keys: store them.
        keys: CoordinatorKeys,
        /// The coordinator's clock.
        time: UnixSeconds,
        /// Through which address.
        address: String,
    },
    /// Another map is in force.
    Map(Arc<NetworkMap>),
    /// Where peers may be reached.
    Hints(Vec<Hint>),
    /// A new relay permit; its signature is good.
    Permit(SignedPermit),
    /// The answer to a call.
    Reply {
        /// As in the command.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// The coordinator is alive; its clock.
    Alive(UnixSeconds),
    /// The coordinator knows this machine, but an admin has to let it in: store the keys, the token has done
    /// its work. [`ControlEvent::Refused`] follows.
    Pending {
        /// The coordinator's keys.
        keys: CoordinatorKeys,
    },
    /// The coordinator does not let this node in. Final, unless the code is temporary.
    Refused(Refusal),
    /// The node is out of the mesh. Final.
    Revoked {
        /// Why.
        reason: String,
    },
    /// The node has left. Final.
    Left {
        /// Whether the coordinator has confirmed it; else it keeps an absent member.
        confirmed: bool,
    },
    /// No session; trying again.
    Disconnected {
        /// For a person.
        why: String,
        /// When.
        retry_in: std::time::Duration,
    },
}

/// How the client ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The coordinator refused for good.
    Refused(Refusal),
    /// The node was revoked or removed.
    Revoked,
    /// The node left by its own wish.
    Left,
    /// The owner dropped its ends of the queues.
    OwnerGone,
}

/// The client. Create it with [`ControlClient::new`] and let a `JoinSet` run [`ControlClient::run`].
#[derive(Debug)]
pub struct ControlClient {
    config: ControlConfig,
    wishes: watch::Receiver<Wishes>,
    /// The wishes for a new session that the present one, or the try for it, answers.
    reconnects: u64,
    map: Arc<NetworkMap>,
    dialer: Dialer,
    asked: mpsc::Receiver<Asked>,
    events: mpsc::Sender<ControlEvent>,
    /// The farewell is on its way.
    leaving: bool,
}

/// Why a session ended.
#[derive(Debug)]
enum SessionEnd {
    Final(Ended),
    /// A refusal that may change by itself.
    Later,
    Lost(String),
    /// The owner wants a new one at once.
    Again,
}

impl ControlClient {
    /// The client with its queues.
    pub fn new(config: ControlConfig) -> (Self, Commands, mpsc::Receiver<ControlEvent>) {
        let (wishes_tx, wishes) = watch::channel(Wishes::default());
        let (asked_tx, asked) = mpsc::channel(CALL_QUEUE);
        let (events, event_rx) = mpsc::channel(EVENT_QUEUE);
        let map = config
            .map
            .clone()
            .filter(|m| m.network == config.network)
            .unwrap_or_else(|| Arc::new(NetworkMap::empty(config.network)));
        let dialer = Dialer::new(config.fwmark, config.proxy.clone(), config.names.clone());
        let client = Self { config, wishes, reconnects: 0, map, dialer, asked, events, leaving: false };
        (client, Commands::new(wishes_tx, asked_tx), event_rx)
    }

    /// Runs until a final refusal, a revocation, a leave, or until the owner is gone.
    pub async fn run(mut self) -> Ended {
        let mut backoff = Backoff::default();
        loop {
            let (why, pause) = match self.one_session(&mut backoff).await {
                SessionEnd::Final(ended) => return ended,
                SessionEnd::Again => continue,
                SessionEnd::Later => (None, backoff.refused()),
                SessionEnd::Lost(why) => (Some(why), backoff.next()),
            };
            if let Some(why) = why {
                tracing::debug!(%why, ?pause, "control session lost");
                if self.events.send(ControlEvent::Disconnected { why, retry_in: pause }).await.is_err() {
                    return Ended::OwnerGone;
                }
            }
            if let Some(ended) = self.pause(pause).await {
                return ended;
            }
        }
    }

    /// Waits before the next try; some commands end the wait.
    async fn pause(&mut self, pause: std::time::Duration) -> Option<Ended> {
        let wake = tokio::time::sleep(pause);
        tokio::pin!(wake);
        while self.wishes.borrow_and_update().reconnects == self.reconnects {
            tokio::select! {
                () = &mut wake => return None,
                Ok(()) = self.wishes.changed() => {}
                asked = self.asked.recv() => if let Some(end) = asked_in_vain(asked, &self.events).await {
                    return Some(end);
                },
            }
        }
        None
    }

    async fn left(&self, confirmed: bool) -> Ended {
        left(&self.events, confirmed).await
    }

    /// What to offer as a place to resume from.
    fn resume(&self) -> Option<MapPosition> {
        (!self.map.is_empty()).then(|| self.map.position())
    }

    /// The token's or configuration's addresses and those of the map, without repeats. The map's come
    /// first: the coordinator may have moved since.
    fn addresses(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.map.coordinator.iter().flat_map(|c| c.addresses.iter()).cloned().collect();
        for address in &self.config.addresses {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }
}

async fn left(events: &mpsc::Sender<ControlEvent>, confirmed: bool) -> Ended {
    let _ = events.send(ControlEvent::Left { confirmed }).await;
    Ended::Left
}

/// What is asked while nobody is there to tell. A node that leaves goes: the coordinator keeps an offline member.
async fn asked_in_vain(asked: Option<Asked>, events: &mpsc::Sender<ControlEvent>) -> Option<Ended> {
    match asked {
        None => Some(Ended::OwnerGone),
        Some(Asked::Leave) => Some(left(events, false).await),
        Some(Asked::Call { id, .. }) => {
            let answer = Answer::Failed {
                message: "there is no connection to the coordinator".to_owned(),
                hint: "try again when `meshd status` shows it connected".to_owned(),
            };
            let _ = events.send(ControlEvent::Reply { id, answer }).await;
            None
        }
    }
}

#[cfg(test)]
mod tests;
