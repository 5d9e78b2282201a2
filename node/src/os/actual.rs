//! What the host looks like now, as far as it concerns us: values only, read by the module `read`.

use super::assist::Hook;
use super::desired::{RouteKind, Rule};
use super::journal::Recorded;
use super::nft::NftShape;
use super::sysctl::SysctlKey;
use ipnet::IpNet;
use meshd_proto::Prefix;
use std::collections::{BTreeMap, BTreeSet};

/// What the host looks like now.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Actual {
    /// The mesh interface; `None`: it does not exist.
    pub link: Option<LinkState>,
    /// Whether the kernel has IPv6 at all; where it has, it must not leak past an exit.
    pub ipv6: bool,
    /// Our routes in our table.
    pub routes: BTreeMap<Prefix, RouteKind>,
    /// Our rules.
    pub rules: BTreeSet<Rule>,
    /// Our nftables table.
    pub nft: Option<NftShape>,
    /// The kernel settings that concern us, by key.
    pub sysctls: BTreeMap<SysctlKey, String>,
    /// The hooks other firewalls offer here; `true`: our rules are in it.
    pub hooks: BTreeMap<Hook, bool>,
    /// What the journal says we changed and did not undo, oldest first.
    pub recorded: Vec<Recorded>,
}

/// The mesh interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Kernel index.
    pub index: u32,
    /// Administratively up.
    pub up: bool,
    /// MTU.
    pub mtu: u32,
    /// Whether it can have IPv6 addresses; in some containers it is switched off for good.
    pub ipv6: bool,
    /// Addresses with prefix length, link-local ones left out.
    pub addresses: BTreeSet<IpNet>,
}
