//! Links, addresses and routes over rtnetlink. Translates; decides nothing.
//!
//! A [`Kernel`] works in the network namespace of the thread that opened it.

use crate::failure::{Code, Failure};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::io::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

const MAIN_TABLE: u32 = 254;

/// A connection to the kernel, with what drives it.
#[derive(Debug)]
pub(super) struct Kernel {
    handle: Handle,
    _driver: JoinSet<()>,
    runtime: Runtime,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    /// As six pairs of hexadecimal digits.
    pub(super) mac: String,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) is_veth: bool,
    /// Index of the other end, in its own namespace.
    pub(super) peer: Option<u32>,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: IpNet,
    pub(super) gateway: Option<IpAddr>,
    pub(super) link: u32,
}

impl Kernel {
    pub(super) fn open() -> Result<Self, Failure> {
        let failed = |e| Failure::io("cannot open a netlink socket", &e);
        let runtime = Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let (connection, handle, _) = {
            let _inside = runtime.enter();
            rtnetlink::new_connection().map_err(failed)?
        };
        let mut driver = JoinSet::new();
        driver.spawn_on(connection, runtime.handle());
        Ok(Self { handle, _driver: driver, runtime })
    }

    pub(super) fn link(&self, name: &str) -> Result<Option<Link>, Failure> {
        let request = self.handle.link().get().match_name(name.to_owned());
        match self.runtime.block_on(request.execute().try_next()) {
            Ok(found) => Ok(found.as_ref().map(parse_link)),
            Err(e) if errno(&e) == Some(Errno::NODEV) => Ok(None),
            Err(e) => Err(failed(format!("look for interface {name}"), &e)),
        }
    }

    /// Makes both ends at once, the pod's in its own namespace: neither is ever alone.
    pub(super) fn create_pair(
        &self,
        host: (&str, [u8; 6]),
        pod: &str,
        pod_space: RawFd,
        mtu: u32,
    ) -> Result<(), Failure> {
        let (host, mac) = host;
        let peer = LinkMessageBuilder::<LinkUnspec>::default()
            .name(pod.to_owned())
            .mtu(mtu)
            .append_extra_attribute(LinkAttribute::NetNsFd(pod_space))
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(host, pod)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(mtu)
            .address(mac.to_vec())
            .build();
        let made = self.runtime.block_on(self.handle.link().add(pair).execute());
        made.map_err(|e| failed(format!("make the veth pair {host} and {pod}"), &e))
    }

    /// Both ends go; fine when they are gone.
    pub(super) fn delete_link(&self, name: &str, index: u32) -> Result<(), Failure> {
        match self.runtime.block_on(self.handle.link().del(index).execute()) {
            Err(e) if errno(&e) != Some(Errno::NODEV) => Err(failed(format!("remove interface {name}"), &e)),
            _ => Ok(()),
        }
    }

    pub(super) fn set_up(&self, name: &str, index: u32) -> Result<(), Failure> {
        let up = LinkUnspec::new_with_index(index).up().build();
        let done = self.runtime.block_on(self.handle.link().set(up).execute());
        done.map_err(|e| failed(format!("set interface {name} up"), &e))
    }

    /// Without duplicate address detection: nobody else is on these links, and pods begin at once.
    pub(super) fn add_address(&self, index: u32, net: IpNet, host_scope: bool) -> Result<(), Failure> {
        let mut request = self.handle.address().add(index, net.addr(), net.prefix_len());
        let message = request.message_mut();
        if net.addr().is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Permanent));
        }
        if host_scope {
            message.header.scope = AddressScope::Host;
        }
        let done = self.runtime.block_on(request.execute());
        done.map_err(|e| failed(format!("add address {net}"), &e))
    }

    /// A route over the link itself, or by a gateway on it.
    pub(super) fn add_route(&self, to: IpNet, gateway: Option<IpAddr>, index: u32) -> Result<(), Failure> {
        let message = match (to, gateway) {
            (IpNet::V4(to), gateway) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(to.addr(), to.prefix_len())
                    .output_interface(index);
                match gateway {
                    Some(IpAddr::V4(gateway)) => route.gateway(gateway).build(),
                    _ => route.scope(RouteScope::Link).build(),
                }
            }
            (IpNet::V6(to), gateway) => {
                let route = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(to.addr(), to.prefix_len())
                    .output_interface(index);
                match gateway {
                    Some(IpAddr::V6(gateway)) => route.gateway(gateway).build(),
                    _ => route.build(),
                }
            }
        };
        let done = self.runtime.block_on(self.handle.route().add(message).execute());
        done.map_err(|e| match errno(&e) {
            Some(Errno::EXIST) => {
                let details = format!(
                    "this host has a route for {to} already (see `ip route show {to}`): remove it, or use other \
                     ranges for pods"
                );
                Failure::new(Code::Kernel, "an address of the pod is routed elsewhere", details)
            }
            _ => failed(format!("add a route to {to}"), &e),
        })
    }

    pub(super) fn addresses(&self, index: u32) -> Result<Vec<IpNet>, Failure> {
        let request = self.handle.address().get().set_link_index_filter(index).execute();
        let listed: Vec<AddressMessage> = self
            .runtime
            .block_on(request.try_collect())
            .map_err(|e| failed("list the interface's addresses", &e))?;
        Ok(listed.iter().filter(|m| m.header.index == index).filter_map(parse_address).collect())
    }

    /// Unicast routes of the main table.
    pub(super) fn routes(&self) -> Result<Vec<Route>, Failure> {
        let mut found = Vec::new();
        let queries =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for mut query in queries {
            query.header.protocol = RouteProtocol::Unspec;
            query.header.kind = RouteType::Unspec;
            match self.runtime.block_on(self.handle.route().get(query).execute().try_collect::<Vec<_>>()) {
                Ok(listed) => found.extend(listed.iter().filter_map(parse_route)),
                Err(e) if matches!(errno(&e), Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP)) => {}
                Err(e) => return Err(failed("list routes", &e)),
            }
        }
        Ok(found)
    }
}

fn parse_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        mac: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        is_veth: false,
        peer: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(address) => {
                link.mac = address.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(peer) => link.peer = Some(*peer),
            LinkAttribute::LinkInfo(infos) => {
                link.is_veth = infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    link
}

fn parse_address(message: &AddressMessage) -> Option<IpNet> {
    let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    let local = of(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let address = of(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

fn parse_route(message: &RouteMessage) -> Option<Route> {
    let (mut to, mut gateway, mut link) = (None, None, None);
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = parse_route_address(address),
            RouteAttribute::Gateway(address) => gateway = parse_route_address(address),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    if table != MAIN_TABLE || message.header.kind != RouteType::Unicast {
        return None;
    }
    let any: IpAddr = match message.header.address_family {
        netlink_packet_route::AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let to = IpNet::new(to.unwrap_or(any), message.header.destination_prefix_length).ok()?;
    Some(Route { to, gateway, link: link? })
}

fn parse_route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Errno::from_io_error(&message.to_io()),
        _ => None,
    }
}

fn failed(what: impl std::fmt::Display, error: &rtnetlink::Error) -> Failure {
    let hint = match errno(error) {
        Some(Errno::PERM | Errno::ACCESS) => "; the plugin needs root (CAP_NET_ADMIN)",
        Some(Errno::OPNOTSUPP) => "; is the kernel module for it there (veth)?",
        _ => "",
    };
    let why = errno(error).map_or_else(|| error.to_string(), |e| std::io::Error::from(e).to_string());
    Failure::new(Code::Kernel, format!("cannot {what}"), format!("{why}{hint}"))
}
