//! From a map to a view.

use super::{Scope, View, reverse};
use crate::record::{self, wire_name};
use crate::zone::Zone;
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{LowerName, Name, RData};
use ipnet::IpNet;
use meshd_proto::netmap::{DnsConfig, RecordSet, RecordType};
use meshd_proto::{Hostname, MeshAddrs, MeshPrefixes, NetworkMap};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Longest time that "no such name" is cached: a node that joins is found soon after.
const NEGATIVE_TTL: u32 = 10;
/// The resolver's own name under the mesh's domain. Two labels: no node can be called so.
const RESOLVER: &str = "resolver.meshd";

impl View {
    /// The view of the node that `map` belongs to.
    pub fn from_map(map: &NetworkMap) -> Self {
        let hosts = map
            .me
            .iter()
            .map(|me| (&me.name, me.addrs))
            .chain(map.peers.values().map(|p| (&p.name, p.addrs)));
        Self::build(map, hosts)
    }

    /// The view of the node that `map` belongs to, of which its host takes only so much. What is not
    /// taken is looked up as if the mesh had never spoken of it.
    pub fn within(map: &NetworkMap, scope: Scope) -> Self {
        let mut view = Self::from_map(map);
        if scope != Scope::Full {
            view.nameservers = Arc::new([]);
        }
        if scope == Scope::Names {
            view.overrides = None;
            view.split = HashMap::new();
            view.search.truncate(1);
        }
        view
    }

    /// The view of somebody who is no member of the mesh: its zones exist and are empty, everything
    /// else goes to the host's own resolvers.
    pub fn guest(map: &NetworkMap) -> Self {
        let mut bare = NetworkMap::empty(map.network);
        bare.version = map.version;
        bare.me = map.me.clone();
        bare.dns.config = map.dns.config.clone();
        if let Some(config) = &mut bare.dns.config {
            config.split.clear();
            config.nameservers.clear();
        }
        Self::build(&bare, std::iter::empty())
    }

    fn build<'m>(
        map: &'m NetworkMap,
        hosts: impl Iterator<Item = (&'m Hostname, MeshAddrs)> + Clone,
    ) -> Self {
        let (Some(config), Some(me)) = (&map.dns.config, &map.me) else { return Self::default() };
        let Some(domain) = wire_name(&config.domain) else { return Self::default() };
        let makers = Makers { config, domain: &domain, prefixes: me.prefixes, serial: map.version.0 as u32 };

        let mut zone = makers.zone(LowerName::from(&domain));
        let mut zones = HashMap::new();
        for origin in reverse::origins(IpNet::V4(me.prefixes.v4))
            .into_iter()
            .chain(reverse::origins(IpNet::V6(me.prefixes.v6)))
        {
            zones.insert(origin.clone(), makers.zone(origin));
        }
        for (name, addrs) in hosts.clone() {
            let Some(full) = makers.under_domain(name.as_str()) else { continue };
            makers.add_host(&mut zone, &mut zones, &full, addrs);
        }
        if let Some(full) = makers.under_domain(RESOLVER) {
            makers.add_host(&mut zone, &mut zones, &full, me.prefixes.resolver());
        }

        let taken: std::collections::HashSet<_> =
            hosts.filter_map(|(n, _)| makers.under_domain(n.as_str())).collect();
        let mut overrides = makers.exceptions();
        for ((owner, kind), set) in &map.dns.records {
            let subtree = owner.subtree();
            let Some(name) = wire_name(subtree.as_ref().unwrap_or(owner)) else { continue };
            // `*` alone would be every name there is.
            if name.is_wildcard() && name.num_labels() == 0 {
                continue;
            }
            if taken.contains(&name) && subtree.is_none() && *kind != RecordType::Txt {
                continue;
            }
            let name = LowerName::from(name);
            let target = if zone.origin().zone_of(&name) {
                &mut zone
            } else if let Some(reverse) = zones.values_mut().find(|z| z.origin().zone_of(&name)) {
                reverse
            } else {
                &mut overrides
            };
            let owner = if subtree.is_some() { Owner::Subtree(name) } else { Owner::Name(name) };
            insert_set(target, &owner, *kind, set);
        }
        zones.insert(zone.origin().clone(), zone);

        let split = config.split.iter().filter_map(|s| {
            let upstreams: Arc<[SocketAddr]> = s.upstreams.iter().map(|e| e.0).collect();
            Some((LowerName::from(wire_name(&s.suffix)?), upstreams))
        });
        let mut search = vec![config.domain.clone()];
        search.extend(config.search.iter().filter(|s| **s != config.domain).cloned());
        Self {
            domain: Some(LowerName::from(&domain)),
            zones,
            overrides: (!overrides.is_empty()).then_some(overrides),
            split: split.collect(),
            nameservers: config.nameservers.iter().map(|e| e.0).collect(),
            search,
            inside: inside(map, me.prefixes),
            near: Arc::default(),
        }
    }
}

/// What is reached through the mesh: its own ranges, and networks behind others' subnet routers.
fn inside(map: &NetworkMap, mesh: MeshPrefixes) -> Vec<IpNet> {
    let routes = map.routes.iter().map(|route| route.prefix).filter(|prefix| !prefix.is_default());
    let mut inside: Vec<IpNet> = routes.map(|prefix| prefix.net()).collect();
    inside.extend([IpNet::V4(mesh.v4), IpNet::V6(mesh.v6)]);
    inside
}

/// What a record of the map stands for.
enum Owner {
    Name(LowerName),
    Subtree(LowerName),
}

struct Makers<'m> {
    config: &'m DnsConfig,
    domain: &'m Name,
    prefixes: MeshPrefixes,
    serial: u32,
}

impl Makers<'_> {
    fn zone(&self, origin: LowerName) -> Zone {
        let server = self.under_domain(RESOLVER).unwrap_or_else(|| self.domain.clone());
        Zone::new(origin, &server, self.serial, self.config.ttl, self.config.ttl.min(NEGATIVE_TTL))
    }

    fn exceptions(&self) -> Zone {
        let server = self.under_domain(RESOLVER).unwrap_or_else(|| self.domain.clone());
        Zone::exceptions(
            LowerName::from(Name::root()),
            &server,
            self.serial,
            self.config.ttl.min(NEGATIVE_TTL),
        )
    }

    fn under_domain(&self, head: &str) -> Option<Name> {
        Name::from_ascii(head).ok()?.append_domain(self.domain).ok()
    }

    fn add_host(&self, zone: &mut Zone, zones: &mut HashMap<LowerName, Zone>, name: &Name, addrs: MeshAddrs) {
        for ip in addrs.iter() {
            zone.insert(LowerName::from(name), self.config.ttl, address(ip));
            if !self.prefixes.contains(ip) {
                continue;
            }
            let owner = LowerName::from(Name::from(ip));
            let mut origin = owner.clone();
            while !origin.is_root() {
                if let Some(reverse) = zones.get_mut(&origin) {
                    reverse.insert(owner, self.config.ttl, RData::PTR(PTR(name.clone())));
                    break;
                }
                origin = origin.base_name();
            }
        }
    }
}

fn insert_set(zone: &mut Zone, owner: &Owner, kind: RecordType, set: &RecordSet) {
    for value in &set.values {
        // The coordinator refuses what is not of its type; one that did not is not worth losing the rest.
        let Ok(data) = record::data(kind, value) else { continue };
        match owner {
            Owner::Name(name) => zone.insert(name.clone(), set.ttl, data),
            Owner::Subtree(top) => zone.insert_subtree(top.clone(), set.ttl, data),
        };
    }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}
