//! What the coordinator does: who is a member, what the rules are, and who hears of it.

use super::{WALL, World, stun_server};
use crate::coordinator::Rules;
use crate::node::NodeName;
use crate::sessions::Sessions;
use meshd_engine::Input;
use meshd_proto::{NodeId, Prefix, UnixSeconds};
use std::time::Duration;

impl<F: Sessions> World<F> {
    /// Sets the rules without sending them.
    pub fn set_rules(&mut self, rules: Rules) {
        self.coordinator.rules = rules;
    }

    /// Rules by which every node reaches every other one and every route.
    pub fn allow_all(&mut self) {
        let any: Prefix = Prefix::DEFAULT_V4;
        let all = ["100.71.0.0/16", "192.168.0.0/16", "10.0.0.0/8"];
        let allow = all.map(|dst| (any, dst.parse().expect("a prefix"), 0, u16::MAX)).to_vec();
        self.set_rules(Rules { allow });
    }

    /// Sends every member its map (and the relay's address), as it is now.
    pub fn publish(&mut self) {
        if !self.coordinator_up {
            return;
        }
        for id in self.expelled.keys() {
            self.left.entry(*id).or_insert(self.now);
        }
        self.left.retain(|id, _| !self.coordinator.members.contains_key(id));
        self.recent_rules.push((self.now, self.coordinator.rules.clone()));
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.publish_to(id);
        }
    }

    pub(super) fn publish_to(&mut self, id: NodeId) {
        if self.coordinator_up {
            self.stored.insert(id, self.coordinator.map(id));
        }
        let Some(map) = self.stored.get(&id).cloned() else { return };
        self.input_later(id, Input::Map(map.into()), Duration::from_millis(30));
        if self.config.relay {
            for relay in self.coordinator.relays.clone() {
                let input = Input::RelayAddresses { relay, addrs: vec![stun_server(relay)] };
                self.input_later(id, input, Duration::from_millis(31));
            }
        }
    }

    /// Removes a member from everybody's map.
    pub fn remove(&mut self, id: NodeName) {
        if let Some(member) = self.coordinator.members.remove(&id) {
            self.expelled.insert(id, member);
        }
        self.publish();
    }

    /// Takes a removed member back, with the same key.
    pub fn take_back(&mut self, id: NodeName) {
        if let Some(member) = self.expelled.remove(&id) {
            self.coordinator.members.insert(id, member);
        }
        self.publish();
    }

    /// The coordinator goes away, or comes back and says all that it has to say. Links go on meanwhile.
    pub fn set_coordinator(&mut self, up: bool) {
        let back = up && !self.coordinator_up;
        self.coordinator_up = up;
        if back {
            self.publish();
            for id in self.coordinator.members.keys().copied().collect::<Vec<_>>() {
                let interested = self.coordinator.interested(id);
                self.send_hint(id, &interested);
            }
        }
    }

    /// Lets a member's key end at `after` from the beginning.
    pub fn expire(&mut self, id: NodeName, after: Duration) {
        if let Some(member) = self.coordinator.members.get_mut(&id) {
            member.expires = Some(UnixSeconds(WALL + after.as_secs()));
        }
    }
}
