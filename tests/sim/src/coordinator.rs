//! A coordinator as small as can be: it knows everything, and makes each node's map and hints.

use meshd_proto::keys::NodeKey;
use meshd_proto::netmap::{
    Entry, FilterRule, NetworkMap, Peer, PeerKind, Relay, Route, RuleSource, RuleTarget, SelfNode, TargetAddr,
};
use meshd_proto::{
    ClassId, Endpoint, Hint, Hostname, MeshAddrs, MeshPrefixes, NetworkId, NodeId, Prefix, RelayId, RuleId,
    UnixSeconds, Version,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who may reach what. The naive form that deliveries are checked against.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rules {
    /// Source address prefix, destination prefix, first and last port. Nothing else is allowed.
    pub allow: Vec<(Prefix, Prefix, u16, u16)>,
}

impl Rules {
    /// Whether a flow may begin.
    pub fn allows(&self, src: Ipv4Addr, dst: Ipv4Addr, port: u16) -> bool {
        let holds = |p: &Prefix, ip: Ipv4Addr| p.net().contains(&IpAddr::V4(ip));
        self.allow.iter().any(|(s, d, lo, hi)| holds(s, src) && holds(d, dst) && (*lo..=*hi).contains(&port))
    }
}

/// A member.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) key: NodeKey,
    pub(crate) routes: Vec<Prefix>,
    pub(crate) kind: PeerKind,
    pub(crate) expires: Option<UnixSeconds>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) home_relay: Option<RelayId>,
    pub(crate) online: bool,
    pub(crate) seq: u64,
    pub(crate) interest: BTreeSet<NodeId>,
}

/// All it knows.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) network: NetworkId,
    pub(crate) members: BTreeMap<NodeId, Member>,
    pub(crate) rules: Rules,
    pub(crate) relays: BTreeSet<RelayId>,
    version: u64,
}

pub(crate) fn mesh() -> MeshPrefixes {
    let v4 = Prefix::new("100.71.0.0/16".parse().expect("a literal")).map(|p| p.net());
    let v6 = Prefix::new("fd71:1:2::/48".parse().expect("a literal")).map(|p| p.net());
    match (v4, v6) {
        (Ok(v4), Ok(v6)) => MeshPrefixes {
            v4: v4.to_string().parse().expect("a literal"),
            v6: v6.to_string().parse().expect("a literal"),
        },
        _ => unreachable!("literals are prefixes"),
    }
}

pub(crate) fn addr(id: NodeId) -> Ipv4Addr {
    Ipv4Addr::new(100, 71, 1, id.0 as u8)
}

fn addrs(id: NodeId) -> MeshAddrs {
    MeshAddrs { v4: addr(id), v6: Ipv6Addr::new(0xfd71, 1, 2, 0, 0, 0, 1, id.0 as u16) }
}

fn name(id: NodeId) -> Hostname {
    Hostname::sanitized(&format!("n{id}"))
}

impl Coordinator {
    pub(crate) fn new(network: NetworkId) -> Self {
        Self {
            network,
            members: BTreeMap::new(),
            rules: Rules::default(),
            relays: BTreeSet::new(),
            version: 0,
        }
    }

    /// The map of one member.
    pub(crate) fn map(&mut self, id: NodeId) -> NetworkMap {
        self.version += 1;
        let mut map = NetworkMap::empty(self.network);
        map.version = Version(self.version);
        let Some(me) = self.members.get(&id) else { return map };
        map.upsert(Entry::Me(SelfNode {
            id,
            name: name(id),
            addrs: addrs(id),
            class: ClassId(0),
            tags: Vec::new(),
            prefixes: mesh(),
            approved_routes: me.routes.clone(),
            pending_routes: Vec::new(),
            key_expires: me.expires,
            map_lease: 0,
        }));
        for (peer, member) in self.members.iter().filter(|(peer, _)| **peer != id) {
            map.upsert(Entry::Peer(Peer {
                id: *peer,
                key: member.key,
                name: name(*peer),
                addrs: addrs(*peer),
                class: ClassId(0),
                tags: Vec::new(),
                owner: String::new(),
                key_expires: member.expires,
                kind: member.kind,
            }));
        }
        for (owner, member) in &self.members {
            for prefix in &member.routes {
                map.upsert(Entry::Route(Route { prefix: *prefix, rank: owner.0 as u32, owner: *owner }));
            }
        }
        map.upsert(Entry::FilterPresent);
        for (i, (src, dst, first_port, last_port)) in self.rules.allow.iter().enumerate() {
            let target = RuleTarget {
                to: TargetAddr::Prefix(*dst),
                protocol: None,
                first_port: *first_port,
                last_port: *last_port,
            };
            let rule =
                FilterRule { line: i as u32, srcs: vec![RuleSource::Prefix(*src)], dsts: vec![target] };
            map.upsert(Entry::Rule(RuleId(i as u64), rule));
        }
        for relay in &self.relays {
            map.upsert(Entry::Relay(Relay {
                id: *relay,
                name: format!("relay {relay}"),
                key: NodeKey::from_bytes([9; 32]),
                hosts: vec!["relay.example".to_owned()],
                udp_port: 3478,
                alt_udp_port: 3479,
                tls_port: 443,
            }));
        }
        map
    }

    /// The hint about one member.
    pub(crate) fn hint(&self, id: NodeId) -> Option<Hint> {
        let member = self.members.get(&id)?;
        Some(Hint {
            node: id,
            seq: member.seq,
            endpoints: member.endpoints.clone(),
            home_relay: member.home_relay,
            online: member.online,
        })
    }

    /// Who wants to hear of `id`.
    pub(crate) fn interested(&self, id: NodeId) -> Vec<NodeId> {
        self.members.iter().filter(|(_, m)| m.interest.contains(&id)).map(|(id, _)| *id).collect()
    }
}
