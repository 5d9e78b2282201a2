//! Where nodes are: soft state in memory, outside the versioned model.
//!
//! A hint has a sequence of its own that outlives the coordinator (it begins at the clock), is sent whole
//! when interest starts, and again when it changes. Interest is mutual: who wants to reach a node is also
//! who that node must answer.

use meshd_proto::{Endpoint, Hint, NodeId, RelayId, UnixSeconds, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Interest that is not renewed is forgotten.
const INTEREST_LIFETIME: Duration = Duration::from_secs(300);

/// What is known of where nodes are, and who asked.
#[derive(Debug, Default)]
pub(super) struct HintBoard {
    hints: BTreeMap<NodeId, Hint>,
    /// Who wants to know of whom, until when.
    wants: BTreeMap<NodeId, BTreeMap<NodeId, Instant>>,
    /// The same, the other way round.
    wanted_by: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl HintBoard {
    /// The hint about a node, when anything is known.
    pub(super) fn hint(&self, node: NodeId) -> Option<&Hint> {
        self.hints.get(&node)
    }

    /// A node says where it is. Returns who has to hear of it.
    pub(super) fn place(
        &mut self,
        node: NodeId,
        mut endpoints: Vec<Endpoint>,
        home_relay: Option<RelayId>,
        wall: UnixSeconds,
        now: Instant,
    ) -> Vec<NodeId> {
        endpoints.retain(Endpoint::is_sendable);
        endpoints.truncate(limits::MAX_ENDPOINTS);
        self.change(node, wall, now, |hint| {
            let same = hint.endpoints == endpoints && hint.home_relay == home_relay;
            (hint.endpoints, hint.home_relay) = (endpoints, home_relay);
            !same
        })
    }

    /// A node came or went. Returns who has to hear of it.
    pub(super) fn set_online(
        &mut self,
        node: NodeId,
        online: bool,
        wall: UnixSeconds,
        now: Instant,
    ) -> Vec<NodeId> {
        self.change(node, wall, now, |hint| std::mem::replace(&mut hint.online, online) != online)
    }

    fn change(
        &mut self,
        node: NodeId,
        wall: UnixSeconds,
        now: Instant,
        change: impl FnOnce(&mut Hint) -> bool,
    ) -> Vec<NodeId> {
        let hint = self.hints.entry(node).or_insert_with(|| Hint { node, ..Hint::default() });
        if !change(hint) {
            return Vec::new();
        }
        hint.seq = (hint.seq + 1).max(wall.0.saturating_mul(1000));
        let asked = self.wanted_by.get(&node).into_iter().flatten().copied();
        let fresh =
            |who: &NodeId| self.wants.get(who).and_then(|w| w.get(&node)).is_some_and(|end| *end > now);
        asked.filter(fresh).collect()
    }

    /// `node` is interested in `other` for a while, and so is `other` in it. Returns whether that is new.
    pub(super) fn want(&mut self, node: NodeId, other: NodeId, now: Instant) -> bool {
        self.want_one(other, node, now);
        self.want_one(node, other, now)
    }

    fn want_one(&mut self, node: NodeId, other: NodeId, now: Instant) -> bool {
        let wants = self.wants.entry(node).or_default();
        if wants.len() >= limits::MAX_INTEREST && !wants.contains_key(&other) {
            let gone: Vec<NodeId> = wants.iter().filter(|(_, end)| **end <= now).map(|(id, _)| *id).collect();
            let oldest = wants.iter().min_by_key(|(_, end)| **end).map(|(id, _)| *id);
            let gone = if gone.is_empty() { oldest.into_iter().collect() } else { gone };
            for id in gone {
                wants.remove(&id);
                if let Some(by) = self.wanted_by.get_mut(&id) {
                    by.remove(&node);
                }
            }
        }
        let before = wants.insert(other, now + INTEREST_LIFETIME);
        self.wanted_by.entry(other).or_default().insert(node);
        before.is_none_or(|end| end <= now)
    }

    /// The session of `node` ended: nobody is there to hear hints.
    pub(super) fn forget_interest(&mut self, node: NodeId) {
        for other in self.wants.remove(&node).into_iter().flatten().map(|(id, _)| id) {
            if let Some(by) = self.wanted_by.get_mut(&other) {
                by.remove(&node);
                if by.is_empty() {
                    self.wanted_by.remove(&other);
                }
            }
        }
    }

    /// `node` is no member any more.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.forget_interest(node);
        self.hints.remove(&node);
        for who in self.wanted_by.remove(&node).into_iter().flatten() {
            if let Some(wants) = self.wants.get_mut(&who) {
                wants.remove(&node);
            }
        }
    }
}
