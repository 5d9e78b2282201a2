//! The lookup inside one zone: one round of RFC 1034 §4.3.2 step 3, with the wildcards of RFC 4592.
//!
//! It walks from the name towards the origin until something exists. That walk is where zone cuts and
//! DNAME (RFC 6672) belong once a zone can hold them: [`Found`] gets a variant for each. Aliases are
//! handed out one at a time, because they may lead into another zone; [`crate::view`] follows them.

use crate::zone::{Sets, Zone};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};

/// What one zone says about a name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The records.
    Data(Vec<Record>),
    /// The name is another one's alias.
    Alias {
        /// The CNAME record.
        record: Box<Record>,
        /// Where to go on.
        target: LowerName,
    },
    /// The name has records, none of this type (RFC 2308 §2.2).
    NoData,
    /// The name has no records, and something below it has: no data either, but nobody wrote anything
    /// about this name (RFC 4592 §2.2.2).
    Empty,
    /// There is no such name (RFC 2308 §2.1).
    NoName,
}

/// Looks `name` up in `zone`. `name` must lie in the zone.
pub fn lookup(zone: &Zone, name: &LowerName, kind: RecordType) -> Found {
    let sets = match zone.sets(name) {
        Some(sets) => sets,
        None if zone.exists(name) => return Found::Empty,
        None => match wildcard(zone, name) {
            Some(sets) => sets,
            None => return Found::NoName,
        },
    };
    let owner = Name::from(name);
    // RFC 8482 would allow less for ANY; our sets are small and nobody else's name is here.
    let records: Vec<Record> = match kind {
        RecordType::ANY => sets.values().flat_map(|set| set.records(&owner)).collect(),
        _ => sets.get(&kind).into_iter().flat_map(|set| set.records(&owner)).collect(),
    };
    if !records.is_empty() {
        return Found::Data(records);
    }
    let alias = sets.get(&RecordType::CNAME).and_then(|set| set.records(&owner).next());
    match alias.as_ref().map(|record| &record.data) {
        Some(RData::CNAME(to)) => {
            let target = LowerName::from(&to.0);
            alias.map_or(Found::NoData, |record| Found::Alias { record: Box::new(record), target })
        }
        _ => Found::NoData,
    }
}

/// The wildcard that stands in for a name that does not exist: only the `*` child of its closest
/// encloser, the longest ancestor that exists (RFC 4592 §3.3.1).
fn wildcard<'z>(zone: &'z Zone, name: &LowerName) -> Option<&'z Sets> {
    let mut encloser = name.base_name();
    while encloser != *zone.origin() && !zone.exists(&encloser) {
        encloser = encloser.base_name();
    }
    zone.sets(&Name::from(encloser).prepend_label("*").ok()?.into())
}

#[cfg(test)]
mod tests;
