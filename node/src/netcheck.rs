//! What kind of network this host is in: asked anew, by a socket of its own, whenever a person wants to know.
//!
//! The filtering of a NAT is found out first (RFC 5780 §4.4: an answer from a port that nothing was sent
//! to), since asking the second port opens it; then the mapping, from what each server and port sees.

use crate::{clock, udp};
use meshd_engine::nat::Mapping;
use meshd_proto::Endpoint;
use meshd_proto::stun::{Binding, TransactionId, encode_change_port_request, encode_request};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::net::UdpSocket;

/// Tries of each question, and the pause between them.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);

/// One family's result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// By server endpoint: what it saw.
    pub(crate) seen: BTreeMap<Endpoint, Endpoint>,
    /// An answer came from a port that was not asked.
    pub(crate) open: bool,
    /// Whether servers with two ports were asked for that.
    pub(crate) asked_open: bool,
    /// Our own port on this socket, to tell a NAT from none.
    pub(crate) local: Vec<IpAddr>,
}

impl Checked {
    /// How the NAT maps, in a word.
    pub(crate) fn mapping(&self) -> &'static str {
        let seen: Vec<Endpoint> = self.seen.values().copied().collect();
        match Mapping::of_sightings(&seen) {
            Mapping::Independent if seen.iter().all(|e| self.local.contains(&e.0.ip())) => "none",
            other => other.as_str(),
        }
    }

    /// How it filters, in a word or two.
    pub(crate) const fn filtering(&self) -> &'static str {
        match (self.open, self.asked_open) {
            (true, _) => "not by port",
            (false, true) => "by port",
            (false, false) => "unknown",
        }
    }

    /// How many different addresses answered.
    pub(crate) fn servers(&self) -> usize {
        self.seen.keys().map(|at| at.0.ip()).collect::<BTreeSet<_>>().len()
    }
}

/// Asks `servers` (address with the first port, second port or 0) of one family.
pub(crate) async fn check(v6: bool, servers: &[(Endpoint, u16)], local: Vec<IpAddr>) -> Checked {
    let mut checked = Checked { local, ..Checked::default() };
    let servers: Vec<_> = servers.iter().filter(|(at, _)| at.0.is_ipv6() == v6).copied().collect();
    if servers.is_empty() {
        return checked;
    }
    let bound = udp::bind_spare(v6).and_then(UdpSocket::from_std);
    let Ok(socket) = bound else { return checked };
    let with_two: Vec<Endpoint> = servers.iter().filter(|(_, port)| *port != 0).map(|(at, _)| *at).collect();
    let from_other = ask(&socket, &with_two, true).await;
    checked.open = !from_other.is_empty();
    let mut all: Vec<Endpoint> = servers.iter().map(|(at, _)| *at).collect();
    all.extend(servers.iter().filter(|(_, p)| *p != 0).map(|(at, p)| Endpoint((at.0.ip(), *p).into())));
    checked.seen = ask(&socket, &all, false).await;
    // Where nothing answers at all, silence says nothing about filtering.
    checked.asked_open = !with_two.is_empty() && with_two.iter().any(|at| checked.seen.contains_key(at));
    checked
}

/// Asks each server; what the answers say, by who was asked.
async fn ask(socket: &UdpSocket, servers: &[Endpoint], other_port: bool) -> BTreeMap<Endpoint, Endpoint> {
    let mut open: BTreeMap<TransactionId, Endpoint> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for _ in 0..TRIES {
        for server in servers.iter().filter(|s| !seen.contains_key(*s)) {
            let Ok(random) = clock::entropy() else { continue };
            let mut id = TransactionId([0; 12]);
            id.0.copy_from_slice(&random[..12]);
            open.insert(id, *server);
            let request = if other_port { encode_change_port_request(id) } else { encode_request(id) };
            // What cannot be sent stays without an answer.
            let _ = socket.send_to(&request, server.0).await;
        }
        let end = clock::timer_now() + PAUSE;
        let mut room = [0; 512];
        while seen.len() < servers.len() {
            let Ok(Ok((len, from))) = tokio::time::timeout_at(end, socket.recv_from(&mut room)).await else {
                break;
            };
            let Ok(Binding::Success { id, mapped }) = Binding::parse(&room[..len]) else { continue };
            let Some(server) = open.get(&id) else { continue };
            let from = Endpoint::canonical(from);
            let fits = if other_port { from.0.ip() == server.0.ip() } else { from == *server };
            if fits && (!other_port || from.0.port() != server.0.port()) {
                seen.insert(*server, Endpoint::canonical(mapped.0));
            }
        }
        if seen.len() == servers.len() {
            break;
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        Endpoint(text.parse().unwrap())
    }

    #[test]
    fn a_verdict_needs_two_views_and_names_what_was_not_asked() {
        let mut checked = Checked::default();
        assert_eq!((checked.mapping(), checked.filtering()), ("unknown", "unknown"));
        checked.seen.insert(endpoint("192.0.2.1:3478"), endpoint("203.0.113.7:9"));
        checked.seen.insert(endpoint("192.0.2.1:3479"), endpoint("203.0.113.7:9"));
        checked.asked_open = true;
        assert_eq!((checked.mapping(), checked.filtering()), ("endpoint-independent", "by port"));
        assert_eq!(checked.servers(), 1);
        checked.local = vec!["203.0.113.7".parse().unwrap()];
        assert_eq!(checked.mapping(), "none");
        checked.seen.insert(endpoint("192.0.2.2:3478"), endpoint("203.0.113.7:10"));
        assert_eq!((checked.mapping(), checked.servers()), ("endpoint-dependent", 2));
    }

    #[tokio::test]
    async fn a_server_on_this_machine_is_asked_at_both_ports() {
        let (one, two) =
            (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (first, second) = (one.local_addr().unwrap(), two.local_addr().unwrap().port());
        let serve = async {
            let (mut a, mut b) = ([0; 512], [0; 512]);
            loop {
                let (len, from, bytes, at_first) = tokio::select! {
                    got = one.recv_from(&mut a) => { let (l, f) = got.unwrap(); (l, f, a, true) }
                    got = two.recv_from(&mut b) => { let (l, f) = got.unwrap(); (l, f, b, false) }
                };
                let binding = Binding::parse(&bytes[..len]).unwrap();
                let change = matches!(binding, Binding::Request { change_port: true, .. });
                let answer = binding.answer(Endpoint(from)).unwrap();
                let by = if at_first == change { &two } else { &one };
                by.send_to(&answer, from).await.unwrap();
            }
        };
        let servers = [(Endpoint(first), second)];
        let checked = tokio::select! {
            checked = check(false, &servers, vec!["127.0.0.1".parse().unwrap()]) => checked,
            () = serve => unreachable!("serves forever"),
        };
        assert!(checked.open && checked.seen.len() == 2, "{checked:?}");
        assert_eq!((checked.mapping(), checked.filtering()), ("none", "not by port"));
    }
}
