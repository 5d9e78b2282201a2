//! Trying a policy: one flow between two nodes, and the `tests` of a policy text.
//!
//! Everything here ends in [`crate::verdict()`] over the rules that the receiving node would get.

use crate::class::ClassKey;
use crate::compile::{Compiled, NodeView};
use crate::diagnostic::Pos;
use crate::policy::{Policy, TestTarget};
use crate::selector::Selector;
use crate::verdict::{Filter, Flow, Verdict, verdict};
use meshd_proto::addr::is_public_unicast;
use meshd_proto::{ClassId, MeshAddrs, MeshPrefixes, Prefix};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The nodes of a mesh, as far as a policy cares.
#[derive(Clone, Debug)]
pub struct MeshFacts<'a> {
    /// The ranges of the mesh.
    pub prefixes: MeshPrefixes,
    /// Its nodes.
    pub nodes: &'a [NodeFacts],
}

/// A node of the mesh, as far as a policy cares.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Its name, for texts.
    pub name: String,
    /// Its class.
    pub class: ClassKey,
    /// Its mesh addresses.
    pub addrs: MeshAddrs,
    /// Approved prefixes behind it; default routes where it is an approved exit node.
    pub routes: Vec<Prefix>,
}

/// A test of the policy that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TestFailure {
    /// Where the destination stands in the text.
    #[serde(flatten)]
    pub pos: Pos,
    /// What was expected and what is.
    pub message: String,
}

impl fmt::Display for TestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: test failed: {}", self.pos, self.message)
    }
}

/// What `receiver` does with `flow`, and the number of the policy entry that allows it. The sender is
/// the node that has the flow's source address, if it is one.
pub(crate) fn try_flow(
    policy: &Policy,
    prefixes: MeshPrefixes,
    sender: Option<&NodeFacts>,
    receiver: &NodeFacts,
    flow: &Flow,
) -> (Verdict, Option<usize>) {
    const RECEIVER: ClassId = ClassId(1);
    const SENDER: ClassId = ClassId(2);
    let mut classes = BTreeMap::from([(RECEIVER, receiver.class.clone())]);
    let mut nodes = vec![(receiver.addrs, RECEIVER)];
    if let Some(sender) = sender {
        let class = if sender.class == receiver.class { RECEIVER } else { SENDER };
        classes.insert(class, sender.class.clone());
        nodes.push((sender.addrs, class));
    }
    let compiled = Compiled::new(policy, classes);
    let view = NodeView { class: RECEIVER, addrs: receiver.addrs, routes: &receiver.routes };
    let rules = compiled.rules_with_origin(&view);
    let filter_rules = rules.iter().map(|(id, (_, rule))| (*id, rule.clone())).collect();
    let verdict = verdict(&Filter::build(receiver.addrs, prefixes, nodes, &filter_rules), flow);
    let origin = match verdict {
        Verdict::Allow { rule, .. } => rules.get(&rule).map(|(number, _)| *number),
        Verdict::Deny(_) => None,
    };
    (verdict, origin)
}

/// One end of a test: a node, real or made up, or an address without one.
struct End {
    shown: String,
    node: Option<NodeFacts>,
    /// When the test named an address.
    addr: Option<IpAddr>,
}

impl Policy {
    /// Runs the `tests` of the policy. Users and tags are tried with a node made up for the purpose,
    /// addresses with the node that has them; an empty result means that every test holds.
    pub fn run_tests(&self, mesh: &MeshFacts<'_>) -> Vec<TestFailure> {
        let mut failures = Vec::new();
        for test in &self.tests {
            let sources = self.sources_of_test(&test.src.selector, mesh);
            if sources.is_empty() {
                let message = format!("{} has no members, so nothing was tried", test.src.selector);
                failures.push(TestFailure { pos: test.src.pos, message });
            }
            for source in &sources {
                let accept = test.accept.iter().map(|target| (target, true));
                for (target, expected) in accept.chain(test.deny.iter().map(|target| (target, false))) {
                    for protocol in &test.protocols {
                        failures.extend(self.try_target(mesh, source, target, *protocol, expected));
                    }
                }
            }
        }
        failures
    }

    fn sources_of_test(&self, selector: &Selector, mesh: &MeshFacts<'_>) -> Vec<End> {
        let made_up = |class: ClassKey| {
            let node =
                NodeFacts { name: "sender".to_owned(), class, addrs: spare_addrs(mesh, 1), routes: vec![] };
            Some(node)
        };
        match selector {
            Selector::Group(group) => {
                let members = self.names.groups.members.get(group).into_iter().flat_map(|users| users.keys());
                let end = |user: &String| End {
                    shown: format!("{user} of {selector}"),
                    node: made_up(ClassKey::user(user)),
                    addr: None,
                };
                members.map(end).collect()
            }
            Selector::Addresses(prefix) => {
                let ip = prefix.net().addr();
                let node = mesh.nodes.iter().find(|n| n.addrs.contains(ip)).cloned();
                vec![End { shown: ip.to_string(), node, addr: Some(ip) }]
            }
            other => {
                vec![End { shown: other.to_string(), node: class_of(other).and_then(made_up), addr: None }]
            }
        }
    }

    fn try_target(
        &self,
        mesh: &MeshFacts<'_>,
        source: &End,
        target: &TestTarget,
        protocol: u8,
        expected: bool,
    ) -> Option<TestFailure> {
        let fail = |message: String| Some(TestFailure { pos: target.pos, message });
        let (receiver, dst) = receiver_of_test(&target.selector, mesh)?;
        let v6 = dst.or(source.addr).is_some_and(|ip| ip.is_ipv6());
        let own = |node: &NodeFacts| if v6 { IpAddr::V6(node.addrs.v6) } else { IpAddr::V4(node.addrs.v4) };
        let src = source.addr.or(source.node.as_ref().map(own))?;
        let dst = dst.unwrap_or_else(|| own(&receiver));
        if src.is_ipv4() != dst.is_ipv4() {
            return fail(format!("{src} and {dst} are of different families: a flow has one"));
        }
        let flow = Flow { src, dst, protocol, dst_port: target.port.unwrap_or(0) };
        let what = format!("{} to {} with protocol {protocol}", source.shown, target.text);
        match (try_flow(self, mesh.prefixes, source.node.as_ref(), &receiver, &flow).0, expected) {
            (Verdict::Allow { .. }, true) | (Verdict::Deny(_), false) => None,
            (Verdict::Deny(reason), true) => {
                fail(format!("{what} should be accepted and is denied: {reason}"))
            }
            (Verdict::Allow { line, .. }, false) => {
                fail(format!("{what} should be denied and is accepted by the rule on line {line}"))
            }
        }
    }
}

/// The node that gets a test's flow, and the address when the test named one.
fn receiver_of_test(selector: &Selector, mesh: &MeshFacts<'_>) -> Option<(NodeFacts, Option<IpAddr>)> {
    let mut node = NodeFacts {
        name: "receiver".to_owned(),
        class: ClassKey::default(),
        addrs: spare_addrs(mesh, 2),
        routes: Vec::new(),
    };
    let Selector::Addresses(prefix) = selector else {
        node.class = class_of(selector)?;
        return Some((node, None));
    };
    let ip = prefix.net().addr();
    if let Some(known) = mesh.nodes.iter().find(|n| n.addrs.contains(ip)) {
        return Some((known.clone(), Some(ip)));
    }
    match ip {
        IpAddr::V4(v4) if mesh.prefixes.contains(ip) => node.addrs.v4 = v4,
        IpAddr::V6(v6) if mesh.prefixes.contains(ip) => node.addrs.v6 = v6,
        _ => node.routes.push(Prefix::host(ip)),
    }
    if is_public_unicast(ip) {
        node.routes.extend([Prefix::DEFAULT_V4, Prefix::DEFAULT_V6]);
    }
    Some((node, Some(ip)))
}

fn class_of(selector: &Selector) -> Option<ClassKey> {
    match selector {
        Selector::User(name) => Some(ClassKey::user(name)),
        Selector::Tag(tag) => Some(ClassKey::tagged([tag.clone()])),
        _ => None,
    }
}

/// Addresses of the mesh that no node has, counted from the end of the ranges.
fn spare_addrs(mesh: &MeshFacts<'_>, turn: u32) -> MeshAddrs {
    let (last_v4, last_v6) =
        (u32::from(mesh.prefixes.v4.broadcast()), u128::from(mesh.prefixes.v6.broadcast()));
    let mut back = turn;
    loop {
        let addrs = MeshAddrs {
            v4: Ipv4Addr::from(last_v4.wrapping_sub(back)),
            v6: Ipv6Addr::from(last_v6.wrapping_sub(back.into())),
        };
        let taken = mesh.nodes.iter().any(|n| n.addrs.v4 == addrs.v4 || n.addrs.v6 == addrs.v6);
        if !taken {
            return addrs;
        }
        back += 2;
    }
}

#[cfg(test)]
mod tests;
