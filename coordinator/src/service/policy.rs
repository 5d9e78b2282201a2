//! The policy text: who may read and set it, and what it approves by itself.

use super::{Actor, Permission, Service, ServiceError, draft, nodes};
use crate::model::{Model, NodeRecord, Write};
use crate::store::Batch;
use crate::store::tokens::PolicyText;
use meshd_policy::{Explanation, MeshFacts, NodeFacts, Policy, Question};
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

    /// Puts a policy into force, when it reads without error and its tests pass. With `expected`, only
    /// when the policy in force is still that of this version. Routes that it approves by itself are
    /// approved with it.
    ///
    /// # Errors
    /// When the actor may not, somebody else was first, the text has errors or failing tests, or the
    /// database fails.
    pub async fn set_policy(
        &self,
        actor: &Actor,
        text: &str,
        expected: Option<Version>,
        now: UnixSeconds,
    ) -> Result<PolicyView, ServiceError> {
        Self::require(actor, Permission::ManagePolicy)?;
        let turn = self.lock().await?;
        if let Some(expected) = expected
            && expected != turn.model.policy_version
        {
            return Err(ServiceError::Conflict(format!(
                "the policy was changed meanwhile (version {} instead of {expected}): read it again and repeat your change",
                turn.model.policy_version
            )));
        }
        let policy = Arc::new(accept(&turn.model, text)?);
        if policy.text() != turn.model.policy.text() {
            let mut writes = vec![Write::PutPolicy { text: text.to_owned(), policy: policy.clone() }];
            for node in turn.model.nodes.values() {
                let mut next = (**node).clone();
                auto_approve(&policy, &mut next);
                if next != **node {
                    writes.push(Write::PutNode(next));
                }
            }
            let audit = vec![draft(actor, "policy.set", "", format_args!("{} rules", policy.rule_count()))];
            turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        }
        self.policy(actor)
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
    let values = model.records.iter().filter(|((name, _), _)| Some(name) == full.as_ref());
    let ips: Vec<IpAddr> = values
        .flat_map(|(_, set)| &set.values)
        .filter_map(|v| if let RecordValue::Address(ip) = v { Some(*ip) } else { None })
        .collect();
    if ips.is_empty() { Err(unknown) } else { Ok(ips) }
}

fn failing_tests(model: &Model, policy: &Policy) -> Vec<String> {
    let nodes = facts(model);
    let mesh = MeshFacts { prefixes: model.mesh.prefixes, nodes: &nodes };
    policy.run_tests(&mesh).iter().map(ToString::to_string).collect()
}

/// The nodes that take part, as the policy sees them.
fn facts(model: &Model) -> Vec<NodeFacts> {
    let taking_part = model.nodes.values().filter(|n| n.admitted && !n.revoked);
    let fact = |n: &Arc<NodeRecord>| NodeFacts {
        name: n.name.to_string(),
        class: n.class_key().for_policy(),
        addrs: n.addrs,
        routes: n.active_routes().collect(),
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
