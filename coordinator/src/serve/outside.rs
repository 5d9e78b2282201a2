//! How this machine is reached from outside, as far as it can know, and what ranges it uses.

use super::ask;
use anyhow::{Context, Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use meshd_proto::addr::is_public_unicast;
use meshd_proto::{DnsName, MeshPrefixes};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Free for all, of two companies.
const STUN_SERVERS: [&str; 2] = ["stun.cloudflare.com:3478", "stun.l.google.com:19302"];
/// RFC 8489 §18.4.
const STUN_PORT: u16 = 3478;

/// Where machines reach the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outside {
    /// `host:port`, in the order to try.
    pub(super) addresses: Vec<String>,
    /// The same without ports, for the relay.
    pub(super) hosts: Vec<String>,
    /// Whether machines elsewhere on the internet can be expected to get here.
    pub(super) reach: Reach,
}

/// What is known about reachability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// An admin named the addresses.
    Told,
    /// This host has a public address of its own.
    Public,
    /// This host has private addresses only: it sits behind a router or a 1:1 NAT.
    Private(IpAddr),
    /// The same, and how the internet sees it.
    Mapped {
        /// Its own address.
        own: IpAddr,
        /// The address outside.
        outside: IpAddr,
    },
    /// No address but loopback.
    LoopbackOnly,
}

impl Outside {
    /// The TCP port of the first address: a router may map another one to ours.
    pub(super) fn first_port(&self) -> Option<u16> {
        self.addresses.first()?.rsplit_once(':')?.1.parse().ok()
    }

    /// Asks STUN servers where this host has private addresses only. The own address stays in the list:
    /// machines beside it reach it there, also where the router does not loop back.
    /// While nobody answers, what was found before (`known`) stays: a coordinator may start before its network.
    pub(super) async fn seen_from_outside(self, servers: &[String], known: &[String], port: u16) -> Outside {
        let Reach::Private(own) = self.reach else { return self };
        match ask::outside_address(servers).await.or_else(|| public_v4(known)) {
            Some(outside) => self.mapped(own, outside, port),
            None => self,
        }
    }

    fn mapped(mut self, own: IpAddr, outside: IpAddr, port: u16) -> Outside {
        self.addresses.insert(0, SocketAddr::new(outside, port).to_string());
        self.hosts.insert(0, outside.to_string());
        self.reach = Reach::Mapped { own, outside };
        self
    }
}

/// The first public IPv4 address of `host:port` texts.
fn public_v4(addresses: &[String]) -> Option<IpAddr> {
    let sockets = addresses.iter().filter_map(|text| text.parse::<SocketAddr>().ok());
    sockets.map(|s| s.ip()).find(|ip| ip.is_ipv4() && is_public_unicast(*ip))
}

/// Where packets to the internet leave, IPv4 and IPv6.
fn outbound() -> [Option<IpAddr>; 2] {
    [own_address("1.1.1.1:53"), own_address("[2606:4700:4700::1111]:53")]
}

/// Whether this host goes out through an exit of its own mesh: who is asked would see that one.
pub(super) fn uses_exit(mesh: &MeshPrefixes) -> bool {
    outbound().into_iter().flatten().any(|ip| mesh.contains(ip))
}

/// The addresses an admin named, or those this host has itself. Never one of the mesh: nobody gets there who
/// has not reached the coordinator otherwise.
pub(super) fn find(public: &[String], port: u16, mesh: &MeshPrefixes) -> Result<Outside> {
    if public.is_empty() {
        let beside = || own_address(&format!("{}:53", default_gateway()?));
        return Ok(from_own(&usable(outbound(), beside, mesh), port));
    }
    let told = public.iter().map(|text| parse_public(text, port)).collect::<Result<Vec<_>>>()?;
    let (hosts, addresses) = told.into_iter().unzip();
    Ok(Outside { addresses, hosts, reach: Reach::Told })
}

/// Adds the names that a certificate is ordered for: visitors come by them.
pub(super) fn add_names(told: &mut Vec<String>, names: &[DnsName]) {
    for name in names.iter().map(ToString::to_string) {
        let known = |text: &String| parse_public(text, 443).is_ok_and(|(host, _)| host == name);
        if !told.iter().any(known) {
            told.push(name);
        }
    }
}

/// Whether what an admin named can be used, before anything is made by it.
pub(super) fn check(public: &[String]) -> Result<()> {
    public.iter().try_for_each(|text| parse_public(text, 443).map(drop))
}

fn from_own(found: &[IpAddr], port: u16) -> Outside {
    let mut ips: Vec<IpAddr> = found.to_vec();
    let reach = match ips.iter().find(|ip| is_public_unicast(**ip)) {
        Some(_) => Reach::Public,
        None => ips.first().map_or(Reach::LoopbackOnly, |ip| Reach::Private(*ip)),
    };
    // A private address beside a public one leads strangers astray.
    if reach == Reach::Public {
        ips.retain(|ip| is_public_unicast(*ip));
    }
    if ips.is_empty() {
        ips.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    Outside {
        addresses: ips.iter().map(|ip| SocketAddr::new(*ip, port).to_string()).collect(),
        hosts: ips.iter().map(ToString::to_string).collect(),
        reach,
    }
}

/// The source address that packets to `target` would have. Nothing is sent.
fn own_address(target: &str) -> Option<IpAddr> {
    let target: SocketAddr = target.parse().ok()?;
    let any: SocketAddr =
        if target.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

/// Addresses outside the mesh; in the place of an IPv4 address inside it the one towards the router (`beside`),
/// which an exit does not take away.
fn usable(
    found: [Option<IpAddr>; 2],
    beside: impl FnOnce() -> Option<IpAddr>,
    mesh: &MeshPrefixes,
) -> Vec<IpAddr> {
    let outside = |ip: &IpAddr| !mesh.contains(*ip);
    let v4 = match found[0] {
        Some(ip) if !outside(&ip) => beside().filter(outside),
        v4 => v4,
    };
    [v4, found[1].filter(outside)].into_iter().flatten().collect()
}

/// The router of the main table's default route, IPv4.
fn default_gateway() -> Option<Ipv4Addr> {
    gateway_of(&std::fs::read_to_string("/proc/net/route").ok()?)
}

/// The gateway of the default route with the lowest metric in the text of `/proc/net/route`.
fn gateway_of(table: &str) -> Option<Ipv4Addr> {
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes);
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (target, gateway, mask) = (fields.get(1)?, fields.get(2)?, fields.get(7)?);
        let metric: u32 = fields.get(6)?.parse().ok()?;
        let gateway = Ipv4Addr::from(word(gateway)?);
        let default = word(target)? == [0; 4] && word(mask)? == [0; 4] && !gateway.is_unspecified();
        default.then_some((metric, gateway))
    });
    routes.min().map(|(_, gateway)| gateway)
}

/// STUN servers as an admin names them, `none` for none; else the usual ones.
pub(super) fn stun_servers(said: &[String]) -> Result<Vec<String>> {
    if said.is_empty() {
        return Ok(STUN_SERVERS.map(str::to_owned).to_vec());
    }
    let named = said.iter().filter(|text| *text != "none");
    named.map(|text| Ok(parse_public(text, STUN_PORT).context("--stun-server")?.1)).collect()
}

/// `NAME`, `IP`, `NAME:PORT`, `IP:PORT` or `[IPv6]:PORT`, as `(host, host:port)`.
fn parse_public(text: &str, port: u16) -> Result<(String, String)> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok((ip.to_string(), SocketAddr::new(ip, port).to_string()));
    }
    if let Ok(socket) = text.parse::<SocketAddr>()
        && socket.port() != 0
    {
        return Ok((socket.ip().to_string(), socket.to_string()));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, digits)) => match digits.parse::<u16>() {
            Ok(named) if named != 0 => (host, named),
            _ => bail!("--public {text}: `{digits}` is no port; write NAME, IP, NAME:PORT or [IPV6]:PORT"),
        },
        None => (text, port),
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.is_empty() || last.bytes().all(|b| b.is_ascii_digit()) {
        bail!("--public {text}: `{host}` is neither a name nor an IP address");
    }
    match host.parse::<DnsName>() {
        Ok(name) => Ok((name.to_string(), format!("{name}:{port}"))),
        Err(e) => bail!("--public {text}: {e}"),
    }
}

/// Networks this host has a route to, from the kernel's main tables. Empty where they cannot be read.
pub(super) fn networks_in_use() -> Vec<IpNet> {
    let v4 = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let v4 = v4.lines().skip(1).filter_map(route_v4).map(IpNet::V4);
    v4.chain(v6.lines().filter_map(route_v6).map(IpNet::V6)).collect()
}

/// A line of `/proc/net/route`: addresses are hexadecimal in host byte order of the machine.
fn route_v4(line: &str) -> Option<Ipv4Net> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let word = |i: usize| fields.get(i).and_then(|f| u32::from_str_radix(f, 16).ok()).map(u32::to_ne_bytes);
    let mask = Ipv4Addr::from(word(7)?);
    Ipv4Net::with_netmask(Ipv4Addr::from(word(1)?), mask).ok()
}

/// A line of `/proc/net/ipv6_route`.
fn route_v6(line: &str) -> Option<Ipv6Net> {
    let mut fields = line.split_whitespace();
    let addr = u128::from_str_radix(fields.next()?, 16).ok()?;
    let len = u8::from_str_radix(fields.next()?, 16).ok()?;
    Ipv6Net::new(Ipv6Addr::from(addr), len).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_is_a_name_or_an_address_with_or_without_a_port() {
        let says = |text| parse_public(text, 443).map(|(host, full)| format!("{host} {full}"));
        assert_eq!(says("vpn.example.com").unwrap(), "vpn.example.com vpn.example.com:443");
        assert_eq!(says("vpn.example.com:8443").unwrap(), "vpn.example.com vpn.example.com:8443");
        assert_eq!(says("192.0.2.1").unwrap(), "192.0.2.1 192.0.2.1:443");
        assert_eq!(says("192.0.2.1:444").unwrap(), "192.0.2.1 192.0.2.1:444");
        assert_eq!(says("2001:db8::1").unwrap(), "2001:db8::1 [2001:db8::1]:443");
        assert_eq!(says("[2001:db8::1]:444").unwrap(), "2001:db8::1 [2001:db8::1]:444");
        for bad in ["", "a b", "host:port", "192.0.2.400", "https://x", "x:0"] {
            assert!(says(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_private_address_is_not_sold_as_reachable() {
        let private: IpAddr = "10.0.0.5".parse().unwrap();
        let public: IpAddr = "9.9.9.9".parse().unwrap();
        assert_eq!(from_own(&[private], 443).reach, Reach::Private(private));
        let both = from_own(&[private, public], 443);
        assert_eq!((both.reach, both.addresses), (Reach::Public, vec!["9.9.9.9:443".to_owned()]));
        assert_eq!(from_own(&[], 443).reach, Reach::LoopbackOnly);
    }

    #[test]
    fn an_outside_address_comes_before_the_own_one() {
        let (own, outside): (IpAddr, IpAddr) = ("10.0.0.5".parse().unwrap(), "9.9.9.9".parse().unwrap());
        let found = from_own(&[own], 8443).mapped(own, outside, 8443);
        assert_eq!(found.addresses, ["9.9.9.9:8443", "10.0.0.5:8443"]);
        assert_eq!(
            (found.hosts, found.reach),
            (vec!["9.9.9.9".into(), "10.0.0.5".into()], Reach::Mapped { own, outside })
        );
    }

    #[test]
    fn stun_servers_are_the_usual_ones_or_those_named_or_none() {
        let named = |said: &[&str]| stun_servers(&said.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(named(&[]).unwrap().len(), 2);
        assert!(named(&["none"]).unwrap().is_empty());
        assert_eq!(
            named(&["stun.example.net", "192.0.2.1:5"]).unwrap(),
            ["stun.example.net:3478", "192.0.2.1:5"]
        );
        assert!(named(&["a b"]).is_err());
    }

    #[test]
    fn a_certified_name_is_a_public_one_unless_it_is_named_already() {
        let mut told = vec!["vpn.example.com:8443".to_owned()];
        add_names(&mut told, &["VPN.example.com".parse().unwrap(), "b.example.com".parse().unwrap()]);
        assert_eq!(told, ["vpn.example.com:8443", "b.example.com"]);
    }

    #[test]
    fn an_address_of_the_mesh_is_never_taken_for_the_outside_one() {
        let mesh =
            MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() };
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let through_an_exit = [ip("100.71.0.7"), ip("fd7a:1:2::7")];
        assert_eq!(usable(through_an_exit, || ip("192.168.0.5"), &mesh), [ip("192.168.0.5").unwrap()]);
        assert!(usable(through_an_exit, || ip("100.71.0.7"), &mesh).is_empty());
        assert_eq!(usable([ip("9.9.9.9"), None], || panic!("not asked"), &mesh), [ip("9.9.9.9").unwrap()]);
    }

    #[tokio::test]
    async fn what_was_found_before_stays_when_nobody_answers() {
        let known = ["vpn.example.com:443".to_owned(), "10.0.0.5:443".to_owned(), "9.9.9.9:443".to_owned()];
        let own = "10.0.0.5".parse().unwrap();
        let outside = from_own(&[own], 443).seen_from_outside(&[], &known, 443).await;
        assert_eq!(outside.addresses, ["9.9.9.9:443", "10.0.0.5:443"]);
    }

    #[test]
    fn the_router_of_the_main_table_is_found() {
        let head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
        let lan = "eth0 0001A8C0 00000000 0001 0 0 100 00FFFFFF 0 0 0\n";
        let far = "wlan0 00000000 0101A8C0 0003 0 0 600 00000000 0 0 0\n";
        let near = "eth0 00000000 0100A8C0 0003 0 0 100 00000000 0 0 0\n";
        if cfg!(target_endian = "little") {
            let found = gateway_of(&format!("{head}{lan}{far}{near}")).unwrap();
            assert_eq!(found.to_string(), "192.168.0.1");
        }
        assert_eq!(gateway_of(&format!("{head}{lan}")), None);
    }

    #[test]
    fn kernel_routes_are_read() {
        let line = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0";
        if cfg!(target_endian = "little") {
            assert_eq!(route_v4(line).unwrap().to_string(), "192.168.1.0/24");
        }
        let line = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 0 0 0 0 eth0";
        assert_eq!(route_v6(line).unwrap().to_string(), "fd00::/64");
    }
}
