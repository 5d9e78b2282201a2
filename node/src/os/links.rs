//! What is connected to this host: usable local addresses, LANs, and a watch on changes.
//!
//! An address is usable when a peer might reach us there: not loopback, not link-local, not on the
//! interfaces of containers, virtual machines or other VPNs, not our own mesh interface.

use super::OsError;
use super::desired::{Connected, IfName};
use super::netlink::{Netlink, is_link_local};
use futures_util::FutureExt;
use ipnet::IpNet;
use meshd_proto::Prefix;
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use std::io;
use std::net::IpAddr;

pub use super::netlink::Link;

/// Driver kinds of tunnels and of interfaces that lead nowhere outside.
const VIRTUAL_KINDS: [&str; 16] = [
    "tun",
    "wireguard",
    "vxlan",
    "geneve",
    "ipip",
    "ip6tnl",
    "gre",
    "gretap",
    "ip6gre",
    "ip6gretap",
    "sit",
    "vti",
    "vti6",
    "xfrm",
    "dummy",
    "nlmon",
];
/// How container runtimes, virtual machines and VPNs name their interfaces.
const VIRTUAL_NAMES: [&str; 24] = [
    "docker",
    "br-",
    "veth",
    "cni",
    "flannel",
    "cali",
    "cilium",
    "lxc",
    "lxd",
    "incus",
    "virbr",
    "vnet",
    "vmnet",
    "vboxnet",
    "kube",
    "podman",
    "nodelocaldns",
    "weave",
    "antrea",
    "ovn",
    "tailscale",
    "wg",
    "zt",
    "nebula",
];
/// Most datagrams merged into one event.
const MAX_MERGED: usize = 256;
/// NFNLGRP_NFTABLES.
const NFTABLES_GROUP: u32 = 7;
/// Link, IPv4 and IPv6 address, route and rule groups of rtnetlink, by number.
const ROUTE_GROUPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];

/// The addresses at which a peer on some network might reach this host.
///
/// # Errors
/// When the kernel does not answer.
pub async fn local_endpoints(mesh: &IfName) -> Result<Vec<IpAddr>, OsError> {
    Ok(usable_addresses(&Netlink::open()?.links().await?, mesh))
}

/// Every interface of this host.
///
/// # Errors
/// When the kernel does not answer.
pub(crate) async fn all() -> Result<Vec<Link>, OsError> {
    Netlink::open()?.links().await
}

/// Every network that is connected to this host, containers' included.
///
/// # Errors
/// When the kernel does not answer.
pub async fn connected(mesh: &IfName) -> Result<Vec<Connected>, OsError> {
    Ok(connected_networks(&Netlink::open()?.links().await?, mesh))
}

/// The addresses of one interface with their networks, link-local ones left out; `None`: no such interface.
///
/// # Errors
/// When the kernel does not answer.
pub(crate) async fn addresses_of(interface: &str) -> Result<Option<Vec<IpNet>>, OsError> {
    let links = Netlink::open()?.links().await?;
    let link = links.into_iter().find(|link| link.name == interface);
    Ok(link.map(|l| l.addresses.into_iter().filter(|net| !is_link_local(net.addr())).collect()))
}

/// The private networks worth offering to the mesh: what `--advertise-routes` without a value proposes.
///
/// # Errors
/// When the kernel does not answer.
pub async fn connected_lans(mesh: &IfName) -> Result<Vec<Prefix>, OsError> {
    Ok(lans(&Netlink::open()?.links().await?, mesh))
}

pub(super) fn leads_outside(link: &Link, mesh: &IfName) -> bool {
    let virtual_kind = link.kind.as_deref().is_some_and(|kind| VIRTUAL_KINDS.contains(&kind));
    let virtual_name = VIRTUAL_NAMES.iter().any(|prefix| link.name.starts_with(prefix));
    link.up && !link.loopback && link.name != mesh.as_str() && !virtual_kind && !virtual_name
}

/// The usable addresses among these interfaces, in the kernel's order, IPv4 of each first.
pub fn usable_addresses(links: &[Link], mesh: &IfName) -> Vec<IpAddr> {
    let usable = links.iter().filter(|l| leads_outside(l, mesh));
    let addrs = usable.flat_map(|l| &l.addresses).map(IpNet::addr);
    addrs.filter(|a| !is_link_local(*a) && !a.is_loopback() && !a.is_unspecified()).collect()
}

/// The networks connected through these interfaces; loopback, link-local and our own left out.
pub fn connected_networks(links: &[Link], mesh: &IfName) -> Vec<Connected> {
    let others = links.iter().filter(|l| !l.loopback && l.name != mesh.as_str());
    let mut found: Vec<Connected> = others
        .flat_map(|l| l.addresses.iter().map(move |net| (l, net)))
        .filter(|(_, net)| !is_link_local(net.addr()) && net.prefix_len() != 0)
        .filter_map(|(l, net)| {
            Some(Connected { prefix: Prefix::new(net.trunc()).ok()?, interface: l.name.clone() })
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The private networks of more than one host on interfaces that lead outside.
pub fn lans(links: &[Link], mesh: &IfName) -> Vec<Prefix> {
    let usable = links.iter().filter(|l| leads_outside(l, mesh));
    let mut found: Vec<Prefix> = usable
        .flat_map(|l| &l.addresses)
        .filter(|net| match net {
            IpNet::V4(v4) => v4.addr().is_private() && v4.prefix_len() < 31,
            IpNet::V6(v6) => v6.addr().is_unique_local() && v6.prefix_len() < 127,
        })
        .filter_map(|net| Prefix::new(net.trunc()).ok())
        .collect();
    found.sort();
    found.dedup();
    found
}

/// What changed in the kernel since the last event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// An interface came, went, or changed its state.
    pub links: bool,
    /// An address came or went.
    pub addresses: bool,
    /// A route came or went.
    pub routes: bool,
    /// A routing rule came or went.
    pub rules: bool,
    /// Our nftables table, or a firewall we have a hook in, was touched.
    pub firewall: bool,
}

impl Changed {
    /// Everything may have changed: the kernel had to drop events.
    const ALL: Self = Self { links: true, addresses: true, routes: true, rules: true, firewall: true };

    /// Whether anything changed at all.
    pub const fn any(&self) -> bool {
        self.links || self.addresses || self.routes || self.rules || self.firewall
    }

    /// Adds what one datagram of rtnetlink speaks of.
    fn merge_route_messages(&mut self, mut bytes: &[u8]) {
        while let Some((length, kind)) = message_head(bytes) {
            match kind {
                16 | 17 => self.links = true,
                20 | 21 => self.addresses = true,
                24 | 25 => self.routes = true,
                32 | 33 => self.rules = true,
                _ => {}
            }
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    /// Adds a datagram of nftables, if a name in it concerns us.
    fn merge_firewall_messages(&mut self, bytes: &[u8]) {
        const NAMES: [&[u8]; 4] = [b"meshd\0", b"DOCKER-USER\0", b"-user-forward\0", b"-user-input\0"];
        let names = |name: &[u8]| bytes.windows(name.len()).any(|w| w == name);
        self.firewall |= NAMES.into_iter().any(names);
    }
}

/// `(length, type)` of the netlink message at the head of `bytes`.
fn message_head(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    (length >= 16).then_some((length, kind))
}

/// A subscription to changes of links, addresses, routes, rules and our part of the firewall.
pub struct Watcher {
    route: TokioSocket,
    firewall: Option<TokioSocket>,
    route_bytes: Vec<u8>,
    firewall_bytes: Vec<u8>,
}

/// Starts watching. Changes from now on are not missed.
///
/// # Errors
/// When the kernel refuses the subscription.
pub fn watch() -> Result<Watcher, OsError> {
    let failed = |e: io::Error| OsError::kernel("watch for changes of routes and addresses", e);
    let mut route = TokioSocket::new(NETLINK_ROUTE).map_err(failed)?;
    let groups = ROUTE_GROUPS.iter().fold(0, |mask, group| mask | 1 << (group - 1));
    route.socket_mut().bind(&SocketAddr::new(0, groups)).map_err(failed)?;
    // Without it we still repair, at the next other event.
    let firewall = watch_firewall().inspect_err(|e| tracing::debug!(error = %e, "no nftables events")).ok();
    let buffer = || Vec::with_capacity(64 << 10);
    Ok(Watcher { route, firewall, route_bytes: buffer(), firewall_bytes: buffer() })
}

fn watch_firewall() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    socket.socket_mut().add_membership(NFTABLES_GROUP)?;
    Ok(socket)
}

impl Watcher {
    /// The next change: returns at once when one arrives, with all others that are already there.
    /// May be dropped while waiting without losing anything.
    ///
    /// # Errors
    /// When the kernel closes the subscription.
    pub async fn next(&mut self) -> Result<Changed, OsError> {
        let mut changed = Changed::default();
        while !changed.any() {
            self.receive(&mut changed).await?;
        }
        for _ in 0..MAX_MERGED {
            match self.receive(&mut changed).now_or_never() {
                Some(more) => more?,
                None => break,
            }
        }
        Ok(changed)
    }

    async fn receive(&mut self, changed: &mut Changed) -> Result<(), OsError> {
        self.route_bytes.clear();
        self.firewall_bytes.clear();
        let firewall = async {
            match &self.firewall {
                Some(socket) => socket.recv(&mut self.firewall_bytes).await,
                None => std::future::pending().await,
            }
        };
        let received = tokio::select! {
            received = self.route.recv(&mut self.route_bytes) => {
                received.map(|()| changed.merge_route_messages(&self.route_bytes))
            }
            received = firewall => received.map(|()| changed.merge_firewall_messages(&self.firewall_bytes)),
        };
        match received {
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => *changed = Changed::ALL,
            other => other.map_err(|e| OsError::kernel("receive changes of routes and addresses", e))?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
