//! Which node a text means, and what it means where it is none: this node, or a host behind a router.
//!
//! It looks at the map only, and asks no resolver.

use meshd_proto::localapi::Failure;
use meshd_proto::netmap::{Peer, RecordType, RecordValue};
use meshd_proto::{DnsName, NetworkMap};
use std::net::IpAddr;

/// A peer by name, full name or mesh address; otherwise what the text means instead.
pub(super) fn find_peer<'m>(map: &'m NetworkMap, target: &str) -> Result<&'m Peer, Failure> {
    peer_called(map, target).ok_or_else(|| no_peer(map, target))
}

/// The same where nobody is to be told: an exit that was chosen may come later.
pub(super) fn peer_called<'m>(map: &'m NetworkMap, target: &str) -> Option<&'m Peer> {
    let by_addr = || {
        let ip = target.parse().ok()?;
        map.peers.values().find(|p| p.addrs.contains(ip))
    };
    map.peer_by_name(short(map, target)).or_else(by_addr)
}

/// A name without the mesh's domain.
fn short<'t>(map: &NetworkMap, target: &'t str) -> &'t str {
    let domain = map.dns.config.as_ref().map(|c| format!(".{}", c.domain)).unwrap_or_default();
    let name = target.strip_suffix('.').unwrap_or(target);
    name.strip_suffix(&domain).unwrap_or(name)
}

fn no_peer(map: &NetworkMap, target: &str) -> Failure {
    let ip = target.parse::<IpAddr>().ok();
    if let Some(me) = &map.me {
        let named = me.name.as_str().eq_ignore_ascii_case(short(map, target));
        if named || ip.is_some_and(|ip| me.addrs.contains(ip)) {
            return Failure::new(
                format!("`{target}` is this node itself"),
                "name another one: `meshd status` lists them",
            );
        }
    }
    ip.or_else(|| recorded(map, target)).and_then(|ip| behind(map, target, ip)).unwrap_or_else(|| {
        Failure::new(
            format!("no node `{target}` is known here"),
            "see the names in `meshd status`; a node that policy hides from this one is not listed",
        )
    })
}

/// The address that an admin gave to a name.
fn recorded(map: &NetworkMap, target: &str) -> Option<IpAddr> {
    let domain = &map.dns.config.as_ref()?.domain;
    let full = format!("{}.{domain}", short(map, target));
    [full.as_str(), target].into_iter().find_map(|name| {
        let name: DnsName = name.to_ascii_lowercase().parse().ok()?;
        [RecordType::A, RecordType::Aaaa].into_iter().find_map(|kind| {
            let set = map.dns.records.get(&(name.clone(), kind))?;
            set.values.iter().find_map(|value| match value {
                RecordValue::Address(ip) => Some(*ip),
                _ => None,
            })
        })
    })
}

/// A host that a router leads to. It runs nothing of ours, so it answers the system's ping only.
fn behind(map: &NetworkMap, target: &str, ip: IpAddr) -> Option<Failure> {
    let what = if target.parse() == Ok(ip) { target.to_owned() } else { format!("{target} ({ip})") };
    let own = map.me.iter().flat_map(|me| &me.approved_routes);
    if own.filter(|p| !p.is_default()).any(|p| p.net().contains(&ip)) {
        return Some(Failure::new(
            format!("{what} is no node: it is behind this node itself"),
            format!("use the system's ping: ping {ip}"),
        ));
    }
    let routes = map.routes.iter().filter(|r| !r.prefix.is_default() && r.prefix.net().contains(&ip));
    let longest = routes.rev().max_by_key(|r| (r.prefix.net().prefix_len(), std::cmp::Reverse(r.rank)))?;
    let router = &map.peers.get(&longest.owner)?.name;
    Some(Failure::new(
        format!("{what} is no node: it is behind {router} ({})", longest.prefix),
        format!("use the system's ping: ping {ip}    (the way to its router: meshd ping {router})"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testmap;
    use meshd_proto::netmap::RecordSet;

    fn map() -> NetworkMap {
        let routes = [("192.168.0.0/16", 8), ("192.168.1.0/24", 7)];
        let mut map = testmap::named(testmap::map(&["10.5.0.0/16"], &routes));
        let nas = RecordSet { ttl: 60, values: vec![RecordValue::Address("192.168.1.10".parse().unwrap())] };
        map.dns.records.insert(("nas.home.internal".parse().unwrap(), RecordType::A), nas);
        map
    }

    fn told(target: &str) -> String {
        let failure = find_peer(&map(), target).unwrap_err();
        format!("{}; {}", failure.message, failure.hint)
    }

    #[test]
    fn a_node_that_means_itself_is_told_so() {
        for target in ["laptop", "LAPTOP", "laptop.home.internal.", "100.71.0.2", "fd7a:1:2::2"] {
            assert!(told(target).starts_with(&format!("`{target}` is this node itself")), "{target}");
        }
    }

    #[test]
    fn a_host_behind_a_router_is_for_the_ping_of_the_system() {
        assert_eq!(
            told("192.168.1.10"),
            "192.168.1.10 is no node: it is behind pi (192.168.1.0/24); \
             use the system's ping: ping 192.168.1.10    (the way to its router: meshd ping pi)"
        );
        assert!(told("192.168.2.1").contains("behind vps (192.168.0.0/16)"), "the longest prefix counts");
        for name in ["nas", "NAS", "nas.home.internal"] {
            assert!(told(name).starts_with(&format!("{name} (192.168.1.10) is no node: it is behind pi")));
        }
        assert!(told("10.5.1.1").contains("behind this node itself"));
    }

    #[test]
    fn what_nobody_knows_may_be_hidden() {
        for target in ["nobody", "203.0.113.9", "not a name"] {
            assert!(told(target).contains("policy hides"), "{target}");
        }
        assert_eq!(find_peer(&map(), "pi").unwrap().name.as_str(), "pi");
    }
}
