//! How a machine becomes a member, and what a member may say of itself.

use meshd_proto::{Hostname, MachineKey, MeshAddrs, NodeId, NodeKey, Prefix};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A machine asks to be let in, or a member says that it is back. The control channel has proved both
/// keys before.
#[derive(Clone, Debug)]
pub struct RegisterRequest {
    /// Proved by the Noise handshake.
    pub machine_key: MachineKey,
    /// Proved by the registration message.
    pub node_key: NodeKey,
    /// The join token's secret.
    pub token: Option<[u8; 32]>,
    /// What the machine calls itself; made into a valid, unique name.
    pub hostname: String,
    /// Hash of the machine's own id.
    pub machine_id_hash: Option<[u8; 32]>,
    /// Prefixes behind it, without default routes.
    pub advertised: BTreeSet<Prefix>,
    /// Offers itself as exit node.
    pub exit: bool,
    /// Wants to be forgotten when it stays away (the token may demand it, too).
    pub ephemeral: bool,
    /// For display.
    pub os: String,
    /// For display.
    pub client_version: String,
    /// Where it came from, for the audit log.
    pub remote: Option<IpAddr>,
}

/// A machine is a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its id.
    pub node: NodeId,
    /// Its name; not always what it asked for.
    pub name: Hostname,
    /// Its addresses.
    pub addrs: MeshAddrs,
    /// Whether it may talk to others yet.
    pub admitted: bool,
    /// Whether it was a member before.
    pub rejoined: bool,
}
