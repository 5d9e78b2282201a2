//! What goes into the engine and what comes out, as values.

use crate::path::probe::Fitness;
use meshd_proto::{
    Endpoint, Hint, NetworkId, NetworkMap, NodeId, NodeKey, NodeSecret, Prefix, RelayId, UnixSeconds,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One hop outside the mesh: where a datagram came from, or where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// Straight over UDP.
    Udp(Endpoint),
    /// Through a relay.
    Relay {
        /// The relay.
        relay: RelayId,
        /// The node at the other side of it. As a source this is what the relay says: the sender that
        /// it admitted. Nothing here trusts it further than an UDP source address.
        peer: NodeKey,
    },
}

/// Where a datagram came from.
pub type Source = Via;
/// Where a datagram goes.
pub type Destination = Via;

impl Via {
    /// Whether no relay is in between.
    pub const fn is_direct(&self) -> bool {
        matches!(self, Self::Udp(_))
    }
}

/// What stays the same for the life of an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// This node's WireGuard key.
    pub secret: NodeSecret,
    /// The mesh. Maps of another one are refused.
    pub network: NetworkId,
    /// WireGuard preshared keys of single peers (32 bytes each), for other makes of WireGuard.
    pub preshared: BTreeMap<NodeKey, Preshared>,
    /// Accept loopback addresses as endpoints of peers. For tests on one machine only.
    pub allow_loopback: bool,
    /// Renew the keys of a session in use this often; `None`: as WireGuard does it, every two minutes.
    pub rekey_after: Option<Duration>,
}

impl EngineConfig {
    /// The usual configuration: no preshared keys, no loopback.
    pub fn new(secret: NodeSecret, network: NetworkId) -> Self {
        Self { secret, network, preshared: BTreeMap::new(), allow_loopback: false, rekey_after: None }
    }
}

/// A WireGuard preshared key. It never prints.
#[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct Preshared(pub [u8; 32]);

impl std::fmt::Debug for Preshared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Preshared(redacted)")
    }
}

/// What the user of this node has chosen. Given whole; the engine compares it with what it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Use prefixes behind other nodes.
    pub accept_routes: bool,
    /// Send everything that no other route takes through this node.
    pub exit_node: Option<NodeId>,
    /// Prefixes not to use although accepted: the same range is connected here, and local wins.
    pub refused_routes: Vec<Prefix>,
    /// What this node advertises, approved or not: a peer's endpoint list cannot make it probe there.
    pub advertised: Vec<Prefix>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { accept_routes: true, exit_node: None, refused_routes: Vec::new(), advertised: Vec::new() }
    }
}

/// What happened outside.
#[derive(Clone, Debug)]
pub enum Input {
    /// The link changed in a way that the local addresses do not show: another uplink behind the same
    /// address, a resume from suspend.
    LinkChanged,
    /// The network map, whole. Applied by comparing it with the one before.
    Map(Arc<NetworkMap>),
    /// Where peers may be reached right now.
    Hints(Vec<Hint>),
    /// What the user chose.
    Settings(Settings),
    /// Local addresses with the port of our UDP sockets. A change is a link event.
    LocalEndpoints(Vec<Endpoint>),
    /// A router maps this outside endpoint to our port, or no longer.
    PortMapped(Option<Endpoint>),
    /// The host resolved a relay's names: its addresses with the relay's UDP port.
    RelayAddresses {
        /// The relay.
        relay: RelayId,
        /// Its addresses; the same ones answer STUN.
        addrs: Vec<Endpoint>,
    },
    /// We are attached to that relay: [`Destination::Relay`] works.
    RelayUp(RelayId),
    /// We no longer are.
    RelayDown(RelayId),
    /// A relay that we are attached to stays silent under traffic, or answers again.
    RelayDoubtful {
        /// Which.
        relay: RelayId,
        /// Silent.
        doubtful: bool,
    },
    /// A relay that we are attached to says that it does not know that peer.
    RelayPeerGone {
        /// Which relay.
        relay: RelayId,
        /// The peer.
        peer: NodeKey,
    },
    /// Whether this node is fit to carry flows for others: it says so in every probe.
    Fitness(Fitness),
    /// A datagram at one of the sockets of [`Event::Scatter`].
    Scattered {
        /// Which socket, by the host's number.
        socket: u64,
        /// Who sent it.
        from: Endpoint,
        /// The datagram.
        payload: Vec<u8>,
    },
    /// A datagram that the data threads handed up ([`data::OpenSink::hand_up`](crate::data::OpenSink::hand_up)),
    /// or any datagram at all: data packets are opened here too, only slower.
    Datagram {
        /// Where it came from.
        from: Source,
        /// The datagram.
        payload: Vec<u8>,
    },
    /// A packet from the host for a peer that has no session yet
    /// ([`data::SealSink::hand_up`](crate::data::SealSink::hand_up)), or any packet at all.
    Outbound {
        /// The IP packet.
        packet: Vec<u8>,
    },
    /// An authenticated packet came on another way than the current path
    /// ([`data::OpenSink::seen`](crate::data::OpenSink::seen)).
    PeerSeen {
        /// Who sent it.
        peer: NodeId,
        /// Which way it came.
        from: Source,
    },
    /// Connect to a peer without a packet, and ping it (`meshd ping`): [`Event::Pong`] is the answer, on
    /// whatever way it comes first. A peer that runs plain WireGuard has no answer to give.
    Connect(NodeId),
    /// The preshared keys of single peers, all of them. Sessions that stand keep the key they began with.
    Preshared(BTreeMap<NodeKey, Preshared>),
    /// The wall clock, for the expiry of keys. Send it at start, once a minute and after a clock jump.
    WallClock(UnixSeconds),
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: Destination,
    /// The datagram.
    pub payload: Vec<u8>,
}

/// What the host should know or do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Ask the coordinator for hints about this node, now and while it is in use.
    Interest(NodeId),
    /// Our own endpoints, local and mapped: report them to the coordinator.
    EndpointsChanged(Vec<Endpoint>),
    /// The relay where peers should send to us: attach there and report it to the coordinator.
    HomeRelay(RelayId),
    /// A peer is reached through this relay, or it is our backup: attach to it, and say so by
    /// [`Input::RelayUp`].
    WantRelay(RelayId),
    /// Open that many sockets, send `payload` to `to` from each, and hand over what comes in there for the
    /// next [`SCATTER_LIFE`](crate::path::birthday::SCATTER_LIFE) by [`Input::Scattered`].
    Scatter {
        /// A peer's outside endpoint.
        to: Endpoint,
        /// A sealed probe.
        payload: Vec<u8>,
        /// How many.
        sockets: usize,
    },
    /// From now on datagrams for `endpoint` leave by that socket of [`Event::Scatter`], and the others of
    /// the same scattering are closed. Do this before the next transmit.
    Adopt {
        /// The host's number of the socket.
        socket: u64,
        /// The peer's endpoint.
        endpoint: Endpoint,
    },
    /// Datagrams for `endpoint` leave by the node's own socket again: the one of [`Event::Adopt`] is silent.
    /// Do this before the next transmit.
    Release {
        /// The peer's endpoint.
        endpoint: Endpoint,
    },
    /// A decrypted packet, checked and filtered, for the host.
    Deliver(Vec<u8>),
    /// Data to a peer goes another way from now on.
    PathChanged {
        /// The peer.
        peer: NodeId,
        /// The way before.
        from: Option<Destination>,
        /// The way now.
        to: Option<Destination>,
        /// Why, for a person.
        why: PathReason,
    },
    /// A session with that peer is established.
    PeerUp(NodeId),
    /// There is no session with it any more.
    PeerDown(NodeId),
    /// A change of policy cut live flows.
    FlowsCut {
        /// How many.
        count: usize,
    },
    /// A ping answer of the peer itself (not of its kernel): it is alive on that path.
    Pong {
        /// The peer.
        peer: NodeId,
        /// Which way.
        via: Destination,
        /// Round-trip time.
        rtt: Duration,
    },
}

/// Why data goes another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathReason {
    /// The first way there is.
    First,
    /// A direct path was proved.
    Proved,
    /// A better one than before was proved.
    Better,
    /// Sent data stays without an answer: the relay is used as well.
    Doubtful,
    /// The doubt is gone.
    Recovered,
    /// Nothing came back for too long.
    Dead,
    /// Not used for a while: the next packet goes over the relay too.
    Idle,
    /// The peer roamed (plain WireGuard).
    Roamed,
    /// The relay is gone, or the peer moved to another.
    RelayChanged,
    /// The relay is silent: the backup is used as well.
    RelayDoubtful,
    /// The relay answers again.
    RelayRecovered,
    /// The peer left the map, its key ended, or its session did.
    Gone,
}

impl PathReason {
    /// A few words for a person.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first path",
            Self::Proved => "direct path proved",
            Self::Better => "better path proved",
            Self::Doubtful => "no answer for a moment: relay used as well",
            Self::Recovered => "path answers again",
            Self::Dead => "no answer: path given up",
            Self::Idle => "idle",
            Self::Roamed => "peer moved",
            Self::RelayChanged => "relay changed",
            Self::RelayDoubtful => "the relay is silent for a moment: backup relay used as well",
            Self::RelayRecovered => "the relay answers again",
            Self::Gone => "peer gone",
        }
    }
}
