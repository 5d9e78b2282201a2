//! What this node publishes, for whom, and what became of it.
//!
//! A local client publishes as long as it stays: its claims go when it hangs up. They are part of the offer
//! that every session tells the coordinator, so they outlive a lost session, a new network and a restart of
//! the coordinator.

use super::Daemon;
use super::running::offer;
use crate::control::Command;
use meshd_proto::control::Offer;
use meshd_proto::expose::{CLAIMS_SECTION, Claim, ExitOffer, read_claims};
use meshd_proto::localapi::{Expose, Exposed, Failure, Response, Tell};
use meshd_proto::{NetworkMap, limits};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// The sections of the map for gateways that run on this node, by name.
pub type Sections = Arc<BTreeMap<String, String>>;

/// The seam to the program that this node runs in.
#[derive(Debug)]
pub(crate) struct Seam {
    /// Where that program finds the sections of the map.
    pub(crate) sections: watch::Sender<Sections>,
    /// What it offers as a public exit.
    pub(crate) exit: watch::Receiver<Option<ExitOffer>>,
    /// Keeps `exit` open where nobody ever says anything.
    _idle: Option<watch::Sender<Option<ExitOffer>>>,
}

impl Seam {
    /// A daemon of its own: no program around it.
    pub(crate) fn none() -> Self {
        let (idle, exit) = watch::channel(None);
        Self { sections: watch::channel(Sections::default()).0, exit, _idle: Some(idle) }
    }

    /// Between a node and the program around it.
    pub(crate) fn new(sections: watch::Sender<Sections>, exit: watch::Receiver<Option<ExitOffer>>) -> Self {
        Self { sections, exit, _idle: None }
    }

    /// Returns when the program offers something else; when it never will again, never.
    pub(crate) async fn changed(&mut self) {
        if self.exit.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Who publishes, in the order of their coming.
#[derive(Debug, Default)]
pub(super) struct Publishers(Vec<Publisher>);

#[derive(Debug)]
struct Publisher {
    answers: mpsc::Sender<Response>,
    claims: Vec<Claim>,
    told: Option<Exposed>,
}

impl Publishers {
    fn claims(&self) -> Vec<Claim> {
        self.0.iter().flat_map(|p| p.claims.iter().cloned()).take(limits::MAX_CLAIMS).collect()
    }

    /// Forgets those that hung up. Returns whether there were any.
    fn reap(&mut self) -> bool {
        let before = self.0.len();
        self.0.retain(|p| !p.answers.is_closed());
        self.0.len() < before
    }

    /// Tells each what is new for it.
    fn tell(&mut self, map: &NetworkMap, connected: bool) {
        let said = read_claims(map.gateways.get(CLAIMS_SECTION).map(String::as_str));
        self.0.retain_mut(|publisher| {
            let mine = |id: u64| publisher.claims.iter().any(|c| c.id == id);
            let claims = said.iter().filter(|p| mine(p.claim)).cloned().collect();
            let news = Exposed { claims, connected };
            if publisher.told.as_ref() == Some(&news) {
                return true;
            }
            publisher.told = Some(news.clone());
            publisher.answers.try_send(Response::more(Tell::Exposed(news))).is_ok()
        });
    }
}

impl Daemon {
    /// What this node offers to the mesh.
    pub(super) fn whole_offer(&self) -> Offer {
        Offer {
            exit: self.seam.exit.borrow().clone(),
            claims: self.publishers.claims(),
            ..offer(&self.intent.settings)
        }
    }

    /// Says it anew.
    pub(super) fn advertise(&mut self) {
        let offer = self.whole_offer();
        if let Some(running) = &mut self.running {
            running.tell_control(Command::Advertise(offer));
        }
    }

    /// A node that was just started offers what it was publishing before, too.
    pub(super) fn advertise_published(&mut self) {
        let offer = self.whole_offer();
        if offer.exit.is_some() || !offer.claims.is_empty() {
            self.advertise();
        }
    }

    /// A client wants to publish.
    pub(super) fn expose(&mut self, expose: Expose, answers: mpsc::Sender<Response>) -> Result<(), Failure> {
        let claims: Vec<Claim> =
            expose.claims.into_iter().map(Claim::try_from).collect::<Result<_, _>>().map_err(|e| {
                Failure::new(e.to_string(), "are `meshd` and the running daemon of the same version?")
            })?;
        if let Some(fault) = claims.iter().find_map(Claim::fault) {
            return Err(Failure::new(fault, ""));
        }
        if self.running.is_none() {
            return Err(Failure::new("this node is not up", "bring it up: `meshd up`"));
        }
        self.publishers.reap();
        if self.publishers.claims().len() + claims.len() > limits::MAX_CLAIMS {
            let many = format!("this node publishes {} things already", limits::MAX_CLAIMS);
            return Err(Failure::new(many, "end one of them first"));
        }
        let taken = self.publishers.claims();
        if let Some(same) = claims.iter().find(|c| taken.iter().any(|t| t.id == c.id)) {
            return Err(Failure::new(
                format!("{same} is published from here already"),
                "another `meshd expose` does it; end that one first",
            ));
        }
        let gone = answers.clone();
        self.answers.spawn(async move { gone.closed().await });
        self.publishers.0.push(Publisher { answers, claims, told: None });
        self.advertise();
        self.tell_publishers();
        Ok(())
    }

    /// Somebody may have hung up: what was published for him ends.
    pub(super) fn reap_publishers(&mut self) {
        if self.publishers.reap() {
            self.advertise();
        }
    }

    /// The map is new: gateways and publishers hear of it.
    pub(super) fn tell_publishers(&mut self) {
        let Some(running) = &self.running else { return };
        let sections = &running.map.gateways;
        self.seam.sections.send_if_modified(|known| {
            let new = **known != *sections;
            if new {
                *known = Arc::new(sections.clone());
            }
            new
        });
        let connected = running.link.connected;
        self.publishers.tell(&running.map.clone(), connected);
    }

    /// The node is out of its mesh, or down: nothing is served any more.
    pub(super) fn no_sections(&self) {
        self.seam.sections.send_if_modified(|known| {
            let some = !known.is_empty();
            *known = Sections::default();
            some
        });
    }
}
