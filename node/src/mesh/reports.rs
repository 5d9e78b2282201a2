//! Which ways data to peers goes, as the coordinator is told for people to see.
//!
//! Looked at soon after a change and now and then; told when a way changed, or when a round-trip time is quite another one. Peers
//! without a session or a way are left out. It decides nothing about paths.

use meshd_engine::status::{PathStatus, PeerStatus, Status};
use meshd_proto::control::{PathReport, PathVia};
use meshd_proto::limits::MAX_PATHS;
use std::time::{Duration, Instant};

/// Changes come in bunches: so long after the first of them it is looked.
const SETTLE: Duration = Duration::from_secs(2);

/// A time that differs by more than a half and by this much is told anew.
const NOTABLE_US: u32 = 5_000;

/// What the coordinator was told last.
#[derive(Debug, Default)]
pub(super) struct Reports {
    told: Vec<PathReport>,
    due: Option<Instant>,
}

impl Reports {
    /// Something may have changed.
    pub(super) fn look_soon(&mut self, now: Instant) {
        self.due.get_or_insert(now + SETTLE);
    }

    /// When to look; `None`: nothing has changed.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether to look now, once.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|at| *at <= now).is_some()
    }

    /// What it should be told now; `None`: it knows enough.
    pub(super) fn news(&self, status: &Status) -> Option<Vec<PathReport>> {
        let now: Vec<PathReport> = status.peers.iter().filter_map(report).take(MAX_PATHS).collect();
        let same = now.len() == self.told.len() && now.iter().zip(&self.told).all(|(a, b)| alike(a, b));
        (!same).then_some(now)
    }

    /// What [`Reports::news`] gave is on its way.
    pub(super) fn told(&mut self, paths: Vec<PathReport>) {
        self.told = paths;
    }
}

fn report(peer: &PeerStatus) -> Option<PathReport> {
    let via = match peer.path {
        PathStatus::Direct { endpoint, .. } => PathVia::Direct(endpoint),
        PathStatus::Relay(relay) => PathVia::Relay(relay),
        PathStatus::None => return None,
    };
    let rtt_us = peer.rtt.map(|rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX));
    peer.session.then_some(PathReport { peer: peer.id, via, rtt_us })
}

fn alike(a: &PathReport, b: &PathReport) -> bool {
    let times = match (a.rtt_us, b.rtt_us) {
        (Some(a), Some(b)) => a.abs_diff(b) <= NOTABLE_US.max(b / 2),
        (a, b) => a.is_some() == b.is_some(),
    };
    times && (a.peer, a.via) == (b.peer, b.via)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_proto::{NodeId, RelayId};

    #[test]
    fn a_small_change_of_time_is_no_news_and_another_way_is() {
        let path = |via, rtt_us| PathReport { peer: NodeId(1), via, rtt_us };
        let (relay, direct) = (
            PathVia::Relay(RelayId(1)),
            PathVia::Direct(meshd_proto::Endpoint("192.0.2.1:1".parse().unwrap())),
        );
        assert!(alike(&path(relay, Some(40_000)), &path(relay, Some(31_000))));
        assert!(!alike(&path(relay, Some(40_000)), &path(relay, Some(12_000))));
        assert!(!alike(&path(relay, Some(40_000)), &path(direct, Some(40_000))));
        assert!(!alike(&path(relay, None), &path(relay, Some(1))));
    }
}
