//! Addresses of services: what arrives from the mesh for one goes to an endpoint on this node.
//!
//! Our chain stands before that of kube-proxy, and the first translation of a connection counts. Nothing is
//! masqueraded: an endpoint sees the client. What arrives for such an address and no port of ours takes is
//! dropped here; it would leave by the default route.
//!
//! Invariants: only packets from the mesh interface are touched, so that clients on this node and in its pods
//! stay kube-proxy's · whoever may not use a port is dropped before it is translated.

use super::super::checksum::fnv1a;
use super::super::desired::IfName;
use meshd_proto::cluster::Transport;
use meshd_proto::netmap::Forward;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// Before `dstnat` (-100), where kube-proxy is in both of its modes.
pub(super) const PRIORITY: i32 = -110;

type Rules = Vec<(&'static str, String)>;

pub(super) fn rules<'a>(name: &IfName, forwards: impl Iterator<Item = &'a Forward>) -> Rules {
    let mut rules = Rules::new();
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    for forward in forwards {
        let Some(transport) = Transport::of_number(forward.protocol) else { continue };
        addresses.insert(forward.address);
        let family = family(forward.address);
        let to = format!(
            "iifname \"{name}\" {family} daddr {} {transport} dport {}",
            forward.address, forward.port
        );
        if !forward.sources.is_empty() {
            let sources = super::without_covered(&forward.sources.iter().copied().collect());
            let any = forward.sources.iter().any(meshd_proto::Prefix::is_default);
            let set: Vec<String> = sources.iter().map(ToString::to_string).collect();
            if !any {
                rules.push((
                    "a source that the service does not let in",
                    format!("{to} {family} saddr != {{ {} }} drop", set.join(", ")),
                ));
            }
        }
        rules.push(("to an endpoint of the service", format!("{to} dnat {}", destination(forward, family))));
    }
    for v4 in [true, false] {
        let all: Vec<String> =
            addresses.iter().filter(|ip| ip.is_ipv4() == v4).map(ToString::to_string).collect();
        if let Some(first) = addresses.iter().find(|ip| ip.is_ipv4() == v4) {
            let rule = format!("iifname \"{name}\" {} daddr {{ {} }} drop", family(*first), all.join(", "));
            rules.push(("a port that no service has", rule));
        }
    }
    rules
}

/// `dnat`'s argument: one endpoint, or a choice among several.
fn destination(forward: &Forward, family: &str) -> String {
    if let [only] = forward.endpoints.as_slice() {
        return format!("{family} to {only}");
    }
    let choice = if forward.sticky {
        // The same client, the same endpoint, on every owner that has the same ones; the seed keeps services
        // apart, or the first of each would get the same clients.
        let seed = fnv1a(format!("{}{}", forward.address, forward.port).as_bytes()) & 0xffff_ffff;
        format!("jhash {family} saddr mod {} seed {seed:#x}", forward.endpoints.len())
    } else {
        format!("numgen random mod {}", forward.endpoints.len())
    };
    let pair = |(i, e): (usize, &SocketAddr)| format!("{i} : {} . {}", e.ip(), e.port());
    let map: Vec<String> = forward.endpoints.iter().enumerate().map(pair).collect();
    format!("{family} to {choice} map {{ {} }}", map.join(", "))
}

const fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "ip" } else { "ip6" }
}
