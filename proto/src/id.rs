//! Identifiers and names as types. Nothing outside this crate passes a bare integer or string as one.

use crate::limits::{MAX_LABEL, MAX_NAME};
use std::fmt;
use std::str::FromStr;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id! {
    /// A member of the mesh. Given by the coordinator, never reused.
    NodeId(u64)
}
number_id! {
    /// A relay of the mesh.
    RelayId(u32)
}
number_id! {
    /// A policy class: nodes with the same owner, tags and groups.
    ClassId(u32)
}
number_id! {
    /// A filter rule within one node's map.
    RuleId(u64)
}
number_id! {
    /// The number of a change in the coordinator's log. Grows by every change, never goes back
    /// within one [`Epoch`].
    Version(u64)
}
number_id! {
    /// One life of the coordinator's log. A restore from a backup starts a new one.
    Epoch(u64)
}
number_id! {
    /// Wall-clock time in whole seconds since 1970-01-01 UTC.
    UnixSeconds(u64)
}

/// A mesh, as random bytes chosen at the coordinator's first start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId([u8; 16]);

impl NetworkId {
    /// Wraps 16 random bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkId({self})")
    }
}

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// RFC 1035 §2.3.4.
    #[error("`{0}` is too long: a label has at most 63 characters, a name 253")]
    TooLong(String),
    /// A character outside letters, digits, hyphen (and `_`, `*` where a DNS name allows them).
    #[error("`{text}` has `{bad}`, which a name cannot have: use letters, digits and `-`")]
    BadCharacter {
        /// The whole text.
        text: String,
        /// The first character that does not fit.
        bad: char,
    },
    /// RFC 1123 §2.1.
    #[error("`{0}` begins or ends with `-`")]
    Hyphen(String),
    /// A tag without its prefix.
    #[error("`{0}` is not a tag: write `tag:{0}`")]
    NotATag(String),
}

/// A node's name: one DNS label in lower case (RFC 1123 §2.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(String);

impl Hostname {
    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest valid name to what a machine calls itself: the first label, lower-cased, other
    /// characters turned into `-`; `node` when nothing is left.
    pub fn sanitized(raw: &str) -> Self {
        let label = raw.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let mapped: String =
            label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(MAX_LABEL).collect();
        let trimmed = mapped.trim_matches('-');
        Self(if trimmed.is_empty() { "node".to_owned() } else { trimmed.to_owned() })
    }

    /// This name with a number behind it, for the second machine of that name.
    #[must_use]
    pub fn numbered(&self, n: u32) -> Self {
        let suffix = format!("-{n}");
        let keep = self.0.len().min(MAX_LABEL - suffix.len());
        Self(format!("{}{suffix}", self.0[..keep].trim_end_matches('-')))
    }
}

impl FromStr for Hostname {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let lower = text.to_ascii_lowercase();
        check_label(&lower, false)?;
        Ok(Self(lower))
    }
}

fn check_label(label: &str, dns: bool) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::Empty);
    }
    if label.len() > MAX_LABEL {
        return Err(NameError::TooLong(label.chars().take(80).collect()));
    }
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || (dns && c == '_');
    if dns && label == "*" {
        return Ok(());
    }
    if let Some(bad) = label.chars().find(|c| !fits(*c)) {
        return Err(NameError::BadCharacter { text: label.to_owned(), bad });
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(NameError::Hyphen(label.to_owned()));
    }
    Ok(())
}

/// A domain name in lower case without the final dot, such as `nas.home.internal`.
/// A leading `*` label is a wildcard (RFC 4592). A leading `**` label, which no packet carries, stands for
/// a whole subtree: the rest of the name and everything below it that has no records of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

impl DnsName {
    /// The name without its final dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this name is `zone` or lies under it.
    pub fn is_in(&self, zone: &Self) -> bool {
        self.0 == zone.0 || self.0.strip_suffix(&zone.0).is_some_and(|head| head.ends_with('.'))
    }

    /// The top of the subtree that the name stands for, if it is written with `**`.
    pub fn subtree(&self) -> Option<Self> {
        self.0.strip_prefix("**.").map(|top| Self(top.to_owned()))
    }

    /// `host` under this domain.
    ///
    /// # Errors
    /// When the result is too long.
    pub fn child(&self, host: &Hostname) -> Result<Self, NameError> {
        format!("{}.{}", host.as_str(), self.0).parse()
    }
}

impl FromStr for DnsName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if lower.len() > MAX_NAME {
            return Err(NameError::TooLong(lower.chars().take(80).collect()));
        }
        let rest = lower.strip_prefix("**.").unwrap_or(&lower);
        for (i, label) in rest.split('.').enumerate() {
            if (i > 0 || rest.len() < lower.len()) && label == "*" {
                return Err(NameError::BadCharacter { text: lower.clone(), bad: '*' });
            }
            check_label(label, true)?;
        }
        Ok(Self(lower))
    }
}

/// A tag of a node, such as `tag:router`. Tagged nodes have no user as owner.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// The tag with its `tag:` prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some(label) = text.strip_prefix("tag:") else {
            return Err(NameError::NotATag(text.chars().take(80).collect()));
        };
        check_label(label, false)?;
        Ok(Self(text.to_owned()))
    }
}

macro_rules! text_type {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
text_type!(Hostname);
text_type!(DnsName);
text_type!(Tag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames_are_one_lower_case_label() {
        assert_eq!("Pi".parse::<Hostname>().unwrap().as_str(), "pi");
        for bad in ["", "a.b", "-a", "a-", "a_b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
        assert_eq!(Hostname::sanitized("My_Laptop.local").as_str(), "my-laptop");
        assert_eq!(Hostname::sanitized("///").as_str(), "node");
        assert_eq!(Hostname::sanitized("pi").numbered(2).as_str(), "pi-2");
        assert_eq!(Hostname::sanitized(&"x".repeat(70)).numbered(12).as_str().len(), 63);
    }

    #[test]
    fn names_know_their_zone() {
        let zone: DnsName = "home.internal".parse().unwrap();
        let name: DnsName = "NAS.home.internal.".parse().unwrap();
        assert!(name.is_in(&zone) && zone.is_in(&zone));
        assert!(!"evilhome.internal".parse::<DnsName>().unwrap().is_in(&zone));
        assert!("*.x.internal".parse::<DnsName>().is_ok());
        assert!("a.*.internal".parse::<DnsName>().is_err());
        assert_eq!("**.x.internal".parse::<DnsName>().unwrap().subtree().unwrap().as_str(), "x.internal");
        for bad in ["**", "**.*.x", "a.**.x", "**.**.x", "**.", "***.x"] {
            assert!(bad.parse::<DnsName>().is_err(), "{bad}");
        }
        assert!("a..b".parse::<DnsName>().is_err());
    }

    #[test]
    fn a_tag_needs_its_prefix() {
        assert!("tag:router".parse::<Tag>().is_ok());
        assert_eq!(
            "router".parse::<Tag>().unwrap_err().to_string(),
            "`router` is not a tag: write `tag:router`"
        );
    }
}
