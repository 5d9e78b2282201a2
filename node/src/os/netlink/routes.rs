//! The kernel's routes. Ours are those of our table with [`PROTOCOL`].

use super::{GONE, MAIN_TABLE, NO_FAMILY, Netlink, errno, failed, fine_if_gone};
use crate::os::OsError;
use crate::os::desired::{Family, PROTOCOL, RouteKind, TABLE};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use meshd_proto::Prefix;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::RouteMessageBuilder;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A default route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DefaultRoute {
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) link: u32,
}

impl Netlink {
    /// Our routes: `(message, value)`; the value is `None` for one that this version would not make.
    pub(crate) async fn routes(&self) -> Result<Vec<(RouteMessage, Option<(Prefix, RouteKind)>)>, OsError> {
        let mut ours = Vec::new();
        let keep = |message: RouteMessage| {
            if is_our_route(&message) {
                let value = parse_route(&message);
                ours.push((message, value));
            }
        };
        self.each_route(Some(TABLE), keep).await?;
        Ok(ours)
    }

    /// Shows the routes of `table`, or of all tables, of both families.
    async fn each_route(&self, table: Option<u32>, mut see: impl FnMut(RouteMessage)) -> Result<(), OsError> {
        // The kernel's word for no table in particular.
        const ANY: u32 = 0;
        let number = table.unwrap_or(ANY);
        for mut query in [
            RouteMessageBuilder::<Ipv4Addr>::new().table_id(number).build(),
            RouteMessageBuilder::<Ipv6Addr>::new().table_id(number).build(),
        ] {
            // With strict checking these would be filters.
            query.header.protocol = RouteProtocol::Unspec;
            query.header.kind = RouteType::Unspec;
            // Message by message: a host may have a million routes.
            let mut listed = std::pin::pin!(self.handle.route().get(query).execute());
            loop {
                match listed.try_next().await {
                    Ok(Some(message)) => see(message),
                    Ok(None) => break,
                    // A table that never had a route does not exist; a family may be missing.
                    Err(e) if errno(&e).is_some_and(|n| GONE.contains(&n) || NO_FAMILY.contains(&n)) => break,
                    Err(e) => {
                        let of = table.map_or_else(String::new, |number| format!(" of table {number}"));
                        return Err(failed(format!("list routes{of}"), e));
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn put_route(&self, link: u32, prefix: Prefix, kind: RouteKind) -> Result<(), OsError> {
        let request = self.handle.route().add(build_route(link, prefix, kind)).replace();
        request.execute().await.map_err(|e| failed(format!("add route {prefix} {kind}"), e))
    }

    pub(crate) async fn delete_route(&self, message: RouteMessage) -> Result<(), OsError> {
        let what = format!("delete a route of table {TABLE}");
        fine_if_gone(what, self.handle.route().del(message).execute().await)
    }

    /// Destinations in tables other than ours, with the interface, defaults left out; at most `limit`.
    pub(crate) async fn foreign_routes(&self, limit: usize) -> Result<Vec<(Prefix, u32)>, OsError> {
        let mut found = Vec::new();
        let keep = |message: RouteMessage| {
            let local = matches!(
                message.header.kind,
                RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast
            );
            if let (Some(prefix), Some(link)) = (destination(&message), out_link(&message))
                && !local
                && !prefix.is_default()
                && table(&message) != TABLE
                && found.len() < limit
            {
                found.push((prefix, link));
            }
        };
        self.each_route(None, keep).await?;
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
        let keep = |message: RouteMessage| {
            if message.header.destination_prefix_length == 0
                && let Some(link) = out_link(&message)
            {
                let gateway = message.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Gateway(addr) => to_ip(addr),
                    _ => None,
                });
                found.push(DefaultRoute { gateway, link });
            }
        };
        self.each_route(Some(MAIN_TABLE), keep).await?;
        Ok(found)
    }
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
