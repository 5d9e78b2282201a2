//! When the map in force goes to disk.
//!
//! A map is encoded whole and synced, which a small machine feels: storing news may take a tenth of the time, so
//! that what comes faster is stored together, and a map of the same content is not stored again. What takes a
//! right away (a peer that left, a key that changed, new trust) is stored at once: it must not come back from
//! the disk. An older map on disk costs a bigger difference after a restart, and the newest peers where the
//! coordinator is away by then; the node says which one it has.

use meshd_proto::NetworkMap;
use meshd_proto::control::MapPosition;
use std::time::Duration;
use tokio::time::Instant;

/// After it was stored, for so many times as long as that took, news waits.
const REST: u32 = 9;
/// News never waits longer.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// After a failure.
const RETRY: Duration = Duration::from_secs(10);

/// What is on disk, and when something newer has to be.
#[derive(Debug, Default)]
pub(super) struct KeepMap {
    on_disk: Option<MapPosition>,
    due: Option<Instant>,
    /// News waits until then.
    rest: Option<Instant>,
}

impl KeepMap {
    /// A map that was read from disk.
    pub(super) fn of_stored(map: &NetworkMap) -> Self {
        Self { on_disk: position(map), due: None, rest: None }
    }

    /// The map in force changes.
    pub(super) fn changed(&mut self, from: &NetworkMap, to: &NetworkMap, now: Instant) {
        let same =
            |p: &MapPosition| p.network == to.network && p.epoch == to.epoch && p.digest == to.digest();
        if self.on_disk.as_ref().is_some_and(same) {
            self.due = None;
            return;
        }
        let at_once = self.on_disk.is_none() || takes_away(from, to);
        let due = if at_once { now } else { self.rest.map_or(now, |rest| rest.max(now)) };
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// When the map has to be stored.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// `map` is on disk now, which took `cost`.
    pub(super) fn stored(&mut self, map: &NetworkMap, now: Instant, cost: Duration) {
        let rest = Some(now + (cost * REST).min(LONGEST_WAIT));
        *self = Self { on_disk: position(map), due: None, rest };
    }

    /// It could not be stored: again in a while.
    pub(super) fn failed(&mut self, now: Instant) {
        self.due = Some(now + RETRY);
    }
}

fn position(map: &NetworkMap) -> Option<MapPosition> {
    Some(map.position()).filter(|_| map.me.is_some())
}

/// Whether something that was allowed or trusted is so no more.
fn takes_away(from: &NetworkMap, to: &NetworkMap) -> bool {
    let peer_lost = from.peers.iter().any(|(id, old)| {
        to.peers.get(id).is_none_or(|new| new.key != old.key || new.key_expires != old.key_expires)
    });
    peer_lost || from.me != to.me || from.coordinator != to.coordinator || from.epoch != to.epoch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testmap;
    use meshd_proto::netmap::{Entry, MapUpdate, Route};
    use meshd_proto::{NetworkId, NodeId, Prefix, Version};

    fn next(map: &NetworkMap, upserts: Vec<Entry>) -> NetworkMap {
        let removes = Vec::new();
        let mut digest = map.digest();
        upserts.iter().for_each(|e| digest.add(&e.encode()));
        let to = Version(map.version.0 + 1);
        let (network, epoch, from) = (map.network, map.epoch, Some(map.version));
        map.apply(&MapUpdate { network, epoch, from, to, upserts, removes, digest, more: false }).unwrap()
    }

    const COST: Duration = Duration::from_millis(10);

    fn route(i: u8) -> Entry {
        let prefix: Prefix = format!("10.{i}.0.0/16").parse().unwrap();
        Entry::Route(Route { prefix, rank: 0, owner: NodeId(1) })
    }

    #[test]
    fn news_is_stored_together_and_the_same_content_not_again() {
        let now = crate::clock::timer_now();
        let empty = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
        let first = testmap::map(&[], &[]);
        let mut keep = KeepMap::of_stored(&empty);
        keep.changed(&empty, &first, now);
        assert_eq!(keep.due(), Some(now), "the first one at once");
        keep.stored(&first, now, COST);
        assert_eq!(keep.due(), None);
        let second = next(&first, vec![route(1)]);
        keep.changed(&first, &second, now + COST);
        let due = keep.due().unwrap();
        assert_eq!(due, now + COST * REST, "storing has just cost something");
        let third = next(&second, vec![route(2)]);
        keep.changed(&second, &third, now + COST * 2);
        assert_eq!(keep.due(), Some(due), "more news does not put it off");
        keep.stored(&third, now, Duration::from_secs(60));
        let fourth = next(&third, vec![route(4)]);
        keep.changed(&third, &fourth, now);
        assert_eq!(keep.due(), Some(now + LONGEST_WAIT), "a slow disk");
        keep.stored(&third, now, COST);
        let later = now + COST * 100;
        keep.changed(&third, &fourth, later);
        assert_eq!(keep.due(), Some(later), "after a rest news does not wait");
        let same = next(&third, Vec::new());
        assert_ne!(same.version, third.version);
        keep.changed(&third, &same, now);
        assert_eq!(keep.due(), None, "another number for the same content");
        let mut gone = next(&third, vec![route(3)]);
        gone.me = None;
        keep.changed(&third, &gone, now);
        assert_eq!(keep.due(), Some(now), "what is taken away is stored at once");
    }
}
