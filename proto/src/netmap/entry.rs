//! One entry of a map: the unit of change, of the digest and of what a node may see.

use super::{
    CoordinatorInfo, DnsConfig, FilterRule, Forward, Peer, RecordSet, RecordType, Relay, Route, SelfNode,
    Service,
};
use crate::{DnsName, NodeId, Prefix, RelayId, RuleId};
use std::net::IpAddr;

/// What an entry is about. Two entries with the same key are versions of one thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKey {
    /// [`Entry::Me`].
    Me,
    /// [`Entry::Peer`].
    Peer(NodeId),
    /// [`Entry::Route`]: the same prefix may lie behind several nodes.
    Route(Prefix, NodeId),
    /// [`Entry::FilterPresent`].
    FilterPresent,
    /// [`Entry::Rule`].
    Rule(RuleId),
    /// [`Entry::DnsConfig`].
    DnsConfig,
    /// [`Entry::Record`].
    Record(DnsName, RecordType),
    /// [`Entry::Relay`].
    Relay(RelayId),
    /// [`Entry::Service`].
    Service(DnsName),
    /// [`Entry::Gateway`].
    Gateway(String),
    /// [`Entry::Coordinator`].
    Coordinator,
    /// [`Entry::Forward`]: address, IP protocol, port.
    Forward(IpAddr, u8, u16),
}

/// One entry of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The node itself.
    Me(SelfNode),
    /// A node it may talk to.
    Peer(Peer),
    /// A prefix behind a node.
    Route(Route),
    /// Says that the filter has been sent: with no [`Entry::Rule`] beside it, deny everything.
    FilterPresent,
    /// A rule of the filter.
    Rule(RuleId, FilterRule),
    /// The mesh's zone.
    DnsConfig(DnsConfig),
    /// A record set.
    Record(DnsName, RecordType, RecordSet),
    /// A relay.
    Relay(Relay),
    /// A service.
    Service(Service),
    /// A gateway's name and its configuration as JSON.
    Gateway(String, String),
    /// The coordinator.
    Coordinator(CoordinatorInfo),
    /// What the node serves on a service's address.
    Forward(Forward),
}

impl Entry {
    /// What this entry is about.
    pub fn key(&self) -> EntryKey {
        match self {
            Self::Me(_) => EntryKey::Me,
            Self::Peer(p) => EntryKey::Peer(p.id),
            Self::Route(r) => EntryKey::Route(r.prefix, r.owner),
            Self::FilterPresent => EntryKey::FilterPresent,
            Self::Rule(id, _) => EntryKey::Rule(*id),
            Self::DnsConfig(_) => EntryKey::DnsConfig,
            Self::Record(name, kind, _) => EntryKey::Record(name.clone(), *kind),
            Self::Relay(r) => EntryKey::Relay(r.id),
            Self::Service(s) => EntryKey::Service(s.name.clone()),
            Self::Gateway(name, _) => EntryKey::Gateway(name.clone()),
            Self::Coordinator(_) => EntryKey::Coordinator,
            Self::Forward(f) => EntryKey::Forward(f.address, f.protocol, f.port),
        }
    }

    /// The bytes on the wire, which the digest covers. The encoding is deterministic: the same entry
    /// always has the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        crate::wire::entry::encode_entry(self)
    }

    /// Reads [`Self::encode`].
    ///
    /// # Errors
    /// When the bytes are not a valid entry.
    pub fn decode(bytes: &[u8]) -> Result<Self, crate::DecodeError> {
        crate::wire::entry::decode_entry(bytes)
    }
}
