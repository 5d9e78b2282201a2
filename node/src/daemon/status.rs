//! `meshd status`: put together from the map, the engine and the host.

use super::apply::CLOCK_TOLERANCE;
use super::running::Running;
use super::{Daemon, Hindrance};
use crate::clock;
use crate::mesh::MeshCommand;
use crate::settings::Settings;
use meshd_engine::data::RuleCount;
use meshd_engine::status::{PathStatus, Status as EngineStatus};
use meshd_proto::localapi::{
    CoordinatorStatus, Counter, DnsStatus, PeerStatus, Problem, RuleStatus, SelfStatus, SplitStatus, Status,
    UnusedRoute,
};
use meshd_proto::netmap::PeerKind;
use meshd_proto::{NetworkMap, NodeId, Prefix, RelayId};
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// Rules that are shown at most: a policy may have thousands.
const SHOWN_RULES: usize = 500;

impl Daemon {
    /// How the node is.
    pub(super) async fn status(&self) -> Status {
        let mut status = Status {
            state: self.state_word().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settings: Some(self.intent.settings.shown()),
            ..Status::default()
        };
        if let Some(problem) = self.hindrance_problem() {
            status.problems.push(problem);
        }
        if let Some(why) = &self.unstored {
            status.problems.push(Problem {
                what: "that this node is in the mesh is not on disk".to_owned(),
                why: why.clone(),
                help: "make room on the disk, or let meshd write there; it tries again by itself".to_owned(),
            });
        }
        if self.running.as_ref().is_none_or(|r| !r.applied) && self.keeps_door_shut() {
            let exit = self.intent.settings.exit_node.as_deref().unwrap_or_default();
            status.problems.push(Problem {
                what: "internet traffic is blocked".to_owned(),
                why: format!(
                    "it may leave through the exit node `{exit}` only, and this node is not in the mesh"
                ),
                help: "to let it out directly: meshd set --exit-node \"\"    (or `meshd down`)".to_owned(),
            });
        }
        let Some(running) = &self.running else { return status };
        let engine = engine_status(running).await;
        status.me = Some(self_status(running, engine.as_ref()));
        status.coordinator = Some(coordinator_status(running));
        status.data_plane = Some(running.threads.status());
        status.dns = Some(dns_status(&running.map, &self.names, &self.intent.settings));
        status.problems.extend(running.trouble.problems.iter().chain(&running.trouble.conflicts).cloned());
        let offset = running.link.clock_offset;
        if offset.abs() > CLOCK_TOLERANCE {
            status.problems.push(Problem {
                what: "the clock of this machine is off".to_owned(),
                why: format!(
                    "the coordinator's clock differs by {offset} s; handshakes and keys depend on it"
                ),
                help: "set the clock, for example `timedatectl set-ntp true`".to_owned(),
            });
        }
        if let Some(engine) = engine {
            let exit = super::apply::exit_node(&self.intent.settings, &running.map)
                .filter(|exit| super::apply::offers_exit(&running.map, *exit));
            let use_of = UseOfRoutes {
                accepted: self.intent.settings.accept_routes,
                own: running.map.me.as_ref().map_or(&[], |me| &me.approved_routes),
                here: &running.place.refused_routes,
            };
            let shown = |p| peer_status(&running.map, p, exit, &use_of);
            status.peers = engine.peers.iter().map(shown).collect();
            let drops =
                engine.drops.iter().chain(&running.threads.counters.all()).copied().collect::<Vec<_>>();
            status.drops = drops
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| Counter { name: name.to_owned(), count })
                .collect();
            status.rules = rules(engine.rules);
            if let Some(service) = &running.service {
                status.userspace = Some(service.status());
                status.drops.extend(service.drops());
            }
            if engine.flows_cut > 0 {
                status.drops.push(Counter { name: "flows_cut".to_owned(), count: engine.flows_cut });
            }
        }
        status
    }

    fn state_word(&self) -> &'static str {
        match (&self.hindrance, &self.running) {
            (Hindrance::Refused(_) | Hindrance::Revoked(_), _) => "refused",
            (_, Some(r)) if r.applied && r.link.connected => "up",
            (_, Some(r)) if r.applied => "up-offline",
            (_, Some(_)) => "connecting",
            (_, None) if self.membership.is_none() && self.joining.is_none() => "needs-token",
            (_, None) => "stopped",
        }
    }

    fn hindrance_problem(&self) -> Option<Problem> {
        let (what, why, help) = match &self.hindrance {
            Hindrance::None => return None,
            Hindrance::Refused(r) => ("the coordinator refuses this node", r.message.clone(), r.hint.clone()),
            Hindrance::Revoked(reason) => (
                "this node was put out of the mesh",
                reason.clone(),
                "join again with a new token: `meshd up mesh_…`".to_owned(),
            ),
            Hindrance::Broken(f) => ("the node could not be started", f.message.clone(), f.hint.clone()),
        };
        Some(Problem { what: what.to_owned(), why, help })
    }
}

/// The busiest rules, in the order of their lines.
fn rules(mut all: Vec<RuleCount>) -> Vec<RuleStatus> {
    all.sort_by_key(|c| std::cmp::Reverse(c.packets));
    all.truncate(SHOWN_RULES);
    all.sort_by_key(|c| (c.line, c.id));
    let shown =
        |c: RuleCount| RuleStatus { line: c.line, flows: c.flows, packets: c.packets, bytes: c.bytes };
    all.into_iter().map(shown).collect()
}

pub(super) async fn engine_status(running: &Running) -> Option<EngineStatus> {
    let (reply, status) = oneshot::channel();
    running.mesh.send(MeshCommand::Status(reply)).await.ok()?;
    tokio::time::timeout(super::running::MESH_ANSWER, status).await.ok()?.ok()
}

fn self_status(running: &Running, engine: Option<&EngineStatus>) -> SelfStatus {
    let map = &running.map;
    let Some(me) = &map.me else {
        return SelfStatus { udp_port: running.wire.port().into(), ..SelfStatus::default() };
    };
    let domain = map.dns.config.as_ref().map(|c| format!(".{}", c.domain)).unwrap_or_default();
    let texts = |list: &[Prefix]| list.iter().map(ToString::to_string).collect();
    SelfStatus {
        id: me.id.0,
        name: me.name.to_string(),
        fqdn: format!("{}{domain}", me.name),
        addresses: me.addrs.iter().map(|a| a.to_string()).collect(),
        node_key: running.own_key.to_string(),
        tags: me.tags.iter().map(ToString::to_string).collect(),
        approved_routes: texts(&me.approved_routes),
        pending_routes: texts(&me.pending_routes),
        endpoints: running.place.endpoints.iter().map(ToString::to_string).collect(),
        udp_port: running.wire.port().into(),
        key_expires: me.key_expires.map(|t| t.0),
        home_relay: engine.and_then(|e| e.home_relay).map(|r| relay_name(map, r)).unwrap_or_default(),
        draining: {
            let offer = running.around.offer.borrow();
            offer.draining && !offer.prefixes.is_empty()
        },
    }
}

fn coordinator_status(running: &Running) -> CoordinatorStatus {
    let lease = running.map.me.as_ref().map_or(0, |m| m.map_lease);
    let age = clock::wall().0.saturating_sub(running.lease.confirmed.0);
    CoordinatorStatus {
        address: running.link.address.clone(),
        connected: running.link.connected,
        reason: running.link.reason.clone(),
        map_version: running.map.version.0,
        lease_left: lease.saturating_sub(age),
        clock_offset: running.link.clock_offset,
    }
}

fn dns_status(map: &NetworkMap, names: &super::names::HostNames, settings: &Settings) -> DnsStatus {
    let answering = names.answering();
    let counters = answering.counters();
    let counters = [
        ("from the mesh", &counters.answered),
        ("from the cache", &counters.cached),
        ("forwarded", &counters.forwarded),
        ("failed", &counters.failed),
        ("with old answers", &counters.stale),
        ("outside names leading inside", &counters.rebinding),
        ("malformed", &counters.malformed),
        ("refused under load", &counters.overloaded),
        ("of senders that ask too often", &counters.limited),
        ("TCP connections beyond the bound", &counters.crowded),
    ];
    let counters = counters.into_iter().map(|(name, count)| (name, count.load(Ordering::Relaxed)));
    let counters = counters.filter(|(_, count)| *count > 0);
    let (kept, bytes) = answering.kept();
    let to_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let split = map.dns.config.iter().flat_map(|c| &c.split).map(|route| SplitStatus {
        domain: route.suffix.to_string(),
        resolvers: route.upstreams.iter().map(|e| e.0.to_string()).collect(),
    });
    DnsStatus {
        mode: names.mode(),
        resolver: map.me.as_ref().map(|m| m.prefixes.resolver().v4.to_string()).unwrap_or_default(),
        domain: map.dns.config.as_ref().map(|c| c.domain.to_string()).unwrap_or_default(),
        upstreams: names.upstreams(),
        problem: if settings.accept_dns { names.problem() } else { String::new() },
        split: split.collect(),
        nameservers: map.dns.config.iter().flat_map(|c| &c.nameservers).map(|e| e.0.to_string()).collect(),
        search: map.dns.config.iter().flat_map(|c| &c.search).map(ToString::to_string).collect(),
        counters: counters.map(|(name, count)| Counter { name: name.to_owned(), count }).collect(),
        cached_replies: to_u64(kept),
        cached_bytes: to_u64(bytes),
        scope: if settings.accept_dns { settings.dns.as_str() } else { "off" }.to_owned(),
        lan: match settings.dns_lan.interfaces.is_empty() {
            true => String::new(),
            false => settings.dns_lan.describe(),
        },
        lan_addresses: names.lan().addrs().iter().map(ToString::to_string).collect(),
        lan_problem: names.lan().problem().to_owned(),
    }
}

/// What decides whether routes of others are used.
struct UseOfRoutes<'a> {
    /// The user wants them.
    accepted: bool,
    /// Offered by this node itself.
    own: &'a [Prefix],
    /// Connected to this host.
    here: &'a [Prefix],
}

impl UseOfRoutes<'_> {
    /// Why a route of the node `owner` is not used; `away`: that one is offline.
    fn why_not(&self, prefix: Prefix, owner: &str, away: bool) -> Option<String> {
        if !self.accepted {
            Some("accept-routes is off".to_owned())
        } else if self.own.contains(&prefix) {
            Some("this node offers it, too".to_owned())
        } else if self.here.contains(&prefix) {
            Some("this network is here, too".to_owned())
        } else {
            away.then(|| format!("{owner} is offline"))
        }
    }
}

fn peer_status(
    map: &NetworkMap,
    peer: &meshd_engine::status::PeerStatus,
    exit: Option<NodeId>,
    use_of: &UseOfRoutes<'_>,
) -> PeerStatus {
    let known = map.peers.get(&peer.id);
    let (path, via) = match peer.path {
        PathStatus::Direct { endpoint, .. } => ("direct", endpoint.to_string()),
        PathStatus::Relay(relay) => ("relay", relay_name(map, relay)),
        PathStatus::None => ("none", String::new()),
    };
    let routes: Vec<Prefix> = map
        .routes
        .iter()
        .filter(|r| r.owner == peer.id && !r.prefix.is_default())
        .map(|r| r.prefix)
        .collect();
    let away = path == "none" && peer.online == Some(false);
    let unused = routes.iter().filter_map(|prefix| {
        let why = use_of.why_not(*prefix, peer.name.as_str(), away)?;
        Some(UnusedRoute { prefix: prefix.to_string(), why })
    });
    let kind = match known.map(|p| p.kind) {
        Some(PeerKind::PlainWireguard) => "wireguard",
        Some(PeerKind::Meshd) | None => "meshd",
    };
    PeerStatus {
        id: peer.id.0,
        name: peer.name.to_string(),
        addresses: peer.addrs.iter().map(|a| a.to_string()).collect(),
        node_key: peer.key.to_string(),
        path: path.to_owned(),
        via,
        reason: match (peer.path, peer.online) {
            (PathStatus::None, Some(false)) => "offline".to_owned(),
            (PathStatus::None, _) => String::new(),
            _ => peer.reason.to_owned(),
        },
        handshake_age: peer.last_handshake.map(|d| d.as_secs()),
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
        rtt_us: peer.rtt.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
        unused_routes: unused.collect(),
        routes: routes.iter().map(ToString::to_string).collect(),
        exit_node: Some(peer.id) == exit,
        owner: known.map(|p| p.owner.clone()).unwrap_or_default(),
        kind: kind.to_owned(),
    }
}

/// A relay's name for people.
pub(super) fn relay_name(map: &NetworkMap, relay: RelayId) -> String {
    map.relays.get(&relay).map_or_else(|| format!("relay {relay}"), |r| r.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testmap::prefix;

    #[test]
    fn a_route_that_is_not_used_says_why() {
        let (lan, home, own) = (prefix("10.9.0.0/16"), prefix("192.168.1.0/24"), prefix("10.5.0.0/16"));
        let on = UseOfRoutes { accepted: true, own: &[own], here: &[home] };
        assert_eq!(on.why_not(lan, "pi", false), None);
        let why = |prefix, away| on.why_not(prefix, "pi", away).unwrap();
        assert_eq!(why(lan, true), "pi is offline");
        assert_eq!(why(home, true), "this network is here, too");
        assert_eq!(why(own, false), "this node offers it, too");
        let off = UseOfRoutes { accepted: false, ..on };
        assert_eq!(off.why_not(lan, "pi", true).unwrap(), "accept-routes is off");
    }
}
