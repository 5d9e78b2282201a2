//! The lookup inside one zone: one round of RFC 1034 §4.3.2 step 3, with the wildcards of RFC 4592, zone
//! cuts, and DNAME (RFC 6672). Aliases are handed out one at a time, because they may lead into another
//! zone; [`crate::view`] follows them.
//!
//! DEVIATION: subtrees (`**.d`) are ours, not the DNS's: they answer for their top and for every name
//! below it that nothing else is said about, where a wildcard stops at the first name that exists.

use crate::zone::{Sets, Zone};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};

/// DNAME, which hickory carries as bytes.
pub(crate) const DNAME: RecordType = RecordType::DNAME;

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
    /// An ancestor's DNAME makes the name another one's alias.
    Renamed {
        /// The DNAME record and the CNAME made from it.
        records: [Box<Record>; 2],
        /// Where to go on.
        target: LowerName,
    },
    /// An ancestor's DNAME would make a name that is too long: YXDOMAIN (RFC 6672 §2.2).
    TooLong(Box<Record>),
    /// The name lies in another zone, which these servers have.
    Delegation {
        /// The NS records of the cut.
        servers: Vec<Record>,
        /// Their addresses, as far as this zone knows them.
        glue: Vec<Record>,
    },
    /// The name has records, none of this type (RFC 2308 §2.2).
    NoData,
    /// The name has no records, and something below it has: no data either, but nobody wrote anything
    /// for this name.
    Empty,
    /// There is no such name.
    NoName,
}

/// Looks `name` up in `zone`. `name` must lie in the zone.
pub fn lookup(zone: &Zone, name: &LowerName, kind: RecordType) -> Found {
    if zone.has_cuts()
        && let Some(found) = above(zone, name, kind)
    {
        return found;
    }
    let (sets, exists) = match zone.sets(name) {
        Some(sets) => (Some(sets), true),
        None => {
            let exists = zone.exists(name);
            (stand_in(zone, name, exists), exists)
        }
    };
    let Some(sets) = sets else { return if exists { Found::Empty } else { Found::NoName } };
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

/// Cuts and DNAMEs between the top of the zone and the name, from the top: what lies below one is not
/// this zone's to answer (RFC 1034 §4.2.1, RFC 6672 §2.4).
fn above(zone: &Zone, name: &LowerName, kind: RecordType) -> Option<Found> {
    let mut ancestors = vec![name.clone()];
    let mut at = name.clone();
    while at != *zone.origin() && !at.is_root() {
        at = at.base_name();
        ancestors.push(at.clone());
    }
    for ancestor in ancestors.iter().rev() {
        let Some(sets) = zone.sets(ancestor) else { continue };
        let owner = Name::from(ancestor);
        let is_cut = ancestor != zone.origin() && !(ancestor == name && kind == RecordType::DS);
        if let Some(set) = sets.get(&RecordType::NS).filter(|_| is_cut) {
            let servers: Vec<Record> = set.records(&owner).collect();
            let glue = servers.iter().flat_map(|server| glue_of(zone, server)).collect();
            return Some(Found::Delegation { servers, glue });
        }
        if ancestor != name
            && let Some(record) = sets.get(&DNAME).and_then(|set| set.records(&owner).next())
        {
            return renamed(name, ancestor, record, kind);
        }
    }
    None
}

fn glue_of(zone: &Zone, server: &Record) -> Vec<Record> {
    let RData::NS(to) = &server.data else { return Vec::new() };
    let owner = LowerName::from(&to.0);
    let sets = zone
        .sets(&owner)
        .into_iter()
        .flat_map(|sets| [RecordType::A, RecordType::AAAA].into_iter().filter_map(|kind| sets.get(&kind)));
    sets.flat_map(|set| set.records(&to.0).collect::<Vec<_>>()).collect()
}

fn renamed(name: &LowerName, ancestor: &LowerName, dname: Record, kind: RecordType) -> Option<Found> {
    let target = dname_target(&dname.data)?;
    // Not `num_labels`, which leaves a leading `*` out.
    let kept = Name::iter(name).len().checked_sub(Name::iter(ancestor).len())?;
    let labels: Vec<&[u8]> = Name::iter(name).take(kept).collect();
    let head = Name::from_labels(labels).ok()?;
    let Ok(full) = head.append_domain(&target) else { return Some(Found::TooLong(Box::new(dname))) };
    let alias = RData::CNAME(hickory_proto::rr::rdata::CNAME(full.clone()));
    let cname = Record::from_rdata(Name::from(name), dname.ttl, alias);
    if matches!(kind, RecordType::CNAME | RecordType::ANY) {
        // The alias itself was asked for (RFC 1034 §3.6.2).
        return Some(Found::Data(vec![dname, cname]));
    }
    Some(Found::Renamed { records: [Box::new(dname), Box::new(cname)], target: LowerName::from(full) })
}

/// The target of a DNAME, which is never compressed (RFC 6672 §2.5).
fn dname_target(data: &RData) -> Option<Name> {
    use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
    let RData::Unknown { code: DNAME, rdata } = data else { return None };
    Name::read(&mut BinDecoder::new(&rdata.anything)).ok()
}

/// What answers for a name without records of its own: the wildcard of its closest encloser, or the
/// nearest subtree above, whichever is nearer.
fn stand_in<'z>(zone: &'z Zone, name: &LowerName, exists: bool) -> Option<&'z Sets> {
    // A name that exists is covered by no wildcard (RFC 4592 §2.2.1).
    let wildcard = if exists { None } else { wildcard(zone, name) };
    let subtree = zone.subtree_above(name);
    match (wildcard, subtree) {
        (Some((encloser, _)), Some((top, sets))) if top.num_labels() > encloser => Some(sets),
        (Some((_, sets)), _) | (None, Some((_, sets))) => Some(sets),
        (None, None) => None,
    }
}

/// The owner name of what answers for a name without records of its own, as an admin writes it.
pub(crate) fn stands_in(zone: &Zone, name: &LowerName) -> Option<String> {
    let wildcard = if zone.exists(name) { None } else { wildcard(zone, name) };
    let subtree = zone.subtree_above(name);
    match (wildcard, subtree) {
        (Some((encloser, _)), Some((top, _))) if top.num_labels() > encloser => Some(format!("suffix:{top}")),
        (None, Some((top, _))) => Some(format!("suffix:{top}")),
        (Some((encloser, _)), _) => {
            let mut at = name.clone();
            while at.num_labels() > encloser {
                at = at.base_name();
            }
            Some(format!("*.{at}"))
        }
        (None, None) => None,
    }
}

/// The wildcard that stands in for a name that does not exist: only the `*` child of its closest
/// encloser, the longest ancestor that exists (RFC 4592 §3.3.1). With the encloser's number of labels.
fn wildcard<'z>(zone: &'z Zone, name: &LowerName) -> Option<(u8, &'z Sets)> {
    let mut encloser = name.base_name();
    while encloser != *zone.origin() && !zone.exists(&encloser) {
        encloser = encloser.base_name();
    }
    let labels = encloser.num_labels();
    let sets = zone.sets(&Name::from(encloser).prepend_label("*").ok()?.into())?;
    Some((labels, sets))
}

#[cfg(test)]
mod tests;
