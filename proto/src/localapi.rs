//! The local API between the command line and the daemon: length-prefixed protobuf on a unix socket.
//!
//! A client sends one [`Request`]; the daemon answers with [`Response`]s, the last of which has
//! `last = true`. The same structs print as JSON for `--json`: field names are part of the interface.
//! Who may ask what is decided by the daemon from the peer's credentials, never by what is sent.

mod counters;
mod paths;
mod settings;

pub use counters::*;
pub use paths::*;
pub use settings::*;

use prost::{Message, Oneof};
use serde::Serialize;

/// Where the daemon listens.
pub const SOCKET: &str = "/run/meshd/api.sock";

/// Length prefix of a message: four bytes, big-endian.
pub const LENGTH_PREFIX: usize = 4;

/// What a client asks.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// The question.
    #[prost(oneof = "Ask", tags = "1, 2, 3, 4, 5, 6, 7, 8, 20, 40, 41, 42, 60")]
    pub ask: Option<Ask>,
}

/// The questions.
#[derive(Clone, PartialEq, Oneof)]
pub enum Ask {
    /// How is it?
    #[prost(message, tag = "1")]
    Status(Empty),
    /// Join or come back up, with settings to change. Answers with progress until names and peers work.
    #[prost(message, tag = "2")]
    Up(Up),
    /// Leave the host as it was; the daemon stays, idle.
    #[prost(message, tag = "3")]
    Down(Empty),
    /// Change settings of a running node.
    #[prost(message, tag = "4")]
    Set(Settings),
    /// Send one probe to a node and report.
    #[prost(message, tag = "5")]
    Ping(Ping),
    /// The daemon's last log lines.
    #[prost(message, tag = "6")]
    Logs(Logs),
    /// Join a plain WireGuard device through this node.
    #[prost(message, tag = "7")]
    CreateDevice(Device),
    /// Leave the mesh for good and forget the keys.
    #[prost(message, tag = "8")]
    Logout(Empty),
    /// How is a name answered, and why?
    #[prost(message, tag = "20")]
    Name(NameQuestion),
    /// What kind of network is this?
    #[prost(message, tag = "40")]
    Netcheck(Empty),
    /// Which ways did data to a node go lately, and why?
    #[prost(message, tag = "41")]
    PathHistory(PathQuery),
    /// Take no new flows for the networks behind this node, or take them again.
    #[prost(message, tag = "42")]
    Drain(Drain),
    /// Publish, as long as the asking client stays. Answers with what became of it, each time it changes.
    #[prost(message, tag = "60")]
    Expose(Expose),
}

/// What to publish.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Expose {
    /// The claims; the daemon keeps them as long as the client stays connected.
    #[prost(message, repeated, tag = "1")]
    pub claims: Vec<crate::expose::ClaimMsg>,
}

/// What became of the claims of one client.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct Exposed {
    /// One for each claim that the coordinator has answered.
    #[prost(message, repeated, tag = "1")]
    pub claims: Vec<crate::expose::Published>,
    /// Whether the coordinator is connected now.
    #[prost(bool, tag = "2")]
    pub connected: bool,
}

/// Nothing to say.
#[derive(Clone, Copy, PartialEq, Message, Serialize)]
pub struct Empty {}

/// Join, or come back up.
#[derive(Clone, PartialEq, Message)]
pub struct Up {
    /// A join token, when the node is new. Never logged.
    #[prost(string, optional, tag = "1")]
    pub token: Option<String>,
    /// Settings to change before.
    #[prost(message, optional, tag = "2")]
    pub settings: Option<Settings>,
}

/// A question about a name, asked as this host would ask it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NameQuestion {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Record type, such as `A`.
    #[prost(string, tag = "2")]
    pub kind: String,
}

/// How a name is answered.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct NameAnswer {
    /// Why it is so, step by step.
    #[prost(string, repeated, tag = "1")]
    pub steps: Vec<String>,
    /// The response code in words.
    #[prost(string, tag = "2")]
    pub code: String,
    /// Whether the mesh itself has the word about it.
    #[prost(bool, tag = "3")]
    pub authoritative: bool,
    /// The answer section, as in a zone file.
    #[prost(string, repeated, tag = "4")]
    pub records: Vec<String>,
    /// What the code does not say, or empty.
    #[prost(string, tag = "5")]
    pub why: String,
    /// Time to the reply in microseconds.
    #[prost(uint64, tag = "6")]
    pub took_us: u64,
}

/// Log lines.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Logs {
    /// How many of the last lines.
    #[prost(uint32, tag = "1")]
    pub lines: u32,
    /// Whether to go on with new ones.
    #[prost(bool, tag = "2")]
    pub follow: bool,
}

/// A plain WireGuard device.
#[derive(Clone, PartialEq, Message)]
pub struct Device {
    /// Its name in the mesh.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its public key as `wg pubkey` prints it.
    #[prost(string, tag = "2")]
    pub public_key: String,
    /// A WireGuard preshared key of 32 bytes, for it and this node only. Never logged, never sent on.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub preshared_key: Option<Vec<u8>>,
}

/// One answer.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// Whether nothing follows.
    #[prost(bool, tag = "1")]
    pub last: bool,
    /// The answer.
    #[prost(oneof = "Tell", tags = "2, 3, 4, 5, 6, 7, 8, 20, 40, 41, 60")]
    pub tell: Option<Tell>,
}

/// The answers.
#[derive(Clone, PartialEq, Oneof)]
pub enum Tell {
    /// Done, with nothing to say.
    #[prost(message, tag = "2")]
    Done(Empty),
    /// Not done.
    #[prost(message, tag = "3")]
    Failed(Failure),
    /// What is happening now.
    #[prost(string, tag = "4")]
    Progress(String),
    /// How it is.
    #[prost(message, tag = "5")]
    Status(Box<Status>),
    /// A ping's result.
    #[prost(message, tag = "6")]
    Pong(Pong),
    /// A log line.
    #[prost(string, tag = "7")]
    LogLine(String),
    /// A device was created.
    #[prost(message, tag = "8")]
    Device(DeviceConfig),
    /// How a name is answered.
    #[prost(message, tag = "20")]
    Named(NameAnswer),
    /// What kind of network this is.
    #[prost(message, tag = "40")]
    Netcheck(Netcheck),
    /// Which ways data went.
    #[prost(message, tag = "41")]
    PathHistory(PathHistory),
    /// What became of what is published.
    #[prost(message, tag = "60")]
    Exposed(Exposed),
}

/// Something did not work.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct Failure {
    /// What happened and why.
    #[prost(string, tag = "1")]
    pub message: String,
    /// What to do.
    #[prost(string, tag = "2")]
    pub hint: String,
    /// Exit status for the command line.
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
}

/// How a node is.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Status {
    /// `stopped`, `needs-token`, `connecting`, `up`, `up-offline` (links run, the coordinator is away) or `refused`.
    #[prost(string, tag = "1")]
    pub state: String,
    /// Version of the daemon.
    #[prost(string, tag = "2")]
    pub version: String,
    /// This node.
    #[prost(message, optional, tag = "3")]
    #[serde(rename = "self")]
    pub me: Option<SelfStatus>,
    /// The coordinator.
    #[prost(message, optional, tag = "4")]
    pub coordinator: Option<CoordinatorStatus>,
    /// The peers.
    #[prost(message, repeated, tag = "5")]
    pub peers: Vec<PeerStatus>,
    /// DNS on this host.
    #[prost(message, optional, tag = "6")]
    pub dns: Option<DnsStatus>,
    /// What needs somebody's attention.
    #[prost(message, repeated, tag = "7")]
    pub problems: Vec<Problem>,
    /// The settings in force.
    #[prost(message, optional, tag = "8")]
    pub settings: Option<Settings>,
    /// Packets dropped since start.
    #[prost(message, repeated, tag = "9")]
    pub drops: Vec<Counter>,
    /// What rules of the policy have let in since they came, the busiest where there are very many.
    #[prost(message, repeated, tag = "11")]
    pub rules: Vec<RuleStatus>,
    /// In userspace mode: what stands in for the interface.
    #[prost(message, optional, tag = "10")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userspace: Option<UserspaceStatus>,
    /// How packets are moved; absent while the node is down.
    #[prost(message, optional, tag = "20")]
    pub data_plane: Option<DataPlaneStatus>,
}

/// Userspace mode: no interface, no route, no resolver on this host.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct UserspaceStatus {
    /// Proxies, as addresses that programs take: `socks5h://127.0.0.1:1080`.
    #[prost(string, repeated, tag = "1")]
    pub proxies: Vec<String>,
    /// Ports of the mesh addresses and where they end: `8080=127.0.0.1:3000`.
    #[prost(string, repeated, tag = "2")]
    pub forwards: Vec<String>,
    /// TCP connections through the stack now.
    #[prost(uint64, tag = "3")]
    pub connections: u64,
    /// Ports that the stack listens on.
    #[prost(uint64, tag = "4")]
    pub listeners: u64,
    /// UDP sockets of the stack.
    #[prost(uint64, tag = "5")]
    pub datagram_sockets: u64,
}

/// This node.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct SelfStatus {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its name with the mesh's domain.
    #[prost(string, tag = "3")]
    pub fqdn: String,
    /// Mesh addresses, IPv4 first.
    #[prost(string, repeated, tag = "4")]
    pub addresses: Vec<String>,
    /// WireGuard public key.
    #[prost(string, tag = "5")]
    pub node_key: String,
    /// Tags.
    #[prost(string, repeated, tag = "6")]
    pub tags: Vec<String>,
    /// Advertised routes that are approved.
    #[prost(string, repeated, tag = "7")]
    pub approved_routes: Vec<String>,
    /// Advertised routes that wait for an admin.
    #[prost(string, repeated, tag = "8")]
    pub pending_routes: Vec<String>,
    /// Where it may be reached from outside.
    #[prost(string, repeated, tag = "9")]
    pub endpoints: Vec<String>,
    /// UDP port.
    #[prost(uint32, tag = "10")]
    pub udp_port: u32,
    /// When the node key ends, in seconds since 1970; absent: never.
    #[prost(uint64, optional, tag = "11")]
    pub key_expires: Option<u64>,
    /// Name of the relay it listens on.
    #[prost(string, tag = "12")]
    pub home_relay: String,
    /// Whether it is being drained: other routers of its networks take the new flows.
    #[prost(bool, tag = "13")]
    pub draining: bool,
}

/// The coordinator as seen from here.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct CoordinatorStatus {
    /// The address in use, or the first that was tried.
    #[prost(string, tag = "1")]
    pub address: String,
    /// Whether a session stands.
    #[prost(bool, tag = "2")]
    pub connected: bool,
    /// Why not.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// The version of the map in force.
    #[prost(uint64, tag = "4")]
    pub map_version: u64,
    /// Seconds for which the stored map may still be used without the coordinator.
    #[prost(uint64, tag = "5")]
    pub lease_left: u64,
    /// The coordinator's clock minus this host's, in seconds.
    #[prost(int64, tag = "6")]
    pub clock_offset: i64,
}

/// A peer.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct PeerStatus {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Mesh addresses, IPv4 first.
    #[prost(string, repeated, tag = "3")]
    pub addresses: Vec<String>,
    /// WireGuard public key.
    #[prost(string, tag = "4")]
    pub node_key: String,
    /// `direct`, `relay` or `none`.
    #[prost(string, tag = "5")]
    pub path: String,
    /// The endpoint or relay in use.
    #[prost(string, tag = "6")]
    pub via: String,
    /// Why the path is not direct, or why there is none.
    #[prost(string, tag = "7")]
    pub reason: String,
    /// Seconds since the last WireGuard handshake; absent: none yet.
    #[prost(uint64, optional, tag = "8")]
    pub handshake_age: Option<u64>,
    /// Bytes received.
    #[prost(uint64, tag = "9")]
    pub rx_bytes: u64,
    /// Bytes sent.
    #[prost(uint64, tag = "10")]
    pub tx_bytes: u64,
    /// Round trip of the path in microseconds; absent: not measured.
    #[prost(uint64, optional, tag = "11")]
    pub rtt_us: Option<u64>,
    /// Prefixes behind it that this node may use; those that it does not use are in `unused_routes`, too.
    #[prost(string, repeated, tag = "12")]
    pub routes: Vec<String>,
    /// Whether it carries this node's internet traffic.
    #[prost(bool, tag = "13")]
    pub exit_node: bool,
    /// Who it belongs to.
    #[prost(string, tag = "14")]
    pub owner: String,
    /// `meshd` or `wireguard`.
    #[prost(string, tag = "15")]
    pub kind: String,
    /// Those of `routes` that this node does not use, and why.
    #[prost(message, repeated, tag = "16")]
    pub unused_routes: Vec<UnusedRoute>,
}

/// A route that is offered to this node, and not used.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct UnusedRoute {
    /// The prefix.
    #[prost(string, tag = "1")]
    pub prefix: String,
    /// Why, in a few words.
    #[prost(string, tag = "2")]
    pub why: String,
}

/// DNS on this host.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct DnsStatus {
    /// How names of the mesh reach programs: `resolv.conf`, `systemd-resolved`, `off`.
    #[prost(string, tag = "1")]
    pub mode: String,
    /// The resolver's address.
    #[prost(string, tag = "2")]
    pub resolver: String,
    /// The mesh's domain.
    #[prost(string, tag = "3")]
    pub domain: String,
    /// Where other names go.
    #[prost(string, repeated, tag = "4")]
    pub upstreams: Vec<String>,
    /// What is wrong, or empty.
    #[prost(string, tag = "5")]
    pub problem: String,
    /// Domains with resolvers of their own.
    #[prost(message, repeated, tag = "6")]
    pub split: Vec<SplitStatus>,
    /// Resolvers that the mesh names for everything else; empty: `upstreams`.
    #[prost(string, repeated, tag = "7")]
    pub nameservers: Vec<String>,
    /// Domains that bare names are searched in.
    #[prost(string, repeated, tag = "8")]
    pub search: Vec<String>,
    /// Questions since start, by what became of them.
    #[prost(message, repeated, tag = "9")]
    pub counters: Vec<Counter>,
    /// Replies in the cache.
    #[prost(uint64, tag = "10")]
    pub cached_replies: u64,
    /// Bytes of them.
    #[prost(uint64, tag = "11")]
    pub cached_bytes: u64,
    /// How much of the mesh's names this host takes: `off`, `names`, `split` or `full`.
    #[prost(string, tag = "12")]
    pub scope: String,
    /// For whom else names are answered, in words; empty: nobody.
    #[prost(string, tag = "13")]
    pub lan: String,
    /// Where they ask.
    #[prost(string, repeated, tag = "14")]
    pub lan_addresses: Vec<String>,
    /// Why they cannot, or empty.
    #[prost(string, tag = "15")]
    pub lan_problem: String,
}

/// A domain with resolvers of its own.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct SplitStatus {
    /// The domain.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Its resolvers.
    #[prost(string, repeated, tag = "2")]
    pub resolvers: Vec<String>,
}

/// Something that needs attention.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct Problem {
    /// What.
    #[prost(string, tag = "1")]
    pub what: String,
    /// Why.
    #[prost(string, tag = "2")]
    pub why: String,
    /// What to do.
    #[prost(string, tag = "3")]
    pub help: String,
}

/// What a plain WireGuard device needs besides its own key.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct DeviceConfig {
    /// Its mesh addresses.
    #[prost(string, repeated, tag = "1")]
    pub addresses: Vec<String>,
    /// Public key of the node it joins through.
    #[prost(string, tag = "2")]
    pub peer_key: String,
    /// Where that node may be reached.
    #[prost(string, tag = "3")]
    pub endpoint: String,
    /// What to send there.
    #[prost(string, repeated, tag = "4")]
    pub allowed_ips: Vec<String>,
    /// The mesh's resolver.
    #[prost(string, repeated, tag = "5")]
    pub dns: Vec<String>,
    /// The mesh's domain.
    #[prost(string, tag = "6")]
    pub search: String,
}

impl Response {
    /// A final answer.
    pub const fn last(tell: Tell) -> Self {
        Self { last: true, tell: Some(tell) }
    }

    /// An answer with more to follow.
    pub const fn more(tell: Tell) -> Self {
        Self { last: false, tell: Some(tell) }
    }
}

impl Failure {
    /// A failure with the usual exit status 1.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), exit_code: 1 }
    }
}

/// A message with its length prefix, ready to be written.
pub fn frame(message: &impl Message) -> Vec<u8> {
    let len = message.encoded_len();
    let mut out = Vec::with_capacity(LENGTH_PREFIX + len);
    out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(message.encode_to_vec());
    out
}

/// The length behind a prefix.
///
/// # Errors
/// When it is more than [`crate::limits::MAX_LOCAL_MESSAGE`].
pub fn frame_len(prefix: [u8; LENGTH_PREFIX]) -> Result<usize, crate::DecodeError> {
    let len = u32::from_be_bytes(prefix) as usize;
    crate::wire::bounded("local message", len, crate::limits::MAX_LOCAL_MESSAGE)?;
    Ok(len)
}
