//! From a map and settings to the host: engine settings, addresses, routes, firewall, names.

use super::running::offer;
use super::{Daemon, Hindrance};
use crate::clock;
use crate::control::{Command, ControlEvent};
use crate::mesh::{MeshCommand, MeshEvent};
use crate::os::links::Changed;
use crate::os::{AppliedReport, Desired, ExitChoice, HostSettings, conflicts, links};
use crate::settings::Settings;
use meshd_proto::control::RefusalCode;
use meshd_proto::localapi::{Failure, Problem, Response, Tell};
use meshd_proto::{NetworkMap, NodeId, Prefix, UnixSeconds};
use std::sync::Arc;

/// A clock that is further off than this is worth telling, in seconds.
const CLOCK_TOLERANCE: i64 = 300;
/// How often a confirmation of an unchanged map is written, in seconds.
const CONFIRMED_ON_DISK: u64 = 3600;

impl Daemon {
    pub(super) async fn control_event(&mut self, event: ControlEvent) {
        let Some(running) = &mut self.running else { return };
        match event {
            ControlEvent::Connected { keys, time, address, .. } => {
                tracing::info!(%address, "connected to the coordinator");
                running.link.connected = true;
                running.link.address = address;
                running.link.reason.clear();
                running.membership.coordinator_key = keys.control;
                running.membership.signing_key = keys.signing;
                let membership = running.membership.clone();
                self.coordinator_time(time);
                if self.membership.as_ref() != Some(&membership) {
                    if let Err(error) = self.state.set_membership(&membership) {
                        tracing::error!(%error, "the membership could not be stored");
                    }
                    self.membership = Some(membership);
                }
                self.map_confirmed();
                self.progress("connected to the coordinator").await;
                if let Some(running) = &mut self.running {
                    // Its address may be new, and so may be that of the relay inside it.
                    running.resolve_relays(true);
                    if std::mem::replace(&mut running.lease.lapsed, false) {
                        self.apply_map().await;
                    }
                }
            }
            ControlEvent::Map(map) => {
                if let Err(error) = self.state.set_map(&map, clock::wall()) {
                    tracing::error!(%error, "the map could not be stored: a restart would need the coordinator");
                }
                running.map = map;
                running.lease.confirmed = clock::wall();
                running.lease.confirmed_on_disk = running.lease.confirmed;
                running.lease.lapsed = false;
                self.apply_map().await;
            }
            ControlEvent::Hints(hints) => running.tell_mesh(MeshCommand::Hints(hints)).await,
            ControlEvent::Permit(permit) => running.tell_mesh(MeshCommand::Permit(permit)).await,
            ControlEvent::Reply { id, answer } => self.call_answered(id, answer).await,
            ControlEvent::Alive(time) => {
                self.map_confirmed();
                self.coordinator_time(time);
            }
            ControlEvent::Refused(refusal) => {
                running.link.connected = false;
                running.link.reason = refusal.message.clone();
                if refusal.code.is_temporary() {
                    self.progress(&format!("{}: {}", refusal.message, refusal.hint)).await;
                    return;
                }
                tracing::warn!(message = %refusal.message, hint = %refusal.hint, "refused by the coordinator");
                let exit_code = match refusal.code {
                    RefusalCode::TokenNeeded => 2,
                    _ => 1,
                };
                let failure =
                    Failure { message: refusal.message.clone(), hint: refusal.hint.clone(), exit_code };
                self.hindrance = Hindrance::Refused(refusal);
                self.end_for_good(&failure).await;
            }
            ControlEvent::Revoked { reason } => {
                tracing::warn!(%reason, "this node is out of the mesh");
                self.hindrance = Hindrance::Revoked(reason.clone());
                let hint = "join again with a new token: `meshd up mesh_…`";
                self.end_for_good(&Failure::new(format!("this node was removed: {reason}"), hint)).await;
            }
            ControlEvent::Left => {}
            ControlEvent::Disconnected { why, retry_in } => {
                if running.link.connected {
                    tracing::warn!(%why, ?retry_in, "the coordinator is away; links go on");
                }
                running.link.connected = false;
                running.link.reason = why.clone();
                // Their answers were to come over this session.
                let lost = Failure::new(
                    format!("the connection to the coordinator was lost: {why}"),
                    "`meshd status` says when it is back; then try again",
                );
                for client in running.calls.take_all() {
                    // A client that does not read its answers is its own loss: the daemon goes on.
                    let _ = client.try_send(Response::last(Tell::Failed(lost.clone())));
                }
                self.progress(&format!("no connection to the coordinator yet: {why}")).await;
            }
        }
    }

    pub(super) async fn mesh_event(&mut self, event: MeshEvent) {
        let Some(running) = &mut self.running else { return };
        match event {
            MeshEvent::Endpoints { endpoints, home_relay } => {
                running.endpoints = endpoints.clone();
                running.tell_control(Command::Endpoints { endpoints, home_relay }).await;
            }
            MeshEvent::Interest(nodes) => running.tell_control(Command::Interest(nodes)).await,
            MeshEvent::PeerChanged(peer) => {
                if exit_node(&self.intent.settings, &running.map) == Some(peer) {
                    self.apply_host(false).await;
                }
            }
        }
    }

    /// The host's links, routes or rules changed: tell the engine, put back what is ours.
    pub(super) async fn host_changed(&mut self, changed: Changed) {
        let Some(running) = &mut self.running else { return };
        if (changed.links || changed.addresses || changed.routes) && running.tell_local_endpoints().await {
            tracing::info!("the addresses of this host changed");
            running.tell_mesh(MeshCommand::LinksChanged).await;
            running.tell_control(Command::Reconnect).await;
            running.resolve_relays(true);
        }
        if running.applied {
            self.apply_host(changed.firewall).await;
        }
    }

    /// Puts map and settings in force, everywhere.
    pub(super) async fn apply_map(&mut self) {
        let Some(running) = &mut self.running else { return };
        let map = Arc::clone(&running.map);
        if map.me.is_none() || self.lease_is_over() {
            return;
        }
        let Some(running) = &mut self.running else { return };
        self.names.set_map(&map);
        running.tell_mesh(MeshCommand::Map(Arc::clone(&map))).await;
        if !running.applied {
            running.tell_local_endpoints().await;
        }
        running.resolve_relays(false);
        let first = !running.applied;
        self.apply_host(first).await;
        self.node_is_up().await;
    }

    /// Changed settings: offer them, put them in force.
    pub(super) async fn apply_settings(&mut self) {
        let Some(running) = &mut self.running else { return };
        running.tell_control(Command::Advertise(offer(&self.intent.settings))).await;
        if running.applied {
            self.apply_host(true).await;
        }
    }

    /// `look_for_conflicts`: read all firewalls' rules too, which costs more than the rest.
    async fn apply_host(&mut self, look_for_conflicts: bool) {
        let Some(running) = &mut self.running else { return };
        let settings = &self.intent.settings;
        let connected = links::connected(&self.config.interface).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the connected networks cannot be listed");
            Vec::new()
        });
        let exit = exit_node(settings, &running.map);
        // A chosen exit that is not in the mesh blocks as a dead one does: nothing leaks.
        let exit_choice = match (&settings.exit_node, exit) {
            (None, _) => None,
            (Some(_), None) => Some(ExitChoice { node: NodeId(u64::MAX), up: false }),
            (Some(_), Some(node)) => {
                Some(ExitChoice { node, up: !settings.exit_fallback || running.is_reached(node).await })
            }
        };
        let host_settings = HostSettings {
            interface: self.config.interface.clone(),
            mtu: self.config.mtu.into(),
            udp_port: Some(running.wire.port()),
            accept_routes: settings.accept_routes,
            snat: settings.snat,
            exit: exit_choice,
            exit_fallback: settings.exit_fallback,
            prefer_mesh: settings.prefer_mesh.iter().copied().collect(),
            firewall_assist: settings.firewall_assist,
            connected,
        };
        let desired = Desired::from(&running.map, &host_settings);
        let engine_settings = meshd_engine::Settings {
            accept_routes: settings.accept_routes,
            exit_node: exit,
            refused_routes: desired.refused_routes(),
            advertised: settings.advertise_routes.clone(),
        };
        running.tell_mesh(MeshCommand::Settings(engine_settings)).await;
        running.around.offer.send_if_modified(|offer| {
            let changed = offer.prefixes != settings.advertise_routes;
            offer.prefixes.clone_from(&settings.advertise_routes);
            changed
        });
        let mut problems = Vec::new();
        if let (Some(service), Some(me)) = (&mut running.service, &running.map.me) {
            service.set_self(me);
            service.dialer().reach().close_outside(exit_is_missing(settings, exit));
        }
        let touches_host = running.service.is_none();
        let set_up = match touches_host {
            true => self.host.apply(&desired).await,
            false => Ok(AppliedReport { changes: Vec::new(), overlaps: desired.overlaps.clone() }),
        };
        match set_up {
            Ok(report) => {
                running.applied = true;
                for change in &report.changes {
                    tracing::debug!(?change, "host changed");
                }
                for overlap in &report.overlaps {
                    problems.push(Problem {
                        what: format!("{} is here and in the mesh", overlap.accepted),
                        why: overlap.to_string(),
                        help: format!(
                            "reach it through the mesh: meshd set --prefer-mesh {}",
                            overlap.accepted
                        ),
                    });
                }
            }
            Err(error) => {
                tracing::error!(%error, "the host could not be set up");
                problems.push(Problem {
                    what: "this host is not set up".to_owned(),
                    why: error.to_string(),
                    help: String::new(),
                });
            }
        }
        if look_for_conflicts && touches_host {
            running.conflicts = find_conflicts(&running.map, &host_settings, settings).await;
        }
        problems.extend(running.conflicts.iter().cloned());
        if let (Some(name), None) = (&settings.exit_node, exit) {
            problems.push(Problem {
                what: format!("the exit node `{name}` is not in the mesh"),
                why: "no node of that name or address is known here, so internet traffic is blocked"
                    .to_owned(),
                help: "see the names in `meshd status`, then `meshd set --exit-node NAME`".to_owned(),
            });
        }
        for problem in problems.iter().filter(|p| !running.problems.contains(p)) {
            tracing::warn!(why = %problem.why, help = %problem.help, "{}", problem.what);
        }
        running.problems = problems;
        self.apply_dns();
    }

    /// What nothing announces: the lease of a stored map, and what other programs did to the host.
    pub(super) async fn housekeeping(&mut self) {
        if self.running.is_none() {
            return;
        }
        if self.lease_is_over() {
            self.lapse().await;
            return;
        }
        if self.running.as_ref().is_some_and(|r| r.applied) {
            self.apply_host(true).await;
        }
    }

    /// The stored map is too old: nothing of it stays in force until the coordinator is back.
    async fn lapse(&mut self) {
        let Some(running) = &mut self.running else { return };
        if std::mem::replace(&mut running.lease.lapsed, true) {
            return;
        }
        tracing::warn!(
            "the stored map is older than its lease: it is not used until the coordinator is back"
        );
        let nothing = Arc::new(NetworkMap::empty(running.map.network));
        running.applied = false;
        self.names.set_map(&nothing);
        running.tell_mesh(MeshCommand::Map(nothing)).await;
        // The host's DNS first: its resolver goes away with the addresses.
        self.names.take_down().await;
        if let Err(error) = self.host.down().await {
            tracing::error!(%error, "the host could not be restored");
        }
    }

    /// The coordinator confirmed the map just now. On disk at most hourly: the lease counts from there
    /// after a restart.
    fn map_confirmed(&mut self) {
        let Some(running) = &mut self.running else { return };
        running.lease.confirmed = clock::wall();
        if running.lease.confirmed.0 >= running.lease.confirmed_on_disk.0.saturating_add(CONFIRMED_ON_DISK)
            && running.map.me.is_some()
        {
            running.lease.confirmed_on_disk = running.lease.confirmed;
            if let Err(error) = self.state.set_map(&running.map, running.lease.confirmed) {
                tracing::error!(%error, "the map could not be stored");
            }
        }
    }

    fn lease_is_over(&self) -> bool {
        let Some(running) = &self.running else { return false };
        let Some(me) = &running.map.me else { return false };
        !running.link.connected && clock::wall().0 > running.lease.confirmed.0.saturating_add(me.map_lease)
    }

    fn coordinator_time(&mut self, time: UnixSeconds) {
        let Some(running) = &mut self.running else { return };
        let offset = time.0.cast_signed() - clock::wall().0.cast_signed();
        if offset.abs() > CLOCK_TOLERANCE && running.link.clock_offset.abs() <= CLOCK_TOLERANCE {
            tracing::warn!(offset, "this machine's clock is far from the coordinator's");
        }
        running.link.clock_offset = offset;
    }

    async fn progress(&self, text: &str) {
        self.tell_waiting(&Response::more(Tell::Progress(text.to_owned()))).await;
    }

    async fn end_for_good(&mut self, failure: &Failure) {
        self.tell_waiting(&Response::last(Tell::Failed(failure.clone()))).await;
        self.waiting.clear();
        self.take_down().await;
    }
}

/// Whether nothing may leave, since the chosen exit is not in the mesh.
const fn exit_is_missing(settings: &Settings, exit: Option<NodeId>) -> bool {
    settings.exit_node.is_some() && exit.is_none() && !settings.exit_fallback
}

/// The node that the user named as exit, if it is one.
pub(super) fn exit_node(settings: &Settings, map: &NetworkMap) -> Option<NodeId> {
    let wanted = settings.exit_node.as_deref()?;
    let peer = map.peer_by_name(wanted).or_else(|| {
        let ip = wanted.parse().ok()?;
        map.peers.values().find(|p| p.addrs.contains(ip))
    })?;
    Some(peer.id)
}

async fn find_conflicts(map: &NetworkMap, host: &HostSettings, settings: &Settings) -> Vec<Problem> {
    let Some(me) = &map.me else { return Vec::new() };
    let mut offered = settings.advertise_routes.clone();
    if settings.advertise_exit_node {
        offered.extend([Prefix::DEFAULT_V4, Prefix::DEFAULT_V6]);
    }
    let used = conflicts::MeshUse {
        interface: &host.interface,
        prefixes: &me.prefixes,
        offered: &offered,
        assisted: host.firewall_assist,
    };
    match conflicts::conflicts(&used).await {
        Ok(list) => {
            let problem = |c: conflicts::Conflict| Problem { what: c.what, why: c.why, help: c.help_command };
            list.into_iter().map(problem).collect()
        }
        Err(error) => {
            tracing::debug!(%error, "conflicts on this host cannot be looked for");
            Vec::new()
        }
    }
}
