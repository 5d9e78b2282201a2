//! Which DNS records a node may see.
//!
//! A record with addresses is there for who may reach one of them: a node, a device or a prefix of the
//! mesh by policy, or a public address. A value that leads to another name (CNAME, SRV, MX, NS, PTR, SVCB,
//! HTTPS) is there for who may see that name; of a set with several the visible ones are shown. Names that
//! are not of the mesh, and what names nothing at all (TXT, CAA), are for everybody: unless they stand at the
//! name of a node or device, or below it; then they are for who sees that one, for they would show that the
//! name exists.
//!
//! A name is of the mesh when it lies in its domain (and is asked of nobody else), or when the admin made
//! records of it. Who may see one of its records, or the node or device that is called so, sees it.
//! Values that lead to each other in a ring, or over more than [`MAX_CHAIN`] names, are for nobody.

use super::cell::Cell;
use super::{RecordKey, Sealed, View};
use crate::model::{Model, Records};
use meshd_dns::record::target;
use meshd_proto::addr::is_public_unicast;
use meshd_proto::netmap::{DnsConfig, Entry, PeerKind, RecordSet, RecordType, RecordValue};
use meshd_proto::{DnsName, Hostname, NodeId, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Most names that a value leads over. Resolvers follow fewer.
const MAX_CHAIN: usize = 16;
/// What every resolver and coordinator answers to below the mesh's domain. No node can be called so.
const OWN_NAMES: [&str; 2] = ["resolver.meshd", "coordinator"];

/// The records that somebody sees, each as it is seen.
pub(super) type Shown = BTreeMap<RecordKey, Arc<Sealed>>;
/// Records with the values that are meant, by their place in the set.
type Values = BTreeMap<RecordKey, BTreeSet<usize>>;

/// What the values of records end at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// An address.
    Ip(IpAddr),
    /// A label right below the mesh's domain: what a node may be called.
    Host(Hostname),
}

/// A name of the mesh that a value leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    host: Option<Hostname>,
    /// The records that answer for it.
    records: Vec<RecordKey>,
    /// Whether they are of exactly that name: those of a wildcard do not answer for a node.
    exact: bool,
    /// Whether it is the record's own name: while nobody is called so, it is hidden from nobody.
    owner: bool,
}

impl Target {
    /// What the records say counts, given whether a node or device is called so.
    fn counts_records(&self, taken: bool) -> bool {
        self.exact || !taken
    }
}

/// The admin's records and those of services, as one class of nodes has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) all: BTreeMap<RecordKey, Arc<Sealed>>,
    /// Where the values of those lead that lead to a name; `None`: to one that is not hidden from anybody.
    targets: BTreeMap<RecordKey, Vec<Option<Target>>>,
    /// What leads to an end, over other records too. Whoever is that end sees it, whatever the policy says.
    leads: BTreeMap<End, Values>,
}

impl Names {
    /// The names of those who are told `config` and have these records.
    pub(super) fn new(config: &DnsConfig, all: &Records) -> Self {
        let mut names = Self::default();
        for (key, set) in all {
            let find = |value: &RecordValue| {
                find_target(config, all, key.1, value).or_else(|| owner_target(config, &key.0, value))
            };
            let targets = set.values.iter().map(find).collect::<Vec<_>>();
            if targets.iter().any(Option::is_some) {
                names.targets.insert(key.clone(), targets);
            }
            let entry = Entry::Record(key.0.clone(), key.1, set.clone());
            names.all.insert(key.clone(), Arc::new(Sealed::new(entry)));
        }
        names.leads = names.all_leads();
        names
    }

    /// The addresses that records name.
    pub(super) fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.leads.keys().filter_map(|end| if let End::Ip(ip) = end { Some(*ip) } else { None })
    }

    /// Whether a value leads to what is called so.
    pub(super) fn leads_to(&self, host: &Hostname) -> bool {
        !self.leads.is_empty() && self.leads.contains_key(&End::Host(host.clone()))
    }

    /// Whether records name an address or a node at all.
    pub(super) fn has_ends(&self) -> bool {
        !self.leads.is_empty()
    }

    /// The ends of records that differ between the two.
    pub(super) fn moved<'a>(&'a self, other: &'a Self) -> BTreeSet<&'a End> {
        let what = |names: &'a Self, end: &End| {
            let led = names.leads.get(end)?;
            let led = led.iter().map(|(key, values)| (names.all.get(key).map(|r| &r.entry), values));
            Some(led.collect::<Vec<_>>())
        };
        let ends: BTreeSet<&End> = self.leads.keys().chain(other.leads.keys()).collect();
        ends.into_iter().filter(|end| what(self, end) != what(other, end)).collect()
    }

    /// What somebody sees who is all of `ends`: `shown`, and what leads to himself.
    pub(super) fn with_own<'a>(&'a self, shown: &'a Shown, ends: &[End]) -> Vec<Arc<Sealed>> {
        let mut own = Values::new();
        for (key, values) in ends.iter().filter_map(|end| self.leads.get(end)).flatten() {
            own.entry(key.clone()).or_default().extend(values);
        }
        let mut out: Vec<_> =
            shown.iter().filter(|(key, _)| !own.contains_key(key)).map(|(_, r)| r.clone()).collect();
        for (key, mut values) in own {
            let Some(whole) = self.all.get(&key) else { continue };
            if let Some(part) = shown.get(&key) {
                let seen = values_of(&part.entry);
                let places = values_of(&whole.entry).iter().enumerate();
                values.extend(places.filter(|(_, value)| seen.contains(value)).map(|(place, _)| place));
            }
            out.push(part_of(whole, &values));
        }
        out
    }

    fn all_leads(&self) -> BTreeMap<End, Values> {
        let mut leads: BTreeMap<End, Values> = BTreeMap::new();
        // Which values lead to a record.
        let mut back: BTreeMap<&RecordKey, Vec<(&RecordKey, usize)>> = BTreeMap::new();
        for (key, record) in &self.all {
            let places: BTreeSet<usize> = (0..values_of(&record.entry).len()).collect();
            for ip in addresses(&record.entry) {
                // Whoever reaches one of the addresses sees them all.
                leads.entry(End::Ip(ip)).or_default().insert(key.clone(), places.clone());
            }
            for (place, target) in self.targets.get(key).into_iter().flatten().enumerate() {
                let Some(target) = target else { continue };
                if let Some(host) = &target.host {
                    let led = leads.entry(End::Host(host.clone())).or_default();
                    led.entry(key.clone()).or_default().insert(place);
                }
                // Whether a node takes the name from a wildcard is not known here: then it is not followed.
                let followed = target.counts_records(target.host.is_some());
                for record in target.records.iter().filter(|_| followed) {
                    back.entry(record).or_default().push((key, place));
                }
            }
        }
        for led in leads.values_mut() {
            let mut newest: Vec<RecordKey> = led.keys().cloned().collect();
            for _ in 1..MAX_CHAIN {
                let mut next = Vec::new();
                for (key, place) in newest.iter().filter_map(|key| back.get(key)).flatten() {
                    if !led.contains_key(*key) {
                        next.push((*key).clone());
                    }
                    led.entry((*key).clone()).or_default().insert(*place);
                }
                if next.is_empty() {
                    break;
                }
                newest = next;
            }
        }
        leads
    }
}

/// The names of all services that clusters publish.
pub(super) fn service_records(model: &Model) -> Records {
    let mesh = &model.mesh;
    model.clusters.values().flat_map(|cluster| cluster.records(&mesh.domain, mesh.dns_ttl)).collect()
}

/// Where a value leads; `None` when that is hidden from nobody.
fn find_target(config: &DnsConfig, all: &Records, kind: RecordType, value: &RecordValue) -> Option<Target> {
    let name = target(kind, value)?;
    if name == config.domain {
        return None;
    }
    let (records, exact) = answering(all, &name);
    let inside = name.is_in(&config.domain);
    let of_others =
        config.split.iter().any(|split| split.suffix != config.domain && name.is_in(&split.suffix));
    if (!inside || of_others) && records.is_empty() {
        return None;
    }
    let label = name.as_str().strip_suffix(config.domain.as_str()).and_then(|head| head.strip_suffix('.'));
    let of_ours = |head: &str| OWN_NAMES.contains(&head) && records.is_empty();
    if label.is_some_and(of_ours) {
        return None;
    }
    let host = label.and_then(|label| label.parse().ok());
    Some(Target { host, records, exact, owner: false })
}

/// The node or device at whose name, or below it, a record may stand whose value hides nothing.
fn owner_target(config: &DnsConfig, name: &DnsName, value: &RecordValue) -> Option<Target> {
    if matches!(value, RecordValue::Address(_)) {
        return None;
    }
    let head = name.as_str().strip_suffix(config.domain.as_str())?.strip_suffix('.')?;
    let host = head.rsplit('.').next().filter(|label| !OWN_NAMES.contains(label))?.parse().ok()?;
    Some(Target { host: Some(host), records: Vec::new(), exact: false, owner: true })
}

/// The records that answer for a name: its own, else those of the nearest wildcard or subtree above; and
/// a delegation above it. Says whether they are its own.
fn answering(all: &Records, name: &DnsName) -> (Vec<RecordKey>, bool) {
    let of = |name: String| -> Vec<RecordKey> {
        let Ok(name) = name.parse::<DnsName>() else { return Vec::new() };
        let first = (name.clone(), RecordType::A);
        // `A` is the first of the types.
        all.range(first..).map(|(key, _)| key).take_while(|key| key.0 == name).cloned().collect()
    };
    let own = of(name.to_string());
    if !own.is_empty() {
        return (own, true);
    }
    let mut found = of(format!("**.{name}"));
    let mut rest = name.as_str();
    while let Some((_, above)) = rest.split_once('.') {
        if found.is_empty() {
            found = of(format!("*.{above}"));
            found.extend(of(format!("**.{above}")));
        }
        found.extend(of(above.to_owned()).into_iter().filter(|key| key.1 == RecordType::Ns));
        rest = above;
    }
    (found, false)
}

fn values_of(entry: &Entry) -> &[RecordValue] {
    match entry {
        Entry::Record(_, _, set) => set.values.as_slice(),
        _ => &[],
    }
}

fn addresses(entry: &Entry) -> impl Iterator<Item = IpAddr> + '_ {
    values_of(entry).iter().filter_map(|value| match value {
        RecordValue::Address(ip) => Some(*ip),
        RecordValue::Name(_) | RecordValue::Text(_) => None,
    })
}

/// A record with those of its values only.
fn part_of(whole: &Arc<Sealed>, places: &BTreeSet<usize>) -> Arc<Sealed> {
    match &whole.entry {
        Entry::Record(name, kind, set) if places.len() < set.values.len() => {
            let values = places.iter().filter_map(|place| set.values.get(*place).cloned()).collect();
            let part = RecordSet { ttl: set.ttl, values };
            Arc::new(Sealed::new(Entry::Record(name.clone(), *kind, part)))
        }
        _ => whole.clone(),
    }
}

/// The records that every node of a cell sees.
pub(super) fn visible(view: &View, cell: &Cell) -> Shown {
    let names = &cell.horizon.names;
    let prefixes: BTreeSet<_> = cell
        .sees
        .values()
        .flat_map(|sight| sight.routes.iter().filter(|(_, reached)| *reached).map(|(prefix, _)| *prefix))
        .chain(cell.key.routes.iter().copied())
        .filter(|prefix| !prefix.is_default())
        .collect();
    let reached = |ip: IpAddr| {
        if view.model.mesh.prefixes.contains(ip) {
            // A service may have an address between those of members.
            return reaches_member(view, cell, ip) || prefixes.contains(&Prefix::host(ip));
        }
        is_public_unicast(ip) || prefixes.iter().any(|prefix| prefix.net().contains(&ip))
    };
    let alone = names.all.iter().filter(|(key, record)| {
        let mut ips = addresses(&record.entry).peekable();
        !names.targets.contains_key(*key) && (ips.peek().is_none() || ips.any(reached))
    });
    let mut shown: Shown = alone.map(|(key, record)| (key.clone(), record.clone())).collect();
    // What leads to a name is decided once that name is: each round goes one name further.
    let mut seen = Values::new();
    for _ in 0..MAX_CHAIN {
        let mut more = Vec::new();
        for (key, targets) in &names.targets {
            let known = seen.get(key);
            let fresh = targets.iter().enumerate().filter(|(place, target)| {
                !known.is_some_and(|known| known.contains(place))
                    && target.as_ref().is_none_or(|target| sees(view, cell, &shown, target))
            });
            more.extend(fresh.map(|(place, _)| (key, place)));
        }
        if more.is_empty() {
            break;
        }
        for (key, place) in more {
            if let Some(record) = names.all.get(key) {
                seen.entry(key.clone()).or_default().insert(place);
                shown.entry(key.clone()).or_insert_with(|| record.clone());
            }
        }
    }
    for (key, places) in &seen {
        if let Some(record) = shown.get_mut(key) {
            *record = part_of(record, places);
        }
    }
    shown
}

fn sees(view: &View, cell: &Cell, shown: &Shown, target: &Target) -> bool {
    let taken = target.host.as_ref().filter(|host| view.hosts.contains_key(*host));
    if target.owner && taken.is_none() {
        return true;
    }
    taken.is_some_and(|host| sees_host(view, cell, host))
        || target.counts_records(taken.is_some()) && target.records.iter().any(|key| shown.contains_key(key))
}

/// Whether every node of a cell has the name of a node or device in its map.
fn sees_host(view: &View, cell: &Cell, host: &Hostname) -> bool {
    let Some(record) = view.hosts.get(host).and_then(|id| view.record(*id)) else { return false };
    let PeerKind::PlainWireguard = record.kind else {
        return view.cell_of.get(&record.id).is_some_and(|id| cell.sees.contains_key(id));
    };
    let shown_there = |id| cell.sees.get(id).is_some_and(|s| s.devices.iter().any(|(d, _)| *d == record.id));
    let via = record.via.and_then(|via| view.cell_of.get(&via));
    cell.devices.iter().any(|d| d.record.id == record.id) || via.is_some_and(shown_there)
}

/// The nodes and devices of these members that records lead to by name.
pub(super) fn hosts_of<'a>(
    view: &'a View,
    members: impl Iterator<Item = NodeId> + 'a,
) -> impl Iterator<Item = (Hostname, NodeId, NodeId)> + 'a {
    members.flat_map(move |id| {
        let own = view.cell(id).and_then(|_| view.record(id));
        let behind = view.cell(id).into_iter().flat_map(|cell| cell.devices.iter().map(|d| &d.record));
        let named = own.into_iter().chain(behind).filter(|record| view.horizons.leads_to(&record.name));
        named.map(move |record| (record.name.clone(), record.id, id))
    })
}

fn reaches_member(view: &View, cell: &Cell, ip: IpAddr) -> bool {
    let Some(member) = view.by_ip.get(&ip) else { return false };
    let Some(id) = view.cell_of.get(member) else { return false };
    let (Some(sight), Some(other)) = (cell.sees.get(id), view.cells.get(id)) else { return false };
    match other.devices.iter().find(|d| d.record.addrs.contains(ip)) {
        Some(device) => sight.devices.contains(&(device.record.id, true)),
        None => sight.reaches,
    }
}
