//! `CHECK`: what `ADD` has set up is still there.
//!
//! Compares and changes nothing. What a later plugin of the chain may have changed (more routes, more
//! addresses) is no difference.

use super::netlink::{Kernel, Link, Route};
use super::{GATEWAY4, PodSpace, gateway, host_name, sysctl};
use crate::failure::{Code, Failure};
use crate::request::Attachment;
use crate::result::PrevResult;
use ipnet::{IpNet, Ipv4Net};
use std::net::IpAddr;

/// # Errors
/// The first difference between `prev` with `addresses`, which the ledger says are this attachment's, and
/// the kernel.
pub(crate) fn check(
    network: &str,
    attachment: &Attachment,
    addresses: &[IpAddr],
    prev: &PrevResult,
    space: &PodSpace,
) -> Result<(), Failure> {
    let name = attachment.interface.as_str();
    let Some((place, expected)) = prev.in_pod(&attachment.interface) else {
        return Err(different(format!("prevResult has no interface {name} in a sandbox")));
    };
    for address in addresses {
        let listed = prev.ips.iter().any(|ip| ip.address.addr() == *address && ip.interface == Some(place));
        if !listed {
            return Err(different(format!("prevResult does not give {address} to {name}")));
        }
    }
    let host = host_name(network, attachment);
    let (pod_end, pod_addresses, pod_routes) = space.enter(|| read(name))?;
    let (host_end, host_addresses, host_routes) = read(&host)?;
    if host_end.peer != Some(pod_end.index) || pod_end.peer != Some(host_end.index) {
        return Err(different(format!("{host} and {name} are not the ends of one pair")));
    }
    for (link, shown) in [(&pod_end, name), (&host_end, host.as_str())] {
        if !link.up {
            return Err(different(format!("interface {shown} is down")));
        }
    }
    if !expected.mac.is_empty() && !expected.mac.eq_ignore_ascii_case(&pod_end.mac) {
        return Err(different(format!("{name} has address {}, not {}", pod_end.mac, expected.mac)));
    }
    if expected.mtu.is_some_and(|mtu| mtu != pod_end.mtu) {
        return Err(different(format!("{name} has MTU {}", pod_end.mtu)));
    }
    for address in addresses {
        let (net, via) = (IpNet::from(*address), gateway(*address));
        let gateway_net = match via {
            IpAddr::V4(_) => IpNet::V4(Ipv4Net::from(GATEWAY4)),
            IpAddr::V6(_) => IpNet::V6(super::attach::link_local_gateway()),
        };
        if !pod_addresses.contains(&net) {
            return Err(different(format!("{name} does not have {net}")));
        }
        if !host_addresses.contains(&gateway_net) {
            return Err(different(format!("{host} does not have {gateway_net}")));
        }
        let to_pod = Route { to: net, gateway: None, link: host_end.index };
        if !host_routes.contains(&to_pod) {
            return Err(different(format!("this host has no route to {net} over {host}")));
        }
        let default = |r: &&Route| r.to.prefix_len() == 0 && r.link == pod_end.index;
        if !pod_routes.iter().filter(default).any(|r| r.gateway == Some(via)) {
            return Err(different(format!("the pod has no default route by {via}")));
        }
        if !sysctl::forwards(address.is_ipv4())? {
            return Err(different(format!("this host does not forward what is for {address}")));
        }
    }
    Ok(())
}

fn read(name: &str) -> Result<(Link, Vec<IpNet>, Vec<Route>), Failure> {
    let kernel = Kernel::open()?;
    let link = kernel.link(name)?.ok_or_else(|| different(format!("there is no interface {name}")))?;
    let addresses = kernel.addresses(link.index)?;
    Ok((link, addresses, kernel.routes()?))
}

fn different(what: String) -> Failure {
    let details = format!("{what}; remove the pod and let it be made again");
    Failure::new(Code::Different, "the pod's network is not as ADD left it", details)
}
