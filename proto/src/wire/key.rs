//! Keys of map entries: what a removal names.

use super::entry::{RecordMsg, RouteMsg, record_kind, record_type};
use super::forward::{self, ForwardMsg};
use super::{DecodeError, Decoded, prefix, prefix_bytes, text};
use crate::netmap::EntryKey;
use crate::{DnsName, NodeId, RelayId, RuleId};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyMsg {
    #[prost(oneof = "KeyBody", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    body: Option<KeyBody>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum KeyBody {
    #[prost(bool, tag = "1")]
    Me(bool),
    #[prost(uint64, tag = "2")]
    Peer(u64),
    #[prost(message, tag = "3")]
    Route(RouteMsg),
    #[prost(bool, tag = "4")]
    FilterPresent(bool),
    #[prost(uint64, tag = "5")]
    Rule(u64),
    #[prost(bool, tag = "6")]
    DnsConfig(bool),
    #[prost(message, tag = "7")]
    Record(RecordMsg),
    #[prost(uint32, tag = "8")]
    Relay(u32),
    #[prost(string, tag = "9")]
    Service(String),
    #[prost(string, tag = "10")]
    Gateway(String),
    #[prost(bool, tag = "11")]
    Coordinator(bool),
    #[prost(message, tag = "12")]
    Forward(ForwardMsg),
}

pub(crate) fn key_msg(key: &EntryKey) -> KeyMsg {
    let body = match key {
        EntryKey::Me => KeyBody::Me(true),
        EntryKey::Peer(id) => KeyBody::Peer(id.0),
        EntryKey::Route(p, owner) => {
            KeyBody::Route(RouteMsg { prefix: prefix_bytes(*p), rank: 0, owner: owner.0 })
        }
        EntryKey::FilterPresent => KeyBody::FilterPresent(true),
        EntryKey::Rule(id) => KeyBody::Rule(id.0),
        EntryKey::DnsConfig => KeyBody::DnsConfig(true),
        EntryKey::Record(name, kind) => KeyBody::Record(RecordMsg {
            name: name.to_string(),
            kind: record_kind(*kind),
            ttl: 0,
            values: Vec::new(),
        }),
        EntryKey::Relay(id) => KeyBody::Relay(id.0),
        EntryKey::Service(name) => KeyBody::Service(name.to_string()),
        EntryKey::Gateway(name) => KeyBody::Gateway(name.clone()),
        EntryKey::Coordinator => KeyBody::Coordinator(true),
        EntryKey::Forward(ip, protocol, port) => KeyBody::Forward(forward::key_msg(*ip, *protocol, *port)),
    };
    KeyMsg { body: Some(body) }
}

pub(crate) fn key(msg: KeyMsg) -> Decoded<EntryKey> {
    Ok(match msg.body.ok_or(DecodeError::UnknownKind)? {
        KeyBody::Me(_) => EntryKey::Me,
        KeyBody::Peer(id) => EntryKey::Peer(NodeId(id)),
        KeyBody::Route(r) => EntryKey::Route(prefix("prefix", &r.prefix)?, NodeId(r.owner)),
        KeyBody::FilterPresent(_) => EntryKey::FilterPresent,
        KeyBody::Rule(id) => EntryKey::Rule(RuleId(id)),
        KeyBody::DnsConfig(_) => EntryKey::DnsConfig,
        KeyBody::Record(r) => EntryKey::Record(r.name.parse::<DnsName>()?, record_type(r.kind)?),
        KeyBody::Relay(id) => EntryKey::Relay(RelayId(id)),
        KeyBody::Service(name) => EntryKey::Service(name.parse()?),
        KeyBody::Gateway(name) => EntryKey::Gateway(text("gateway", name)?),
        KeyBody::Coordinator(_) => EntryKey::Coordinator,
        KeyBody::Forward(f) => forward::key(&f)?,
    })
}
