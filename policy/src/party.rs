//! Who is named by which rules: the base of visibility.
//!
//! A [`Party`] is a node, a class or a prefix, reduced to the lists of rules that name it as source
//! and as destination. Two parties connect when some rule is in a list of the one as source and of the
//! other as destination: no selector is looked at again. Parties that are equal are treated equally
//! by the policy, so a caller may group nodes by them.

use crate::class::ClassKey;
use crate::index::{self, PrefixIndex, first_common};
use crate::policy::Rule;
use crate::public::public_parts;
use crate::selector::{Groups, Selector};
use meshd_proto::{MeshAddrs, Prefix, Tag};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Numbers of rules in ascending order.
type List = Arc<[u32]>;

/// A node, a class or a prefix, as the rules see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Party {
    sources: Vec<List>,
    targets: Vec<List>,
    /// The user it belongs to, and the rules with `autogroup:self`.
    own: Option<(Arc<str>, List)>,
}

impl Party {
    /// Whether some rule lets `self` reach something of `other`.
    pub fn reaches(&self, other: &Self) -> bool {
        let own = match (&self.own, &other.own) {
            (Some((user, rules)), Some((owner, _))) if user == owner => {
                any_common(&self.sources, std::slice::from_ref(rules))
            }
            _ => false,
        };
        own || any_common(&self.sources, &other.targets)
    }

    /// Whether one of them reaches the other: they must know each other.
    pub fn connects(&self, other: &Self) -> bool {
        self.reaches(other) || other.reaches(self)
    }

    /// The numbers of the rules with which something of it can be reached, without `autogroup:self`.
    pub(crate) fn target_rules(&self) -> Vec<u32> {
        let mut rules: Vec<u32> = self.targets.iter().flat_map(|list| list.iter().copied()).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}

fn any_common(sources: &[List], targets: &[List]) -> bool {
    sources.iter().any(|a| {
        targets.iter().any(|b| Arc::ptr_eq(a, b) && !a.is_empty() || first_common(a, b, u32::MAX) != u32::MAX)
    })
}

/// The rules of a policy by what they name.
#[derive(Debug, Default)]
pub(crate) struct RuleIndex {
    sources: Side,
    targets: Side,
}

#[derive(Debug, Default)]
struct Side {
    everything: List,
    members: List,
    tagged: List,
    own: List,
    internet: List,
    users: BTreeMap<String, List>,
    groups: BTreeMap<String, List>,
    tags: BTreeMap<Tag, List>,
    addresses: PrefixIndex<List>,
    /// Rules with addresses of which an exit node may forward a part.
    public_v4: List,
    public_v6: List,
}

impl RuleIndex {
    pub(crate) fn build(rules: &[Rule]) -> Self {
        let sources = rules.iter().map(|r| r.sources.iter().map(|t| &t.selector).collect());
        let targets = rules.iter().map(|r| r.targets.iter().map(|t| &t.selector).collect());
        Self { sources: Side::build(sources), targets: Side::build(targets) }
    }

    /// Nodes of a class, by nothing but their class.
    pub(crate) fn class(&self, class: &ClassKey, groups: &Groups) -> Party {
        let own = class.user_name().map(|name| (Arc::from(name), self.targets.own.clone()));
        Party { sources: self.sources.class(class, groups), targets: self.targets.class(class, groups), own }
    }

    /// A node of that class: also by its addresses and by what lies behind it.
    pub(crate) fn node(&self, class: &Party, addrs: &MeshAddrs, routes: &[Prefix]) -> Party {
        let mut party = class.clone();
        self.sources.add_addresses(addrs, &mut party.sources);
        self.targets.add_addresses(addrs, &mut party.targets);
        for route in routes {
            self.add_prefix(*route, &mut party);
        }
        for lists in [&mut party.sources, &mut party.targets] {
            lists.sort();
            lists.dedup();
        }
        party
    }

    /// Whether some rule names one of these addresses by number.
    pub(crate) fn names_address(&self, addrs: &MeshAddrs) -> bool {
        let named = |side: &Side| addrs.iter().any(|ip| side.addresses.covering(ip).next().is_some());
        named(&self.sources) || named(&self.targets)
    }

    /// The rules with `autogroup:self` among their destinations.
    pub(crate) fn own_rules(&self) -> &[u32] {
        &self.targets.own
    }

    /// What lies behind a prefix.
    pub(crate) fn prefix(&self, prefix: Prefix) -> Party {
        let mut party = Party { sources: Vec::new(), targets: Vec::new(), own: None };
        add(&self.targets.everything, &mut party.targets);
        self.add_prefix(prefix, &mut party);
        party
    }

    fn add_prefix(&self, prefix: Prefix, party: &mut Party) {
        if prefix.is_default() {
            // The internet answers, it does not begin; private addresses need a route of their own.
            let public =
                if prefix == Prefix::DEFAULT_V4 { &self.targets.public_v4 } else { &self.targets.public_v6 };
            add(&self.targets.internet, &mut party.targets);
            add(public, &mut party.targets);
        } else {
            self.targets.addresses.overlapping(prefix).for_each(|list| add(list, &mut party.targets));
            self.sources.addresses.overlapping(prefix).for_each(|list| add(list, &mut party.sources));
        }
    }
}

impl Side {
    fn build<'a>(rules: impl Iterator<Item = Vec<&'a Selector>>) -> Self {
        let mut by_selector: BTreeMap<&Selector, Vec<u32>> = BTreeMap::new();
        for (number, selectors) in (0u32..).zip(rules) {
            for selector in selectors {
                index::push(by_selector.entry(selector).or_default(), number);
            }
        }
        let mut side = Self::default();
        let (mut public_v4, mut public_v6) = (BTreeSet::new(), BTreeSet::new());
        for (selector, numbers) in by_selector {
            if let Selector::Addresses(prefix) = selector
                && (prefix.is_default() || !public_parts(*prefix).is_empty())
            {
                let public = if prefix.net().addr().is_ipv4() { &mut public_v4 } else { &mut public_v6 };
                public.extend(numbers.iter().copied());
            }
            let list: List = numbers.into();
            match selector {
                Selector::Everything => side.everything = list,
                Selector::Members => side.members = list,
                Selector::Tagged => side.tagged = list,
                Selector::Myself => side.own = list,
                Selector::Internet => side.internet = list,
                Selector::User(name) => drop(side.users.insert(name.clone(), list)),
                Selector::Group(name) => drop(side.groups.insert(name.clone(), list)),
                Selector::Tag(tag) => drop(side.tags.insert(tag.clone(), list)),
                Selector::Addresses(prefix) => *side.addresses.entry(*prefix) = list,
            }
        }
        side.public_v4 = public_v4.into_iter().collect();
        side.public_v6 = public_v6.into_iter().collect();
        side
    }

    fn class(&self, class: &ClassKey, groups: &Groups) -> Vec<List> {
        let mut lists = Vec::new();
        add(&self.everything, &mut lists);
        if let Some(user) = class.user_name() {
            add(&self.members, &mut lists);
            self.users.get(user).into_iter().for_each(|list| add(list, &mut lists));
            let of_user = groups.of_user.get(user).into_iter().flatten();
            of_user.filter_map(|group| self.groups.get(group)).for_each(|list| add(list, &mut lists));
        }
        if !class.tags.is_empty() {
            add(&self.tagged, &mut lists);
        }
        class.tags.iter().filter_map(|tag| self.tags.get(tag)).for_each(|list| add(list, &mut lists));
        lists.sort();
        lists.dedup();
        lists
    }

    fn add_addresses(&self, addrs: &MeshAddrs, lists: &mut Vec<List>) {
        for ip in addrs.iter() {
            self.addresses.covering(ip).for_each(|(_, list)| add(list, lists));
        }
    }
}

fn add(list: &List, lists: &mut Vec<List>) {
    if !list.is_empty() {
        lists.push(list.clone());
    }
}
