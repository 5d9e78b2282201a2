//! Relays of the mesh, as the API shows and takes them.

use serde::{Deserialize, Serialize};

/// A relay of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayView {
    /// How people call it.
    pub name: String,
    /// Where nodes reach it.
    pub hosts: Vec<String>,
    /// Its public key.
    pub key: String,
    /// UDP port of relay and STUN.
    pub udp_port: u16,
    /// UDP port that answers STUN only; 0: none.
    pub stun_port: u16,
    /// TCP port for TLS and WebSocket; 0: none.
    pub tcp_port: u16,
}

impl RelayView {
    pub(crate) fn new(relay: &meshd_proto::netmap::Relay) -> Self {
        Self {
            name: relay.name.clone(),
            hosts: relay.hosts.clone(),
            key: relay.key.to_string(),
            udp_port: relay.udp_port,
            stun_port: relay.alt_udp_port,
            tcp_port: relay.tls_port,
        }
    }
}

/// A relay to be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayBody {
    /// How you call it; unique.
    pub name: String,
    /// Names or addresses where nodes reach it.
    pub hosts: Vec<String>,
    /// Its public key.
    pub key: String,
    /// UDP port of relay and STUN.
    pub udp_port: u16,
    /// UDP port that answers STUN only; 0: none.
    #[serde(default)]
    pub stun_port: u16,
    /// TCP port for TLS and WebSocket; 0: none.
    #[serde(default)]
    pub tcp_port: u16,
}

/// A relay that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayAdded {
    /// As nodes learn of it.
    pub relay: RelayView,
    /// The command that starts it.
    pub command: String,
}
