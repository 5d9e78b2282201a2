//! The packet path: pure functions over a published snapshot and the caller's buffers.
//!
//! Nothing here allocates per packet, reads a clock or makes a system call. The only locks are one per
//! peer ([`PeerSlot`], taken once per run of packets of that peer and never held over a call of the
//! caller's that could block) and one per shard of the connection table.
//!
//! Inbound order: open → source check → connection table (is it a reply?) → verdict → deliver.
//! Outbound order: route by longest prefix → first live owner, the same for a whole flow → note in the
//! connection table → seal.

mod checksum;
mod coalesce;
pub mod conntrack;
mod counters;
mod ecn;
mod offload;
mod open;
pub mod routes;
mod rules;
mod seal;
mod slot;
mod split;

pub use coalesce::{Coalescer, MAX_SEGMENTS};
pub use counters::{Counters, DropReason};
pub use ecn::Ecn;
pub use offload::{Offload, Offloads, SegmentKind, UnknownOffload, VIRTIO_HEADER};
pub use open::{Datagram, OpenSink, open_run};
pub use rules::{RuleCount, RuleCounters, RuleMark};
pub(crate) use seal::route_of;
pub use seal::{FromHost, SealSink, Way, seal_run};
pub use slot::{Live, OwnLine, PathChoice, PeerSlot};
pub use split::{BadSuperPacket, Split, finish_checksum};

use crate::session::{Session, SessionIndex};
use conntrack::Conntrack;
use meshd_policy::{Filter, Flow, Verdict, verdict};
use meshd_proto::{MeshAddrs, MeshPrefixes, Prefix, addr::is_public_unicast};
use routes::{PeerRef, RouteTable, Sources};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All that the data threads need, immutable but for the slots, the connection table and the counters
/// it points to. A new one is published for every change.
pub struct DataSnapshot<S> {
    /// Grows with every change of the filter or the routes; flows judged under an older one are judged
    /// again.
    pub generation: u64,
    /// Prefix → ordered owners.
    pub routes: RouteTable,
    /// What this node lets in.
    pub filter: Filter,
    /// What each rule of it has let in.
    pub rules: RuleCounters,
    /// This node's own addresses.
    pub own: Option<Own>,
    /// The peers; a [`PeerRef`] is an index into it.
    pub peers: Vec<Arc<PeerSlot<S>>>,
    /// What each peer may send as, by [`PeerRef`].
    pub sources: Vec<Sources>,
    /// Session index → peer.
    pub by_index: HashMap<SessionIndex, PeerRef>,
    /// Live flows, shared by all snapshots.
    pub conntrack: Arc<Conntrack>,
    /// Counters, shared by all snapshots.
    pub counters: Arc<Counters>,
    /// Time zero of the millisecond stamps in slots and flows.
    pub epoch: Instant,
}

/// This node's own addresses, from its map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its mesh addresses.
    pub addrs: MeshAddrs,
    /// The ranges of the mesh.
    pub mesh: MeshPrefixes,
    /// Prefixes behind this node: advertised and approved, without default routes.
    pub prefixes: Vec<Prefix>,
    /// An approved exit for IPv4.
    pub exit_v4: bool,
    /// An approved exit for IPv6.
    pub exit_v6: bool,
    /// Plain WireGuard devices that are in the mesh through this node.
    pub devices: Vec<MeshAddrs>,
}

impl Own {
    /// Whether a packet from the mesh to `dst` may be for this node or for what lies behind it.
    pub fn accepts(&self, dst: IpAddr) -> bool {
        self.addrs.contains(dst)
            || self.mesh.resolver().contains(dst)
            || self.prefixes.iter().any(|p| p.net().contains(&dst))
            || (self.is_exit_for(dst) && is_public_unicast(dst))
    }

    /// Whether this node may send from `src` into the mesh: from itself, from what lies behind it, or
    /// as an exit from the internet.
    pub fn may_send_from(&self, src: IpAddr) -> bool {
        self.accepts(src)
    }

    /// Whether this is a question to our resolver by a device that has no other: part of its being joined
    /// through this node, whatever the policy says of nodes.
    pub fn answers(&self, flow: &Flow) -> bool {
        let by_device = || self.devices.iter().any(|d| d.contains(flow.src));
        let dns = flow.dst_port == 53 && matches!(flow.protocol, 6 | 17);
        dns && self.mesh.resolver().contains(flow.dst) && by_device()
    }

    /// Whether this is a question to our resolver by a user of this exit node: names belong to the internet that
    /// the policy lets him reach, so that it need not name this node as well.
    pub fn answers_as_exit(&self, flow: &Flow, filter: &Filter) -> bool {
        let dns = flow.dst_port == 53 && matches!(flow.protocol, 6 | 17);
        let exit = self.exit_v4 || self.exit_v6;
        exit && dns && self.addrs.contains(flow.dst) && filter.lets_out(flow.src)
    }

    const fn is_exit_for(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(_) => self.exit_v4,
            IpAddr::V6(_) => self.exit_v6,
        }
    }
}

impl<S: Session> DataSnapshot<S> {
    /// The slot of a peer.
    pub fn slot(&self, peer: PeerRef) -> Option<&Arc<PeerSlot<S>>> {
        self.peers.get(peer.0 as usize)
    }

    /// The rule that lets a flow in; `None`: the policy does not allow it.
    pub(crate) fn admits(&self, flow: &Flow) -> Option<RuleMark> {
        match verdict(&self.filter, flow) {
            Verdict::Allow { rule, .. } => Some(self.rules.mark(rule)),
            Verdict::Deny(_) => None,
        }
    }

    /// Milliseconds since [`DataSnapshot::epoch`], the unit of stamps. They start at 1: 0 means never.
    pub(crate) fn stamp(&self, now: Instant) -> u64 {
        stamp(self.epoch, now)
    }
}

/// Milliseconds since `epoch`, plus one.
pub(crate) fn stamp(epoch: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(epoch).as_millis()).unwrap_or(u64::MAX - 1).saturating_add(1)
}

/// The moment of a stamp; `None` for never.
pub(crate) fn moment(epoch: Instant, stamp: u64) -> Option<Instant> {
    (stamp > 0).then(|| epoch + Duration::from_millis(stamp - 1))
}

#[cfg(test)]
mod tests;
