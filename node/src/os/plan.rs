//! From what is to what should be, as a list of changes. Pure: it decides everything and does nothing.
//!
//! Order matters and is part of the contract: kernel settings of the interface, filter table, addresses
//! and link, forwarding, routes, rules; then what is no longer wanted, in reverse. A family that must
//! not leak is closed before its default route appears.

use super::actual::Actual;
use super::assist::Hook;
use super::desired::{Desired, Family, RouteKind, Rule, RuleAction};
use super::journal::Record;
use super::nft::NftTable;
use super::sysctl::{self, SysctlChange};
use ipnet::IpNet;
use meshd_proto::Prefix;
use std::fmt;
use std::net::IpAddr;

/// One change to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write a kernel setting.
    Sysctl(SysctlChange),
    /// Undo a kernel setting, the journal's record at `index`.
    RestoreSysctl {
        /// Index of the record.
        index: usize,
        /// What it says.
        change: SysctlChange,
    },
    /// Replace our nftables table.
    ReplaceNft(NftTable),
    /// Remove our nftables table.
    DeleteNft,
    /// Set the interface's MTU.
    SetMtu(u32),
    /// Give the interface an address.
    AddAddress {
        /// The address.
        addr: IpAddr,
        /// Never chosen as source.
        never_source: bool,
    },
    /// Take an address from the interface.
    DeleteAddress(IpNet),
    /// Set the interface up.
    LinkUp,
    /// Add or replace a route of our table.
    PutRoute(Prefix, RouteKind),
    /// Delete a route of our table.
    DeleteRoute(Prefix),
    /// Add a rule.
    AddRule(Rule),
    /// Delete a rule.
    DeleteRule(Rule),
    /// Put our rules into a hook of another firewall.
    AddHook(Hook),
    /// Take them out; the journal's record at `index`.
    RemoveHook {
        /// Index of the record.
        index: usize,
        /// Which hook.
        hook: Hook,
        /// The interface its rules name.
        interface: String,
    },
}

/// The changes that lead from `actual` to `desired`; none if the host is as it should be.
pub fn plan(desired: &Desired, actual: &Actual) -> Vec<Change> {
    let mut changes: Vec<Change> = sysctl::wanted(desired, actual).into_iter().map(Change::Sysctl).collect();
    // Forwarding is opened only once our own filter is in place.
    let own = |c: &Change| matches!(c, Change::Sysctl(s) if s.is_of(&desired.interface));
    let forwarding = changes.partition_point(own);
    let forwarding = changes.split_off(forwarding);
    plan_nft(desired, actual, &mut changes);
    plan_link(desired, actual, &mut changes);
    changes.extend(forwarding);
    if desired.firewall_assist {
        let missing = actual.hooks.iter().filter(|(_, ours)| !**ours);
        changes.extend(missing.map(|(hook, _)| Change::AddHook(*hook)));
    }
    plan_routes(desired, actual, &mut changes);
    plan_removals(desired, actual, &mut changes);
    changes
}

fn plan_nft(desired: &Desired, actual: &Actual, changes: &mut Vec<Change>) {
    if let Some(table) = &desired.nft
        && Some(table.shape()) != actual.nft
    {
        changes.push(Change::ReplaceNft(table.clone()));
    }
}

fn plan_link(desired: &Desired, actual: &Actual, changes: &mut Vec<Change>) {
    let Some(link) = &actual.link else { return };
    if desired.addresses.is_empty() {
        return;
    }
    if link.mtu != desired.mtu {
        changes.push(Change::SetMtu(desired.mtu));
    }
    for (addr, never_source) in &desired.addresses {
        let usable = addr.is_ipv4() || link.ipv6;
        if usable && !link.addresses.contains(&IpNet::from(*addr)) {
            changes.push(Change::AddAddress { addr: *addr, never_source: *never_source });
        }
    }
    if !link.up {
        changes.push(Change::LinkUp);
    }
}

fn plan_routes(desired: &Desired, actual: &Actual, changes: &mut Vec<Change>) {
    let mut missing: Vec<Rule> = desired.rules.difference(&actual.rules).copied().collect();
    missing.retain(|rule| rule.family == Family::V4 || actual.ipv6);
    // First the LAN, then the closed door, then the routes, then what leads to them.
    let early = |rule: &Rule| {
        matches!(
            rule.action,
            RuleAction::MainPrefixes | RuleAction::Unreachable | RuleAction::RefuseDns { .. }
        )
    };
    changes.extend(missing.iter().filter(|r| early(r)).map(|r| Change::AddRule(*r)));
    if let Some(link) = &actual.link {
        for (prefix, kind) in &desired.routes {
            let usable = Family::of(*prefix) == Family::V4 || link.ipv6;
            if usable && actual.routes.get(prefix) != Some(kind) {
                changes.push(Change::PutRoute(*prefix, *kind));
            }
        }
    }
    changes.extend(missing.iter().filter(|r| !early(r)).map(|r| Change::AddRule(*r)));
}

fn plan_removals(desired: &Desired, actual: &Actual, changes: &mut Vec<Change>) {
    let stale_rules = actual.rules.difference(&desired.rules);
    let (closing, opening): (Vec<Rule>, Vec<Rule>) =
        stale_rules.copied().partition(|r| r.action == RuleAction::Unreachable);
    changes.extend(opening.into_iter().map(Change::DeleteRule));
    let stale_routes = actual.routes.keys().filter(|p| !desired.routes.contains_key(p));
    changes.extend(stale_routes.map(|p| Change::DeleteRoute(*p)));
    changes.extend(closing.into_iter().map(Change::DeleteRule));
    if let Some(link) = &actual.link {
        let stale = link.addresses.iter().filter(|net| {
            let host_route = net.prefix_len() == net.max_prefix_len();
            !(host_route && desired.addresses.contains_key(&net.addr()))
        });
        changes.extend(stale.map(|net| Change::DeleteAddress(*net)));
    }
    for recorded in actual.recorded.iter().rev() {
        let index = recorded.index;
        match &recorded.record {
            Record::Sysctl(change) if !sysctl::still_needed(desired, &change.key) => {
                changes.push(Change::RestoreSysctl { index, change: change.clone() });
            }
            Record::Hook { hook, interface } if !desired.firewall_assist => {
                changes.push(Change::RemoveHook { index, hook: *hook, interface: interface.clone() });
            }
            _ => {}
        }
    }
    if desired.nft.is_none() && actual.nft.is_some() {
        changes.push(Change::DeleteNft);
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl(c) => write!(f, "set {} to {} (was {})", c.key, c.value, c.before),
            Self::RestoreSysctl { change, .. } => write!(f, "restore {} to {}", change.key, change.before),
            Self::ReplaceNft(_) => f.write_str("replace nft table inet meshd"),
            Self::DeleteNft => f.write_str("delete nft table inet meshd"),
            Self::SetMtu(mtu) => write!(f, "set mtu {mtu}"),
            Self::AddAddress { addr, never_source: false } => write!(f, "add address {addr}"),
            Self::AddAddress { addr, never_source: true } => write!(f, "add address {addr}, never a source"),
            Self::DeleteAddress(net) => write!(f, "delete address {net}"),
            Self::LinkUp => f.write_str("set link up"),
            Self::PutRoute(prefix, kind) => write!(f, "route {prefix} {kind}"),
            Self::DeleteRoute(prefix) => write!(f, "delete route {prefix}"),
            Self::AddRule(rule) => write!(f, "add rule {rule}"),
            Self::DeleteRule(rule) => write!(f, "delete rule {rule}"),
            Self::AddHook(hook) => write!(f, "accept the mesh in {hook}"),
            Self::RemoveHook { hook, .. } => write!(f, "remove our rules from {hook}"),
        }
    }
}

#[cfg(test)]
mod tests;
