//! From a map and settings to the host: engine settings, addresses, routes, firewall, names.

use super::scan::Request;
use super::targets::peer_called;
use super::{Daemon, Hindrance};
use crate::clock;
use crate::control::{Command, ControlEvent};
use crate::mesh::{MeshCommand, MeshEvent};
use crate::os::links::Changed;
use crate::os::{AppliedReport, Desired, ExitChoice, HostSettings, OsError, Overlap, links};
use crate::settings::Settings;
use crate::state::Membership;
use meshd_proto::control::RefusalCode;
use meshd_proto::localapi::{Failure, Problem};
use meshd_proto::{NetworkMap, NodeId, Prefix, UnixSeconds};
use std::sync::Arc;

/// A clock that is further off than this is worth telling, in seconds.
pub(super) const CLOCK_TOLERANCE: i64 = 300;
/// How often a confirmation of an unchanged map is written, in seconds.
const CONFIRMED_ON_DISK: u64 = 3600;

/// Whether to read all firewalls' rules as well, which is done beside.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    No,
    Soon,
    /// And `up` tells what was found.
    BeforeUp,
}

impl Daemon {
    pub(super) async fn control_event(&mut self, event: ControlEvent) {
        let Some(running) = &mut self.running else { return };
        match event {
            ControlEvent::Connected { keys, time, address, .. } => {
                tracing::info!(%address, "connected to the coordinator");
                running.link.connected = true;
                running.link.address = address;
                running.link.reason.clear();
                let membership = running.member_of(keys);
                self.coordinator_time(time);
                self.keep_membership(membership);
                self.map_confirmed();
                self.progress("connected to the coordinator");
                self.tell_publishers();
                if let Some(running) = &mut self.running {
                    // Its address may be new, and so may be that of the relay inside it.
                    running.resolve_relays(true);
                    if std::mem::replace(&mut running.lease.lapsed, false) {
                        self.apply_map().await;
                    }
                }
            }
            ControlEvent::Map(map) => {
                running.lease.keep.changed(&running.map, &map, clock::timer_now());
                running.map = map;
                running.lease.confirmed = clock::wall();
                running.lease.lapsed = false;
                let at_once = running.lease.keep.due().is_some_and(|due| due <= clock::timer_now());
                if at_once {
                    self.store_map();
                }
                self.apply_map().await;
            }
            ControlEvent::Hints(hints) => running.tell_mesh(MeshCommand::Hints(hints)).await,
            ControlEvent::Permit(permit) => running.tell_mesh(MeshCommand::Permit(permit)).await,
            ControlEvent::Reply { id, answer } => self.call_answered(id, answer),
            ControlEvent::Alive(time) => {
                self.map_confirmed();
                self.coordinator_time(time);
            }
            ControlEvent::Pending { keys } => {
                let membership = running.member_of(keys);
                self.keep_membership(membership);
            }
            ControlEvent::Refused(refusal) => {
                running.link.connected = false;
                running.link.reason = refusal.message.clone();
                if refusal.code.is_temporary() {
                    self.progress(&format!("{}: {}", refusal.message, refusal.hint));
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
                self.join_is_over();
                self.end_for_good(&failure).await;
            }
            ControlEvent::Revoked { reason } => {
                tracing::warn!(%reason, "this node is out of the mesh");
                self.hindrance = Hindrance::Revoked(reason.clone());
                self.join_is_over();
                let hint = "join again with a new token: `meshd up mesh_…`";
                self.end_for_good(&Failure::new(format!("this node was removed: {reason}"), hint)).await;
            }
            ControlEvent::Left { confirmed } => self.left(confirmed).await,
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
                running.calls.fail_all(&lost);
                self.progress(&format!("no connection to the coordinator yet: {why}"));
            }
        }
    }

    pub(super) async fn mesh_event(&mut self, event: MeshEvent) {
        let Some(running) = &mut self.running else { return };
        match event {
            MeshEvent::Endpoints { endpoints, home_relay } => {
                running.place.endpoints = endpoints.clone();
                running.tell_control(Command::Endpoints { endpoints, home_relay });
            }
            MeshEvent::Interest(nodes) => drop(running.tell_control(Command::Interest(nodes))),
            MeshEvent::Paths(paths) => drop(running.tell_control(Command::Paths(paths))),
            MeshEvent::PeerChanged(peer) => {
                // Of a map that is not in force (yet, or any more) nothing is put on the host: its exit goes
                // down because the map lapsed.
                if running.applied && exit_node(&self.intent.settings, &running.map) == Some(peer) {
                    self.apply_host(Look::No).await;
                }
            }
        }
    }

    /// The host's links, routes or rules changed: tell the engine, put back what is ours.
    pub(super) async fn host_changed(&mut self, changed: Changed) {
        let Some(running) = &mut self.running else { return };
        if changed.links || changed.addresses || changed.routes {
            let moved = running.tell_local_endpoints().await;
            let elsewhere = running.plugged_elsewhere().await;
            if moved || elsewhere {
                tracing::info!(addresses = moved, "the networks of this host changed");
                running.prove_everything().await;
            }
        }
        if running.applied {
            self.apply_host(if changed.firewall { Look::Soon } else { Look::No }).await;
        }
    }

    /// The machine slept, perhaps in another network, perhaps past a lease.
    pub(super) async fn resumed(&mut self, slept: std::time::Duration) {
        let Some(running) = &mut self.running else { return };
        tracing::info!(?slept, "this machine was suspended: all paths are proved again");
        running.tell_local_endpoints().await;
        running.plugged_elsewhere().await;
        running.prove_everything().await;
        self.housekeeping().await;
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
            running.plugged_elsewhere().await;
        }
        running.resolve_relays(false);
        let look = if running.applied { Look::No } else { Look::BeforeUp };
        self.apply_host(look).await;
        self.tell_publishers();
        self.node_is_up().await;
    }

    /// Changed settings: offer them, put them in force.
    pub(super) async fn apply_settings(&mut self) {
        if let Some(running) = &self.running {
            let applied = running.applied;
            self.advertise();
            if applied {
                self.apply_host(Look::BeforeUp).await;
                return;
            }
        }
        // No map is in force. An exit that was chosen, or is no longer, shuts and opens the door all the same.
        self.leave_host().await;
    }

    /// What others do to the mesh on this host was looked at.
    pub(super) async fn scanned(&mut self, found: Option<Vec<Problem>>) {
        let Some(running) = &mut self.running else { return };
        if let Some(found) = found {
            warn_of_new(&found, &running.trouble.conflicts);
            running.trouble.conflicts = found;
        }
        self.node_is_up().await;
    }

    async fn apply_host(&mut self, look: Look) {
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
        running.place.refused_routes = desired.refused_routes();
        let engine_settings = meshd_engine::Settings {
            accept_routes: settings.accept_routes,
            exit_node: exit,
            refused_routes: running.place.refused_routes.clone(),
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
            service.dialer().reach().close_outside(keeps_inside(settings));
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
                problems.extend(report.overlaps.iter().map(overlap_problem));
            }
            Err(OsError::NoInterface(_)) => {
                // It is made again once this is over, and all of this with it.
                running.device_is_gone();
                return;
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
        if look != Look::No
            && touches_host
            && let Some(request) = Request::new(&running.map, &host_settings, settings)
        {
            running.trouble.scan.start(request, look == Look::BeforeUp);
        }
        problems.extend(exit_problem(settings, &running.map));
        warn_of_new(&problems, &running.trouble.problems);
        running.trouble.problems = problems;
        self.apply_dns(exit_choice.is_some_and(|exit| exit.up));
        self.apply_lan_names().await;
    }

    /// What nothing announces: the lease of a stored map, and what other programs did to the host.
    pub(super) async fn housekeeping(&mut self) {
        if self.unstored.is_some() {
            self.store_membership();
            if self.unstored.is_none() {
                tracing::info!("the membership is on disk now");
                self.join_is_over();
            }
        }
        if self.running.is_none() {
            // What it lacked may be there by now.
            if self.intent.up && matches!(self.hindrance, Hindrance::Broken(_)) {
                self.bring_up(None).await;
            }
            return;
        }
        if self.lease_is_over() {
            self.lapse().await;
            return;
        }
        if self.running.as_ref().is_some_and(|r| r.applied) {
            self.apply_host(Look::Soon).await;
        }
    }

    /// The coordinator knows this machine: it needs no token any more, also after a restart.
    fn keep_membership(&mut self, membership: Membership) {
        if self.membership.as_ref() != Some(&membership) {
            self.membership = Some(membership);
            self.store_membership();
        }
        if self.unstored.is_none() {
            self.join_is_over();
        }
    }

    fn store_membership(&mut self) {
        let Some(membership) = &self.membership else { return };
        let stored = self.state.set_membership(membership);
        self.unstored = stored.err().map(|error| {
            tracing::error!(%error, "the membership could not be stored");
            error.to_string()
        });
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
        self.leave_host().await;
    }

    /// The coordinator confirmed the map just now. On disk at most hourly: the lease counts from there
    /// after a restart.
    fn map_confirmed(&mut self) {
        let Some(running) = &mut self.running else { return };
        running.lease.confirmed = clock::wall();
        if running.lease.confirmed.0 >= running.lease.confirmed_on_disk.0.saturating_add(CONFIRMED_ON_DISK)
            && running.map.me.is_some()
        {
            self.write_map();
        }
    }

    /// Stores the map in force when it has something to be stored for.
    pub(super) fn store_map(&mut self) {
        if self.running.as_ref().is_some_and(|running| running.lease.keep.due().is_some()) {
            self.write_map();
        }
    }

    fn write_map(&mut self) {
        let Some(running) = &mut self.running else { return };
        let begun = clock::timer_now();
        match self.state.set_map(&running.map, running.lease.confirmed) {
            Ok(()) => {
                let now = clock::timer_now();
                running.lease.keep.stored(&running.map, now, now - begun);
                running.lease.confirmed_on_disk = running.lease.confirmed;
            }
            Err(error) => {
                tracing::error!(%error, "the map could not be stored: a restart would need the coordinator");
                running.lease.keep.failed(clock::timer_now());
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

    async fn end_for_good(&mut self, failure: &Failure) {
        self.waiting.fail(failure);
        self.take_down().await;
    }
}

/// Whether nothing may leave beside the mesh. What the exit carries goes into the mesh; what it does not (it is
/// unknown, offers no exit, lacks the family) goes nowhere.
const fn keeps_inside(settings: &Settings) -> bool {
    settings.exit_node.is_some() && !settings.exit_fallback
}

/// A network that is here and in the mesh; with advice until it was taken.
fn overlap_problem(overlap: &Overlap) -> Problem {
    let accepted = overlap.accepted;
    Problem {
        what: format!("{accepted} is here and in the mesh"),
        why: overlap.to_string(),
        help: match overlap.mesh_wins {
            true => String::new(),
            false => format!("reach it through the mesh: meshd set --prefer-mesh {accepted}"),
        },
    }
}

/// Why a chosen exit carries nothing: no such node is known, or it offers no way out.
fn exit_problem(settings: &Settings, map: &NetworkMap) -> Option<Problem> {
    let chosen = settings.exit_node.as_deref()?;
    let outcome = if settings.exit_fallback {
        "internet traffic leaves directly (--exit-fallback)"
    } else {
        "internet traffic is blocked"
    };
    let Some(exit) = peer_called(map, chosen) else {
        return Some(Problem {
            what: format!("the exit node `{chosen}` is not in the mesh"),
            why: format!("no node of that name or address is known here, so {outcome}"),
            help: "see the names in `meshd status`, then `meshd set --exit-node NAME`".to_owned(),
        });
    };
    if offers_exit(map, exit.id) {
        return None;
    }
    let name = &exit.name;
    Some(Problem {
        what: format!("{name} is no exit for this node"),
        why: format!(
            "{name} offers no exit, or it is not approved, or policy keeps it from this node: {outcome}"
        ),
        help: format!(
            "on {name}: meshd set --advertise-exit-node; on the coordinator: meshd-coordinator routes approve \
             {name} 0.0.0.0/0; or without an exit: meshd set --exit-node=\"\""
        ),
    })
}

/// Whether `node` carries internet traffic for this node, of one family at least.
pub(super) fn offers_exit(map: &NetworkMap, node: NodeId) -> bool {
    [Prefix::DEFAULT_V4, Prefix::DEFAULT_V6].iter().any(|default| map.owners(*default).any(|o| o == node))
}

/// The node that the user named as exit, if there is one of that name.
pub(super) fn exit_node(settings: &Settings, map: &NetworkMap) -> Option<NodeId> {
    let wanted = settings.exit_node.as_deref()?;
    peer_called(map, wanted).map(|peer| peer.id)
}

fn warn_of_new(problems: &[Problem], known: &[Problem]) {
    for problem in problems.iter().filter(|p| !known.contains(p)) {
        tracing::warn!(why = %problem.why, help = %problem.help, "{}", problem.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testmap;

    #[test]
    fn a_network_that_is_here_too_gets_advice_until_the_mesh_was_preferred() {
        let map = testmap::map(&[], &[("192.168.1.0/24", 7)]);
        let mut host =
            HostSettings { connected: testmap::connected(&["192.168.1.0/24"]), ..HostSettings::default() };
        let told = |host: &_| -> Vec<Problem> {
            Desired::from(&map, host).overlaps.iter().map(overlap_problem).collect()
        };
        let before = told(&host);
        assert_eq!(before.len(), 1);
        assert!(before[0].help.ends_with("meshd set --prefer-mesh 192.168.1.0/24"), "{before:?}");
        host.prefer_mesh.insert(testmap::prefix("192.168.1.0/24"));
        let after = told(&host);
        assert!(after[0].why.contains("the mesh wins, as set") && after[0].help.is_empty(), "{after:?}");
        assert!(!after[0].why.contains("--prefer-mesh"), "{after:?}");
    }

    #[test]
    fn a_chosen_exit_that_carries_nothing_is_a_problem() {
        let chosen = |name: &str, fallback: bool| Settings {
            exit_node: Some(name.to_owned()),
            exit_fallback: fallback,
            ..Settings::default()
        };
        assert!(keeps_inside(&chosen("pi", false)) && keeps_inside(&chosen("nobody", false)));
        assert!(!keeps_inside(&chosen("pi", true)) && !keeps_inside(&Settings::default()));
        let map = testmap::map(&[], &[("0.0.0.0/0", 8), ("192.168.1.0/24", 7)]);
        assert_eq!(exit_problem(&Settings::default(), &map), None, "none was chosen");
        assert_eq!(exit_problem(&chosen("vps", false), &map), None, "one family is an exit");
        assert_eq!([NodeId(7), NodeId(8)].map(|node| offers_exit(&map, node)), [false, true]);
        let unknown = exit_problem(&chosen("nobody", false), &map).unwrap();
        assert!(
            unknown.what.contains("not in the mesh") && unknown.why.contains("is blocked"),
            "{unknown:?}"
        );
        let none = exit_problem(&chosen("pi", false), &map).unwrap();
        assert!(none.why.starts_with("pi offers no exit, or it is not approved"), "{none:?}");
        assert!(none.why.ends_with("internet traffic is blocked"), "{none:?}");
        assert!(none.help.contains("routes approve pi 0.0.0.0/0"), "{none:?}");
        assert!(none.help.contains("meshd set --exit-node=\"\""), "{none:?}");
        let open = exit_problem(&chosen("pi", true), &map).unwrap();
        assert!(open.why.ends_with("leaves directly (--exit-fallback)"), "{open:?}");
    }

    #[test]
    fn an_exit_is_known_by_each_name_that_a_ping_takes() {
        let map = testmap::named(testmap::map(&[], &[]));
        let chosen = |name: &str| {
            let settings = Settings { exit_node: Some(name.to_owned()), ..Settings::default() };
            exit_node(&settings, &map)
        };
        for name in ["vps", "VPS", "vps.home.internal", "vps.home.internal.", "100.71.0.8", "fd7a:1:2::8"] {
            assert_eq!(chosen(name), Some(testmap::EXIT), "{name}");
        }
        for name in ["nobody", "vps.elsewhere.internal", "100.71.0.9", "laptop"] {
            assert_eq!(chosen(name), None, "{name}");
        }
    }
}
