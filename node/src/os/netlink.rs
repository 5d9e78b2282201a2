//! The kernel's addresses, links, routes and rules over rtnetlink.
//!
//! Translates between the kernel's messages and our values; decides nothing.
//! Invariant: it deletes only routes of our table and rules of our priorities that carry
//! [`PROTOCOL`](super::desired::PROTOCOL).

mod routes;
mod rules;

pub(crate) use routes::DefaultRoute;

use super::OsError;
use super::actual::LinkState;
use super::desired::Family;
use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkUnspec};
use std::io;
use std::net::IpAddr;
use tokio::task::JoinSet;

/// No such device, no such process, no such address: what an undo meets when it is done already.
const GONE: [i32; 4] = [libc::ENODEV, libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENOENT];
/// A kernel without IPv6, or one that was told to do without.
const NO_FAMILY: [i32; 2] = [libc::EAFNOSUPPORT, libc::EOPNOTSUPP];
const MAIN_TABLE: u32 = 254;

/// A connection to the kernel. Its driver ends with it.
#[derive(Debug)]
pub(crate) struct Netlink {
    handle: Handle,
    _driver: JoinSet<()>,
}

/// A network interface as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Driver kind, for virtual ones ("bridge", "veth", "tun", "wireguard", …).
    pub kind: Option<String>,
    /// Administratively up.
    pub up: bool,
    /// The loopback interface.
    pub loopback: bool,
    /// MTU.
    pub mtu: u32,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
}

/// What tells one piece of hardware, and one plugging of its cable, from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hardware {
    pub(crate) index: u32,
    /// Link-layer address.
    pub(crate) address: Vec<u8>,
    /// How often its carrier came or went.
    pub(crate) carriers: u32,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, OsError> {
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .map_err(|e| OsError::kernel("open a netlink socket", e))?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Self { handle, _driver: driver })
    }

    /// Every interface with its addresses.
    pub(crate) async fn links(&self) -> Result<Vec<Link>, OsError> {
        Ok(self.links_with_hardware().await?.0)
    }

    /// Every interface with its addresses, and what it is made of.
    pub(crate) async fn links_with_hardware(&self) -> Result<(Vec<Link>, Vec<Hardware>), OsError> {
        let what = "list network interfaces";
        let found: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(|e| failed(what, e))?;
        let mut links: Vec<Link> = found.iter().map(parse_link).collect();
        let addresses: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(|e| failed(what, e))?;
        for message in &addresses {
            let link = links.iter_mut().find(|l| l.index == message.header.index);
            if let (Some(link), Some(net)) = (link, parse_address(message)) {
                link.addresses.push(net);
            }
        }
        Ok((links, found.iter().map(parse_hardware).collect()))
    }

    /// The mesh interface.
    pub(crate) async fn mesh_link(&self, name: &str) -> Result<Option<LinkState>, OsError> {
        let link = self.links().await?.into_iter().find(|l| l.name == name);
        Ok(link.map(|l| LinkState {
            index: l.index,
            up: l.up,
            mtu: l.mtu,
            ipv6: super::sysctl::allows_ipv6(name),
            addresses: l.addresses.into_iter().filter(|a| !is_link_local(a.addr())).collect(),
        }))
    }

    pub(crate) async fn add_address(
        &self,
        link: u32,
        addr: IpAddr,
        never_source: bool,
    ) -> Result<(), OsError> {
        let len = if addr.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(link, addr, len).replace();
        if addr.is_ipv4() && never_source {
            // The kernel takes a source, and what it masquerades to, from addresses of the widest scope.
            request.message_mut().header.scope = AddressScope::Link;
        }
        if addr.is_ipv6() {
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute | AddressFlags::Permanent;
            let message = request.message_mut();
            message.attributes.push(AddressAttribute::Flags(flags));
            if never_source {
                let mut lifetime = CacheInfo::default();
                lifetime.ifa_valid = u32::MAX;
                message.attributes.push(AddressAttribute::CacheInfo(lifetime));
            }
        }
        request.execute().await.map_err(|e| failed(format!("add address {addr}"), e))
    }

    pub(crate) async fn delete_address(&self, link: u32, net: IpNet) -> Result<(), OsError> {
        let mut message = AddressMessage::default();
        message.header.family = family_number(Family::of_addr(net.addr()));
        message.header.prefix_len = net.prefix_len();
        message.header.index = link;
        message.attributes.push(AddressAttribute::Local(net.addr()));
        message.attributes.push(AddressAttribute::Address(net.addr()));
        fine_if_gone(format!("delete address {net}"), self.handle.address().del(message).execute().await)
    }

    pub(crate) async fn set_link(
        &self,
        index: u32,
        up: Option<bool>,
        mtu: Option<u32>,
    ) -> Result<(), OsError> {
        let mut link = LinkUnspec::new_with_index(index);
        if let Some(mtu) = mtu {
            link = link.mtu(mtu);
        }
        link = match up {
            Some(true) => link.up(),
            Some(false) => link.down(),
            None => link,
        };
        let what = format!("set link (up {up:?}, mtu {mtu:?})");
        fine_if_gone(what, self.handle.link().change(link.build()).execute().await)
    }
}

fn family_number(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

pub(crate) fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn parse_link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        up: flags.contains(LinkFlags::Up),
        loopback: flags.contains(LinkFlags::Loopback),
        mtu: 0,
        addresses: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(InfoKind::Other(kind)) => Some(kind.clone()),
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

fn parse_hardware(message: &LinkMessage) -> Hardware {
    let mut hardware = Hardware { index: message.header.index, address: Vec::new(), carriers: 0 };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(address) => hardware.address.clone_from(address),
            LinkAttribute::CarrierChanges(count) => hardware.carriers = *count,
            _ => {}
        }
    }
    hardware
}

fn parse_address(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(addr) => Some(*addr),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(addr) => Some(*addr),
        _ => None,
    });
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().raw_os_error(),
        _ => None,
    }
}

fn failed(what: impl Into<String>, error: rtnetlink::Error) -> OsError {
    let answer = match errno(&error) {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::other(error.to_string()),
    };
    OsError::kernel(what, answer)
}

fn fine_if_gone(what: impl Into<String>, result: Result<(), rtnetlink::Error>) -> Result<(), OsError> {
    match result {
        Err(e) if errno(&e).is_some_and(|n| GONE.contains(&n)) => Ok(()),
        other => other.map_err(|e| failed(what, e)),
    }
}
