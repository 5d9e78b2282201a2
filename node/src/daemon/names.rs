//! Names on this host: the node's resolver, and the lease on the host's own DNS.

use super::Daemon;
use super::lan_names::LanServer;
use crate::clock;
use crate::host_dns::{self, DnsDesired, Handles, HostDns, HostDnsStatus, Place, Supervisor};
use crate::os::FWMARK;
use crate::outside_names::OutsideNames;
use ipnet::IpNet;
use meshd_dns::Scope;
use meshd_dns::forward::Upstream;
use meshd_dns::server::{Audience, DnsServer, Listener, Names};
use meshd_proto::netmap::SelfNode;
use meshd_proto::{MeshAddrs, NetworkMap};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The hidden command that the supervisor process runs.
const SUPERVISE_COMMAND: &str = "supervise-dns";
/// How long giving the host's DNS back may take.
const RELEASE_LIMIT: Duration = Duration::from_secs(8);

/// The node's resolver and its lease on the host's DNS. Lives as long as the daemon.
pub(super) struct HostNames {
    names: Arc<Names>,
    server: Option<DnsServer>,
    /// Answers for clients of this exit node, on its own mesh addresses.
    exit_server: Option<DnsServer>,
    /// Answers for networks that were opened.
    lan: LanServer,
    /// How much of the map's names is answered.
    scope: Scope,
    problem: String,
    desired: watch::Sender<Option<DnsDesired>>,
    /// Whether the host's own way to resolve names leads to us, or is about to.
    lent: watch::Sender<bool>,
    handles: Handles,
    /// The exit node whose resolver is asked instead of the host's.
    exit: Option<MeshAddrs>,
    /// An exit node was chosen that is not in the mesh, and nothing may leave beside it.
    exit_missing: bool,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
    supervisor: Option<Supervisor>,
}

impl HostNames {
    /// Puts back what a crash left, starts the lease (with nothing set) and its supervisor.
    pub(super) async fn start(state_dir: &Path) -> Result<Self, super::DaemonError> {
        let lease = meshd_proto::keys::hash(
            "meshd dns lease",
            &[&clock::entropy().map_err(super::DaemonError::Entropy)?],
        );
        let lease: String = lease[..8].iter().map(|b| format!("{b:02x}")).collect();
        let (dns, handles) = HostDns::new(Place::host(state_dir), lease.clone()).await?;
        let supervisor = match supervisor(state_dir, &lease) {
            Ok(supervisor) => Some(supervisor),
            Err(error) => {
                tracing::warn!(%error, "no supervisor: after a SIGKILL, `meshd cleanup` restores the host's DNS");
                None
            }
        };
        let (desired, desired_rx) = watch::channel(None);
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(dns.run(desired_rx, shutdown.clone()));
        Ok(Self {
            names: Arc::new(Names::default()),
            server: None,
            exit_server: None,
            lan: LanServer::default(),
            scope: Scope::Full,
            problem: String::new(),
            desired,
            lent: watch::Sender::new(false),
            handles,
            exit: None,
            exit_missing: false,
            shutdown,
            tasks,
            supervisor,
        })
    }

    /// Without the host: names for the node's own streams only. It never touches the host's DNS.
    pub(super) fn apart() -> Self {
        // Nobody ever changes these: `changed` then never returns.
        let (_, status) = watch::channel(HostDnsStatus::Off);
        let (_, previous) = watch::channel(Vec::new());
        Self {
            names: Arc::new(Names::default()),
            server: None,
            exit_server: None,
            lan: LanServer::default(),
            scope: Scope::Full,
            problem: String::new(),
            desired: watch::channel(None).0,
            lent: watch::Sender::new(false),
            handles: Handles { status, previous },
            exit: None,
            exit_missing: false,
            shutdown: CancellationToken::new(),
            tasks: JoinSet::new(),
            supervisor: None,
        }
    }

    /// What answers names.
    pub(super) fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names)
    }

    /// Returns when the state of the host's DNS or its resolvers have changed.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.handles.status.changed() => {}
            Ok(()) = self.handles.previous.changed() => {}
            else => std::future::pending().await,
        }
        self.note_lease();
        self.set_upstreams();
    }

    /// What answers names on this host.
    pub(super) fn answering(&self) -> Arc<Names> {
        Arc::clone(&self.names)
    }

    /// Resolves names beside the mesh, for what must never ask us.
    pub(super) fn outside(&self) -> OutsideNames {
        if self.tasks.is_empty() {
            // In userspace mode nothing of the host is lent, and no socket is marked.
            return OutsideNames::of_host();
        }
        OutsideNames::beside(self.lent.subscribe(), self.handles.previous.clone(), Some(FWMARK))
    }

    /// Lent from the wish on until it was given back; never where another manager keeps its own.
    fn note_lease(&self) {
        let status = self.handles.status.borrow();
        let lent = match &*status {
            HostDnsStatus::NamesOnly { .. } => false,
            HostDnsStatus::Off => self.desired.borrow().is_some(),
            HostDnsStatus::Active { .. } | HostDnsStatus::Waiting { .. } | HostDnsStatus::Failed { .. } => {
                true
            }
        };
        self.lent.send_if_modified(|now| std::mem::replace(now, lent) != lent);
    }

    pub(super) fn set_map(&self, map: &NetworkMap) {
        self.names.set_map(map, self.scope);
    }

    /// How much of `map` is answered from now on.
    fn set_scope(&mut self, scope: Scope, map: &NetworkMap) {
        if std::mem::replace(&mut self.scope, scope) != scope {
            self.set_map(map);
        }
    }

    /// The networks that are answered names.
    pub(super) const fn lan(&self) -> &LanServer {
        &self.lan
    }

    /// Whether names work as far as they do by themselves: `up` waits for it.
    pub(super) fn is_settled(&self) -> bool {
        let coming = |s: &HostDnsStatus| {
            matches!(s, HostDnsStatus::Off | HostDnsStatus::Waiting { lasting: false, .. })
        };
        self.desired.borrow().is_none() || !coming(&self.handles.status.borrow())
    }

    pub(super) fn mode(&self) -> String {
        match &*self.handles.status.borrow() {
            HostDnsStatus::Active { through, .. } => (*through).to_owned(),
            HostDnsStatus::NamesOnly { .. } => "names only".to_owned(),
            HostDnsStatus::Off | HostDnsStatus::Waiting { .. } | HostDnsStatus::Failed { .. } => {
                "off".to_owned()
            }
        }
    }

    pub(super) fn problem(&self) -> String {
        if !self.problem.is_empty() {
            return self.problem.clone();
        }
        match &*self.handles.status.borrow() {
            HostDnsStatus::NamesOnly { why }
            | HostDnsStatus::Waiting { why, .. }
            | HostDnsStatus::Failed { why } => why.clone(),
            HostDnsStatus::Off | HostDnsStatus::Active { .. } => String::new(),
        }
    }

    pub(super) fn upstreams(&self) -> Vec<String> {
        self.names.upstreams().iter().map(|u| u.addr.to_string()).collect()
    }

    /// Gives the host's DNS back, then stops answering.
    pub(super) async fn take_down(&mut self) {
        self.desired.send_replace(None);
        let off = self.handles.status.wait_for(|s| *s == HostDnsStatus::Off);
        if tokio::time::timeout(RELEASE_LIMIT, off).await.is_err() {
            tracing::error!("the host's DNS was not given back in time; `meshd cleanup` tries again");
        }
        self.note_lease();
        self.lan.close().await;
        for server in [self.server.take(), self.exit_server.take()].into_iter().flatten() {
            server.shutdown().await;
        }
        self.exit = None;
        self.exit_missing = false;
        self.problem.clear();
    }

    /// Ends the lease and its supervisor.
    pub(super) async fn stop(mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
        if let Some(Err(error)) = self.supervisor.map(Supervisor::finish) {
            tracing::warn!(%error, "the DNS supervisor did not end");
        }
    }

    fn set_upstreams(&self) {
        let upstreams = match &self.exit {
            // Through the mesh, so unmarked.
            // Blocked as the rest of the traffic is: a question that leaves beside the exit is a leak.
            _ if self.exit_missing => Vec::new(),
            Some(exit) => vec![Upstream { addr: SocketAddr::new(exit.v4.into(), 53), mark: None }],
            None => {
                let previous = self.handles.previous.borrow();
                previous.iter().map(|addr| Upstream { addr: *addr, mark: Some(FWMARK) }).collect()
            }
        };
        self.names.set_upstreams(upstreams);
    }

    fn listen(&mut self, me: &SelfNode) {
        if self.server.is_none() {
            let listeners: Vec<Listener> = me.prefixes.resolver().iter().map(Listener::own).collect();
            match DnsServer::spawn(&listeners, Arc::clone(&self.names)) {
                Ok(server) => {
                    self.server = Some(server);
                    self.problem.clear();
                }
                Err(error) => {
                    tracing::warn!(%error, "names are not answered");
                    self.problem = error.to_string();
                }
            }
        }
    }

    /// An exit node forwards its clients' questions, so that they do not ask the network they sit in.
    fn listen_as_exit(&mut self, me: &SelfNode, interface: &str) {
        let is_exit = me.approved_routes.iter().any(meshd_proto::Prefix::is_default);
        if !is_exit {
            self.exit_server = None;
        } else if self.exit_server.is_none() {
            let mesh = vec![IpNet::V4(me.prefixes.v4), IpNet::V6(me.prefixes.v6)];
            let listener = |ip| Listener {
                addr: SocketAddr::new(ip, 53),
                device: Some(interface.to_owned()),
                audience: Audience::Guests(mesh.clone()),
            };
            let listeners: Vec<Listener> = me.addrs.iter().map(listener).collect();
            match DnsServer::spawn(&listeners, Arc::clone(&self.names)) {
                Ok(server) => self.exit_server = Some(server),
                Err(error) => tracing::warn!(%error, "names are not answered for users of this exit node"),
            }
        }
    }
}

impl Daemon {
    /// Answers names on the resolver's addresses, and lends the host's DNS. `exit_up`: traffic goes through
    /// the chosen exit; else it was let out beside it, or there is none.
    pub(super) fn apply_dns(&mut self, exit_up: bool) {
        let Some(running) = &self.running else { return };
        if running.service.is_some() {
            // Nothing of the host asks us: the proxies and streams do, and they have the same names.
            return;
        }
        let map = &running.map;
        let (Some(me), Some(config)) = (&map.me, &map.dns.config) else { return };
        let names = &mut self.names;
        names.listen(me);
        names.listen_as_exit(me, self.config.interface.as_str());
        let exit = super::apply::exit_node(&self.intent.settings, map);
        // Questions go the way that the traffic goes.
        names.exit = exit.filter(|_| exit_up).and_then(|id| map.peers.get(&id)).map(|p| p.addrs);
        let settings = &self.intent.settings;
        names.set_scope(settings.dns.scope(), map);
        names.exit_missing = settings.exit_node.is_some() && names.exit.is_none() && !settings.exit_fallback;
        names.set_upstreams();
        let wanted = self.intent.settings.accept_dns && names.server.is_some();
        let desired = match (wanted, ifindex(self.config.interface.as_str())) {
            (true, Some(ifindex)) => config.domain.child(&me.name).ok().map(|own_name| DnsDesired {
                interface: self.config.interface.to_string(),
                ifindex,
                resolver: me.prefixes.resolver(),
                search: names.names.view().search().to_vec(),
                routing: names.names.view().routing(),
                everything: exit.is_some() || (names.scope == Scope::Full && !config.nameservers.is_empty()),
                probe: (own_name, me.addrs.v4),
            }),
            _ => None,
        };
        if desired.is_some() && names.desired.borrow().is_none() {
            names.lent.send_replace(true);
        }
        names.desired.send_if_modified(|now| {
            let modified = *now != desired;
            *now = desired;
            modified
        });
    }
}

impl Daemon {
    /// Answers names on the networks that the user opened.
    pub(super) async fn apply_lan_names(&mut self) {
        let Some(running) = &self.running else { return };
        if running.service.is_none() && running.map.me.is_some() {
            let names = Arc::clone(&self.names.names);
            self.names.lan.follow(&self.intent.settings.dns_lan, &names).await;
        }
    }
}

/// The number of an interface in this network namespace.
fn ifindex(name: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
}

fn supervisor(state_dir: &Path, lease: &str) -> std::io::Result<Supervisor> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SUPERVISE_COMMAND).arg(state_dir).arg(lease);
    Supervisor::spawn(command)
}

/// What the supervisor process does: waits until the daemon is gone, gives the host's DNS back.
///
/// # Errors
/// When it could not be given back.
pub fn supervise_dns(state_dir: &Path, lease: &str) -> Result<(), host_dns::RestoreError> {
    host_dns::supervise(state_dir, lease, std::io::stdin()).map(drop)
}
