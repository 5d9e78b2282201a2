//! What leaves a node and what reaches it, with the rules that always hold.

use super::{Happening, World, relay_of};
use crate::coordinator::{Member, Rules, addr};
use crate::net::PORT;
use crate::node::SPARE_SILENCE;
use crate::packets::MARK;
use crate::sessions::Sessions;
use meshd_engine::{Destination, Event, Input, Source};
use meshd_proto::{Endpoint, NodeId, RelayId};
use std::time::Duration;

impl<F: Sessions> World<F> {
    pub(super) fn transmit(&mut self, id: NodeId, to: Destination, payload: Vec<u8>) {
        self.check_ciphertext(id, &payload);
        let lost = self.random.percent(self.config.loss);
        let jitter = Duration::from_micros(self.random.below(2000));
        match to {
            Destination::Relay { relay, peer } => {
                self.relayed_datagrams += 1;
                let me = self.nodes[&id].key;
                let receiver = self.nodes.values().find(|n| n.key == peer).map(|n| n.id);
                let works = !self.relays_down.contains(&relay) && self.attached.contains(&(relay, id));
                let there = |r: &NodeId| works && !lost && self.attached.contains(&(relay, *r));
                if let Some(to) = receiver.filter(there) {
                    let from = Source::Relay { relay, peer: me };
                    let wait = self.config.latency + self.config.relay_latency + jitter;
                    self.later(wait, Happening::Datagram { to, from, payload });
                } else if works && !lost && receiver.is_some_and(|r| !self.attached.contains(&(relay, r))) {
                    let wait = self.config.latency + jitter;
                    self.input_later(id, Input::RelayPeerGone { relay, peer }, wait);
                }
            }
            Destination::Udp(endpoint) => {
                if self.nodes[&id].udp_blocked {
                    return;
                }
                let port = self.nodes[&id].port_for(endpoint, self.now);
                self.send_udp(id, port, endpoint, payload, lost);
            }
        }
    }

    /// A datagram leaves a node by one of its ports.
    fn send_udp(&mut self, id: NodeId, port: u16, endpoint: Endpoint, payload: Vec<u8>, lost: bool) {
        self.direct_datagrams += 1;
        let (now, place) = (self.now, self.nodes[&id].place);
        let jitter = Duration::from_micros(self.random.below(2000));
        let Some(arrival) = self.net.route(place, port, endpoint, now) else { return };
        if let Some(relay) = relay_of(arrival.to) {
            if self.coordinator.relays.contains(&relay) && !self.relays_down.contains(&relay) && !lost {
                let (source, server) = (arrival.source, arrival.to);
                let stun = Happening::Stun { server, from: place, node: id, source, payload };
                self.later(self.config.latency + jitter, stun);
            }
            return;
        }
        let found = self.nodes.values().find(|n| n.place.local().0.ip() == arrival.to.0.ip());
        let Some(to) = found.map(|n| n.id) else { return };
        if self.blocked.contains(&(id, to)) || self.nodes[&to].udp_blocked || (lost && !arrival.lan) {
            return;
        }
        let wait = if arrival.lan { Duration::from_micros(300) } else { self.config.latency + jitter };
        let arriving = arrival.to.0.port();
        if arriving == PORT {
            self.later(wait, Happening::Datagram { to, from: Source::Udp(arrival.source), payload });
            return;
        }
        let spare = self.nodes[&to].spares.iter().find(|(_, (port, ..))| *port == arriving);
        if let Some(socket) = spare.map(|(number, _)| *number) {
            self.later(wait, Happening::Scattered { to, socket, from: arrival.source, payload });
        }
    }

    /// Many sockets, one datagram from each.
    fn scatter(&mut self, id: NodeId, to: Endpoint, payload: &[u8], sockets: usize) {
        let until = self.now + meshd_engine::path::birthday::SCATTER_LIFE;
        if let Some(node) = self.nodes.get_mut(&id) {
            let kept: Vec<u64> = node.adopted.values().map(|(number, _)| *number).collect();
            node.spares.retain(|number, spare| kept.contains(number) || spare.2 != to);
        }
        for _ in 0..sockets {
            self.next_spare += 1;
            let (number, port) = (self.next_spare, 50_000 + (self.next_spare % 15_000) as u16);
            if let Some(node) = self.nodes.get_mut(&id) {
                node.spares.insert(number, (port, until, to));
            }
            if !self.nodes[&id].udp_blocked {
                self.send_udp(id, port, to, payload.to_vec(), false);
            }
        }
    }

    pub(super) fn event(&mut self, id: NodeId, event: Event) {
        match &event {
            Event::Deliver(packet) => self.arrived(id, packet),
            Event::Interest(about) => {
                if let Some(member) = self.coordinator.members.get_mut(&id) {
                    member.interest.insert(*about);
                }
                self.send_hint(*about, &[id]);
            }
            Event::EndpointsChanged(endpoints) => {
                let endpoints = endpoints.clone();
                self.change_member(id, |m| m.endpoints = endpoints);
            }
            Event::HomeRelay(relay) => {
                let relay = *relay;
                self.change_member(id, |m| m.home_relay = Some(relay));
                self.attach(relay, id);
            }
            Event::WantRelay(relay) => self.attach(*relay, id),
            Event::Scatter { to, payload, sockets } => {
                let (to, payload, sockets) = (*to, payload.clone(), *sockets);
                self.scatter(id, to, &payload, sockets);
            }
            Event::Adopt { socket, endpoint } => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.adopted.insert(*endpoint, (*socket, self.now + SPARE_SILENCE));
                    let kept: Vec<u64> = node.adopted.values().map(|(number, _)| *number).collect();
                    node.spares.retain(|number, spare| kept.contains(number) || spare.2 != *endpoint);
                }
            }
            Event::Release { endpoint } => {
                if let Some(node) = self.nodes.get_mut(&id)
                    && let Some((number, _)) = node.adopted.remove(endpoint)
                {
                    node.spares.remove(&number);
                }
            }
            Event::PathChanged { .. }
            | Event::PeerUp(_)
            | Event::PeerDown(_)
            | Event::FlowsCut { .. }
            | Event::Pong { .. } => {}
        }
        self.events.push((self.now, id, event));
    }

    fn attach(&mut self, relay: RelayId, id: NodeId) {
        self.attached.insert((relay, id));
        if !self.relays_down.contains(&relay) {
            self.input_later(id, Input::RelayUp(relay), self.config.latency * 4);
        }
    }

    fn change_member(&mut self, id: NodeId, change: impl FnOnce(&mut Member)) {
        let Some(member) = self.coordinator.members.get_mut(&id) else { return };
        change(member);
        member.seq += 1;
        let interested = self.coordinator.interested(id);
        self.send_hint(id, &interested);
    }

    pub(super) fn send_hint(&mut self, about: NodeId, to: &[NodeId]) {
        if !self.coordinator_up {
            return;
        }
        let Some(hint) = self.coordinator.hint(about) else { return };
        for id in to {
            self.input_later(*id, Input::Hints(vec![hint.clone()]), Duration::from_millis(40));
        }
    }

    /// A packet reached a node's host. It must have been allowed by rules in force in the last second,
    /// or answer a packet of that host.
    pub(super) fn arrived(&mut self, id: NodeId, bytes: &[u8]) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(packet) = node.deliver(bytes, now) else {
            panic!("seed {}: a garbled packet", self.config.seed)
        };
        let reply = node.asked.contains(&(packet.src, packet.dst, packet.src_port, packet.dst_port));
        let current = std::iter::once(&self.coordinator.rules);
        let grace = Duration::from_secs(1);
        let mut recent: Vec<&Rules> = current.collect();
        for (i, (_, rules)) in self.recent_rules.iter().enumerate() {
            let until = self.recent_rules.get(i + 1).map_or(now, |(at, _)| *at);
            if now - until < grace {
                recent.push(rules);
            }
        }
        let allowed = recent.iter().any(|r| r.allows(packet.src, packet.dst, packet.dst_port));
        assert!(
            reply || allowed,
            "seed {}: {packet:?} was delivered to node {id} against the policy",
            self.config.seed
        );
        let gone = self.left.iter().find(|(left, at)| addr(**left) == packet.src && now - **at >= grace);
        assert!(
            gone.is_none(),
            "seed {}: node {id} takes {packet:?} of a node that is no member any more",
            self.config.seed
        );
    }

    fn check_ciphertext(&self, id: NodeId, payload: &[u8]) {
        let plain = payload.windows(MARK.len()).any(|w| w == MARK);
        assert!(!plain, "seed {}: node {id} sent plaintext", self.config.seed);
    }
}
