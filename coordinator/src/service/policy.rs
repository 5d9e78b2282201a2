//! The policy text: who may read and set it, and what it approves by itself.

use super::{Actor, Permission, Service, ServiceError, draft, nodes};
use crate::model::{Model, NodeRecord, Serving, Write};
use crate::store::Batch;
use crate::store::tokens::PolicyText;
use meshd_policy::{Explanation, MeshFacts, NodeFacts, Plan, Policy, Question};
use meshd_proto::netmap::RecordValue;
use meshd_proto::{Hostname, UnixSeconds, Version};
use std::net::IpAddr;
use std::sync::Arc;

/// Most bytes of a policy text.
const MAX_POLICY_TEXT: usize = 512 * 1024;

/// The policy in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyView {
    /// As the admin wrote it.
    pub text: String,
    /// The version that brought it: name it when you set the next one.
    pub version: Version,
    /// Parts of the text that have no effect here.
    pub warnings: Vec<String>,
}

/// A policy that somebody wants in force.
#[derive(Clone, Copy, Debug)]
pub struct PolicyChange<'a> {
    /// The text.
    pub text: &'a str,
    /// Only when the policy in force is still that of this version.
    pub expected: Option<Version>,
    /// Also when it cuts most of the mesh, or the actor's own machines, off.
    pub force: bool,
}

/// What a policy text would do.
#[derive(Clone, Debug)]
pub struct PolicyPlan {
    /// Parts of the text that have no effect here.
    pub warnings: Vec<String>,
    /// What would be allowed and what no longer.
    pub plan: Plan,
    /// Why it would be refused unless forced.
    pub danger: Option<String>,
}

impl Service {
    /// The policy in force.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn policy(&self, actor: &Actor) -> Result<PolicyView, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let model = self.model();
        Ok(PolicyView {
            text: model.policy.text().to_owned(),
            version: model.policy_version,
            warnings: texts(model.policy.warnings()),
        })
    }

    /// Reads a policy text and runs its tests, and changes nothing. Returns its warnings.
    ///
    /// # Errors
    /// When the actor may not, or the text has errors or failing tests.
    pub fn check_policy(&self, actor: &Actor, text: &str) -> Result<Vec<String>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let policy = accept(&self.model(), text)?;
        Ok(texts(policy.warnings()))
    }

    /// What a policy text would change, and what speaks against it. Changes nothing.
    ///
    /// # Errors
    /// When the actor may not, or the text has errors or failing tests.
    pub fn plan_policy(&self, actor: &Actor, text: &str) -> Result<PolicyPlan, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let model = self.model();
        let policy = accept(&model, text)?;
        let plan = effect(&model, &policy);
        let danger = danger(actor, &model, &policy, &plan);
        Ok(PolicyPlan { warnings: texts(policy.warnings()), plan, danger })
    }

    /// Puts a policy into force, when it reads without error and its tests pass, and when it cuts neither
    /// the actor's own machines nor most of the mesh off (unless forced). Routes that it approves by
    /// itself are approved with it.
    ///
    /// # Errors
    /// When the actor may not, somebody else was first, the text has errors or failing tests, it cuts too
    /// much, or the database fails.
    pub async fn set_policy(
        &self,
        actor: &Actor,
        change: &PolicyChange<'_>,
        now: UnixSeconds,
    ) -> Result<PolicyView, ServiceError> {
        self.put_policy(actor, change, "policy.set", now).await
    }

    /// Puts the policy that a version brought back into force.
    ///
    /// # Errors
    /// When the actor may not, there is no such version, it does not pass today, it cuts too much, or the
    /// database fails.
    pub async fn rollback_policy(
        &self,
        actor: &Actor,
        version: Version,
        force: bool,
        now: UnixSeconds,
    ) -> Result<PolicyView, ServiceError> {
        Self::require(actor, Permission::ManagePolicy)?;
        let past = self.lock().await?.writer.store.policies(u32::MAX).await?;
        let found = past.into_iter().find(|p| p.version == version.0);
        let text = found.map(|p| p.text).ok_or_else(|| ServiceError::NotFound {
            what: "policy of version",
            name: version.to_string(),
            hint: "; `meshd-coordinator policy history` shows them".to_owned(),
        })?;
        let change = PolicyChange { text: &text, expected: None, force };
        self.put_policy(actor, &change, "policy.rollback", now).await
    }

    async fn put_policy(
        &self,
        actor: &Actor,
        change: &PolicyChange<'_>,
        action: &'static str,
        now: UnixSeconds,
    ) -> Result<PolicyView, ServiceError> {
        Self::require(actor, Permission::ManagePolicy)?;
        let turn = self.lock().await?;
        if let Some(expected) = change.expected
            && expected != turn.model.policy_version
        {
            return Err(ServiceError::Conflict(format!(
                "the policy was changed meanwhile (version {} instead of {expected}): read it again and repeat your change",
                turn.model.policy_version
            )));
        }
        let policy = Arc::new(accept(&turn.model, change.text)?);
        if policy.text() != turn.model.policy.text() {
            let danger = danger(actor, &turn.model, &policy, &effect(&turn.model, &policy));
            if let Some(danger) = danger.as_deref().filter(|_| !change.force) {
                return Err(ServiceError::Conflict(format!(
                    "{danger}: nothing was changed; look at it with `policy plan`, and force it when it is meant so"
                )));
            }
            let mut writes = vec![Write::PutPolicy { text: change.text.to_owned(), policy: policy.clone() }];
            for node in turn.model.nodes.values() {
                let mut next = (**node).clone();
                auto_approve(&policy, &mut next);
                if next != **node {
                    writes.push(Write::PutNode(next));
                }
            }
            let forced = if danger.is_some() { ", forced" } else { "" };
            let detail = format!("{} rules{forced}", policy.rule_count());
            let audit = vec![draft(actor, action, "", detail)];
            turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        }
        let model = self.model();
        Ok(PolicyView {
            text: model.policy.text().to_owned(),
            version: model.policy_version,
            warnings: texts(model.policy.warnings()),
        })
    }

    /// Whether a flow passes under the policy in force, and why. Ends are names of nodes or addresses;
    /// the receiver has a port behind a colon, where its protocol has ports.
    ///
    /// # Errors
    /// When the actor may not, or an end, port or protocol makes no sense.
    pub fn explain_policy(
        &self,
        actor: &Actor,
        from: &str,
        to: &str,
        protocol: &str,
    ) -> Result<Explanation, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let model = self.model();
        let question = question(&model, from, to, protocol)?;
        let nodes = facts(&model);
        let mesh = MeshFacts { prefixes: model.mesh.prefixes, nodes: &nodes };
        Ok(meshd_policy::explain(&model.policy, &mesh, &question))
    }

    /// Policies that were in force, newest first.
    ///
    /// # Errors
    /// When the actor may not, or the database fails.
    pub async fn policy_history(&self, actor: &Actor, limit: u32) -> Result<Vec<PolicyText>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        Ok(self.lock().await?.writer.store.policies(limit.min(100)).await?)
    }
}

pub(super) fn effect(model: &Model, after: &Policy) -> Plan {
    let nodes = facts(model);
    let mesh = MeshFacts { prefixes: model.mesh.prefixes, nodes: &nodes };
    meshd_policy::plan(&model.policy, after, &mesh)
}

/// What speaks against a change of policy. The plan of a mesh with very many kinds of nodes leaves some out:
/// whether the actor's own machines are cut off is looked at apart, whatever the size. The coordinator itself
/// needs nothing of the policy: its channel, the relays and what a map holds of them are not subject to it.
pub(super) fn danger(actor: &Actor, model: &Model, after: &Policy, plan: &Plan) -> Option<String> {
    let nodes = facts(model);
    let mesh = MeshFacts { prefixes: model.mesh.prefixes, nodes: &nodes };
    if let Actor::User { name, .. } = actor
        && meshd_policy::strands(&model.policy, after, &mesh, name)
    {
        return Some("this policy cuts your own machines off: they would reach nothing any more".to_owned());
    }
    plan.cuts_most().then(|| {
        format!(
            "this policy cuts most of the mesh apart: {} pairs of nodes are connected now, {} would be then",
            plan.pairs_before, plan.pairs_after
        )
    })
}

fn accept(model: &Model, text: &str) -> Result<Policy, ServiceError> {
    if text.len() > MAX_POLICY_TEXT {
        return Err(ServiceError::Invalid(format!(
            "the policy has {} bytes; at most {MAX_POLICY_TEXT} are accepted",
            text.len()
        )));
    }
    let policy = Policy::parse(text).map_err(|found| ServiceError::Policy(texts(&found)))?;
    let failures = failing_tests(model, &policy);
    if failures.is_empty() { Ok(policy) } else { Err(ServiceError::Policy(failures)) }
}

fn question(model: &Model, from: &str, to: &str, protocol: &str) -> Result<Question, ServiceError> {
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => 6,
        "udp" => 17,
        "icmp" => 1,
        "icmpv6" => 58,
        other => other.parse().map_err(|_| {
            ServiceError::Invalid("the protocol is tcp, udp, icmp, icmpv6 or a number up to 255".to_owned())
        })?,
    };
    let has_ports = matches!(protocol, 6 | 17);
    let (host, dst_port) = match to.rsplit_once(':') {
        // `fd00::1` has colons and no port.
        Some((host, port)) if has_ports && to.parse::<IpAddr>().is_err() => {
            let port = port.parse().map_err(|_| {
                ServiceError::Invalid(format!("`{}` is no port", port.chars().take(20).collect::<String>()))
            })?;
            (host.trim_matches(['[', ']']), port)
        }
        _ if has_ports => {
            return Err(ServiceError::Invalid("say which port: write the receiver like nas:443".to_owned()));
        }
        _ => (to.trim_matches(['[', ']']), 0),
    };
    let dst = ends(model, host)?;
    let src = ends(model, from.trim_matches(['[', ']']))?;
    let same_family = |a: &IpAddr| dst.iter().find(|b| a.is_ipv4() == b.is_ipv4()).map(|b| (*a, *b));
    match src.iter().find_map(same_family) {
        Some((src, dst)) => Ok(Question { src, dst, protocol, dst_port }),
        None => Err(ServiceError::Invalid("sender and receiver have no address family in common".to_owned())),
    }
}

/// The addresses of an address, a node, or a record of the mesh.
fn ends(model: &Model, text: &str) -> Result<Vec<IpAddr>, ServiceError> {
    if let Ok(ip) = text.parse() {
        return Ok(vec![ip]);
    }
    let unknown = match nodes::find(model, text) {
        Ok(node) => return Ok(node.addrs.iter().collect()),
        Err(e) => e,
    };
    let full = text.parse::<Hostname>().ok().and_then(|h| model.mesh.domain.child(&h).ok());
    let full = full.or_else(|| text.parse().ok());
    let mesh = &model.mesh;
    let services = model.clusters.values().flat_map(|c| c.records(&mesh.domain, mesh.dns_ttl));
    let records = model.records.iter().map(|(key, set)| (key.clone(), set.clone())).chain(services);
    let ips: Vec<IpAddr> = records
        .filter(|((name, _), _)| Some(name) == full.as_ref())
        .flat_map(|(_, set)| set.values)
        .filter_map(|v| if let RecordValue::Address(ip) = v { Some(ip) } else { None })
        .collect();
    if ips.is_empty() { Err(unknown) } else { Ok(ips) }
}

fn failing_tests(model: &Model, policy: &Policy) -> Vec<String> {
    let nodes = facts(model);
    let mesh = MeshFacts { prefixes: model.mesh.prefixes, nodes: &nodes };
    policy.run_tests(&mesh).iter().map(ToString::to_string).collect()
}

/// Whether a node counts for the policy.
pub(super) fn takes_part(node: &NodeRecord) -> bool {
    node.admitted && !node.revoked
}

/// The nodes that take part, as the policy sees them.
pub(super) fn facts(model: &Model) -> Vec<NodeFacts> {
    let taking_part = model.nodes.values().filter(|n| takes_part(n));
    let serving = Serving::of(model);
    // Addresses of services lie behind the nodes that serve them.
    let served = |n: &NodeRecord| serving.by(n.id).into_iter().flat_map(|s| s.prefixes.iter().copied());
    let fact = |n: &Arc<NodeRecord>| NodeFacts {
        name: n.name.to_string(),
        class: n.class_key().for_policy(),
        addrs: n.addrs,
        routes: n.active_routes().chain(served(n)).collect(),
    };
    taking_part.map(fact).collect()
}

fn texts(found: &[meshd_policy::Diagnostic]) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

/// Approves what the policy lets this node advertise by itself. Takes nothing back.
pub(super) fn auto_approve(policy: &Policy, node: &mut NodeRecord) {
    let class = node.class_key().for_policy();
    let approved = node.advertised.iter().filter(|p| policy.auto_approves(**p, &class));
    node.approved.extend(approved.copied().collect::<Vec<_>>());
    if node.exit_advertised && policy.auto_approves_exit(&class) {
        node.exit_approved = true;
    }
}
