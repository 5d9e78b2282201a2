//! The names of the mesh as each class of nodes has them.
//!
//! What is bound to users, groups or tags is decided here, once for each set of audiences that holds for a
//! class; classes for which none holds share one. Whether a node may see a record of its own horizon is the
//! business of [`names`](super::names). Nothing of another horizon ever gets into a node's entries.

use super::Sealed;
use super::names::{End, Names, service_records};
use crate::model::{Audience, Model};
use meshd_proto::netmap::Entry;
use meshd_proto::{ClassId, Hostname};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What nodes of one class are told of names.
#[derive(Clone, Debug)]
pub(super) struct Horizon {
    /// The mesh's zone, and where other names are asked.
    pub(super) config: Sealed,
    /// Records, before policy hides some.
    pub(super) names: Names,
}

/// All horizons of a model.
#[derive(Clone, Debug)]
pub(super) struct Horizons {
    /// Of those for whom nothing bound holds.
    general: Arc<Horizon>,
    /// The others.
    bound: BTreeMap<Vec<Audience>, Arc<Horizon>>,
    /// Who has one of the others.
    of_class: BTreeMap<ClassId, Arc<Horizon>>,
}

impl Horizon {
    fn new(model: &Model, holding: &[Audience]) -> Self {
        let config = model.dns_config(holding);
        let records = model.records_for(holding, service_records(model));
        Self { names: Names::new(&config, &records), config: Sealed::new(Entry::DnsConfig(config)) }
    }
}

impl Horizons {
    pub(super) fn new(model: &Model) -> Self {
        let general = Arc::new(Horizon::new(model, &[]));
        let mut horizons = Self { general, bound: BTreeMap::new(), of_class: BTreeMap::new() };
        horizons.add_classes(model);
        horizons
    }

    /// Those of classes that were met since.
    fn add_classes(&mut self, model: &Model) {
        if model.bound.is_empty() {
            return;
        }
        for (id, class) in &model.classes {
            let holding = model.holding(&class.for_policy());
            if holding.is_empty() {
                continue;
            }
            let horizon = self.bound.entry(holding);
            let horizon =
                horizon.or_insert_with_key(|holding| Arc::new(Horizon::new(model, holding))).clone();
            self.of_class.insert(*id, horizon);
        }
    }

    /// The horizons of a model with the same names, audiences and policy; `None`: they are these.
    pub(super) fn with_classes_of(&self, model: &Model) -> Option<Self> {
        let mut next = self.clone();
        next.add_classes(model);
        (next.of_class.len() != self.of_class.len()).then_some(next)
    }

    /// What nodes of a class are told.
    pub(super) fn of(&self, class: ClassId) -> &Arc<Horizon> {
        self.of_class.get(&class).unwrap_or(&self.general)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Horizon>> {
        self.bound.values().chain([&self.general])
    }

    /// The addresses that records name.
    pub(super) fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.all().flat_map(|horizon| horizon.names.ips())
    }

    /// Whether a value leads to what is called so, for anybody.
    pub(super) fn leads_to(&self, host: &Hostname) -> bool {
        self.all().any(|horizon| horizon.names.leads_to(host))
    }

    /// Whether records name an address or a node at all.
    pub(super) fn has_ends(&self) -> bool {
        self.all().any(|horizon| horizon.names.has_ends())
    }

    /// The ends of records that differ between the two for some class.
    pub(super) fn moved<'a>(&'a self, other: &'a Self) -> BTreeSet<&'a End> {
        let classes = self.of_class.keys().chain(other.of_class.keys());
        let pairs = classes.map(|class| (self.of(*class), other.of(*class)));
        let mut seen = BTreeSet::new();
        let pairs = pairs.chain([(&self.general, &other.general)]).filter(|(a, b)| {
            !Arc::ptr_eq(a, b) && seen.insert((Arc::as_ptr(a).addr(), Arc::as_ptr(b).addr()))
        });
        pairs.flat_map(|(a, b)| a.names.moved(&b.names)).collect()
    }
}
