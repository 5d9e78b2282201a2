//! Looking around: nodes by what one remembers of them, and everything that the policy allows.

use super::{Actor, Permission, Service, ServiceError, policy};
use crate::api::views::AccessEdge;
use crate::model::{Model, NodeRecord};
use meshd_policy::{AccessTable, From, MeshFacts, To, access_table, ports_text};
use meshd_proto::netmap::PeerKind;
use meshd_proto::{NodeId, UnixSeconds};
use std::sync::Arc;

/// Which nodes to find.
#[derive(Clone, Debug, Default)]
pub struct NodeQuery {
    /// Part of a name, address, owner, tag or key; empty: all.
    pub text: String,
    /// `online`, `offline`, `waiting`, `expired`, `revoked` or `device`; empty: all.
    pub state: String,
}

impl Service {
    /// The nodes that fit, by name.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn find_nodes(
        &self,
        actor: &Actor,
        query: &NodeQuery,
        now: UnixSeconds,
    ) -> Result<Vec<Arc<NodeRecord>>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let model = self.model();
        let text = query.text.trim().to_lowercase();
        let fits = |n: &&Arc<NodeRecord>| {
            (query.state.is_empty() || self.state_of(n, now) == query.state)
                && (text.is_empty() || speaks_of(n, &text))
        };
        let mut found: Vec<_> = model.nodes.values().filter(fits).cloned().collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// A node by name, id or address, for somebody who needs `permission` for what follows.
    ///
    /// # Errors
    /// When the actor may not, or there is no such node.
    pub fn node_for(
        &self,
        actor: &Actor,
        permission: Permission,
        name: &str,
    ) -> Result<Arc<NodeRecord>, ServiceError> {
        Self::require(actor, permission)?;
        Ok(super::nodes::find(&self.model(), name)?.clone())
    }

    /// A node's state in one word.
    pub fn state_of(&self, node: &NodeRecord, now: UnixSeconds) -> &'static str {
        match () {
            () if node.revoked => "revoked",
            () if !node.admitted => "waiting",
            () if node.is_expired(now) => "expired",
            () if node.kind == PeerKind::PlainWireguard => "device",
            () if self.presence(node.id).is_some_and(|p| p.online) => "online",
            () => "offline",
        }
    }

    /// Everything that the policy in force allows, and whether the mesh has more kinds of nodes than are
    /// shown.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn access(&self, actor: &Actor) -> Result<(Vec<AccessEdge>, bool), ServiceError> {
        Self::require(actor, Permission::Read)?;
        let table = table(&self.model());
        let edges = table.edges.iter().map(|e| view(&table, e)).collect();
        Ok((edges, table.cut))
    }

    /// What the policy in force lets reach a node and what lies behind it.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn reach_of(
        &self,
        actor: &Actor,
        node: NodeId,
        now: UnixSeconds,
    ) -> Result<Vec<AccessEdge>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let model = self.model();
        if !model.nodes.get(&node).is_some_and(|n| n.is_live(now)) {
            return Ok(Vec::new());
        }
        let place = model.nodes.values().filter(|n| policy::takes_part(n)).position(|n| n.id == node);
        let table = table(&model);
        let mine = |group: usize| {
            table.groups.get(group).is_some_and(|g| place.is_some_and(|p| g.nodes.contains(&p)))
        };
        let to_me = table.edges.iter().filter(|e| match e.to {
            To::Group(g) | To::Behind(g, _) | To::Internet(g) => mine(g),
        });
        Ok(to_me.map(|e| view(&table, e)).collect())
    }
}

fn table(model: &Model) -> AccessTable {
    let nodes = policy::facts(model);
    let mesh = MeshFacts { prefixes: model.mesh.prefixes, nodes: &nodes };
    access_table(&model.policy, &[], &mesh)
}

fn view(table: &AccessTable, edge: &meshd_policy::Edge) -> AccessEdge {
    let size = |group: usize| table.groups.get(group).map_or(0, |g| g.nodes.len());
    let [source, destination] = edge.proof.clone();
    AccessEdge {
        from: table.from_label(&edge.from),
        to: table.to_label(&edge.to),
        ports: ports_text(&edge.ports),
        line: edge.line,
        source,
        destination,
        from_nodes: if let From::Group(g) = edge.from { size(g) } else { 0 },
        to_nodes: match edge.to {
            To::Group(g) | To::Behind(g, _) | To::Internet(g) => size(g),
        },
    }
}

fn speaks_of(node: &NodeRecord, text: &str) -> bool {
    node.name.as_str().contains(text)
        || node.owner.display().to_lowercase().contains(text)
        || node.tags.iter().any(|t| t.as_str().contains(text))
        || (text.contains(['.', ':']) && node.addrs.iter().any(|ip| ip.to_string().contains(text)))
        || (text.len() > 5 && node.node_key.to_string().to_lowercase().starts_with(text))
}
