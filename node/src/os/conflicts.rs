//! What on this host stands in the way of the mesh, and the one command that helps.
//!
//! Three questions: does somebody else use the mesh's addresses here; does another VPN drop them; does a
//! firewall drop what we forward or receive. [`find`] is pure: it asks its questions of parsed facts, the
//! firewall's by following a probe packet through the rules.

mod iptables;
mod prefix;
pub mod ruleset;
mod verdict;

use super::OsError;
use super::command::{self, NFT};
use super::desired::{Connected, IfName};
use super::links::{Link, connected_networks};
use super::netlink::Netlink;
use ipnet::IpNet;
use meshd_proto::{MeshPrefixes, Prefix};
use ruleset::Ruleset;
use std::net::IpAddr;
use std::path::Path;
use verdict::{Drop, Probe};

/// Most foreign routes we look at.
const MAX_ROUTES: usize = 10_000;

/// Something on this host that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Conflict {
    /// What sort.
    pub kind: ConflictKind,
    /// What it is, by name.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// The one command that helps; to be run as root.
    pub help_command: String,
}

/// Sorts of conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictKind {
    /// Addresses of the mesh are used by something else here.
    PrefixInUse,
    /// A rule drops the mesh's addresses, wherever they come from.
    AddressesDropped,
    /// Traffic between mesh and offered subnets is dropped.
    ForwardDropped,
    /// Traffic from the mesh to this host is dropped.
    InputDropped,
}

/// What is asked about.
#[derive(Clone, Debug)]
pub struct MeshUse<'a> {
    /// The mesh interface.
    pub interface: &'a IfName,
    /// The mesh's ranges.
    pub prefixes: &'a MeshPrefixes,
    /// Subnets this host offers, with a default route for an exit.
    pub offered: &'a [Prefix],
    /// `--firewall=assist` is on already.
    pub assisted: bool,
}

/// What was found out about the host.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// Every interface.
    pub links: Vec<Link>,
    /// Indexes of interfaces with a default route.
    pub uplinks: Vec<u32>,
    /// Destinations in tables other than ours, with the interface's index.
    pub routes: Vec<(Prefix, u32)>,
    /// Every firewall's rules.
    pub ruleset: Ruleset,
}

/// Looks at this host.
///
/// # Errors
/// When the kernel or nft do not answer.
pub async fn conflicts(mesh: &MeshUse<'_>) -> Result<Vec<Conflict>, OsError> {
    Ok(find(&gather().await?, mesh))
}

async fn gather() -> Result<HostFacts, OsError> {
    let netlink = Netlink::open()?;
    let listed = command::json(NFT, &["-j", "list", "ruleset"]).await?;
    let mut ruleset = Ruleset::from_nft_json(&listed);
    for (names, save, family) in [
        ("/proc/net/ip_tables_names", "iptables-legacy-save", "ip"),
        ("/proc/net/ip6_tables_names", "ip6tables-legacy-save", "ip6"),
    ] {
        // The old kernel interface, which nft does not show. Only where it is in use.
        let used = std::fs::read_to_string(Path::new(names)).is_ok_and(|n| n.lines().any(|l| l == "filter"));
        if used && let Ok(text) = command::text(save, &["-t", "filter"]).await {
            ruleset.chains.extend(iptables::parse(&text, family));
        }
    }
    Ok(HostFacts {
        links: netlink.links().await?,
        uplinks: netlink.uplinks().await?,
        routes: netlink.foreign_routes(MAX_ROUTES).await?,
        ruleset,
    })
}

/// What stands in the way, each thing once.
pub fn find(facts: &HostFacts, mesh: &MeshUse<'_>) -> Vec<Conflict> {
    let mut found = prefix::conflicts(facts, mesh);
    for (probe, purpose) in probes(facts, mesh) {
        for dropped in verdict::drops(&facts.ruleset, &probe) {
            let conflict = explain(&dropped, &probe, purpose, mesh);
            match found.iter_mut().find(|c| c.kind == conflict.kind && c.what == conflict.what) {
                // Dropped in both directions: one line that helps both.
                Some(same) if !same.help_command.contains(&conflict.help_command) => {
                    same.help_command = format!("{} && {}", same.help_command, conflict.help_command);
                }
                Some(_) => {}
                None => found.push(conflict),
            }
        }
    }
    found
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Receive,
    Forward,
}

/// The packets that must pass: from a peer to us, from a peer to a subnet, and the subnet's answer.
fn probes(facts: &HostFacts, mesh: &MeshUse<'_>) -> Vec<(Probe, Purpose)> {
    let peer = |v4: bool| nth_address(if v4 { mesh.prefixes.v4.into() } else { mesh.prefixes.v6.into() }, 2);
    let own = |v4: bool| nth_address(if v4 { mesh.prefixes.v4.into() } else { mesh.prefixes.v6.into() }, 3);
    let name = mesh.interface.to_string();
    let mut probes = Vec::new();
    for v4 in [true, false] {
        let probe = Probe {
            hook: "input",
            arrives_on: name.clone(),
            leaves_on: None,
            source: peer(v4),
            destination: own(v4),
            new: true,
        };
        probes.push((probe, Purpose::Receive));
    }
    for offered in mesh.offered {
        let v4 = offered.net().addr().is_ipv4();
        let Some(leaves_on) = way_to(facts, mesh, *offered) else { continue };
        let host = if offered.is_default() { public_host(v4) } else { nth_address(offered.net(), 10) };
        let there = Probe {
            hook: "forward",
            arrives_on: name.clone(),
            leaves_on: Some(leaves_on.clone()),
            source: peer(v4),
            destination: host,
            new: true,
        };
        let back = Probe {
            hook: "forward",
            arrives_on: leaves_on,
            leaves_on: Some(name.clone()),
            source: host,
            destination: peer(v4),
            new: false,
        };
        probes.extend([(there, Purpose::Forward), (back, Purpose::Forward)]);
    }
    probes
}

/// The interface towards an offered subnet: where it is connected, else an uplink.
fn way_to(facts: &HostFacts, mesh: &MeshUse<'_>, offered: Prefix) -> Option<String> {
    let connected = connected_networks(&facts.links, mesh.interface);
    let on = |c: &&Connected| !offered.is_default() && c.prefix.overlaps(&offered);
    let direct = connected.iter().find(on).map(|c| c.interface.clone());
    let name = |index: u32| facts.links.iter().find(|l| l.index == index).map(|l| l.name.clone());
    let routed = || facts.routes.iter().find(|(p, _)| *p == offered).and_then(|(_, index)| name(*index));
    direct.or_else(routed).or_else(|| facts.uplinks.first().and_then(|index| name(*index)))
}

fn nth_address(net: IpNet, n: u8) -> IpAddr {
    match net {
        IpNet::V4(net) if net.prefix_len() <= 28 => {
            IpAddr::V4((u32::from(net.network()) | u32::from(n)).into())
        }
        IpNet::V6(net) if net.prefix_len() <= 124 => {
            IpAddr::V6((u128::from(net.network()) | u128::from(n)).into())
        }
        narrow => narrow.addr(),
    }
}

/// Any public address; no packet is sent to it.
fn public_host(v4: bool) -> IpAddr {
    if v4 { IpAddr::from([1, 1, 1, 1]) } else { IpAddr::from([0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111]) }
}

fn explain(dropped: &Drop<'_>, probe: &Probe, purpose: Purpose, mesh: &MeshUse<'_>) -> Conflict {
    let name = mesh.interface;
    let base = dropped.base;
    let (family, table, chain) = (&base.family, &base.table, &base.name);
    let owner = dropped.owner();
    let by = match dropped.rule {
        Some((within, rule)) => {
            format!("{owner}rule `{}` in chain {} of table {family} {table}", rule.text, within.name)
        }
        None => format!("{owner}policy drop of chain {chain} in table {family} {table}"),
    };
    let insert = |condition: &str| {
        let tool = match base.legacy {
            Some(tool) => {
                let option = if condition == "iifname" { "-i" } else { "-o" };
                return format!("{tool} -I {chain} {option} {name} -j ACCEPT");
            }
            None => NFT,
        };
        format!("{tool} 'insert rule {family} {table} {chain} {condition} \"{name}\" accept'")
    };
    let own_insert = || if probe.arrives_on == name.as_str() { insert("iifname") } else { insert("oifname") };
    if dropped.by_address() && mesh.prefixes.contains(probe.source) {
        let (ip, range) = match probe.source {
            IpAddr::V4(_) => ("ip", mesh.prefixes.v4.to_string()),
            IpAddr::V6(_) => ("ip6", mesh.prefixes.v6.to_string()),
        };
        return Conflict {
            kind: ConflictKind::AddressesDropped,
            what: by,
            why: format!(
                "it drops packets from {range} that arrive on {name}, or from this host itself: nothing from the \
                 mesh reaches this host, and its own questions do not reach its resolver"
            ),
            // By address as the rule itself: loopback is concerned, too. Our own table, which comes before,
            // has dropped what claims such an address and arrives elsewhere.
            help_command: match base.legacy {
                Some(tool) => format!("{tool} -I {chain} -s {range} -j ACCEPT"),
                None => format!("{NFT} 'insert rule {family} {table} {chain} {ip} saddr {range} accept'"),
            },
        };
    }
    let help = match dropped.hook_owner() {
        Some(_) if !mesh.assisted => "meshd set --firewall=assist".to_owned(),
        _ => own_insert(),
    };
    let (kind, why) = match purpose {
        Purpose::Receive => (
            ConflictKind::InputDropped,
            format!("new connections from the mesh to this host ({name}) are dropped"),
        ),
        Purpose::Forward => (
            ConflictKind::ForwardDropped,
            format!("traffic between the mesh ({name}) and the subnets offered here is dropped"),
        ),
    };
    Conflict { kind, what: by, why, help_command: help }
}

#[cfg(test)]
mod tests;
