//! What a gateway listens on, with which certificates.

use crate::DnsName;
use ipnet::IpNet;
use std::net::IpAddr;

/// One listening port, or a part of one: listeners on the same address and port are told apart by name.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Name within the configuration, for routes, logs and status.
    pub name: String,
    /// The local address; every address of the host when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// TCP or UDP port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: ListenerProtocol,
    /// Host names (SNI or Host) served there; empty means any. `*.example.com` is any name below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<DnsName>,
    /// Certificates, for `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Sources that open every connection with a PROXY v2 header. From others it is no header but data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proxy_from: Vec<IpNet>,
    /// Proxies whose `X-Forwarded-*` fields are believed and extended; from others they are replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<IpNet>,
    /// Bounds on what clients may take.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: ListenerLimits,
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// Bytes as they come.
    Tcp,
    /// Datagrams as they come.
    Udp,
    /// TLS passed through by SNI.
    Tls,
    /// HTTP/1.1 and HTTP/2 in the clear.
    Http,
    /// HTTP behind TLS that ends here.
    Https,
}

impl ListenerProtocol {
    /// Whether a host name can choose between listeners of one port.
    pub const fn has_names(self) -> bool {
        matches!(self, Self::Tls | Self::Http | Self::Https)
    }

    /// Whether the first bytes are a TLS ClientHello.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Https)
    }
}

/// The certificates of an `https` listener.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Names of [`Certificate`]s; the one that fits the SNI best is shown.
    pub certificates: Vec<String>,
    /// Shown to clients without SNI or with an unknown one. Without it the first one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_certificate: Option<String>,
}

/// Bounds of one listener. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerLimits {
    /// Open connections (UDP: sessions) in total.
    pub connections: u32,
    /// Open connections (UDP: sessions) of one source address (an IPv6 /64 counts as one).
    pub connections_per_source: u32,
    /// From the first byte to the end of the request's header; also for a ClientHello and a TLS handshake.
    pub header_timeout_ms: u64,
    /// Without a byte in either direction.
    pub idle_timeout_ms: u64,
    /// Bytes of a request's header.
    pub header_bytes: u32,
    /// Bytes of a request's body; unlimited when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<u64>,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams: u32,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_source: 2_000,
            header_timeout_ms: 10_000,
            idle_timeout_ms: 300_000,
            header_bytes: 64 * 1024,
            body_bytes: None,
            streams: 128,
        }
    }
}

/// A certificate chain and its key, from files, inline, or by ACME: exactly one of the three.
#[derive(Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Name within the configuration.
    pub name: String,
    /// PEM chain, leaf first. Read again when the file changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_file: Option<String>,
    /// PEM key (PKCS#8, PKCS#1 or SEC1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// The chain itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_pem: Option<String>,
    /// The key itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_pem: Option<String>,
    /// Ordered from the authority of [`Acme`], for `hostnames`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub acme: bool,
    /// The names it is chosen for. Left out: the names in the certificate (needed with `acme`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<DnsName>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate")
            .field("name", &self.name)
            .field("chain_file", &self.chain_file)
            .field("key_file", &self.key_file)
            .field("acme", &self.acme)
            .field("hostnames", &self.hostnames)
            .finish_non_exhaustive()
    }
}

/// A certificate authority that speaks ACME (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// Its directory, an https URL.
    pub directory: String,
    /// Mail addresses for notices about expiry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contact: Vec<String>,
    /// How it is shown that a name is ours.
    #[serde(default)]
    pub challenge: AcmeChallenge,
    /// PEM certificate of the authority's own web server, when the system does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// A way to prove that a name is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcmeChallenge {
    /// A file on port 80 (RFC 8555 §8.3): an `http` listener answers it before any route.
    #[default]
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate on port 443 (RFC 8737): an `https` listener answers it.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}
