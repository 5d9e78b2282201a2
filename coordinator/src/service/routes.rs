//! Which advertised routes count.

use super::{Actor, Permission, Service, ServiceError, nodes};
use crate::model::NodeRecord;
use meshd_proto::{Hostname, NodeId, Prefix, UnixSeconds};

/// A route as an admin sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteView {
    /// The prefix.
    pub prefix: Prefix,
    /// The node it lies behind.
    pub node: NodeId,
    /// That node's name.
    pub name: Hostname,
    /// The node offers it now.
    pub advertised: bool,
    /// It may count.
    pub approved: bool,
}

impl Service {
    /// Every route that a node advertises or that is approved for one, by prefix.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn routes(&self, actor: &Actor) -> Result<Vec<RouteView>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let mut routes: Vec<RouteView> = self.model().nodes.values().flat_map(|n| views(n)).collect();
        routes.sort_by(|a, b| (a.prefix, &a.name).cmp(&(b.prefix, &b.name)));
        Ok(routes)
    }

    /// Approves prefixes of a node; with none given, all it advertises. Returns those that count now or
    /// will when the node advertises them.
    ///
    /// # Errors
    /// When the actor may not, there is no such node, nothing to approve, or the database fails.
    pub async fn approve_routes(
        &self,
        actor: &Actor,
        name: &str,
        prefixes: &[Prefix],
        now: UnixSeconds,
    ) -> Result<Vec<RouteView>, ServiceError> {
        self.decide_routes(actor, name, prefixes, true, now).await
    }

    /// Takes an approval back; with no prefix given, all of the node.
    ///
    /// # Errors
    /// When the actor may not, there is no such node or approval, or the database fails.
    pub async fn unapprove_routes(
        &self,
        actor: &Actor,
        name: &str,
        prefixes: &[Prefix],
        now: UnixSeconds,
    ) -> Result<Vec<RouteView>, ServiceError> {
        self.decide_routes(actor, name, prefixes, false, now).await
    }

    async fn decide_routes(
        &self,
        actor: &Actor,
        name: &str,
        prefixes: &[Prefix],
        approve: bool,
        now: UnixSeconds,
    ) -> Result<Vec<RouteView>, ServiceError> {
        let action = if approve { "route.approve" } else { "route.unapprove" };
        self.change(actor, name, action, now, |_, node, _| {
            let chosen: Vec<Prefix> =
                if prefixes.is_empty() { decidable(node, approve) } else { prefixes.to_vec() };
            if chosen.is_empty() {
                return Err(nothing_to_decide(node, approve));
            }
            for prefix in &chosen {
                decide(node, *prefix, approve)?;
            }
            Ok(chosen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        })
        .await?;
        let model = self.model();
        let node = nodes::find(&model, name)?;
        Ok(views(node).into_iter().filter(|v| prefixes.is_empty() || prefixes.contains(&v.prefix)).collect())
    }
}

fn decidable(node: &NodeRecord, approve: bool) -> Vec<Prefix> {
    if approve {
        return node.pending_routes().collect();
    }
    let exit = [Prefix::DEFAULT_V4, Prefix::DEFAULT_V6].into_iter().filter(|_| node.exit_approved);
    node.approved.iter().copied().chain(exit).collect()
}

fn nothing_to_decide(node: &NodeRecord, approve: bool) -> ServiceError {
    let name = &node.name;
    ServiceError::Conflict(if !approve {
        format!("no route of `{name}` is approved")
    } else if node.active_routes().next().is_some() {
        format!("every route that `{name}` advertises is already approved")
    } else {
        format!("`{name}` advertises no route: run `meshd set --advertise-routes=PREFIX` on it")
    })
}

fn decide(node: &mut NodeRecord, prefix: Prefix, approve: bool) -> Result<(), ServiceError> {
    if prefix.is_default() {
        if approve && !node.exit_advertised {
            return Err(ServiceError::Conflict(format!(
                "`{}` does not offer itself as exit node: run `meshd set --advertise-exit-node` on it",
                node.name
            )));
        }
        node.exit_approved = approve;
        return Ok(());
    }
    if approve {
        if !node.advertised.contains(&prefix) {
            return Err(not_advertised(node, prefix));
        }
        node.approved.insert(prefix);
    } else if !node.approved.remove(&prefix) {
        return Err(ServiceError::NotFound {
            what: "approved route",
            name: prefix.to_string(),
            hint: format!(" of `{}`; `meshd-coordinator routes list` shows them", node.name),
        });
    }
    Ok(())
}

fn not_advertised(node: &NodeRecord, prefix: Prefix) -> ServiceError {
    let offers: Vec<String> = node.advertised.iter().map(ToString::to_string).collect();
    let offers = if offers.is_empty() { "nothing".to_owned() } else { offers.join(", ") };
    ServiceError::Conflict(format!(
        "`{name}` does not advertise {prefix}, it advertises {offers}: run `meshd set --advertise-routes={prefix}` \
         on it, or approve what it advertises",
        name = node.name
    ))
}

fn views(node: &NodeRecord) -> Vec<RouteView> {
    let view = |prefix, advertised, approved| RouteView {
        prefix,
        node: node.id,
        name: node.name.clone(),
        advertised,
        approved,
    };
    let subnets = node
        .advertised
        .union(&node.approved)
        .map(|p| view(*p, node.advertised.contains(p), node.approved.contains(p)));
    let exit = [Prefix::DEFAULT_V4, Prefix::DEFAULT_V6]
        .into_iter()
        .filter(|_| node.exit_advertised || node.exit_approved)
        .map(|p| view(p, node.exit_advertised, node.exit_approved));
    subnets.chain(exit).collect()
}
