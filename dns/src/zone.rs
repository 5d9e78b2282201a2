//! One zone: an origin, its SOA, and record sets by owner name in canonical order (RFC 4034 §6.1).
//!
//! In that order everything below a name follows it directly, so a name without records of its own
//! that has something below it (an empty non-terminal, RFC 4592 §2.2.2) is found by one range step.
//!
//! Invariant: every name in a zone lies at or below its origin; the origin has SOA and NS, but for
//! [`Zone::exceptions`].

use hickory_proto::rr::rdata::{NS, SOA};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use std::collections::BTreeMap;
use std::ops::Bound;

/// The records of one owner and one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RrSet {
    /// Seconds that it may be cached.
    pub ttl: u32,
    /// At least one value, without repetition.
    pub values: Vec<RData>,
}

impl RrSet {
    /// The records of this set under `owner`.
    pub fn records<'a>(&'a self, owner: &'a Name) -> impl Iterator<Item = Record> + 'a {
        self.values.iter().map(|v| Record::from_rdata(owner.clone(), self.ttl, v.clone()))
    }
}

/// What one owner name holds, by type.
pub(crate) type Sets = BTreeMap<RecordType, RrSet>;

/// A zone that is answered with authority.
#[derive(Clone, Debug)]
pub struct Zone {
    origin: LowerName,
    soa: Record,
    names: BTreeMap<LowerName, Sets>,
    /// By top: what answers for all names below that nothing else is said about.
    subtrees: BTreeMap<LowerName, Sets>,
    /// Whether a name below the top has NS or any has DNAME.
    has_cuts: bool,
}

impl Zone {
    /// A zone with nothing but its SOA and NS. `serial` should grow with the data; `negative_ttl` is
    /// how long "no such name" may be cached (RFC 2308 §4: both the SOA's TTL and its minimum).
    pub fn new(origin: LowerName, server: &Name, serial: u32, ttl: u32, negative_ttl: u32) -> Self {
        let apex = Name::from(origin.clone());
        let contact =
            Name::from_ascii("hostmaster").and_then(|n| n.append_domain(&apex)).unwrap_or(apex.clone());
        let soa = SOA::new(server.clone(), contact, serial, 3600, 600, 86_400, negative_ttl);
        let mut zone = Self {
            origin: origin.clone(),
            soa: Record::from_rdata(apex, negative_ttl, RData::SOA(soa.clone())),
            names: BTreeMap::new(),
            subtrees: BTreeMap::new(),
            has_cuts: false,
        };
        zone.insert(origin.clone(), negative_ttl, RData::SOA(soa));
        zone.insert(origin, ttl, RData::NS(NS(server.clone())));
        zone
    }

    /// A zone without apex records: exceptions to a tree that is otherwise somebody else's.
    pub fn exceptions(origin: LowerName, server: &Name, serial: u32, negative_ttl: u32) -> Self {
        Self { names: BTreeMap::new(), ..Self::new(origin, server, serial, negative_ttl, negative_ttl) }
    }

    /// The name at the top.
    pub const fn origin(&self) -> &LowerName {
        &self.origin
    }

    /// The SOA record as it goes into the authority section of a negative answer (RFC 2308 §3).
    pub const fn soa(&self) -> &Record {
        &self.soa
    }

    /// Adds a record. Not taken, and `false` returned: a name outside the zone, and what may not stand
    /// beside a CNAME (RFC 1034 §3.6.2); what was there first stays.
    pub fn insert(&mut self, owner: LowerName, ttl: u32, value: RData) -> bool {
        if !self.origin.zone_of(&owner) {
            return false;
        }
        let kind = value.record_type();
        self.has_cuts |= kind == crate::lookup::DNAME || (kind == RecordType::NS && owner != self.origin);
        put(self.names.entry(owner).or_default(), ttl, value)
    }

    /// Adds a record that holds for `top` and every name below it that nothing else is said about.
    /// Refused as by [`Self::insert`].
    pub fn insert_subtree(&mut self, top: LowerName, ttl: u32, value: RData) -> bool {
        self.origin.zone_of(&top) && put(self.subtrees.entry(top).or_default(), ttl, value)
    }

    /// The nearest subtree that `name` lies in, with its top.
    pub(crate) fn subtree_above(&self, name: &LowerName) -> Option<(LowerName, &Sets)> {
        if self.subtrees.is_empty() {
            return None;
        }
        let mut at = name.clone();
        loop {
            if let Some(sets) = self.subtrees.get(&at) {
                return Some((at, sets));
            }
            if at == self.origin || at.is_root() {
                return None;
            }
            at = at.base_name();
        }
    }

    /// Whether a part of the zone is somebody else's, or renamed.
    pub(crate) const fn has_cuts(&self) -> bool {
        self.has_cuts
    }
    /// The record sets at exactly `name`; `None` where there is no record of that name.
    pub(crate) fn sets(&self, name: &LowerName) -> Option<&Sets> {
        self.names.get(name)
    }

    /// Whether `name` exists: by records of its own or by something below it.
    pub fn exists(&self, name: &LowerName) -> bool {
        let mut from = self.names.range((Bound::Included(name), Bound::Unbounded));
        from.next().is_some_and(|(next, _)| name.zone_of(next))
    }

    /// The names with records, in canonical order, then the tops of subtrees.
    pub fn owners(&self) -> impl Iterator<Item = &LowerName> {
        self.names.keys().chain(self.subtrees.keys())
    }

    /// How many owner names have records.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nothing is there: never in a zone of its own.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.subtrees.is_empty()
    }
}

/// `false`: it may not stand beside what is there (RFC 1034 §3.6.2).
fn put(sets: &mut Sets, ttl: u32, value: RData) -> bool {
    let kind = value.record_type();
    let clash = match kind {
        RecordType::CNAME => !sets.is_empty(),
        _ => sets.contains_key(&RecordType::CNAME),
    };
    if clash {
        return false;
    }
    let set = sets.entry(kind).or_insert_with(|| RrSet { ttl, values: Vec::new() });
    if !set.values.contains(&value) {
        set.values.push(value);
    }
    true
}
