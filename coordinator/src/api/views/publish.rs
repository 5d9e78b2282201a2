//! Public exits and what is published there, as the API shows them.

use crate::service::{ExitSummary, Exposure};
use meshd_proto::expose::Place;
use serde::{Deserialize, Serialize};

/// A public exit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitView {
    /// The node's name in the mesh.
    pub node: String,
    /// Its public name; empty when it has none.
    pub name: String,
    /// Its public addresses.
    pub addresses: Vec<String>,
    /// Ports that it cannot serve: another program has them there.
    pub taken: Vec<String>,
    /// How many names and ports it serves.
    pub serves: usize,
}

impl ExitView {
    pub(crate) fn new(exit: &ExitSummary) -> Self {
        let offer = &exit.offer;
        Self {
            node: exit.node.name.to_string(),
            name: offer.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            addresses: offer.addrs.iter().map(ToString::to_string).collect(),
            taken: offer.taken.iter().map(|(t, p)| format!("{t}:{p}")).collect(),
            serves: exit.serves,
        }
    }
}

/// Something that a node publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposureView {
    /// The node's name in the mesh.
    pub node: String,
    /// The claim's id, for `remove`: a number of 64 bits in hexadecimal.
    pub id: String,
    /// `web`, `tcp` or `udp`.
    pub kind: String,
    /// The public name; empty where there is none.
    pub name: String,
    /// The public port; 0: none was given yet.
    pub port: u16,
    /// The port of the node's mesh addresses where it ends.
    pub target: u16,
    /// The exits that serve it.
    pub exits: Vec<String>,
    /// Why it is on none.
    pub refused: String,
    /// What to do about that.
    pub hint: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

impl ExposureView {
    pub(crate) fn new(exposure: &Exposure) -> Self {
        let (claim, published) = (&exposure.claim, &exposure.published);
        let port = published.places.first().and_then(|p| u16::try_from(p.port).ok()).unwrap_or(claim.port);
        let address = |place: &Place| place.addrs.first().cloned().unwrap_or_default();
        Self {
            node: exposure.node.name.to_string(),
            id: format!("{:016x}", claim.id),
            kind: format!("{:?}", claim.kind).to_lowercase(),
            name: claim.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            port,
            target: claim.target,
            exits: published.places.iter().map(|p| format!("{} ({})", p.exit, address(p))).collect(),
            refused: published.refused.clone(),
            hint: published.hint.clone(),
            since: exposure.since.0,
        }
    }
}

/// How many were removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposuresRemoved {
    /// Claims that are off the exits now.
    pub removed: usize,
}
