//! Which ways data of a node goes.

use crate::model::Model;
use crate::service::Paths;
use meshd_proto::control::PathVia;
use meshd_proto::{Hostname, UnixSeconds};
use serde::{Deserialize, Serialize};

/// The paths of one node, as it told itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathsView {
    /// When it told; absent: it has not since it connected.
    pub told: Option<UnixSeconds>,
    /// One for each peer that it has a session with.
    pub paths: Vec<PathView>,
}

/// The way to one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathView {
    /// The peer.
    pub peer: Hostname,
    /// `direct` or `relay`.
    pub path: String,
    /// The peer's endpoint, or the relay's name.
    pub via: String,
    /// Round-trip time in microseconds, where it was measured.
    pub rtt_us: Option<u32>,
}

impl PathsView {
    /// Of peers that are still there.
    pub fn new(model: &Model, told: &Paths) -> Self {
        let relay =
            |id| model.relays.get(&id).map_or_else(|| format!("relay {}", id.0), |r| r.name.to_string());
        let view = |report: &meshd_proto::control::PathReport| {
            let peer = model.nodes.get(&report.peer)?.name.clone();
            let (path, via) = match report.via {
                PathVia::Direct(endpoint) => ("direct", endpoint.to_string()),
                PathVia::Relay(id) => ("relay", relay(id)),
            };
            Some(PathView { peer, path: path.to_owned(), via, rtt_us: report.rtt_us })
        };
        let mut paths: Vec<PathView> = told.paths.iter().filter_map(view).collect();
        paths.sort_by(|a, b| a.peer.cmp(&b.peer));
        Self { told: told.told, paths }
    }
}

/// A round-trip time as people read it.
pub fn milliseconds(rtt_us: Option<u32>) -> String {
    rtt_us.map_or_else(|| "—".to_owned(), |us| format!("{:.1} ms", f64::from(us) / 1000.0))
}
