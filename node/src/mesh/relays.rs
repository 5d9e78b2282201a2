//! The node's relay clients: one for each relay that the engine wants.

use meshd_proto::permit::SignedPermit;
use meshd_proto::relay::RelayAddr;
use meshd_proto::{Endpoint, NetworkMap, NodeKey, NodeSecret, RelayId};
use meshd_relay::client::{RelayClient, RelayEvent, Transmit};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

/// The relay clients and what they wait for: a permit, the relay's key from the map, its addresses.
#[derive(Debug)]
pub(super) struct RelayLinks {
    secret: NodeSecret,
    seed: [u8; 32],
    permit: Option<SignedPermit>,
    keys: HashMap<RelayId, NodeKey>,
    addrs: HashMap<RelayId, Vec<Endpoint>>,
    wanted: BTreeSet<RelayId>,
    links: HashMap<RelayId, RelayClient>,
    changes: VecDeque<(RelayId, RelayState)>,
}

/// How a relay is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RelayState {
    Up,
    Down,
    /// Silent under traffic.
    Doubtful,
    /// No longer.
    Clear,
    /// That peer is not attached there.
    PeerGone(RelayAddr),
}

impl RelayLinks {
    pub(super) fn new(secret: NodeSecret, seed: [u8; 32]) -> Self {
        Self {
            secret,
            seed,
            permit: None,
            keys: HashMap::new(),
            addrs: HashMap::new(),
            wanted: BTreeSet::new(),
            links: HashMap::new(),
            changes: VecDeque::new(),
        }
    }

    /// Relays that left the map, or have another key, are dropped.
    pub(super) fn set_map(&mut self, map: &NetworkMap, now: Instant) {
        self.keys = map.relays.values().map(|r| (r.id, r.key)).collect();
        let keys = &self.keys;
        let gone: Vec<RelayId> =
            self.links.iter().filter(|(id, l)| keys.get(id) != Some(&l.relay())).map(|(id, _)| *id).collect();
        for id in gone {
            self.links.remove(&id);
            self.changes.push_back((id, RelayState::Down));
        }
        self.connect(now);
    }

    pub(super) fn set_addrs(&mut self, relay: RelayId, addrs: &[Endpoint], now: Instant) {
        self.addrs.insert(relay, addrs.to_vec());
        if let Some(link) = self.links.get_mut(&relay) {
            link.set_addrs(addrs, now);
        }
        self.connect(now);
    }

    pub(super) fn set_permit(&mut self, permit: SignedPermit, now: Instant) {
        for link in self.links.values_mut() {
            link.set_permit(permit, now);
        }
        self.permit = Some(permit);
        self.connect(now);
    }

    pub(super) fn want(&mut self, relay: RelayId, now: Instant) {
        self.wanted.insert(relay);
        self.connect(now);
    }

    pub(super) fn reattach(&mut self, now: Instant) {
        self.links.values_mut().for_each(|l| l.reattach(now));
    }

    pub(super) fn note_sent(&mut self, relay: RelayId, now: Instant) {
        if let Some(link) = self.links.get_mut(&relay) {
            link.note_sent(now);
        }
    }

    /// The data path heard from a relay.
    pub(super) fn note_received(&mut self, relay: RelayId, now: Instant) {
        if let Some(link) = self.links.get_mut(&relay) {
            link.note_received(now);
        }
    }

    /// Handles a relay frame; the payload of a data frame comes back with its relay and sender.
    pub(super) fn handle_frame<'d>(
        &mut self,
        from: Endpoint,
        frame: &'d [u8],
        now: Instant,
    ) -> Option<(RelayId, RelayAddr, &'d [u8])> {
        let mut found = None;
        for (id, link) in &mut self.links {
            if let Some(inbound) = link.handle_datagram(from, frame, now) {
                found = Some((*id, inbound.peer, inbound.payload));
            }
        }
        self.collect();
        found
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for link in self.links.values_mut() {
            if link.poll_timeout().is_some_and(|at| at <= now) {
                link.handle_timeout(now);
            }
        }
        self.collect();
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.links.values().filter_map(RelayClient::poll_timeout).min()
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.links.values_mut().find_map(RelayClient::poll_transmit)
    }

    /// The next relay whose state changed.
    pub(super) fn poll_change(&mut self) -> Option<(RelayId, RelayState)> {
        self.collect();
        self.changes.pop_front()
    }

    /// Where each attached relay receives.
    pub(super) fn attached(&self) -> HashMap<RelayId, Endpoint> {
        self.links.iter().filter_map(|(id, l)| Some((*id, l.endpoint()?))).collect()
    }

    fn connect(&mut self, now: Instant) {
        let Some(permit) = &self.permit else { return };
        for id in &self.wanted {
            if self.links.contains_key(id) {
                continue;
            }
            if let (Some(key), Some(addrs)) = (self.keys.get(id), self.addrs.get(id))
                && !addrs.is_empty()
            {
                let seed = meshd_proto::keys::keyed_hash(&self.seed, "relay", &[&id.0.to_le_bytes()]);
                let mut link = RelayClient::new(self.secret.clone(), *key, *permit, addrs, seed, now);
                link.handle_timeout(now);
                self.links.insert(*id, link);
            }
        }
    }

    fn collect(&mut self) {
        for (id, link) in &mut self.links {
            while let Some(event) = link.poll_event() {
                match event {
                    RelayEvent::Up { via, observed } => {
                        tracing::debug!(relay = %id, %via, %observed, "attached to a relay");
                        self.changes.push_back((*id, RelayState::Up));
                    }
                    RelayEvent::Down { why } => {
                        tracing::warn!(relay = %id, %why, "a relay is not usable");
                        self.changes.push_back((*id, RelayState::Down));
                    }
                    RelayEvent::Doubtful => self.changes.push_back((*id, RelayState::Doubtful)),
                    RelayEvent::Clear => self.changes.push_back((*id, RelayState::Clear)),
                    RelayEvent::PeerGone(peer) => self.changes.push_back((*id, RelayState::PeerGone(peer))),
                }
            }
        }
    }
}
