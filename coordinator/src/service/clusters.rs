//! Clusters: which addresses each may announce, and the services that its operator publishes.
//!
//! An admin delegates ranges. An operator writes its whole set of services; each is taken or refused by
//! itself. The first holder of an address keeps it: another cluster, or another service of the same cluster
//! on the same port, is refused until it is free.

use super::tokens::check_lifetime;
use super::{Actor, ApiTokenRequest, NewApiToken, Permission, Role, Scopes, Service, ServiceError, draft};
use crate::model::{Cluster, Model, Write};
use crate::store::Batch;
use crate::store::tokens::TokenWrite;
use meshd_proto::cluster::{
    AddressRange, ClusterNode, ClusterState, Refusal, ServiceClaim, ServiceKey, ServiceSet, Transport,
    cluster_tag,
};
use meshd_proto::{DnsName, Hostname, UnixSeconds, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Most clusters of one mesh.
const MAX_CLUSTERS: usize = 64;
/// Host numbers of the mesh's IPv6 range that nodes get by their ids.
const NODE_HOSTS_V6: u128 = 1 << 32;

impl Service {
    /// Every cluster with what it publishes.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn clusters(&self, actor: &Actor) -> Result<Vec<ClusterState>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let model = self.model();
        model.clusters.values().map(|cluster| state(&model, cluster)).collect()
    }

    /// One cluster, for its operator.
    ///
    /// # Errors
    /// When the actor may not, or there is no such cluster.
    pub fn cluster(&self, actor: &Actor, name: &str) -> Result<ClusterState, ServiceError> {
        Self::require(actor, Permission::PublishServices)?;
        let model = self.model();
        let cluster = find(&model, name)?;
        require_own(actor, &cluster.name)?;
        state(&model, cluster)
    }

    /// Makes a cluster known, or gives it other ranges.
    ///
    /// # Errors
    /// When the actor may not, a range cannot be delegated, a published address would lie outside, or the
    /// database fails.
    pub async fn put_cluster(
        &self,
        actor: &Actor,
        name: &str,
        ranges: &[AddressRange],
        now: UnixSeconds,
    ) -> Result<ClusterState, ServiceError> {
        Self::require(actor, Permission::ManageMesh)?;
        let invalid =
            |e: meshd_proto::id::NameError| ServiceError::Invalid(format!("the cluster's name: {e}"));
        let name: Hostname = name.parse().map_err(invalid)?;
        cluster_tag(&name).map_err(invalid)?;
        let turn = self.lock().await?;
        let model = &turn.model;
        if model.mesh.domain.child(&name).is_err() {
            return Err(ServiceError::Invalid(format!("`{name}` is too long beneath the mesh's domain")));
        }
        check_ranges(model, &name, ranges)?;
        let known = model.clusters.get(&name);
        if known.is_none() && model.clusters.len() >= MAX_CLUSTERS {
            return Err(ServiceError::Conflict(format!("a mesh has at most {MAX_CLUSTERS} clusters")));
        }
        let cluster = Cluster {
            name: name.clone(),
            ranges: ranges.to_vec(),
            services: known.map(|c| c.services.clone()).unwrap_or_default(),
            created: known.map_or(now, |c| c.created),
            changed: known.map_or(model.version, |c| c.changed),
        };
        for service in cluster.services.values() {
            if let Some(ip) = service.addresses.iter().find(|ip| !cluster.may_announce(**ip)) {
                return Err(ServiceError::Conflict(format!(
                    "service {} of `{name}` has {ip}, which would lie outside: delete it there first, or keep the range",
                    service.key()
                )));
            }
        }
        if known.is_some_and(|c| **c == cluster) {
            return state(model, &cluster);
        }
        let detail = ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let audit = vec![draft(actor, "cluster.set", &name, detail)];
        let batch = Batch { at: now, writes: vec![Write::PutCluster(cluster)], audit, ..Batch::default() };
        let model = turn.commit(batch).await?;
        state(&model, find(&model, name.as_str())?)
    }

    /// Forgets a cluster: what it publishes goes, and its operators' tokens open nothing any more.
    ///
    /// # Errors
    /// When the actor may not, there is no such cluster, or the database fails.
    pub async fn remove_cluster(
        &self,
        actor: &Actor,
        name: &str,
        now: UnixSeconds,
    ) -> Result<(), ServiceError> {
        Self::require(actor, Permission::ManageMesh)?;
        let mut turn = self.lock().await?;
        let name = find(&turn.model, name)?.name.clone();
        let tokens = turn.writer.store.api_tokens(u32::MAX).await?;
        let own = tokens.iter().filter(|t| t.cluster.as_ref() == Some(&name) && t.revoked.is_none());
        let batch = Batch {
            at: now,
            writes: vec![Write::DeleteCluster(name.clone())],
            tokens: own.map(|t| TokenWrite::RevokeApi { id: t.id, at: now }).collect(),
            audit: vec![draft(actor, "cluster.remove", &name, "")],
            ..Batch::default()
        };
        turn.commit(batch).await?;
        Ok(())
    }

    /// Makes the credential of a cluster's operator: it publishes services of this cluster and can do
    /// nothing else.
    ///
    /// # Errors
    /// When the actor may not, there is no such cluster, or the database fails.
    pub async fn create_cluster_token(
        &self,
        actor: &Actor,
        name: &str,
        lifetime: u64,
        now: UnixSeconds,
    ) -> Result<NewApiToken, ServiceError> {
        Self::require(actor, Permission::ManageApiTokens)?;
        check_lifetime(lifetime)?;
        let cluster = find(&self.model(), name)?.name.clone();
        let only = [Permission::PublishServices.as_str()];
        let request = ApiTokenRequest {
            name: format!("operator of {cluster}"),
            role: Role::NetworkAdmin,
            scopes: Scopes::parse(only).map_err(|e| ServiceError::Invalid(e.to_string()))?,
            lifetime,
            cluster: Some(cluster),
        };
        self.create_api_token(actor, &request, now).await
    }

    /// Publishes the whole set of a cluster's services. What cannot be published is named in the answer; the
    /// rest is. `expected`: only while the cluster has that revision.
    ///
    /// # Errors
    /// When the actor may not, there is no such cluster, it has another revision, the set is no set, or the
    /// database fails.
    pub async fn publish_services(
        &self,
        actor: &Actor,
        name: &str,
        set: ServiceSet,
        expected: Option<u64>,
        now: UnixSeconds,
    ) -> Result<ClusterState, ServiceError> {
        Self::require(actor, Permission::PublishServices)?;
        let turn = self.lock().await?;
        let model = turn.model.clone();
        let cluster = find(&model, name)?;
        require_own(actor, &cluster.name)?;
        if set.services.len() > limits::MAX_CLUSTER_SERVICES {
            return Err(ServiceError::Invalid(format!(
                "{} services are too many: a cluster publishes at most {}",
                set.services.len(),
                limits::MAX_CLUSTER_SERVICES
            )));
        }
        if expected.is_some_and(|revision| revision != cluster.changed.0) {
            return Err(ServiceError::Conflict(format!(
                "cluster `{name}` has changed meanwhile: read it again, it has revision {} now",
                cluster.changed
            )));
        }
        let (services, refused) = judge(&model, cluster, set.services);
        if services == cluster.services {
            return Ok(ClusterState { refused, ..state(&model, cluster)? });
        }
        let audit = audit_text(cluster, &services)
            .map(|text| draft(actor, "services.publish", &cluster.name, text))
            .into_iter()
            .collect();
        let next = Cluster { services, ..(**cluster).clone() };
        let batch = Batch { at: now, writes: vec![Write::PutCluster(next)], audit, ..Batch::default() };
        let model = turn.commit(batch).await?;
        Ok(ClusterState { refused, ..state(&model, find(&model, name)?)? })
    }
}

fn require_own(actor: &Actor, cluster: &Hostname) -> Result<(), ServiceError> {
    if actor.is_for_cluster(cluster) {
        return Ok(());
    }
    Err(ServiceError::Forbidden { actor: actor.to_string(), permission: Permission::PublishServices })
}

fn find<'a>(model: &'a Model, name: &str) -> Result<&'a Arc<Cluster>, ServiceError> {
    let found = name.parse::<Hostname>().ok().and_then(|name| model.clusters.get(&name));
    found.ok_or_else(|| ServiceError::NotFound {
        what: "cluster",
        name: name.chars().take(64).collect(),
        hint: "; `meshd-coordinator clusters list` shows them".to_owned(),
    })
}

fn state(model: &Model, cluster: &Cluster) -> Result<ClusterState, ServiceError> {
    let tag = cluster_tag(&cluster.name).map_err(|e| ServiceError::Invalid(e.to_string()))?;
    let domain = cluster.domain(&model.mesh.domain);
    let members = model.nodes.values().filter(|n| n.admitted && !n.revoked && n.tags.contains(&tag));
    Ok(ClusterState {
        name: cluster.name.clone(),
        nodes: members
            .map(|n| ClusterNode { id: n.id, name: n.name.clone(), v4: n.addrs.v4, v6: n.addrs.v6 })
            .collect(),
        tag,
        domain: domain.unwrap_or_else(|| model.mesh.domain.clone()),
        ranges: cluster.ranges.clone(),
        revision: cluster.changed.0,
        services: cluster.services.values().map(|s| (**s).clone()).collect(),
        refused: Vec::new(),
    })
}

fn check_ranges(model: &Model, name: &Hostname, ranges: &[AddressRange]) -> Result<(), ServiceError> {
    if ranges.len() > limits::MAX_CLUSTER_RANGES {
        return Err(ServiceError::Invalid(format!(
            "a cluster has at most {} ranges",
            limits::MAX_CLUSTER_RANGES
        )));
    }
    let forbidden =
        ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8"];
    let forbidden: Vec<AddressRange> = forbidden.iter().filter_map(|t| t.parse().ok()).collect();
    let mesh = &model.mesh.prefixes;
    for (i, range) in ranges.iter().enumerate() {
        let refuse = |why: String| Err(ServiceError::Conflict(format!("{range} cannot be delegated: {why}")));
        if let Some(special) = forbidden.iter().find(|f| f.overlaps(range)) {
            return refuse(format!("{special} is for one machine, one link or nobody"));
        }
        if ranges.iter().take(i).any(|other| other.overlaps(range)) {
            return refuse("it is given twice".to_owned());
        }
        for other in model.clusters.values().filter(|c| c.name != *name) {
            if let Some(theirs) = other.ranges.iter().find(|r| r.overlaps(range)) {
                return refuse(format!("cluster `{}` has {theirs}", other.name));
            }
        }
        if mesh.resolver().iter().any(|ip| range.contains(ip)) {
            return refuse("the resolver of every node is in it".to_owned());
        }
        if let Some(node) = model.nodes.values().find(|n| n.addrs.iter().any(|ip| range.contains(ip))) {
            return refuse(format!("the address of node `{}` is in it", node.name));
        }
        let own = u128::from(mesh.v6.network());
        let by_id =
            AddressRange::new(mesh.v6.network().into(), std::net::Ipv6Addr::from(own + NODE_HOSTS_V6).into());
        if by_id.is_ok_and(|by_id| by_id.overlaps(range)) {
            return refuse("nodes will get addresses of it: begin further behind, at ::1:0:0:0".to_owned());
        }
    }
    Ok(())
}

type Services = BTreeMap<ServiceKey, Arc<ServiceClaim>>;

/// Which claims are taken, and why the others are not.
fn judge(model: &Model, cluster: &Cluster, claims: Vec<ServiceClaim>) -> (Services, Vec<Refusal>) {
    let is_new = |claim: &ServiceClaim| {
        let known = cluster.services.get(&claim.key());
        !known.is_some_and(|known| known.addresses.iter().any(|ip| claim.addresses.contains(ip)))
    };
    let mut claims = claims;
    // Who has an address already comes first and so keeps it.
    claims.sort_by_key(|claim| (is_new(claim), claim.key()));
    let mut judged = Judged { model, cluster, ports: BTreeMap::new(), aliases: BTreeSet::new() };
    let (mut services, mut refused) = (Services::new(), Vec::new());
    for claim in claims {
        let key = claim.key();
        let verdict = if services.contains_key(&key) {
            Err("it is in the set twice".to_owned())
        } else {
            judged.take(&claim)
        };
        match verdict {
            Ok(()) => drop(services.insert(key, Arc::new(claim))),
            Err(reason) => refused.push(Refusal { service: key, reason }),
        }
    }
    (services, refused)
}

struct Judged<'a> {
    model: &'a Model,
    cluster: &'a Cluster,
    ports: BTreeMap<(IpAddr, Transport, u16), ServiceKey>,
    aliases: BTreeSet<DnsName>,
}

impl Judged<'_> {
    fn take(&mut self, claim: &ServiceClaim) -> Result<(), String> {
        claim.check().map_err(|e| e.to_string())?;
        for ip in &claim.addresses {
            self.check_address(*ip)?;
            for (transport, port) in claim.port_numbers() {
                if let Some(other) = self.ports.get(&(*ip, transport, port)) {
                    return Err(format!(
                        "{other} has {ip} on {transport} port {port}: use another port or address"
                    ));
                }
            }
        }
        if let Some(alias) = &claim.alias {
            self.check_alias(alias, &claim.namespace)?;
            self.aliases.insert(alias.clone());
        }
        for ip in &claim.addresses {
            self.ports.extend(claim.port_numbers().map(|(t, port)| ((*ip, t, port), claim.key())));
        }
        Ok(())
    }

    fn check_address(&self, ip: IpAddr) -> Result<(), String> {
        let name = &self.cluster.name;
        if !self.cluster.may_announce(ip) {
            return Err(format!(
                "{ip} is in no range of cluster `{name}`: an admin delegates one with `meshd-coordinator clusters \
                 add {name} --range …`"
            ));
        }
        if let Some(other) = self.model.clusters.values().find(|c| c.name != *name && c.holds(ip)) {
            return Err(format!("cluster `{}` has {ip}, and keeps it: choose another address", other.name));
        }
        match self.model.nodes.values().find(|n| n.addrs.contains(ip)) {
            Some(node) => Err(format!("{ip} is the address of node `{}`", node.name)),
            None => Ok(()),
        }
    }

    /// A name of its own is one label beneath the cluster's domain, or beneath the service's own namespace: an app
    /// team must not take the name of another team's service.
    fn check_alias(&self, alias: &DnsName, namespace: &Hostname) -> Result<(), String> {
        let domain = self.cluster.domain(&self.model.mesh.domain);
        let inside = domain.as_ref().is_some_and(|domain| alias.is_in(domain) && alias != domain);
        if !inside || alias.as_str().contains('*') {
            return Err(format!(
                "`{alias}` is not beneath `{}.{}`: an admin can lead other names there with a CNAME record",
                self.cluster.name, self.model.mesh.domain
            ));
        }
        let beneath = domain.as_ref().and_then(|domain| alias.as_str().strip_suffix(domain.as_str()));
        let mut labels = beneath.unwrap_or_default().trim_end_matches('.').rsplit('.');
        if let (Some(first), Some(_)) = (labels.next(), labels.next())
            && first != namespace.as_str()
        {
            return Err(format!(
                "`{alias}` is beneath the names of namespace `{first}`: choose a name of `{namespace}`"
            ));
        }
        if self.aliases.contains(alias) {
            return Err(format!("another service has the name `{alias}`"));
        }
        Ok(())
    }
}

/// What the audit log says: which services came, went or have other addresses. That pods moved is no news.
fn audit_text(cluster: &Cluster, services: &Services) -> Option<String> {
    let list = |claim: &ServiceClaim| {
        let ips: Vec<String> = claim.addresses.iter().map(ToString::to_string).collect();
        format!("{} {}", claim.key(), ips.join(" "))
    };
    let shown = |all: &Services| all.values().map(|c| list(c)).collect::<BTreeSet<_>>();
    let (old, new) = (shown(&cluster.services), shown(services));
    let gone = old.difference(&new).map(|s| format!("-{s}"));
    let parts: Vec<String> = gone.chain(new.difference(&old).map(|s| format!("+{s}"))).take(40).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
