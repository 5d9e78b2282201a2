//! Messages about paths: pings, the network a node is in, which ways data went, draining a router.

use prost::Message;
use serde::Serialize;

/// A ping through the mesh.
#[derive(Clone, PartialEq, Message)]
pub struct Ping {
    /// Name or mesh address.
    #[prost(string, tag = "1")]
    pub target: String,
    /// How many milliseconds to wait for the answer.
    #[prost(uint32, tag = "2")]
    pub timeout_ms: u32,
}

/// A ping's result.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct Pong {
    /// The peer.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its address.
    #[prost(string, tag = "2")]
    pub address: String,
    /// Whether an answer came.
    #[prost(bool, tag = "3")]
    pub answered: bool,
    /// Round trip in microseconds.
    #[prost(uint64, tag = "4")]
    pub rtt_us: u64,
    /// `direct`, `relay` or `none`.
    #[prost(string, tag = "5")]
    pub path: String,
    /// The endpoint or relay.
    #[prost(string, tag = "6")]
    pub via: String,
}

/// Whose path, since when.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PathQuery {
    /// Name or mesh address.
    #[prost(string, tag = "1")]
    pub target: String,
    /// How many seconds back.
    #[prost(uint64, tag = "2")]
    pub since_secs: u64,
}

/// Whether to take new flows.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Drain {
    /// No new ones.
    #[prost(bool, tag = "1")]
    pub on: bool,
}

/// What kind of network this node is in.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct Netcheck {
    /// IPv4 and IPv6, in this order.
    #[prost(message, repeated, tag = "1")]
    pub families: Vec<FamilyCheck>,
    /// The relays.
    #[prost(message, repeated, tag = "2")]
    pub relays: Vec<RelayCheck>,
    /// Whether a coordinator session stands.
    #[prost(bool, tag = "3")]
    pub coordinator: bool,
    /// What a router maps for us: `upnp`, `nat-pmp`, `pcp`, or why not.
    #[prost(string, tag = "4")]
    pub port_mapping: String,
}

/// One address family.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct FamilyCheck {
    /// `IPv4` or `IPv6`.
    #[prost(string, tag = "1")]
    pub family: String,
    /// Whether any STUN server answered over UDP.
    #[prost(bool, tag = "2")]
    pub udp: bool,
    /// How the NAT maps (RFC 4787): `none`, `endpoint-independent`, `endpoint-dependent`, `unknown`.
    #[prost(string, tag = "3")]
    pub mapping: String,
    /// How it filters: `not by port`, `by port`, `unknown`.
    #[prost(string, tag = "4")]
    pub filtering: String,
    /// The outside endpoints that were seen.
    #[prost(string, repeated, tag = "5")]
    pub seen: Vec<String>,
    /// How many different server addresses answered: with one, the mapping is judged by port only.
    #[prost(uint32, tag = "6")]
    pub servers: u32,
}

/// One relay.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct RelayCheck {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// `home`, `backup`, `attached`, or empty.
    #[prost(string, tag = "2")]
    pub role: String,
    /// Round trip in microseconds; absent: it did not answer.
    #[prost(uint64, optional, tag = "3")]
    pub rtt_us: Option<u64>,
    /// Whether it is silent under traffic.
    #[prost(bool, tag = "4")]
    pub doubtful: bool,
}

/// Which ways data to one node went.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct PathHistory {
    /// The node.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Oldest first.
    #[prost(message, repeated, tag = "2")]
    pub moments: Vec<PathMoment>,
}

/// One change of a path, or a look at it.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct PathMoment {
    /// Seconds since 1970.
    #[prost(uint64, tag = "1")]
    pub at: u64,
    /// `direct`, `relay` or `none`.
    #[prost(string, tag = "2")]
    pub path: String,
    /// The endpoint or relay.
    #[prost(string, tag = "3")]
    pub via: String,
    /// Why it changed; `still` for a look.
    #[prost(string, tag = "4")]
    pub why: String,
    /// Round trip in microseconds, where it was measured.
    #[prost(uint64, optional, tag = "5")]
    pub rtt_us: Option<u64>,
}
