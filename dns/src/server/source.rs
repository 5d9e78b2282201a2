//! Who a question comes from: this host itself, a container on it, or somebody else.
//!
//! The resolver's address is local on every interface, so packets of LAN hosts, containers and peers
//! reach its socket, too. Their sources are not addresses of this host: the kernel drops what arrives
//! from outside under one of those (a "martian", whatever rp_filter says, unless accept_local is set).
//! Binding to a device would not tell: what a host sends to its own address counts as received by the
//! interface that has the address.
//!
//! Containers matter because they inherit the host's resolv.conf, and with it our address: their names
//! would stop working. They are what lives behind a bridge without a physical port.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;

/// Most addresses remembered; hosts with more ask the kernel again.
const MAX_KNOWN: usize = 64;
/// After this many questions everything is asked anew: addresses go away.
const REFRESH: u32 = 4096;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// This host.
    Own,
    /// A container or virtual machine on this host.
    Container,
    /// Anybody else.
    Stranger,
}

/// Remembers who is who, but for strangers.
#[derive(Debug, Default)]
pub(super) struct Sources {
    known: Vec<(IpAddr, Source)>,
    uses: u32,
}

impl Sources {
    /// Who `address` is.
    pub(super) fn kind(&mut self, address: IpAddr) -> Source {
        self.uses += 1;
        if self.uses > REFRESH || self.known.len() > MAX_KNOWN {
            *self = Self::default();
        }
        if let Some((_, kind)) = self.known.iter().find(|(known, _)| *known == address) {
            return *kind;
        }
        let kind = kind_of(address);
        if kind != Source::Stranger {
            self.known.push((address, kind));
        }
        kind
    }
}

/// Asks the kernel who `address` is.
pub(super) fn kind_of(address: IpAddr) -> Source {
    match address {
        _ if is_own(address) => Source::Own,
        IpAddr::V4(v4) if is_behind_bridge(Path::new("/"), v4) => Source::Container,
        _ => Source::Stranger,
    }
}

/// For an address of its own the kernel would use the same one as source. Sends nothing.
pub(super) fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source_towards = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, 53))?;
        socket.local_addr()
    };
    address.is_loopback() || source_towards().is_ok_and(|source| source.ip() == address)
}

fn is_behind_bridge(root: &Path, address: Ipv4Addr) -> bool {
    // `/proc/net` is that of the reading thread's network namespace.
    let table = fs::read_to_string(root.join("proc/net/route")).unwrap_or_default();
    connected_device(&table, address).is_some_and(|device| is_virtual_bridge(root, device))
}

/// The device of the longest connected route of `/proc/net/route` that covers `address`.
fn connected_device(table: &str, address: Ipv4Addr) -> Option<&str> {
    // Addresses are printed as numbers in the machine's own byte order.
    let number = |hex: &str| u32::from_str_radix(hex, 16).ok().map(|n| u32::from_be_bytes(n.to_ne_bytes()));
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().take(8).collect();
        let [device, destination, gateway, .., mask] = fields[..] else { return None };
        let (destination, gateway, mask) = (number(destination)?, number(gateway)?, number(mask)?);
        (gateway == 0 && mask != 0 && u32::from(address) & mask == destination).then_some((mask, device))
    });
    routes.max_by_key(|(mask, _)| *mask).map(|(_, device)| device)
}

/// Whether `device` is a bridge, and none of its ports is a physical one: behind those is a LAN.
fn is_virtual_bridge(root: &Path, device: &str) -> bool {
    let class = root.join("sys/class/net");
    let Ok(ports) = fs::read_dir(class.join(device).join("brif")) else { return false };
    !ports.flatten().any(|port| class.join(port.file_name()).join("device").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_own_and_a_documentation_address_is_a_stranger() {
        let mut sources = Sources::default();
        for own in ["127.0.0.1", "127.8.8.8", "::1"] {
            assert_eq!(sources.kind(own.parse().unwrap()), Source::Own, "{own}");
        }
        for other in ["203.0.113.7", "2001:db8::7"] {
            assert_eq!(sources.kind(other.parse().unwrap()), Source::Stranger, "{other}");
        }
        assert_eq!(sources.known.len(), 3);
    }

    #[test]
    fn a_container_is_behind_a_bridge_without_a_physical_port() {
        let hex = |ip: &str| format!("{:08X}", u32::from_ne_bytes(ip.parse::<Ipv4Addr>().unwrap().octets()));
        let route = |device: &str, to: &str, via: &str, mask: &str| {
            format!("{device}\t{}\t{}\t0001\t0\t0\t0\t{}\t0\t0\t0\n", hex(to), hex(via), hex(mask))
        };
        let root = tempfile::tempdir().unwrap();
        let dir = |path: &str| fs::create_dir_all(root.path().join(path)).unwrap();
        dir("proc/net");
        let table = "Iface\tDestination\t...\n".to_owned()
            + &route("eth0", "0.0.0.0", "192.168.1.1", "0.0.0.0")
            + &route("eth0", "192.168.1.0", "0.0.0.0", "255.255.255.0")
            + &route("docker0", "172.17.0.0", "0.0.0.0", "255.255.0.0")
            + &route("vmbr0", "10.0.0.0", "0.0.0.0", "255.0.0.0")
            + &route("br-app", "10.9.0.0", "0.0.0.0", "255.255.0.0")
            + "garbage\n";
        fs::write(root.path().join("proc/net/route"), table).unwrap();
        dir("sys/class/net/eth0/device");
        dir("sys/class/net/docker0/brif/veth1");
        dir("sys/class/net/br-app/brif");
        dir("sys/class/net/vmbr0/brif/eth1");
        dir("sys/class/net/eth1/device");
        let container = |ip: &str| is_behind_bridge(root.path(), ip.parse().unwrap());
        assert!(container("172.17.0.2"));
        assert!(container("10.9.1.1"), "the longest route counts");
        assert!(!container("10.1.1.1"), "a bridge to a LAN");
        assert!(!container("192.168.1.7"));
        assert!(!container("8.8.8.8"), "a default route is not a connection");
    }
}
