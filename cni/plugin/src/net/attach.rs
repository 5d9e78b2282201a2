//! Sets up one attachment, and takes it down.

use super::netlink::{Kernel, Link};
use super::{GATEWAY4, GATEWAY6, PodSpace, gateway, host_mac, host_name, sysctl};
use crate::failure::{Code, Failure};
use crate::request::Attachment;
use crate::result::{Attached, already_there};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is to be set up.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) network: &'a str,
    pub(crate) attachment: &'a Attachment,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) mtu: u32,
}

/// Makes the pair and gives both ends what they need. On an error nothing of it stays.
pub(crate) fn attach(plan: &Plan<'_>, space: &PodSpace) -> Result<Attached, Failure> {
    let pod = plan.attachment.interface.as_str();
    let host = host_name(plan.network, plan.attachment);
    if space.enter(|| Kernel::open()?.link(pod))?.is_some() {
        return Err(already_there(&plan.attachment.interface, &format!("{} has it", space.path)));
    }
    let kernel = Kernel::open()?;
    // Left by a call that was killed, for a namespace that this container no longer has.
    remove_host_end(&kernel, &host)?;
    let mac = host_mac(plan.network, plan.attachment);
    kernel.create_pair((&host, mac), pod, space.raw(), plan.mtu)?;
    let done = set_up_host(&kernel, plan, &host)
        .and_then(|host_mac| Ok((host_mac, space.enter(|| set_up_pod(plan))?)));
    match done {
        Ok((host_mac, pod_mac)) => Ok(Attached {
            host_name: host,
            host_mac,
            pod_mac,
            mtu: plan.mtu,
            addresses: plan.addresses.iter().map(|a| (*a, gateway(*a))).collect(),
        }),
        Err(failure) => {
            // The first error is the one to tell.
            let _ = remove_host_end(&kernel, &host);
            Err(failure)
        }
    }
}

/// Removes the pair; fine when it is gone. The pod's namespace need not be there.
pub(crate) fn detach(network: &str, attachment: &Attachment) -> Result<(), Failure> {
    remove_host_end(&Kernel::open()?, &host_name(network, attachment))
}

fn remove_host_end(kernel: &Kernel, name: &str) -> Result<(), Failure> {
    match kernel.link(name)? {
        None => Ok(()),
        Some(link) if link.is_veth => kernel.delete_link(name, link.index),
        Some(_) => {
            let details =
                format!("interface {name} has the name of a pod's host end and is no veth; rename it");
            Err(Failure::new(Code::Exists, "an interface of this host is in the way", details))
        }
    }
}

/// The host's end, its routes to the pod, and forwarding. Its hardware address.
fn set_up_host(kernel: &Kernel, plan: &Plan<'_>, name: &str) -> Result<String, Failure> {
    let link = present(kernel, name)?;
    for address in plan.addresses {
        if address.is_ipv4() {
            sysctl::forward_v4()?;
            // A source that is not the pod's is dropped on the way in, as long as the host does not make this loose.
            sysctl::ensure(&format!("ipv4/conf/{name}/rp_filter"), "1")?;
            // Of host scope: it answers ARP and is never the source of what the host itself sends.
            kernel.add_address(link.index, Ipv4Net::from(GATEWAY4).into(), true)?;
        } else {
            sysctl::forward_v6()?;
            sysctl::ensure(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
            sysctl::ensure(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
            kernel.add_address(link.index, IpNet::V6(link_local_gateway()), false)?;
        }
    }
    kernel.set_up(name, link.index)?;
    for address in plan.addresses {
        kernel.add_route(IpNet::from(*address), None, link.index)?;
    }
    Ok(link.mac)
}

/// The pod's end, in the pod's namespace. Its hardware address.
fn set_up_pod(plan: &Plan<'_>) -> Result<String, Failure> {
    let kernel = Kernel::open()?;
    let name = plan.attachment.interface.as_str();
    let link = present(&kernel, name)?;
    for address in plan.addresses {
        if address.is_ipv6() {
            // Runtimes switch IPv6 off in new namespaces.
            sysctl::ensure(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
            sysctl::ensure(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
        }
        kernel.add_address(link.index, IpNet::from(*address), false)?;
    }
    kernel.set_up(name, link.index)?;
    for address in plan.addresses {
        let any: IpNet = match address {
            IpAddr::V4(_) => {
                kernel.add_route(Ipv4Net::from(GATEWAY4).into(), None, link.index)?;
                IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0))
            }
            IpAddr::V6(_) => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
        };
        kernel.add_route(any, Some(gateway(*address)), link.index)?;
    }
    Ok(link.mac)
}

pub(super) const fn link_local_gateway() -> Ipv6Net {
    Ipv6Net::new_assert(GATEWAY6, 64)
}

fn present(kernel: &Kernel, name: &str) -> Result<Link, Failure> {
    kernel.link(name)?.ok_or_else(|| {
        let details = format!("interface {name} went while it was set up; was the container stopped?");
        Failure::new(Code::TryAgainLater, "the pod's interface has gone", details)
    })
}
