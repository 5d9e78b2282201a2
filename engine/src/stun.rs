//! Our outside endpoints, as the relays' STUN servers see them. A client without sockets or clock.
//!
//! An answer counts only from the server that was asked and with the transaction id it was asked with.

use crate::entropy::Entropy;
use crate::nat::Mapping;
use meshd_proto::stun::{Binding, TransactionId, encode_request};
use meshd_proto::{Endpoint, RelayId};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Between rounds while there is traffic: below the 30 s of impatient NATs.
pub(crate) const EVERY: Duration = Duration::from_secs(25);
/// Before a request is repeated.
const RETRY: Duration = Duration::from_millis(500);
/// Requests per server and round (RFC 8489 §6.2.1 sends more; the next round is never far).
const REQUESTS: u32 = 3;
/// A mapping that was not confirmed for this long is forgotten.
const KEEP: Duration = Duration::from_secs(300);
/// Addresses per relay that are asked.
const MAX_ADDRESSES: usize = 4;

/// The client.
#[derive(Debug, Default)]
pub(crate) struct Stun {
    servers: BTreeMap<Endpoint, Server>,
    open: HashMap<TransactionId, Endpoint>,
    round: Option<Instant>,
    /// Of IPv4 and IPv6.
    mappings: [Mapping; 2],
}

#[derive(Debug)]
struct Server {
    relay: RelayId,
    /// The relay's second port: it tells about the NAT, and nothing else.
    second: bool,
    /// Requests left in this round, and when the next one is due.
    pending: Option<(u32, Instant)>,
    sent: HashMap<TransactionId, Instant>,
    mapped: Option<(Endpoint, Instant)>,
    rtt: Option<Duration>,
}

impl Stun {
    /// The addresses of `relay` are these from now on; on its second port it answers STUN, too (0: none).
    pub(crate) fn set_relay(&mut self, relay: RelayId, addrs: &[Endpoint], second_port: u16, now: Instant) {
        let addrs = addrs[..addrs.len().min(MAX_ADDRESSES)].iter().map(|a| (*a, false));
        let all: BTreeMap<Endpoint, bool> = addrs
            .flat_map(|(addr, _)| {
                let second = Endpoint((addr.0.ip(), second_port).into());
                [(addr, false), (second, true)]
            })
            .filter(|(addr, _)| addr.is_sendable())
            .collect();
        self.servers.retain(|at, s| s.relay != relay || all.contains_key(at));
        self.open.retain(|_, at| self.servers.contains_key(at));
        for (addr, second) in all {
            self.servers.entry(addr).or_insert_with(|| Server {
                relay,
                second,
                pending: Some((REQUESTS, now)),
                sent: HashMap::new(),
                mapped: None,
                rtt: None,
            });
        }
    }

    /// Only these relays are left.
    pub(crate) fn retain(&mut self, keep: impl Fn(RelayId) -> bool) {
        self.servers.retain(|_, s| keep(s.relay));
        self.open.retain(|_, at| self.servers.contains_key(at));
    }

    /// Begins a round, unless one began a moment ago.
    pub(crate) fn start(&mut self, now: Instant) {
        if self.round.is_some_and(|at| now.saturating_duration_since(at) < RETRY) {
            return;
        }
        self.round = Some(now);
        self.servers.values_mut().for_each(|s| s.pending = Some((REQUESTS, now)));
    }

    /// Begins a round if the last one is older than [`EVERY`].
    pub(crate) fn refresh(&mut self, now: Instant) {
        if self.round.is_none_or(|at| now.saturating_duration_since(at) >= EVERY) {
            self.start(now);
        }
    }

    /// The requests that are due.
    pub(crate) fn poll(&mut self, entropy: &mut Entropy, now: Instant) -> Vec<(Endpoint, Vec<u8>)> {
        let mut out = Vec::new();
        for (at, server) in &mut self.servers {
            match server.pending {
                Some((0, due)) if due <= now => {
                    server.pending = None;
                    server.sent.clear();
                    self.open.retain(|_, asked| asked != at);
                }
                Some((left, due)) if due <= now => {
                    let id = TransactionId(entropy.bytes());
                    server.sent.insert(id, now);
                    self.open.insert(id, *at);
                    server.pending = Some((left - 1, now + RETRY));
                    out.push((*at, encode_request(id).to_vec()));
                }
                Some(_) | None => {}
            }
            if server.mapped.is_some_and(|(_, seen)| now.saturating_duration_since(seen) > KEEP) {
                server.mapped = None;
            }
        }
        out
    }

    /// When [`Self::poll`] is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.servers.values().filter_map(|s| s.pending).map(|(_, due)| due).min()
    }

    /// An answer. Returns whether our endpoints may have changed.
    pub(crate) fn handle(&mut self, from: Endpoint, datagram: &[u8], now: Instant) -> bool {
        let Ok(Binding::Success { id, mapped }) = Binding::parse(datagram) else { return false };
        if self.open.get(&id) != Some(&from) {
            return false;
        }
        let Some(server) = self.servers.get_mut(&from) else { return false };
        let Some(sent) = server.sent.get(&id).copied() else { return false };
        server.sent.clear();
        self.open.retain(|_, asked| *asked != from);
        server.pending = None;
        let rtt = now.saturating_duration_since(sent);
        server.rtt = Some(server.rtt.map_or(rtt, |old| (old * 3 + rtt) / 4));
        let endpoint = Endpoint::canonical(mapped.0);
        let changed = server.mapped.is_none_or(|(old, _)| old != endpoint);
        server.mapped = Some((endpoint, now));
        let changed = changed && !server.second;
        let before = self.mappings;
        self.classify(endpoint.0.is_ipv6());
        changed || self.mappings != before
    }

    /// Compares what the servers saw in this round.
    fn classify(&mut self, v6: bool) {
        let seen: Vec<Endpoint> = self
            .servers
            .iter()
            .filter(|(at, _)| at.0.is_ipv6() == v6)
            .filter_map(|(_, s)| s.mapped)
            .filter(|(_, at)| self.round.is_none_or(|round| *at >= round))
            .map(|(endpoint, _)| endpoint)
            .collect();
        let found = Mapping::of_sightings(&seen);
        if found != Mapping::Unknown {
            self.mappings[usize::from(v6)] = found;
        }
    }

    /// How the NAT in front of us maps, as far as that is known.
    pub(crate) fn mapping(&self, v6: bool) -> Mapping {
        self.mappings[usize::from(v6)]
    }

    /// Our IPv4 endpoint as the first relay sees it.
    pub(crate) fn mapped_v4(&self) -> Option<Endpoint> {
        self.mapped().into_iter().find(|e| e.0.is_ipv4())
    }

    /// Our outside endpoints, without repetition.
    pub(crate) fn mapped(&self) -> Vec<Endpoint> {
        let first = self.servers.values().filter(|s| !s.second);
        let mut all: Vec<_> = first.filter_map(|s| s.mapped).map(|(e, _)| e).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The round-trip time of a relay's fastest address, and what it sees.
    pub(crate) fn relay(&self, relay: RelayId) -> (Option<Duration>, Vec<Endpoint>) {
        let of = || self.servers.values().filter(move |s| s.relay == relay);
        (of().filter_map(|s| s.rtt).min(), of().filter_map(|s| s.mapped).map(|(e, _)| e).collect())
    }

    /// All servers' addresses.
    pub(crate) fn servers(&self) -> Vec<Endpoint> {
        self.servers.keys().copied().collect()
    }

    /// Forgets what was mapped: the link changed.
    pub(crate) fn forget(&mut self) {
        self.servers.values_mut().for_each(|s| s.mapped = None);
        self.mappings = [Mapping::Unknown; 2];
    }
}

#[cfg(test)]
mod tests;
