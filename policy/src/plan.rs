//! What a change of policy would change: who gains and who loses access to what.

use crate::access::{AccessTable, Edge, From, To, access_table, begins_something};
use crate::policy::Policy;
use crate::ports::PortRange;
use crate::trial::MeshFacts;
use std::collections::{BTreeMap, BTreeSet};

/// One access that comes or goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Difference {
    /// Who.
    pub from: String,
    /// What.
    pub to: String,
    /// Which ports: `tcp:22`, `*`.
    pub ports: String,
    /// Line of the rule that gives or gave it.
    pub line: u32,
}

/// The effect of a change of policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// What is allowed then and not now.
    pub gained: Vec<Difference>,
    /// What is allowed now and not then.
    pub lost: Vec<Difference>,
    /// Pairs of nodes that are connected now.
    pub pairs_before: u64,
    /// Pairs of nodes that are connected then.
    pub pairs_after: u64,
    /// The mesh has more kinds of nodes than are compared.
    pub cut: bool,
    /// Owners who reach something now and nothing then.
    pub stranded: Vec<String>,
}

impl Plan {
    /// Whether most of the mesh would fall apart: more than half of the connected pairs.
    pub fn cuts_most(&self) -> bool {
        self.pairs_before > 1 && self.pairs_after * 2 < self.pairs_before
    }
}

/// Compares what two policies allow in one mesh.
pub fn plan(before: &Policy, after: &Policy, mesh: &MeshFacts<'_>) -> Plan {
    let old = access_table(before, &[after], mesh);
    let new = access_table(after, &[before], mesh);
    // Both are grouped by what both policies say, in one order: places mean the same.
    debug_assert_eq!(old.groups.len(), new.groups.len());
    let (old_ports, new_ports) = (by_ends(&old), by_ends(&new));
    Plan {
        gained: missing(&new, &new_ports, &old_ports),
        lost: missing(&old, &old_ports, &new_ports),
        pairs_before: old.pairs(),
        pairs_after: new.pairs(),
        cut: old.cut || new.cut,
        stranded: stranded(&old, &new, mesh),
    }
}

/// Whether `owner`'s nodes could begin something before and can begin nothing after. Other than
/// [`Plan::stranded`] it is never cut: it holds for meshes of any size.
pub fn strands(before: &Policy, after: &Policy, mesh: &MeshFacts<'_>, owner: &str) -> bool {
    begins_something(before, mesh, owner) && !begins_something(after, mesh, owner)
}

type Ends<'a> = BTreeMap<(&'a From, &'a To), Vec<&'a Edge>>;

fn by_ends(table: &AccessTable) -> Ends<'_> {
    let mut out: Ends<'_> = BTreeMap::new();
    for edge in &table.edges {
        out.entry((&edge.from, &edge.to)).or_default().push(edge);
    }
    out
}

/// What `mine` allows and `theirs` does not.
fn missing(table: &AccessTable, mine: &Ends<'_>, theirs: &Ends<'_>) -> Vec<Difference> {
    let mut out = BTreeSet::new();
    for (ends, edges) in mine {
        let covered = theirs.get(ends).map(Vec::as_slice).unwrap_or_default();
        for edge in edges {
            for ports in without(edge.ports, covered) {
                out.insert(Difference {
                    from: table.from_label(ends.0),
                    to: table.to_label(ends.1),
                    ports: ports_text(&ports),
                    line: edge.line,
                });
            }
        }
    }
    out.into_iter().collect()
}

/// The parts of a range that none of `covered` has.
fn without(range: PortRange, covered: &[&Edge]) -> Vec<PortRange> {
    let mut rest = vec![range];
    for other in covered.iter().map(|e| e.ports) {
        if other.protocol.is_some() && other.protocol != range.protocol {
            continue;
        }
        // Protocols without ports are covered by every port only, and then nothing is left anyway.
        rest = rest.into_iter().flat_map(|part| cut_out(part, other)).collect();
    }
    rest
}

fn cut_out(part: PortRange, other: PortRange) -> Vec<PortRange> {
    if other.last < part.first || part.last < other.first {
        return vec![part];
    }
    let mut left = Vec::new();
    if part.first < other.first {
        left.push(PortRange { last: other.first - 1, ..part });
    }
    if other.last < part.last {
        left.push(PortRange { first: other.last + 1, ..part });
    }
    left
}

/// Owners whose nodes could begin something before and can begin nothing after.
fn stranded(old: &AccessTable, new: &AccessTable, mesh: &MeshFacts<'_>) -> Vec<String> {
    let reaching = |table: &AccessTable| -> BTreeSet<String> {
        let senders =
            table.edges.iter().filter_map(|e| if let From::Group(g) = e.from { Some(g) } else { None });
        let nodes =
            senders.filter_map(|g| table.groups.get(g)?.nodes.first().and_then(|n| mesh.nodes.get(*n)));
        nodes.filter_map(|n| n.class.user_name().map(str::to_owned)).collect()
    };
    reaching(old).difference(&reaching(new)).cloned().collect()
}

/// Ports as people read them: `tcp:22`, `udp:*`, `*`.
pub fn ports_text(ports: &PortRange) -> String {
    let range = PortRange { protocol: None, ..*ports };
    match ports.protocol {
        None => range.to_string(),
        Some(1) => "icmp".to_owned(),
        Some(58) => "icmpv6".to_owned(),
        Some(6) => format!("tcp:{range}"),
        Some(17) => format!("udp:{range}"),
        Some(132) => format!("sctp:{range}"),
        Some(_) => ports.to_string(),
    }
}

#[cfg(test)]
mod tests;
