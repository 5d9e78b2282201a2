//! What to change for the host to ask us, as data. Pure.

use super::detect::Detected;
use super::files::Content;
use super::openresolv::Told;
use super::resolv_conf::render;
use meshd_proto::{DnsName, MeshAddrs};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// What the host's DNS should be while we run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsDesired {
    /// The mesh interface's name.
    pub interface: String,
    /// Its number in this network namespace.
    pub ifindex: u32,
    /// The resolver's addresses, where our server listens.
    pub resolver: MeshAddrs,
    /// Search domains, the mesh's own first.
    pub search: Vec<DnsName>,
    /// Further domains whose names come to us without being searched: reverse zones, split domains.
    pub routing: Vec<DnsName>,
    /// Whether all other names come to us, too, where the host could tell them apart (exit node, or
    /// resolvers named by the mesh). With a plain file everything comes to us anyway.
    pub everything: bool,
    /// A name and address that our resolver answers: this node's own.
    pub probe: (DnsName, Ipv4Addr),
}

/// One change to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsChange {
    /// Put `content` in the place of /etc/resolv.conf.
    WriteResolvConf {
        /// The new file.
        content: Content,
        /// What comes back at the end.
        original: Content,
    },
    /// Tell systemd-resolved about the mesh interface.
    SetLink(LinkDns),
    /// Tell openresolv about the mesh interface.
    TellOpenresolv {
        /// Its program.
        program: PathBuf,
        /// What.
        told: Told,
    },
}

/// systemd-resolved's settings for one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkDns {
    /// Name of the link.
    pub interface: String,
    /// Number of the link.
    pub ifindex: u32,
    /// `SetLinkDNS`.
    pub servers: Vec<IpAddr>,
    /// `SetLinkDomains`: a domain, and whether it is for routing only.
    pub domains: Vec<(String, bool)>,
    /// `SetLinkDefaultRoute`.
    pub default_route: bool,
}

/// The changes that lead from what was detected to what is desired; none where somebody else is in
/// charge, or where everything is as it should be.
pub fn plan(detected: &Detected, desired: &DnsDesired) -> Vec<DnsChange> {
    match detected {
        Detected::Plain { current, original } => {
            let before = original.bytes().unwrap_or_default();
            let text = render(before, desired.resolver.v4, &desired.search);
            let content = original.with_bytes(text.into_bytes());
            if *current == content {
                return Vec::new();
            }
            vec![DnsChange::WriteResolvConf { content, original: original.clone() }]
        }
        Detected::Resolved { .. } => vec![DnsChange::SetLink(link(desired))],
        Detected::Openresolv(found) => {
            let told = found.tell(&desired.interface, desired.resolver.v4, &desired.search);
            let program = found.program.clone();
            told.map(|told| DnsChange::TellOpenresolv { program, told }).into_iter().collect()
        }
        Detected::Foreign { .. } => Vec::new(),
    }
}

fn link(desired: &DnsDesired) -> LinkDns {
    let search = desired.search.iter().map(|d| (d.to_string(), false));
    let routing =
        desired.routing.iter().filter(|d| !desired.search.contains(d)).map(|d| (d.to_string(), true));
    let everything = desired.everything.then(|| (".".to_owned(), true));
    LinkDns {
        interface: desired.interface.clone(),
        ifindex: desired.ifindex,
        servers: desired.resolver.iter().collect(),
        domains: search.chain(routing).chain(everything).collect(),
        default_route: desired.everything,
    }
}

#[cfg(test)]
mod tests;
