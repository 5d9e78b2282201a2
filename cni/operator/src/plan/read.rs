//! A Service as we read it: whether it is ours, and what it asks for.

use crate::pool::{Key, Request};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use meshd_proto::Prefix;
use meshd_proto::cluster::Transport;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The class whose addresses are on the mesh.
const CLASS_MESH: &str = "meshd.dev/mesh";
/// Classes that are ours and not served in this release.
const CLASSES_TO_COME: [&str; 2] = ["meshd.dev/lan", "meshd.dev/public"];
/// How our writes are known to the API server.
pub(crate) const MANAGER: &str = "meshd-operator";

const ADDRESSES: [&str; 3] =
    ["meshd.dev/addresses", "metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"];
const POOL: [&str; 3] =
    ["meshd.dev/address-pool", "metallb.io/address-pool", "metallb.universe.tf/address-pool"];
const SHARE: [&str; 3] =
    ["meshd.dev/allow-shared-ip", "metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"];
const NAME: &str = "meshd.dev/name";

/// Whether a Service concerns us.
#[derive(Debug)]
pub(super) enum Reading {
    /// It gets an address.
    Ours(Box<Wanted>),
    /// It was ours: what we wrote is taken back.
    Release(Key),
    /// Its class is one of ours that this release does not serve; what to say.
    Unserved(Key, String),
    /// It is somebody else's.
    NotOurs,
}

/// What a Service of ours asks for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) request: Request,
    pub(super) ports: Vec<WantedPort>,
    pub(super) sticky: bool,
    pub(super) sources: Vec<Prefix>,
    /// A label for a name of its own.
    pub(super) name: Option<String>,
    /// What of it was not understood or is not used.
    pub(super) notes: Vec<String>,
}

/// A port of a Service; EndpointSlices know it by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedPort {
    pub(super) name: String,
    pub(super) protocol: Transport,
    pub(super) port: u16,
}

impl Wanted {
    pub(super) fn read(service: &Service, default_class: bool) -> Reading {
        let Some(key) = key_of(service) else { return Reading::NotOurs };
        let release = || if wrote_status(service) { Reading::Release(key.clone()) } else { Reading::NotOurs };
        let Some(spec) = &service.spec else { return release() };
        if spec.type_.as_deref() != Some("LoadBalancer") || service.metadata.deletion_timestamp.is_some() {
            return release();
        }
        match spec.load_balancer_class.as_deref() {
            Some(CLASS_MESH) => {}
            None if default_class => {}
            Some(class) if CLASSES_TO_COME.contains(&class) => {
                let message = format!(
                    "class {class} is not served in this release: use {CLASS_MESH}, or another controller"
                );
                return Reading::Unserved(key, message);
            }
            _ => return release(),
        }
        Reading::Ours(Box::new(Self::of(key, service, spec)))
    }

    fn of(key: Key, service: &Service, spec: &ServiceSpec) -> Self {
        let mut notes = Vec::new();
        let empty = BTreeMap::new();
        let annotations = service.metadata.annotations.as_ref().unwrap_or(&empty);
        let first =
            |names: &[&str]| names.iter().find_map(|n| annotations.get(*n)).map(|v| v.trim().to_owned());
        let mut fixed = Vec::new();
        let wished = first(&ADDRESSES).or_else(|| spec.load_balancer_ip.clone()).unwrap_or_default();
        for text in wished.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            match text.parse::<IpAddr>() {
                Ok(ip) => fixed.push(ip),
                Err(_) => notes.push(format!("`{}` is no IP address and is not used", short(text))),
            }
        }
        let mut ports = Vec::new();
        for port in spec.ports.iter().flatten() {
            let protocol = match port.protocol.as_deref() {
                None | Some("TCP") => Transport::Tcp,
                Some("UDP") => Transport::Udp,
                Some("SCTP") => Transport::Sctp,
                Some(other) => {
                    notes.push(format!("protocol {} is not served", short(other)));
                    continue;
                }
            };
            let name = port.name.clone().unwrap_or_default();
            ports.extend(u16::try_from(port.port).ok().map(|port| WantedPort { name, protocol, port }));
        }
        let families: Vec<bool> = spec.ip_families.iter().flatten().map(|family| family == "IPv4").collect();
        let request = Request {
            created: service.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
            labels: service.metadata.labels.clone().unwrap_or_default(),
            families: if families.is_empty() { vec![true] } else { families },
            one_will_do: spec.ip_family_policy.as_deref() == Some("PreferDualStack"),
            fixed,
            pool: first(&POOL).filter(|p| !p.is_empty()),
            share: first(&SHARE).filter(|s| !s.is_empty()),
            ports: ports.iter().map(|p| (p.protocol, p.port)).collect::<BTreeSet<_>>(),
            held: held(service),
            key,
        };
        Self {
            request,
            sources: sources(spec, &mut notes),
            sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
            name: annotations.get(NAME).map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()),
            ports,
            notes,
        }
    }
}

/// Who may use it. What cannot be read lets nobody in: a list with a mistake must not become "everybody".
fn sources(spec: &ServiceSpec, notes: &mut Vec<String>) -> Vec<Prefix> {
    let mut out = Vec::new();
    let given: Vec<&str> = spec
        .load_balancer_source_ranges
        .iter()
        .flatten()
        .map(|t| t.trim())
        .filter(|t| !t.is_empty())
        .collect();
    for text in &given {
        let prefix = text.parse::<Prefix>().ok().or_else(|| {
            // `10.0.0.7/24` is taken for its network, as kube-proxy does.
            let (ip, length) = text.split_once('/')?;
            network(ip.parse().ok()?, length.parse().ok()?)
        });
        match prefix {
            Some(prefix) => out.push(prefix),
            None => notes.push(format!("source range `{}` cannot be read and lets nobody in", short(text))),
        }
    }
    if out.is_empty() && !given.is_empty() {
        out.extend(nobody());
    }
    out.sort_unstable();
    out.dedup();
    out
}

fn network(ip: IpAddr, length: u8) -> Option<Prefix> {
    let (width, number) = match ip {
        IpAddr::V4(v4) => (32u32, u128::from(u32::from(v4))),
        IpAddr::V6(v6) => (128, u128::from(v6)),
    };
    let host = width.checked_sub(u32::from(length))?;
    let cut = number.checked_shr(host).unwrap_or(0).checked_shl(host).unwrap_or(0);
    let ip = match ip {
        IpAddr::V4(_) => IpAddr::from(u32::try_from(cut).ok()?.to_be_bytes()),
        IpAddr::V6(_) => IpAddr::from(cut.to_be_bytes()),
    };
    format!("{ip}/{length}").parse().ok()
}

/// Addresses that no packet comes from (RFC 5737, 3849).
fn nobody() -> impl Iterator<Item = Prefix> {
    ["192.0.2.0/32", "2001:db8::/128"].into_iter().filter_map(|t| t.parse().ok())
}

pub(super) fn key_of(service: &Service) -> Option<Key> {
    Some(Key { namespace: service.metadata.namespace.clone()?, name: service.metadata.name.clone()? })
}

/// Addresses in the status that we wrote.
fn held(service: &Service) -> Vec<IpAddr> {
    if !wrote_status(service) {
        return Vec::new();
    }
    let ingress =
        service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|lb| lb.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|i| i.ip.as_ref()?.parse().ok()).collect()
}

/// Whether we own something of the status.
fn wrote_status(service: &Service) -> bool {
    let entries = service.metadata.managed_fields.iter().flatten();
    let mut ours = entries
        .filter(|f| f.manager.as_deref() == Some(MANAGER) && f.subresource.as_deref() == Some("status"));
    // After a release the entry stays for the conditions, with nothing of the address in it.
    ours.any(|f| {
        f.fields_v1.as_ref().is_some_and(|fields| {
            fields.0.pointer("/f:status/f:loadBalancer").is_some()
                || fields.0.pointer("/f:status/f:conditions").is_some()
        })
    })
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}
