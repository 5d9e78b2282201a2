//! The one evaluator: may this flow enter this node?
//!
//! [`Filter::compile`] turns the rules of a [`NetworkMap`] into indexes, [`verdict`] looks a flow up.
//! The filter runs where the packet arrives, on the first packet of a flow and again for live flows
//! when the map changes; it knows nothing of connections and keeps no state.
//!
//! Invariants:
//! - an absent filter, an empty one and a map without the node itself deny, each with its own reason;
//! - rules only allow, so their order does not change whether a flow passes; the rule that is named is
//!   the one with the lowest line (then id) that allows it;
//! - a node counts by its own mesh addresses, everything else by address only;
//! - an address that two nodes of different classes claim belongs to no class;
//! - traffic towards the internet goes to public unicast outside the mesh, also where a rule names
//!   `0.0.0.0/0` or `::/0`;
//! - compiling costs O(terms · log), never sources × destinations.

use crate::index::{self, PortIndex, PrefixIndex, first_common};
use meshd_proto::addr::is_public_unicast;
use meshd_proto::netmap::{FilterRule, RuleSource, TargetAddr};
use meshd_proto::{ClassId, MeshAddrs, MeshPrefixes, NetworkMap, RuleId};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The direction that opens a conversation: who wants to reach what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Inner source address.
    pub src: IpAddr,
    /// Inner destination address.
    pub dst: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; 0 for protocols that have none.
    pub dst_port: u16,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It may enter.
    Allow {
        /// The rule that says so.
        rule: RuleId,
        /// That rule's line in the policy text.
        line: u32,
    },
    /// It is dropped.
    Deny(DenyReason),
}

impl Verdict {
    /// Whether the flow may enter.
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }
}

/// Why a flow is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DenyReason {
    /// No filter was received yet.
    #[error("this node has not received its policy yet")]
    FilterAbsent,
    /// The map does not say who this node is.
    #[error("this node does not know its own addresses yet")]
    SelfUnknown,
    /// The policy lets nothing in here.
    #[error("the policy allows nothing to reach this node")]
    FilterEmpty,
    /// An IPv4 address inside an IPv6 one: never valid inside the mesh.
    #[error("an IPv4-mapped IPv6 address is not accepted inside the mesh")]
    MappedAddress,
    /// No rule names the source.
    #[error("no rule names this source as one that may reach this node")]
    SourceNotNamed,
    /// Rules name the source, none of them with this destination, protocol and port.
    #[error("no rule lets this source reach this destination, protocol and port")]
    TargetNotAllowed,
}

/// A node's compiled filter. Immutable; made anew for each map.
#[derive(Clone, Debug, Default)]
pub struct Filter(State);

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Absent,
    SelfUnknown,
    Empty,
    Rules(Box<Rules>),
}

#[derive(Clone, Debug)]
struct Rules {
    addrs: MeshAddrs,
    prefixes: MeshPrefixes,
    /// Place in the order of lines → which rule. The indexes below hold places.
    order: Vec<(u32, RuleId)>,
    /// Mesh address → class of its node; `None`: claimed by nodes of different classes.
    nodes: BTreeMap<IpAddr, Option<ClassId>>,
    from_any_node: Vec<u32>,
    from_class: BTreeMap<ClassId, Vec<u32>>,
    from_prefix: PrefixIndex<Vec<u32>>,
    to_myself: PortIndex,
    to_internet: PortIndex,
    to_prefix: PrefixIndex<PortIndex>,
    /// The rules that let somebody out to the internet, on whatever protocol and port.
    any_internet: Vec<u32>,
}

impl Filter {
    /// Compiles the filter of the node that `map` belongs to.
    pub fn compile(map: &NetworkMap) -> Self {
        let Some(rules) = map.filter() else { return Self(State::Absent) };
        let Some(me) = &map.me else { return Self(State::SelfUnknown) };
        let peers = map.peers.values().map(|p| (p.addrs, p.class));
        Self::build(me.addrs, me.prefixes, peers.chain([(me.addrs, me.class)]), rules)
    }

    /// Compiles from parts: the node's own addresses and ranges, every node it may hear of with its
    /// class (itself included), and the rules.
    pub fn build(
        addrs: MeshAddrs,
        prefixes: MeshPrefixes,
        nodes: impl IntoIterator<Item = (MeshAddrs, ClassId)>,
        rules: &BTreeMap<RuleId, FilterRule>,
    ) -> Self {
        if rules.is_empty() {
            return Self(State::Empty);
        }
        let mut order: Vec<_> = rules.iter().map(|(id, rule)| (rule.line, *id)).collect();
        order.sort_unstable();
        let mut compiled = Rules {
            addrs,
            prefixes,
            nodes: classes_by_address(nodes),
            from_any_node: Vec::new(),
            from_class: BTreeMap::new(),
            from_prefix: PrefixIndex::default(),
            to_myself: PortIndex::default(),
            to_internet: PortIndex::default(),
            to_prefix: PrefixIndex::default(),
            any_internet: Vec::new(),
            order: Vec::new(),
        };
        for (place, (_, id)) in (0u32..).zip(&order) {
            if let Some(rule) = rules.get(id) {
                compiled.add(place, rule);
            }
        }
        compiled.order = order;
        Self(State::Rules(Box::new(compiled)))
    }

    /// Whether `src` may reach anything of the internet through this node: such a source needs names, too.
    pub fn lets_out(&self, src: IpAddr) -> bool {
        let State::Rules(rules) = &self.0 else { return false };
        let sources = rules.rules_naming_source(src);
        sources.iter().any(|source| first_common(source, &rules.any_internet, u32::MAX) != u32::MAX)
    }

    /// How many rules the filter holds.
    pub fn rule_count(&self) -> usize {
        match &self.0 {
            State::Absent | State::SelfUnknown | State::Empty => 0,
            State::Rules(rules) => rules.order.len(),
        }
    }
}

/// Whether `flow` may enter the node that `filter` was compiled for.
pub fn verdict(filter: &Filter, flow: &Flow) -> Verdict {
    match &filter.0 {
        State::Absent => Verdict::Deny(DenyReason::FilterAbsent),
        State::SelfUnknown => Verdict::Deny(DenyReason::SelfUnknown),
        State::Empty => Verdict::Deny(DenyReason::FilterEmpty),
        State::Rules(rules) => match rules.first_match(flow) {
            Ok((line, rule)) => Verdict::Allow { rule, line },
            Err(reason) => Verdict::Deny(reason),
        },
    }
}

fn classes_by_address(
    nodes: impl IntoIterator<Item = (MeshAddrs, ClassId)>,
) -> BTreeMap<IpAddr, Option<ClassId>> {
    let mut classes = BTreeMap::new();
    for (addrs, class) in nodes {
        for ip in addrs.iter() {
            let known = classes.entry(ip).or_insert(Some(class));
            if *known != Some(class) {
                *known = None;
            }
        }
    }
    classes
}

impl Rules {
    /// Files a rule under its sources and targets. Places come in ascending order.
    fn add(&mut self, place: u32, rule: &FilterRule) {
        for source in &rule.srcs {
            let list = match *source {
                RuleSource::AnyNode => &mut self.from_any_node,
                RuleSource::Class(class) => self.from_class.entry(class).or_default(),
                RuleSource::Prefix(prefix) => self.from_prefix.entry(prefix),
            };
            index::push(list, place);
        }
        for target in &rule.dsts {
            let out = match target.to {
                TargetAddr::Internet => true,
                TargetAddr::Prefix(prefix) => prefix.is_default(),
                TargetAddr::Myself => false,
            };
            if out {
                index::push(&mut self.any_internet, place);
            }
            let ports = match target.to {
                TargetAddr::Myself => &mut self.to_myself,
                TargetAddr::Internet => &mut self.to_internet,
                TargetAddr::Prefix(prefix) => self.to_prefix.entry(prefix),
            };
            ports.insert(target.protocol, target.first_port, target.last_port, place);
        }
    }

    fn first_match(&self, flow: &Flow) -> Result<(u32, RuleId), DenyReason> {
        if is_mapped(flow.src) || is_mapped(flow.dst) {
            return Err(DenyReason::MappedAddress);
        }
        let sources = self.rules_naming_source(flow.src);
        if sources.is_empty() {
            return Err(DenyReason::SourceNotNamed);
        }
        let mut best = u32::MAX;
        self.for_each_target_list(flow, |targets| {
            for source in &sources {
                best = first_common(source, targets, best);
            }
        });
        self.order.get(best as usize).copied().ok_or(DenyReason::TargetNotAllowed)
    }

    fn rules_naming_source(&self, src: IpAddr) -> Vec<&[u32]> {
        let mut lists: Vec<&[u32]> = Vec::with_capacity(4);
        if let Some(class) = self.nodes.get(&src) {
            lists.push(&self.from_any_node);
            if let Some(list) = class.and_then(|class| self.from_class.get(&class)) {
                lists.push(list);
            }
        }
        lists.extend(self.from_prefix.covering(src).map(|(_, list)| list.as_slice()));
        lists.retain(|list| !list.is_empty());
        lists
    }

    fn for_each_target_list<'a>(&'a self, flow: &Flow, mut visit: impl FnMut(&'a [u32])) {
        let dst = flow.dst;
        let mut look = |ports: &'a PortIndex| ports.for_each_list(flow.protocol, flow.dst_port, &mut visit);
        if self.addrs.contains(dst) || self.prefixes.resolver().contains(dst) {
            look(&self.to_myself);
        }
        let internet = is_public_unicast(dst) && !self.prefixes.contains(dst);
        if internet {
            look(&self.to_internet);
        }
        for (length, ports) in self.to_prefix.covering(dst) {
            if length > 0 || internet {
                look(ports);
            }
        }
    }
}

fn is_mapped(ip: IpAddr) -> bool {
    ip.to_canonical() != ip
}

#[cfg(test)]
mod tests;
