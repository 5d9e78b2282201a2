//! Which DNS records a node may see.
//!
//! A record with addresses is there for who may reach one of them: a node, a device or a prefix of the
//! mesh by policy, or a public address. Other records have no address to judge by and are for everybody.

use super::cell::Cell;
use super::{RecordKey, Sealed, View};
use crate::model::Model;
use meshd_proto::addr::is_public_unicast;
use meshd_proto::netmap::{Entry, RecordValue};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The admin's records.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) all: BTreeMap<RecordKey, Sealed>,
    /// Which of them name an address.
    pub(super) by_ip: BTreeMap<IpAddr, Vec<RecordKey>>,
}

impl Names {
    pub(super) fn new(model: &Model) -> Self {
        let mut names = Self::default();
        for (key, set) in &model.records {
            let entry = Entry::Record(key.0.clone(), key.1, set.clone());
            for ip in addresses(&entry) {
                names.by_ip.entry(ip).or_default().push(key.clone());
            }
            names.all.insert(key.clone(), Sealed::new(entry));
        }
        names
    }

    /// The addresses of records that differ between the two.
    pub(super) fn moved<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = IpAddr> + 'a {
        let differs =
            |(key, record): &(&RecordKey, &Sealed), other: &Self| other.all.get(*key) != Some(*record);
        let ours = self.all.iter().filter(move |r| differs(r, other));
        let theirs = other.all.iter().filter(move |r| differs(r, self));
        ours.chain(theirs).flat_map(|(_, r)| addresses(&r.entry))
    }
}

fn addresses(entry: &Entry) -> impl Iterator<Item = IpAddr> + '_ {
    let values = match entry {
        Entry::Record(_, _, set) => set.values.as_slice(),
        _ => &[],
    };
    values.iter().filter_map(|value| match value {
        RecordValue::Address(ip) => Some(*ip),
        RecordValue::Name(_) | RecordValue::Text(_) => None,
    })
}

/// The records that every node of a cell sees.
pub(super) fn visible(view: &View, cell: &Cell) -> BTreeSet<RecordKey> {
    let prefixes: BTreeSet<_> = cell
        .sees
        .values()
        .flat_map(|sight| sight.routes.iter().filter(|(_, reached)| *reached).map(|(prefix, _)| *prefix))
        .chain(cell.key.routes.iter().copied())
        .filter(|prefix| !prefix.is_default())
        .collect();
    let reached = |ip: IpAddr| {
        if view.model.mesh.prefixes.contains(ip) {
            return reaches_member(view, cell, ip);
        }
        is_public_unicast(ip) || prefixes.iter().any(|prefix| prefix.net().contains(&ip))
    };
    let shown = view.names.all.iter().filter(|(_, record)| {
        let mut ips = addresses(&record.entry).peekable();
        ips.peek().is_none() || ips.any(reached)
    });
    shown.map(|(key, _)| key.clone()).collect()
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
