//! Whether something else on this host uses the mesh's addresses, and which range is free.

use super::ruleset::Field;
use super::{Conflict, ConflictKind, HostFacts, MeshUse};
use crate::os::checksum::fnv1a;
use crate::os::links::Link;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// How Kubernetes network plugins name their interfaces.
const KUBERNETES: [&str; 9] =
    ["cni", "flannel", "cali", "cilium", "kube", "weave", "antrea", "ovn-k8s", "nodelocaldns"];
/// How VPNs name theirs.
const VPNS: [&str; 8] = ["tailscale", "wg", "tun", "tap", "ppp", "zt", "nebula", "utun"];

pub(super) fn conflicts(facts: &HostFacts, mesh: &MeshUse<'_>) -> Vec<Conflict> {
    let used = used_networks(facts, mesh);
    let mut found = Vec::new();
    for range in [IpNet::V4(mesh.prefixes.v4), IpNet::V6(mesh.prefixes.v6)] {
        let mut named: Vec<&str> = Vec::new();
        for (net, by, user) in used.iter().filter(|(net, ..)| overlap(*net, range)) {
            // An interface's address and its route are one cause.
            if named.contains(&user.as_str()) {
                continue;
            }
            named.push(user);
            let free = match range {
                IpNet::V4(v4) => free_v4(v4, &used).map(IpNet::V4),
                IpNet::V6(v6) => Some(IpNet::V6(free_v6(v6))),
            };
            found.push(Conflict {
                kind: ConflictKind::PrefixInUse,
                what: format!("{by} uses {net}"),
                why: format!("the mesh uses {range}: its nodes and these hosts cannot be told apart here"),
                help_command: match free {
                    Some(free) => format!("meshd-coordinator serve --prefix {free}"),
                    None => "meshd-coordinator serve --prefix A.B.0.0/16".into(),
                },
            });
        }
    }
    found
}

/// `(network, who uses it in words, a key for that user)`.
fn used_networks(facts: &HostFacts, mesh: &MeshUse<'_>) -> Vec<(IpNet, String, String)> {
    let mut used = Vec::new();
    let foreign = |link: &&Link| link.name != mesh.interface.as_str() && !link.loopback;
    for link in facts.links.iter().filter(foreign) {
        let by = name_user(facts, link);
        used.extend(link.addresses.iter().map(|net| (net.trunc(), by.clone(), link.name.clone())));
    }
    for (prefix, index) in &facts.routes {
        let Some(link) = facts.links.iter().filter(foreign).find(|l| l.index == *index) else { continue };
        used.push((prefix.net(), name_user(facts, link), link.name.clone()));
    }
    for chain in facts.ruleset.chains.iter().filter(|c| c.name.starts_with("KUBE-")) {
        for condition in chain.rules.iter().flat_map(|r| &r.conditions).filter(|c| !c.negated) {
            if let Field::Destination(nets) = &condition.field {
                let by = format!("Kubernetes on this host (its services, chain {})", chain.name);
                used.extend(nets.iter().map(|net| (*net, by.clone(), "kubernetes services".to_owned())));
            }
        }
    }
    used
}

fn name_user(facts: &HostFacts, link: &Link) -> String {
    let named = |prefixes: &[&str]| prefixes.iter().any(|p| link.name.starts_with(p));
    let tunnel = matches!(link.kind.as_deref(), Some("wireguard" | "tun"));
    let name = &link.name;
    if named(&KUBERNETES) {
        format!("Kubernetes on this host (interface {name})")
    } else if named(&VPNS) || tunnel {
        format!("another VPN (interface {name})")
    } else if facts.uplinks.contains(&link.index) {
        format!("the uplink {name}")
    } else {
        format!("interface {name}")
    }
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.prefix_len() != 0 && (a.contains(&b) || b.contains(&a))
}

/// The first /16 that nothing here uses: from the range for shared addresses, else from 10/8.
fn free_v4(mesh: Ipv4Net, used: &[(IpNet, String, String)]) -> Option<Ipv4Net> {
    let shared = (64..128).map(|n| Ipv4Addr::new(100, n, 0, 0));
    let private = (0..=255).rev().map(|n| Ipv4Addr::new(10, n, 0, 0));
    let candidates = shared.chain(private).filter_map(|addr| Ipv4Net::new(addr, 16).ok());
    let taken = |c: Ipv4Net| used.iter().any(|(net, ..)| overlap(*net, IpNet::V4(c)));
    candidates.into_iter().find(|c| !overlap(IpNet::V4(*c), IpNet::V4(mesh)) && !taken(*c))
}

/// Another /48 of the local range, by a hash of the present one.
fn free_v6(mesh: Ipv6Net) -> Ipv6Net {
    let hash = fnv1a(&mesh.network().octets());
    let bits = (0xfd_u128 << 120) | (u128::from(hash >> 24) << 80);
    Ipv6Net::new(Ipv6Addr::from(bits), 48).map_or(mesh, |net| net.trunc())
}
