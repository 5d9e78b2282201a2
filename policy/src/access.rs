//! Everything that a policy allows in a mesh, as edges: who, to what, on which ports, by which line.
//!
//! It is read off the rules that each receiving node gets, so it shows what nodes enforce. Nodes that the
//! policy treats alike (equal [`Party`]s) are one group; cost grows with groups, not with nodes. More than
//! [`MAX_GROUPS`] groups are cut, and the table says so.

use crate::class::ClassKey;
use crate::compile::{Compiled, NodeView};
use crate::explain::{membership, names_source, names_target};
use crate::party::Party;
use crate::policy::Policy;
use crate::ports::PortRange;
use crate::trial::{MeshFacts, NodeFacts};
use meshd_proto::netmap::{FilterRule, RuleSource, TargetAddr};
use meshd_proto::{ClassId, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Most groups that a table compares.
pub const MAX_GROUPS: usize = 300;

/// Nodes that one or two policies treat alike.
#[derive(Clone, Debug)]
pub struct Group {
    /// For people: an owner, tags, a node's name.
    pub label: String,
    /// Places of its nodes in the facts.
    pub nodes: Vec<usize>,
    class: ClassId,
}

/// Who may begin a conversation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    /// The nodes of a group, by its place in [`AccessTable::groups`].
    Group(usize),
    /// Addresses outside the mesh, as the policy names them.
    Addresses(Prefix),
}

/// What may be reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum To {
    /// The nodes of a group.
    Group(usize),
    /// Addresses behind the nodes of a group.
    Behind(usize, Prefix),
    /// The internet through the nodes of a group.
    Internet(usize),
}

/// One thing that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Who.
    pub from: From,
    /// What.
    pub to: To,
    /// On which ports.
    pub ports: PortRange,
    /// Line of the rule.
    pub line: u32,
    /// How source and destination come to be named by it.
    pub proof: [String; 2],
}

/// Everything that a policy allows.
#[derive(Clone, Debug, Default)]
pub struct AccessTable {
    /// The nodes, in groups.
    pub groups: Vec<Group>,
    /// What is allowed between them.
    pub edges: Vec<Edge>,
    /// There were more groups than are compared.
    pub cut: bool,
}

/// What `policy` allows. Nodes are grouped so that every one of `also` treats a group's nodes alike,
/// too: tables of several policies can then be compared.
pub fn access_table(policy: &Policy, also: &[&Policy], mesh: &MeshFacts<'_>) -> AccessTable {
    let classes = classes(mesh);
    let ids: BTreeMap<&ClassKey, ClassId> = classes.iter().map(|(id, key)| (key, *id)).collect();
    let compiled = Compiled::new(policy, classes.clone());
    let others: Vec<_> = also.iter().map(|p| Compiled::new(*p, classes.clone())).collect();
    let all: Vec<&Compiled<&Policy>> = std::iter::once(&compiled).chain(&others).collect();
    let (groups, cut) = groups(mesh, &ids, &all, MAX_GROUPS);
    let mut edges = BTreeSet::new();
    for (place, group) in groups.iter().enumerate() {
        let Some(node) = group.nodes.first().and_then(|n| mesh.nodes.get(*n)) else { continue };
        let view = NodeView { class: group.class, addrs: node.addrs, routes: &node.routes };
        for (number, rule) in compiled.rules_with_origin(&view).into_values() {
            let receiver = Receiver { place, node };
            add(&mut edges, policy, mesh, &groups, &receiver, number, &rule);
        }
    }
    AccessTable { groups, edges: edges.into_iter().collect(), cut }
}

/// Whether nodes of that owner may begin anything: what an [`access_table`] says of one sender, in a mesh of
/// any size.
pub fn begins_something(policy: &Policy, mesh: &MeshFacts<'_>, owner: &str) -> bool {
    let classes = classes(mesh);
    let ids: BTreeMap<&ClassKey, ClassId> = classes.iter().map(|(id, key)| (key, *id)).collect();
    let compiled = Compiled::new(policy, classes.clone());
    let (groups, _) = groups(mesh, &ids, &[&compiled], usize::MAX);
    let sample = |group: &Group| group.nodes.first().and_then(|n| mesh.nodes.get(*n));
    let is_own = |group: &Group| sample(group).is_some_and(|n| n.class.user_name() == Some(owner));
    let own: BTreeSet<usize> = (0..groups.len()).filter(|place| is_own(&groups[*place])).collect();
    let party = |place: usize, routes: bool| {
        let group = groups.get(place)?;
        let node = sample(group)?;
        let routes: &[Prefix] = if routes { &node.routes } else { &[] };
        compiled.party(&NodeView { class: group.class, addrs: node.addrs, routes })
    };
    let senders: Vec<Party> = own.iter().filter_map(|place| party(*place, false)).collect();
    groups.iter().enumerate().any(|(place, group)| {
        let Some(node) = sample(group) else { return false };
        // Few are named by a rule that names the owner, too: only their rules are looked at in full.
        if !party(place, true).is_some_and(|receiver| senders.iter().any(|own| own.reaches(&receiver))) {
            return false;
        }
        let view = NodeView { class: group.class, addrs: node.addrs, routes: &node.routes };
        let receiver = Receiver { place, node };
        compiled.rules_with_origin(&view).into_values().any(|(number, rule)| {
            let mut edges = BTreeSet::new();
            add(&mut edges, policy, mesh, &groups, &receiver, number, &rule);
            edges.iter().any(|edge| matches!(edge.from, From::Group(from) if own.contains(&from)))
        })
    })
}

fn classes(mesh: &MeshFacts<'_>) -> BTreeMap<ClassId, ClassKey> {
    let distinct: BTreeSet<&ClassKey> = mesh.nodes.iter().map(|n| &n.class).collect();
    (1..).map(ClassId).zip(distinct.into_iter().cloned()).collect()
}

/// What nodes of one group have in common: class, routes, and how each policy sees their addresses.
type Likeness = (ClassId, Vec<Prefix>, Vec<Option<Party>>);

fn groups(
    mesh: &MeshFacts<'_>,
    ids: &BTreeMap<&ClassKey, ClassId>,
    policies: &[&Compiled<&Policy>],
    most: usize,
) -> (Vec<Group>, bool) {
    // Where no policy names one of its addresses, a node is its class and its routes.
    let mut found: BTreeMap<Likeness, Vec<usize>> = BTreeMap::new();
    for (place, node) in mesh.nodes.iter().enumerate() {
        let Some(class) = ids.get(&node.class).copied() else { continue };
        let named = policies.iter().any(|p| p.names_address(&node.addrs));
        let bare = NodeView { class, addrs: node.addrs, routes: &[] };
        let parties = if named { policies.iter().map(|p| p.party(&bare)).collect() } else { Vec::new() };
        found.entry((class, node.routes.clone(), parties)).or_default().push(place);
    }
    let cut = found.len() > most;
    let mut of_class: BTreeMap<ClassId, usize> = BTreeMap::new();
    found.keys().for_each(|(class, ..)| *of_class.entry(*class).or_default() += 1);
    let group = |((class, ..), nodes): (Likeness, Vec<usize>)| {
        let first = nodes.first().and_then(|n| mesh.nodes.get(*n));
        let own = first.map(|n| class_label(&n.class)).unwrap_or_default();
        let label = match (nodes.as_slice(), of_class.get(&class)) {
            ([_], Some(2..)) => first.map(|n| n.name.clone()).unwrap_or_default(),
            (_, Some(2..)) => {
                let names = nodes.iter().take(3).filter_map(|n| mesh.nodes.get(*n)).map(|n| n.name.as_str());
                let more = if nodes.len() > 3 { "…" } else { "" };
                format!("{own} ({}{more})", names.collect::<Vec<_>>().join(", "))
            }
            _ => own,
        };
        Group { label, nodes, class }
    };
    (found.into_iter().take(most).map(group).collect(), cut)
}

fn class_label(class: &ClassKey) -> String {
    match class.user_name() {
        Some(user) => user.to_owned(),
        None if class.tags.is_empty() => "nobody's nodes".to_owned(),
        None => class.tags.iter().map(|t| t.as_str()).collect::<Vec<_>>().join(" "),
    }
}

struct Receiver<'a> {
    place: usize,
    node: &'a NodeFacts,
}

fn add(
    edges: &mut BTreeSet<Edge>,
    policy: &Policy,
    mesh: &MeshFacts<'_>,
    groups: &[Group],
    receiver: &Receiver<'_>,
    number: usize,
    rule: &FilterRule,
) {
    let sources = sources(rule, mesh, groups);
    for target in &rule.dsts {
        let (to, families) = match target.to {
            TargetAddr::Myself => (To::Group(receiver.place), BOTH),
            TargetAddr::Internet => (To::Internet(receiver.place), BOTH),
            TargetAddr::Prefix(p) => {
                let own = receiver.node.addrs.iter().any(|ip| p == Prefix::host(ip));
                let to = match () {
                    () if own => To::Group(receiver.place),
                    () if p.is_default() => To::Internet(receiver.place),
                    () => To::Behind(receiver.place, p),
                };
                (to, family(p))
            }
        };
        let ports = PortRange { protocol: target.protocol, first: target.first_port, last: target.last_port };
        for (from, own) in sources.iter().filter(|(_, own)| **own & families != 0) {
            // A single node does not reach itself through the mesh.
            if let (From::Group(a), To::Group(b)) = (from, &to)
                && a == b
                && groups.get(*a).is_some_and(|g| g.nodes.len() < 2)
            {
                continue;
            }
            let v4 = own & families & V4 != 0;
            let proof = proof(policy, mesh, groups, receiver, number, (from, &to, v4), &ports);
            edges.insert(Edge { from: from.clone(), to: to.clone(), ports, line: rule.line, proof });
        }
    }
}

const V4: u8 = 1;
const V6: u8 = 2;
const BOTH: u8 = V4 | V6;

fn family(prefix: Prefix) -> u8 {
    if prefix.net().addr().is_ipv4() { V4 } else { V6 }
}

/// Who a rule lets in, with the families in which it does.
fn sources(rule: &FilterRule, mesh: &MeshFacts<'_>, groups: &[Group]) -> BTreeMap<From, u8> {
    let mut found: BTreeMap<From, u8> = BTreeMap::new();
    let mut note = |from: From, families: u8| *found.entry(from).or_default() |= families;
    for source in &rule.srcs {
        match source {
            RuleSource::AnyNode => (0..groups.len()).for_each(|g| note(From::Group(g), BOTH)),
            RuleSource::Class(class) => {
                let same = groups.iter().enumerate().filter(|(_, g)| g.class == *class);
                same.for_each(|(place, _)| note(From::Group(place), BOTH));
            }
            RuleSource::Prefix(prefix) => {
                for (place, group) in groups.iter().enumerate() {
                    let sample = group.nodes.first().and_then(|n| mesh.nodes.get(*n));
                    if sample.is_some_and(|n| n.addrs.iter().any(|ip| prefix.net().contains(&ip))) {
                        note(From::Group(place), family(*prefix));
                    }
                }
                if !mesh.prefixes.contains(prefix.net().addr()) {
                    note(From::Addresses(*prefix), family(*prefix));
                }
            }
        }
    }
    found
}

/// The terms of the policy entry that name both ends.
fn proof(
    policy: &Policy,
    mesh: &MeshFacts<'_>,
    groups: &[Group],
    receiver: &Receiver<'_>,
    number: usize,
    (from, to, v4): (&From, &To, bool),
    ports: &PortRange,
) -> [String; 2] {
    let Some(rule) = policy.rules.get(number) else { return Default::default() };
    let sample = |place: &usize| groups.get(*place)?.nodes.first().and_then(|n| mesh.nodes.get(*n));
    let own = |n: &NodeFacts| if v4 { IpAddr::V4(n.addrs.v4) } else { IpAddr::V6(n.addrs.v6) };
    let (sender, src) = match from {
        From::Group(place) => (sample(place), sample(place).map(own)),
        From::Addresses(prefix) => (None, Some(prefix.net().addr())),
    };
    let (routed, dst) = match to {
        To::Group(_) => (false, own(receiver.node)),
        To::Behind(_, prefix) => (true, prefix.net().addr()),
        To::Internet(_) => (true, if v4 { IpAddr::from([1, 1, 1, 1]) } else { PUBLIC_V6 }),
    };
    let by_term =
        |t: &&crate::policy::Term| src.is_some_and(|ip| names_source(policy, &t.selector, sender, ip));
    let source = rule.sources.iter().find(by_term).map(|t| membership(policy, &t.selector, sender));
    let fits = |t: &&crate::policy::Target| {
        t.ports.contains(ports) && names_target(policy, &t.selector, receiver.node, routed, dst)
    };
    let node = Some(receiver.node).filter(|_| !routed);
    let target = rule.targets.iter().find(fits).map(|t| membership(policy, &t.selector, node));
    [source.unwrap_or_default(), target.unwrap_or_default()]
}

/// An address of the internet, to see whether a term means it.
const PUBLIC_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2606, 0x4700, 0, 0, 0, 0, 0, 1));

impl AccessTable {
    /// How many pairs of nodes are connected in at least one direction of the edges.
    pub fn pairs(&self) -> u64 {
        let size = |g: &usize| self.groups.get(*g).map_or(0, |g| g.nodes.len() as u64);
        let mut pairs = BTreeSet::new();
        for edge in &self.edges {
            if let (From::Group(from), To::Group(to)) = (&edge.from, &edge.to) {
                pairs.insert((*from, *to));
            }
        }
        pairs.iter().map(|(a, b)| size(a) * if a == b { size(b).saturating_sub(1) } else { size(b) }).sum()
    }

    /// The name of a source.
    pub fn from_label(&self, from: &From) -> String {
        match from {
            From::Group(place) => self.label(*place),
            From::Addresses(prefix) => prefix.to_string(),
        }
    }

    /// The name of a destination.
    pub fn to_label(&self, to: &To) -> String {
        match to {
            To::Group(place) => self.label(*place),
            To::Behind(place, prefix) => format!("{prefix} behind {}", self.label(*place)),
            To::Internet(place) => format!("internet through {}", self.label(*place)),
        }
    }

    fn label(&self, place: usize) -> String {
        self.groups.get(place).map(|g| g.label.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod tests;
