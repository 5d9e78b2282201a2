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
        let sets = self.names.entry(owner).or_default();
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

    /// The record sets at exactly `name`; `None` where there is no record of that name.
    pub(crate) fn sets(&self, name: &LowerName) -> Option<&Sets> {
        self.names.get(name)
    }

    /// Whether `name` exists: by records of its own or by something below it.
    pub fn exists(&self, name: &LowerName) -> bool {
        let mut from = self.names.range((Bound::Included(name), Bound::Unbounded));
        from.next().is_some_and(|(next, _)| name.zone_of(next))
    }

    /// The names with records, in canonical order.
    pub fn owners(&self) -> impl Iterator<Item = &LowerName> {
        self.names.keys()
    }

    /// How many owner names have records.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nothing is there: never in a zone of its own.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}
