//! Which endpoints are on which member of the mesh.

use super::grouped;
use super::read::WantedPort;
use crate::pool::Key;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use meshd_proto::NodeId;
use meshd_proto::cluster::{ClusterState, PortOwner, Transport};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Names the member that a Kubernetes node is, where neither name nor address says it.
const NODE: &str = "meshd.dev/node";
/// Nodes with this label serve no load balancer (Kubernetes' own).
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The endpoints of all services.
pub(super) struct Endpoints {
    by_service: BTreeMap<Key, Vec<Found>>,
    /// Kubernetes nodes that are members.
    members: BTreeMap<String, NodeId>,
    names: BTreeMap<NodeId, String>,
}

struct Found {
    port: String,
    protocol: Transport,
    node: String,
    address: SocketAddr,
    ready: bool,
    serving: bool,
}

impl Endpoints {
    pub(super) fn new(
        slices: &[std::sync::Arc<EndpointSlice>],
        nodes: &[std::sync::Arc<Node>],
        state: &ClusterState,
    ) -> Self {
        let mut by_service: BTreeMap<Key, Vec<Found>> = BTreeMap::new();
        for slice in slices {
            let service = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME));
            let (Some(name), Some(namespace)) = (service, &slice.metadata.namespace) else { continue };
            let key = Key { namespace: namespace.clone(), name: name.clone() };
            by_service.entry(key).or_default().extend(found(slice));
        }
        let members =
            nodes.iter().filter_map(|n| Some((n.metadata.name.clone()?, member(n, state)?))).collect();
        let names = state.nodes.iter().map(|n| (n.id, n.name.to_string())).collect();
        Self { by_service, members, names }
    }

    /// The members with endpoints of a port, for the families of `addresses`.
    pub(super) fn of(&self, key: &Key, port: &WantedPort, addresses: &[IpAddr]) -> Vec<PortOwner> {
        let family = |e: &Found| addresses.iter().any(|ip| ip.is_ipv4() == e.address.is_ipv4());
        let of_port = |e: &&Found| e.port == port.name && e.protocol == port.protocol && family(e);
        let all: Vec<&Found> = self.by_service.get(key).into_iter().flatten().filter(of_port).collect();
        let pick = |wanted: fn(&Found) -> bool| {
            let some = all.iter().filter(|e| wanted(e));
            grouped(some.filter_map(|e| Some((*self.members.get(&e.node)?, e.address))))
        };
        // None is ready: those that still serve while they end (Kubernetes' own rule).
        if all.iter().any(|e| e.ready) { pick(|e| e.ready) } else { pick(|e| e.serving) }
    }

    /// The mesh names of owners.
    pub(super) fn names<'a>(&self, owners: impl Iterator<Item = &'a PortOwner>) -> Vec<String> {
        let ids: BTreeSet<NodeId> = owners.map(|o| o.node).collect();
        ids.into_iter().filter_map(|id| self.names.get(&id).cloned()).collect()
    }

    /// Why no member serves a service, and what to do.
    pub(super) fn why_nobody(&self, key: &Key) -> (&'static str, String) {
        let usable = self.by_service.get(key).into_iter().flatten().filter(|e| e.ready || e.serving);
        let on: BTreeSet<&str> = usable.map(|e| e.node.as_str()).collect();
        if on.is_empty() {
            return (
                "NoEndpoints",
                "no endpoint is ready: look at the pods that the selector names".to_owned(),
            );
        }
        let nodes: Vec<&str> = on.into_iter().take(5).collect();
        let message = format!(
            "ready endpoints are on {} only, no member of the mesh with the cluster's tag: run meshd there, or name \
             the member with the annotation {NODE} on the Node",
            nodes.join(", ")
        );
        ("NoMeshNode", message)
    }
}

fn found(slice: &EndpointSlice) -> Vec<Found> {
    let mut out = Vec::new();
    for port in slice.ports.iter().flatten() {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Transport::Tcp,
            Some("UDP") => Transport::Udp,
            Some("SCTP") => Transport::Sctp,
            Some(_) => continue,
        };
        let Some(number) = port.port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
            let Some(node) = &endpoint.node_name else { continue };
            // Of several addresses only the first counts (EndpointSlice's documentation).
            let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok()) else {
                continue;
            };
            out.push(Found {
                port: port.name.clone().unwrap_or_default(),
                protocol,
                node: node.clone(),
                address: SocketAddr::new(ip, number),
                ready,
                serving,
            });
        }
    }
    out
}

/// The member that a Kubernetes node is: by annotation, by mesh address, by name.
fn member(node: &Node, state: &ClusterState) -> Option<NodeId> {
    if node.metadata.labels.as_ref().is_some_and(|l| l.contains_key(EXCLUDED)) {
        return None;
    }
    let by_name = |name: &str| state.nodes.iter().find(|n| n.name.as_str() == name).map(|n| n.id);
    if let Some(name) = node.metadata.annotations.as_ref().and_then(|a| a.get(NODE)) {
        return by_name(name);
    }
    let addresses: Vec<IpAddr> = node
        .status
        .iter()
        .flat_map(|s| s.addresses.iter().flatten())
        .filter_map(|a| a.address.parse().ok())
        .collect();
    let has = |ip: IpAddr| addresses.contains(&ip);
    let by_address = state.nodes.iter().find(|n| has(n.v4.into()) || has(n.v6.into())).map(|n| n.id);
    by_address.or_else(|| by_name(node.metadata.name.as_deref()?))
}
