//! What is published on public exits: the offers of exits and the claims of nodes, joined by the policy.
//!
//! Pure: [`Exposing`] is a function of its model. It decides nothing that is not in there: who came first is
//! in each claim ([`StoredClaim::since`]), so a later one never takes a name or a port from an earlier one.
//! The map compiler lets exit and claimer see each other, opens exactly the granted ports to exactly that
//! exit, and sends each its section (`config`).
//!
//! Invariants: nothing is published that an `expose` entry of the policy does not name · a name or a port of
//! an exit belongs to one claim · no configuration for an exit holds a key.

mod config;
mod line;

use crate::model::{Model, NodeRecord, StoredClaim};
use meshd_policy::ClassKey;
use meshd_proto::expose::{Claim, ClaimKind, ExitOffer, Place, Published, Transport, WEB_PORT};
use meshd_proto::netmap::{Entry, PeerKind};
use meshd_proto::{DnsName, MeshAddrs, NodeId, keys};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most ports of one exit that are served beside names: each is a listener there.
const MAX_PORTS: usize = 240;

/// A claim that is served by an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Where.
    pub exit: NodeId,
    /// Whose.
    pub node: NodeId,
    /// What.
    pub claim: Claim,
    /// On which public port.
    pub port: u16,
}

/// Ports of a claimer that an exit may reach, or the exit's side of the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// The node at the other end.
    pub other: NodeId,
    /// Its addresses.
    pub addrs: MeshAddrs,
    /// `(protocol, port)` of this node that the other one may reach; none at an exit.
    pub ports: Vec<(u8, u16)>,
}

/// What became of all claims of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exposing {
    /// What is served, by age.
    pub grants: Vec<Grant>,
    refused: BTreeMap<(NodeId, u64), Refused>,
    /// Nodes that publish or are exits.
    nodes: BTreeSet<NodeId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    why: String,
    hint: String,
}

/// What of an exit is given away.
#[derive(Default)]
struct Held {
    names: BTreeMap<DnsName, NodeId>,
    ports: BTreeMap<(Transport, u16), NodeId>,
}

struct Exit<'a> {
    record: &'a NodeRecord,
    offer: &'a ExitOffer,
    class: ClassKey,
    /// Names that stand for the exit itself: its public one, and that in the mesh.
    own: Vec<DnsName>,
    held: Held,
}

impl Exposing {
    /// Looks at every offer and claim of `model`.
    pub fn new(model: &Model) -> Self {
        let mut out = Self::default();
        let members = || model.nodes.values().filter(|n| is_member(n) && !n.publishing.is_empty());
        out.nodes.extend(members().map(|n| n.id));
        let mut exits: Vec<Exit<'_>> = members().filter_map(|n| Exit::of(model, n)).collect();
        let mut claims: Vec<(&NodeRecord, &StoredClaim)> =
            members().flat_map(|n| n.publishing.claims.iter().map(move |c| (&**n, c))).collect();
        claims.sort_by_key(|(node, stored)| (stored.since, node.id, stored.claim.id));
        for (node, stored) in claims {
            match place(model, node, stored, &mut exits) {
                Ok((port, places)) => out.grants.extend(places.into_iter().map(|exit| Grant {
                    exit,
                    node: node.id,
                    claim: stored.claim.clone(),
                    port,
                })),
                Err(refused) => drop(out.refused.insert((node.id, stored.claim.id), refused)),
            }
        }
        out
    }

    /// Whether a node publishes or is an exit.
    pub fn has(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
    }

    /// Everybody who publishes or is an exit.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().copied()
    }

    /// Whom a node has to reach, or let in, for what is published.
    pub fn links(&self, model: &Model, node: NodeId) -> Vec<Link> {
        if !self.has(node) {
            return Vec::new();
        }
        let mut links: BTreeMap<NodeId, BTreeSet<(u8, u16)>> = BTreeMap::new();
        for grant in self.grants.iter().filter(|g| g.node == node) {
            let claim = &grant.claim;
            let ports = links.entry(grant.exit).or_default();
            ports.insert((claim.kind.transport().number(), claim.target));
            if claim.plain_target != 0 {
                ports.insert((Transport::Tcp.number(), claim.plain_target));
            }
        }
        for grant in self.grants.iter().filter(|g| g.exit == node && g.node != node) {
            links.entry(grant.node).or_default();
        }
        links.remove(&node);
        let links = links.into_iter();
        let link = |(other, ports): (NodeId, BTreeSet<_>)| {
            let addrs = model.nodes.get(&other)?.addrs;
            Some(Link { other, addrs, ports: ports.into_iter().collect() })
        };
        links.filter_map(link).collect()
    }

    /// The port that a claim has, where it is served.
    pub fn port_of(&self, node: NodeId, claim: u64) -> Option<u16> {
        self.grants.iter().find(|g| g.node == node && g.claim.id == claim).map(|g| g.port)
    }

    /// What became of a node's claims, for itself.
    pub fn answers(&self, model: &Model, node: NodeId) -> Vec<Published> {
        let Some(record) = model.nodes.get(&node) else { return Vec::new() };
        let claims = record.publishing.claims.iter();
        claims.map(|stored| self.answer(model, node, stored.claim.id)).collect()
    }

    /// What became of one claim.
    pub fn answer(&self, model: &Model, node: NodeId, claim: u64) -> Published {
        let mine = self.grants.iter().filter(|g| g.node == node && g.claim.id == claim);
        let places = mine.filter_map(|grant| {
            let exit = model.nodes.get(&grant.exit)?;
            let offer = exit.publishing.exit.as_ref()?;
            Some(Place {
                exit: exit.name.to_string(),
                name: offer.name.as_ref().map(ToString::to_string).unwrap_or_default(),
                addrs: offer.addrs.iter().map(ToString::to_string).collect(),
                port: grant.port.into(),
                mesh: exit.addrs.iter().map(|ip| ip.to_string()).collect(),
            })
        });
        let refused = self.refused.get(&(node, claim));
        Published {
            claim,
            places: places.collect(),
            refused: refused.map(|r| r.why.clone()).unwrap_or_default(),
            hint: refused.map(|r| r.hint.clone()).unwrap_or_default(),
        }
    }

    /// The sections of `node`'s map that say it.
    pub fn entries(&self, model: &Model, node: NodeId) -> Vec<Entry> {
        let Some(record) = model.nodes.get(&node).filter(|_| self.has(node)) else { return Vec::new() };
        let mut out = Vec::new();
        if !record.publishing.claims.is_empty() {
            let text = serde_json::to_string(&self.answers(model, node)).unwrap_or_default();
            out.push(Entry::Gateway(meshd_proto::expose::CLAIMS_SECTION.to_owned(), text));
        }
        if record.publishing.exit.is_some() {
            let grants = self.grants.iter().filter(|g| g.exit == node);
            let config = config::of(model, grants);
            let text = serde_json::to_string(&config).unwrap_or_default();
            out.push(Entry::Gateway(meshd_proto::expose::EXIT_SECTION.to_owned(), text));
        }
        out
    }
}

/// Whether a node takes part.
fn is_member(node: &Arc<NodeRecord>) -> bool {
    node.admitted && !node.revoked && node.kind == PeerKind::Meshd
}

impl<'a> Exit<'a> {
    fn of(model: &Model, record: &'a NodeRecord) -> Option<Self> {
        let offer = record.publishing.exit.as_ref()?;
        let in_mesh = model.mesh.domain.child(&record.name).ok();
        Some(Self {
            record,
            offer,
            class: record.class_key().for_policy(),
            own: offer.name.iter().cloned().chain(in_mesh).collect(),
            held: Held::default(),
        })
    }

    /// The names to ask the policy about.
    fn names<'b>(&'b self, claim: &'b Claim) -> &'b [DnsName] {
        claim.name.as_ref().map_or(&self.own, std::slice::from_ref)
    }

    fn may(&self, model: &Model, src: &ClassKey, claim: &Claim, port: u16) -> bool {
        let protocol = claim.kind.transport().number();
        self.names(claim).iter().any(|n| model.policy.may_expose(src, n, protocol, port, &self.class))
    }

    /// Who has the port, or why nobody can.
    fn port_is_free(&self, transport: Transport, port: u16, names: &Model) -> Result<(), Refused> {
        if self.offer.taken.contains(&(transport, port)) {
            return Err(Refused {
                why: format!(
                    "the exit {} cannot listen on {transport}:{port}: another program has it there",
                    self.record.name
                ),
                hint: "publish another port, or free this one on the exit".to_owned(),
            });
        }
        match self.held.ports.get(&(transport, port)) {
            None => Ok(()),
            Some(holder) => Err(held(&format!("{transport}:{port}"), self, *holder, names)),
        }
    }
}

fn held(what: &str, exit: &Exit<'_>, holder: NodeId, model: &Model) -> Refused {
    let holder = model.nodes.get(&holder).map_or_else(|| holder.to_string(), |n| n.name.to_string());
    Refused {
        why: format!("{what} on the exit {} is published by {holder} already", exit.record.name),
        hint: format!(
            "who came first keeps it: end it there, or `meshd-coordinator exposures remove {holder} …`"
        ),
    }
}

/// The public port and the exits of a claim.
fn place(
    model: &Model,
    node: &NodeRecord,
    stored: &StoredClaim,
    exits: &mut [Exit<'_>],
) -> Result<(u16, Vec<NodeId>), Refused> {
    let claim = &stored.claim;
    if let Some(fault) = claim.fault() {
        return Err(Refused { why: fault.to_owned(), hint: String::new() });
    }
    if stored.removed {
        return Err(Refused {
            why: "an admin took this off the exits".to_owned(),
            hint: "end it here and ask the admin before you publish it again".to_owned(),
        });
    }
    let wanted = |exit: &Exit<'_>| claim.exit.as_ref().is_none_or(|name| exit.record.name == *name);
    if !exits.iter().any(wanted) {
        return Err(line::no_exit(claim));
    }
    let src = node.class_key().for_policy();
    let transport = claim.kind.transport();
    let free = |exit: &Exit<'_>, port: u16| match (claim.kind, &claim.name) {
        (ClaimKind::Web, Some(name)) => match exit.held.names.get(name) {
            Some(holder) => Err(held(name.as_str(), exit, *holder, model)),
            None => [WEB_PORT, meshd_proto::expose::PLAIN_PORT].iter().try_for_each(|p| {
                match exit.offer.taken.contains(&(Transport::Tcp, *p)) {
                    true => exit.port_is_free(Transport::Tcp, *p, model),
                    false => Ok(()),
                }
            }),
        },
        _ => match exit.held.ports.len() < MAX_PORTS {
            true => exit.port_is_free(transport, port, model),
            false => Err(Refused {
                why: format!("the exit {} serves {MAX_PORTS} ports already", exit.record.name),
                hint: "publish by name, or on another exit".to_owned(),
            }),
        },
    };
    let port = match claim.port {
        0 => any_port(model, node, stored, exits, &wanted)?,
        port => port,
    };
    let allowed = |exit: &Exit<'_>| wanted(exit) && exit.may(model, &src, claim, port);
    let mut last = None;
    let mut places = Vec::new();
    for exit in exits.iter_mut() {
        if !allowed(exit) {
            continue;
        }
        match free(exit, port) {
            Ok(()) => {
                match (claim.kind, &claim.name) {
                    (ClaimKind::Web, Some(name)) => drop(exit.held.names.insert(name.clone(), node.id)),
                    _ => drop(exit.held.ports.insert((transport, port), node.id)),
                }
                places.push(exit.record.id);
            }
            Err(refused) => last = Some(refused),
        }
    }
    if places.is_empty() {
        let sample = exits.iter().find(|exit| wanted(exit));
        return Err(last.unwrap_or_else(|| line::not_granted(claim, port, &src, sample)));
    }
    Ok((port, places))
}

/// The port of a claim that takes any: the one it had, else the first that is free on every exit that it
/// may use, from one on that follows from the claim itself, so that the same thing gets the same port.
fn any_port(
    model: &Model,
    node: &NodeRecord,
    stored: &StoredClaim,
    exits: &[Exit<'_>],
    wanted: &dyn Fn(&Exit<'_>) -> bool,
) -> Result<u16, Refused> {
    let claim = &stored.claim;
    let src = node.class_key().for_policy();
    let transport = claim.kind.transport();
    let ranges = |exit: &Exit<'_>| -> Vec<std::ops::RangeInclusive<u16>> {
        let of = |name: &DnsName| {
            let ranges = model.policy.exposable_ports(&src, name, transport.number(), &exit.class);
            ranges.collect::<Vec<_>>()
        };
        exit.names(claim).iter().flat_map(of).collect()
    };
    let usable: Vec<&Exit<'_>> = exits.iter().filter(|e| wanted(e) && !ranges(e).is_empty()).collect();
    let Some(first) = usable.first() else {
        let sample = exits.iter().find(|exit| wanted(exit));
        return Err(line::not_granted(claim, 0, &src, sample));
    };
    let shared = |port: u16| transport == Transport::Tcp && matches!(port, 80 | WEB_PORT);
    let fits = |port: u16| {
        !shared(port)
            && usable.iter().all(|exit| {
                ranges(exit).iter().any(|r| r.contains(&port))
                    && exit.port_is_free(transport, port, model).is_ok()
            })
    };
    if stored.port != 0 && fits(stored.port) {
        return Ok(stored.port);
    }
    let hash = keys::hash("meshd public port", &[&node.id.0.to_le_bytes(), &claim.id.to_le_bytes()]);
    for range in ranges(first) {
        let size = u32::from(*range.end()).saturating_sub(u32::from(*range.start())) + 1;
        let start = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]) % size;
        let ports =
            (0..size).filter_map(|i| u16::try_from(u32::from(*range.start()) + (start + i) % size).ok());
        if let Some(port) = ports.take(4096).find(|port| fits(*port)) {
            return Ok(port);
        }
    }
    Err(Refused {
        why: format!("every {transport} port that the policy grants here is in use"),
        hint: "name a wider range of ports in the `expose` entry".to_owned(),
    })
}
