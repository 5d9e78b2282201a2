//! What is published on public exits: nodes say what they want, admins see it and take it away.

use super::{Actor, Permission, RegisterError, Service, ServiceError, draft};
use crate::exposing::Exposing;
use crate::model::{Model, NodeRecord, Write};
use crate::store::Batch;
use meshd_proto::expose::{Claim, ExitOffer, Published};
use meshd_proto::{NodeId, UnixSeconds};
use std::sync::Arc;

/// One claim of a node, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// Whose.
    pub node: Arc<NodeRecord>,
    /// What.
    pub claim: Claim,
    /// Since when.
    pub since: UnixSeconds,
    /// Where it is, or why it is nowhere.
    pub published: Published,
}

/// A public exit, and how much it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitSummary {
    /// The node.
    pub node: Arc<NodeRecord>,
    /// What it offers.
    pub offer: ExitOffer,
    /// How many claims it serves.
    pub serves: usize,
}

impl Service {
    /// A node replaces what it publishes, and what it offers as a public exit.
    ///
    /// # Errors
    /// When it changes that too often, or is no member any more.
    pub async fn publish(
        &self,
        node: NodeId,
        exit: Option<&ExitOffer>,
        claims: &[Claim],
        now: UnixSeconds,
    ) -> Result<(), RegisterError> {
        let turn = self.lock().await?;
        let record = turn.model.nodes.get(&node).ok_or(RegisterError::TokenRequired)?;
        let mut next = (**record).clone();
        next.publishing.take(exit, claims, now);
        if next.publishing == record.publishing {
            return Ok(());
        }
        self.pace.take(node, now).map_err(|wait| RegisterError::TooOften { wait })?;
        let mut planned = (*turn.model).clone();
        planned.nodes.insert(node, Arc::new(next.clone()));
        let exposing = Exposing::new(&planned);
        for stored in next.publishing.claims.iter_mut().filter(|c| c.claim.port == 0) {
            // What it has been given stays its own, even while it cannot be served.
            stored.port = exposing.port_of(node, stored.claim.id).unwrap_or(stored.port);
        }
        let audit = news(&planned, &exposing, record, &next)
            .into_iter()
            .map(|(action, detail)| draft(&Actor::Node(node), action, &next.name, detail))
            .collect();
        let writes = vec![Write::PutNode(next)];
        turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        Ok(())
    }

    /// The public exits.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn exits(&self, actor: &Actor) -> Result<Vec<ExitSummary>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let model = self.model();
        let exposing = Exposing::new(&model);
        let summary = |node: &Arc<NodeRecord>| {
            let offer = node.publishing.exit.clone()?;
            let serves = exposing.grants.iter().filter(|g| g.exit == node.id).count();
            Some(ExitSummary { node: node.clone(), offer, serves })
        };
        Ok(model.nodes.values().filter_map(summary).collect())
    }

    /// What nodes publish, and what became of it, by age.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn exposures(&self, actor: &Actor) -> Result<Vec<Exposure>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let model = self.model();
        let exposing = Exposing::new(&model);
        let mut out: Vec<Exposure> = Vec::new();
        for node in model.nodes.values() {
            out.extend(node.publishing.claims.iter().map(|stored| Exposure {
                node: node.clone(),
                claim: stored.claim.clone(),
                since: stored.since,
                published: exposing.answer(&model, node.id, stored.claim.id),
            }));
        }
        out.sort_by_key(|e| (e.since, e.node.id));
        Ok(out)
    }

    /// Takes what a node publishes off every exit: one claim, or all. It stays off until the node ends it
    /// and publishes it again.
    ///
    /// # Errors
    /// When the actor may not, or there is no such node or claim.
    pub async fn remove_exposures(
        &self,
        actor: &Actor,
        name: &str,
        claim: Option<u64>,
        now: UnixSeconds,
    ) -> Result<usize, ServiceError> {
        Self::require(actor, Permission::ManageNodes)?;
        let turn = self.lock().await?;
        let missing = |what| ServiceError::NotFound {
            what,
            name: name.chars().take(64).collect(),
            hint: "; `meshd-coordinator exposures list` shows them".to_owned(),
        };
        let record = turn.model.node_by_name(name).ok_or_else(|| missing("node"))?;
        let mut next = (**record).clone();
        let mut removed = Vec::new();
        for stored in &mut next.publishing.claims {
            if claim.is_none_or(|id| id == stored.claim.id) {
                stored.removed = true;
                removed.push(stored.claim.to_string());
            }
        }
        if removed.is_empty() {
            return Err(missing("exposure"));
        }
        let audit = vec![draft(actor, "exposure.remove", &next.name, removed.join(", "))];
        let writes = vec![Write::PutNode(next)];
        turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        Ok(removed.len())
    }
}

/// What changed, for the audit log.
fn news(
    model: &Model,
    exposing: &Exposing,
    before: &NodeRecord,
    after: &NodeRecord,
) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    let (was, is) = (&before.publishing, &after.publishing);
    if was.exit != is.exit {
        let detail = match &is.exit {
            Some(exit) => {
                let name = exit.name.iter().map(ToString::to_string);
                let addrs = exit.addrs.iter().map(ToString::to_string);
                let taken = exit.taken.iter().map(|(t, p)| format!("not {t}:{p}"));
                format!("at {}", name.chain(addrs).chain(taken).collect::<Vec<_>>().join(", "))
            }
            None => "no longer".to_owned(),
        };
        out.push(("exit.offer", detail));
    }
    let has = |claims: &[crate::model::StoredClaim], id: u64| claims.iter().any(|c| c.claim.id == id);
    for gone in was.claims.iter().filter(|c| !has(&is.claims, c.claim.id)) {
        out.push(("exposure.end", gone.claim.to_string()));
    }
    for new in is.claims.iter().filter(|c| !was.claims.iter().any(|old| old.claim == c.claim)) {
        let answer = exposing.answer(model, after.id, new.claim.id);
        if answer.refused.is_empty() {
            let exits: Vec<_> = answer.places.iter().map(|p| format!("{}:{}", p.exit, p.port)).collect();
            out.push(("exposure.publish", format!("{} on {}", new.claim, exits.join(", "))));
        } else {
            out.push(("exposure.refuse", format!("{}: {}", new.claim, answer.refused)));
        }
    }
    out
}
