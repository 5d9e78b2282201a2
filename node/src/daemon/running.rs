//! A node that is up: its device, sockets, threads and tasks, started together and stopped together.

use super::{Join, apart};
use crate::clock;
use crate::config::DaemonConfig;
use crate::control::{Command, ControlClient, ControlConfig, ControlEvent, Profile};
use crate::data::{DataThreads, Wire};
use crate::lan_health;
use crate::mesh::{HAND_UP_QUEUE, Mesh, MeshCommand, MeshEvent};
use crate::os::links::{self, Changed};
use crate::os::{FWMARK, IfName};
use crate::portmap;
use crate::state::{Identity, Intent, StateDir};
use crate::udp::UdpSockets;
use crate::userspace::Service;
use meshd_dns::Names;
use meshd_proto::control::Offer;
use meshd_proto::localapi::{Failure, Response};
use meshd_proto::{Endpoint, Hostname, NetworkMap, NodeId, NodeKey, RelayId, UnixSeconds};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Commands and events that may wait between the tasks.
const QUEUE: usize = 256;
/// How long giving back a mapped port may take.
const GIVE_BACK: Duration = Duration::from_millis(500);
/// The mesh task answers at once; if it cannot, the daemon must go on.
pub(super) const MESH_ANSWER: Duration = Duration::from_secs(2);
/// How long to wait before a relay's name is resolved again after a failure; doubles up to the second.
const RESOLVE_RETRY: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(60)];

/// Something that the daemon should look at.
pub(super) enum RunningEvent {
    Control(ControlEvent),
    Mesh(MeshEvent),
    /// Addresses, routes or rules of the host changed.
    HostChanged(Changed),
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

    /// All who wait: the session that carried their calls is gone, and no answer comes any more.
    pub(super) fn take_all(&mut self) -> Vec<mpsc::Sender<Response>> {
        self.waiting.drain().map(|(_, client)| client).collect()
    }
}

/// What this node offers to its surroundings, and what they offer to it.
pub(super) struct Around {
    pub(super) offer: watch::Sender<lan_health::Offer>,
    /// Keeps a port of the home router; ends, and gives the port back, when `link_ticks` is dropped.
    port_mapper: JoinSet<()>,
    link_ticks: watch::Sender<()>,
    pub(super) port_mapping: portmap::Shown,
    /// The relays' names that were resolved last.
    relay_hosts: HashMap<RelayId, (Vec<String>, u16)>,
}

/// A node that is up.
pub(super) struct Running {
    pub(super) mesh: mpsc::Sender<MeshCommand>,
    pub(super) control: mpsc::Sender<Command>,
    control_events: mpsc::Receiver<ControlEvent>,
    mesh_events: mpsc::Receiver<MeshEvent>,
    host_events: mpsc::Receiver<Changed>,
    resolved_tx: mpsc::Sender<(RelayId, Vec<Endpoint>)>,
    resolved: mpsc::Receiver<(RelayId, Vec<Endpoint>)>,
    tasks: JoinSet<()>,
    resolving: JoinSet<()>,
    pub(super) threads: DataThreads,
    /// In userspace mode: what stands in for the interface.
    pub(super) service: Option<Service>,
    pub(super) wire: Arc<Wire>,
    /// Where it is joining or has joined; written to disk with the first welcome.
    pub(super) membership: crate::state::Membership,
    pub(super) map: Arc<NetworkMap>,
    pub(super) lease: MapLease,
    pub(super) link: Link,
    /// Whether addresses and routes of the map are on the host.
    pub(super) applied: bool,
    /// Conflicts and overlaps found when the host was last looked at.
    pub(super) problems: Vec<meshd_proto::localapi::Problem>,
    /// Those of them that come from other programs on this host.
    pub(super) conflicts: Vec<meshd_proto::localapi::Problem>,
    pub(super) endpoints: Vec<Endpoint>,
    local: Vec<Endpoint>,
    interface: IfName,
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
        names: Arc<Names>,
    ) -> Result<Self, Failure> {
        let (device, stack) = apart::device(config)?;
        let wanted = if config.port != 0 { config.port } else { intent.udp_port };
        let sockets = UdpSockets::bind(wanted)
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
        let mesh_task = Mesh::new(
            &identity.node,
            Arc::clone(&map),
            Arc::clone(&wire),
            Arc::clone(&device),
            seed,
            mesh_events_tx,
        );
        let (up_tx, up_rx) = mpsc::channel(HAND_UP_QUEUE);
        let threads = DataThreads::start(&device, &wire, &mesh_task.snapshot(), up_tx)
            .map_err(|e| Failure::new(format!("cannot start threads: {e}"), ""))?;
        let service = apart::service(config, stack, mesh_task.snapshot(), names)?;
        let (mesh, mesh_commands) = mpsc::channel(QUEUE);
        let (client, control, control_events) = ControlClient::new(ControlConfig {
            addresses: join.membership.addresses.clone(),
            network,
            trust: join.trust,
            machine: identity.machine.clone(),
            node: identity.node.clone(),
            token: join.token,
            profile: profile(&intent.settings),
            map: Some(Arc::clone(&map)),
            fwmark: config.userspace.is_none().then_some(FWMARK),
        });
        let (host_tx, host_events) = mpsc::channel(QUEUE);
        let (resolved_tx, resolved) = mpsc::channel(QUEUE);
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
        port_mapper.spawn(portmap::run(wire.port(), ticks, mapped, mesh.clone()));
        let prefixes = intent.settings.advertise_routes.clone();
        let (offer, offered) = watch::channel(lan_health::Offer { prefixes, draining: false });
        tasks.spawn(lan_health::run(offered, mesh.clone()));
        let address = join.membership.addresses.first().cloned().unwrap_or_default();
        Ok(Self {
            mesh,
            control,
            control_events,
            mesh_events,
            host_events,
            resolved_tx,
            resolved,
            tasks,
            resolving: JoinSet::new(),
            threads,
            service,
            wire,
            membership: join.membership,
            map,
            lease: MapLease { confirmed, confirmed_on_disk: confirmed, lapsed: false },
            link: Link { address, reason: "connecting".to_owned(), ..Link::default() },
            applied: false,
            problems: Vec::new(),
            conflicts: Vec::new(),
            endpoints: Vec::new(),
            local: Vec::new(),
            interface: config.interface.clone(),
            own_key: identity.node.public(),
            calls: Calls::default(),
            around: Around { offer, port_mapper, link_ticks, port_mapping, relay_hosts: HashMap::new() },
        })
    }

    /// The next thing to look at.
    pub(super) async fn next_event(&mut self) -> RunningEvent {
        loop {
            tokio::select! {
                Some(event) = self.control_events.recv() => return RunningEvent::Control(event),
                Some(event) = self.mesh_events.recv() => return RunningEvent::Mesh(event),
                Some(changed) = self.host_events.recv() => return RunningEvent::HostChanged(changed),
                Some((relay, addrs)) = self.resolved.recv() => return RunningEvent::Resolved { relay, addrs },
                Some(_) = self.resolving.join_next() => {}
                else => std::future::pending().await,
            }
        }
    }

    /// Tells the mesh task. It lives as long as this value.
    pub(super) async fn tell_mesh(&self, command: MeshCommand) {
        if self.mesh.send(command).await.is_err() {
            tracing::error!("the mesh task has ended");
        }
    }

    /// Tells the control client, which may have ended for good (refused, revoked).
    pub(super) async fn tell_control(&self, command: Command) {
        if self.control.send(command).await.is_err() {
            tracing::debug!("the control client has ended");
        }
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
        let relays: HashMap<RelayId, (Vec<String>, u16)> =
            self.map.relays.values().map(|r| (r.id, (r.hosts.clone(), r.udp_port))).collect();
        if all {
            self.resolving.abort_all();
        }
        for (relay, at) in &relays {
            if all || self.around.relay_hosts.get(relay) != Some(at) {
                self.resolving.spawn(resolve(*relay, at.0.clone(), at.1, self.resolved_tx.clone()));
            }
        }
        self.around.relay_hosts = relays;
    }

    pub(super) async fn relay_resolved(&self, relay: RelayId, addrs: Vec<Endpoint>) {
        self.tell_mesh(MeshCommand::RelayAddresses { relay, addrs }).await;
    }

    /// Tells the mesh task where this host may be reached directly. `true`: that has changed.
    pub(super) async fn tell_local_endpoints(&mut self) -> bool {
        let addrs = match links::local_endpoints(&self.interface).await {
            Ok(addrs) => addrs,
            Err(error) => {
                tracing::warn!(%error, "the host's addresses cannot be listed");
                return false;
            }
        };
        let port = self.wire.port();
        let endpoints: Vec<_> = addrs.into_iter().map(|ip| Endpoint(SocketAddr::new(ip, port))).collect();
        if endpoints == self.local {
            return false;
        }
        self.local.clone_from(&endpoints);
        self.around.link_ticks.send_replace(());
        self.tell_mesh(MeshCommand::LocalEndpoints(endpoints)).await;
        true
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
        hostname: settings.hostname.clone().unwrap_or_else(machine_name),
        machine_id: meshd_proto::keys::hash("meshd machine id", &[machine.trim().as_bytes()]),
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        os: std::env::consts::OS.to_owned(),
        ephemeral: false,
        offer: offer(settings),
    }
}

/// What the settings offer to the mesh.
pub(super) fn offer(settings: &crate::settings::Settings) -> Offer {
    Offer {
        routes: settings.advertise_routes.clone(),
        exit_node: settings.advertise_exit_node,
        hostname: settings.hostname.clone(),
    }
}

fn machine_name() -> Hostname {
    let uname = rustix::system::uname();
    Hostname::sanitized(&uname.nodename().to_string_lossy())
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

async fn resolve(
    relay: RelayId,
    hosts: Vec<String>,
    port: u16,
    found: mpsc::Sender<(RelayId, Vec<Endpoint>)>,
) {
    let mut pause = RESOLVE_RETRY[0];
    loop {
        let mut addrs = Vec::new();
        for host in &hosts {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            match tokio::net::lookup_host((bare, port)).await {
                Ok(list) => addrs.extend(list.map(Endpoint::canonical)),
                Err(error) => tracing::debug!(%relay, host, %error, "a relay's name does not resolve"),
            }
        }
        if !addrs.is_empty() {
            // The daemon may have stopped meanwhile.
            let _ = found.send((relay, addrs)).await;
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RESOLVE_RETRY[1]);
    }
}
