//! The naive evaluator: no index, no class, no compiled rule. It reads the strings of each entry and
//! asks one after the other, and shares no code with the crate but the address types.

use ipnet::IpNet;
use meshd_policy::Flow;
use meshd_proto::addr::is_public_unicast;
use meshd_proto::{MeshAddrs, MeshPrefixes, Prefix};
use std::collections::BTreeMap;
use std::net::IpAddr;

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) owner: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) routes: Vec<Prefix>,
}

/// One entry of `acls` or `grants`.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) src: Vec<String>,
    pub(crate) dst: Vec<String>,
    pub(crate) grant: bool,
    /// Empty: none named.
    pub(crate) protocol: String,
    pub(crate) ports: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    pub(crate) groups: BTreeMap<&'static str, Vec<String>>,
    pub(crate) hosts: BTreeMap<&'static str, &'static str>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) nodes: Vec<Node>,
}

impl Node {
    fn user(&self) -> Option<&str> {
        if self.tags.is_empty() { self.owner.as_deref() } else { None }
    }
}

impl Mesh {
    pub(crate) fn addrs(i: usize) -> MeshAddrs {
        let n = i + 1;
        MeshAddrs {
            v4: format!("100.71.0.{n}").parse().unwrap(),
            v6: format!("fd7a:1:2::{n:x}").parse().unwrap(),
        }
    }

    pub(crate) fn prefixes() -> MeshPrefixes {
        MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() }
    }

    /// The policy text: every entry on a line of its own, `acls` first.
    pub(crate) fn text(&self) -> String {
        let quote = |list: &[String]| list.iter().map(|s| format!("\"{s}\"")).collect::<Vec<_>>().join(", ");
        let groups: Vec<_> =
            self.groups.iter().map(|(name, users)| format!("\"{name}\": [{}]", quote(users))).collect();
        let hosts: Vec<_> = self.hosts.iter().map(|(name, addr)| format!("\"{name}\": \"{addr}\"")).collect();
        let (mut acls, mut grants) = (String::new(), String::new());
        for entry in self.in_order() {
            if entry.grant {
                let colon = if entry.protocol.is_empty() { "" } else { ":" };
                let ip = format!("{}{colon}{}", entry.protocol, entry.ports);
                grants += &format!(
                    "{{\"src\": [{}], \"dst\": [{}], \"ip\": [\"{ip}\"]}},\n",
                    quote(&entry.src),
                    quote(&entry.dst)
                );
            } else {
                let dst: Vec<_> = entry.dst.iter().map(|d| format!("{d}:{}", entry.ports)).collect();
                let dst: Vec<_> = dst
                    .into_iter()
                    .map(|d| if d.starts_with("::/0") { d.replace("::/0", "[::/0]") } else { d })
                    .collect();
                let proto = if entry.protocol.is_empty() {
                    String::new()
                } else {
                    format!(", \"proto\": \"{}\"", entry.protocol)
                };
                acls += &format!(
                    "{{\"action\": \"accept\", \"src\": [{}], \"dst\": [{}]{proto}}},\n",
                    quote(&entry.src),
                    quote(&dst)
                );
            }
        }
        format!(
            "{{ \"groups\": {{{}}}, \"hosts\": {{{}}}, \"acls\": [\n{acls}], \"grants\": [\n{grants}] }}",
            groups.join(", "),
            hosts.join(", ")
        )
    }

    fn in_order(&self) -> impl Iterator<Item = &Entry> {
        let acls = self.entries.iter().filter(|e| !e.grant);
        acls.chain(self.entries.iter().filter(|e| e.grant))
    }

    /// The line of the first entry that lets `flow` into a node.
    pub(crate) fn first_rule(&self, receiver: usize, flow: &Flow) -> Option<u32> {
        let acls = self.entries.iter().filter(|e| !e.grant).count();
        for (i, entry) in self.in_order().enumerate() {
            let line = if i < acls { i + 2 } else { i + 3 };
            if self.allows(entry, receiver, flow) {
                return Some(line as u32);
            }
        }
        None
    }

    /// Whether some entry names addresses.
    pub(crate) fn names_addresses(&self) -> bool {
        self.entries.iter().any(|e| e.src.iter().chain(&e.dst).any(|s| self.network(s).is_some()))
    }

    fn allows(&self, entry: &Entry, receiver: usize, flow: &Flow) -> bool {
        let mapped = |ip: IpAddr| ip.to_canonical() != ip;
        !mapped(flow.src)
            && !mapped(flow.dst)
            && fits_service(entry, flow)
            && entry.src.iter().any(|s| self.is_source(s, flow.src))
            && entry.dst.iter().any(|d| self.is_target(d, receiver, flow))
    }

    fn sender(&self, ip: IpAddr) -> Option<&Node> {
        (0..self.nodes.len()).find(|i| Self::addrs(*i).contains(ip)).map(|i| &self.nodes[i])
    }

    fn is_source(&self, name: &str, ip: IpAddr) -> bool {
        match self.network(name) {
            Some(net) => net.contains(&ip),
            None => self.sender(ip).is_some_and(|node| name == "*" || self.names_node(name, node)),
        }
    }

    fn is_target(&self, name: &str, receiver: usize, flow: &Flow) -> bool {
        let (node, dst) = (&self.nodes[receiver], flow.dst);
        let own = Self::addrs(receiver).contains(dst);
        let here = own || Self::prefixes().resolver().contains(dst);
        let routed = node.routes.iter().any(|r| !r.is_default() && r.net().contains(&dst));
        let default = node.routes.iter().any(|r| r.is_default() && r.net().contains(&dst));
        let exit = default && is_public_unicast(dst) && !Self::prefixes().contains(dst);
        if let Some(net) = self.network(name) {
            return net.contains(&dst) && (own || routed || exit);
        }
        match name {
            "*" => here || routed || exit,
            "autogroup:internet" => exit,
            "autogroup:self" => {
                here && node.user().is_some()
                    && self.sender(flow.src).is_some_and(|s| s.user() == node.user())
            }
            _ => here && self.names_node(name, node),
        }
    }

    fn names_node(&self, name: &str, node: &Node) -> bool {
        match name {
            "autogroup:member" => node.user().is_some(),
            "autogroup:tagged" => !node.tags.is_empty(),
            _ if name.starts_with("group:") => {
                node.user().is_some_and(|u| self.groups[name].iter().any(|m| m == u))
            }
            _ if name.starts_with("tag:") => node.tags.iter().any(|t| t == name),
            user => node.user() == Some(user),
        }
    }

    fn network(&self, name: &str) -> Option<IpNet> {
        let text = self.hosts.get(name).copied().unwrap_or(name);
        let bare = text.trim_matches(['[', ']']);
        bare.parse::<IpNet>().ok().or_else(|| bare.parse::<IpAddr>().ok().map(IpNet::from))
    }
}

fn fits_service(entry: &Entry, flow: &Flow) -> bool {
    let protocol_fits = match entry.protocol.as_str() {
        "" | "*" => true,
        "tcp" => flow.protocol == 6,
        "udp" => flow.protocol == 17,
        "icmp" => flow.protocol == 1 || flow.protocol == 58,
        "gre" => flow.protocol == 47,
        number => flow.protocol.to_string() == number,
    };
    let port_fits = entry.ports == "*"
        || (matches!(flow.protocol, 6 | 17 | 132)
            && entry.ports.split(',').any(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                (first.parse().unwrap()..=last.parse().unwrap()).contains(&flow.dst_port)
            }));
    protocol_fits && port_fits
}
