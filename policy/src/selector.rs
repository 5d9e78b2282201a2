//! Who or what a rule names: one selector, with its names resolved.

use crate::class::ClassKey;
use crate::diagnostic::{Pos, quoted};
use meshd_proto::{Prefix, Tag};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// Longest name in a policy.
const MAX_NAME: usize = 253;

/// Who or what a rule names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `*`: as source every node by its own addresses; as destination the whole mesh: nodes, approved
    /// prefixes and the internet behind exit nodes.
    Everything,
    /// The untagged nodes of a user.
    User(String),
    /// The untagged nodes of the users in a group.
    Group(String),
    /// The nodes with a tag.
    Tag(Tag),
    /// `autogroup:member`: every node that belongs to a user.
    Members,
    /// `autogroup:tagged`: every node that has a tag.
    Tagged,
    /// `autogroup:self`: the source's own other nodes; destinations only.
    Myself,
    /// `autogroup:internet`: public addresses through an exit node; destinations only.
    Internet,
    /// Addresses, wherever they are.
    Addresses(Prefix),
}

impl Selector {
    /// Whether it names nodes by who they belong to or what they are, and some of them only.
    pub(crate) fn is_of_class(&self) -> bool {
        match self {
            Self::User(_) | Self::Group(_) | Self::Tag(_) | Self::Members | Self::Tagged => true,
            Self::Everything | Self::Myself | Self::Internet | Self::Addresses(_) => false,
        }
    }

    /// Whether it names nodes of that class by their class; addresses and the internet do not.
    pub(crate) fn names_class(&self, class: &ClassKey, groups: &Groups) -> bool {
        match self {
            Self::Everything => true,
            Self::User(name) => class.user_name() == Some(name),
            Self::Group(group) => class.user_name().is_some_and(|name| groups.holds(group, name)),
            Self::Tag(tag) => class.tags.contains(tag),
            Self::Members => class.user_name().is_some(),
            Self::Tagged => !class.tags.is_empty(),
            Self::Myself | Self::Internet | Self::Addresses(_) => false,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("*"),
            Self::User(name) => f.write_str(name),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Tag(tag) => tag.fmt(f),
            Self::Members => f.write_str("autogroup:member"),
            Self::Tagged => f.write_str("autogroup:tagged"),
            Self::Myself => f.write_str("autogroup:self"),
            Self::Internet => f.write_str("autogroup:internet"),
            Self::Addresses(prefix) => prefix.fmt(f),
        }
    }
}

/// Groups of users, and where each membership is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    /// Group name without `group:` → user → place.
    pub(crate) members: BTreeMap<String, BTreeMap<String, Pos>>,
    /// User → groups.
    pub(crate) of_user: BTreeMap<String, BTreeSet<String>>,
}

impl Groups {
    pub(crate) fn holds(&self, group: &str, user: &str) -> bool {
        self.members.get(group).is_some_and(|users| users.contains_key(user))
    }

    pub(crate) fn add(&mut self, group: &str, user: String, pos: Pos) {
        self.of_user.entry(user.clone()).or_default().insert(group.to_owned());
        self.members.entry(group.to_owned()).or_default().entry(user).or_insert(pos);
    }
}

/// What names in a selector may mean.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) groups: Groups,
    /// Host alias → its addresses and where it is written.
    pub(crate) hosts: BTreeMap<String, (Prefix, Pos)>,
}

impl Names {
    /// Reads one selector. What cannot be read, or names a group that is not there, is an error.
    pub(crate) fn selector(&self, text: &str) -> Result<Selector, String> {
        if text == "*" {
            return Ok(Selector::Everything);
        }
        if let Some(name) = text.strip_prefix("autogroup:") {
            return autogroup(name);
        }
        if let Some(name) = text.strip_prefix("group:") {
            let known = self.groups.members.contains_key(name);
            return if known { Ok(Selector::Group(name.to_owned())) } else { Err(self.unknown_group(name)) };
        }
        if text.starts_with("tag:") {
            return tag(text).map(Selector::Tag);
        }
        if let Some((prefix, _)) = self.hosts.get(text) {
            return Ok(Selector::Addresses(*prefix));
        }
        if let Some(prefix) = addresses(text)? {
            return Ok(Selector::Addresses(prefix));
        }
        user(text).map(Selector::User)
    }

    fn unknown_group(&self, name: &str) -> String {
        let known: Vec<_> = self.groups.members.keys().take(8).map(|g| format!("group:{g}")).collect();
        let hint = if known.is_empty() {
            "no groups are defined".to_owned()
        } else {
            format!("known: {}", known.join(", "))
        };
        format!("{} is not defined under `groups` ({hint})", quoted(&format!("group:{name}")))
    }
}

fn autogroup(name: &str) -> Result<Selector, String> {
    match name {
        "member" | "members" => Ok(Selector::Members),
        "tagged" => Ok(Selector::Tagged),
        "self" => Ok(Selector::Myself),
        "internet" => Ok(Selector::Internet),
        _ => Err(format!(
            "{} is not supported: write autogroup:member, autogroup:tagged, autogroup:self or autogroup:internet",
            quoted(&format!("autogroup:{name}"))
        )),
    }
}

/// Reads a tag.
pub(crate) fn tag(text: &str) -> Result<Tag, String> {
    text.parse().map_err(|e: meshd_proto::id::NameError| e.to_string())
}

/// Reads an address or a prefix; `None` when the text is neither, an error when it nearly is one.
pub(crate) fn addresses(text: &str) -> Result<Option<Prefix>, String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let prefix = if let Ok(ip) = bare.parse::<IpAddr>() {
        Prefix::host(ip)
    } else if bare.contains('/') {
        bare.parse::<Prefix>().map_err(|e| e.to_string())?
    } else if looks_numeric(bare) {
        return Err(format!("{} is not an address: write it like 192.168.1.10 or fd00:1::10", quoted(text)));
    } else {
        return Ok(None);
    };
    match prefix.net().addr() {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("{} is an IPv4 address inside an IPv6 one: write the IPv4 address", quoted(text)))
        }
        _ => Ok(Some(prefix)),
    }
}

fn looks_numeric(text: &str) -> bool {
    text.contains(':') || (text.contains('.') && text.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

/// Reads a user name: `alice@example.com`, `alice`, or `alice@` for a user of this coordinator.
pub(crate) fn user(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('@').unwrap_or(text);
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '@' | '.' | '-' | '_' | '+' | '|');
    if name.is_empty() || name.len() > MAX_NAME || name.matches('@').count() > 1 || !name.chars().all(fits) {
        return Err(format!(
            "{} names nobody: write `*`, a user such as alice@example.com, group:…, tag:…, autogroup:…, \
             a name under `hosts`, an address or a prefix",
            quoted(text)
        ));
    }
    Ok(name.to_owned())
}
