//! Map entries on the wire and on disk. Prost writes fields in the order of their numbers and leaves
//! defaults out, so the same entry always has the same bytes: the map digest relies on that.

use super::forward::{self, ForwardMsg};
use super::{
    DecodeError, Decoded, addrs, addrs_bytes, bounded, endpoint_bytes, endpoints, fixed, ip, ip_bytes,
    mesh_prefixes, port, prefix, prefix_bytes, prefixes, text,
};
use crate::keys::{CoordinatorKey, NodeKey, VerifyingKey};
use crate::limits;
use crate::netmap::{
    CoordinatorInfo, DnsConfig, Entry, FilterRule, Peer, PeerKind, RecordSet, RecordType, RecordValue, Relay,
    Route, RuleSource, RuleTarget, SelfNode, Service, SplitRoute, TargetAddr,
};
use crate::{ClassId, NodeId, RelayId, RuleId, Tag, UnixSeconds};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EntryMsg {
    #[prost(oneof = "EntryBody", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    body: Option<EntryBody>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum EntryBody {
    #[prost(message, tag = "1")]
    Me(SelfMsg),
    #[prost(message, tag = "2")]
    Peer(PeerMsg),
    #[prost(message, tag = "3")]
    Route(RouteMsg),
    #[prost(bool, tag = "4")]
    FilterPresent(bool),
    #[prost(message, tag = "5")]
    Rule(RuleMsg),
    #[prost(message, tag = "6")]
    DnsConfig(DnsConfigMsg),
    #[prost(message, tag = "7")]
    Record(RecordMsg),
    #[prost(message, tag = "8")]
    Relay(RelayMsg),
    #[prost(message, tag = "9")]
    Service(ServiceMsg),
    #[prost(message, tag = "10")]
    Gateway(GatewayMsg),
    #[prost(message, tag = "11")]
    Coordinator(CoordinatorMsg),
    #[prost(message, tag = "12")]
    Forward(ForwardMsg),
}

#[derive(Clone, PartialEq, Message)]
struct SelfMsg {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    addrs: Vec<u8>,
    #[prost(uint32, tag = "4")]
    class: u32,
    #[prost(string, repeated, tag = "5")]
    tags: Vec<String>,
    #[prost(bytes = "vec", tag = "6")]
    prefix_v4: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    prefix_v6: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    approved: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pending: Vec<Vec<u8>>,
    #[prost(uint64, optional, tag = "10")]
    key_expires: Option<u64>,
    #[prost(uint64, tag = "11")]
    map_lease: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PeerMsg {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(bytes = "vec", tag = "4")]
    addrs: Vec<u8>,
    #[prost(uint32, tag = "5")]
    class: u32,
    #[prost(string, repeated, tag = "6")]
    tags: Vec<String>,
    #[prost(string, tag = "7")]
    owner: String,
    #[prost(uint64, optional, tag = "8")]
    key_expires: Option<u64>,
    #[prost(bool, tag = "9")]
    plain_wireguard: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RouteMsg {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) prefix: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(super) rank: u32,
    #[prost(uint64, tag = "3")]
    pub(super) owner: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RuleMsg {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint32, tag = "2")]
    line: u32,
    #[prost(message, repeated, tag = "3")]
    srcs: Vec<SourceMsg>,
    #[prost(message, repeated, tag = "4")]
    dsts: Vec<TargetMsg>,
}

#[derive(Clone, PartialEq, Message)]
struct SourceMsg {
    #[prost(oneof = "SourceBody", tags = "1, 2, 3")]
    body: Option<SourceBody>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum SourceBody {
    #[prost(bool, tag = "1")]
    AnyNode(bool),
    #[prost(uint32, tag = "2")]
    Class(u32),
    #[prost(bytes = "vec", tag = "3")]
    Prefix(Vec<u8>),
}

#[derive(Clone, PartialEq, Message)]
struct TargetMsg {
    #[prost(oneof = "TargetBody", tags = "1, 2, 3")]
    to: Option<TargetBody>,
    #[prost(uint32, optional, tag = "4")]
    protocol: Option<u32>,
    #[prost(uint32, tag = "5")]
    first_port: u32,
    #[prost(uint32, tag = "6")]
    last_port: u32,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum TargetBody {
    #[prost(bool, tag = "1")]
    Myself(bool),
    #[prost(bytes = "vec", tag = "2")]
    Prefix(Vec<u8>),
    #[prost(bool, tag = "3")]
    Internet(bool),
}

#[derive(Clone, PartialEq, Message)]
struct DnsConfigMsg {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(string, repeated, tag = "2")]
    search: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    split: Vec<SplitMsg>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    nameservers: Vec<Vec<u8>>,
    #[prost(uint32, tag = "5")]
    ttl: u32,
}

#[derive(Clone, PartialEq, Message)]
struct SplitMsg {
    #[prost(string, tag = "1")]
    suffix: String,
    #[prost(bytes = "vec", repeated, tag = "2")]
    upstreams: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RecordMsg {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(uint32, tag = "2")]
    pub(super) kind: u32,
    #[prost(uint32, tag = "3")]
    pub(super) ttl: u32,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(super) values: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct RelayMsg {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(string, repeated, tag = "4")]
    hosts: Vec<String>,
    #[prost(uint32, tag = "5")]
    udp_port: u32,
    #[prost(uint32, tag = "6")]
    alt_udp_port: u32,
    #[prost(uint32, tag = "7")]
    tls_port: u32,
}

#[derive(Clone, PartialEq, Message)]
struct ServiceMsg {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addrs: Vec<Vec<u8>>,
    #[prost(uint32, repeated, tag = "3")]
    ports: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct GatewayMsg {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    config: String,
}

#[derive(Clone, PartialEq, Message)]
struct CoordinatorMsg {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    signing_key: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "3")]
    next_key: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "4")]
    next_signing_key: Option<Vec<u8>>,
    #[prost(string, repeated, tag = "5")]
    addresses: Vec<String>,
    #[prost(string, tag = "6")]
    mesh_name: String,
}

pub(crate) fn encode_entry(entry: &Entry) -> Vec<u8> {
    entry_msg(entry).encode_to_vec()
}

pub(crate) fn decode_entry(bytes: &[u8]) -> Decoded<Entry> {
    bounded("entry", bytes.len(), limits::MAX_CONTROL_MESSAGE)?;
    entry(EntryMsg::decode(bytes)?)
}

fn entry_msg(entry: &Entry) -> EntryMsg {
    let body = match entry {
        Entry::Me(m) => EntryBody::Me(SelfMsg {
            id: m.id.0,
            name: m.name.to_string(),
            addrs: addrs_bytes(m.addrs),
            class: m.class.0,
            tags: m.tags.iter().map(ToString::to_string).collect(),
            prefix_v4: prefix_bytes(net_prefix(m.prefixes.v4.into())),
            prefix_v6: prefix_bytes(net_prefix(m.prefixes.v6.into())),
            approved: m.approved_routes.iter().map(|p| prefix_bytes(*p)).collect(),
            pending: m.pending_routes.iter().map(|p| prefix_bytes(*p)).collect(),
            key_expires: m.key_expires.map(|t| t.0),
            map_lease: m.map_lease,
        }),
        Entry::Peer(p) => EntryBody::Peer(PeerMsg {
            id: p.id.0,
            key: p.key.as_bytes().to_vec(),
            name: p.name.to_string(),
            addrs: addrs_bytes(p.addrs),
            class: p.class.0,
            tags: p.tags.iter().map(ToString::to_string).collect(),
            owner: p.owner.clone(),
            key_expires: p.key_expires.map(|t| t.0),
            plain_wireguard: p.kind == PeerKind::PlainWireguard,
        }),
        Entry::Route(r) => {
            EntryBody::Route(RouteMsg { prefix: prefix_bytes(r.prefix), rank: r.rank, owner: r.owner.0 })
        }
        Entry::FilterPresent => EntryBody::FilterPresent(true),
        Entry::Rule(id, rule) => EntryBody::Rule(RuleMsg {
            id: id.0,
            line: rule.line,
            srcs: rule.srcs.iter().map(source_msg).collect(),
            dsts: rule.dsts.iter().map(target_msg).collect(),
        }),
        Entry::DnsConfig(c) => EntryBody::DnsConfig(DnsConfigMsg {
            domain: c.domain.to_string(),
            search: c.search.iter().map(ToString::to_string).collect(),
            split: c.split.iter().map(split_msg).collect(),
            nameservers: c.nameservers.iter().map(|e| endpoint_bytes(*e)).collect(),
            ttl: c.ttl,
        }),
        Entry::Record(name, kind, set) => EntryBody::Record(RecordMsg {
            name: name.to_string(),
            kind: record_kind(*kind),
            ttl: set.ttl,
            values: set.values.iter().map(value_bytes).collect(),
        }),
        Entry::Relay(r) => EntryBody::Relay(RelayMsg {
            id: r.id.0,
            name: r.name.clone(),
            key: r.key.as_bytes().to_vec(),
            hosts: r.hosts.clone(),
            udp_port: r.udp_port.into(),
            alt_udp_port: r.alt_udp_port.into(),
            tls_port: r.tls_port.into(),
        }),
        Entry::Service(s) => EntryBody::Service(ServiceMsg {
            name: s.name.to_string(),
            addrs: s.addrs.iter().map(|a| ip_bytes(*a)).collect(),
            ports: s.ports.iter().map(|(proto, port)| u32::from(*proto) << 16 | u32::from(*port)).collect(),
        }),
        Entry::Gateway(name, config) => {
            EntryBody::Gateway(GatewayMsg { name: name.clone(), config: config.clone() })
        }
        Entry::Coordinator(c) => EntryBody::Coordinator(CoordinatorMsg {
            key: c.key.as_bytes().to_vec(),
            signing_key: c.signing_key.as_bytes().to_vec(),
            next_key: c.next_key.map(|k| k.as_bytes().to_vec()),
            next_signing_key: c.next_signing_key.map(|k| k.as_bytes().to_vec()),
            addresses: c.addresses.clone(),
            mesh_name: c.mesh_name.clone(),
        }),
        Entry::Forward(f) => EntryBody::Forward(forward::msg(f)),
    };
    EntryMsg { body: Some(body) }
}

fn entry(msg: EntryMsg) -> Decoded<Entry> {
    Ok(match msg.body.ok_or(DecodeError::UnknownKind)? {
        EntryBody::Me(m) => Entry::Me(SelfNode {
            id: NodeId(m.id),
            name: m.name.parse()?,
            addrs: addrs("addrs", &m.addrs)?,
            class: ClassId(m.class),
            tags: tags(m.tags)?,
            prefixes: mesh_prefixes(&m.prefix_v4, &m.prefix_v6)?,
            approved_routes: prefixes("approved", &m.approved)?,
            pending_routes: prefixes("pending", &m.pending)?,
            key_expires: m.key_expires.map(UnixSeconds),
            map_lease: m.map_lease,
        }),
        EntryBody::Peer(p) => Entry::Peer(Peer {
            id: NodeId(p.id),
            key: NodeKey::from_bytes(fixed("key", &p.key)?),
            name: p.name.parse()?,
            addrs: addrs("addrs", &p.addrs)?,
            class: ClassId(p.class),
            tags: tags(p.tags)?,
            owner: text("owner", p.owner)?,
            key_expires: p.key_expires.map(UnixSeconds),
            kind: if p.plain_wireguard { PeerKind::PlainWireguard } else { PeerKind::Meshd },
        }),
        EntryBody::Route(r) => {
            Entry::Route(Route { prefix: prefix("prefix", &r.prefix)?, rank: r.rank, owner: NodeId(r.owner) })
        }
        EntryBody::FilterPresent(_) => Entry::FilterPresent,
        EntryBody::Rule(r) => {
            bounded("srcs", r.srcs.len(), limits::MAX_RULE_TERMS)?;
            bounded("dsts", r.dsts.len(), limits::MAX_RULE_TERMS)?;
            let srcs = r.srcs.into_iter().map(source).collect::<Decoded<_>>()?;
            let dsts = r.dsts.into_iter().map(target).collect::<Decoded<_>>()?;
            Entry::Rule(RuleId(r.id), FilterRule { line: r.line, srcs, dsts })
        }
        EntryBody::DnsConfig(c) => {
            bounded("split", c.split.len(), limits::MAX_RULE_TERMS)?;
            bounded("search", c.search.len(), limits::MAX_RECORD_VALUES)?;
            Entry::DnsConfig(DnsConfig {
                domain: c.domain.parse()?,
                search: c.search.iter().map(|s| Ok(s.parse()?)).collect::<Decoded<_>>()?,
                split: c.split.into_iter().map(split).collect::<Decoded<_>>()?,
                nameservers: endpoints("nameservers", &c.nameservers)?,
                ttl: c.ttl,
            })
        }
        EntryBody::Record(r) => record(r)?,
        EntryBody::Relay(r) => {
            bounded("hosts", r.hosts.len(), limits::MAX_ENDPOINTS)?;
            Entry::Relay(Relay {
                id: RelayId(r.id),
                name: text("name", r.name)?,
                key: NodeKey::from_bytes(fixed("key", &r.key)?),
                hosts: r.hosts.into_iter().map(|h| text("host", h)).collect::<Decoded<_>>()?,
                udp_port: port("udp_port", r.udp_port)?,
                alt_udp_port: port("alt_udp_port", r.alt_udp_port)?,
                tls_port: port("tls_port", r.tls_port)?,
            })
        }
        EntryBody::Service(s) => {
            bounded("addrs", s.addrs.len(), limits::MAX_ENDPOINTS)?;
            bounded("ports", s.ports.len(), limits::MAX_RULE_TERMS)?;
            let split = |v: &u32| {
                let proto = u8::try_from(v >> 16).map_err(|e| DecodeError::invalid("ports", e))?;
                Ok((proto, (v & 0xffff) as u16))
            };
            Entry::Service(Service {
                name: s.name.parse()?,
                addrs: s.addrs.iter().map(|a| ip("addrs", a)).collect::<Decoded<_>>()?,
                ports: s.ports.iter().map(split).collect::<Decoded<_>>()?,
            })
        }
        EntryBody::Gateway(g) => Entry::Gateway(text("name", g.name)?, g.config),
        EntryBody::Coordinator(c) => {
            bounded("addresses", c.addresses.len(), limits::MAX_ENDPOINTS)?;
            let key32 = |k: &Vec<u8>| fixed("next_key", k);
            Entry::Coordinator(CoordinatorInfo {
                key: CoordinatorKey::from_bytes(fixed("key", &c.key)?),
                signing_key: VerifyingKey::from_bytes(fixed("signing_key", &c.signing_key)?),
                next_key: c.next_key.as_ref().map(key32).transpose()?.map(CoordinatorKey::from_bytes),
                next_signing_key: c
                    .next_signing_key
                    .as_ref()
                    .map(key32)
                    .transpose()?
                    .map(VerifyingKey::from_bytes),
                addresses: c.addresses.into_iter().map(|a| text("address", a)).collect::<Decoded<_>>()?,
                mesh_name: text("mesh_name", c.mesh_name)?,
            })
        }
        EntryBody::Forward(f) => Entry::Forward(forward::entry(f)?),
    })
}

fn net_prefix(net: ipnet::IpNet) -> crate::Prefix {
    // A mesh range is a network by construction; `trunc` makes that visible to the type.
    crate::Prefix::new(net.trunc()).unwrap_or(crate::Prefix::DEFAULT_V4)
}

fn tags(list: Vec<String>) -> Decoded<Vec<Tag>> {
    bounded("tags", list.len(), limits::MAX_RECORD_VALUES)?;
    list.iter().map(|t| Ok(t.parse()?)).collect()
}

fn source_msg(source: &RuleSource) -> SourceMsg {
    SourceMsg {
        body: Some(match source {
            RuleSource::AnyNode => SourceBody::AnyNode(true),
            RuleSource::Class(c) => SourceBody::Class(c.0),
            RuleSource::Prefix(p) => SourceBody::Prefix(prefix_bytes(*p)),
        }),
    }
}

fn source(msg: SourceMsg) -> Decoded<RuleSource> {
    Ok(match msg.body.ok_or(DecodeError::Missing("source"))? {
        SourceBody::AnyNode(_) => RuleSource::AnyNode,
        SourceBody::Class(c) => RuleSource::Class(ClassId(c)),
        SourceBody::Prefix(p) => RuleSource::Prefix(prefix("source", &p)?),
    })
}

fn target_msg(target: &RuleTarget) -> TargetMsg {
    TargetMsg {
        to: Some(match target.to {
            TargetAddr::Myself => TargetBody::Myself(true),
            TargetAddr::Prefix(p) => TargetBody::Prefix(prefix_bytes(p)),
            TargetAddr::Internet => TargetBody::Internet(true),
        }),
        protocol: target.protocol.map(u32::from),
        first_port: target.first_port.into(),
        last_port: target.last_port.into(),
    }
}

fn target(msg: TargetMsg) -> Decoded<RuleTarget> {
    let to = match msg.to.ok_or(DecodeError::Missing("target"))? {
        TargetBody::Myself(_) => TargetAddr::Myself,
        TargetBody::Prefix(p) => TargetAddr::Prefix(prefix("target", &p)?),
        TargetBody::Internet(_) => TargetAddr::Internet,
    };
    let protocol =
        msg.protocol.map(|p| u8::try_from(p).map_err(|_| DecodeError::invalid("protocol", p))).transpose()?;
    let (first_port, last_port) = (port("first_port", msg.first_port)?, port("last_port", msg.last_port)?);
    Ok(RuleTarget { to, protocol, first_port, last_port })
}

fn split_msg(route: &SplitRoute) -> SplitMsg {
    SplitMsg {
        suffix: route.suffix.to_string(),
        upstreams: route.upstreams.iter().map(|e| endpoint_bytes(*e)).collect(),
    }
}

fn split(msg: SplitMsg) -> Decoded<SplitRoute> {
    Ok(SplitRoute { suffix: msg.suffix.parse()?, upstreams: endpoints("upstreams", &msg.upstreams)? })
}

/// The number of the type in the DNS itself.
pub(super) fn record_kind(kind: RecordType) -> u32 {
    u32::from(kind.number())
}

pub(super) fn record_type(number: u32) -> Decoded<RecordType> {
    let found = RecordType::ALL.into_iter().find(|kind| record_kind(*kind) == number);
    found.ok_or(DecodeError::UnknownKind)
}

fn value_bytes(value: &RecordValue) -> Vec<u8> {
    match value {
        RecordValue::Address(a) => ip_bytes(*a),
        RecordValue::Name(n) => n.as_str().as_bytes().to_vec(),
        RecordValue::Text(t) => t.as_bytes().to_vec(),
    }
}

fn record(msg: RecordMsg) -> Decoded<Entry> {
    bounded("values", msg.values.len(), limits::MAX_RECORD_VALUES)?;
    let kind = record_type(msg.kind)?;
    let utf8 = |b: Vec<u8>| String::from_utf8(b).map_err(|e| DecodeError::invalid("value", e));
    let value = |b: Vec<u8>| -> Decoded<RecordValue> {
        bounded("value", b.len(), 255)?;
        match kind {
            RecordType::A | RecordType::Aaaa => {
                let addr = ip("value", &b)?;
                if addr.is_ipv4() != (kind == RecordType::A) {
                    return Err(DecodeError::invalid("value", "an address of the other family"));
                }
                Ok(RecordValue::Address(addr))
            }
            RecordType::Cname => Ok(RecordValue::Name(utf8(b)?.parse()?)),
            _ => Ok(RecordValue::Text(utf8(b)?)),
        }
    };
    let values = msg.values.into_iter().map(value).collect::<Decoded<_>>()?;
    Ok(Entry::Record(msg.name.parse()?, kind, RecordSet { ttl: msg.ttl, values }))
}

pub(crate) fn entries_msg(entries: &[Entry]) -> Vec<EntryMsg> {
    entries.iter().map(entry_msg).collect()
}

/// Entries of a kind that this version does not know are skipped; a broken one refuses the whole.
pub(crate) fn entries(list: Vec<EntryMsg>) -> Decoded<Vec<Entry>> {
    list.into_iter().map(entry).filter(|e| !matches!(e, Err(DecodeError::UnknownKind))).collect()
}
