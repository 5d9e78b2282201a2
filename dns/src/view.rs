//! What one asker may see: an immutable value made from a node's own, pruned map.
//!
//! Names in a view:
//! - `<node>.<mesh>.internal` for the node itself and each peer of its map, with PTR records for all
//!   their addresses; the reverse zones of the mesh's ranges are ours as a whole;
//! - what an admin set, inside the mesh's domain or outside it. A record outside answers for exactly
//!   that name (or wildcard); its neighbours are forwarded as before. A node's name cannot be taken
//!   over by a record: addresses and aliases on a node's name are left out;
//! - a bare `pi.`, for addresses only, when that is a name directly under the mesh's domain: a host
//!   whose resolv.conf has no search list still finds it. Everything else of one label is forwarded,
//!   so a node called `com` does not hide the top-level domain from anybody who asks for its NS or DS.
//!
//! Not here: names that this asker may not see. They are NXDOMAIN, as if they did not exist.

mod build;
mod explain;
mod reverse;

use crate::answer::Answer;
use crate::ede::Ede;
use crate::lookup::{Found, lookup};
use crate::zone::Zone;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, LowerName, Name, Record, RecordType};
use ipnet::IpNet;
use meshd_proto::DnsName;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Where name servers listen.
const DNS_PORT: u16 = 53;

/// Most aliases followed for one question; a longer chain is a loop.
pub const MAX_ALIASES: usize = 8;

/// What one asker may see.
#[derive(Clone, Debug, Default)]
pub struct View {
    domain: Option<LowerName>,
    /// The mesh's zone and its reverse zones, by origin.
    zones: HashMap<LowerName, Zone>,
    /// Records outside the mesh's domain: a name without data here is not ours.
    overrides: Option<Zone>,
    /// Per-domain upstreams.
    split: HashMap<LowerName, Arc<[SocketAddr]>>,
    /// Upstreams for everything else; empty: the host's own.
    nameservers: Arc<[SocketAddr]>,
    search: Vec<DnsName>,
    /// Ranges that are reached through the mesh.
    inside: Vec<IpNet>,
    /// How near addresses are, where that is known.
    near: Arc<Nearness>,
}

/// How near addresses are to this node; lower is nearer, and an address that is not here lies in the middle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nearness(pub HashMap<IpAddr, u8>);

impl Nearness {
    /// What cannot be reached right now.
    pub const GONE: u8 = u8::MAX;
    /// Of which nothing is known.
    const UNKNOWN: u8 = 128;

    fn of(&self, record: &Record) -> u8 {
        record.data.ip_addr().and_then(|ip| self.0.get(&ip).copied()).unwrap_or(Self::UNKNOWN)
    }
}

/// How much of what the mesh says about names a host takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Names of the mesh's own domain.
    Names,
    /// And records outside of it, and domains with resolvers of their own.
    Split,
    /// And the nameservers for everything else.
    #[default]
    Full,
}

/// What happens to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Answered here.
    Answer(Answer),
    /// Answered here up to an alias that leads out: ask `route` for `target`, put `records` in front.
    Chase {
        /// The aliases followed so far.
        records: Vec<Record>,
        /// What to ask for.
        target: LowerName,
        /// Whom.
        route: Route,
    },
    /// Sent on as it is.
    Forward(Route),
}

/// Which upstream resolvers a question goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Those the host used before us.
    Host,
    /// Those the mesh names for everything that nobody else is named for.
    Global(Arc<[SocketAddr]>),
    /// Those the mesh names for this domain.
    Split(Arc<[SocketAddr]>),
}

impl View {
    /// The mesh's domain, once the map has it.
    pub const fn domain(&self) -> Option<&LowerName> {
        self.domain.as_ref()
    }

    /// Search domains for the host, the mesh's own first.
    pub fn search(&self) -> &[DnsName] {
        &self.search
    }

    /// Domains whose names must come to us from a host that can tell them apart, besides the search
    /// domains: our reverse zones, split domains, records outside the mesh's domain.
    pub fn routing(&self) -> Vec<DnsName> {
        let overrides = self.overrides.iter().flat_map(Zone::owners);
        // A wildcard's names are all those under its parent.
        let parent = |name: &LowerName| if name.is_wildcard() { name.base_name() } else { name.clone() };
        let names = self.zones.keys().chain(self.split.keys()).chain(overrides).map(parent);
        let mut routing: Vec<DnsName> =
            names.filter_map(|name| Name::from(name).to_ascii().trim_end_matches('.').parse().ok()).collect();
        routing.retain(|name| !self.search.contains(name));
        routing.sort_unstable();
        routing.dedup();
        routing
    }

    /// The same view, whose answers begin with the addresses that are nearest.
    #[must_use]
    pub fn nearest_first(mut self, near: Arc<Nearness>) -> Self {
        self.near = near;
        self
    }

    /// The zone that `name` lies in, if it is one of ours.
    pub fn zone_of(&self, name: &LowerName) -> Option<&Zone> {
        let mut at = name.clone();
        loop {
            if let Some(zone) = self.zones.get(&at) {
                return Some(zone);
            }
            if at.is_root() {
                return None;
            }
            at = at.base_name();
        }
    }

    /// What happens to a question.
    pub fn decide(&self, name: &LowerName, kind: RecordType, class: DNSClass) -> Decision {
        let transfer = matches!(kind, RecordType::AXFR | RecordType::IXFR);
        if (class != DNSClass::IN || transfer) && self.zone_of(name).is_some() {
            return Decision::Answer(Answer::code(ResponseCode::Refused));
        }
        if self.domain.is_some() && is_canary(name) {
            let why = Some(Ede::Canary);
            return Decision::Answer(Answer { why, ..Answer::code(ResponseCode::NXDomain) });
        }
        let mut records = Vec::new();
        let mut at = name.clone();
        for _ in 0..=MAX_ALIASES {
            let Some((soa, found)) = self.find(&at, kind, class) else {
                let route = self.route(&at);
                return match records.is_empty() {
                    true => Decision::Forward(route),
                    false => Decision::Chase { records, target: at, route },
                };
            };
            let (code, authority) = match found {
                Found::Alias { record, target } => {
                    records.push(*record);
                    at = target;
                    continue;
                }
                Found::Renamed { records: synthesized, target } => {
                    records.extend(synthesized.map(|record| *record));
                    at = target;
                    continue;
                }
                Found::TooLong(record) => {
                    records.push(*record);
                    (ResponseCode::YXDomain, Vec::new())
                }
                Found::Delegation { glue, .. } => return delegated(records, at, &glue),
                Found::Data(mut data) => {
                    if data.len() > 1 && !self.near.0.is_empty() {
                        // As the admin wrote them where nothing is known.
                        data.sort_by_key(|record| self.near.of(record));
                    }
                    records.extend(data);
                    (ResponseCode::NoError, Vec::new())
                }
                Found::NoData | Found::Empty => (ResponseCode::NoError, vec![soa]),
                // Behind aliases too: the code is about the last name (RFC 6604 §2).
                Found::NoName => (ResponseCode::NXDomain, vec![soa]),
            };
            return Decision::Answer(Answer { code, authoritative: true, records, authority, why: None });
        }
        Decision::Answer(Answer { records, ..Answer::code(ResponseCode::ServFail) })
    }

    /// What we know of a name, with the SOA that stands under a "no"; `None`: not ours, forward it.
    fn find(&self, name: &LowerName, kind: RecordType, class: DNSClass) -> Option<(Record, Found)> {
        if class != DNSClass::IN {
            return None;
        }
        if let Some(zone) = self.zone_of(name) {
            return Some((zone.soa().clone(), lookup(zone, name, kind)));
        }
        if let Some(known) = self.bare(name, kind) {
            return Some(known);
        }
        let overrides = self.overrides.as_ref()?;
        match lookup(overrides, name, kind) {
            Found::NoName | Found::Empty => None,
            // "No data" here keeps a name that an admin gave a private address from being looked up
            // outside for its other types. The name is its own little zone.
            found => Some((renamed(overrides.soa().clone(), name), found)),
        }
    }

    /// A name of one label that stands directly under the mesh's domain, asked for its addresses.
    fn bare(&self, name: &LowerName, kind: RecordType) -> Option<(Record, Found)> {
        if name.num_labels() != 1 || !matches!(kind, RecordType::A | RecordType::AAAA) || name.is_wildcard() {
            return None;
        }
        // RFC 6761 §6.3: it is the host itself, whatever a node is called.
        if Name::from(name).is_localhost() {
            return None;
        }
        let domain = self.domain.as_ref()?;
        let zone = self.zones.get(domain)?;
        let full = Name::from(name).append_domain(domain).ok().map(LowerName::from)?;
        zone.sets(&full)?;
        let here = |record| renamed(record, name);
        let found = match lookup(zone, &full, kind) {
            Found::Data(records) => Found::Data(records.into_iter().map(here).collect()),
            Found::Alias { record, target } => Found::Alias { record: Box::new(here(*record)), target },
            other => other,
        };
        Some((here(zone.soa().clone()), found))
    }

    /// Whether the same questions go to the same upstreams as in `other`, so that what those said holds.
    pub fn forwards_like(&self, other: &Self) -> bool {
        let owners = |view: &Self| -> Vec<LowerName> {
            let own = view.domain.as_ref().and_then(|domain| view.zones.get(domain));
            own.into_iter().chain(&view.overrides).flat_map(Zone::owners).cloned().collect()
        };
        self.domain == other.domain
            && self.split == other.split
            && self.nameservers == other.nameservers
            && self.inside == other.inside
            && owners(self) == owners(other)
    }

    /// Whether an address is one that no name from outside the mesh may lead to: this host itself, the
    /// mesh, or a network behind a subnet router. A page from anywhere could otherwise have its reader's
    /// browser talk to them under its own name (DNS rebinding). Private networks around this host are
    /// not meant: what their own resolver says about them is not ours to judge.
    pub fn is_inside(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || ip.is_unspecified() || self.inside.iter().any(|net| net.contains(&ip))
    }

    /// The upstreams of the longest matching domain.
    fn route(&self, name: &LowerName) -> Route {
        let mut at = name.clone();
        while !self.split.is_empty() {
            if let Some(upstreams) = self.split.get(&at) {
                return Route::Split(Arc::clone(upstreams));
            }
            if at.is_root() {
                break;
            }
            at = at.base_name();
        }
        if self.nameservers.is_empty() { Route::Host } else { Route::Global(Arc::clone(&self.nameservers)) }
    }
}

/// A part of our own tree that other servers have: they are asked, since a stub resolver follows no
/// referral.
fn delegated(records: Vec<Record>, target: LowerName, glue: &[Record]) -> Decision {
    let servers = glue.iter().filter_map(|record| record.data.ip_addr());
    let servers: Arc<[SocketAddr]> = servers.map(|ip| SocketAddr::new(ip, DNS_PORT)).collect();
    let route = Route::Split(servers);
    match records.is_empty() {
        true => Decision::Forward(route),
        false => Decision::Chase { records, target, route },
    }
}

/// The name by which browsers ask whether they may go around the network's resolver. They may not while
/// it has names of its own.
fn is_canary(name: &LowerName) -> bool {
    let labels: [&[u8]; 2] = [b"use-application-dns", b"net"];
    name.num_labels() == 2 && Name::from(name).iter().eq(labels)
}

fn renamed(mut record: Record, name: &LowerName) -> Record {
    record.name = Name::from(name);
    record
}

#[cfg(test)]
mod tests;
