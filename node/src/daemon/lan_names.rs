//! Names for networks this host is in, whose machines run nothing of ours.
//!
//! Nobody is answered there unless the user opened that interface; then by an own listener on each of its
//! addresses, bound to the device, with a list of who may ask and a rate.

use crate::os::links;
use crate::settings::LanNames;
use meshd_dns::server::{Audience, DnsServer, Lan, Listener, Names};
use std::net::SocketAddr;
use std::sync::Arc;

/// Where name servers listen.
const DNS_PORT: u16 = 53;

/// The listeners that are open now.
#[derive(Debug, Default)]
pub(super) struct LanServer {
    open: Option<(Vec<Listener>, DnsServer)>,
    /// What is wrong, or empty.
    problem: String,
}

impl LanServer {
    /// Opens what the settings say, on the addresses that the interfaces have now.
    pub(super) async fn follow(&mut self, settings: &LanNames, names: &Arc<Names>) {
        let (wanted, mut problem) = plan(settings).await;
        if self.open.as_ref().map_or(wanted.is_empty(), |(listeners, _)| *listeners == wanted) {
            // One that could not be opened before is tried again: then nothing is open.
            self.note(problem);
            return;
        }
        self.close().await;
        if !wanted.is_empty() {
            match DnsServer::spawn(&wanted, Arc::clone(names)) {
                Ok(server) => self.open = Some((wanted, server)),
                Err(error) => {
                    problem = format!(
                        "{error}; another name server may run there: stop it, or name another interface"
                    );
                }
            }
        }
        self.note(problem);
    }

    /// Where it listens.
    pub(super) fn addrs(&self) -> Vec<SocketAddr> {
        self.open.iter().flat_map(|(_, server)| server.addrs()).copied().collect()
    }

    pub(super) fn problem(&self) -> &str {
        &self.problem
    }

    pub(super) async fn close(&mut self) {
        if let Some((_, server)) = self.open.take() {
            server.shutdown().await;
        }
    }

    fn note(&mut self, problem: String) {
        if problem != self.problem {
            if !problem.is_empty() {
                tracing::warn!(problem, "a network does not get names");
            }
            self.problem = problem;
        }
    }
}

/// One listener for each address of each interface, and what stands in the way.
async fn plan(settings: &LanNames) -> (Vec<Listener>, String) {
    let (mut listeners, mut problem) = (Vec::new(), String::new());
    for interface in &settings.interfaces {
        let found = match links::addresses_of(interface).await {
            Ok(Some(found)) if !found.is_empty() => found,
            Ok(Some(_)) => {
                problem = format!("{interface} has no address yet");
                continue;
            }
            Ok(None) => {
                problem = format!("there is no interface {interface}");
                continue;
            }
            Err(error) => {
                problem = error.to_string();
                continue;
            }
        };
        let lan = Lan { allow: settings.allowed(&found), rate: settings.rate, sees_mesh: settings.sees_mesh };
        listeners.extend(found.iter().map(|net| Listener {
            addr: SocketAddr::new(net.addr(), DNS_PORT),
            device: Some(interface.clone()),
            audience: Audience::Lan(lan.clone()),
        }));
    }
    (listeners, problem)
}
