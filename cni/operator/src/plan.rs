//! From what the cluster says to what should be published and said. Pure: objects in, one plan out.
//!
//! The whole is computed each time from the objects as they are: nothing is queued and nothing remembered, so
//! a restart at any moment leads to the same plan. No object gets a finalizer: a service that was deleted
//! while nobody looked is simply not in the next set, and nothing of it can hold up its namespace.
//!
//! Invariants: a service's status names an address only when the coordinator publishes it · an object that is
//! not of our class is never written, except to take back what we wrote.

mod endpoints;
mod read;
mod status;

pub(crate) use read::MANAGER;
pub(crate) use status::{Verdict, pool_status, service_status};

use crate::crd::AddressPool;
use crate::pool::{Allocation, Key, Pool, Pools, Request};
use endpoints::Endpoints;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use meshd_proto::cluster::{ClusterState, PortOwner, Refusal, ServiceClaim, ServicePort, ServiceSet};
use meshd_proto::{DnsName, limits};
use read::Wanted;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What the cluster and the coordinator say.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    /// Every Service.
    pub(crate) services: Vec<Arc<Service>>,
    /// Every EndpointSlice.
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
    /// Every Node.
    pub(crate) nodes: Vec<Arc<Node>>,
    /// Every AddressPool.
    pub(crate) pools: Vec<Arc<AddressPool>>,
    /// What the coordinator knows of this cluster.
    pub(crate) state: ClusterState,
    /// Whether a Service without a class is ours.
    pub(crate) default_class: bool,
}

/// What should be published and said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// What the coordinator should publish.
    pub(crate) set: ServiceSet,
    /// What each Service that concerns us should say.
    pub(crate) services: BTreeMap<Key, Verdict>,
    /// The pools as allocation saw them, and who has what.
    pub(crate) pools: Pools,
    /// Addresses that services have now.
    pub(crate) allocation: Allocation,
}

impl Plan {
    /// The plan for what is there.
    pub(crate) fn new(input: &Input) -> Self {
        let pools = Pools {
            pools: input.pools.iter().map(|p| pool(p)).collect(),
            delegated: input.state.ranges.clone(),
            cluster: input.state.name.to_string(),
        };
        let mut verdicts = BTreeMap::new();
        let mut wanted: Vec<Wanted> = Vec::new();
        for service in &input.services {
            match Wanted::read(service, input.default_class) {
                read::Reading::Ours(one) => wanted.push(*one),
                read::Reading::Release(key) => drop(verdicts.insert(key, Verdict::Release)),
                read::Reading::Unserved(key, why) => drop(verdicts.insert(key, Verdict::Unserved(why))),
                read::Reading::NotOurs => {}
            }
        }
        wanted.sort_by(|a, b| a.request.key.cmp(&b.request.key));
        for one in wanted.iter_mut().filter(|w| w.request.held.is_empty()) {
            // The operator died between publishing and writing the status.
            one.request.held = published(&input.state, &one.request.key);
            let order = one.request.families.clone();
            one.request.held.sort_by_key(|ip| order.iter().position(|v4| *v4 == ip.is_ipv4()));
        }
        let requests: Vec<Request> = wanted.iter().map(|w| w.request.clone()).collect();
        let allocation = pools.allocate(&requests);
        let endpoints = Endpoints::new(&input.slices, &input.nodes, &input.state);
        let mut set = ServiceSet::default();
        for one in &wanted {
            let key = &one.request.key;
            let verdict = match allocation.get(key) {
                Some(Ok(addresses)) => announce(one, addresses, &endpoints, &input.state.domain, &mut set),
                Some(Err(why)) => Verdict::Refused { reason: why.reason(), message: why.to_string() },
                None => continue,
            };
            verdicts.insert(key.clone(), verdict);
        }
        Self { set, services: verdicts, pools, allocation }
    }

    /// Takes in what the coordinator refused.
    pub(crate) fn refuse(&mut self, refused: &[Refusal]) {
        for refusal in refused {
            let key = Key {
                namespace: refusal.service.namespace.to_string(),
                name: refusal.service.name.to_string(),
            };
            let message = format!("the coordinator refused: {}", refusal.reason);
            self.services.insert(key, Verdict::Refused { reason: "CoordinatorRefused", message });
        }
    }
}

fn pool(object: &AddressPool) -> Pool {
    let spec = &object.spec;
    Pool {
        name: object.metadata.name.clone().unwrap_or_default(),
        // Text that is no range is named in the pool's condition; the rest of the pool works.
        ranges: spec.addresses.iter().filter_map(|text| text.parse().ok()).collect(),
        auto: spec.auto_assign,
        namespaces: spec.namespaces.iter().cloned().collect(),
        labels: spec.service_selector.clone(),
    }
}

fn published(state: &ClusterState, key: &Key) -> Vec<IpAddr> {
    let same = |s: &&ServiceClaim| s.namespace.as_str() == key.namespace && s.name.as_str() == key.name;
    state.services.iter().find(same).map(|s| s.addresses.clone()).unwrap_or_default()
}

/// Puts a service with its addresses into the set, and says how it is served.
fn announce(
    wanted: &Wanted,
    addresses: &[IpAddr],
    endpoints: &Endpoints,
    domain: &DnsName,
    set: &mut ServiceSet,
) -> Verdict {
    let key = &wanted.request.key;
    let (Ok(namespace), Ok(name)) = (key.namespace.parse(), key.name.parse()) else {
        let message = format!("`{key}` is no DNS label: the mesh cannot name it");
        return Verdict::Refused { reason: "BadName", message };
    };
    let mut notes = wanted.notes.clone();
    let alias = wanted.name.as_ref().and_then(|label| match format!("{label}.{domain}").parse() {
        Ok(alias) => Some(alias),
        Err(e) => {
            notes.push(format!("meshd.dev/name is not used: {e}"));
            None
        }
    });
    let mut ports = Vec::new();
    for port in &wanted.ports {
        let mut owners = endpoints.of(key, port, addresses);
        for owner in owners.iter_mut().filter(|o| o.endpoints.len() > limits::MAX_SERVICE_ENDPOINTS) {
            notes.push(format!(
                "more than {} endpoints on one node are not used",
                limits::MAX_SERVICE_ENDPOINTS
            ));
            owner.endpoints.truncate(limits::MAX_SERVICE_ENDPOINTS);
        }
        ports.push(ServicePort { protocol: port.protocol, port: port.port, owners });
    }
    let claim = ServiceClaim {
        namespace,
        name,
        alias,
        addresses: addresses.to_vec(),
        ports,
        sticky: wanted.sticky,
        sources: wanted.sources.clone(),
    };
    if let Err(e) = claim.check() {
        return Verdict::Refused { reason: "NotServable", message: e.to_string() };
    }
    let served_by = endpoints.names(claim.ports.iter().flat_map(|p| &p.owners));
    let missing = if served_by.is_empty() { Some(endpoints.why_nobody(key)) } else { None };
    set.services.push(claim);
    notes.sort();
    notes.dedup();
    Verdict::Announced { addresses: addresses.to_vec(), served_by, missing, notes }
}

/// Endpoints of one port, grouped by the node that they are on.
fn grouped(found: impl Iterator<Item = (meshd_proto::NodeId, std::net::SocketAddr)>) -> Vec<PortOwner> {
    let mut by_node: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (node, endpoint) in found {
        by_node.entry(node).or_default().push(endpoint);
    }
    by_node
        .into_iter()
        .map(|(node, mut endpoints)| {
            endpoints.sort_unstable();
            endpoints.dedup();
            PortOwner { node, endpoints }
        })
        .collect()
}

#[cfg(test)]
mod tests;
