//! The packet path in numbers: how packets are moved, and what was counted on the way.

use prost::Message;
use serde::Serialize;

/// How packets are moved: what was asked for and what the kernel has.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct DataPlaneStatus {
    /// Queues of the device, each with threads and sockets of its own.
    #[prost(uint32, tag = "1")]
    pub threads: u32,
    /// TCP super-packets between us and the host.
    #[prost(bool, tag = "2")]
    pub tun_tcp: bool,
    /// UDP super-packets between us and the host.
    #[prost(bool, tag = "3")]
    pub tun_udp: bool,
    /// Runs of datagrams sent by one call. Ends when a driver refuses it.
    #[prost(bool, tag = "4")]
    pub udp_gso: bool,
    /// Runs of datagrams received by one call.
    #[prost(bool, tag = "5")]
    pub udp_gro: bool,
}

/// A counter.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct Counter {
    /// Of what.
    #[prost(string, tag = "1")]
    pub name: String,
    /// How many.
    #[prost(uint64, tag = "2")]
    pub count: u64,
}

/// What a rule of the policy has let in.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct RuleStatus {
    /// Its line in the policy text.
    #[prost(uint32, tag = "1")]
    pub line: u32,
    /// Flows that began.
    #[prost(uint64, tag = "2")]
    pub flows: u64,
    /// Packets of those flows that came in.
    #[prost(uint64, tag = "3")]
    pub packets: u64,
    /// Bytes of those packets.
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
}
