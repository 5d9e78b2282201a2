//! The kernel's addresses, links, routes and rules over rtnetlink.
//!
//! Translates between the kernel's messages and our values; decides nothing.
//! Invariant: it deletes only routes of our table and rules of our priorities that carry [`PROTOCOL`].

use super::OsError;
use super::actual::LinkState;
use super::desired::{FWMARK, Family, PRIORITIES, PROTOCOL, RouteKind, Rule, RuleAction, TABLE};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use meshd_proto::Prefix;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::IpProtocol;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{
    RuleAction as KernelAction, RuleAttribute, RuleFlags, RuleHeader, RuleMessage, RulePortRange,
};
use rtnetlink::{Handle, IpVersion, LinkUnspec, RouteMessageBuilder};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::task::JoinSet;

/// No such device, no such process, no such address: what an undo meets when it is done already.
const GONE: [i32; 4] = [libc::ENODEV, libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENOENT];
const MAIN_TABLE: u32 = 254;
const DNS: RulePortRange = RulePortRange { start: 53, end: 53 };

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

/// A default route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DefaultRoute {
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) link: u32,
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

    /// Our routes: `(message, value)`; the value is `None` for one that this version would not make.
    pub(crate) async fn routes(&self) -> Result<Vec<(RouteMessage, Option<(Prefix, RouteKind)>)>, OsError> {
        let mut ours = Vec::new();
        for query in [
            RouteMessageBuilder::<Ipv4Addr>::new().table_id(TABLE).build(),
            RouteMessageBuilder::<Ipv6Addr>::new().table_id(TABLE).build(),
        ] {
            let mut query = query;
            // With strict checking these would be filters.
            query.header.protocol = RouteProtocol::Unspec;
            query.header.kind = RouteType::Unspec;
            let listed: Result<Vec<RouteMessage>, _> =
                self.handle.route().get(query).execute().try_collect().await;
            match listed {
                Ok(listed) => ours.extend(listed.into_iter().filter(is_our_route)),
                // A table that never had a route does not exist; a family may be missing.
                Err(e) if errno(&e).is_some_and(|n| GONE.contains(&n) || n == libc::EAFNOSUPPORT) => {}
                Err(e) => return Err(failed(format!("list routes of table {TABLE}"), e)),
            }
        }
        Ok(ours.into_iter().map(|m| (parse_route(&m), m)).map(|(value, m)| (m, value)).collect())
    }

    pub(crate) async fn put_route(&self, link: u32, prefix: Prefix, kind: RouteKind) -> Result<(), OsError> {
        let request = self.handle.route().add(build_route(link, prefix, kind)).replace();
        request.execute().await.map_err(|e| failed(format!("add route {prefix} {kind}"), e))
    }

    pub(crate) async fn delete_route(&self, message: RouteMessage) -> Result<(), OsError> {
        let what = format!("delete a route of table {TABLE}");
        fine_if_gone(what, self.handle.route().del(message).execute().await)
    }

    /// Our rules: `(message, value)`; the value is `None` for one that this version would not make.
    pub(crate) async fn rules(&self) -> Result<Vec<(RuleMessage, Option<Rule>)>, OsError> {
        let mut ours = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let listed: Result<Vec<RuleMessage>, _> =
                self.handle.rule().get(version).execute().try_collect().await;
            match listed {
                Ok(listed) => ours.extend(listed.into_iter().filter(is_our_rule)),
                Err(e) if errno(&e).is_some_and(|n| n == libc::EAFNOSUPPORT || n == libc::EOPNOTSUPP) => {}
                Err(e) => return Err(failed("list routing rules", e)),
            }
        }
        Ok(ours.into_iter().map(|m| (parse_rule(&m), m)).map(|(value, m)| (m, value)).collect())
    }

    pub(crate) async fn add_rule(&self, rule: Rule) -> Result<(), OsError> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = build_rule(rule);
        match request.execute().await {
            Err(e) if errno(&e) == Some(libc::EEXIST) => Ok(()),
            other => other.map_err(|e| failed(format!("add rule {rule}"), e)),
        }
    }

    pub(crate) async fn delete_rule(&self, message: RuleMessage) -> Result<(), OsError> {
        fine_if_gone("delete a routing rule", self.handle.rule().del(message).execute().await)
    }

    /// Destinations in tables other than ours, with the interface, defaults left out; at most `limit`.
    pub(crate) async fn foreign_routes(&self, limit: usize) -> Result<Vec<(Prefix, u32)>, OsError> {
        let mut found = Vec::new();
        for query in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let mut query = query;
            query.header.protocol = RouteProtocol::Unspec;
            query.header.kind = RouteType::Unspec;
            query.header.table = 0;
            let mut listed = std::pin::pin!(self.handle.route().get(query).execute());
            while let Ok(Some(message)) = listed.try_next().await {
                let local = matches!(
                    message.header.kind,
                    RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast
                );
                let (Some(prefix), Some(link)) = (destination(&message), out_link(&message)) else {
                    continue;
                };
                if !local && !prefix.is_default() && table(&message) != TABLE && found.len() < limit {
                    found.push((prefix, link));
                }
            }
        }
        Ok(found)
    }

    /// The interfaces that default routes of the main table use.
    pub(crate) async fn uplinks(&self) -> Result<Vec<u32>, OsError> {
        let mut found: Vec<u32> = self.default_routes().await?.into_iter().map(|r| r.link).collect();
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// The default routes of the main table.
    pub(crate) async fn default_routes(&self) -> Result<Vec<DefaultRoute>, OsError> {
        let mut found = Vec::new();
        for query in [
            RouteMessageBuilder::<Ipv4Addr>::new().table_id(MAIN_TABLE).build(),
            RouteMessageBuilder::<Ipv6Addr>::new().table_id(MAIN_TABLE).build(),
        ] {
            let mut query = query;
            query.header.protocol = RouteProtocol::Unspec;
            query.header.kind = RouteType::Unspec;
            let mut listed = std::pin::pin!(self.handle.route().get(query).execute());
            while let Ok(Some(message)) = listed.try_next().await {
                if message.header.destination_prefix_length == 0
                    && let Some(link) = out_link(&message)
                {
                    let gateway = message.attributes.iter().find_map(|a| match a {
                        RouteAttribute::Gateway(addr) => to_ip(addr),
                        _ => None,
                    });
                    found.push(DefaultRoute { gateway, link });
                }
            }
        }
        Ok(found)
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

fn table(message: &RouteMessage) -> u32 {
    let long = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    long.unwrap_or_else(|| message.header.table.into())
}

fn out_link(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn is_our_route(message: &RouteMessage) -> bool {
    table(message) == TABLE && u8::from(message.header.protocol) == PROTOCOL
}

fn to_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn destination(message: &RouteMessage) -> Option<Prefix> {
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let addr = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(addr) => to_ip(addr),
        _ => None,
    });
    let net = IpNet::new(addr.unwrap_or(unspecified), message.header.destination_prefix_length).ok()?;
    Prefix::new(net).ok()
}

fn parse_route(message: &RouteMessage) -> Option<(Prefix, RouteKind)> {
    let kind = match message.header.kind {
        RouteType::Throw => RouteKind::Throw,
        RouteType::Unicast => RouteKind::Mesh {
            source: message.attributes.iter().find_map(|a| match a {
                RouteAttribute::PrefSource(addr) => to_ip(addr),
                _ => None,
            }),
        },
        _ => return None,
    };
    Some((destination(message)?, kind))
}

fn build_route(link: u32, prefix: Prefix, kind: RouteKind) -> RouteMessage {
    let mut message = match prefix.net() {
        IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .table_id(TABLE)
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .table_id(TABLE)
            .build(),
    };
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    match kind {
        RouteKind::Throw => message.header.kind = RouteType::Throw,
        RouteKind::Mesh { source } => {
            message.header.kind = RouteType::Unicast;
            if Family::of(prefix) == Family::V4 {
                message.header.scope = RouteScope::Link;
            }
            message.attributes.push(RouteAttribute::Oif(link));
            message.attributes.extend(source.map(|s| RouteAttribute::PrefSource(s.into())));
        }
    }
    message
}

struct RuleFields {
    priority: u32,
    mark: u32,
    mask: u32,
    table: u32,
    suppress: u32,
    protocol: u8,
    transport: Option<IpProtocol>,
    to_port: Option<RulePortRange>,
}

fn rule_fields(message: &RuleMessage) -> RuleFields {
    let mut fields = RuleFields {
        priority: 0,
        mark: 0,
        mask: 0,
        table: message.header.table.into(),
        suppress: u32::MAX,
        protocol: 0,
        transport: None,
        to_port: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(v) => fields.priority = *v,
            RuleAttribute::FwMark(v) => fields.mark = *v,
            RuleAttribute::FwMask(v) => fields.mask = *v,
            RuleAttribute::Table(v) => fields.table = *v,
            RuleAttribute::SuppressPrefixLen(v) => fields.suppress = *v,
            RuleAttribute::Protocol(v) => fields.protocol = u8::from(*v),
            RuleAttribute::IpProtocol(v) => fields.transport = Some(*v),
            RuleAttribute::DestinationPortRange(v) => fields.to_port = Some(*v),
            _ => {}
        }
    }
    fields
}

fn is_our_rule(message: &RuleMessage) -> bool {
    let fields = rule_fields(message);
    fields.protocol == PROTOCOL && PRIORITIES.contains(&fields.priority)
}

fn parse_rule(message: &RuleMessage) -> Option<Rule> {
    let fields = rule_fields(message);
    let family = match message.header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    if let (Some(transport), Some(DNS)) = (fields.transport, fields.to_port) {
        let unmarked = fields.mark == 0 && fields.mask == u32::MAX;
        let refused = message.header.action == KernelAction::Unreachable && unmarked;
        let tcp = transport == IpProtocol::Tcp;
        return (refused && !message.header.flags.contains(RuleFlags::Invert)).then_some(Rule {
            priority: fields.priority,
            family,
            action: RuleAction::RefuseDns { tcp },
        });
    }
    let marked = fields.mark == FWMARK && fields.mask == u32::MAX;
    if !marked || !message.header.flags.contains(RuleFlags::Invert) {
        return None;
    }
    let action = match (message.header.action, fields.table, fields.suppress) {
        (KernelAction::ToTable, TABLE, 0) => RuleAction::MeshPrefixes,
        (KernelAction::ToTable, TABLE, u32::MAX) => RuleAction::MeshDefault,
        (KernelAction::ToTable, MAIN_TABLE, 0) => RuleAction::MainPrefixes,
        (KernelAction::Unreachable, ..) => RuleAction::Unreachable,
        _ => return None,
    };
    Some(Rule { priority: fields.priority, family, action })
}

fn build_rule(rule: Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header = RuleHeader {
        family: family_number(rule.family),
        flags: RuleFlags::Invert,
        action: KernelAction::ToTable,
        ..RuleHeader::default()
    };
    // "Not" would hold for the whole of the rule, the port included, so this one says "no mark" instead.
    let mark = if matches!(rule.action, RuleAction::RefuseDns { .. }) { 0 } else { FWMARK };
    message.attributes.extend([
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::FwMark(mark),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ]);
    let lookup = match rule.action {
        RuleAction::MeshPrefixes => [Some(TABLE), Some(0)],
        RuleAction::MainPrefixes => [Some(MAIN_TABLE), Some(0)],
        RuleAction::MeshDefault => [Some(TABLE), None],
        RuleAction::Unreachable => {
            message.header.action = KernelAction::Unreachable;
            [None, None]
        }
        RuleAction::RefuseDns { tcp } => {
            message.header.action = KernelAction::Unreachable;
            message.header.flags = RuleFlags::empty();
            let transport = if tcp { IpProtocol::Tcp } else { IpProtocol::Udp };
            message.attributes.push(RuleAttribute::IpProtocol(transport));
            message.attributes.push(RuleAttribute::DestinationPortRange(DNS));
            [None, None]
        }
    };
    message.attributes.extend(lookup[0].map(RuleAttribute::Table));
    message.attributes.extend(lookup[1].map(RuleAttribute::SuppressPrefixLen));
    message
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
