//! The daemon's configuration file: what an administrator fixes for the machine, as opposed to the
//! settings that `meshd set` changes.

use crate::dial::{BadProxy, Proxy};
use crate::os::IfName;
use crate::os::desired::BadIfName;
use crate::udp::UdpOffloads;
use crate::userspace::UserspaceConfig;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The smallest MTU that IPv6 allows (RFC 8200 §5).
const MIN_MTU: u16 = 1280;
/// The largest inner packet that the data threads handle.
const MAX_MTU: u16 = 1900;

/// Seconds between renewals of keys: not less than a handshake's own retry.
const MIN_REKEY: u64 = 5;
/// WireGuard's own (paper §6.1).
const MAX_REKEY: u64 = 120;
/// More queues than a flow table of a TUN device is worth (the kernel has 256).
const MAX_DATA_THREADS: usize = 16;

/// The configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Name of the TUN interface.
    pub interface: IfName,
    /// MTU of the TUN interface.
    pub mtu: u16,
    /// How packets are moved.
    pub data: DataConfig,
    /// Keys of links in use are renewed this often; `None`: every two minutes, as WireGuard does.
    pub rekey_after: Option<Duration>,
    /// UDP port that is tried first; 0: the one of the last run, else 41820.
    pub port: u16,
    /// Asks the home router for a port.
    pub port_mapping: bool,
    /// The HTTP proxy for coordinator and relays; the one of the environment when the file names none.
    pub proxy: Option<Proxy>,
    /// Keys, settings and the last map.
    pub state_dir: PathBuf,
    /// Where the local API listens.
    pub socket: PathBuf,
    /// Without privileges: a stack of our own in place of the TUN interface.
    pub userspace: Option<UserspaceConfig>,
    /// See [`crate::steps`]; for tests of crashes.
    pub stop_file: Option<PathBuf>,
}

/// How packets are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataConfig {
    /// Queues of the TUN device, each with two threads and sockets of its own.
    pub threads: usize,
    /// Super-packets on the TUN device, where the kernel has them.
    pub tun_offload: bool,
    /// Runs of datagrams on the sockets, where the kernel has them.
    pub udp: UdpOffloads,
}

/// The file as it is written.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    interface: Option<String>,
    mtu: Option<u16>,
    port: Option<u16>,
    debug_stop_file: Option<PathBuf>,
    data_threads: Option<usize>,
    tun_offload: Option<bool>,
    udp_gso: Option<bool>,
    udp_gro: Option<bool>,
    rekey_seconds: Option<u64>,
    proxy: Option<String>,
    port_mapping: bool,
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
    /// A number of data threads outside what works.
    #[error("data_threads = {0}: use 1 to {MAX_DATA_THREADS}")]
    DataThreads(usize),
    /// A renewal of keys outside what works.
    #[error("rekey_seconds = {0}: use {MIN_REKEY} to {MAX_REKEY}")]
    Rekey(u64),
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
        if let Some(seconds) = raw.rekey_seconds.filter(|s| !(MIN_REKEY..=MAX_REKEY).contains(s)) {
            return Err(ConfigError::Rekey(seconds));
        }
        let threads = raw.data_threads.unwrap_or_else(default_threads);
        if !(1..=MAX_DATA_THREADS).contains(&threads) {
            return Err(ConfigError::DataThreads(threads));
        }
        Ok(Self {
            interface: raw.interface.as_deref().unwrap_or("mesh0").parse()?,
            mtu,
            data: DataConfig {
                threads,
                tun_offload: raw.tun_offload.unwrap_or(true),
                udp: UdpOffloads { gso: raw.udp_gso.unwrap_or(true), gro: raw.udp_gro.unwrap_or(true) },
            },
            rekey_after: raw.rekey_seconds.map(Duration::from_secs),
            port: raw.port.unwrap_or(0),
            port_mapping: raw.port_mapping,
            proxy: raw.proxy.map(|text| Proxy::parse(&text, "")).transpose()?,
            state_dir: PathBuf::from("/var/lib/meshd"),
            socket: PathBuf::from(meshd_proto::localapi::SOCKET),
            userspace: None,
            stop_file: raw.debug_stop_file,
        })
    }

    /// For a node inside a program: without a file, without a local API.
    pub(crate) fn userspace(state_dir: PathBuf, port: u16, mtu: u16, userspace: UserspaceConfig) -> Self {
        Self {
            stop_file: None,
            data: DataConfig {
                threads: default_threads(),
                tun_offload: true,
                udp: UdpOffloads { gso: true, gro: true },
            },
            rekey_after: None,
            port_mapping: false,
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

/// As many as there are cores, up to 4.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
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
        assert!(matches!(DaemonConfig::parse("rekey_seconds = 1", "x"), Err(ConfigError::Rekey(1))));
        assert!(matches!(DaemonConfig::parse("data_threads = 0", "x"), Err(ConfigError::DataThreads(0))));
        let asks = |text| DaemonConfig::parse(text, "x").unwrap().port_mapping;
        assert!(!asks("") && asks("port_mapping = true"));
        let slow =
            DaemonConfig::parse("tun_offload = false\nudp_gso = false\ndata_threads = 3", "x").unwrap().data;
        assert_eq!((slow.threads, slow.tun_offload, slow.udp.gso, slow.udp.gro), (3, false, false, true));
        let proxied = DaemonConfig::parse("proxy = \"http://proxy.example:3128\"", "x").unwrap();
        assert_eq!(proxied.proxy.unwrap().address(), "proxy.example:3128");
        assert!(DaemonConfig::parse("proxy = \"socks5://x\"", "x").is_err());
    }
}
