//! Why a flow passes or not, in words: who receives it, which rule decides, how source and
//! destination come to be named by it.

use crate::class::ClassKey;
use crate::policy::Policy;
use crate::selector::Selector;
use crate::trial::{MeshFacts, NodeFacts, try_flow};
use crate::verdict::{Flow, Verdict};
use meshd_proto::Prefix;
use std::fmt;
use std::net::IpAddr;

/// May `src` reach `dst`?
pub type Question = Flow;

/// The answer, with the way to it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// What the receiving node does; `None` when no node has or routes the destination.
    pub verdict: Option<Verdict>,
    /// The node that gets the flow: the destination itself, or the router it lies behind.
    pub receiver: Option<String>,
    /// One sentence for each step.
    pub steps: Vec<String>,
}

impl Explanation {
    /// Whether the flow passes.
    pub fn is_allowed(&self) -> bool {
        self.verdict.is_some_and(|v| v.is_allowed())
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_allowed() { "allowed" } else { "denied" })?;
        self.steps.iter().try_for_each(|step| write!(f, "\n  {step}"))
    }
}

/// Explains what becomes of a flow in this mesh under this policy.
pub fn explain(policy: &Policy, mesh: &MeshFacts<'_>, flow: &Question) -> Explanation {
    let sender = mesh.nodes.iter().find(|n| n.addrs.contains(flow.src));
    let mut steps = vec![describe_source(policy, sender, flow.src)];
    let receivers = receivers(mesh, sender, flow.dst);
    if receivers.is_empty() {
        steps.push(format!("no node has {} or an approved route to it", flow.dst));
        return Explanation { verdict: None, receiver: None, steps };
    }
    let tried: Vec<_> = (receivers.iter())
        .map(|(node, route)| (node, route, try_flow(policy, mesh.prefixes, sender, node, flow)))
        .collect();
    let best = tried.iter().find(|(_, _, (verdict, _))| verdict.is_allowed()).or(tried.first());
    let Some((node, route, (verdict, origin))) = best else {
        return Explanation { verdict: None, receiver: None, steps };
    };
    steps.push(match route {
        None => format!("{} is node {}, {}", flow.dst, node.name, describe_class(policy, &node.class)),
        Some(route) => format!("{} lies behind node {} ({route})", flow.dst, node.name),
    });
    match (verdict, origin.and_then(|number| policy.rules.get(number))) {
        (Verdict::Allow { line, .. }, Some(rule)) => {
            steps.push(format!("the rule on line {line} allows it"));
            let source = rule.sources.iter().find(|t| names_source(policy, &t.selector, sender, flow.src));
            steps.extend(source.map(|t| format!("source: {}", membership(policy, &t.selector, sender))));
            let fits = |s: &Selector| names_target(policy, s, node, route.is_some(), flow.dst);
            let port =
                |t: &&crate::policy::Target| t.ports.iter().any(|r| r.covers(flow.protocol, flow.dst_port));
            let target = rule.targets.iter().filter(port).find(|t| fits(&t.selector));
            steps.extend(target.map(|t| {
                let why = membership(policy, &t.selector, Some(**node).filter(|_| route.is_none()));
                format!("destination: {why} (line {})", t.pos.line)
            }));
        }
        (Verdict::Allow { line, .. }, None) => steps.push(format!("the rule on line {line} allows it")),
        (Verdict::Deny(reason), _) => steps.push(reason.to_string()),
    }
    Explanation { verdict: Some(*verdict), receiver: Some(node.name.clone()), steps }
}

/// The nodes that can get a flow to `dst`, with the route it takes: the node that has the address, or
/// all owners of the longest approved prefix.
fn receivers<'a>(
    mesh: &MeshFacts<'a>,
    sender: Option<&NodeFacts>,
    dst: IpAddr,
) -> Vec<(&'a NodeFacts, Option<Prefix>)> {
    if let Some(node) = mesh.nodes.iter().find(|n| n.addrs.contains(dst)) {
        return vec![(node, None)];
    }
    if mesh.prefixes.contains(dst) {
        return Vec::new();
    }
    let is_sender = |node: &NodeFacts| sender.is_some_and(|s| s.addrs == node.addrs);
    let mut routed: Vec<_> = (mesh.nodes.iter().filter(|node| !is_sender(node)))
        .flat_map(|node| node.routes.iter().map(move |route| (node, *route)))
        .filter(|(_, route)| route.net().contains(&dst))
        .collect();
    let longest = routed.iter().map(|(_, route)| route.net().prefix_len()).max();
    routed.retain(|(_, route)| Some(route.net().prefix_len()) == longest);
    routed.into_iter().map(|(node, route)| (node, Some(route))).collect()
}

fn describe_source(policy: &Policy, sender: Option<&NodeFacts>, src: IpAddr) -> String {
    match sender {
        Some(node) => format!("{src} is node {}, {}", node.name, describe_class(policy, &node.class)),
        None => format!("{src} is no node: it counts by its address"),
    }
}

fn describe_class(policy: &Policy, class: &ClassKey) -> String {
    if !class.tags.is_empty() {
        let tags: Vec<_> = class.tags.iter().map(|t| t.as_str()).collect();
        return format!("with {}", tags.join(", "));
    }
    let Some(user) = class.user_name() else { return "which has neither owner nor tags".to_owned() };
    let groups: Vec<_> = policy.groups_of(user).map(|g| format!("group:{g}")).collect();
    if groups.is_empty() { format!("of {user}") } else { format!("of {user} in {}", groups.join(", ")) }
}

pub(crate) fn names_source(
    policy: &Policy,
    selector: &Selector,
    sender: Option<&NodeFacts>,
    src: IpAddr,
) -> bool {
    match selector {
        Selector::Addresses(prefix) => prefix.net().contains(&src),
        other => sender.is_some_and(|node| other.names_class(&node.class, &policy.names.groups)),
    }
}

pub(crate) fn names_target(
    policy: &Policy,
    selector: &Selector,
    node: &NodeFacts,
    routed: bool,
    dst: IpAddr,
) -> bool {
    match selector {
        Selector::Everything => true,
        Selector::Addresses(prefix) => prefix.net().contains(&dst),
        Selector::Internet => routed,
        Selector::Myself => !routed,
        other => !routed && other.names_class(&node.class, &policy.names.groups),
    }
}

/// How a node comes to be named: "group:ops, in which alice is by line 4".
pub(crate) fn membership(policy: &Policy, selector: &Selector, node: Option<&NodeFacts>) -> String {
    if let (Selector::Group(group), Some(user)) = (selector, node.and_then(|n| n.class.user_name()))
        && let Some(pos) = policy.names.groups.members.get(group).and_then(|users| users.get(user))
    {
        return format!("{selector}, in which {user} is by line {}", pos.line);
    }
    if let Selector::Addresses(prefix) = selector
        && let Some((alias, (_, pos))) = policy.names.hosts.iter().find(|(_, (p, _))| p == prefix)
    {
        return format!("{prefix}, which line {} names {alias}", pos.line);
    }
    selector.to_string()
}

#[cfg(test)]
mod tests;
