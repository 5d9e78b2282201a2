//! The configuration of an L4/L7 gateway, as data (JSON, version 1).
//!
//! The coordinator (key-free, for exits), the Kubernetes operator or a person writes it, a gateway loads it.
//! This module says what a configuration may hold and whether it fits together; it opens nothing, resolves
//! nothing and knows no sockets. What a request does with it is the gateway's `Table`.
//!
//! Invariants: unknown keys are refused · every list is bounded by [`crate::limits`] · every reference
//! (listener, backend, certificate) names something of the same configuration · an error names the place as
//! a JSON path and says what to do.

mod backend;
mod check;
mod listener;
mod route;

pub use backend::{
    Backend, BackendProtocol, BackendTls, Balance, Health, Network, ServiceEndpoint, WeightedBackend,
};
pub use listener::{
    Acme, AcmeChallenge, Certificate, Listener, ListenerLimits, ListenerProtocol, ListenerTls,
};
pub use route::{
    Filter, HeaderChange, HeaderValue, Match, PathChange, PathMatch, Redirect, Rewrite, Route, Rule,
    Timeouts, ValueMatch,
};

use crate::limits;
use std::fmt;

/// The version of the format that this release writes and reads.
pub const FORMAT: u32 = 1;

/// A whole, numbered gateway configuration. A gateway swaps to it at once or refuses it whole.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// The format: [`FORMAT`]. May be left out.
    #[serde(default = "format_version")]
    pub version: u32,
    /// Grows by every change.
    pub generation: u64,
    /// What the gateway listens on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Listener>,
    /// Which traffic of a listener goes where.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Groups of endpoints that do the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// Certificates with their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// Where certificates that are marked `acme` come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<Acme>,
}

fn format_version() -> u32 {
    FORMAT
}

/// A place in a configuration, such as `routes[2].rules[0].backends[1]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(String);

impl JsonPath {
    /// The document itself.
    pub(crate) fn root() -> Self {
        Self(String::new())
    }

    /// `key` inside this place.
    pub(crate) fn key(&self, key: &str) -> Self {
        Self(if self.0.is_empty() { key.to_owned() } else { format!("{}.{key}", self.0) })
    }

    /// Element `index` of this place.
    pub(crate) fn at(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An element of a list of the document.
    pub fn element(list: &str, index: usize) -> Self {
        Self::root().key(list).at(index)
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "the configuration" } else { &self.0 })
    }
}

/// Why a gateway configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum GatewayConfigError {
    /// Larger than a control message.
    #[error("the gateway configuration has {0} bytes; at most {max} are accepted", max = limits::MAX_GATEWAY_CONFIG)]
    TooLarge(usize),
    /// Not JSON of this shape.
    #[error("at `{place}`: {source}")]
    Syntax {
        /// Where.
        place: String,
        /// What the reader said, with line and column.
        source: serde_json::Error,
    },
    /// Right as JSON, wrong as a configuration.
    #[error("{place}: {what}; {hint}")]
    Wrong {
        /// Where.
        place: JsonPath,
        /// What is wrong.
        what: String,
        /// What to do.
        hint: String,
    },
}

impl GatewayConfigError {
    /// A fault at `place` with what to do about it.
    pub fn wrong(place: JsonPath, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Wrong { place, what: what.into(), hint: hint.into() }
    }
}

impl GatewayConfig {
    /// Reads and checks a configuration from JSON.
    ///
    /// # Errors
    /// Says which place is wrong and why; nothing of a refused configuration is used.
    pub fn from_json(text: &str) -> Result<Self, GatewayConfigError> {
        if text.len() > limits::MAX_GATEWAY_CONFIG {
            return Err(GatewayConfigError::TooLarge(text.len()));
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let config: Self = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            GatewayConfigError::Syntax { place: error.path().to_string(), source: error.into_inner() }
        })?;
        reader.end().map_err(|source| GatewayConfigError::Syntax { place: "the end".to_owned(), source })?;
        config.check()?;
        Ok(config)
    }

    /// The configuration as JSON that [`Self::from_json`] reads back.
    ///
    /// # Panics
    /// Never: every part is plain data.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data")
    }

    /// Whether it holds a private key or the way to one: an exit's configuration never does.
    pub fn holds_keys(&self) -> bool {
        self.certificates.iter().any(|c| c.key_pem.is_some() || c.key_file.is_some() || c.acme)
            || self.acme.is_some()
    }
}

#[cfg(test)]
mod tests;
