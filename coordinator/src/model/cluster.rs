//! Clusters: what an admin delegated to one, what its operator publishes, and what each node serves of it.
//!
//! Values only. Whether an address may be announced is decided in [`crate::service`]; here it is already so.
//!
//! Invariants: an address is held by one cluster · a service is in its cluster once · [`Serving`] is a
//! function of the clusters and nothing else.

use super::Model;
use meshd_proto::cluster::{AddressRange, ServiceClaim, ServiceKey, Transport, cluster_tag};
use meshd_proto::netmap::{Forward, RecordSet, RecordType, RecordValue};
use meshd_proto::{DnsName, Hostname, NodeId, Prefix, UnixSeconds, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A cluster, and the services that it publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name, the label of its names beneath the mesh's domain.
    pub name: Hostname,
    /// What addresses it may announce.
    pub ranges: Vec<AddressRange>,
    /// What it publishes.
    pub services: BTreeMap<ServiceKey, Arc<ServiceClaim>>,
    /// When it was made known.
    pub created: UnixSeconds,
    /// The version that last touched it.
    pub changed: Version,
}

impl Cluster {
    /// Whether one of its ranges has `ip`.
    pub fn may_announce(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|r| r.contains(ip))
    }

    /// Whether one of its services has `ip`.
    pub fn holds(&self, ip: IpAddr) -> bool {
        self.services.values().any(|s| s.addresses.contains(&ip))
    }

    /// The domain of its names; `None`: together they would be too long.
    pub fn domain(&self, mesh: &DnsName) -> Option<DnsName> {
        mesh.child(&self.name).ok()
    }

    /// Its names with their addresses.
    pub fn records(
        &self,
        mesh: &DnsName,
        ttl: u32,
    ) -> impl Iterator<Item = ((DnsName, RecordType), RecordSet)> + '_ {
        let domain = self.domain(mesh);
        self.services.values().flat_map(move |service| {
            let own =
                domain.as_ref().and_then(|d| d.child(&service.namespace).ok()?.child(&service.name).ok());
            let names: Vec<DnsName> = own.into_iter().chain(service.alias.clone()).collect();
            names.into_iter().flat_map(move |name| {
                [RecordType::A, RecordType::Aaaa].into_iter().filter_map(move |kind| {
                    let fits = |ip: &&IpAddr| ip.is_ipv4() == (kind == RecordType::A);
                    let values: Vec<RecordValue> =
                        service.addresses.iter().filter(fits).copied().map(RecordValue::Address).collect();
                    (!values.is_empty()).then(|| ((name.clone(), kind), RecordSet { ttl, values }))
                })
            })
        })
    }
}

/// What one node serves on addresses of services.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Served {
    /// Host prefixes that it owns.
    pub prefixes: BTreeSet<Prefix>,
    /// What it does with packets for them.
    pub forwards: Vec<Forward>,
}

/// What each node serves. An address is owned by the nodes that serve most of its ports: a node that would
/// answer some of them only is no owner while another answers more.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Serving {
    nodes: BTreeMap<NodeId, Arc<Served>>,
}

type Port<'a> = (Transport, u16, &'a ServiceClaim);

impl Serving {
    /// What the clusters of a model say.
    pub fn of(model: &Model) -> Self {
        let mut by_address: BTreeMap<IpAddr, BTreeMap<NodeId, Vec<Forward>>> = BTreeMap::new();
        for cluster in model.clusters.values() {
            let tag = cluster_tag(&cluster.name).ok();
            let entitled = |id: NodeId| {
                model.nodes.get(&id).is_some_and(|n| tag.as_ref().is_some_and(|t| n.tags.contains(t)))
            };
            for service in cluster.services.values() {
                for (address, port) in
                    service.addresses.iter().flat_map(|a| service.ports.iter().map(|p| (*a, p)))
                {
                    let at: Port<'_> = (port.protocol, port.port, service);
                    for owner in port.owners.iter().filter(|o| entitled(o.node)) {
                        if let Some(forward) = forward(address, at, &owner.endpoints) {
                            by_address
                                .entry(address)
                                .or_default()
                                .entry(owner.node)
                                .or_default()
                                .push(forward);
                        }
                    }
                }
            }
        }
        let mut nodes: BTreeMap<NodeId, Served> = BTreeMap::new();
        for (address, owners) in by_address {
            let most = owners.values().map(Vec::len).max().unwrap_or_default();
            for (node, forwards) in owners.into_iter().filter(|(_, f)| f.len() == most) {
                let served = nodes.entry(node).or_default();
                served.prefixes.insert(Prefix::host(address));
                served.forwards.extend(forwards);
            }
        }
        Self { nodes: nodes.into_iter().map(|(id, served)| (id, Arc::new(served))).collect() }
    }

    /// What a node serves.
    pub fn by(&self, node: NodeId) -> Option<&Arc<Served>> {
        self.nodes.get(&node)
    }

    /// Whether nobody serves anything.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The nodes that serve something else than in `other`.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = NodeId> + 'a {
        let all: BTreeSet<NodeId> = self.nodes.keys().chain(other.nodes.keys()).copied().collect();
        all.into_iter().filter(|id| self.nodes.get(id) != other.nodes.get(id))
    }
}

fn forward(
    address: IpAddr,
    (protocol, port, service): Port<'_>,
    endpoints: &[std::net::SocketAddr],
) -> Option<Forward> {
    let mut endpoints: Vec<_> =
        endpoints.iter().filter(|e| e.is_ipv4() == address.is_ipv4()).copied().collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    if endpoints.is_empty() {
        return None;
    }
    let sources: Vec<Prefix> =
        service.sources.iter().filter(|p| p.net().addr().is_ipv4() == address.is_ipv4()).copied().collect();
    if sources.is_empty() && !service.sources.is_empty() {
        // Sources of the other family only: nobody of this one may use it.
        return None;
    }
    let sticky = service.sticky;
    Some(Forward { address, protocol: protocol.number(), port, endpoints, sticky, sources })
}

#[cfg(test)]
mod tests;
