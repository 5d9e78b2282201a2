//! What a name is for somebody: asked of the very map that the node has, by the code that answers there.

use super::{Actor, Permission, Service, ServiceError};
use crate::model::{Audience, Model, NodeRecord};
use crate::netmap;
use meshd_dns::{Decision, Route, View};
use meshd_proto::netmap::{MapUpdate, PeerKind, RecordType};
use meshd_proto::{NetworkMap, NodeId};
use meshd_proto::{UnixSeconds, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a name is for a node, or for each of a person's nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameExplained {
    /// What was asked, in full.
    pub name: String,
    /// The type that was asked for.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is seen; one entry for all nodes that see the same.
    pub seen: Vec<NameSeen>,
}

/// What nodes see.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NameSeen {
    /// The nodes.
    pub nodes: Vec<String>,
    /// `answered`, `no such name`, `no data` or `forwarded`.
    pub outcome: String,
    /// The records of the answer, as in a zone file.
    pub records: Vec<String>,
    /// Which bound names hold for these nodes, nearest first.
    pub bound: Vec<String>,
    /// How it came to that.
    pub steps: Vec<String>,
}

impl Service {
    /// What a name is for a node (by name, id or address), or for each node of a user.
    ///
    /// # Errors
    /// When the actor may not, the name is none, or nobody is called so.
    pub async fn explain_name(
        &self,
        actor: &Actor,
        name: &str,
        kind: Option<RecordType>,
        who: &str,
        now: UnixSeconds,
    ) -> Result<NameExplained, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let model = self.model();
        let nodes = asked_as(&model, who, now)?;
        let kind = kind.unwrap_or(RecordType::A);
        let full = full_name(&model, name)?;
        let question = (full.clone(), kind);
        // As much work as a change of the policy is; not where requests are served.
        let seen = tokio::task::spawn_blocking(move || seen_by(&model, &nodes, &question)).await;
        let seen = seen.map_err(|_| ServiceError::Invalid("the map could not be made".to_owned()))?;
        Ok(NameExplained { name: full, kind: kind.as_str().to_owned(), seen })
    }
}

/// The nodes that are meant.
fn asked_as(model: &Model, who: &str, now: UnixSeconds) -> Result<Vec<Arc<NodeRecord>>, ServiceError> {
    if let Ok(node) = super::nodes::find(model, who) {
        if node.kind == PeerKind::PlainWireguard {
            return Err(ServiceError::Invalid(format!(
                "`{}` is a plain WireGuard device: it asks whatever its own configuration names",
                node.name
            )));
        }
        return Ok(vec![node.clone()]);
    }
    let named = who.strip_suffix('@').unwrap_or(who);
    let of = |n: &&Arc<NodeRecord>| {
        n.kind == PeerKind::Meshd
            && n.is_live(now)
            && n.tags.is_empty()
            && n.owner.policy_name().as_deref() == Some(named)
    };
    let nodes: Vec<_> = model.nodes.values().filter(of).cloned().collect();
    if nodes.is_empty() {
        let short: String = who.chars().take(limits::MAX_LABEL).collect();
        return Err(ServiceError::NotFound {
            what: "node or user with a node",
            name: short,
            hint: "; `meshd-coordinator nodes list` shows both".to_owned(),
        });
    }
    Ok(nodes)
}

/// One word is a name of the mesh, as a host's search list makes it.
fn full_name(model: &Model, name: &str) -> Result<String, ServiceError> {
    let name = name.trim().trim_end_matches('.').to_lowercase();
    let full = if name.contains('.') { name } else { format!("{name}.{}", model.mesh.domain) };
    if full.len() > limits::MAX_NAME || full.starts_with('.') {
        return Err(ServiceError::Invalid("this is no name".to_owned()));
    }
    Ok(full)
}

fn seen_by(model: &Arc<Model>, nodes: &[Arc<NodeRecord>], question: &(String, RecordType)) -> Vec<NameSeen> {
    let view = netmap::View::new(model.clone());
    let mut all: BTreeMap<NameSeen, Vec<String>> = BTreeMap::new();
    for node in nodes {
        let mut seen = match map_of(&view, model, node.id) {
            Some(map) => look_up(&View::from_map(&map), question),
            None => NameSeen {
                outcome: "no such name".to_owned(),
                steps: vec!["this node has no map: it is not admitted, or revoked".to_owned()],
                ..NameSeen::default()
            },
        };
        let holding = model.holding(&node.class_key().for_policy());
        seen.bound = holding.iter().map(Audience::to_string).collect();
        all.entry(seen).or_default().push(node.name.to_string());
    }
    all.into_iter().map(|(seen, nodes)| NameSeen { nodes, ..seen }).collect()
}

/// The map that a node has once it has caught up.
fn map_of(view: &netmap::View, model: &Model, node: NodeId) -> Option<NetworkMap> {
    let whole = view.snapshot(node)?;
    let update = MapUpdate {
        network: model.network,
        epoch: model.epoch,
        from: None,
        to: model.version,
        upserts: whole.upserts,
        removes: whole.removes,
        digest: whole.digest,
        more: false,
    };
    NetworkMap::empty(model.network).apply(&update).ok()
}

fn look_up(view: &View, (name, kind): &(String, RecordType)) -> NameSeen {
    let Some((decision, steps)) = view.answer_text(name, kind.number()) else {
        return NameSeen { outcome: "no such name".to_owned(), ..NameSeen::default() };
    };
    let to = |route: &Route| match route {
        Route::Host => "forwarded to the host's own resolvers".to_owned(),
        Route::Global(_) => "forwarded to the mesh's nameservers".to_owned(),
        Route::Split(_) => "forwarded to the resolvers of its domain".to_owned(),
    };
    let (outcome, records) = match &decision {
        Decision::Answer(answer) => {
            let outcome = match (answer.records.is_empty(), answer.no_such_name()) {
                (_, true) => "no such name",
                (true, false) => "no data",
                (false, false) => "answered",
            };
            (outcome.to_owned(), answer.records.iter().map(ToString::to_string).collect())
        }
        Decision::Chase { records, route, .. } => {
            (to(route), records.iter().map(ToString::to_string).collect())
        }
        Decision::Forward(route) => (to(route), Vec::new()),
    };
    NameSeen { outcome, records, steps, ..NameSeen::default() }
}
