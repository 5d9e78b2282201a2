//! Which traffic goes where, and what is changed on the way. The words and the order of precedence are
//! those of Gateway API (`HTTPRoute`, `TLSRoute`, `TCPRoute`, `UDPRoute`).

use super::WeightedBackend;
use super::listener::is_default;
use crate::DnsName;

/// Rules for some host names on some listeners.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Name within the configuration. Between equal matches the route that stands first wins.
    pub name: String,
    /// Names of the [`super::Listener`]s it is attached to.
    pub listeners: Vec<String>,
    /// Host (or SNI) names; empty means those of the listener.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<DnsName>,
    /// What is done. On TCP, UDP and TLS listeners only the first rule's backends count.
    pub rules: Vec<Rule>,
}

/// What is done with the requests that match.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A request matches when it fits any of these; empty means every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<Match>,
    /// Changes on the way, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Where it goes; none is answered with 500 unless a filter answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<WeightedBackend>,
    /// Times.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
    /// How often a request that surely was not acted on is tried again elsewhere.
    #[serde(default = "retries", skip_serializing_if = "is_retries")]
    pub retries: u8,
}

const RETRIES: u8 = 2;

fn retries() -> u8 {
    RETRIES
}

fn is_retries(value: &u8) -> bool {
    *value == RETRIES
}

/// What a request has to look like: all of it.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Its path; left out means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Its method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Its header fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
    /// Its query parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<ValueMatch>,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum PathMatch {
    /// This one, byte for byte.
    Exact(String),
    /// This one and everything below it, by whole segments: `/a` holds `/a` and `/a/b`, not `/ab`.
    Prefix(String),
}

/// A field that has to have a value, exactly.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueMatch {
    /// Which (header names without regard to case).
    pub name: String,
    /// The value.
    pub value: String,
}

/// A change on the way.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum Filter {
    /// Header fields of the request.
    RequestHeaders(HeaderChange),
    /// Header fields of the response.
    ResponseHeaders(HeaderChange),
    /// An answer that sends the client elsewhere.
    Redirect(Redirect),
    /// Another host or path towards the backend.
    Rewrite(Rewrite),
}

/// Changes of header fields: removed, then set, then added.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderChange {
    /// Replaced, or added where missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderValue>,
    /// Added beside what is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderValue>,
    /// Taken away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// One header field.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderValue {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Where a client is sent. What is left out stays as it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// `http` or `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<DnsName>,
    /// Port; left out: the usual one of `scheme`, or the listener's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "found", skip_serializing_if = "is_found")]
    pub status: u16,
}

fn found() -> u16 {
    302
}

fn is_found(status: &u16) -> bool {
    *status == 302
}

/// Another host or path towards the backend.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// Host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<DnsName>,
    /// Path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathChange>,
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum PathChange {
    /// The whole path.
    Full(String),
    /// In place of the prefix that matched.
    Prefix(String),
}

/// Times of a request in milliseconds; 0 means none.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From the request's header to the response's header, tries included.
    pub request_ms: u64,
    /// The same for one try.
    pub backend_ms: u64,
}
