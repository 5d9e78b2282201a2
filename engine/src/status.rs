//! What the engine can say about itself, for the command line.

use crate::data::RuleCount;
use crate::nat::Mapping;
use crate::path::probe::Fitness;
use meshd_proto::{Endpoint, Hostname, MeshAddrs, NodeId, NodeKey, RelayId};
use std::time::Duration;

/// The engine at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The peers, by id.
    pub peers: Vec<PeerStatus>,
    /// Our endpoints: local ones, then mapped ones.
    pub endpoints: Vec<Endpoint>,
    /// Where peers send relayed packets for us.
    pub home_relay: Option<RelayId>,
    /// Where they send when that one is silent.
    pub backup_relay: Option<RelayId>,
    /// How the NAT in front of us maps IPv4.
    pub mapping_v4: Mapping,
    /// The same for IPv6.
    pub mapping_v6: Mapping,
    /// The relays.
    pub relays: Vec<RelayStatus>,
    /// Packets dropped since start, by reason.
    pub drops: Vec<(&'static str, u64)>,
    /// Flows cut by changes of policy since start.
    pub flows_cut: u64,
    /// What each rule has let in since it came, of those that have.
    pub rules: Vec<RuleCount>,
}

/// A relay as seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayStatus {
    /// The relay.
    pub id: RelayId,
    /// Whether we are attached.
    pub up: bool,
    /// Silent under traffic right now.
    pub doubtful: bool,
    /// Round-trip time of its STUN answers.
    pub rtt: Option<Duration>,
    /// What it sees as our endpoint, by each of its addresses.
    pub mapped: Vec<Endpoint>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub id: NodeId,
    /// Its key.
    pub key: NodeKey,
    /// Its name.
    pub name: Hostname,
    /// Its addresses.
    pub addrs: MeshAddrs,
    /// Which way data goes.
    pub path: PathStatus,
    /// Why it goes that way, in a few words.
    pub reason: &'static str,
    /// Round-trip time on that path, where it was measured.
    pub rtt: Option<Duration>,
    /// Whether there is a session to send with.
    pub session: bool,
    /// Time since the last completed handshake.
    pub last_handshake: Option<Duration>,
    /// Time since the last authenticated packet from it.
    pub last_received: Option<Duration>,
    /// Bytes of IP packets received from it.
    pub rx_bytes: u64,
    /// Bytes of IP packets sent to it.
    pub tx_bytes: u64,
    /// Whether the coordinator says that it is online; `None`: not heard yet.
    pub online: Option<bool>,
    /// The endpoints tried.
    pub candidates: Vec<CandidateStatus>,
    /// What it says of itself as a router.
    pub fitness: Fitness,
}

/// Which way data to a peer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathStatus {
    /// Straight.
    Direct {
        /// To this endpoint.
        endpoint: Endpoint,
        /// Sent over the relay as well, because it does not answer right now.
        doubtful: bool,
    },
    /// Through a relay.
    Relay(RelayId),
    /// Not at all, yet.
    None,
}

/// One endpoint of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandidateStatus {
    /// Where.
    pub endpoint: Endpoint,
    /// How it was learned.
    pub origin: &'static str,
    /// `proved`, `trying`, `silent`.
    pub state: &'static str,
    /// Round-trip time, if it answered.
    pub rtt: Option<Duration>,
}
