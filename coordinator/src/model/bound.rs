//! Names that hold for some: records, resolvers and search domains bound to users, groups or tags.
//!
//! Who they are for is written as in the policy: a user, `group:`, `tag:`, `autogroup:member` or
//! `autogroup:tagged`. What holds for a node is worked out here, for its class, and the node gets nothing
//! else: neither what is bound to others nor that it exists.
//!
//! Of several that hold for a node the nearest counts: what names the user before what names a group, that
//! before a tag, that before an autogroup, and what is for everybody last; of two alike the first in the
//! order of the alphabet. A name that the nearest has records of is answered with those alone; the same goes
//! for a split domain, and for the nameservers as a whole. Search domains are joined.
//!
//! A group that the policy no longer has holds for nobody.

use super::{MeshSettings, Model};
use meshd_policy::{Policy, Selector};
use meshd_proto::netmap::{DnsConfig, RecordSet, RecordType, SplitRoute};
use meshd_proto::{DnsName, Endpoint};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Most users, groups and tags of one audience.
const MAX_AUDIENCE: usize = 16;
/// Longest text of one of them.
const MAX_SELECTOR: usize = 260;
/// Most search domains that a host is told of beside the mesh's own: glibc takes six.
pub(crate) const MAX_SEARCH: usize = 5;

/// Record sets by name and type.
pub type Records = BTreeMap<(DnsName, RecordType), RecordSet>;

/// Who something is for, as a policy names them. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Audience(BTreeSet<String>);

/// How near an audience is to a node: what names fewer counts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    User,
    Group,
    Tag,
    Many,
}

/// What is no audience.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AudienceError {
    /// Nobody is named.
    #[error("nobody is named: write a user, group:… or tag:…")]
    Nobody,
    /// A text that names nobody in this policy.
    #[error("{0}")]
    Unknown(String),
    /// Too many.
    #[error("{0} users, groups and tags: at most {MAX_AUDIENCE} are taken")]
    TooMany(usize),
}

impl Audience {
    /// Reads who something is for, with the policy that says which groups there are.
    ///
    /// # Errors
    /// When nobody is named, or a text is no user, group or tag of this policy.
    pub fn parse<'t>(
        texts: impl IntoIterator<Item = &'t str>,
        policy: &Policy,
    ) -> Result<Self, AudienceError> {
        let texts = texts.into_iter().map(str::trim).filter(|text| !text.is_empty());
        let who = texts
            .map(|text| policy.who(text).map(|who| who.to_string()).map_err(AudienceError::Unknown))
            .collect::<Result<BTreeSet<_>, _>>()?;
        match who.len() {
            0 => Err(AudienceError::Nobody),
            1..=MAX_AUDIENCE => Ok(Self(who)),
            many => Err(AudienceError::TooMany(many)),
        }
    }

    /// From the text of [`fmt::Display`], whatever the policy says now.
    pub(crate) fn stored(text: &str) -> Result<Self, AudienceError> {
        let who: BTreeSet<String> = text.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect();
        match who.len() {
            0 => Err(AudienceError::Nobody),
            _ if who.iter().any(|t| t.len() > MAX_SELECTOR) => {
                Err(AudienceError::Unknown("a name is too long".to_owned()))
            }
            1..=MAX_AUDIENCE => Ok(Self(who)),
            many => Err(AudienceError::TooMany(many)),
        }
    }

    /// The users, groups and tags.
    pub fn who(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// How near it is to nodes of a class; `None`: it does not mean them.
    fn nearness(&self, policy: &Policy, class: &meshd_policy::ClassKey) -> Option<Nearness> {
        let near = |text: &String| {
            let who = policy.who(text).ok()?;
            policy.means(&who, class).then_some(match who {
                Selector::User(_) => Nearness::User,
                Selector::Group(_) => Nearness::Group,
                Selector::Tag(_) => Nearness::Tag,
                _ => Nearness::Many,
            })
        };
        self.0.iter().filter_map(near).min()
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, who) in self.0.iter().enumerate() {
            write!(f, "{}{who}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// What is bound to one audience.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// Records; each name that is here is answered with these alone.
    pub records: Records,
    /// Domains with resolvers of their own.
    pub split: Vec<SplitRoute>,
    /// Resolvers for everything else; empty: as for everybody.
    pub nameservers: Vec<Endpoint>,
    /// Further search domains.
    pub search: Vec<DnsName>,
}

impl Bound {
    /// Whether nothing is bound.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.split.is_empty()
            && self.nameservers.is_empty()
            && self.search.is_empty()
    }

    /// The mesh's settings as if they were this audience's: what is set there can be set here.
    pub(crate) fn as_mesh(&self, mesh: &MeshSettings) -> MeshSettings {
        MeshSettings {
            split: self.split.clone(),
            nameservers: self.nameservers.clone(),
            search: self.search.clone(),
            ..mesh.clone()
        }
    }

    /// The other way round.
    pub(crate) fn take(&mut self, mesh: MeshSettings) {
        (self.split, self.nameservers, self.search) = (mesh.split, mesh.nameservers, mesh.search);
    }
}

impl Model {
    /// Who the names are for that hold for nodes of a class beside those for everybody, nearest first.
    pub fn holding(&self, class: &meshd_policy::ClassKey) -> Vec<Audience> {
        let near = |who: &Audience| Some((who.nearness(&self.policy, class)?, who.clone()));
        let mut holding: Vec<_> = self.bound.keys().filter_map(near).collect();
        holding.sort();
        holding.into_iter().map(|(_, who)| who).collect()
    }

    /// Where nodes send questions for whom these hold.
    pub fn dns_config(&self, holding: &[Audience]) -> DnsConfig {
        let mut config = self.mesh.dns_config();
        let bound = || holding.iter().filter_map(|who| self.bound.get(who));
        for bound in bound() {
            config.search.extend(bound.search.iter().cloned());
        }
        // The nearest last: it has the last word.
        for bound in bound().rev() {
            config.split.retain(|old| bound.split.iter().all(|new| new.suffix != old.suffix));
            config.split.extend(bound.split.iter().cloned());
            if !bound.nameservers.is_empty() {
                config.nameservers.clone_from(&bound.nameservers);
            }
        }
        config.split.sort();
        let mut seen = BTreeSet::new();
        config.search.retain(|name| seen.insert(name.clone()));
        config.search.truncate(MAX_SEARCH);
        config
    }

    /// The records of those for whom these hold; `first` are those that an admin's stand before.
    pub(crate) fn records_for(&self, holding: &[Audience], first: Records) -> Records {
        let mut all = first;
        all.extend(self.records.iter().map(|(key, set)| (key.clone(), set.clone())));
        for bound in holding.iter().rev().filter_map(|who| self.bound.get(who)) {
            let names: BTreeSet<&DnsName> = bound.records.keys().map(|(name, _)| name).collect();
            if !names.is_empty() {
                all.retain(|(name, _), _| !names.contains(name));
            }
            all.extend(bound.records.iter().map(|(key, set)| (key.clone(), set.clone())));
        }
        all
    }

    /// Whether an admin made records of exactly that name, for whomever.
    pub fn has_records_of(&self, name: &DnsName) -> bool {
        let of = |records: &Records| records.keys().any(|(owner, _)| owner == name);
        of(&self.records) || self.bound.values().any(|bound| of(&bound.records))
    }

    /// How many record sets admins made.
    pub fn record_count(&self) -> usize {
        self.records.len() + self.bound.values().map(|bound| bound.records.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::model;
    use meshd_policy::ClassKey;
    use meshd_proto::netmap::RecordValue;
    use std::sync::Arc;

    fn audience(model: &Model, who: &[&str]) -> Audience {
        Audience::parse(who.iter().copied(), &model.policy).unwrap()
    }

    fn one(ip: &str) -> RecordSet {
        RecordSet { ttl: 60, values: vec![RecordValue::Address(ip.parse().unwrap())] }
    }

    fn bound(name: &str, ip: &str) -> Bound {
        let records = Records::from([((name.parse().unwrap(), RecordType::A), one(ip))]);
        Bound { records, ..Bound::default() }
    }

    fn mesh() -> Model {
        let mut model = model(1);
        let policy = r#"{"groups":{"group:dev":["alice","bob"],"group:ops":["bob"]}}"#;
        model.policy = Arc::new(Policy::parse(policy).unwrap());
        model
    }

    #[test]
    fn what_names_the_user_counts_before_a_group_and_that_before_what_is_for_everybody() {
        let mut model = mesh();
        let name: DnsName = "app.home.internal".parse().unwrap();
        let key = (name.clone(), RecordType::A);
        model.records.insert(key.clone(), one("10.0.0.1"));
        model.records.insert((name.clone(), RecordType::Txt), one("10.0.0.1"));
        let dev = audience(&model, &["group:dev"]);
        model.bound.insert(dev.clone(), Arc::new(bound(name.as_str(), "10.0.0.2")));
        let alice = audience(&model, &["alice", "tag:web"]);
        model.bound.insert(alice.clone(), Arc::new(bound(name.as_str(), "10.0.0.3")));

        let seen = |class: ClassKey| {
            let holding = model.holding(&class);
            (model.records_for(&holding, Records::new()).get(&key).cloned().unwrap(), holding)
        };
        assert_eq!(seen(ClassKey::user("alice")), (one("10.0.0.3"), vec![alice.clone(), dev.clone()]));
        assert_eq!(seen(ClassKey::user("bob")), (one("10.0.0.2"), vec![dev]));
        assert_eq!(seen(ClassKey::tagged(["tag:web".parse().unwrap()])), (one("10.0.0.3"), vec![alice]));
        assert_eq!(seen(ClassKey::user("eve")), (one("10.0.0.1"), vec![]));
        let all = model.records_for(&model.holding(&ClassKey::user("bob")), Records::new());
        assert!(!all.contains_key(&(name, RecordType::Txt)), "a bound name is answered with its own alone");
    }

    #[test]
    fn a_group_that_the_policy_no_longer_has_holds_for_nobody() {
        let mut model = mesh();
        let dev = audience(&model, &["group:dev"]);
        model.bound.insert(dev.clone(), Arc::new(bound("app.home.internal", "10.0.0.2")));
        assert_eq!(model.holding(&ClassKey::user("alice")), [dev]);
        model.policy = Arc::new(Policy::parse("{}").unwrap());
        assert_eq!(model.holding(&ClassKey::user("alice")), []);
    }

    #[test]
    fn resolvers_of_the_nearest_stand_in_for_those_for_everybody() {
        let mut model = mesh();
        let route = |suffix: &str, ip: &str| SplitRoute {
            suffix: suffix.parse().unwrap(),
            upstreams: vec![Endpoint(format!("{ip}:53").parse().unwrap())],
        };
        let server = |ip: &str| vec![Endpoint(format!("{ip}:53").parse().unwrap())];
        model.mesh.split = vec![route("a.example", "192.0.2.1"), route("b.example", "192.0.2.2")];
        model.mesh.nameservers = server("192.0.2.9");
        model.mesh.search = vec!["a.example".parse().unwrap()];
        let tag = audience(&model, &["tag:web"]);
        let bound = Bound {
            split: vec![route("b.example", "192.0.2.3"), route("c.example", "192.0.2.4")],
            nameservers: server("192.0.2.8"),
            search: vec!["c.example".parse().unwrap(), "a.example".parse().unwrap()],
            ..Bound::default()
        };
        model.bound.insert(tag.clone(), Arc::new(bound));
        let told = model.dns_config(&[tag]);
        assert_eq!(
            told.split,
            [
                route("a.example", "192.0.2.1"),
                route("b.example", "192.0.2.3"),
                route("c.example", "192.0.2.4")
            ]
        );
        assert_eq!(told.nameservers, server("192.0.2.8"));
        assert_eq!(told.search.len(), 2, "{:?}", told.search);
        assert_eq!(model.dns_config(&[]), model.mesh.dns_config());
    }

    #[test]
    fn an_audience_is_read_once_and_written_the_same_way_back() {
        let model = mesh();
        let who = audience(&model, &["tag:web", " alice@ ", "group:dev", "tag:web"]);
        assert_eq!(who.to_string(), "alice,group:dev,tag:web");
        assert_eq!(Audience::stored(&who.to_string()), Ok(who));
        for wrong in ["group:nobody", "10.0.0.1", "*", "autogroup:internet", "tag:", "a,b"] {
            assert!(Audience::parse([wrong], &model.policy).is_err(), "{wrong}");
        }
        assert_eq!(Audience::parse([""], &model.policy), Err(AudienceError::Nobody));
    }
}
