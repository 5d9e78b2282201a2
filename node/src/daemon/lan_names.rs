//! Names for networks this host is in, whose machines run nothing of ours.
//!
//! Nobody is answered there unless the user opened that interface; then by an own listener on each of its
//! addresses, bound to the device, with a list of who may ask and a rate.

use crate::os::links;
use crate::settings::LanNames;
use meshd_dns::server::{Audience, DnsServer, Lan, Listener, Names, SpawnError};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where name servers listen.
const DNS_PORT: u16 = 53;
/// How often an address that was ours until now is tried again, and how soon.
const REOPENINGS: usize = 40;
const REOPEN_AFTER: Duration = Duration::from_millis(25);

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
        let tries = if self.open.is_some() { REOPENINGS } else { 0 };
        self.close().await;
        if !wanted.is_empty() {
            match open(&wanted, names, tries).await {
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

/// Opens the listeners. Where they were open a moment ago, a program that the daemon is just starting (`nft`) still
/// holds copies of the old sockets until its exec, and for so long the kernel calls the address in use.
async fn open(wanted: &[Listener], names: &Arc<Names>, tries: usize) -> Result<DnsServer, SpawnError> {
    for _ in 0..tries {
        match DnsServer::spawn(wanted, Arc::clone(names)) {
            Err(error) if error.source.kind() == ErrorKind::AddrInUse => {
                tokio::time::sleep(REOPEN_AFTER).await;
            }
            done => return done,
        }
    }
    DnsServer::spawn(wanted, Arc::clone(names))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_held_a_moment_longer_is_opened_again_and_one_that_stays_taken_is_told() {
        let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = held.local_addr().unwrap();
        let listeners = [Listener { addr, ..Listener::own(addr.ip()) }];
        let names = Arc::new(Names::default());
        let error = open(&listeners, &names, 2).await.unwrap_err();
        assert_eq!(error.source.kind(), ErrorKind::AddrInUse);
        let let_go = async {
            tokio::time::sleep(REOPEN_AFTER * 3).await;
            drop(held);
        };
        let (opened, ()) = tokio::join!(open(&listeners, &names, REOPENINGS), let_go);
        opened.unwrap().shutdown().await;
    }
}
