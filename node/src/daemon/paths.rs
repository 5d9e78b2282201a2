//! Answers about paths: the network this node is in, which ways data went, and draining a router.

use super::running::MESH_ANSWER;
use super::targets::find_peer;
use super::{Daemon, Running, status};
use crate::clock;
use crate::mesh::{MeshCommand, Moment};
use crate::netcheck::{self, Checked};
use crate::os::links;
use crate::outside_names::OutsideNames;
use meshd_engine::status::{PathStatus, Status};
use meshd_proto::localapi::{
    Drain, Failure, FamilyCheck, Netcheck, PathHistory, PathMoment, PathQuery, RelayCheck, Response, Tell,
};
use meshd_proto::{Endpoint, NetworkMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Longest wait for relays' names.
const RESOLVE: Duration = Duration::from_secs(3);

type Answers = mpsc::Sender<Response>;

impl Daemon {
    fn up_here(&self) -> Result<&Running, Failure> {
        self.running.as_ref().ok_or_else(|| Failure::new("this node is down", "bring it up: `meshd up`"))
    }

    /// Asks the relays' STUN servers anew.
    pub(super) fn netcheck(&mut self, answers: &Answers) -> Result<(), Failure> {
        let running = self.up_here()?;
        let (mesh, map, answers) = (running.mesh.clone(), Arc::clone(&running.map), answers.clone());
        let names = running.names.clone();
        let (interface, coordinator) = (self.config.interface.clone(), running.link.connected);
        let port_mapping = running.around.port_mapping.borrow().clone();
        let no_mapping = if self.config.port_mapping {
            "no router offers one (PCP, NAT-PMP, UPnP)"
        } else {
            "off (`port_mapping = true` in meshd.toml asks the router)"
        };
        self.answers.spawn(async move {
            let servers = servers(&map, &names).await;
            let local = links::local_endpoints(&interface).await.unwrap_or_default();
            let (v4, v6) = tokio::join!(
                netcheck::check(false, &servers, local.clone()),
                netcheck::check(true, &servers, local.clone())
            );
            let (reply, engine) = oneshot::channel();
            let asked = mesh.send(MeshCommand::Status(reply)).await.is_ok();
            let engine = match tokio::time::timeout(MESH_ANSWER, engine).await {
                Ok(Ok(status)) if asked => Some(status),
                _ => None,
            };
            let result = Netcheck {
                families: vec![family("IPv4", &v4), family("IPv6", &v6)],
                relays: engine.map(|e| relays(&map, &e)).unwrap_or_default(),
                coordinator,
                port_mapping: port_mapping.map_or_else(
                    || no_mapping.to_owned(),
                    |mapping| format!("{} by {}", mapping.outside, mapping.by),
                ),
            };
            // A client that hung up needs no answer.
            let _ = answers.send(Response::last(Tell::Netcheck(result))).await;
        });
        Ok(())
    }

    /// What the mesh task remembers of one peer's paths.
    pub(super) fn path_history(&mut self, query: &PathQuery, answers: &Answers) -> Result<(), Failure> {
        let running = self.up_here()?;
        let peer = find_peer(&running.map, &query.target)?;
        let (id, name) = (peer.id, peer.name.to_string());
        let (mesh, map, answers) = (running.mesh.clone(), Arc::clone(&running.map), answers.clone());
        let since = clock::wall().0.saturating_sub(query.since_secs);
        self.answers.spawn(async move {
            let (reply, moments) = oneshot::channel();
            if mesh.send(MeshCommand::History { peer: id, reply }).await.is_err() {
                return;
            }
            let moments = moments.await.unwrap_or_default();
            let shown = moments.iter().filter(|m| m.at.0 >= since).map(|m| moment(&map, m)).collect();
            let history = PathHistory { name, moments: shown };
            let _ = answers.send(Response::last(Tell::PathHistory(history))).await;
        });
        Ok(())
    }

    /// This router takes no new flows, or takes them again.
    pub(super) fn drain(&mut self, drain: Drain) -> Result<(), Failure> {
        if drain.on && self.intent.settings.advertise_routes.is_empty() {
            return Err(Failure::new(
                "this node advertises no routes, so there is nothing to drain",
                "take it down when nobody uses it: `meshd down`",
            ));
        }
        let prefixes = self.intent.settings.advertise_routes.clone();
        self.up_here()?.around.offer.send_replace(crate::lan_health::Offer { prefixes, draining: drain.on });
        Ok(())
    }
}

/// The relays' STUN servers: address with the first port, and the second port.
async fn servers(map: &NetworkMap, names: &OutsideNames) -> Vec<(Endpoint, u16)> {
    let mut found = Vec::new();
    for relay in map.relays.values() {
        for host in &relay.hosts {
            let Ok(Ok(addrs)) = tokio::time::timeout(RESOLVE, names.lookup(host)).await else { continue };
            for addr in addrs.into_iter().map(|ip| Endpoint::canonical((ip, relay.udp_port).into())) {
                if !found.contains(&(addr, relay.alt_udp_port)) {
                    found.push((addr, relay.alt_udp_port));
                }
            }
        }
    }
    found
}

fn family(name: &str, checked: &Checked) -> FamilyCheck {
    let mut seen: Vec<String> = checked.seen.values().map(ToString::to_string).collect();
    seen.sort();
    seen.dedup();
    FamilyCheck {
        family: name.to_owned(),
        udp: !checked.seen.is_empty(),
        mapping: checked.mapping().to_owned(),
        filtering: checked.filtering().to_owned(),
        seen,
        servers: u32::try_from(checked.servers()).unwrap_or(u32::MAX),
    }
}

fn relays(map: &NetworkMap, engine: &Status) -> Vec<RelayCheck> {
    let role = |relay: &meshd_engine::status::RelayStatus| match relay.id {
        id if Some(id) == engine.home_relay => "home",
        id if Some(id) == engine.backup_relay => "backup",
        _ if relay.up => "attached",
        _ => "",
    };
    let check = |relay: &meshd_engine::status::RelayStatus| RelayCheck {
        name: status::relay_name(map, relay.id),
        role: role(relay).to_owned(),
        rtt_us: relay.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        doubtful: relay.doubtful,
    };
    engine.relays.iter().map(check).collect()
}

fn moment(map: &NetworkMap, moment: &Moment) -> PathMoment {
    let (path, via) = match moment.path {
        PathStatus::Direct { endpoint, .. } => ("direct", endpoint.to_string()),
        PathStatus::Relay(relay) => ("relay", status::relay_name(map, relay)),
        PathStatus::None => ("none", String::new()),
    };
    PathMoment {
        at: moment.at.0,
        path: path.to_owned(),
        via,
        why: moment.why.map_or("still", meshd_engine::PathReason::as_str).to_owned(),
        rtt_us: moment.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
    }
}
