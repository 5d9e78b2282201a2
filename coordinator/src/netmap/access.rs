//! What the policy says about cells: the only place of the map compiler that asks it.

use super::cell::{Cell, CellKey, Device, Sight};
use super::{has_session, is_member};
use crate::exposing::Link;
use crate::model::{Model, NodeRecord};
use meshd_policy::{Compiled, NodeView, Party};
use meshd_proto::netmap::{FilterRule, PeerKind, RuleSource, RuleTarget, TargetAddr};
use meshd_proto::{ClassId, MeshAddrs, NodeId, Prefix, RuleId, keys, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A policy joined with the classes that are in use.
#[derive(Debug)]
pub(super) struct Access {
    compiled: Compiled,
    classes: BTreeSet<ClassId>,
}

/// A cell as the policy sees it: its nodes, and what lies behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parties {
    node: Option<Party>,
    routes: Vec<(Prefix, Party)>,
    devices: Vec<(NodeId, Party)>,
}

impl Parties {
    fn all(&self) -> impl Iterator<Item = &Party> {
        let behind = self.routes.iter().map(|(_, p)| p).chain(self.devices.iter().map(|(_, p)| p));
        self.node.iter().chain(behind)
    }

    fn connects(&self, other: &Party) -> bool {
        self.all().any(|p| p.connects(other))
    }

    fn reaches(&self, other: &Party) -> bool {
        self.node.as_ref().is_some_and(|n| n.reaches(other))
    }

    /// What these see of `other`, which they are known to connect with.
    fn sight_of(&self, other: &Self) -> Sight {
        let routes = other.routes.iter().filter(|(_, p)| self.connects(p));
        let devices = other.devices.iter().filter(|(_, p)| self.connects(p));
        Sight {
            reaches: other.node.as_ref().is_some_and(|n| self.reaches(n)),
            routes: routes.map(|(prefix, p)| (*prefix, self.reaches(p))).collect(),
            devices: devices.map(|(id, p)| (*id, self.reaches(p))).collect(),
        }
    }
}

impl Access {
    pub(super) fn new(model: &Model) -> Self {
        let classes = classes_in_use(model);
        let keys = classes.iter().filter_map(|id| Some((*id, model.classes.get(id)?.for_policy()))).collect();
        Self { compiled: Compiled::new(model.policy.clone(), keys), classes }
    }

    /// Whether the classes in use are still the same.
    pub(super) fn knows_classes_of(&self, model: &Model) -> bool {
        self.classes == classes_in_use(model)
    }

    /// Whether a rule names one of these addresses, so that the node is not like others of its class.
    pub(super) fn names(&self, addrs: &MeshAddrs) -> bool {
        self.compiled.names_address(addrs)
    }

    pub(super) fn parties(&self, node: &NodeRecord, key: &CellKey, devices: &[Device]) -> Parties {
        let party =
            |n: &NodeRecord| self.compiled.party(&NodeView { class: n.class, addrs: n.addrs, routes: &[] });
        Parties {
            node: party(node),
            routes: key.routes.iter().map(|r| (*r, self.compiled.prefix_party(*r))).collect(),
            devices: devices.iter().filter_map(|d| Some((d.record.id, party(&d.record)?))).collect(),
        }
    }

    /// What two cells see of each other; `None`: nothing, in either direction.
    pub(super) fn sight(a: &Cell, b: &Cell) -> Option<(Sight, Sight)> {
        let (links, back) = (link(a, b), link(b, a));
        let (a, b) = (&a.parties, &b.parties);
        let connected = b.all().any(|party| a.connects(party));
        if !connected && links.is_none() && back.is_none() {
            return None;
        }
        let (mut ab, mut ba) =
            if connected { (a.sight_of(b), b.sight_of(a)) } else { (Sight::default(), Sight::default()) };
        ab.reaches |= back.is_some_and(|l| !l.ports.is_empty());
        ba.reaches |= links.is_some_and(|l| !l.ports.is_empty());
        Some((ab, ba))
    }

    /// The filter of a cell. Plain devices count by address wherever they are not peers: as sources of
    /// what their class may reach, and, behind this node, as destinations.
    pub(super) fn rules<'a>(
        &self,
        cell: &Cell,
        seen: impl Iterator<Item = (&'a Cell, &'a Sight)>,
    ) -> BTreeMap<RuleId, FilterRule> {
        let own = NodeView { class: cell.key.class, addrs: cell.sample.addrs, routes: &cell.key.routes };
        let mut rules = self.compiled.rules_for(&own);
        for device in cell.devices.iter().map(|d| &d.record) {
            let view = NodeView { class: device.class, addrs: device.addrs, routes: &[] };
            for (id, rule) in self.compiled.rules_for(&view) {
                rules.insert(derived(id, "device", device.id.0), towards(rule, &device.addrs));
            }
        }
        for link in cell.key.links.iter().filter(|link| !link.ports.is_empty()) {
            let dsts = link.ports.iter().map(|(protocol, port)| RuleTarget {
                to: TargetAddr::Myself,
                protocol: Some(*protocol),
                first_port: *port,
                last_port: *port,
            });
            let srcs = link.addrs.iter().map(|ip| RuleSource::Prefix(Prefix::host(ip))).collect();
            let rule = FilterRule { line: 0, srcs, dsts: dsts.collect() };
            rules.insert(derived(RuleId(link.other.0), "exposed", 0), rule);
        }
        let devices: Vec<(ClassId, MeshAddrs)> = seen
            .flat_map(|(other, sight)| sight.devices.iter().map(move |(id, _)| (other, *id)))
            .filter_map(|(other, id)| other.devices.iter().find(|d| d.record.id == id))
            .map(|d| (d.record.class, d.record.addrs))
            .collect();
        if !devices.is_empty() {
            add_device_sources(&mut rules, &devices);
        }
        rules
    }
}

/// What publishing has between a cell and a node of another one.
fn link<'a>(of: &'a Cell, other: &Cell) -> Option<&'a Link> {
    of.key.links.iter().find(|link| other.members.contains_key(&link.other))
}

/// The classes of nodes that are in a cell, and of the devices behind them.
fn classes_in_use(model: &Model) -> BTreeSet<ClassId> {
    let counts = |n: &NodeRecord| is_member(n) && has_session(n);
    let via_counts =
        |n: &NodeRecord| n.via.and_then(|via| model.nodes.get(&via)).is_some_and(|via| counts(via));
    let in_use =
        |n: &NodeRecord| counts(n) || (n.kind == PeerKind::PlainWireguard && is_member(n) && via_counts(n));
    model.nodes.values().filter(|n| in_use(n)).map(|n| n.class).collect()
}

/// A rule for a device, as the node that it lies behind has to enforce it.
fn towards(mut rule: FilterRule, addrs: &MeshAddrs) -> FilterRule {
    let dsts = rule.dsts.iter().flat_map(|target| {
        let hosts: Vec<TargetAddr> = match target.to {
            TargetAddr::Myself => addrs.iter().map(|ip| TargetAddr::Prefix(Prefix::host(ip))).collect(),
            TargetAddr::Prefix(_) => vec![target.to],
            TargetAddr::Internet => vec![],
        };
        hosts.into_iter().map(|to| RuleTarget { to, ..*target })
    });
    rule.dsts = dsts.take(limits::MAX_RULE_TERMS).collect();
    rule
}

/// Where a rule lets a class in, it lets in the addresses of that class's devices, too.
fn add_device_sources(rules: &mut BTreeMap<RuleId, FilterRule>, devices: &[(ClassId, MeshAddrs)]) {
    let mut added = Vec::new();
    for (id, rule) in rules.iter() {
        let any = rule.srcs.contains(&RuleSource::AnyNode);
        let let_in = |class: ClassId| any || rule.srcs.contains(&RuleSource::Class(class));
        let hosts: BTreeSet<IpAddr> =
            devices.iter().filter(|(class, _)| let_in(*class)).flat_map(|(_, addrs)| addrs.iter()).collect();
        let srcs: Vec<_> = hosts.into_iter().map(|ip| RuleSource::Prefix(Prefix::host(ip))).collect();
        for (part, srcs) in (0u64..).zip(srcs.chunks(limits::MAX_RULE_TERMS)) {
            let rule = FilterRule { line: rule.line, srcs: srcs.to_vec(), dsts: rule.dsts.clone() };
            added.push((derived(*id, "device sources", part), rule));
        }
    }
    rules.extend(added);
}

/// An id for a rule that was made from another.
fn derived(id: RuleId, label: &str, number: u64) -> RuleId {
    let parts = [id.0.to_le_bytes(), number.to_le_bytes()];
    let hash = keys::hash(label, &[&parts[0], &parts[1]]);
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    RuleId(u64::from_le_bytes(first))
}
