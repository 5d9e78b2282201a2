//! Where nodes send questions that are not about names of the mesh: per-domain resolvers, resolvers for
//! everything else, and search domains.

use super::bound::Place;
use super::{Actor, Permission, Service, ServiceError, draft};
use crate::model::{MAX_SEARCH, MeshSettings};
use crate::store::Batch;
use meshd_proto::netmap::SplitRoute;
use meshd_proto::{DnsName, Endpoint, UnixSeconds};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Most domains with resolvers of their own.
const MAX_SPLIT: usize = 256;
/// Most resolvers of one domain; a node asks four at most.
const MAX_UPSTREAMS: usize = 4;
/// Where resolvers listen.
const DNS_PORT: u16 = 53;

/// Where questions go. As text, so that one form serves CLI, API and files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolving {
    /// Search domains beside the mesh's own.
    #[serde(default)]
    pub search: Vec<String>,
    /// Domains whose names are asked of resolvers of their own.
    #[serde(default)]
    pub split: Vec<SplitText>,
    /// Resolvers for everything else; empty: each host's own.
    #[serde(default)]
    pub nameservers: Vec<String>,
}

/// A domain with resolvers of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitText {
    /// The domain; names at and below it.
    pub domain: String,
    /// Its resolvers, most preferred first: `192.168.1.1`, `192.168.1.1:5353`, `[fd00::1]:53`.
    pub upstreams: Vec<String>,
}

/// A change of where questions go.
#[derive(Clone, Debug)]
pub enum ResolvingChange {
    /// A domain's resolvers; none: the domain is looked up like any other again.
    Split(SplitText),
    /// Resolvers for everything else.
    Nameservers(Vec<String>),
    /// Search domains.
    Search(Vec<String>),
    /// Both of these.
    Rest {
        /// Resolvers for everything else.
        nameservers: Vec<String>,
        /// Search domains.
        search: Vec<String>,
    },
    /// All of it.
    Whole(Resolving),
}

impl Service {
    /// Where questions go.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn resolving(&self, actor: &Actor) -> Result<Resolving, ServiceError> {
        Self::require(actor, Permission::Read)?;
        Ok(shown(&self.model().mesh))
    }

    /// Changes where questions go; nothing happens when it is so already.
    ///
    /// # Errors
    /// When the actor may not, something is no domain or resolver, or the database fails.
    pub async fn change_resolving(
        &self,
        actor: &Actor,
        change: ResolvingChange,
        now: UnixSeconds,
    ) -> Result<Resolving, ServiceError> {
        self.change_resolving_for(actor, &[], change, now).await
    }

    /// The same for some only: users, groups and tags; none: for everybody.
    ///
    /// # Errors
    /// As [`Service::change_resolving`], and when one of `who` is no user, group or tag.
    pub async fn change_resolving_for(
        &self,
        actor: &Actor,
        who: &[String],
        change: ResolvingChange,
        now: UnixSeconds,
    ) -> Result<Resolving, ServiceError> {
        Self::require(actor, Permission::ManageDns)?;
        let turn = self.lock().await?;
        let place = Place::of(&turn.model, who)?;
        let before = place.as_mesh(&turn.model);
        let mut mesh = before.clone();
        let what = apply(&mut mesh, change)?;
        let after = shown(&mesh);
        if mesh != before {
            let audit =
                vec![draft(actor, "dns.resolving", &turn.model.mesh.name, format!("{what}{}", place.note()))];
            let writes = vec![place.put_mesh(&turn.model, mesh)?];
            turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        }
        Ok(after)
    }
}

pub(super) fn apply(mesh: &mut MeshSettings, change: ResolvingChange) -> Result<String, ServiceError> {
    match change {
        ResolvingChange::Split(text) => {
            let route = split(mesh, &text)?;
            let what = format!("{}: {}", route.suffix, text.upstreams.join(", "));
            let known = mesh.split.iter().any(|s| s.suffix == route.suffix);
            if route.upstreams.is_empty() && !known {
                return Err(ServiceError::NotFound {
                    what: "split domain",
                    name: route.suffix.to_string(),
                    hint: "; `meshd-coordinator dns settings` shows them".to_owned(),
                });
            }
            mesh.split.retain(|s| s.suffix != route.suffix);
            if !route.upstreams.is_empty() {
                mesh.split.push(route);
            }
            mesh.split.sort();
            bounded("split domains", mesh.split.len(), MAX_SPLIT)?;
            Ok(what)
        }
        ResolvingChange::Nameservers(list) => {
            mesh.nameservers = resolvers(mesh, &list)?;
            Ok(format!("nameservers: {}", list.join(", ")))
        }
        ResolvingChange::Search(list) => {
            mesh.search = search(mesh, &list)?;
            Ok(format!("search: {}", list.join(", ")))
        }
        ResolvingChange::Rest { nameservers, search: domains } => {
            (mesh.nameservers, mesh.search) = (resolvers(mesh, &nameservers)?, search(mesh, &domains)?);
            Ok(format!("nameservers: {}; search: {}", nameservers.join(", "), domains.join(", ")))
        }
        ResolvingChange::Whole(all) => {
            bounded("split domains", all.split.len(), MAX_SPLIT)?;
            let mut routes = Vec::new();
            for text in &all.split {
                let route = split(mesh, text)?;
                if route.upstreams.is_empty() || routes.iter().any(|r: &SplitRoute| r.suffix == route.suffix)
                {
                    return Err(ServiceError::Invalid(format!(
                        "`{}` needs one entry with at least one resolver",
                        route.suffix
                    )));
                }
                routes.push(route);
            }
            routes.sort();
            let (names, found) = (resolvers(mesh, &all.nameservers)?, search(mesh, &all.search)?);
            (mesh.split, mesh.nameservers, mesh.search) = (routes, names, found);
            Ok("all of it".to_owned())
        }
    }
}

fn split(mesh: &MeshSettings, text: &SplitText) -> Result<SplitRoute, ServiceError> {
    let suffix = domain(&text.domain)?;
    if suffix.is_in(&mesh.domain) {
        return Err(ServiceError::Invalid(format!(
            "`{suffix}` belongs to the mesh, which answers it by itself; delegate a part of it with an NS record"
        )));
    }
    Ok(SplitRoute { suffix, upstreams: resolvers(mesh, &text.upstreams)? })
}

fn search(mesh: &MeshSettings, list: &[String]) -> Result<Vec<DnsName>, ServiceError> {
    let names: Vec<DnsName> = list.iter().map(|text| domain(text)).collect::<Result<_, _>>()?;
    let mut names: Vec<DnsName> = names.into_iter().filter(|name| *name != mesh.domain).collect();
    names.dedup();
    bounded("search domains", names.len(), MAX_SEARCH)?;
    Ok(names)
}

fn domain(text: &str) -> Result<DnsName, ServiceError> {
    let name: DnsName = text.parse().map_err(|e| ServiceError::Invalid(format!("{e}")))?;
    if name.as_str().starts_with('*') {
        return Err(ServiceError::Invalid(format!(
            "`{name}`: write the domain without `*`; names at and below it are meant"
        )));
    }
    Ok(name)
}

fn resolvers(mesh: &MeshSettings, list: &[String]) -> Result<Vec<Endpoint>, ServiceError> {
    bounded("resolvers", list.len(), MAX_UPSTREAMS)?;
    list.iter().map(|text| resolver(mesh, text)).collect()
}

fn resolver(mesh: &MeshSettings, text: &str) -> Result<Endpoint, ServiceError> {
    let addr = text
        .parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)))
        .map_err(|_| {
            let short: String = text.chars().take(80).collect();
            ServiceError::Invalid(format!(
                "`{short}` is no address of a resolver: write 192.168.1.1, 192.168.1.1:5353 or [fd00::1]:53"
            ))
        })?;
    let ip = addr.ip();
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || addr.port() == 0 {
        return Err(ServiceError::Invalid(format!("{addr} would be another resolver on every node")));
    }
    if mesh.prefixes.resolver().iter().any(|own| own == ip) {
        return Err(ServiceError::Invalid(format!("{ip} is the resolver of the mesh itself: a circle")));
    }
    Ok(Endpoint(addr))
}

fn bounded(what: &str, count: usize, most: usize) -> Result<(), ServiceError> {
    match count <= most {
        true => Ok(()),
        false => Err(ServiceError::Invalid(format!("{count} {what}: at most {most} are taken"))),
    }
}

pub(super) fn shown(mesh: &MeshSettings) -> Resolving {
    let texts = |list: &[Endpoint]| list.iter().map(|e| show(e.0)).collect();
    Resolving {
        search: mesh.search.iter().map(ToString::to_string).collect(),
        split: mesh
            .split
            .iter()
            .map(|s| SplitText { domain: s.suffix.to_string(), upstreams: texts(&s.upstreams) })
            .collect(),
        nameservers: texts(&mesh.nameservers),
    }
}

/// An address, with its port only where it is not the usual one.
fn show(addr: SocketAddr) -> String {
    if addr.port() == DNS_PORT { addr.ip().to_string() } else { addr.to_string() }
}
