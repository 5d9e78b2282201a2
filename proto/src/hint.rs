//! Soft hints: where a node may be reached right now. They live outside the versioned map, have a
//! sequence of their own, are sent whole when a peer's interest starts and only to peers with recent
//! interest (DESIGN §4.6).

use crate::{Endpoint, NodeId, RelayId};

/// What the coordinator last heard of where a node is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Hint {
    /// Whom it is about.
    pub node: NodeId,
    /// Grows by every hint about that node; an older one is ignored.
    pub seq: u64,
    /// At most [`crate::limits::MAX_ENDPOINTS`].
    pub endpoints: Vec<Endpoint>,
    /// Where that node listens for relayed packets.
    pub home_relay: Option<RelayId>,
    /// Whether it holds a control session now.
    pub online: bool,
}
