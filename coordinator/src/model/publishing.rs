//! What a node publishes, or offers as a public exit, as the coordinator keeps it.

use meshd_proto::UnixSeconds;
use meshd_proto::expose::{Claim, ExitOffer};

/// What a node publishes, or offers as an exit.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Publishing {
    /// That it is a public exit.
    pub exit: Option<ExitOffer>,
    /// What it wants to publish.
    pub claims: Vec<StoredClaim>,
}

/// A claim, and what the coordinator keeps of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoredClaim {
    /// As the node said it.
    pub claim: Claim,
    /// Since when: who came first keeps what it has.
    pub since: UnixSeconds,
    /// The port that was chosen where any would do; 0: none yet.
    pub port: u16,
    /// An admin took it away; the node may not simply ask again.
    pub removed: bool,
}

impl Publishing {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.exit.is_none() && self.claims.is_empty()
    }

    /// Takes what the node says now. A claim that is the same as before keeps its place in time.
    pub fn take(&mut self, exit: Option<&ExitOffer>, claims: &[Claim], now: UnixSeconds) {
        self.exit = exit.cloned();
        let before = std::mem::take(&mut self.claims);
        for claim in claims {
            if self.claims.iter().any(|c| c.claim.id == claim.id) {
                continue;
            }
            let same = |old: &&StoredClaim| {
                let (a, b) = (&old.claim, claim);
                (a.id, a.kind, &a.name, a.port, &a.exit) == (b.id, b.kind, &b.name, b.port, &b.exit)
            };
            let kept = before.iter().find(same).cloned();
            let fresh = StoredClaim { claim: claim.clone(), since: now, port: 0, removed: false };
            self.claims.push(StoredClaim { claim: claim.clone(), ..kept.unwrap_or(fresh) });
        }
    }
}
