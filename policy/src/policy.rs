//! A policy: its text, read once into rules whose names are resolved.
//!
//! A `Policy` is immutable. [`Policy::parse`] takes it whole or refuses it with every error found;
//! nothing of a refused text is used. What it says about nodes is asked through [`crate::Compiled`],
//! which joins it with the classes of the mesh.

use crate::class::ClassKey;
use crate::diagnostic::{Diagnostic, Pos, quoted};
use crate::party::RuleIndex;
use crate::ports::PortRange;
use crate::selector::{Names, Selector};
use meshd_proto::{DnsName, Prefix, Tag};
use std::collections::BTreeMap;

/// The policy of a new mesh: visible and editable.
pub const DEFAULT_POLICY: &str = include_str!("default.hujson");

/// A policy that was read without an error.
#[derive(Debug)]
pub struct Policy {
    pub(crate) text: String,
    pub(crate) warnings: Vec<Diagnostic>,
    pub(crate) names: Names,
    pub(crate) rules: Vec<Rule>,
    pub(crate) index: RuleIndex,
    pub(crate) tag_owners: BTreeMap<Tag, Vec<Selector>>,
    pub(crate) auto_routes: Vec<(Prefix, Vec<Selector>)>,
    pub(crate) auto_exit: Vec<Selector>,
    pub(crate) tests: Vec<PolicyTest>,
    pub(crate) exposes: Vec<Expose>,
}

/// One entry of `acls` or `grants`.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) pos: Pos,
    /// From the rule's content and its turn among equals: other rules do not change it.
    pub(crate) id: u64,
    pub(crate) sources: Vec<Term>,
    pub(crate) targets: Vec<Target>,
}

/// A selector as a rule's source.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    pub(crate) selector: Selector,
    pub(crate) pos: Pos,
}

/// A selector as a rule's destination.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) selector: Selector,
    pub(crate) pos: Pos,
    pub(crate) ports: Vec<PortRange>,
}

/// One entry of `tests`.
#[derive(Clone, Debug)]
pub(crate) struct PolicyTest {
    pub(crate) src: Term,
    /// Protocols to try; TCP when the test names none.
    pub(crate) protocols: Vec<u8>,
    pub(crate) accept: Vec<TestTarget>,
    pub(crate) deny: Vec<TestTarget>,
}

/// A destination of a test.
#[derive(Clone, Debug)]
pub(crate) struct TestTarget {
    pub(crate) selector: Selector,
    pub(crate) text: String,
    pub(crate) pos: Pos,
    /// `None`: all ports, for protocols that have none.
    pub(crate) port: Option<u16>,
}

/// Who may publish which names and ports on which exits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expose {
    /// Where it is written.
    pub pos: Pos,
    /// Who may publish.
    pub src: Vec<Selector>,
    /// Under which names; `*.apps.example.com` means every name under it.
    pub names: Vec<DnsName>,
    /// Which ports.
    pub ports: Vec<PortRange>,
    /// On which exits.
    pub on: Vec<Selector>,
}

impl Policy {
    /// Reads a policy text.
    ///
    /// # Errors
    /// Every error found (bounded), with the warnings, in the order of the text.
    pub fn parse(text: &str) -> Result<Self, Vec<Diagnostic>> {
        crate::read::policy(text)
    }

    /// The policy that allows nothing.
    pub fn deny_all() -> Self {
        Self {
            text: "{}\n".to_owned(),
            warnings: Vec::new(),
            names: Names::default(),
            rules: Vec::new(),
            index: RuleIndex::default(),
            tag_owners: BTreeMap::new(),
            auto_routes: Vec::new(),
            auto_exit: Vec::new(),
            tests: Vec::new(),
            exposes: Vec::new(),
        }
    }

    /// The text as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Parts of the text that have no effect here.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// How many entries `acls` and `grants` have.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// Whether a node of that class gets `prefix` approved without an admin. Default routes are
    /// never approved here: see [`Policy::auto_approves_exit`].
    pub fn auto_approves(&self, prefix: Prefix, class: &ClassKey) -> bool {
        let covers = |outer: &Prefix| outer.net().contains(&prefix.net());
        !prefix.is_default()
            && self.auto_routes.iter().any(|(outer, who)| covers(outer) && self.any_names(who, class))
    }

    /// Whether a node of that class may be an exit node without an admin.
    pub fn auto_approves_exit(&self, class: &ClassKey) -> bool {
        self.any_names(&self.auto_exit, class)
    }

    /// Whether `user` may give `tag` to a node.
    pub fn may_own_tag(&self, user: &str, tag: &Tag) -> bool {
        self.class_may_own_tag(&ClassKey::user(user), tag)
    }

    /// Whether a node of that class may give `tag` to a node: `tagOwners` can name tags too.
    pub fn class_may_own_tag(&self, class: &ClassKey, tag: &Tag) -> bool {
        self.tag_owners.get(tag).is_some_and(|owners| self.any_names(owners, class))
    }

    /// The tags that `tagOwners` defines.
    pub fn tags(&self) -> impl Iterator<Item = &Tag> {
        self.tag_owners.keys()
    }

    /// The groups of a user, without `group:`.
    pub fn groups_of(&self, user: &str) -> impl Iterator<Item = &str> {
        self.names.groups.of_user.get(user).into_iter().flatten().map(String::as_str)
    }

    /// Reads who something is for: a user, `group:`, `tag:`, `autogroup:member` or `autogroup:tagged`.
    ///
    /// # Errors
    /// What is wrong, as a sentence: it is none of these, or a group that this policy does not have.
    pub fn who(&self, text: &str) -> Result<Selector, String> {
        let who = self.names.selector(text)?;
        if who.is_of_class() {
            return Ok(who);
        }
        Err(format!(
            "{} is no user, group or tag: write one of these, autogroup:member or autogroup:tagged",
            quoted(text)
        ))
    }

    /// Whether `who` means nodes of that class.
    pub fn means(&self, who: &Selector, class: &ClassKey) -> bool {
        who.names_class(class, &self.names.groups)
    }

    /// Who may publish what.
    pub fn exposes(&self) -> &[Expose] {
        &self.exposes
    }

    /// Whether a node of class `src` may publish `name` and a port on an exit of class `exit`.
    pub fn may_expose(
        &self,
        src: &ClassKey,
        name: &DnsName,
        protocol: u8,
        port: u16,
        exit: &ClassKey,
    ) -> bool {
        self.exposes.iter().any(|e| {
            self.any_names(&e.src, src)
                && self.any_names(&e.on, exit)
                && e.names.iter().any(|pattern| name_matches(pattern, name))
                && e.ports.iter().any(|range| range.covers(protocol, port))
        })
    }

    /// The ranges of `protocol` that a node of class `src` may publish under `name` on an exit of class
    /// `exit`, in the order of the text. Port 0 is in none.
    pub fn exposable_ports<'a>(
        &'a self,
        src: &'a ClassKey,
        name: &'a DnsName,
        protocol: u8,
        exit: &'a ClassKey,
    ) -> impl Iterator<Item = std::ops::RangeInclusive<u16>> + 'a {
        let entries = self.exposes.iter().filter(move |e| {
            self.any_names(&e.src, src)
                && self.any_names(&e.on, exit)
                && e.names.iter().any(|pattern| name_matches(pattern, name))
        });
        let ranges = entries.flat_map(|e| e.ports.iter());
        ranges
            .filter(move |range| range.protocol.is_none_or(|own| own == protocol))
            .map(|range| range.first.max(1)..=range.last)
    }

    fn any_names(&self, selectors: &[Selector], class: &ClassKey) -> bool {
        selectors.iter().any(|s| s.names_class(class, &self.names.groups))
    }
}

fn name_matches(pattern: &DnsName, name: &DnsName) -> bool {
    match pattern.as_str().strip_prefix("*.") {
        None => pattern == name,
        Some(zone) => {
            name.as_str().strip_suffix(zone).is_some_and(|head| head.len() > 1 && head.ends_with('.'))
        }
    }
}

#[cfg(test)]
mod tests;
