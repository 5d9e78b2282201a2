//! Publishing: what a node offers as a public exit, what a node claims there, and what became of a claim.
//!
//! An exit and a claimer say what they want in their [`crate::control::Offer`]; the coordinator joins both
//! with the policy's `expose` entries. The exit gets a key-free [`crate::gateway::GatewayConfig`] as the
//! section [`EXIT_SECTION`] of its map, the claimer what became of its claims as [`CLAIMS_SECTION`].
//!
//! Invariants: nothing here holds a key · a claim names a port of the claimer's own mesh addresses, never
//! another host.

use crate::{DnsName, Hostname};
use prost::Message;
use std::fmt;
use std::net::IpAddr;

/// The section of an exit's map that holds its gateway configuration.
pub const EXIT_SECTION: &str = "exit";
/// The section of a claimer's map that holds a list of [`Published`].
pub const CLAIMS_SECTION: &str = "claims";
/// Where TLS is passed through by name.
pub const WEB_PORT: u16 = 443;
/// Where challenges of a certificate authority are passed on and everything else is sent to https.
pub const PLAIN_PORT: u16 = 80;

/// What a public exit offers.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ExitOffer {
    /// Its own public name, when it has one.
    pub name: Option<DnsName>,
    /// Its public addresses, as people reach it.
    pub addrs: Vec<IpAddr>,
    /// Ports that it was told to serve and cannot: another program has them.
    pub taken: Vec<(Transport, u16)>,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// How something is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimKind {
    /// TLS by server name on [`WEB_PORT`]; on [`PLAIN_PORT`] the name's challenges, and 301 for the rest.
    Web,
    /// A TCP port.
    Tcp,
    /// A UDP port.
    Udp,
}

impl ClaimKind {
    /// What it runs over.
    pub const fn transport(self) -> Transport {
        match self {
            Self::Web | Self::Tcp => Transport::Tcp,
            Self::Udp => Transport::Udp,
        }
    }
}

/// What a node wants to publish.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Claim {
    /// Chosen by the node; the same thing published again has the same one.
    pub id: u64,
    /// How.
    pub kind: ClaimKind,
    /// The public name; [`ClaimKind::Web`] needs one. `*.example.com` is every name below it.
    pub name: Option<DnsName>,
    /// The public port; 0: any that the policy grants. [`ClaimKind::Web`]: [`WEB_PORT`].
    pub port: u16,
    /// The port of the claimer's mesh addresses where it ends.
    pub target: u16,
    /// The port where challenges on [`PLAIN_PORT`] end; 0: nowhere.
    pub plain_target: u16,
    /// The exit by its name in the mesh; without it every exit that the policy grants.
    pub exit: Option<Hostname>,
}

impl Claim {
    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<&'static str> {
        match self.kind {
            ClaimKind::Web if self.name.is_none() => Some("a website needs a name"),
            ClaimKind::Web if self.port != WEB_PORT => Some("websites are on port 443"),
            ClaimKind::Tcp if matches!(self.port, PLAIN_PORT | WEB_PORT) => {
                Some("ports 80 and 443 of an exit are shared by name: publish a name there")
            }
            _ if self.target == 0 => Some("the port where it ends is missing"),
            _ => None,
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = self.kind.transport();
        match (&self.name, self.port) {
            (Some(name), 0) => write!(f, "{name} ({transport}, any port)"),
            (None, 0) => write!(f, "{transport}, any port"),
            (Some(name), port) => write!(f, "{name} ({transport}:{port})"),
            (None, port) => write!(f, "{transport}:{port}"),
        }
    }
}

/// A [`Claim`] on the wire: of the control channel and of the local API.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ClaimMsg {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) kind: u32,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(uint32, tag = "4")]
    pub(crate) port: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) target: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) plain_target: u32,
    #[prost(string, tag = "7")]
    pub(crate) exit: String,
}

/// What became of a claim: it is published at `places`, or refused.
#[derive(Clone, PartialEq, Eq, Message, serde::Serialize, serde::Deserialize)]
pub struct Published {
    /// [`Claim::id`].
    #[prost(uint64, tag = "1")]
    pub claim: u64,
    /// Where it can be reached.
    #[prost(message, repeated, tag = "2")]
    pub places: Vec<Place>,
    /// Why it is not published; empty when it is.
    #[prost(string, tag = "3")]
    pub refused: String,
    /// What to do about that.
    #[prost(string, tag = "4")]
    pub hint: String,
}

/// Where something is published.
#[derive(Clone, PartialEq, Eq, Message, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// The exit's name in the mesh.
    #[prost(string, tag = "1")]
    pub exit: String,
    /// The exit's own public name; empty when it has none.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its public addresses.
    #[prost(string, repeated, tag = "3")]
    pub addrs: Vec<String>,
    /// The public port.
    #[prost(uint32, tag = "4")]
    pub port: u32,
    /// The exit's mesh addresses: connections from there open with a PROXY header.
    #[prost(string, repeated, tag = "5")]
    pub mesh: Vec<String>,
}

/// Reads what the section [`CLAIMS_SECTION`] of a map says; nothing when it is not understood.
pub fn read_claims(section: Option<&str>) -> Vec<Published> {
    section.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(kind: ClaimKind, name: Option<&str>, port: u16) -> Claim {
        let name = name.map(|n| n.parse().unwrap());
        Claim { id: 1, kind, name, port, target: 8443, plain_target: 0, exit: None }
    }

    #[test]
    fn a_claim_that_makes_no_sense_is_told_from_one_that_does() {
        assert_eq!(claim(ClaimKind::Web, Some("*.kl.example"), 443).fault(), None);
        assert_eq!(claim(ClaimKind::Tcp, None, 0).fault(), None);
        assert!(claim(ClaimKind::Web, None, 443).fault().is_some());
        assert!(claim(ClaimKind::Web, Some("a.example"), 8443).fault().is_some());
        assert!(claim(ClaimKind::Tcp, None, 443).fault().is_some());
        assert!(Claim { target: 0, ..claim(ClaimKind::Udp, None, 53) }.fault().is_some());
        assert_eq!(claim(ClaimKind::Udp, None, 53).to_string(), "udp:53");
    }

    #[test]
    fn what_became_of_claims_survives_the_map_and_garbage_is_nothing() {
        let place =
            Place { exit: "exit1".into(), addrs: vec!["192.0.2.1".into()], port: 443, ..Place::default() };
        let said = vec![Published { claim: 7, places: vec![place], ..Published::default() }];
        let text = serde_json::to_string(&said).unwrap();
        assert_eq!(read_claims(Some(&text)), said);
        assert!(read_claims(Some("{")).is_empty() && read_claims(None).is_empty());
    }
}
