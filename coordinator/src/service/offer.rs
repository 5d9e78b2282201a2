//! What a member says of itself: routes behind it, exit node, its name.

use super::{Actor, RegisterError, Service, allocate, draft, policy};
use crate::model::{Model, NodeRecord, Write};
use crate::store::Batch;
use meshd_proto::{Hostname, NodeId, Prefix, UnixSeconds, limits};
use std::collections::BTreeSet;

impl Service {
    /// A node replaces what it offers. Approvals stay: what is offered again later counts again.
    ///
    /// # Errors
    /// When it cannot offer that, changes it too often, or is no member any more.
    pub async fn advertise(
        &self,
        node: NodeId,
        routes: &BTreeSet<Prefix>,
        exit: bool,
        hostname: Option<&Hostname>,
        now: UnixSeconds,
    ) -> Result<(), RegisterError> {
        let turn = self.lock().await?;
        check(&turn.model, routes)?;
        let record = turn.model.nodes.get(&node).ok_or(RegisterError::TokenRequired)?;
        let mut next = (**record).clone();
        apply(&turn.model, &mut next, routes, exit, hostname);
        if next == **record {
            return Ok(());
        }
        self.pace.take(node, now).map_err(|wait| RegisterError::TooOften { wait })?;
        let detail = news(record, &next).unwrap_or_default();
        let audit = vec![draft(&Actor::Node(node), "node.offer", &next.name, detail)];
        let writes = vec![Write::PutNode(next)];
        turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        Ok(())
    }

    /// A node leaves for good: its record, addresses and devices go.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn leave(&self, node: NodeId, now: UnixSeconds) -> Result<(), RegisterError> {
        let turn = self.lock().await?;
        let Some(record) = turn.model.nodes.get(&node) else { return Ok(()) };
        let audit = vec![draft(&Actor::Node(node), "node.leave", &record.name, "")];
        let writes = super::nodes::removal(&turn.model, node);
        turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        self.presence.forget(node);
        self.pace.forget(node);
        Ok(())
    }
}

/// Changes `node` to offer that. Routes that the policy approves by itself are approved.
pub(super) fn apply(
    model: &Model,
    node: &mut NodeRecord,
    routes: &BTreeSet<Prefix>,
    exit: bool,
    hostname: Option<&Hostname>,
) {
    node.advertised.clone_from(routes);
    node.exit_advertised = exit;
    if let Some(wish) = hostname
        && !node.renamed
        && !is_numbered(&node.name, wish)
    {
        node.name = allocate::name(model, wish, Some(node.id));
    }
    policy::auto_approve(&model.policy, node);
}

/// What a node says of itself after a change, for the audit log; `None` when nothing of that changed.
pub(super) fn news(before: &NodeRecord, after: &NodeRecord) -> Option<String> {
    let mut news = Vec::new();
    let offered = |n: &NodeRecord| (n.advertised.clone(), n.exit_advertised);
    if offered(before) != offered(after) {
        let exit = after.exit_advertised.then(|| "exit node".to_owned());
        let all: Vec<String> = after.advertised.iter().map(ToString::to_string).chain(exit).collect();
        news.push(if all.is_empty() {
            "offers nothing".to_owned()
        } else {
            format!("offers {}", all.join(", "))
        });
    }
    if (&before.approved, before.exit_approved) != (&after.approved, after.exit_approved) {
        let approved: Vec<String> =
            after.approved.difference(&before.approved).map(ToString::to_string).collect();
        let exit = (after.exit_approved && !before.exit_approved).then(|| "exit node".to_owned());
        let approved: Vec<String> = approved.into_iter().chain(exit).collect();
        news.push(format!("the policy approves {}", approved.join(", ")));
    }
    if before.name != after.name {
        news.push(format!("was {}", before.name));
    }
    if (&before.os, &before.client_version) != (&after.os, &after.client_version) {
        news.push(format!("runs meshd {} on {}", after.client_version, after.os));
    }
    if before.machine_id_hash != after.machine_id_hash {
        news.push("told its machine-id".to_owned());
    }
    Some(news.join("; ")).filter(|text| !text.is_empty())
}

/// Whether `name` is `wish` itself or what it got because the wish was taken: `pi-2` stays when `pi`
/// leaves, since others know it by that name.
fn is_numbered(name: &Hostname, wish: &Hostname) -> bool {
    name == wish
        || name
            .as_str()
            .rsplit_once('-')
            .is_some_and(|(_, n)| n.parse::<u32>().is_ok_and(|n| n >= 2 && wish.numbered(n) == *name))
}

/// Refuses routes that nobody can have behind him.
pub(super) fn check(model: &Model, routes: &BTreeSet<Prefix>) -> Result<(), RegisterError> {
    if routes.len() > limits::MAX_ADVERTISED_ROUTES {
        return Err(RegisterError::TooManyRoutes(routes.len()));
    }
    match routes.iter().find_map(|p| fault(model, *p).map(|reason| (*p, reason))) {
        Some((prefix, reason)) => Err(RegisterError::BadRoute { prefix, reason }),
        None => Ok(()),
    }
}

/// Those of `routes` that [`check`] has nothing against.
pub(super) fn sound(model: &Model, routes: &BTreeSet<Prefix>) -> BTreeSet<Prefix> {
    let sound = routes.iter().copied().filter(|p| fault(model, *p).is_none());
    sound.take(limits::MAX_ADVERTISED_ROUTES).collect()
}

fn fault(model: &Model, prefix: Prefix) -> Option<&'static str> {
    let mesh = &model.mesh.prefixes;
    let overlaps = |net: ipnet::IpNet| Prefix::new(net.trunc()).is_ok_and(|p| p.overlaps(&prefix));
    if prefix.is_default() {
        return Some("a default route is offered with --advertise-exit-node");
    }
    if overlaps(mesh.v4.into()) || overlaps(mesh.v6.into()) {
        return Some("it overlaps the mesh's own range");
    }
    (!prefix.can_lie_behind_a_node())
        .then_some("loopback, link-local, multicast and reserved ranges cannot lie behind a node")
}
