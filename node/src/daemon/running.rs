//! A node that is up: its device, sockets, threads and tasks, started together and stopped together.

use super::keep_map::KeepMap;
use super::relay_names::RelayNames;
use super::scan::Scan;
use super::{Join, apart};
use crate::clock;
use crate::config::DaemonConfig;
use crate::control::{Command, Commands, ControlClient, ControlConfig, ControlEvent, Profile};
use crate::data::{DataThreads, Wire};
use crate::dial::Dialer;
use crate::lan_health;
use crate::mesh::{HAND_UP_QUEUE, Mesh, MeshCommand, MeshEvent};
use crate::os::links::{self, Changed};
use crate::os::uplink::{self, Uplinks};
use crate::os::{FWMARK, IfName};
use crate::outside_names::OutsideNames;
use crate::portmap;
use crate::state::{Identity, Intent, Membership, StateDir};
use crate::udp::UdpSockets;
use crate::userspace::Service;
use meshd_dns::Names;
use meshd_proto::control::Offer;
use meshd_proto::localapi::{Failure, Problem, Response, Tell};
use meshd_proto::token::CoordinatorKeys;
use meshd_proto::{Endpoint, Hostname, NetworkMap, NodeId, NodeKey, Prefix, RelayId, UnixSeconds};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Commands and events that may wait between the tasks.
const QUEUE: usize = 256;
/// How long giving back a mapped port may take.
const GIVE_BACK: Duration = Duration::from_millis(500);
/// The mesh task answers at once; if it cannot, the daemon must go on.
pub(super) const MESH_ANSWER: Duration = Duration::from_secs(2);
/// A device that is removed sooner than this after it was made is not made again at once.
const MAKE_AGAIN: Duration = Duration::from_secs(2);

/// Something that the daemon should look at.
pub(super) enum RunningEvent {
    Control(ControlEvent),
    Mesh(MeshEvent),
    /// The map in force has to go to disk.
    StoreMap,
    /// Addresses, routes or rules of the host changed.
    HostChanged(Changed),
    /// What other programs do to the mesh; `None`: it could not be seen.
    Scanned(Option<Vec<Problem>>),
    Resolved {
        relay: RelayId,
        addrs: Vec<Endpoint>,
    },
}

/// What is known of the coordinator.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    pub(super) connected: bool,
    pub(super) address: String,
    pub(super) reason: String,
    /// Its clock minus ours.
    pub(super) clock_offset: i64,
}

/// How fresh the map in force is; a node that hears nothing from its coordinator may use it for a time only.
pub(super) struct MapLease {
    /// When the coordinator last confirmed the map.
    pub(super) confirmed: UnixSeconds,
    /// What of that is on disk.
    pub(super) confirmed_on_disk: UnixSeconds,
    /// Whether the stored map is past its lease and not in force.
    pub(super) lapsed: bool,
    /// When the map in force goes to disk.
    pub(super) keep: KeepMap,
}

/// Calls to the coordinator that wait for their answer, each with the local client that asked.
#[derive(Default)]
pub(super) struct Calls {
    waiting: HashMap<u64, mpsc::Sender<Response>>,
    last: u64,
}

impl Calls {
    /// Keeps `client` for the answer; the number goes with the call.
    pub(super) fn add(&mut self, client: mpsc::Sender<Response>) -> u64 {
        self.last += 1;
        self.waiting.insert(self.last, client);
        self.last
    }

    /// Who asked; each call is answered once.
    pub(super) fn take(&mut self, id: u64) -> Option<mpsc::Sender<Response>> {
        self.waiting.remove(&id)
    }

    /// All who wait hear why: the session that carried their calls is gone, and no answer comes any more.
    pub(super) fn fail_all(&mut self, why: &Failure) {
        for (_, client) in self.waiting.drain() {
            // A client that does not read its answers is its own loss: the daemon goes on.
            let _ = client.try_send(Response::last(Tell::Failed(why.clone())));
        }
    }
}

/// What is wrong on this host.
#[derive(Default)]
pub(super) struct Trouble {
    /// When it was last set up.
    pub(super) problems: Vec<Problem>,
    /// What other programs do to the mesh.
    pub(super) conflicts: Vec<Problem>,
    pub(super) scan: Scan,
}

/// In which networks this host is.
#[derive(Default)]
pub(super) struct Place {
    local: Vec<Endpoint>,
    /// Where we are reached, from outside too, as the coordinator knows it.
    pub(super) endpoints: Vec<Endpoint>,
    uplinks: Option<Uplinks>,
    /// Routes of the mesh that are not used, since these networks are here, too.
    pub(super) refused_routes: Vec<Prefix>,
}

/// Our interface.
struct OwnLink {
    name: IfName,
    made: Instant,
    /// It is gone although we did not remove it.
    gone: bool,
}

/// What this node offers to its surroundings, and what they offer to it.
pub(super) struct Around {
    pub(super) offer: watch::Sender<lan_health::Offer>,
    /// Keeps a port of the home router; ends, and gives the port back, when `link_ticks` is dropped.
    port_mapper: JoinSet<()>,
    link_ticks: watch::Sender<()>,
    pub(super) port_mapping: portmap::Shown,
}

/// A node that is up.
pub(super) struct Running {
    pub(super) mesh: mpsc::Sender<MeshCommand>,
    control: Commands,
    control_events: mpsc::Receiver<ControlEvent>,
    mesh_events: mpsc::Receiver<MeshEvent>,
    host_events: mpsc::Receiver<Changed>,
    relay_names: RelayNames,
    tasks: JoinSet<()>,
    pub(super) threads: DataThreads,
    /// In userspace mode: what stands in for the interface.
    pub(super) service: Option<Service>,
    pub(super) wire: Arc<Wire>,
    /// Where it is joining or has joined; written to disk with the first welcome.
    membership: Membership,
    pub(super) map: Arc<NetworkMap>,
    pub(super) lease: MapLease,
    pub(super) link: Link,
    /// Whether addresses and routes of the map are on the host.
    pub(super) applied: bool,
    pub(super) trouble: Trouble,
    pub(super) place: Place,
    pub(super) names: OutsideNames,
    device: OwnLink,
    pub(super) own_key: NodeKey,
    pub(super) calls: Calls,
    pub(super) around: Around,
}

impl Running {
    /// Makes device and sockets and starts all threads and tasks. Addresses and routes come with the map.
    pub(super) fn start(
        config: &DaemonConfig,
        state: &StateDir,
        identity: &Identity,
        intent: &mut Intent,
        join: Join,
        (names, outside): (Arc<Names>, OutsideNames),
    ) -> Result<Self, Failure> {
        let data = config.data;
        let (queues, stack) = apart::queues(config)?;
        let wanted = if config.port != 0 { config.port } else { intent.udp_port };
        let sockets = UdpSockets::bind(wanted, data.threads, data.udp)
            .map_err(|e| Failure::new(format!("cannot open UDP sockets: {e}"), "is the network up?"))?;
        if sockets.port != intent.udp_port {
            intent.udp_port = sockets.port;
            state.set_intent(intent).map_err(|e| Failure::new(e.to_string(), "is the disk full?"))?;
        }
        let wire = Arc::new(Wire::new(sockets));
        let network = join.membership.network;
        let stored = state.map().filter(|(map, _)| map.network == network && join.token.is_none());
        let (map, confirmed) = stored.map_or_else(
            || (Arc::new(NetworkMap::empty(network)), UnixSeconds(0)),
            |(map, confirmed)| (Arc::new(map), confirmed),
        );
        let no_entropy = |e: std::io::Error| Failure::new(e.to_string(), "");
        let (mesh_events_tx, mesh_events) = mpsc::channel(QUEUE);
        let seed = clock::entropy().map_err(no_entropy)?;
        let mark = config.userspace.is_none().then_some(FWMARK);
        let mesh_task = Mesh::new(
            &identity.node,
            Arc::clone(&map),
            Arc::clone(&wire),
            Arc::clone(&queues[0]),
            seed,
            config.rekey_after,
            mesh_events_tx,
        )
        .with_streams(Dialer::new(mark, config.proxy.clone(), outside.clone()));
        let (up_tx, up_rx) = mpsc::channel(HAND_UP_QUEUE);
        let threads = DataThreads::start(&queues, &wire, &mesh_task.snapshot(), up_tx)
            .map_err(|e| Failure::new(format!("cannot start threads: {e}"), ""))?;
        let service = apart::service(config, stack, mesh_task.snapshot(), names)?;
        let (mesh, mesh_commands) = mpsc::channel(QUEUE);
        let preshared = state.preshared().map_err(|e| Failure::new(e.to_string(), ""))?;
        // The first of an empty queue.
        let _ = mesh.try_send(MeshCommand::Preshared(preshared));
        let (client, control, control_events) = ControlClient::new(ControlConfig {
            addresses: join.membership.addresses.clone(),
            network,
            trust: join.trust,
            machine: identity.machine.clone(),
            node: identity.node.clone(),
            token: join.token,
            profile: profile(&intent.settings),
            map: Some(Arc::clone(&map)),
            fwmark: mark,
            names: outside.clone(),
            proxy: config.proxy.clone(),
        });
        let (host_tx, host_events) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(mesh_task.run(up_rx, mesh_commands));
        tasks.spawn(async move {
            let ended = client.run().await;
            tracing::debug!(?ended, "the control client has ended");
        });
        tasks.spawn(watch_host(host_tx));
        let (link_ticks, ticks) = watch::channel(());
        let (mapped, port_mapping) = watch::channel(None);
        let mut port_mapper = JoinSet::new();
        if config.port_mapping {
            port_mapper.spawn(portmap::run(wire.port(), ticks, mapped, mesh.clone()));
        }
        let prefixes = intent.settings.advertise_routes.clone();
        let (offer, offered) = watch::channel(lan_health::Offer { prefixes, draining: false });
        tasks.spawn(lan_health::run(offered, mesh.clone()));
        let address = join.membership.addresses.first().cloned().unwrap_or_default();
        let keep = KeepMap::of_stored(&map);
        Ok(Self {
            mesh,
            control,
            control_events,
            mesh_events,
            host_events,
            relay_names: RelayNames::new(outside.clone()),
            tasks,
            threads,
            service,
            wire,
            membership: join.membership,
            map,
            lease: MapLease { confirmed, confirmed_on_disk: confirmed, lapsed: false, keep },
            link: Link { address, reason: "connecting".to_owned(), ..Link::default() },
            applied: false,
            trouble: Trouble::default(),
            place: Place::default(),
            names: outside,
            device: OwnLink { name: config.interface.clone(), made: clock::now(), gone: false },
            own_key: identity.node.public(),
            calls: Calls::default(),
            around: Around { offer, port_mapper, link_ticks, port_mapping },
        })
    }

    /// The next thing to look at.
    pub(super) async fn next_event(&mut self) -> RunningEvent {
        let store_at = self.lease.keep.due();
        tokio::select! {
            () = wait_until(store_at) => RunningEvent::StoreMap,
            Some(event) = self.control_events.recv() => RunningEvent::Control(event),
            Some(event) = self.mesh_events.recv() => RunningEvent::Mesh(event),
            Some(changed) = self.host_events.recv() => RunningEvent::HostChanged(changed),
            found = self.trouble.scan.done() => RunningEvent::Scanned(found),
            (relay, addrs) = self.relay_names.next() => RunningEvent::Resolved { relay, addrs },
        }
    }

    /// Tells the mesh task. It lives as long as this value.
    pub(super) async fn tell_mesh(&self, command: MeshCommand) {
        if self.mesh.send(command).await.is_err() {
            tracing::error!("the mesh task has ended");
        }
    }

    /// Tells the control client, which may have ended for good (refused, revoked): then `false`. Never waits.
    pub(super) fn tell_control(&self, command: Command) -> bool {
        let told = self.control.tell(command);
        if !told {
            tracing::debug!("the control client has ended, or has too much to do");
        }
        told
    }

    /// The membership with the keys that the coordinator has proved.
    pub(super) fn member_of(&mut self, keys: CoordinatorKeys) -> Membership {
        self.membership.coordinator_key = keys.control;
        self.membership.signing_key = keys.signing;
        self.membership.clone()
    }

    /// Whether there is a session with `node`; asks for one where there is none.
    pub(super) async fn is_reached(&self, node: NodeId) -> bool {
        let (reply, status) = oneshot::channel();
        self.tell_mesh(MeshCommand::Status(reply)).await;
        let status = tokio::time::timeout(MESH_ANSWER, status).await;
        let reached =
            status.is_ok_and(|s| s.is_ok_and(|s| s.peers.iter().any(|p| p.id == node && p.session)));
        if !reached {
            let (reply, _) = oneshot::channel();
            let until = clock::now() + Duration::from_secs(3);
            self.tell_mesh(MeshCommand::Ping { peer: node, until, reply }).await;
        }
        reached
    }

    /// Resolves the names of relays that are new or changed, or of all after a link change.
    pub(super) fn resolve_relays(&mut self, all: bool) {
        self.relay_names.follow(&self.map, all);
    }

    pub(super) async fn relay_resolved(&self, relay: RelayId, addrs: Vec<Endpoint>) {
        self.tell_mesh(MeshCommand::RelayAddresses { relay, addrs }).await;
    }

    /// Tells the mesh task where this host may be reached directly. `true`: that has changed.
    pub(super) async fn tell_local_endpoints(&mut self) -> bool {
        let addrs = match links::local_endpoints(&self.device.name).await {
            Ok(addrs) => addrs,
            Err(error) => {
                tracing::warn!(%error, "the host's addresses cannot be listed");
                return false;
            }
        };
        let port = self.wire.port();
        let endpoints: Vec<_> = addrs.into_iter().map(|ip| Endpoint(SocketAddr::new(ip, port))).collect();
        if endpoints == self.place.local {
            return false;
        }
        self.place.local.clone_from(&endpoints);
        self.around.link_ticks.send_replace(());
        self.tell_mesh(MeshCommand::LocalEndpoints(endpoints)).await;
        true
    }

    /// Looks at the networks this host is plugged into. `true`: they are others, even where every
    /// address stayed. The first look is no change.
    pub(super) async fn plugged_elsewhere(&mut self) -> bool {
        let now = match uplink::uplinks(&self.device.name).await {
            Ok(now) => now,
            Err(error) => {
                tracing::warn!(%error, "the host's uplinks cannot be listed");
                return false;
            }
        };
        let before = self.place.uplinks.replace(now);
        before.is_some() && before != self.place.uplinks
    }

    /// After a change of network, or a sleep: every path and every connection may be dead.
    pub(super) async fn prove_everything(&mut self) {
        self.tell_mesh(MeshCommand::LinksChanged).await;
        self.tell_control(Command::Reconnect);
        self.resolve_relays(true);
    }

    /// Somebody removed the device.
    pub(super) fn device_is_gone(&mut self) {
        self.device.gone = true;
    }

    /// The device is gone. One that goes again at once is somebody's wish, so it waits a little.
    pub(super) fn must_be_made_again(&self) -> bool {
        self.device.gone && clock::now() >= self.device.made + MAKE_AGAIN
    }

    /// Stops tasks, then threads; the device goes away with the last of them.
    pub(super) async fn stop(mut self) {
        apart::end(self.service.take()).await;
        drop(self.mesh);
        drop(self.control);
        drop(self.around.link_ticks);
        // A router that does not listen keeps the mapping until it ends by itself.
        let _ = tokio::time::timeout(GIVE_BACK, self.around.port_mapper.join_next()).await;
        self.tasks.shutdown().await;
        let threads = self.threads;
        // Joining blocks for the length of one batch at most.
        let joined = tokio::task::spawn_blocking(move || drop(threads)).await;
        if joined.is_err() {
            tracing::error!("a data thread panicked");
        }
    }
}

/// What this machine tells the coordinator of itself.
fn profile(settings: &crate::settings::Settings) -> Profile {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    Profile {
        hostname: machine_name(),
        machine_id: machine_id_hash(&machine),
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        os: std::env::consts::OS.to_owned(),
        ephemeral: false,
        offer: offer(settings),
    }
}

/// A hash of a machine's id; zeros where it has none (yet), as in an image before its first boot: a machine
/// that gets one later is not a copy of this one.
fn machine_id_hash(text: &str) -> [u8; 32] {
    match text.trim() {
        "" | "uninitialized" => [0; 32],
        id => meshd_proto::keys::hash("meshd machine id", &[id.as_bytes()]),
    }
}

/// What the settings offer to the mesh.
pub(super) fn offer(settings: &crate::settings::Settings) -> Offer {
    Offer {
        routes: settings.advertise_routes.clone(),
        exit_node: settings.advertise_exit_node,
        hostname: settings.hostname.clone(),
        exit: None,
        claims: Vec::new(),
    }
}

fn machine_name() -> Hostname {
    let uname = rustix::system::uname();
    Hostname::sanitized(&uname.nodename().to_string_lossy())
}

async fn wait_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn watch_host(changed: mpsc::Sender<Changed>) {
    let mut watch = match links::watch() {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!(%error, "changes of the host's links are not seen");
            return;
        }
    };
    loop {
        match watch.next().await {
            Ok(what) if changed.send(what).await.is_err() => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "changes of the host's links are no longer seen");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_an_id_says_so_instead_of_hashing_nothing() {
        assert_eq!(machine_id_hash(""), [0; 32]);
        assert_eq!(machine_id_hash("uninitialized\n"), [0; 32]);
        let id = machine_id_hash("0123456789abcdef0123456789abcdef\n");
        assert_ne!(id, [0; 32]);
        assert_eq!(id, machine_id_hash("0123456789abcdef0123456789abcdef"));
    }
}
