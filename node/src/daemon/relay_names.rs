//! The addresses behind the relays' names: resolved beside the daemon's loop, again and again until each
//! relay has one.
//!
//! Invariants: only names of the newest map are asked for, and an answer about an older one is never told;
//! nothing is asked for once this value is gone.

use crate::outside_names::OutsideNames;
use meshd_proto::netmap::Relay;
use meshd_proto::{Endpoint, NetworkMap, RelayId};
use std::collections::HashMap;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};

/// How long to wait before a name is asked for again after a failure; doubles up to the second.
const RETRY: Retry = Retry { first: Duration::from_secs(2), last: Duration::from_secs(60) };

/// Pauses between tries, each twice as long as the one before.
#[derive(Clone, Copy)]
struct Retry {
    first: Duration,
    last: Duration,
}

/// Whose names are asked for.
pub(super) struct RelayNames {
    names: OutsideNames,
    retry: Retry,
    sought: HashMap<RelayId, Sought>,
    tasks: JoinSet<(RelayId, Vec<Endpoint>)>,
}

/// A relay as it is in the newest map, and who looks for it. The look ends with this value.
struct Sought {
    hosts: Vec<String>,
    port: u16,
    look: AbortHandle,
}

impl Drop for Sought {
    fn drop(&mut self) {
        self.look.abort();
    }
}

impl RelayNames {
    pub(super) fn new(names: OutsideNames) -> Self {
        Self { names, retry: RETRY, sought: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Asks for the relays that are new or changed in `map`; for `all`, where their names may lead elsewhere
    /// by now.
    pub(super) fn follow(&mut self, map: &NetworkMap, all: bool) {
        let mut before = std::mem::take(&mut self.sought);
        for relay in map.relays.values() {
            let same = |s: &Sought| !all && s.hosts == relay.hosts && s.port == relay.udp_port;
            let sought = before.remove(&relay.id).filter(same).unwrap_or_else(|| self.look_for(relay));
            self.sought.insert(relay.id, sought);
        }
    }

    /// The next relay that has addresses. Never returns while there is none; may be cancelled.
    pub(super) async fn next(&mut self) -> (RelayId, Vec<Endpoint>) {
        while let Some(done) = self.tasks.join_next_with_id().await {
            // What had ended before it could be stopped is of an older map.
            if let Ok((look, (relay, addrs))) = done
                && self.sought.get(&relay).is_some_and(|s| s.look.id() == look)
            {
                return (relay, addrs);
            }
        }
        std::future::pending().await
    }

    fn look_for(&mut self, relay: &Relay) -> Sought {
        let (hosts, port) = (relay.hosts.clone(), relay.udp_port);
        let look = resolve(self.names.clone(), relay.id, hosts.clone(), port, self.retry);
        Sought { hosts, port, look: self.tasks.spawn(look) }
    }
}

/// Asks for the names of a relay until one has an address.
async fn resolve(
    names: OutsideNames,
    relay: RelayId,
    hosts: Vec<String>,
    port: u16,
    retry: Retry,
) -> (RelayId, Vec<Endpoint>) {
    let mut pause = retry.first;
    loop {
        let mut addrs = Vec::new();
        for host in &hosts {
            match names.lookup(host).await {
                Ok(list) => addrs.extend(list.into_iter().map(|ip| Endpoint::canonical((ip, port).into()))),
                Err(error) => tracing::debug!(%relay, host, %error, "a relay's name does not resolve"),
            }
        }
        if !addrs.is_empty() {
            return (relay, addrs);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(retry.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_proto::{NetworkId, NodeKey};
    use std::path::Path;
    use tokio::sync::watch;
    use tokio::time::timeout;

    /// Long enough for many tries of a test's names.
    const A_WHILE: Duration = Duration::from_millis(100);
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Knows what `hosts` says and asks nobody.
    fn relay_names(hosts: &Path) -> RelayNames {
        let (lent, previous) = (watch::channel(true).1, watch::channel(Vec::new()).1);
        let names = OutsideNames::beside(lent, previous, None).with_hosts(hosts.to_owned());
        let retry = Retry { first: Duration::from_millis(1), last: Duration::from_millis(20) };
        RelayNames { retry, ..RelayNames::new(names) }
    }

    fn map(relays: &[(u32, &[&str])]) -> NetworkMap {
        let mut map = NetworkMap::empty(NetworkId::from_bytes([7; 16]));
        for (id, hosts) in relays {
            let relay = Relay {
                id: RelayId(*id),
                name: id.to_string(),
                key: NodeKey::from_bytes([1; 32]),
                hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
                udp_port: 3478,
                alt_udp_port: 0,
                tls_port: 0,
            };
            map.relays.insert(relay.id, relay);
        }
        map
    }

    fn at(ip: [u8; 4]) -> Vec<Endpoint> {
        vec![Endpoint((ip, 3478).into())]
    }

    #[tokio::test]
    async fn a_relays_name_is_asked_for_again_after_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        let mut names = relay_names(&hosts);
        names.follow(&map(&[(7, &["relay.example", "also.example"])]), false);
        assert!(timeout(A_WHILE, names.next()).await.is_err(), "nobody knows the name yet");
        std::fs::write(&hosts, "192.0.2.8 relay.example\n").unwrap();
        assert_eq!(timeout(PATIENCE, names.next()).await.unwrap(), (RelayId(7), at([192, 0, 2, 8])));
    }

    #[tokio::test]
    async fn a_name_that_the_map_no_longer_has_is_not_asked_for_and_no_answer_of_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        std::fs::write(&hosts, "192.0.2.1 ready.example\n").unwrap();
        let mut names = relay_names(&hosts);
        names
            .follow(&map(&[(1, &["ready.example"]), (2, &["moves.example"]), (3, &["goes.example"])]), false);
        // The first has its answer ready, which nobody has taken yet.
        tokio::time::sleep(A_WHILE).await;
        let newest = map(&[(1, &["also-moves.example"]), (2, &["moved.example"])]);
        names.follow(&newest, false);
        let all = "192.0.2.1 ready.example\n192.0.2.2 moves.example\n192.0.2.3 goes.example\n192.0.2.4 moved.example";
        std::fs::write(&hosts, all).unwrap();
        assert_eq!(timeout(PATIENCE, names.next()).await.unwrap(), (RelayId(2), at([192, 0, 2, 4])));
        assert!(timeout(A_WHILE, names.next()).await.is_err(), "an answer about an older map");
    }

    #[tokio::test]
    async fn what_is_known_is_asked_for_again_only_where_it_may_be_another() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        std::fs::write(&hosts, "192.0.2.1 relay.example\n").unwrap();
        let (mut names, map) = (relay_names(&hosts), map(&[(1, &["relay.example"])]));
        names.follow(&map, false);
        assert_eq!(timeout(PATIENCE, names.next()).await.unwrap(), (RelayId(1), at([192, 0, 2, 1])));
        std::fs::write(&hosts, "192.0.2.9 relay.example\n").unwrap();
        names.follow(&map, false);
        assert!(timeout(A_WHILE, names.next()).await.is_err(), "nothing changed");
        names.follow(&map, true);
        assert_eq!(timeout(PATIENCE, names.next()).await.unwrap(), (RelayId(1), at([192, 0, 2, 9])));
    }
}
