//! Where traffic goes: groups of endpoints.

use super::listener::is_default;
use crate::DnsName;
use std::net::IpAddr;

/// Endpoints that do the same.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Name within the configuration.
    pub name: String,
    /// What is spoken to them when the traffic is HTTP.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: BackendProtocol,
    /// The endpoints; empty means that there is none now (HTTP 503).
    #[serde(default)]
    pub endpoints: Vec<ServiceEndpoint>,
    /// Which endpoint is next.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balance: Balance,
    /// TLS towards them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
    /// Whether each connection starts with a PROXY v2 header that names the client.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub send_proxy: bool,
    /// Asking the endpoints whether they are well. Without it only failures count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Time for a connection to stand, TLS included.
    #[serde(default = "connect_timeout", skip_serializing_if = "is_connect_timeout")]
    pub connect_timeout_ms: u64,
    /// Most idle connections kept for reuse, per endpoint.
    #[serde(default = "idle_connections", skip_serializing_if = "is_idle_connections")]
    pub idle_connections: u32,
}

const CONNECT_TIMEOUT_MS: u64 = 5_000;
const IDLE_CONNECTIONS: u32 = 256;

fn connect_timeout() -> u64 {
    CONNECT_TIMEOUT_MS
}

fn is_connect_timeout(value: &u64) -> bool {
    *value == CONNECT_TIMEOUT_MS
}

fn idle_connections() -> u32 {
    IDLE_CONNECTIONS
}

fn is_idle_connections(value: &u32) -> bool {
    *value == IDLE_CONNECTIONS
}

/// The HTTP version towards a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by prior knowledge in the clear, by ALPN under TLS. What gRPC needs.
    Http2,
}

/// One address that serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Which network the address belongs to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: Network,
    /// Share among the endpoints of the backend.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u16,
    /// Whether new connections go there. Running ones go on.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub ready: bool,
}

fn one() -> u16 {
    1
}

fn is_one(value: &u16) -> bool {
    *value == 1
}

fn yes() -> bool {
    true
}

/// How an address is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// By the host's own sockets.
    #[default]
    Host,
    /// Through the mesh. An exit connects to nothing else.
    Mesh,
}

/// Which endpoint takes the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// The less busy of two, by weight.
    LeastRequest,
    /// The same client address to the same endpoint, as long as that is well.
    SourceHash,
}

/// TLS towards a backend. Certificates are always verified.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendTls {
    /// The name that the certificate has to carry, sent as SNI.
    pub server_name: DnsName,
    /// PEM certificates that are trusted, and no others; the system's when both are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// The certificates themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
}

/// An active health check.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// `GET` this path over HTTP/1.1 and expect 2xx or 3xx; without it a TCP connection is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Between two checks.
    #[serde(default = "interval")]
    pub interval_ms: u64,
    /// For one check.
    #[serde(default = "check_timeout")]
    pub timeout_ms: u64,
    /// Failures in a row until it counts as unwell.
    #[serde(default = "unhealthy")]
    pub unhealthy: u32,
    /// Successes in a row until it counts as well again.
    #[serde(default = "healthy")]
    pub healthy: u32,
}

fn interval() -> u64 {
    5_000
}

fn check_timeout() -> u64 {
    2_000
}

fn unhealthy() -> u32 {
    2
}

fn healthy() -> u32 {
    1
}

/// A backend with its share of a rule's traffic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedBackend {
    /// Name of the [`Backend`].
    pub backend: String,
    /// Share; 0 takes no traffic.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u16,
}
