//! The configuration of an L4/L7 gateway, as data (JSON).
//!
//! The coordinator (key-free, for exits) or the Kubernetes operator writes it, a gateway loads it.
//! Only the frame that both must agree on today lives here; routes and filters come with the gateway.

use crate::{DnsName, limits};

/// A whole, numbered gateway configuration. A gateway swaps to it at once or refuses it whole.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Grows by every change.
    pub generation: u64,
    /// What the gateway listens on.
    #[serde(default)]
    pub listeners: Vec<Listener>,
}

/// One listening port.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Name within the configuration, for logs and status.
    pub name: String,
    /// TCP or UDP port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: ListenerProtocol,
    /// Host names (SNI or Host) served there; empty means any.
    #[serde(default)]
    pub hostnames: Vec<DnsName>,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

/// Why a gateway configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum GatewayConfigError {
    /// Larger than a control message.
    #[error("the gateway configuration has {0} bytes; at most {max} are accepted", max = limits::MAX_CONTROL_MESSAGE)]
    TooLarge(usize),
    /// Not JSON of this shape.
    #[error("the gateway configuration cannot be read: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Port 0.
    #[error("listener `{0}` has port 0: name the port it serves")]
    PortZero(String),
    /// The same port and transport twice without host names to tell them apart.
    #[error("listeners `{0}` and `{1}` both serve every name on port {2}")]
    Conflict(String, String, u16),
}

impl GatewayConfig {
    /// Reads and checks a configuration from JSON.
    ///
    /// # Errors
    /// Says which listener is wrong and why; nothing of a refused configuration is used.
    pub fn from_json(text: &str) -> Result<Self, GatewayConfigError> {
        if text.len() > limits::MAX_CONTROL_MESSAGE {
            return Err(GatewayConfigError::TooLarge(text.len()));
        }
        let config: Self = serde_json::from_str(text)?;
        for (i, a) in config.listeners.iter().enumerate() {
            if a.port == 0 {
                return Err(GatewayConfigError::PortZero(a.name.clone()));
            }
            let transport = |l: &Listener| l.protocol == ListenerProtocol::Udp;
            if let Some(b) = config.listeners[..i].iter().find(|b| {
                b.port == a.port
                    && transport(b) == transport(a)
                    && b.hostnames.is_empty()
                    && a.hostnames.is_empty()
            }) {
                return Err(GatewayConfigError::Conflict(b.name.clone(), a.name.clone(), a.port));
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_taken_whole_or_refused_with_the_place() {
        let ok = r#"{"generation":1,"listeners":[{"name":"web","port":443,"protocol":"tls","hostnames":["a.example"]}]}"#;
        assert_eq!(GatewayConfig::from_json(ok).unwrap().listeners.len(), 1);
        let zero = ok.replace("443", "0");
        assert!(
            matches!(GatewayConfig::from_json(&zero), Err(GatewayConfigError::PortZero(n)) if n == "web")
        );
        assert!(GatewayConfig::from_json(r#"{"generation":1,"typo":1}"#).is_err());
    }
}
