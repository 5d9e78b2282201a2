//! What is published on public exits, as part of the view.

use super::{Model, Sealed, View};
use crate::exposing::{Exposing, Link};
use crate::model::Change;
use meshd_proto::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What each node gets because of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Exposed {
    links: BTreeMap<NodeId, Vec<Link>>,
    sections: BTreeMap<NodeId, Vec<Sealed>>,
}

impl Exposed {
    pub(super) fn new(model: &Model) -> Self {
        let exposing = Exposing::new(model);
        let nodes = || exposing.nodes();
        let links = nodes().map(|id| (id, exposing.links(model, id))).filter(|(_, l)| !l.is_empty());
        let seal = |id| exposing.entries(model, id).into_iter().map(Sealed::new).collect();
        Self { links: links.collect(), sections: nodes().map(|id| (id, seal(id))).collect() }
    }

    pub(super) fn links(&self, node: NodeId) -> &[Link] {
        self.links.get(&node).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn sections(&self, node: NodeId) -> &[Sealed] {
        self.sections.get(&node).map(Vec::as_slice).unwrap_or_default()
    }

    /// The nodes whose links differ: they are cells of another kind now.
    pub(super) fn relinked(&self, before: &Self) -> BTreeSet<NodeId> {
        differing(&self.links, &before.links)
    }

    /// The nodes whose sections differ.
    pub(super) fn retold(&self, before: &Self) -> BTreeSet<NodeId> {
        differing(&self.sections, &before.sections)
    }
}

fn differing<T: PartialEq>(a: &BTreeMap<NodeId, T>, b: &BTreeMap<NodeId, T>) -> BTreeSet<NodeId> {
    a.keys().chain(b.keys()).filter(|id| a.get(id) != b.get(id)).copied().collect()
}

impl View {
    /// Looks at what is published anew, where `changes` could have changed it.
    pub(super) fn refresh_exposed(&mut self, before: &Self, changes: &[Change], nodes: &BTreeSet<NodeId>) {
        let publishes = |view: &Self, id: &NodeId| view.record(*id).is_some_and(|n| !n.publishing.is_empty());
        let all = changes.iter().any(|c| matches!(c, Change::Policy | Change::Mesh));
        if all || nodes.iter().any(|id| publishes(before, id) || publishes(self, id)) {
            let exposed = Exposed::new(&self.model);
            if exposed != *self.exposed {
                self.exposed = Arc::new(exposed);
            }
        }
    }
}
