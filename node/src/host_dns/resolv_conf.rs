//! resolv.conf(5) as text: reading what others wrote, writing ours. Pure.
//!
//! Ours begins with [`MARK`] and carries what was there before in lines that begin with [`KEPT`]: a
//! person can put it back by hand, and so can we when the journal is lost.

use meshd_proto::DnsName;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The first line of a file of ours begins with this.
pub const MARK: &str = "# Written by meshd";
/// Before each line of what was there before us.
pub const KEPT: &str = "#| ";
/// A larger file is not a resolv.conf.
pub(super) const MAX_SIZE: usize = 1 << 16;
/// As many as libc asks (MAXNS).
const MAX_SERVERS: usize = 3;

/// What a resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// `nameserver` lines; a zone index stays text, since only the host knows its number.
    pub servers: Vec<(IpAddr, Option<String>)>,
    /// The search list: the last of `search` and `domain` counts.
    pub search: Vec<String>,
    /// `options` and `sortlist` lines, whole.
    pub kept: Vec<String>,
}

impl ResolvConf {
    /// Reads a file as glibc does: unknown lines and bad addresses are passed over.
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_SIZE)]);
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            // libc reads keywords at the beginning of a line only.
            let keyword = if line.starts_with([' ', '\t']) { None } else { words.next() };
            match keyword {
                Some("nameserver") if conf.servers.len() < MAX_SERVERS => {
                    conf.servers.extend(words.next().and_then(server));
                }
                Some("search") => conf.search = words.map(str::to_owned).collect(),
                Some("domain") => conf.search = words.take(1).map(str::to_owned).collect(),
                Some("options" | "sortlist") => conf.kept.push(line.trim_end().to_owned()),
                _ => (),
            }
        }
        conf
    }

    /// The servers as sockets, without `not`. `zone_index` turns an interface name into its number.
    pub fn sockets(&self, not: &[IpAddr], zone_index: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
        let socket = |(ip, zone): &(IpAddr, Option<String>)| match (ip, zone) {
            (IpAddr::V6(v6), Some(zone)) => {
                let index = zone.parse().ok().or_else(|| zone_index(zone))?;
                Some(SocketAddr::V6(SocketAddrV6::new(*v6, 53, 0, index)))
            }
            // What libc makes of `nameserver 0.0.0.0`: this host.
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), _) => Some((Ipv4Addr::LOCALHOST, 53).into()),
            (IpAddr::V6(Ipv6Addr::UNSPECIFIED), _) => Some((Ipv6Addr::LOCALHOST, 53).into()),
            (ip, _) => Some((*ip, 53).into()),
        };
        self.servers.iter().filter(|(ip, _)| !not.contains(ip)).filter_map(socket).collect()
    }
}

fn server(word: &str) -> Option<(IpAddr, Option<String>)> {
    match word.split_once('%') {
        None => Some((word.parse().ok()?, None)),
        Some((ip, zone)) if !zone.is_empty() && zone.len() < 16 => {
            Some((IpAddr::V6(ip.parse().ok()?), Some(zone.to_owned())))
        }
        Some(_) => None,
    }
}

/// Our file in place of `previous`: our resolver alone (one that knows no mesh names beside it would
/// be asked too, by musl even first), our search domains before theirs, their options.
pub(super) fn render(previous: &[u8], resolver: Ipv4Addr, search: &[DnsName]) -> String {
    let before = ResolvConf::parse(previous);
    let mut text = format!(
        "{MARK}: {resolver} answers names of the mesh and sends all others on.\n\
         # `meshd down` and `meshd cleanup` put back what was here before, which is kept below.\n\
         nameserver {resolver}\n"
    );
    let ours = search.iter().map(|s| s.as_str().to_owned());
    let mut all: Vec<String> = Vec::new();
    for domain in ours.chain(before.search) {
        if !all.iter().any(|d| d.eq_ignore_ascii_case(&domain)) {
            all.push(domain);
        }
    }
    if !all.is_empty() {
        text.push_str(&format!("search {}\n", all.join(" ")));
    }
    for line in &before.kept {
        text.push_str(&format!("{line}\n"));
    }
    let previous = String::from_utf8_lossy(&previous[..previous.len().min(MAX_SIZE)]);
    for line in previous.lines() {
        text.push_str(&format!("{KEPT}{line}\n"));
    }
    text
}

/// Whether a file is ours.
pub(super) fn is_ours(bytes: &[u8]) -> bool {
    bytes.starts_with(MARK.as_bytes())
}

/// What a file of ours replaced, from its own comments; ends of lines may differ from the original.
pub(super) fn kept_in(ours: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(ours);
    let kept = text.lines().filter_map(|line| line.strip_prefix(KEPT));
    kept.flat_map(|line| [line, "\n"]).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DHCP: &[u8] = b"# Generated by NetworkManager\ndomain old.lan\nsearch lan corp.example\n\
        nameserver 192.168.1.1\nnameserver fe80::1%eth0\n nameserver 9.9.9.9\nnameserver bogus\n\
        nameserver 2001:db8::53\nnameserver 8.8.8.8\noptions edns0 timeout:1\nsortlist 10.0.0.0\nlookup file\n";

    #[test]
    fn a_file_is_read_as_libc_reads_it() {
        let conf = ResolvConf::parse(DHCP);
        assert_eq!(conf.search, ["lan", "corp.example"]);
        assert_eq!(conf.kept, ["options edns0 timeout:1", "sortlist 10.0.0.0"]);
        let sockets = conf.sockets(&["192.168.1.1".parse().unwrap()], |zone| (zone == "eth0").then_some(2));
        let shown: Vec<_> = sockets.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["[fe80::1%2]:53", "[2001:db8::53]:53"], "three servers, without ours");
        assert_eq!(ResolvConf::parse(&[0xff; 100_000]), ResolvConf::default());
    }

    #[test]
    fn our_file_names_us_first_and_keeps_search_options_and_the_original() {
        insta::assert_snapshot!(render(
            DHCP,
            Ipv4Addr::new(100, 71, 0, 53),
            &["home.internal".parse().unwrap(), "LAN".parse().unwrap()]
        ), @r"
        # Written by meshd: 100.71.0.53 answers names of the mesh and sends all others on.
        # `meshd down` and `meshd cleanup` put back what was here before, which is kept below.
        nameserver 100.71.0.53
        search home.internal lan corp.example
        options edns0 timeout:1
        sortlist 10.0.0.0
        #| # Generated by NetworkManager
        #| domain old.lan
        #| search lan corp.example
        #| nameserver 192.168.1.1
        #| nameserver fe80::1%eth0
        #|  nameserver 9.9.9.9
        #| nameserver bogus
        #| nameserver 2001:db8::53
        #| nameserver 8.8.8.8
        #| options edns0 timeout:1
        #| sortlist 10.0.0.0
        #| lookup file
        ");
    }

    #[test]
    fn our_file_carries_what_it_replaced() {
        let ours = render(DHCP, Ipv4Addr::LOCALHOST, &[]);
        assert!(is_ours(ours.as_bytes()) && !is_ours(DHCP));
        assert_eq!(kept_in(ours.as_bytes()), DHCP);
    }
}
