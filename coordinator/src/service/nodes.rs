//! What an admin does with nodes.

use super::{Actor, Permission, Service, ServiceError, Turn, allocate, draft, register};
use crate::model::{ClassKey, Model, NodeRecord, Owner, Write};
use crate::store::Batch;
use meshd_proto::{Hostname, NodeId, Tag, UnixSeconds};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Service {
    /// Every node, by name.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn nodes(&self, actor: &Actor) -> Result<Vec<Arc<NodeRecord>>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let mut nodes: Vec<_> = self.model().nodes.values().cloned().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(nodes)
    }

    /// One node, by name, id or mesh address.
    ///
    /// # Errors
    /// When the actor may not, or there is none.
    pub fn node(&self, actor: &Actor, name: &str) -> Result<Arc<NodeRecord>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        find(&self.model(), name).cloned()
    }

    /// Removes a node and the devices joined through it. It is cut off as soon as this returns: the
    /// model without it is published.
    ///
    /// # Errors
    /// When the actor may not, there is no such node, or the database fails.
    pub async fn remove_node(
        &self,
        actor: &Actor,
        name: &str,
        now: UnixSeconds,
    ) -> Result<Arc<NodeRecord>, ServiceError> {
        Self::require(actor, Permission::ManageNodes)?;
        let turn = self.lock().await?;
        let node = find(&turn.model, name)?.clone();
        let writes = removal(&turn.model, node.id);
        let audit = vec![draft(actor, "node.remove", &node.name, node.node_key.short())];
        turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        self.presence.forget(node.id);
        Ok(node)
    }

    /// Cuts a node off and keeps it listed, so that its machine cannot join again by itself.
    ///
    /// # Errors
    /// When the actor may not, there is no such node, or the database fails.
    pub async fn revoke_node(&self, actor: &Actor, name: &str, now: UnixSeconds) -> Result<(), ServiceError> {
        self.change(actor, name, "node.revoke", now, |_, node, _| {
            node.revoked = true;
            Ok(String::new())
        })
        .await
    }

    /// Ends a node's key now: it has to join again with a token and keeps its id and addresses.
    ///
    /// # Errors
    /// When the actor may not, there is no such node, or the database fails.
    pub async fn expire_node(&self, actor: &Actor, name: &str, now: UnixSeconds) -> Result<(), ServiceError> {
        self.change(actor, name, "node.expire", now, |_, node, _| {
            node.key_expires = Some(now);
            Ok(String::new())
        })
        .await
    }

    /// Lets a waiting node talk to others.
    ///
    /// # Errors
    /// When the actor may not, there is no such node, or the database fails.
    pub async fn approve_node(
        &self,
        actor: &Actor,
        name: &str,
        now: UnixSeconds,
    ) -> Result<(), ServiceError> {
        self.change(actor, name, "node.approve", now, |_, node, _| {
            node.admitted = true;
            Ok(String::new())
        })
        .await
    }

    /// Gives a node another name, which then stays whatever the machine calls itself.
    ///
    /// # Errors
    /// When the actor may not, there is no such node, the name is taken, or the database fails.
    pub async fn rename_node(
        &self,
        actor: &Actor,
        name: &str,
        to: &Hostname,
        now: UnixSeconds,
    ) -> Result<(), ServiceError> {
        self.change(actor, name, "node.rename", now, |model, node, _| {
            refuse_taken(model, to, Some(node.id))?;
            node.name = to.clone();
            node.renamed = true;
            Ok(to.to_string())
        })
        .await
    }

    /// Replaces a node's tags. A node with tags belongs to nobody; one without belongs to `owner` again.
    ///
    /// # Errors
    /// When the actor may not, there is no such node, or the database fails.
    pub async fn tag_node(
        &self,
        actor: &Actor,
        name: &str,
        tags: &BTreeSet<Tag>,
        now: UnixSeconds,
    ) -> Result<(), ServiceError> {
        self.change(actor, name, "node.tag", now, |model, node, writes| {
            node.tags.clone_from(tags);
            node.owner = match (&node.owner, tags.is_empty()) {
                (_, false) => Owner::Tagged,
                (Owner::Tagged, true) => super::tokens::default_owner(),
                (user, true) => user.clone(),
            };
            let key = ClassKey { owner: node.owner.clone(), tags: tags.clone() };
            node.class = register::class_of(model, writes, key);
            super::policy::auto_approve(&model.policy, node);
            Ok(tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(", "))
        })
        .await
    }

    /// One node changes by `edit`, which returns the detail of the audit entry. No change, no commit.
    pub(super) async fn change(
        &self,
        actor: &Actor,
        name: &str,
        action: &'static str,
        now: UnixSeconds,
        edit: impl FnOnce(&Model, &mut NodeRecord, &mut Vec<Write>) -> Result<String, ServiceError>,
    ) -> Result<(), ServiceError> {
        Self::require(actor, Permission::ManageNodes)?;
        let turn: Turn<'_> = self.lock().await?;
        let node = find(&turn.model, name)?.clone();
        let (mut next, mut writes) = ((*node).clone(), Vec::new());
        let detail = edit(&turn.model, &mut next, &mut writes)?;
        if next == *node {
            return Ok(());
        }
        writes.push(Write::PutNode(next));
        let audit = vec![draft(actor, action, &node.name, detail)];
        turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        Ok(())
    }
}

/// The writes that remove a node and the devices joined through it.
pub(super) fn removal(model: &Model, id: NodeId) -> Vec<Write> {
    let devices = model.nodes.values().filter(|n| n.via == Some(id)).map(|n| n.id);
    devices.chain([id]).map(Write::DeleteNode).collect()
}

/// A node by name (bare or in the mesh's domain), id or mesh address.
pub(super) fn find<'m>(model: &'m Model, name: &str) -> Result<&'m Arc<NodeRecord>, ServiceError> {
    let lower = name.trim_end_matches('.').to_ascii_lowercase();
    let bare =
        lower.strip_suffix(model.mesh.domain.as_str()).and_then(|h| h.strip_suffix('.')).unwrap_or(&lower);
    let by_addr = || {
        let ip = lower.parse().ok()?;
        model.nodes.values().find(|n| n.addrs.contains(ip))
    };
    let by_id = || model.nodes.get(&NodeId(lower.parse().ok()?));
    model.node_by_name(bare).or_else(by_addr).or_else(by_id).ok_or_else(|| ServiceError::NotFound {
        what: "node",
        name: name.chars().filter(|c| !c.is_control()).take(80).collect(),
        hint: near_miss(model, bare),
    })
}

fn near_miss(model: &Model, asked: &str) -> String {
    let close = model.nodes.values().find(|n| {
        let name = n.name.as_str();
        name.starts_with(asked) || asked.starts_with(name) || name.contains(asked)
    });
    match close {
        Some(node) if !asked.is_empty() => format!(": did you mean `{}`?", node.name),
        _ => "; `meshd-coordinator nodes list` shows them".to_owned(),
    }
}

/// Refuses a name that a node or a record of the mesh has.
pub(super) fn refuse_taken(model: &Model, name: &Hostname, me: Option<NodeId>) -> Result<(), ServiceError> {
    if allocate::is_reserved(name) {
        return Err(ServiceError::Invalid(format!(
            "`{name}` has a meaning of its own for programs, or is a number: choose another name"
        )));
    }
    if let Some(other) = model.node_by_name(name.as_str())
        && Some(other.id) != me
    {
        return Err(ServiceError::Conflict(format!(
            "the name `{name}` belongs to another node: choose another one, or rename that node first"
        )));
    }
    let record = model.mesh.domain.child(name).is_ok_and(|full| model.has_records_of(&full));
    if record {
        return Err(ServiceError::Conflict(format!(
            "`{name}` is a DNS record: choose another name, or run `meshd-coordinator dns remove {name}` first"
        )));
    }
    Ok(())
}
