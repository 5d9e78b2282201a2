//! What a user may set on a node, as it travels.

use prost::Message;
use serde::Serialize;

/// Settings to change. What is absent stays as it is.
#[derive(Clone, PartialEq, Message, Serialize, serde::Deserialize)]
pub struct Settings {
    /// Replace the advertised routes.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise_routes: Option<PrefixList>,
    /// Offer to carry internet traffic.
    #[prost(bool, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise_exit_node: Option<bool>,
    /// Send internet traffic through this node; empty: no longer.
    #[prost(string, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_node: Option<String>,
    /// Use subnet routes of other nodes.
    #[prost(bool, optional, tag = "4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_routes: Option<bool>,
    /// The name to ask for.
    #[prost(string, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Masquerade traffic from the mesh into advertised subnets.
    #[prost(bool, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snat: Option<bool>,
    /// Let internet traffic leave directly while the exit node is away.
    #[prost(bool, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_fallback: Option<bool>,
    /// Add rules to hooks that other firewalls offer for it.
    #[prost(bool, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_assist: Option<bool>,
    /// Set the host's DNS to answer mesh names.
    #[prost(bool, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_dns: Option<bool>,
    /// Prefixes that go through the mesh although they are connected here; replaces the list.
    #[prost(message, optional, tag = "10")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer_mesh: Option<PrefixList>,
    /// Which names of the mesh this host resolves: `names`, `split` or `full`.
    #[prost(string, optional, tag = "11")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<String>,
    /// Answer names for networks that this host is in; replaces what was set.
    #[prost(message, optional, tag = "12")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_lan: Option<LanNames>,
}

/// Who on which networks gets names from this node, though it runs nothing of ours.
#[derive(Clone, PartialEq, Eq, Message, Serialize, serde::Deserialize)]
pub struct LanNames {
    /// Interfaces; none: nobody.
    #[prost(string, repeated, tag = "1")]
    pub interfaces: Vec<String>,
    /// Who may ask, in prefixes; none: everybody on those networks.
    #[prost(string, repeated, tag = "2")]
    pub allow: Vec<String>,
    /// Most questions a second from one address.
    #[prost(uint32, tag = "3")]
    pub rate: u32,
    /// `guest`: names of the internet only; `node`: what this node itself may see.
    #[prost(string, tag = "4")]
    pub view: String,
}

/// Prefixes in text form.
#[derive(Clone, PartialEq, Eq, Message, Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct PrefixList {
    /// Like `192.168.1.0/24`.
    #[prost(string, repeated, tag = "1")]
    pub prefixes: Vec<String>,
}
