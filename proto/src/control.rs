//! Messages of the control channel, inside the Noise channel of [`crate::channel`].
//!
//! A node speaks first: [`Hello`]. The coordinator answers [`ToNode::Welcome`] or [`ToNode::Refused`]; then map
//! updates flow, and each side may send the others at any time. A kind of message that the receiver
//! does not know decodes to [`crate::DecodeError::UnknownKind`] and is skipped.

use crate::expose::{Claim, ExitOffer};
use crate::{
    DecodeError, Endpoint, Epoch, Hint, Hostname, MapDigest, MeshAddrs, NetworkId, NodeId, NodeKey, Prefix,
    RelayId, UnixSeconds, Version, netmap::MapUpdate,
};
use zeroize::Zeroizing;

/// The version of this protocol. A coordinator serves this one and the one before.
pub const PROTOCOL_VERSION: u32 = 1;

/// The label of the proof that a node holds its node key.
pub const NODE_KEY_PROOF: &str = "meshd node key proof v1";

/// From a node to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToCoordinator {
    /// First message of a session.
    Hello(Box<Hello>),
    /// The node has applied and stored the map up to here.
    Applied(MapPosition),
    /// The node's map cannot take an update: send a snapshot.
    NeedSnapshot,
    /// What the node offers from now on; replaces what it offered before.
    Advertise(Offer),
    /// Where the node may be reached (soft state).
    Endpoints {
        /// At most [`crate::limits::MAX_ENDPOINTS`].
        endpoints: Vec<Endpoint>,
        /// Where it listens for relayed packets.
        home_relay: Option<RelayId>,
    },
    /// The node wants to talk to these: send their hints now and for a while.
    Interest(Vec<NodeId>),
    /// Which ways data to peers goes now (soft state, for people to see); replaces what was told before.
    /// At most [`crate::limits::MAX_PATHS`].
    Paths(Vec<PathReport>),
    /// Answer to [`ToNode::Keepalive`].
    Alive {
        /// As received.
        nonce: u64,
    },
    /// The node leaves the mesh for good.
    Leave,
    /// A question with an answer.
    Call {
        /// Chosen by the node; the reply carries it.
        id: u64,
        /// The question.
        call: Call,
    },
}

/// Which way data from a node to one peer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathReport {
    /// The peer.
    pub peer: NodeId,
    /// The way.
    pub via: PathVia,
    /// Round-trip time on it in microseconds, where it was measured.
    pub rtt_us: Option<u32>,
}

/// A way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathVia {
    /// Straight to this endpoint.
    Direct(Endpoint),
    /// Through a relay.
    Relay(RelayId),
}

/// The first message of a session. Nothing in it is believed before the channel has proved the machine key.
#[derive(Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the node.
    pub protocol: u32,
    /// The WireGuard key it wants to be known by.
    pub node_key: NodeKey,
    /// MAC with [`NODE_KEY_PROOF`] under DH(node key, coordinator key) over the channel's handshake hash,
    /// the machine key and the node key.
    pub node_key_proof: [u8; 32],
    /// The secret of a join token, for a node that is new.
    pub token_secret: Option<Zeroizing<Vec<u8>>>,
    /// What the machine calls itself.
    pub hostname: Hostname,
    /// A hash of the machine's own id, to notice a cloned disk.
    pub machine_id: [u8; 32],
    /// Version of the software, for display.
    pub client_version: String,
    /// Operating system, for display.
    pub os: String,
    /// Whether the node disappears with its session.
    pub ephemeral: bool,
    /// What it offers.
    pub offer: Offer,
    /// The map it has stored.
    pub resume: Option<MapPosition>,
}

impl std::fmt::Debug for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hello")
            .field("protocol", &self.protocol)
            .field("node_key", &self.node_key)
            .field("hostname", &self.hostname)
            .field("token", &self.token_secret.as_ref().map(|_| "redacted"))
            .field("offer", &self.offer)
            .field("resume", &self.resume)
            .finish_non_exhaustive()
    }
}

/// What a node offers to the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Offer {
    /// Prefixes behind it; default routes are not among them.
    pub routes: Vec<Prefix>,
    /// Whether it would carry traffic to the internet.
    pub exit_node: bool,
    /// The name it asks for; `None`: keep the present one.
    pub hostname: Option<Hostname>,
    /// That it is a public exit.
    pub exit: Option<ExitOffer>,
    /// What it wants to publish on exits.
    pub claims: Vec<Claim>,
}

/// How far a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapPosition {
    /// Which mesh.
    pub network: NetworkId,
    /// Which life of the log.
    pub epoch: Epoch,
    /// How far in it.
    pub version: Version,
    /// The digest of the map there.
    pub digest: MapDigest,
}

/// A question of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Join a plain WireGuard device through the asking node. The coordinator sees the public key only.
    CreateDevice {
        /// Its name in the mesh.
        name: Hostname,
        /// Its WireGuard public key.
        key: NodeKey,
    },
    /// Remove a device that was joined through the asking node.
    RemoveDevice {
        /// Its name in the mesh.
        name: Hostname,
    },
}

/// The answer to a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, nothing to say.
    Done,
    /// A device was created.
    Device {
        /// The device's id.
        node: NodeId,
        /// Its mesh addresses.
        addrs: MeshAddrs,
    },
    /// Not done.
    Failed {
        /// What happened and why.
        message: String,
        /// What to do.
        hint: String,
    },
}

/// From the coordinator to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToNode {
    /// The session stands.
    Welcome {
        /// Who the node is.
        node: NodeId,
        /// In which mesh.
        network: NetworkId,
        /// The coordinator's clock.
        time: UnixSeconds,
    },
    /// The session ends; trying again without a change is useless unless the code says so.
    Refused(Refusal),
    /// An update of the map, maybe in parts.
    Map(MapUpdate),
    /// Where peers may be reached.
    Hints(Vec<Hint>),
    /// The coordinator is alive and believes the node's map is here.
    Keepalive {
        /// What the map should be at.
        position: MapPosition,
        /// The coordinator's clock.
        time: UnixSeconds,
        /// To be sent back.
        nonce: u64,
    },
    /// A relay permit: [`crate::permit::SignedPermit`] in its wire form.
    Permit(Vec<u8>),
    /// The node is out of the mesh.
    Revoked {
        /// Why.
        reason: String,
    },
    /// The answer to a [`ToCoordinator::Call`].
    Reply {
        /// As in the call.
        id: u64,
        /// The answer.
        answer: Answer,
    },
}

/// Why a session was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// What happened and why, for people.
    pub message: String,
    /// What to do, for people.
    pub hint: String,
}

/// Why a session was refused, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// The node is new and brought no token.
    TokenNeeded,
    /// No such token, or revoked.
    TokenUnknown,
    /// The token's time is over.
    TokenExpired,
    /// The token was used as often as it may.
    TokenUsedUp,
    /// The node waits for an admin. Trying again later is right.
    ApprovalPending,
    /// The node key belongs to another node.
    KeyInUse,
    /// The same machine key came from another machine: a cloned disk.
    ClonedMachine,
    /// The node was removed or revoked.
    Removed,
    /// The node key is past its time.
    KeyExpired,
    /// The node's protocol is too old or too new.
    ProtocolVersion,
    /// The request makes no sense.
    BadRequest,
    /// The coordinator is overloaded or has an internal error. Trying again later is right.
    TryLater,
}

impl RefusalCode {
    /// Whether the same request may succeed later without anybody changing it.
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::ApprovalPending | Self::TryLater)
    }
}

impl ToCoordinator {
    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        crate::wire::control::encode_to_coordinator(self)
    }

    /// Reads [`Self::encode`].
    ///
    /// # Errors
    /// Names the field that is missing, wrong or too large.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        crate::wire::control::decode_to_coordinator(bytes)
    }
}

impl ToNode {
    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        crate::wire::control::encode_to_node(self)
    }

    /// Reads [`Self::encode`].
    ///
    /// # Errors
    /// Names the field that is missing, wrong or too large.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        crate::wire::control::decode_to_node(bytes)
    }
}

impl crate::NetworkMap {
    /// Where this map is.
    pub fn position(&self) -> MapPosition {
        MapPosition { network: self.network, epoch: self.epoch, version: self.version, digest: self.digest() }
    }
}

#[cfg(test)]
mod tests;
