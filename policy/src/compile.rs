//! A policy joined with the classes of a mesh: who sees whom, and each node's filter rules.
//!
//! Nodes are treated by class; addresses and the prefixes behind a node add to it. Making a
//! [`Compiled`] costs about one step for each class and each selector; asking whether two classes
//! connect costs a few list intersections; a node's rules cost what names that node.
//!
//! Rule ids come from the content of a policy entry: an unrelated edit does not change them (the line
//! in a rule follows the text).

use crate::class::ClassKey;
use crate::party::Party;
use crate::policy::{Policy, Rule, Target};
use crate::ports::PortRange;
use crate::public::public_parts;
use crate::selector::Selector;
use meshd_proto::netmap::{FilterRule, RuleSource, RuleTarget, TargetAddr};
use meshd_proto::{ClassId, MeshAddrs, Prefix, RuleId, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

/// A node, as far as a policy cares.
#[derive(Clone, Copy, Debug)]
pub struct NodeView<'a> {
    /// Its class.
    pub class: ClassId,
    /// Its mesh addresses.
    pub addrs: MeshAddrs,
    /// Approved prefixes behind it; `0.0.0.0/0` and `::/0` where it is an approved exit node.
    pub routes: &'a [Prefix],
}

/// A policy joined with the classes of a mesh. Made anew when either changes.
#[derive(Debug)]
pub struct Compiled<P = Arc<Policy>> {
    policy: P,
    classes: BTreeMap<ClassId, ClassKey>,
    parties: BTreeMap<ClassId, Party>,
    /// For each rule of the policy.
    sources: Vec<Arc<Sources>>,
}

/// A rule's sources in parts of bounded size, each with a number that other classes do not change.
type Sources = Vec<(u64, Vec<RuleSource>)>;

impl<P: Deref<Target = Policy>> Compiled<P> {
    /// Joins a policy with the classes of a mesh.
    pub fn new(policy: P, classes: BTreeMap<ClassId, ClassKey>) -> Self {
        let groups = &policy.names.groups;
        let parties = classes.iter().map(|(id, key)| (*id, policy.index.class(key, groups))).collect();
        let sources = sources_of_rules(&policy, &classes);
        Self { policy, classes, parties, sources }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether some rule lets nodes of class `src` reach nodes of class `dst`, by class alone. Rules
    /// that name addresses, and prefixes behind nodes, are seen by [`Compiled::party`].
    pub fn reaches(&self, src: ClassId, dst: ClassId) -> bool {
        match (self.parties.get(&src), self.parties.get(&dst)) {
            (Some(src), Some(dst)) => src.reaches(dst),
            _ => false,
        }
    }

    /// A class as a party: what its nodes share. `None` for a class that is not known.
    pub fn class_party(&self, class: ClassId) -> Option<&Party> {
        self.parties.get(&class)
    }

    /// A node as a party, with its addresses and what lies behind it. Equal to its class's party when
    /// no rule names its addresses or its prefixes. A node of an unknown class is named by nothing.
    pub fn party(&self, node: &NodeView<'_>) -> Option<Party> {
        let class = self.parties.get(&node.class)?;
        Some(self.policy.index.node(class, &node.addrs, node.routes))
    }

    /// Whether some rule names one of these addresses by number: then a node's filter is its own, not
    /// that of its class.
    pub fn names_address(&self, addrs: &MeshAddrs) -> bool {
        self.policy.index.names_address(addrs)
    }

    /// What lies behind a prefix as a party: a node needs the route when its own party
    /// [connects](Party::connects) with this.
    pub fn prefix_party(&self, prefix: Prefix) -> Party {
        self.policy.index.prefix(prefix)
    }

    /// The filter of a node. Empty: nothing may reach it.
    pub fn rules_for(&self, node: &NodeView<'_>) -> BTreeMap<RuleId, FilterRule> {
        self.rules_with_origin(node).into_iter().map(|(id, (_, rule))| (id, rule)).collect()
    }

    /// The filter of a node, with the number of the policy entry each rule came from.
    pub(crate) fn rules_with_origin(&self, node: &NodeView<'_>) -> BTreeMap<RuleId, (usize, FilterRule)> {
        let mut out = BTreeMap::new();
        let (Some(key), Some(party)) = (self.classes.get(&node.class), self.party(node)) else { return out };
        let mut numbers = party.target_rules();
        if key.user_name().is_some() {
            numbers.extend_from_slice(self.policy.index.own_rules());
            numbers.sort_unstable();
            numbers.dedup();
        }
        for number in numbers.into_iter().map(|n| n as usize) {
            let (Some(rule), Some(sources)) = (self.policy.rules.get(number), self.sources.get(number))
            else {
                continue;
            };
            let mut emit = |part: Part, srcs: &[RuleSource], dsts: &[RuleTarget]| {
                let filter = FilterRule { line: rule.pos.line, srcs: srcs.to_vec(), dsts: dsts.to_vec() };
                out.insert(part.rule_id(rule.id), (number, filter));
            };
            let targets = self.targets_of(rule, key, node);
            for (sources_part, srcs) in sources.iter() {
                for (targets_part, dsts) in (0u64..).zip(targets.chunks(limits::MAX_RULE_TERMS)) {
                    emit(Part { own: 0, sources: *sources_part, targets: targets_part }, srcs, dsts);
                }
            }
            let own = own_targets(rule, key, &self.policy);
            if !own.is_empty() {
                emit(Part { own: 1, sources: 0, targets: 0 }, &[RuleSource::Class(node.class)], &own);
            }
        }
        out
    }

    /// What of a node a rule lets its sources reach, without `autogroup:self`.
    fn targets_of(&self, rule: &Rule, class: &ClassKey, node: &NodeView<'_>) -> Vec<RuleTarget> {
        let mut out = BTreeSet::new();
        for target in &rule.targets {
            let mut addrs = Vec::new();
            match &target.selector {
                Selector::Everything => {
                    addrs.push(TargetAddr::Myself);
                    addrs.extend(inner(node.routes).map(TargetAddr::Prefix));
                    addrs.extend(internet(node.routes));
                }
                Selector::Internet => addrs.extend(internet(node.routes)),
                Selector::Addresses(named) => {
                    let own = node.addrs.iter().filter(|ip| named.net().contains(ip));
                    addrs.extend(own.map(|ip| TargetAddr::Prefix(Prefix::host(ip))));
                    addrs.extend(behind(*named, node.routes).into_iter().map(TargetAddr::Prefix));
                }
                Selector::User(_)
                | Selector::Group(_)
                | Selector::Tag(_)
                | Selector::Members
                | Selector::Tagged => {
                    if target.selector.names_class(class, &self.policy.names.groups) {
                        addrs.push(TargetAddr::Myself);
                    }
                }
                Selector::Myself => {}
            }
            for to in addrs {
                out.extend(target.ports.iter().map(|range| range.on(to)));
            }
        }
        out.into_iter().collect()
    }
}

/// Which part of a policy entry a filter rule is.
struct Part {
    own: u64,
    sources: u64,
    targets: u64,
}

impl Part {
    fn rule_id(&self, entry: u64) -> RuleId {
        if (self.own, self.sources, self.targets) == (0, 0, 0) {
            return RuleId(entry);
        }
        let numbers = [entry, self.own, self.sources, self.targets].map(u64::to_le_bytes);
        let hash =
            meshd_proto::keys::hash("meshd policy rule part", &numbers.each_ref().map(|n| n.as_slice()));
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        RuleId(u64::from_le_bytes(first))
    }
}

impl PortRange {
    fn on(&self, to: TargetAddr) -> RuleTarget {
        RuleTarget { to, protocol: self.protocol, first_port: self.first, last_port: self.last }
    }
}

fn inner(routes: &[Prefix]) -> impl Iterator<Item = Prefix> {
    routes.iter().copied().filter(|r| !r.is_default())
}

/// The internet through an exit node, in the families it offers.
fn internet(routes: &[Prefix]) -> Vec<TargetAddr> {
    let (v4, v6) = (routes.contains(&Prefix::DEFAULT_V4), routes.contains(&Prefix::DEFAULT_V6));
    match (v4, v6) {
        (true, true) => vec![TargetAddr::Internet],
        (true, false) => vec![TargetAddr::Prefix(Prefix::DEFAULT_V4)],
        (false, true) => vec![TargetAddr::Prefix(Prefix::DEFAULT_V6)],
        (false, false) => vec![],
    }
}

/// The part of the prefixes behind a node that a rule names by address. Of a default route it is the
/// public part only: private ranges need a route of their own.
fn behind(named: Prefix, routes: &[Prefix]) -> Vec<Prefix> {
    let mut parts = Vec::new();
    for route in routes.iter().filter(|route| route.overlaps(&named)) {
        match (route.is_default(), named.is_default()) {
            (true, true) => parts.push(named),
            (true, false) => parts.extend(public_parts(named)),
            (false, _) if route.net().contains(&named.net()) => parts.push(named),
            (false, _) => parts.push(*route),
        }
    }
    parts
}

/// What a rule with `autogroup:self` opens between the nodes of one user.
fn own_targets(rule: &Rule, class: &ClassKey, policy: &Policy) -> Vec<RuleTarget> {
    let names = |s: &Selector| s.names_class(class, &policy.names.groups);
    if class.user_name().is_none() || !rule.sources.iter().any(|t| names(&t.selector)) {
        return Vec::new();
    }
    let own = rule.targets.iter().filter(|t| t.selector == Selector::Myself);
    let targets: BTreeSet<_> =
        own.flat_map(|t: &Target| t.ports.iter().map(|r| r.on(TargetAddr::Myself))).collect();
    targets.into_iter().collect()
}

/// Every rule's sources. Rules with the same selectors share them.
fn sources_of_rules(policy: &Policy, classes: &BTreeMap<ClassId, ClassKey>) -> Vec<Arc<Sources>> {
    let mut by_selector: BTreeMap<&Selector, Vec<ClassId>> = BTreeMap::new();
    let table = ClassTable::new(classes);
    let mut shared: BTreeMap<BTreeSet<&Selector>, Arc<Sources>> = BTreeMap::new();
    let mut out = Vec::with_capacity(policy.rules.len());
    for rule in &policy.rules {
        let selectors: BTreeSet<&Selector> = rule.sources.iter().map(|t| &t.selector).collect();
        let sources = shared.entry(selectors).or_insert_with_key(|selectors| {
            let any = selectors.contains(&Selector::Everything);
            let mut named = BTreeSet::new();
            for selector in selectors.iter().copied().filter(|_| !any) {
                named.extend(
                    by_selector
                        .entry(selector)
                        .or_insert_with(|| table.named_by(selector, policy))
                        .iter()
                        .copied(),
                );
            }
            Arc::new(parts_of_sources(selectors, any, &named))
        });
        out.push(sources.clone());
    }
    out
}

fn parts_of_sources(selectors: &BTreeSet<&Selector>, any: bool, classes: &BTreeSet<ClassId>) -> Sources {
    let mut parts: BTreeMap<u64, Vec<RuleSource>> = BTreeMap::new();
    if any {
        parts.entry(0).or_default().push(RuleSource::AnyNode);
    }
    for class in classes {
        // By number, so that a new class changes one part only.
        let part = u64::from(class.0) / limits::MAX_RULE_TERMS as u64;
        parts.entry(part).or_default().push(RuleSource::Class(*class));
    }
    let prefixes: Vec<_> = (selectors.iter())
        .filter_map(|s| {
            if let Selector::Addresses(prefix) = s { Some(RuleSource::Prefix(*prefix)) } else { None }
        })
        .collect();
    if !prefixes.is_empty() {
        let first = parts.entry(0).or_default();
        if first.len() + prefixes.len() <= limits::MAX_RULE_TERMS {
            first.extend(prefixes);
        } else {
            parts.insert(u64::MAX, prefixes);
        }
    }
    parts.into_iter().filter(|(_, terms)| !terms.is_empty()).collect()
}

/// The classes by what selectors name.
struct ClassTable<'a> {
    users: BTreeMap<&'a str, Vec<ClassId>>,
    tags: BTreeMap<&'a str, Vec<ClassId>>,
    members: Vec<ClassId>,
    tagged: Vec<ClassId>,
}

impl<'a> ClassTable<'a> {
    fn new(classes: &'a BTreeMap<ClassId, ClassKey>) -> Self {
        let mut table =
            Self { users: BTreeMap::new(), tags: BTreeMap::new(), members: vec![], tagged: vec![] };
        for (id, key) in classes {
            if let Some(user) = key.user_name() {
                table.users.entry(user).or_default().push(*id);
                table.members.push(*id);
            }
            for tag in &key.tags {
                table.tags.entry(tag.as_str()).or_default().push(*id);
            }
            if !key.tags.is_empty() {
                table.tagged.push(*id);
            }
        }
        table
    }

    fn named_by(&self, selector: &Selector, policy: &Policy) -> Vec<ClassId> {
        let of_user = |name: &str| self.users.get(name).cloned().unwrap_or_default();
        match selector {
            Selector::User(name) => of_user(name),
            Selector::Group(name) => {
                let members = policy.names.groups.members.get(name);
                members.into_iter().flat_map(|users| users.keys()).flat_map(|name| of_user(name)).collect()
            }
            Selector::Tag(tag) => self.tags.get(tag.as_str()).cloned().unwrap_or_default(),
            Selector::Members => self.members.clone(),
            Selector::Tagged => self.tagged.clone(),
            // Everything becomes `AnyNode`, addresses become prefixes, the others are never sources.
            Selector::Everything | Selector::Myself | Selector::Internet | Selector::Addresses(_) => {
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests;
