//! Live flows: who began them, and whether the policy still allows them.
//!
//! A flow is known by protocol and both ends. It was begun *outbound* (by this node, or from behind it)
//! or *inbound* (by a peer, after the policy allowed it). Packets of a flow that was begun outbound are
//! let in as replies; an inbound flow is judged again whenever the policy's generation changes, and a
//! flow that is no longer allowed stays in the table as *cut*: otherwise the next packet of the local
//! end would begin it anew from this side, and its peer's packets would pass as replies.
//!
//! The table is bounded: 16 shards, each with a lock of its own, sets of 8 entries of which each flow has two and
//! in which the oldest makes room; fragments and flows that nobody answered go before those that live. Hashing is
//! keyed, so that a stranger cannot aim at one set.

mod table;

use super::rules::RuleMark;
use crate::packet::{Embedded, ICMP, ICMPV6, Packet, Ports, TCP, Upper, tcp_flag};
use meshd_policy::Flow;
use meshd_proto::NodeId;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use table::{Entry, Shard};

const SHARDS: usize = 16;
/// Flows that are kept at most: about 110 MB when all are in use, little while few are. A table full of flows that
/// both sides use may become twice as large: a million of those are kept in 220 MB.
const MAX_FLOWS: usize = 1 << 20;

/// Sets of a shard that are judged again under one lock.
const SWEPT_AT_ONCE: usize = 128;

/// Milliseconds after which a flow without packets is forgotten.
mod idle {
    /// RFC 5382 REQ-5: at least 2 hours and 4 minutes.
    pub(super) const TCP: u64 = 7_440_000;
    /// After FIN from both sides or RST: room for late segments (RFC 5382 REQ-6).
    pub(super) const TCP_CLOSED: u64 = 60_000;
    /// Nothing came back yet: longer than any SYN is repeated, short enough for a scan to pass by.
    pub(super) const TCP_UNANSWERED: u64 = 130_000;
    /// RFC 4787 REQ-5: at least 2 minutes; 3 for the comfort of DNS and VoIP.
    pub(super) const UDP: u64 = 180_000;
    /// RFC 5508 REQ-2: at least 60 seconds.
    pub(super) const ICMP: u64 = 60_000;
    /// Fragments of one packet arrive together; each such packet has an entry of its own, so they go soon.
    pub(super) const FRAGMENT: u64 = 10_000;
    /// Protocols without ports, and flows that were cut.
    pub(super) const OTHER: u64 = 600_000;
}

/// The table.
pub struct Conntrack {
    shards: [Mutex<Shard>; SHARDS],
    seed: [u64; 2],
}

/// Both ends of a flow, the smaller first, so that both directions have the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    protocol: u8,
    /// For parts of a fragmented packet: its identification, and the ends are in order of direction.
    fragment: Option<u32>,
    a: (IpAddr, u16),
    b: (IpAddr, u16),
}

/// Who began a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    Outbound,
    Inbound,
}

/// Whether packets of an entry pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Live,
    /// A policy change ended it.
    Cut,
}

/// One packet's flow, in the direction of that packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol.
    pub protocol: u8,
    /// Ports, the echo identifier twice, or zeros.
    pub ports: Ports,
}

/// What becomes of an inbound packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// Let it in.
    Pass,
    /// The policy does not allow the flow.
    Denied,
    /// The policy no longer allows the flow.
    Cut,
    /// A part of a packet whose first part was not let in.
    Fragment,
}

/// What becomes of an inbound packet, and which rule let its flow in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What becomes of it.
    pub outcome: Inbound,
    /// The rule, where one did.
    pub rule: RuleMark,
    /// Whether the flow begins with it.
    pub begins: bool,
}

impl Judged {
    const fn without_rule(outcome: Inbound) -> Self {
        Self { outcome, rule: RuleMark::NONE, begins: false }
    }

    const fn by(rule: RuleMark, begins: bool) -> Self {
        Self { outcome: Inbound::Pass, rule, begins }
    }
}

/// The moment and the policy a packet is judged under.
#[derive(Clone, Copy, Debug)]
pub struct Judgement {
    /// The snapshot's generation.
    pub generation: u64,
    /// Milliseconds, the snapshot's unit.
    pub stamp: u64,
}

impl Conntrack {
    /// An empty table. `seed` keys its hash.
    pub fn new(seed: [u8; 16]) -> Self {
        Self::with_limit(seed, MAX_FLOWS)
    }

    fn with_limit(seed: [u8; 16], flows: usize) -> Self {
        let [a, b] = [&seed[..8], &seed[8..]].map(|half| {
            let mut word = [0; 8];
            word.copy_from_slice(half);
            u64::from_le_bytes(word)
        });
        Self { shards: std::array::from_fn(|_| Mutex::new(Shard::new(flows / SHARDS))), seed: [a, b] }
    }

    /// Judges a packet that `peer` sent. `allows` asks the policy about a flow: which rule lets it in.
    pub fn inbound(
        &self,
        packet: &Packet,
        peer: NodeId,
        when: Judgement,
        allows: impl Fn(&Flow) -> Option<RuleMark>,
    ) -> Judged {
        match packet.upper {
            Upper::LaterFragment => return Judged::without_rule(self.later_fragment(packet, peer, when)),
            Upper::Error(about) => return Judged::without_rule(self.error(packet, &about, when)),
            Upper::Icmp { kind } if rewrites_neighbours(packet.protocol, kind) => {
                return Judged::without_rule(Inbound::Denied);
            }
            Upper::Tcp { .. } | Upper::Ports(_) | Upper::Echo { .. } | Upper::Icmp { .. } | Upper::Opaque => {
            }
        }
        let tuple = Tuple::of(packet);
        let judged = self.inbound_flow(packet, &tuple, peer, when, &allows);
        if let (Inbound::Pass, Some(id)) = (judged.outcome, packet.fragment) {
            self.note_fragment(Key::fragment(packet, id), peer, Begun::Inbound, when);
        }
        judged
    }

    fn inbound_flow(
        &self,
        packet: &Packet,
        tuple: &Tuple,
        peer: NodeId,
        when: Judgement,
        allows: &impl Fn(&Flow) -> Option<RuleMark>,
    ) -> Judged {
        let key = Key::of(tuple);
        let opens = packet.opens_tcp();
        let (hash, mut shard) = self.shard(&key);
        if let Some(entry) = shard.find(hash, &key, when.stamp) {
            match (entry.begun, entry.standing) {
                // A SYN is never a reply: it is judged as the beginning that it is.
                (Begun::Outbound, Standing::Live) if !opens => {
                    entry.touch(packet, tuple, when.stamp);
                    return Judged::without_rule(Inbound::Pass);
                }
                (Begun::Inbound, standing) => {
                    if standing == Standing::Cut || entry.generation != when.generation {
                        let Some(rule) = allows(&tuple.flow()) else {
                            entry.cut(when);
                            return Judged::without_rule(Inbound::Cut);
                        };
                        entry.renew(rule, when);
                    }
                    entry.owner = peer;
                    entry.touch(packet, tuple, when.stamp);
                    return Judged::by(entry.rule, false);
                }
                (Begun::Outbound, Standing::Live | Standing::Cut) => {}
            }
        }
        let Some(rule) = allows(&tuple.flow()) else { return Judged::without_rule(Inbound::Denied) };
        let begins = keeps_flow(packet);
        if begins {
            let entry = Entry::new(key, hash, Begun::Inbound, tuple, peer, when).let_in_by(rule);
            shard.insert(entry, when.stamp).touch(packet, tuple, when.stamp);
        }
        Judged::by(rule, begins)
    }

    /// An ICMP error passes if it is about a packet of a live flow and goes to that packet's sender.
    fn error(&self, packet: &Packet, about: &Embedded, when: Judgement) -> Inbound {
        if packet.dst != about.src {
            return Inbound::Denied;
        }
        let tuple = Tuple { src: about.src, dst: about.dst, protocol: about.protocol, ports: about.ports };
        let key = Key::of(&tuple);
        let (hash, mut shard) = self.shard(&key);
        match shard.find(hash, &key, when.stamp).map(|e| e.standing) {
            Some(Standing::Live) => Inbound::Pass,
            Some(Standing::Cut) => Inbound::Cut,
            None => Inbound::Denied,
        }
    }

    fn later_fragment(&self, packet: &Packet, peer: NodeId, when: Judgement) -> Inbound {
        let Some(id) = packet.fragment else { return Inbound::Fragment };
        let key = Key::fragment(packet, id);
        let (hash, mut shard) = self.shard(&key);
        match shard.find(hash, &key, when.stamp) {
            Some(entry)
                if entry.begun == Begun::Inbound
                    && entry.owner == peer
                    && entry.generation == when.generation =>
            {
                Inbound::Pass
            }
            _ => Inbound::Fragment,
        }
    }

    /// Notes a packet that goes out, and picks its owner: `choose` gets the one that the flow used
    /// before and returns the one to use. It runs under the shard's lock.
    pub fn outbound(
        &self,
        packet: &Packet,
        when: Judgement,
        allows: impl Fn(&Flow) -> Option<RuleMark>,
        choose: impl Fn(Option<NodeId>) -> Option<NodeId>,
    ) -> Outbound {
        if let (Upper::LaterFragment, Some(id)) = (packet.upper, packet.fragment) {
            let key = Key::fragment(packet, id);
            let (hash, mut shard) = self.shard(&key);
            let before = shard.find(hash, &key, when.stamp).map(|e| e.owner);
            return choose(before).map_or(Outbound::NoOwner, Outbound::To);
        }
        let outcome = self.outbound_flow(packet, when, &allows, &choose);
        if let (Outbound::To(owner), Some(id)) = (outcome, packet.fragment) {
            self.note_fragment(Key::fragment(packet, id), owner, Begun::Outbound, when);
        }
        outcome
    }

    fn outbound_flow(
        &self,
        packet: &Packet,
        when: Judgement,
        allows: &impl Fn(&Flow) -> Option<RuleMark>,
        choose: &impl Fn(Option<NodeId>) -> Option<NodeId>,
    ) -> Outbound {
        let tuple = Tuple::of(packet);
        if !keeps_flow(packet) {
            return choose(None).map_or(Outbound::NoOwner, Outbound::To);
        }
        let key = Key::of(&tuple);
        let (hash, mut shard) = self.shard(&key);
        if let Some(entry) = shard.find(hash, &key, when.stamp) {
            // A beginning from this side replaces what was there.
            if !(packet.opens_tcp() && entry.begun == Begun::Inbound) {
                if entry.begun == Begun::Inbound
                    && (entry.standing == Standing::Cut || entry.generation != when.generation)
                {
                    let Some(rule) = allows(&tuple.reversed().flow()) else {
                        entry.cut(when);
                        return Outbound::Cut;
                    };
                    entry.renew(rule, when);
                }
                let Some(owner) = choose(Some(entry.owner)) else { return Outbound::NoOwner };
                entry.owner = owner;
                entry.touch(packet, &tuple, when.stamp);
                return Outbound::To(owner);
            }
        }
        let Some(owner) = choose(None) else { return Outbound::NoOwner };
        let Some(begun) = begins(packet, &tuple) else { return Outbound::To(owner) };
        let (forward, rule) = match begun {
            Begun::Outbound => (tuple, RuleMark::NONE),
            Begun::Inbound => match allows(&tuple.reversed().flow()) {
                Some(rule) => (tuple.reversed(), rule),
                None => return Outbound::To(owner),
            },
        };
        let entry = Entry::new(key, hash, begun, &forward, owner, when).let_in_by(rule);
        shard.insert(entry, when.stamp).touch(packet, &tuple, when.stamp);
        Outbound::To(owner)
    }

    fn note_fragment(&self, key: Key, owner: NodeId, begun: Begun, when: Judgement) {
        let tuple =
            Tuple { src: key.a.0, dst: key.b.0, protocol: key.protocol, ports: Ports { src: 0, dst: 0 } };
        let (hash, mut shard) = self.shard(&key);
        shard.insert(Entry::new(key, hash, begun, &tuple, owner, when), when.stamp);
    }

    /// Judges every inbound flow again under a new policy; returns how many live ones were cut.
    /// `allows` also gets the peer that the flow belongs to.
    pub fn sweep(&self, when: Judgement, allows: impl Fn(&Flow, NodeId) -> Option<RuleMark>) -> usize {
        let mut cut = 0;
        let judge = |entry: &mut Entry| {
            if entry.begun != Begun::Inbound || entry.key.fragment.is_some() || entry.is_expired(when.stamp) {
                return 0;
            }
            if let Some(rule) = allows(&entry.forward().flow(), entry.owner) {
                entry.renew(rule, when);
                return 0;
            }
            let lives = entry.standing == Standing::Live;
            if lives {
                entry.cut(when);
            }
            usize::from(lives)
        };
        for shard in &self.shards {
            // A part at a time: the data threads wait for the lock. Growing in between moves entries to
            // later sets only.
            let mut from = 0;
            loop {
                let mut shard = lock(shard);
                let Some(sets) = shard.sets_from(from, SWEPT_AT_ONCE) else { break };
                cut += sets.map(&judge).sum::<usize>();
                from += SWEPT_AT_ONCE;
            }
        }
        cut
    }

    /// How many entries there are, expired ones included.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| lock(s).len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: &Key) -> (u64, MutexGuard<'_, Shard>) {
        use std::hash::{DefaultHasher, Hash, Hasher};
        // The seed goes in first: SipHash over seed and key, as good as a keyed one.
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        key.hash(&mut hasher);
        let hash = hasher.finish();
        (hash, lock(&self.shards[(hash >> 60) as usize % SHARDS]))
    }
}

impl std::fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Conntrack")
    }
}

/// What becomes of an outbound packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// It goes to this owner.
    To(NodeId),
    /// No owner is there.
    NoOwner,
    /// It answers a flow that the policy no longer allows.
    Cut,
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether packets of that kind belong to a flow that is worth an entry.
const fn keeps_flow(packet: &Packet) -> bool {
    match packet.upper {
        Upper::Tcp { .. } | Upper::Ports(_) | Upper::Echo { .. } | Upper::Opaque => true,
        Upper::Error(_) | Upper::Icmp { .. } | Upper::LaterFragment => false,
    }
}

/// Clients' ports begin here (Linux; elsewhere higher).
const EPHEMERAL: u16 = 32_768;

/// Which side began a flow whose first seen packet goes out; `None`: it answers something that is not
/// in the table, and begins nothing.
const fn begins(packet: &Packet, tuple: &Tuple) -> Option<Begun> {
    match packet.upper {
        Upper::Tcp { flags, .. } => {
            if flags & tcp_flag::RST != 0 {
                None
            } else if flags & tcp_flag::SYN != 0 {
                if flags & tcp_flag::ACK == 0 { Some(Begun::Outbound) } else { None }
            } else if tuple.ports.src >= EPHEMERAL && tuple.ports.dst < EPHEMERAL {
                // In the middle of a connection that was there before this table, from a client's port here
                // to a server's there. The peer chooses its port, but not ours.
                Some(Begun::Outbound)
            } else {
                // Anything else may be a peer's: the policy is asked, as it was when the connection began.
                Some(Begun::Inbound)
            }
        }
        Upper::Echo { request, .. } => {
            if request {
                Some(Begun::Outbound)
            } else {
                None
            }
        }
        Upper::Ports(_) | Upper::Opaque => Some(Begun::Outbound),
        Upper::Error(_) | Upper::Icmp { .. } | Upper::LaterFragment => None,
    }
}

impl Packet {
    /// A TCP SYN without ACK: the beginning of a connection.
    pub(crate) const fn opens_tcp(&self) -> bool {
        matches!(self.upper, Upper::Tcp { flags, .. }
            if flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN)
    }

    /// A segment or datagram in the middle of a flow, which changes nothing in the table.
    pub(crate) const fn is_ordinary(&self) -> bool {
        if self.fragment.is_some() {
            return false;
        }
        match self.upper {
            Upper::Tcp { flags, .. } => flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) == 0,
            Upper::Ports(_) => true,
            Upper::Echo { .. }
            | Upper::Error(_)
            | Upper::Icmp { .. }
            | Upper::LaterFragment
            | Upper::Opaque => false,
        }
    }
}

impl Tuple {
    /// The flow of a packet.
    pub fn of(packet: &Packet) -> Self {
        let ports = packet.ports().unwrap_or(Ports { src: 0, dst: 0 });
        Self { src: packet.src, dst: packet.dst, protocol: packet.protocol, ports }
    }

    /// The other direction.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        let ports = Ports { src: self.ports.dst, dst: self.ports.src };
        Self { src: self.dst, dst: self.src, protocol: self.protocol, ports }
    }

    /// What the policy is asked: ICMP has no ports there.
    pub const fn flow(&self) -> Flow {
        let icmp = matches!(self.protocol, ICMP | ICMPV6);
        let dst_port = if icmp { 0 } else { self.ports.dst };
        Flow { src: self.src, dst: self.dst, protocol: self.protocol, dst_port }
    }
}

impl Key {
    fn of(tuple: &Tuple) -> Self {
        let (src, dst) = ((tuple.src, tuple.ports.src), (tuple.dst, tuple.ports.dst));
        let (a, b) = if src <= dst { (src, dst) } else { (dst, src) };
        Self { protocol: tuple.protocol, fragment: None, a, b }
    }

    const fn fragment(packet: &Packet, id: u32) -> Self {
        Self { protocol: packet.protocol, fragment: Some(id), a: (packet.src, 0), b: (packet.dst, 0) }
    }
}

/// Redirects, and all of neighbour discovery (RFC 792, RFC 4861): they rewrite the receiver's routes and
/// neighbours and are meant for a link of their own, so no policy lets them in from the mesh.
const fn rewrites_neighbours(protocol: u8, kind: u8) -> bool {
    (protocol == ICMP && kind == 5) || (protocol == ICMPV6 && matches!(kind, 133..=137))
}

#[cfg(test)]
mod tests;
