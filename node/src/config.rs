//! The daemon's configuration file: what an administrator fixes for the machine, as opposed to the
//! settings that `meshd set` changes.

use crate::dial::{BadProxy, Proxy};
use crate::os::IfName;
use crate::os::desired::BadIfName;
use crate::userspace::UserspaceConfig;
use std::path::{Path, PathBuf};

/// The smallest MTU that IPv6 allows (RFC 8200 §5).
const MIN_MTU: u16 = 1280;
/// The largest inner packet that the data threads handle.
const MAX_MTU: u16 = 1900;

/// The configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Name of the TUN interface.
    pub interface: IfName,
    /// MTU of the TUN interface.
    pub mtu: u16,
    /// UDP port that is tried first; 0: the one of the last run, else 41820.
    pub port: u16,
    /// The HTTP proxy for coordinator and relays; the one of the environment when the file names none.
    pub proxy: Option<Proxy>,
    /// Keys, settings and the last map.
    pub state_dir: PathBuf,
    /// Where the local API listens.
    pub socket: PathBuf,
    /// Without privileges: a stack of our own in place of the TUN interface.
    pub userspace: Option<UserspaceConfig>,
}

/// The file as it is written.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    interface: Option<String>,
    mtu: Option<u16>,
    port: Option<u16>,
    proxy: Option<String>,
}

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML of this shape. The message names line and key.
    #[error("{path}: {why}")]
    Syntax {
        /// Which file.
        path: String,
        /// Where and why.
        why: String,
    },
    /// An MTU outside what works.
    #[error("mtu = {0}: use {MIN_MTU} to {MAX_MTU}")]
    Mtu(u16),
    /// Not an interface name.
    #[error("interface: {0}")]
    Interface(#[from] BadIfName),
    /// A proxy that cannot be used.
    #[error("proxy: {0}")]
    Proxy(#[from] BadProxy),
}

impl DaemonConfig {
    /// Reads the file; a missing one means the defaults.
    ///
    /// # Errors
    /// Names the file, the line and the key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let shown = || path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Read { path: shown(), source }),
        };
        let config = Self::parse(&text, &shown())?;
        let environment = || Proxy::from_environment(|name| std::env::var(name).ok());
        let proxy = config.proxy.clone().or_else(environment);
        Ok(Self { proxy, ..config })
    }

    fn parse(text: &str, path: &str) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text)
            .map_err(|e| ConfigError::Syntax { path: path.to_owned(), why: e.to_string() })?;
        let mtu = raw.mtu.unwrap_or(1380);
        if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
            return Err(ConfigError::Mtu(mtu));
        }
        Ok(Self {
            interface: raw.interface.as_deref().unwrap_or("mesh0").parse()?,
            mtu,
            port: raw.port.unwrap_or(0),
            proxy: raw.proxy.map(|text| Proxy::parse(&text, "")).transpose()?,
            state_dir: PathBuf::from("/var/lib/meshd"),
            socket: PathBuf::from(meshd_proto::localapi::SOCKET),
            userspace: None,
        })
    }

    /// For a node inside a program: without a file, without a local API.
    pub(crate) fn userspace(state_dir: PathBuf, port: u16, mtu: u16, userspace: UserspaceConfig) -> Self {
        Self {
            // Those of the environment, too: it runs as the user who started it.
            proxy: Proxy::from_environment(|name| std::env::var(name).ok()),
            interface: IfName::mesh0(),
            mtu: mtu.clamp(MIN_MTU, MAX_MTU),
            port,
            state_dir,
            socket: PathBuf::new(),
            userspace: Some(userspace),
        }
    }

    /// The configuration in userspace mode.
    #[must_use]
    pub fn with_userspace(self, userspace: UserspaceConfig) -> Self {
        Self { userspace: Some(userspace), ..self }
    }

    /// The configuration with the paths that the command line names.
    #[must_use]
    pub fn with_paths(self, state_dir: PathBuf, socket: PathBuf) -> Self {
        Self { state_dir, socket, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_the_defaults_and_an_unknown_key_is_refused_by_name() {
        let config = DaemonConfig::parse("", "x").unwrap();
        assert_eq!((config.interface.as_str(), config.mtu), ("mesh0", 1380));
        let error = DaemonConfig::parse("mtuu = 1", "/etc/meshd/meshd.toml").unwrap_err().to_string();
        assert!(error.contains("/etc/meshd/meshd.toml") && error.contains("mtuu"), "{error}");
        assert!(matches!(DaemonConfig::parse("mtu = 500", "x"), Err(ConfigError::Mtu(500))));
        assert!(DaemonConfig::parse("interface = \"a b\"", "x").is_err());
        let proxied = DaemonConfig::parse("proxy = \"http://proxy.example:3128\"", "x").unwrap();
        assert_eq!(proxied.proxy.unwrap().address(), "proxy.example:3128");
        assert!(DaemonConfig::parse("proxy = \"socks5://x\"", "x").is_err());
    }
}
