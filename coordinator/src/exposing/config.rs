//! The configuration of an exit's gateway: listeners, names and ports, and nothing that is secret.

use super::Grant;
use crate::model::Model;
use meshd_proto::DnsName;
use meshd_proto::expose::{ClaimKind, PLAIN_PORT, WEB_PORT};
use meshd_proto::gateway::{
    Backend, BackendProtocol, Balance, Filter, GatewayConfig, Listener, ListenerLimits, ListenerProtocol,
    Match, Network, PathMatch, Redirect, Route, Rule, ServiceEndpoint, Timeouts, WeightedBackend,
};
use std::collections::BTreeMap;

/// Where an authority asks (RFC 8555 §8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge";

/// What an exit with these grants serves.
pub(super) fn of<'a>(model: &Model, grants: impl Iterator<Item = &'a Grant>) -> GatewayConfig {
    let mut out = Draft::default();
    for grant in grants {
        let Some(node) = model.nodes.get(&grant.node) else { continue };
        let address = node.addrs.v4.into();
        let claim = &grant.claim;
        let target = match claim.kind {
            // A datagram is passed on as it came, without the client's address in front of it.
            ClaimKind::Udp => {
                let name = out.backend(&format!("{}-{}-udp", node.name, claim.target), address, claim.target);
                out.backends.entry(name.clone()).and_modify(|b| b.send_proxy = false);
                name
            }
            _ => out.backend(&format!("{}-{}", node.name, claim.target), address, claim.target),
        };
        match (claim.kind, &claim.name) {
            (ClaimKind::Web, Some(name)) => {
                out.listen("tls", WEB_PORT, ListenerProtocol::Tls);
                out.listen("plain", PLAIN_PORT, ListenerProtocol::Http);
                out.lead(name.to_string(), "tls", name, vec![rule(&target)]);
                let mut rules = Vec::new();
                if claim.plain_target != 0 {
                    let plain = format!("{}-{}", node.name, claim.plain_target);
                    let plain = out.backend(&plain, address, claim.plain_target);
                    let path = Some(PathMatch::Prefix(CHALLENGES.to_owned()));
                    rules.push(Rule { matches: vec![Match { path, ..Match::default() }], ..rule(&plain) });
                }
                rules.push(to_https());
                out.lead(format!("{name} plain"), "plain", name, rules);
            }
            (kind, _) => {
                let transport = kind.transport();
                let protocol = match kind {
                    ClaimKind::Udp => ListenerProtocol::Udp,
                    ClaimKind::Web | ClaimKind::Tcp => ListenerProtocol::Tcp,
                };
                let name = format!("{transport}-{}", grant.port);
                out.listen(&name, grant.port, protocol);
                out.routes.push(Route {
                    name: name.clone(),
                    listeners: vec![name],
                    hostnames: Vec::new(),
                    rules: vec![rule(&target)],
                });
            }
        }
    }
    GatewayConfig {
        version: meshd_proto::gateway::FORMAT,
        // Whoever serves it counts: the same grants are the same configuration.
        generation: 1,
        listeners: out.listeners.into_values().collect(),
        routes: out.routes,
        backends: out.backends.into_values().collect(),
        certificates: Vec::new(),
        acme: None,
    }
}

#[derive(Default)]
struct Draft {
    listeners: BTreeMap<String, Listener>,
    routes: Vec<Route>,
    backends: BTreeMap<String, Backend>,
}

impl Draft {
    fn listen(&mut self, name: &str, port: u16, protocol: ListenerProtocol) {
        self.listeners.entry(name.to_owned()).or_insert_with(|| Listener {
            name: name.to_owned(),
            address: None,
            port,
            protocol,
            hostnames: Vec::new(),
            tls: None,
            proxy_from: Vec::new(),
            trusted_proxies: Vec::new(),
            limits: ListenerLimits::default(),
        });
    }

    fn backend(&mut self, name: &str, address: std::net::IpAddr, port: u16) -> String {
        self.backends.entry(name.to_owned()).or_insert_with(|| Backend {
            name: name.to_owned(),
            protocol: BackendProtocol::Http1,
            endpoints: vec![ServiceEndpoint {
                address,
                port,
                network: Network::Mesh,
                weight: 1,
                ready: true,
            }],
            balance: Balance::RoundRobin,
            tls: None,
            send_proxy: true,
            health: None,
            connect_timeout_ms: 10_000,
            idle_connections: 0,
        });
        name.to_owned()
    }

    fn lead(&mut self, name: String, listener: &str, host: &DnsName, rules: Vec<Rule>) {
        let hostnames = vec![host.clone()];
        self.routes.push(Route { name, listeners: vec![listener.to_owned()], hostnames, rules });
    }
}

fn rule(backend: &str) -> Rule {
    Rule {
        matches: Vec::new(),
        filters: Vec::new(),
        backends: vec![WeightedBackend { backend: backend.to_owned(), weight: 1 }],
        timeouts: Timeouts::default(),
        retries: 2,
    }
}

fn to_https() -> Rule {
    let redirect = Redirect { scheme: Some("https".to_owned()), status: 301, ..Redirect::default() };
    Rule { filters: vec![Filter::Redirect(redirect)], backends: Vec::new(), ..rule("") }
}
