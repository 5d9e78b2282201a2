//! What is tried, in which order.

use meshd_relay::stream::upgrade::Form;
use std::net::SocketAddr;

/// How a connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// Inside TLS.
    pub tls: bool,
    /// What is asked for.
    pub form: Form,
}

/// Straight to an address, cheapest first: a plain upgrade is one round trip less than TLS, and WebSocket
/// costs a little for each message.
const DIRECT: [Way; 4] = [
    Way { tls: false, form: Form::Upgrade },
    Way { tls: true, form: Form::Upgrade },
    Way { tls: true, form: Form::WebSocket },
    Way { tls: false, form: Form::WebSocket },
];
/// Through a proxy's CONNECT: what it expects there is TLS.
const PROXIED: [Way; 4] = [
    Way { tls: true, form: Form::Upgrade },
    Way { tls: true, form: Form::WebSocket },
    Way { tls: false, form: Form::Upgrade },
    Way { tls: false, form: Form::WebSocket },
];

/// Whom to reach: an address, or a name that a proxy resolves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    name: String,
    address: Option<SocketAddr>,
}

impl Target {
    /// `name` (`host:port`) at one of its addresses.
    pub fn direct(name: &str, address: SocketAddr) -> Self {
        Self { name: name.to_owned(), address: Some(address) }
    }

    /// `name` by way of the proxy.
    pub fn through_proxy(name: &str) -> Self {
        Self { name: name.to_owned(), address: None }
    }

    /// The `host:port`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host alone, for TLS.
    pub fn host(&self) -> &str {
        let host = self.name.rsplit_once(':').map_or(self.name.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Where to connect; `None`: to the proxy.
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Whether a proxy leads there.
    pub const fn is_through_proxy(&self) -> bool {
        self.address.is_none()
    }
}

impl Way {
    /// For a person: where, and how.
    pub fn describe(&self, target: &Target) -> String {
        let proxied = if target.is_through_proxy() { " through the proxy" } else { "" };
        let tls = if self.tls { " over TLS" } else { "" };
        let form = if self.form == Form::WebSocket { " as WebSocket" } else { "" };
        let at = target.address.map_or_else(|| target.name.clone(), |a| a.to_string());
        format!("{at}{proxied}{tls}{form}")
    }
}

/// All attempts in order: what worked last, then each way for all targets before the next way.
pub(super) fn attempts(targets: Vec<Target>, worked: Option<&(Target, Way)>) -> Vec<(Target, Way)> {
    let mut all: Vec<(Target, Way)> = Vec::new();
    if let Some((target, way)) = worked {
        // Its address may be another one by now.
        let again = targets.iter().find(|t| *t == target).or_else(|| {
            let alike =
                |t: &&Target| t.name == target.name && t.is_through_proxy() == target.is_through_proxy();
            targets.iter().find(alike)
        });
        all.extend(again.map(|t| (t.clone(), *way)));
    }
    for rank in 0..DIRECT.len() {
        for target in &targets {
            let way = if target.is_through_proxy() { PROXIED[rank] } else { DIRECT[rank] };
            if all.first() != Some(&(target.clone(), way)) {
                all.push((target.clone(), way));
            }
        }
    }
    all
}
