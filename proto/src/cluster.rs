//! Clusters: ranges that an admin delegated to one, and the services that its operator publishes (JSON).
//!
//! The operator of a cluster writes a [`ServiceSet`], the coordinator answers with a [`ClusterState`], and
//! what a node has to serve travels in its map as [`crate::netmap::Forward`]. This module says what a set
//! may hold and whether it makes sense by itself; whether an address is free is the coordinator's to say.
//!
//! Invariants: unknown keys are refused · every list is bounded by [`crate::limits`] · a service is known by
//! namespace and name, both DNS labels · an endpoint has the family of an address of its service and is
//! neither loopback, link-local, multicast nor unspecified.

mod range;

pub use range::{AddressRange, RangeError};

use crate::{DnsName, Hostname, NodeId, Prefix, Tag, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What nodes of a cluster carry, so that they may own its addresses: `tag:k8s-<cluster>`.
///
/// # Errors
/// When the name is too long to be part of a tag.
pub fn cluster_tag(cluster: &Hostname) -> Result<Tag, crate::id::NameError> {
    format!("tag:k8s-{cluster}").parse()
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP (RFC 9260).
    Sctp,
}

impl Transport {
    /// The protocol's number in the IP header (IANA).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol of that number.
    pub fn of_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|t| t.number() == number)
    }

    /// As nft and Kubernetes' lower case write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// All services that a cluster publishes: the whole, not a change of it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSet {
    /// In any order; each once.
    pub services: Vec<ServiceClaim>,
}

/// Which service of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: Hostname,
    /// The name.
    pub name: Hostname,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A service with addresses of its own, and who serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceClaim {
    /// Its namespace.
    pub namespace: Hostname,
    /// Its name.
    pub name: Hostname,
    /// A name of its own, beneath the cluster's domain; absent: only `name.namespace.<cluster>…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<DnsName>,
    /// Its addresses; services of one cluster may share one when their ports differ.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// A client stays with its endpoint.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sticky: bool,
    /// Who may use it, beside what the policy says; none: everybody whom the policy lets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Prefix>,
}

/// A port of a service, and the nodes that have endpoints for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePort {
    /// Which protocol.
    pub protocol: Transport,
    /// The port on the service's addresses.
    pub port: u16,
    /// Where it ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<PortOwner>,
}

/// A node with endpoints of a port on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortOwner {
    /// The mesh's id of the node.
    pub node: NodeId,
    /// Addresses on that node, of the families of the service's addresses.
    pub endpoints: Vec<SocketAddr>,
}

/// What the coordinator knows of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Its name.
    pub name: Hostname,
    /// What its nodes carry.
    pub tag: Tag,
    /// The domain that its names lie beneath.
    pub domain: DnsName,
    /// What addresses it may announce.
    pub ranges: Vec<AddressRange>,
    /// Grows with each change of the cluster; goes into `If-Match`.
    pub revision: u64,
    /// Members that carry the tag.
    pub nodes: Vec<ClusterNode>,
    /// What is published.
    pub services: Vec<ServiceClaim>,
    /// What of the last set was not; empty in the answer to a question.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refusal>,
}

/// A member that may own addresses of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNode {
    /// Its id.
    pub id: NodeId,
    /// Its name in the mesh.
    pub name: Hostname,
    /// IPv4 mesh address.
    pub v4: Ipv4Addr,
    /// IPv6 mesh address.
    pub v6: Ipv6Addr,
}

/// A service that was not published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Which.
    #[serde(flatten)]
    pub service: ServiceKey,
    /// Why, and what to do.
    pub reason: String,
}

/// Why a service cannot be published, whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// More than a limit allows.
    #[error("{0} has {1} entries, at most {2} are taken")]
    TooMany(&'static str, usize, usize),
    /// Nothing where something is needed.
    #[error("there is no {0}")]
    Missing(&'static str),
    /// The same twice.
    #[error("{0} is there twice")]
    Twice(String),
    /// No port has this number.
    #[error("port 0 cannot be published")]
    PortZero,
    /// An endpoint that cannot be one.
    #[error("{0} cannot be an endpoint of this service: {1}")]
    Endpoint(SocketAddr, &'static str),
    /// An address that cannot be one.
    #[error("{0} cannot be the address of a service: {1}")]
    Address(IpAddr, &'static str),
}

impl ServiceClaim {
    /// Which service this is.
    pub fn key(&self) -> ServiceKey {
        ServiceKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Every node that it names.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        self.ports.iter().flat_map(|p| p.owners.iter().map(|o| o.node)).collect()
    }

    /// The protocols and ports.
    pub fn port_numbers(&self) -> impl Iterator<Item = (Transport, u16)> + '_ {
        self.ports.iter().map(|p| (p.protocol, p.port))
    }

    /// Whether the claim makes sense by itself.
    ///
    /// # Errors
    /// Names what does not.
    pub fn check(&self) -> Result<(), ClaimError> {
        bounded("addresses", self.addresses.len(), limits::MAX_SERVICE_ADDRESSES)?;
        bounded("ports", self.ports.len(), limits::MAX_SERVICE_PORTS)?;
        if self.sources.len() > limits::MAX_SERVICE_PORTS {
            return Err(ClaimError::TooMany("sources", self.sources.len(), limits::MAX_SERVICE_PORTS));
        }
        each_once(self.addresses.iter())?;
        for ip in &self.addresses {
            if let Some(why) = unfit(*ip) {
                return Err(ClaimError::Address(*ip, why));
            }
        }
        let ports: Vec<String> = self.port_numbers().map(|(t, p)| format!("{t} {p}")).collect();
        each_once(ports.iter())?;
        self.ports.iter().try_for_each(|port| self.check_port(port))
    }

    fn check_port(&self, port: &ServicePort) -> Result<(), ClaimError> {
        if port.port == 0 {
            return Err(ClaimError::PortZero);
        }
        if port.owners.len() > limits::MAX_SERVICE_OWNERS {
            return Err(ClaimError::TooMany("owners", port.owners.len(), limits::MAX_SERVICE_OWNERS));
        }
        each_once(port.owners.iter().map(|o| o.node))?;
        for owner in &port.owners {
            bounded("endpoints", owner.endpoints.len(), limits::MAX_SERVICE_ENDPOINTS)?;
            each_once(owner.endpoints.iter())?;
            for endpoint in &owner.endpoints {
                let family = |ip: &IpAddr| ip.is_ipv4() == endpoint.is_ipv4();
                let why = match unfit(endpoint.ip()) {
                    Some(why) => Some(why),
                    None if endpoint.port() == 0 => Some("it has no port"),
                    None if !self.addresses.iter().any(family) => Some("no address has its family"),
                    None => None,
                };
                if let Some(why) = why {
                    return Err(ClaimError::Endpoint(*endpoint, why));
                }
            }
        }
        Ok(())
    }
}

/// Why an address leads to no other machine.
fn unfit(ip: IpAddr) -> Option<&'static str> {
    let mapped = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    match () {
        () if ip.is_loopback() => Some("it is a loopback address"),
        () if ip.is_unspecified() => Some("it is no address"),
        () if ip.is_multicast() || broadcast => Some("it is no unicast address"),
        () if link_local => Some("it is a link-local address"),
        () if mapped => Some("write it as IPv4"),
        () => None,
    }
}

fn bounded(what: &'static str, have: usize, most: usize) -> Result<(), ClaimError> {
    match have {
        0 => Err(ClaimError::Missing(what)),
        n if n > most => Err(ClaimError::TooMany(what, n, most)),
        _ => Ok(()),
    }
}

fn each_once<T: Ord + fmt::Display>(items: impl Iterator<Item = T>) -> Result<(), ClaimError> {
    let mut seen = BTreeSet::new();
    for item in items {
        if let Some(twice) = seen.replace(item) {
            return Err(ClaimError::Twice(twice.to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
