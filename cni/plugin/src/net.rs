//! The pod's side and the host's side of an attachment, in the kernel.
//!
//! A pod has a veth pair: its end carries the pod's addresses as /32 and /128 and a default route by
//! [`GATEWAY4`] and [`GATEWAY6`], which every host end has for itself; the host has one route for each
//! address of the pod. No bridge, no proxy ARP, nothing that two pods share.
//! Invariant: the host end has a name made of network, container and interface ([`host_name`]), so that it
//! is found and removed without the pod's namespace.

pub(crate) mod attach;
pub(crate) mod check;
mod netlink;
mod space;
mod sysctl;

use crate::request::Attachment;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) use space::PodSpace;

/// What pods send everything to: addresses of every host end, of no meaning outside that link.
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The host end's name: "veth", by which other programs know what not to touch, and 44 bits of a hash.
pub(crate) fn host_name(network: &str, attachment: &Attachment) -> String {
    let hex: String = hash(network, attachment).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("veth{}", &hex[..11])
}

/// The host end's hardware address, locally administered. Set and not left to the kernel, since udev gives
/// interfaces with a random one another one a moment later, and the pod would send to the first.
fn host_mac(network: &str, attachment: &Attachment) -> [u8; 6] {
    let hash = hash(network, attachment);
    [(hash[6] & 0xfc) | 0x02, hash[7], hash[8], hash[9], hash[10], hash[11]]
}

fn hash(network: &str, attachment: &Attachment) -> [u8; 32] {
    let key = format!("{network}\n{}\n{}", attachment.container.as_str(), attachment.interface.as_str());
    Sha256::digest(key.as_bytes()).into()
}

/// The gateway of a pod's address.
pub(crate) const fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { IpAddr::V4(GATEWAY4) } else { IpAddr::V6(GATEWAY6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_host_ends_fit_the_kernel_and_differ() {
        let of = |network, container, interface| {
            let json = serde_json::json!({ "container": container, "interface": interface });
            host_name(network, &serde_json::from_value(json).expect("good"))
        };
        let names =
            [of("a", "b", "c"), of("a", "c", "b"), of("a", "b", "d"), of("e", "b", "c"), of("a", "bc", "d")];
        assert!(names.iter().all(|n| n.len() == 15 && n.starts_with("veth")), "{names:?}");
        assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), names.len());
        assert_eq!(of("a", "b", "c"), "vethea7fb08b7a2", "an upgrade finds what an older release made");
    }
}
