//! How this host resolves names, found from its files.

use super::files::{self, Content};
use super::openresolv::Openresolv;
use super::resolv_conf::{ResolvConf, is_ours, kept_in};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where the file is, under a root.
pub const RESOLV_CONF: &str = "etc/resolv.conf";
/// systemd-resolved's own files.
const RESOLVED_DIR: &str = "run/systemd/resolve";
/// What systemd-resolved knows of the world outside, in resolv.conf's format.
const RESOLVED_UPLINKS: &str = "run/systemd/resolve/resolv.conf";
/// systemd-resolved's stub listeners.
const STUBS: [&str; 2] = ["127.0.0.53", "127.0.0.54"];

/// How this host resolves names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// A plain file, or none: libc reads it, we can replace it.
    Plain {
        /// What is there now.
        current: Content,
        /// What was there before us; the same where we have not been.
        original: Content,
    },
    /// systemd-resolved: told over D-Bus.
    Resolved {
        /// What /etc/resolv.conf says, for the search list and the probe.
        uplinks: ResolvConf,
    },
    /// openresolv, or Debian's own resolvconf: told by its program.
    Openresolv(Openresolv),
    /// A link into somebody else's directory: left alone.
    Foreign {
        /// Whose.
        manager: String,
        /// Where the link leads.
        target: PathBuf,
        /// What it says.
        conf: ResolvConf,
    },
}

/// Finds out. `ours` is the original that the journal holds, if we have been here.
///
/// # Errors
/// When a file that is there cannot be read.
pub fn detect(root: &Path, ours: Option<&Content>) -> io::Result<Detected> {
    let path = root.join(RESOLV_CONF);
    let current = files::read(&path)?;
    let resolved_runs = root.join(RESOLVED_DIR).is_dir();
    match &current {
        Content::Symlink { target } => {
            // A link is relative to the directory it lies in, or to the root we look at.
            let followed = match target.strip_prefix("/") {
                Ok(inside) => root.join(inside),
                Err(_) => root.join("etc").join(target),
            };
            let bytes = match files::read(&followed)? {
                Content::File { bytes, .. } => bytes,
                Content::Absent | Content::Symlink { .. } => Vec::new(),
            };
            let conf = ResolvConf::parse(&bytes);
            let manager = manager_of(target);
            if manager == Some("resolvconf")
                && let Some(found) = Openresolv::find_debian(root, &bytes)?
            {
                return Ok(Detected::Openresolv(found));
            }
            if manager == Some("systemd-resolved") && resolved_runs {
                return Ok(Detected::Resolved { uplinks: uplinks(root)? });
            }
            let manager = manager.unwrap_or("whoever owns the link").to_owned();
            Ok(Detected::Foreign { manager, target: target.clone(), conf })
        }
        Content::File { bytes, .. } => {
            let conf = ResolvConf::parse(bytes);
            let stub = |(ip, _): &(IpAddr, _)| STUBS.contains(&ip.to_string().as_str());
            if resolved_runs && conf.servers.iter().any(stub) {
                return Ok(Detected::Resolved { uplinks: uplinks(root)? });
            }
            if let Some(openresolv) = Openresolv::find(root, bytes)? {
                return Ok(Detected::Openresolv(openresolv));
            }
            let original = if is_ours(bytes) {
                ours.cloned().unwrap_or_else(|| current.with_bytes(kept_in(bytes)))
            } else {
                current.clone()
            };
            Ok(Detected::Plain { current, original })
        }
        Content::Absent => Ok(Detected::Plain { current: Content::Absent, original: Content::Absent }),
    }
}

impl Detected {
    /// The resolvers this host uses without us, never one of `ours`.
    pub fn upstreams(&self, root: &Path, ours: &[IpAddr]) -> Vec<SocketAddr> {
        let index = |name: &str| {
            let file = root.join("sys/class/net").join(Path::new(name).file_name()?).join("ifindex");
            std::fs::read_to_string(file).ok()?.trim().parse().ok()
        };
        let conf = match self {
            Self::Plain { original: Content::File { bytes, .. }, .. } => &ResolvConf::parse(bytes),
            Self::Plain { .. } => return Vec::new(),
            Self::Resolved { uplinks } => uplinks,
            Self::Openresolv(openresolv) => openresolv.before(),
            Self::Foreign { conf, .. } => conf,
        };
        conf.sockets(ours, index)
    }
}

fn uplinks(root: &Path) -> io::Result<ResolvConf> {
    Ok(match files::read(&root.join(RESOLVED_UPLINKS))? {
        Content::File { bytes, .. } => ResolvConf::parse(&bytes),
        Content::Absent | Content::Symlink { .. } => ResolvConf::default(),
    })
}

fn manager_of(target: &Path) -> Option<&'static str> {
    const OWNERS: [(&str, &str); 6] = [
        ("systemd", "systemd-resolved"),
        ("NetworkManager", "NetworkManager"),
        ("resolvconf", "resolvconf"),
        ("connman", "ConnMan"),
        ("wsl", "WSL"),
        ("netconfig", "netconfig"),
    ];
    target.iter().find_map(|part| OWNERS.iter().find(|(dir, _)| part == *dir).map(|(_, name)| *name))
}
