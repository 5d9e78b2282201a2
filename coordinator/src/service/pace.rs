//! How often one node may change the model by itself: each such change costs a commit, a line in the logs
//! and a new map for its peers. A burst is free, since a person tries things; what lasts is slow.

use meshd_proto::{NodeId, UnixSeconds};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Changes that a node may make at once.
pub(super) const BURST: u64 = 60;
/// Seconds after which it may make one more.
pub(super) const INTERVAL: u64 = 10;

/// What each node has used up. Bounded by the number of members: strangers are not in it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the node's allowance is whole again, had it made no further change.
    whole_at: Mutex<HashMap<NodeId, u64>>,
}

impl Pace {
    /// Counts one change of `node`, or says in how many seconds it may be made.
    pub(super) fn take(&self, node: NodeId, now: UnixSeconds) -> Result<(), u64> {
        let mut whole_at = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = whole_at.get(&node).copied().unwrap_or(0).max(now.0) + INTERVAL;
        match next.saturating_sub(now.0 + BURST * INTERVAL) {
            0 => {
                whole_at.insert(node, next);
                Ok(())
            }
            wait => Err(wait),
        }
    }

    pub(super) fn forget(&self, node: NodeId) {
        self.whole_at.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_what_lasts_is_slow() {
        let (pace, node) = (Pace::default(), NodeId(1));
        let at = |seconds: u64| UnixSeconds(1_800_000_000 + seconds);
        for _ in 0..BURST {
            pace.take(node, at(0)).unwrap();
        }
        assert_eq!(pace.take(node, at(0)), Err(INTERVAL));
        pace.take(NodeId(2), at(0)).unwrap();
        let day = (1..86_400).filter(|s| pace.take(node, at(*s)).is_ok()).count() as u64;
        assert!(day <= 86_400 / INTERVAL, "{day}");
        assert!(pace.take(node, UnixSeconds(0)).is_err(), "a clock that jumps back gives nothing");
    }
}
