//! The gateway of this process: ports on the mesh addresses, and what is behind them.

use super::Me;
use super::wish::{Speaks, Wish};
use crate::cli;
use crate::output::CliError;
use meshd_gateway::GatewayConfig;
use meshd_proto::localapi::Exposed;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

/// Ports of the mesh addresses; 0: not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    /// Where TLS of a website arrives.
    pub(super) site: u16,
    /// Where challenges arrive.
    pub(super) plain: u16,
    /// Where everything else arrives.
    pub(super) stream: u16,
}

impl Ports {
    /// Free ports. In the mesh alone: the program's own where that is free.
    pub(super) fn choose(wish: &Wish, me: &Me, args: &cli::Expose) -> Result<Self, CliError> {
        let Some(first) = me.addrs.first().copied() else {
            return Err(CliError::new("this node has no mesh address", "see `meshd status`"));
        };
        let udp = wish.speaks == Speaks::Udp;
        let stream = match args.mesh_port {
            Some(port) => port,
            None if wish.is_public() => free(first, 0, udp)?,
            // 80 without a word, since a name alone is then enough in a browser.
            None => free(first, wish.target.port(), udp)
                .or_else(|_| free(first, 10_000 + wish.target.port() % 20_000, udp))
                .or_else(|_| free(first, 0, udp))?,
        };
        let by_name = matches!(wish.speaks, Speaks::Http | Speaks::Tls) && !wish.names().is_empty();
        let site = if by_name { free(first, 0, false)? } else { 0 };
        let challenges = wish.ends_tls() || wish.challenges.is_some();
        let plain = if by_name && challenges { free(first, 0, false)? } else { 0 };
        Ok(Self { site, plain, stream })
    }
}

fn free(address: IpAddr, port: u16, udp: bool) -> Result<u16, CliError> {
    let at = SocketAddr::new(address, port);
    let bound = if udp {
        UdpSocket::bind(at).and_then(|s| s.local_addr())
    } else {
        TcpListener::bind(at).and_then(|s| s.local_addr())
    };
    bound.map(|at| at.port()).map_err(|e| CliError::new(format!("cannot listen on {at}: {e}"), ""))
}

/// The mesh addresses of the exits that were assigned.
pub(super) fn exits(exposed: &Exposed) -> Vec<IpAddr> {
    let places = exposed.claims.iter().flat_map(|c| &c.places);
    let mut all: Vec<IpAddr> = places.flat_map(|p| &p.mesh).filter_map(|a| a.parse().ok()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The configuration. Connections from `exits` open with a PROXY header; from others that is refused data.
pub(super) fn build(
    wish: &Wish,
    ports: &Ports,
    me: &Me,
    args: &cli::Expose,
    exits: &[IpAddr],
) -> Result<GatewayConfig, CliError> {
    let from: Vec<String> =
        exits.iter().map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })).collect();
    let mut listeners = Vec::new();
    let mut routes = Vec::new();
    let mut backends = vec![backend("program", wish.target, args.proxy_header && wish.speaks != Speaks::Udp)];
    let mut listen = |name: &str, port: u16, mut listener: Value, route: Value| {
        if port == 0 {
            return;
        }
        for (i, address) in me.addrs.iter().enumerate() {
            let full = format!("{name}-{i}");
            listener["name"] = json!(full);
            listener["address"] = json!(address);
            listener["port"] = json!(port);
            if listener["protocol"] != "udp" {
                listener["proxy_from"] = json!(from);
            }
            listeners.push(listener.clone());
            routes.push(json!({ "name": full, "listeners": [full], "rules": [route] }));
        }
    };
    let to_program = json!({ "backends": [{ "backend": "program" }] });
    let to_https = json!({ "filters": [{ "type": "redirect", "scheme": "https", "status": 301 }] });
    let mut certificates = Vec::new();
    match wish.speaks {
        Speaks::Http if wish.ends_tls() => {
            let site = json!({ "protocol": "https", "tls": { "certificates": ["site"] } });
            listen("site", ports.site, site, to_program.clone());
            listen("plain", ports.plain, json!({ "protocol": "http" }), to_https);
            certificates.push(match (&args.cert, &args.key) {
                (Some(cert), Some(key)) => json!({ "name": "site", "chain_file": cert, "key_file": key }),
                _ => json!({ "name": "site", "acme": true, "hostnames": wish.names() }),
            });
        }
        Speaks::Tls => {
            listen("site", ports.site, json!({ "protocol": "tcp" }), to_program.clone());
            if let Some(challenges) = wish.challenges {
                backends.push(backend("challenges", challenges, false));
                let route = json!({ "backends": [{ "backend": "challenges" }] });
                listen("plain", ports.plain, json!({ "protocol": "http" }), route);
            }
        }
        Speaks::Http | Speaks::Tcp | Speaks::Udp => {}
    }
    let nameless = wish.public.is_empty() || wish.public.iter().any(|p| p.name.is_none());
    match wish.speaks {
        Speaks::Http if nameless => listen("http", ports.stream, json!({ "protocol": "http" }), to_program),
        Speaks::Tcp => listen("tcp", ports.stream, json!({ "protocol": "tcp" }), to_program),
        Speaks::Udp => listen("udp", ports.stream, json!({ "protocol": "udp" }), to_program),
        Speaks::Http | Speaks::Tls => {}
    }
    let mut config = json!({
        "generation": 1, "listeners": listeners, "routes": routes, "backends": backends,
        "certificates": certificates,
    });
    if wish.orders(args) {
        config["acme"] = json!({ "directory": args.acme });
        if let Some(ca) = &args.acme_ca {
            config["acme"]["ca_file"] = json!(ca);
        }
    }
    GatewayConfig::from_json(&config.to_string())
        .map_err(|e| CliError::new(format!("this cannot be exposed: {e}"), ""))
}

fn backend(name: &str, target: SocketAddr, proxy: bool) -> Value {
    json!({
        "name": name, "send_proxy": proxy,
        "endpoints": [{ "address": target.ip(), "port": target.port(), "network": "host" }],
    })
}
