//! A public exit: what the coordinator says is what is served, and nothing else.
//!
//! An exit is a node of the mesh inside this program. Its configuration is a section of its map: it comes
//! with every change, and from the disk when the coordinator is away. A port that another program has is
//! left out and told, so that its claim is refused with that reason while all others are served.
//!
//! Invariants: there is no dialer but the mesh's, so nothing that a client or a backend sends opens a
//! connection to anywhere else · a configuration with a key in it is refused.

use crate::mesh::MeshNode;
use crate::runtime::{ApplyError, Gateway};
use crate::tls::Issued;
use meshd_node::userspace::Node;
use meshd_proto::expose::{ExitOffer, Transport};
use meshd_proto::gateway::{GatewayConfig, ListenerProtocol};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// How often a port that another program had is tried again.
pub const RETRY: Duration = Duration::from_secs(10);

/// Follows the section of a node's map.
pub struct Exit {
    offer: ExitOffer,
    generation: u64,
    taken: BTreeSet<(Transport, u16)>,
}

impl Exit {
    /// An exit that offers this.
    pub fn new(offer: ExitOffer) -> Self {
        Self { offer, generation: 0, taken: BTreeSet::new() }
    }

    /// The mesh as the only network.
    pub fn dialers(node: &Node) -> crate::dial::Dialers {
        crate::dial::Dialers { host: None, mesh: Some(Arc::new(MeshNode::new(node))) }
    }

    /// Serves what the section says now. What is wrong with it is logged, and the one before stays in use.
    pub fn take(&mut self, node: &Node, gateway: &mut Gateway, issued: &dyn Issued, section: Option<&str>) {
        let config = match section.map(GatewayConfig::from_json) {
            None => GatewayConfig { version: meshd_proto::gateway::FORMAT, ..GatewayConfig::default() },
            Some(Ok(config)) if config.holds_keys() => {
                tracing::error!("the coordinator sent a configuration with keys: an exit takes none");
                return;
            }
            Some(Ok(config)) => config,
            Some(Err(error)) => {
                tracing::error!(
                    "the configuration in the map is refused: {error}; the one before stays in use"
                );
                return;
            }
        };
        let before = self.taken.clone();
        // Each round leaves one more port out.
        for _ in 0..=config.listeners.len() {
            self.generation += 1;
            let served = without(&config, &self.taken, self.generation);
            match gateway.apply(&served, issued) {
                Ok(()) => {
                    tracing::info!(
                        names = served.routes.iter().filter(|r| !r.hostnames.is_empty()).count(),
                        ports = served.listeners.len(),
                        "serving what the mesh publishes"
                    );
                    break;
                }
                Err(ApplyError::Listen { transport, port, what, source }) => {
                    tracing::warn!("cannot listen on {what}: {source}; the others are served");
                    self.taken.insert((transport, port));
                }
                Err(error) => {
                    tracing::error!("{error}; the one before stays in use");
                    break;
                }
            }
        }
        if self.taken != before {
            self.tell(node);
        }
    }

    /// Ports that are free again are offered again.
    pub fn retry(&mut self, node: &Node) {
        let before = self.taken.len();
        self.taken.retain(|(transport, port)| !is_free(*transport, *port));
        if self.taken.len() != before {
            self.tell(node);
        }
    }

    fn tell(&self, node: &Node) {
        node.offer_exit(ExitOffer { taken: self.taken.iter().copied().collect(), ..self.offer.clone() });
    }
}

/// The configuration without what listens on these ports.
fn without(config: &GatewayConfig, taken: &BTreeSet<(Transport, u16)>, generation: u64) -> GatewayConfig {
    let mut config = GatewayConfig { generation, ..config.clone() };
    let transport =
        |p: ListenerProtocol| if p == ListenerProtocol::Udp { Transport::Udp } else { Transport::Tcp };
    config.listeners.retain(|l| !taken.contains(&(transport(l.protocol), l.port)));
    let listens: BTreeSet<String> = config.listeners.iter().map(|l| l.name.clone()).collect();
    config.routes.retain(|route| route.listeners.iter().all(|l| listens.contains(l)));
    config
}

fn is_free(transport: Transport, port: u16) -> bool {
    let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, port).into();
    match transport {
        Transport::Tcp => TcpListener::bind(any).is_ok(),
        Transport::Udp => UdpSocket::bind(any).is_ok(),
    }
}

/// The addresses that this host uses towards the internet, one of each family. Sends nothing.
pub fn own_addresses() -> Vec<IpAddr> {
    let towards = ["192.0.2.1:9", "[2001:db8::1]:9"];
    let source = |to: &str| {
        let to: SocketAddr = to.parse().ok()?;
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    towards.iter().filter_map(|to| source(to)).filter(|ip| !ip.is_unspecified()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_program_has_is_left_out_with_its_routes_and_the_others_stay() {
        let config = GatewayConfig::from_json(
            r#"{"generation": 1, "listeners": [
                {"name": "tls", "port": 443, "protocol": "tls"},
                {"name": "udp-443", "port": 443, "protocol": "udp"}],
               "routes": [
                {"name": "a", "listeners": ["tls"], "rules": [{"backends": [{"backend": "b"}]}]},
                {"name": "u", "listeners": ["udp-443"], "rules": [{"backends": [{"backend": "b"}]}]}],
               "backends": [{"name": "b", "endpoints": [
                {"address": "100.64.0.9", "port": 1, "network": "mesh"}]}]}"#,
        )
        .unwrap();
        let rest = without(&config, &[(Transport::Tcp, 443)].into(), 7);
        assert_eq!(rest.generation, 7);
        assert_eq!(rest.listeners.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["udp-443"]);
        assert_eq!(rest.routes.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["u"]);
    }
}
