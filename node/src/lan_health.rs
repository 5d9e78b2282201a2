//! Whether the networks behind this router can be reached through it: what it says in every probe.
//!
//! It looks at the interfaces whose network holds an advertised prefix: one that is down, gone or without a carrier
//! makes the router unfit, and its clients use another one within a moment. A prefix that lies deeper,
//! is wider than any network of this host, or is on none of its interfaces, is not judged. It never sends anything.

use crate::mesh::MeshCommand;
use crate::os::links::{self, Link};
use meshd_engine::path::probe::Fitness;
use meshd_proto::Prefix;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How often carriers are read.
const LOOK: Duration = Duration::from_millis(200);

/// What this router offers, and whether it is being drained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) prefixes: Vec<Prefix>,
    pub(crate) draining: bool,
}

/// Tells the mesh task whenever the fitness changes. Ends with the offer's sender.
pub(crate) async fn run(mut offer: watch::Receiver<Offer>, mesh: mpsc::Sender<MeshCommand>) {
    let mut told = Fitness::Fit;
    let mut homes = BTreeMap::new();
    loop {
        let current = offer.borrow_and_update().clone();
        let watched = current.prefixes.iter().any(|p| !p.is_default());
        if watched && let Ok(links) = links::all().await {
            learn(&mut homes, &current.prefixes, &links);
        }
        let found = judge(&current, &homes, has_carrier);
        if found != told {
            told = found;
            tracing::info!(?found, "this router tells its clients how it is");
            if mesh.send(MeshCommand::Fitness(found)).await.is_err() {
                return;
            }
        }
        let changed = tokio::select! {
            changed = offer.changed() => changed.is_ok(),
            () = tokio::time::sleep(LOOK), if watched => true,
        };
        if !changed {
            return;
        }
    }
}

/// Remembers on which interface each prefix is connected; one that vanished keeps its place.
fn learn(homes: &mut BTreeMap<Prefix, BTreeSet<String>>, prefixes: &[Prefix], links: &[Link]) {
    homes.retain(|prefix, _| prefixes.contains(prefix));
    for prefix in prefixes.iter().filter(|p| !p.is_default()) {
        // A network inside of a wider prefix is not its home: the rest of it may lie elsewhere (Docker's
        // bridge, without a carrier, inside of 172.16.0.0/12).
        let inside = |link: &&Link| link.addresses.iter().any(|a| a.contains(&prefix.net()));
        let now: BTreeSet<String> =
            links.iter().filter(|l| !l.loopback).filter(inside).map(|l| l.name.clone()).collect();
        if !now.is_empty() {
            homes.insert(*prefix, now);
        }
    }
}

fn judge(
    offer: &Offer,
    homes: &BTreeMap<Prefix, BTreeSet<String>>,
    has_carrier: impl Fn(&str) -> bool,
) -> Fitness {
    // Every interface of some prefix is cut: that prefix is out of reach.
    let cut = homes.values().any(|names| names.iter().all(|name| !has_carrier(name)));
    match (cut, offer.draining) {
        (true, _) => Fitness::LanDown,
        (false, true) => Fitness::Draining,
        (false, false) => Fitness::Fit,
    }
}

/// Up and plugged in; an interface that is down refuses to say, one that is gone has no file.
fn has_carrier(name: &str) -> bool {
    std::fs::read_to_string(format!("/sys/class/net/{name}/carrier")).is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn link(name: &str, address: &str) -> Link {
        Link {
            index: 1,
            name: name.to_owned(),
            kind: None,
            up: true,
            loopback: false,
            mtu: 1500,
            addresses: vec![address.parse().unwrap()],
        }
    }

    #[test]
    fn a_bridge_without_a_carrier_inside_of_a_wider_prefix_is_not_its_home() {
        let offer =
            Offer { prefixes: vec![prefix("172.16.0.0/12"), prefix("192.168.1.128/25")], draining: false };
        let mut homes = BTreeMap::new();
        let links = [link("docker0", "172.17.0.1/16"), link("eth0", "192.168.1.10/24")];
        learn(&mut homes, &offer.prefixes, &links);
        assert_eq!(judge(&offer, &homes, |name| name != "docker0"), Fitness::Fit);
        assert_eq!(
            judge(&offer, &homes, |name| name != "eth0"),
            Fitness::LanDown,
            "a part of a LAN is judged"
        );
    }

    #[test]
    fn a_router_is_unfit_when_all_interfaces_of_one_prefix_are_cut() {
        let offer = Offer {
            prefixes: vec![prefix("192.168.1.0/24"), prefix("10.9.0.0/16"), prefix("0.0.0.0/0")],
            draining: false,
        };
        let mut homes = BTreeMap::new();
        learn(
            &mut homes,
            &offer.prefixes,
            &[link("eth0", "192.168.1.10/24"), link("eth1", "192.168.1.11/24")],
        );
        assert_eq!(homes.len(), 1, "10.9.0.0/16 lies deeper and is not judged");
        assert_eq!(judge(&offer, &homes, |_| true), Fitness::Fit);
        assert_eq!(judge(&offer, &homes, |name| name == "eth1"), Fitness::Fit, "the other one is left");
        assert_eq!(judge(&offer, &homes, |_| false), Fitness::LanDown);
        // A deleted interface is not forgotten: that is how a pulled USB adapter looks.
        learn(&mut homes, &offer.prefixes, &[]);
        assert_eq!(judge(&offer, &homes, |_| false), Fitness::LanDown);
        let drained = Offer { draining: true, ..offer };
        assert_eq!(judge(&drained, &homes, |_| true), Fitness::Draining);
        assert_eq!(judge(&drained, &homes, |_| false), Fitness::LanDown);
    }
}
