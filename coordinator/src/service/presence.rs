//! Who holds a control session now: soft state, never stored.

use super::{Actor, Permission, Service, ServiceError};
use meshd_proto::control::PathReport;
use meshd_proto::{NodeId, UnixSeconds, Version};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is known of a node's control session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whether it holds a session.
    pub online: bool,
    /// Since when it is online, or offline.
    pub since: UnixSeconds,
    /// The newest version it said it applied.
    pub applied: Version,
    /// Where the session comes from.
    pub remote: Option<SocketAddr>,
}

/// Which ways data of one node goes, as it said itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// When it said so; `None`: it has not, in the session that stands.
    pub told: Option<UnixSeconds>,
    /// At most [`meshd_proto::limits::MAX_PATHS`].
    pub paths: Vec<PathReport>,
}

/// Seconds in which a refused clone of one node is noted once.
const CLONE_NOTE_INTERVAL: u64 = 3600;

#[derive(Debug, Default)]
pub(super) struct Board {
    sessions: Mutex<HashMap<NodeId, (u32, Presence)>>,
    clones: Mutex<HashMap<NodeId, UnixSeconds>>,
    paths: Mutex<HashMap<NodeId, Paths>>,
}

impl Board {
    fn entries(&self) -> MutexGuard<'_, HashMap<NodeId, (u32, Presence)>> {
        // Every update is a single assignment: a panic elsewhere leaves nothing half done.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paths(&self) -> MutexGuard<'_, HashMap<NodeId, Paths>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a refused clone of `node` should be noted: not again and again while it tries.
    pub(super) fn note_clone(&self, node: NodeId, now: UnixSeconds) -> bool {
        let mut clones = self.clones.lock().unwrap_or_else(PoisonError::into_inner);
        match clones.get(&node) {
            Some(last) if now.0.saturating_sub(last.0) < CLONE_NOTE_INTERVAL => false,
            _ => {
                clones.insert(node, now);
                true
            }
        }
    }

    pub(super) fn forget(&self, node: NodeId) {
        self.entries().remove(&node);
        self.paths().remove(&node);
    }
}

impl Service {
    /// A session of `node` stands. Sessions may overlap for a moment when a node reconnects.
    pub fn session_opened(&self, node: NodeId, remote: Option<SocketAddr>, now: UnixSeconds) {
        let mut entries = self.presence.entries();
        let fresh = Presence { online: true, since: now, applied: Version(0), remote };
        let (sessions, presence) = entries.entry(node).or_insert((0, fresh));
        if *sessions == 0 {
            *presence = Presence { applied: presence.applied, ..fresh };
        }
        presence.remote = remote;
        *sessions += 1;
    }

    /// A session of `node` ended.
    pub fn session_closed(&self, node: NodeId, now: UnixSeconds) {
        if let Some((sessions, presence)) = self.presence.entries().get_mut(&node) {
            *sessions = sessions.saturating_sub(1);
            if *sessions == 0 {
                (presence.online, presence.since) = (false, now);
                self.presence.paths().remove(&node);
            }
        }
    }

    /// `node` says which ways its data goes. Believed for show only.
    pub fn note_paths(&self, node: NodeId, paths: Vec<PathReport>, now: UnixSeconds) {
        self.presence.paths().insert(node, Paths { told: Some(now), paths });
    }

    /// Which ways data of a node goes, as it said last.
    ///
    /// # Errors
    /// When the actor may not, or there is no such node.
    pub fn paths_of(&self, actor: &Actor, name: &str) -> Result<Paths, ServiceError> {
        let node = self.node_for(actor, Permission::Read, name)?.id;
        Ok(self.presence.paths().get(&node).cloned().unwrap_or_default())
    }

    /// `node` says that it has applied the map up to `version`.
    pub fn note_applied(&self, node: NodeId, version: Version) {
        if let Some((_, presence)) = self.presence.entries().get_mut(&node) {
            presence.applied = version;
        }
    }

    /// What is known of a node's session; `None`: none since this process started.
    pub fn presence(&self, node: NodeId) -> Option<Presence> {
        self.presence.entries().get(&node).map(|(_, presence)| *presence)
    }

    /// How many nodes hold a session.
    pub fn online_count(&self) -> usize {
        self.presence.entries().values().filter(|(sessions, _)| *sessions > 0).count()
    }
}
