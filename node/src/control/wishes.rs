//! What the owner tells the client: never waits, however long the coordinator is away.
//!
//! Wishes are state: the newest counts, each session is told it whole and then what changed. So is the wish
//! for a new session: many of them, said while one is being made, are one. Only calls and the farewell queue.

use super::Command;
use meshd_proto::control::{Call, Offer, PathReport};
use meshd_proto::limits::{MAX_ENDPOINTS, MAX_INTEREST, MAX_PATHS};
use meshd_proto::{Endpoint, NodeId, RelayId};
use tokio::sync::{mpsc, watch};

/// The owner's end. The client ends when it is dropped.
#[derive(Clone, Debug)]
pub struct Commands {
    wishes: watch::Sender<Wishes>,
    asked: mpsc::Sender<Asked>,
}

/// What the owner wants the coordinator to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes {
    pub(super) offer: Wish<Offer>,
    pub(super) endpoints: Wish<(Vec<Endpoint>, Option<RelayId>)>,
    pub(super) interest: Wish<Vec<NodeId>>,
    pub(super) paths: Wish<Vec<PathReport>>,
    /// How often a new session was wished for.
    pub(super) reconnects: u64,
}

/// The newest of its kind, and how many there were.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish<T> {
    pub(super) value: T,
    pub(super) said: u64,
}

impl<T> Wish<T> {
    fn say(&mut self, value: T) {
        *self = Self { value, said: self.said + 1 };
    }
}

/// What is asked once.
#[derive(Debug)]
pub(super) enum Asked {
    Call { id: u64, call: Call },
    Leave,
}

impl Commands {
    pub(super) const fn new(wishes: watch::Sender<Wishes>, asked: mpsc::Sender<Asked>) -> Self {
        Self { wishes, asked }
    }

    /// Tells the client. `false`: it has ended for good, or too many calls wait for it.
    pub fn tell(&self, command: Command) -> bool {
        match command {
            Command::Advertise(offer) => self.wish(|wishes| wishes.offer.say(offer)),
            Command::Endpoints { mut endpoints, home_relay } => {
                endpoints.truncate(MAX_ENDPOINTS);
                self.wish(|wishes| wishes.endpoints.say((endpoints, home_relay)))
            }
            Command::Interest(mut nodes) => {
                nodes.truncate(MAX_INTEREST);
                self.wish(|wishes| wishes.interest.say(nodes))
            }
            Command::Paths(mut paths) => {
                paths.truncate(MAX_PATHS);
                self.wish(|wishes| wishes.paths.say(paths))
            }
            Command::Reconnect => self.wish(|wishes| wishes.reconnects += 1),
            Command::Call { id, call } => self.asked.try_send(Asked::Call { id, call }).is_ok(),
            Command::Leave => self.asked.try_send(Asked::Leave).is_ok(),
        }
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) -> bool {
        self.wishes.send_modify(change);
        !self.wishes.is_closed()
    }
}
