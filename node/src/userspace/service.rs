//! All that a node in userspace mode runs beside the engine, started and ended together.

use super::dial::{Dialer, Reach};
use super::exit_dns::ExitDns;
use super::forward::Forwarder;
use super::netstack::{Limits, Netstack, NetstackThread};
use super::ports::{PortForward, PortForwards};
use crate::data::Snapshot;
use crate::proxy::{Kind, Proxy, ProxyConfig};
use meshd_dns::Names;
use meshd_proto::localapi::{Counter, Failure, UserspaceStatus};
use meshd_proto::netmap::SelfNode;
use std::sync::Arc;

/// What userspace mode offers besides the mesh itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserspaceConfig {
    /// Proxies for programs of this machine.
    pub proxies: Vec<ProxyConfig>,
    /// Ports of the mesh addresses that end at addresses of the host.
    pub forwards: Vec<PortForward>,
    /// What the stack may use.
    pub limits: Limits,
}

/// The running parts.
#[derive(Debug)]
pub(crate) struct Service {
    // In the order in which they end: who uses the stack goes before it.
    proxies: Vec<Proxy>,
    _ports: PortForwards,
    /// While this node is an exit.
    exit_dns: Option<ExitDns>,
    forwarder: Forwarder,
    forwards: Vec<PortForward>,
    dialer: Dialer,
    thread: NetstackThread,
}

impl Service {
    /// Starts proxies and forwards over a stack that runs already.
    pub(crate) fn start(
        config: &UserspaceConfig,
        thread: NetstackThread,
        mtu: u16,
        snapshot: Arc<Snapshot>,
        names: Arc<Names>,
    ) -> Result<Self, Failure> {
        let stack = thread.stack();
        let dialer = Dialer::new(stack.clone(), names, Reach::new(snapshot));
        let ports = PortForwards::start(stack, &config.forwards)
            .map_err(|e| Failure::new(format!("a port cannot be forwarded: {e}"), "is it named twice?"))?;
        let start = |proxy: &ProxyConfig| {
            Proxy::start(proxy, dialer.clone()).map_err(|e| {
                let why = format!("the proxy cannot listen on {}: {e}", proxy.listen());
                Failure::new(why, "is another program there? choose another port")
            })
        };
        let proxies = config.proxies.iter().map(start).collect::<Result<_, _>>()?;
        let forwarder = Forwarder::start(stack, mtu);
        Ok(Self {
            proxies,
            _ports: ports,
            exit_dns: None,
            forwarder,
            forwards: config.forwards.clone(),
            dialer,
            thread,
        })
    }

    /// The way into the mesh.
    pub(crate) const fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// The node's addresses are known, or have changed.
    pub(crate) fn set_self(&mut self, me: &SelfNode) {
        self.stack().set_addrs(me.addrs.iter(), me.prefixes.resolver().iter());
        if !me.approved_routes.iter().any(meshd_proto::Prefix::is_default) {
            self.exit_dns = None;
        } else if self.exit_dns.is_none() {
            match ExitDns::start(self.stack()) {
                Ok(dns) => self.exit_dns = Some(dns),
                Err(error) => tracing::warn!(%error, "names are not answered for users of this exit node"),
            }
        }
    }

    fn stack(&self) -> &Netstack {
        self.thread.stack()
    }

    pub(crate) fn status(&self) -> UserspaceStatus {
        let [connections, listeners, datagrams] = self.stack().in_use();
        let proxies = self.proxies.iter().map(|proxy| match proxy.kind() {
            Kind::Socks5 => format!("socks5h://{}", proxy.addr()),
            Kind::Http => format!("http://{}", proxy.addr()),
        });
        UserspaceStatus {
            proxies: proxies.collect(),
            forwards: self.forwards.iter().map(ToString::to_string).collect(),
            connections: connections as u64,
            listeners: listeners as u64,
            datagram_sockets: datagrams as u64,
        }
    }

    pub(crate) fn drops(&self) -> Vec<Counter> {
        let refused: u64 = self.proxies.iter().map(Proxy::refused).sum();
        let all = self.stack().drops().into_iter().chain(self.forwarder.counters().all());
        all.chain([("proxy_clients_full", refused)])
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| Counter { name: name.to_owned(), count })
            .collect()
    }
}
