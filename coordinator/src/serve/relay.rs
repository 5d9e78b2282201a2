//! The embedded relay and STUN, and who may no longer use it.

use super::ServeOptions;
use super::outside::Outside;
use crate::clock;
use crate::model::Model;
use crate::service::{EMBEDDED_RELAY, Service};
use anyhow::{Context, Result};
use meshd_proto::NodeKey;
use meshd_proto::netmap::Relay;
use meshd_relay::server::RelayControl;
use meshd_relay::{RelayConfig, RelayHandle, RelayLimits};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Expiry of keys is not a change of the model: it is looked at this often.
const RECHECK: Duration = Duration::from_secs(1);

/// A running relay.
pub(super) struct Running {
    pub(super) handle: RelayHandle,
    /// As nodes learn of it.
    pub(super) record: Relay,
    /// UDP ports to open.
    pub(super) ports: (u16, Option<u16>),
}

pub(super) fn start(
    options: &ServeOptions,
    service: &Service,
    outside: &Outside,
    tcp_port: u16,
) -> Result<Option<Running>> {
    if options.no_relay {
        return Ok(None);
    }
    let keys = service.keys();
    let any = |port| [SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), (Ipv6Addr::UNSPECIFIED, port).into()];
    let (port, alt_port) = (options.relay_port(), options.stun_port());
    let handle = RelayHandle::spawn(RelayConfig {
        listen: any(port).to_vec(),
        alt_port,
        key: keys.relay.clone(),
        network: service.model().network,
        permit_keys: vec![keys.signing.verifying_key()],
        limits: RelayLimits::default(),
    })
    .context("the embedded relay cannot start (--relay-port and --stun-port choose ports, --no-relay does without)")?;
    let record = Relay {
        id: EMBEDDED_RELAY,
        name: service.model().mesh.name.to_string(),
        key: handle.public_key(),
        hosts: outside.hosts.clone(),
        udp_port: port,
        alt_udp_port: alt_port.unwrap_or(0),
        // By TCP on the coordinator's own port, as it is reached from outside.
        tls_port: outside.first_port().unwrap_or(tcp_port),
    };
    Ok(Some(Running { handle, record, ports: (port, alt_port) }))
}

/// Keeps the relay to those who are in the mesh: a key that leaves it is cut off at once, whatever
/// permit it holds.
pub(super) async fn follow(relay: RelayControl, service: Arc<Service>, stop: CancellationToken) {
    let mut published = service.subscribe();
    let mut live = keys(&published.borrow_and_update().model);
    // Permits outlive a restart, revocations do not: who is a member is said, not only who left.
    relay.set_members(live.clone()).await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = published.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RECHECK) => {}
        }
        let now = keys(&published.borrow_and_update().model);
        for gone in live.difference(&now) {
            relay.revoke(*gone).await;
        }
        for back in now.difference(&live) {
            relay.reinstate(*back).await;
        }
        live = now;
    }
}

fn keys(model: &Model) -> BTreeSet<NodeKey> {
    let now = clock::unix_now();
    model.nodes.values().filter(|n| n.is_live(now)).map(|n| n.node_key).collect()
}
