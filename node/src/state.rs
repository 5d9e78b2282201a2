//! What a node keeps on disk: its keys, where it joined, what its user chose, the last map.
//!
//! Everything lies in one directory (0700), files are 0600. A file is replaced by writing a new one,
//! `fdatasync`, `rename`, `fsync` of the directory: after a kill at any point the old or the new
//! content is there, whole. A change is acknowledged to a user only after that.

use crate::settings::Settings;
use crate::steps;
use meshd_engine::Preshared;
use meshd_proto::keys::{CoordinatorKey, VerifyingKey};
use meshd_proto::netmap::{Entry, MapUpdate};
use meshd_proto::token::JoinToken;
use meshd_proto::{
    DecodeError, Epoch, MachineSecret, MapDigest, NetworkId, NetworkMap, NodeKey, NodeSecret, UnixSeconds,
    Version,
};
use prost::Message;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The file with the token of a join that is not over.
const JOINING: &str = "join";

/// The directory with a node's files.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

/// Why a node's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// The answer.
        source: io::Error,
    },
    /// A file has other content than we write.
    #[error("{path} is damaged: {why}. Move it away to start anew (the node will need a join token again)")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// A node's secret keys. Made once, never sent.
#[derive(Clone, Debug)]
pub struct Identity {
    /// For the control channel.
    pub machine: MachineSecret,
    /// For WireGuard.
    pub node: NodeSecret,
}

/// Which mesh this node joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The mesh.
    pub network: NetworkId,
    /// The coordinator's control-channel key.
    pub coordinator_key: CoordinatorKey,
    /// The coordinator's signing key.
    pub signing_key: VerifyingKey,
    /// Where the coordinator is reached, in order.
    pub addresses: Vec<String>,
}

/// What the user wants of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Intent {
    /// Whether the node should be up; survives a reboot.
    pub up: bool,
    /// The UDP port that was bound last; 0: none yet.
    pub udp_port: u16,
    /// The settings.
    pub settings: Settings,
}

#[derive(Clone, PartialEq, Message)]
struct IdentityFile {
    #[prost(bytes = "vec", tag = "1")]
    machine: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    node: Vec<u8>,
}

/// Preshared keys of devices joined through this node; [`StateDir::preshared`].
#[derive(Clone, PartialEq, Message)]
struct PresharedFile {
    #[prost(bytes = "vec", repeated, tag = "1")]
    devices: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    keys: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct MembershipFile {
    #[prost(bytes = "vec", tag = "1")]
    network: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    coordinator_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    signing_key: Vec<u8>,
    #[prost(string, repeated, tag = "4")]
    addresses: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct MapFile {
    #[prost(bytes = "vec", tag = "1")]
    network: Vec<u8>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(bytes = "vec", tag = "4")]
    digest: Vec<u8>,
    /// When the coordinator last confirmed it, seconds since 1970: the lease counts from here.
    #[prost(uint64, tag = "5")]
    confirmed: u64,
    #[prost(bytes = "vec", repeated, tag = "6")]
    entries: Vec<Vec<u8>>,
}

impl StateDir {
    /// Opens the directory, making it when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).map_err(|source| io_error("make the directory", path, source))?;
        Ok(Self(path.to_owned()))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The node's keys; `make` draws them when there are none yet.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is damaged.
    pub fn identity(&self, make: impl FnOnce() -> io::Result<Identity>) -> Result<Identity, StateError> {
        let path = self.0.join("identity");
        if let Some(bytes) = read(&path)? {
            let file = IdentityFile::decode(&*bytes).map_err(|e| damaged(&path, e))?;
            return Ok(Identity {
                machine: MachineSecret::from_bytes(key(&path, &file.machine)?),
                node: NodeSecret::from_bytes(key(&path, &file.node)?),
            });
        }
        let identity = make().map_err(|source| io_error("make keys for", &path, source))?;
        let file = IdentityFile {
            machine: identity.machine.as_bytes().to_vec(),
            node: identity.node.as_bytes().to_vec(),
        };
        self.replace("identity", &file.encode_to_vec())?;
        Ok(identity)
    }

    /// Which mesh this node joined, if any.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn membership(&self) -> Result<Option<Membership>, StateError> {
        let path = self.0.join("membership");
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let file = MembershipFile::decode(&*bytes).map_err(|e| damaged(&path, e))?;
        let network: [u8; 16] =
            file.network.as_slice().try_into().map_err(|_| damaged(&path, "the network id"))?;
        Ok(Some(Membership {
            network: NetworkId::from_bytes(network),
            coordinator_key: CoordinatorKey::from_bytes(key(&path, &file.coordinator_key)?),
            signing_key: VerifyingKey::from_bytes(key(&path, &file.signing_key)?),
            addresses: file.addresses,
        }))
    }

    /// Records the mesh this node joined.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_membership(&self, membership: &Membership) -> Result<(), StateError> {
        let file = MembershipFile {
            network: membership.network.as_bytes().to_vec(),
            coordinator_key: membership.coordinator_key.as_bytes().to_vec(),
            signing_key: membership.signing_key.as_bytes().to_vec(),
            addresses: membership.addresses.clone(),
        };
        self.replace("membership", &file.encode_to_vec())
    }

    /// The token of a join that the coordinator has not heard of yet. A file that cannot be read counts as none:
    /// the token can be given again.
    pub fn joining(&self) -> Option<JoinToken> {
        let path = self.0.join(JOINING);
        let bytes = Zeroizing::new(match read(&path) {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(%error, "the token of an unfinished join cannot be read");
                return None;
            }
        });
        let token = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
        if token.is_none() {
            tracing::warn!(path = %path.display(), "the token of an unfinished join is damaged");
        }
        token
    }

    /// Records the token that this machine joins with.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_joining(&self, token: &JoinToken) -> Result<(), StateError> {
        self.replace(JOINING, token.to_text().as_bytes())
    }

    /// The join is over, well or not.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget_joining(&self) -> Result<(), StateError> {
        self.remove(JOINING)?;
        self.sync_dir()
    }

    /// The WireGuard preshared keys that devices joined through this node have, by their public keys.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn preshared(&self) -> Result<BTreeMap<NodeKey, Preshared>, StateError> {
        let path = self.0.join("preshared");
        let Some(bytes) = read(&path)? else { return Ok(BTreeMap::new()) };
        let file = PresharedFile::decode(&*bytes).map_err(|e| damaged(&path, e))?;
        let pair = |(device, secret): (&Vec<u8>, &Vec<u8>)| {
            Ok((NodeKey::from_bytes(key(&path, device)?), Preshared(key(&path, secret)?)))
        };
        file.devices.iter().zip(&file.keys).map(pair).collect()
    }

    /// Records them, all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_preshared(&self, keys: &BTreeMap<NodeKey, Preshared>) -> Result<(), StateError> {
        let file = PresharedFile {
            devices: keys.keys().map(|k| k.as_bytes().to_vec()).collect(),
            keys: keys.values().map(|k| k.0.to_vec()).collect(),
        };
        self.replace("preshared", &file.encode_to_vec())
    }

    /// What the user wants; the defaults when nothing was said yet.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn intent(&self) -> Result<Intent, StateError> {
        let path = self.0.join("settings.json");
        let Some(bytes) = read(&path)? else { return Ok(Intent::default()) };
        serde_json::from_slice(&bytes).map_err(|e| damaged(&path, e))
    }

    /// Records what the user wants.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_intent(&self, intent: &Intent) -> Result<(), StateError> {
        let text =
            serde_json::to_vec_pretty(intent).map_err(|e| damaged(&self.0.join("settings.json"), e))?;
        self.replace("settings.json", &text)
    }

    /// The last map and when the coordinator confirmed it. A damaged file counts as none: the
    /// coordinator has the truth.
    pub fn map(&self) -> Option<(NetworkMap, UnixSeconds)> {
        let path = self.0.join("map");
        let bytes = match read(&path) {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(%error, "the stored map cannot be read: starting without it");
                return None;
            }
        };
        match decode_map(&bytes) {
            Ok(found) => Some(found),
            Err(why) => {
                tracing::warn!(why, "the stored map is damaged: starting without it");
                None
            }
        }
    }

    /// Stores the map, confirmed by the coordinator at `confirmed`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_map(&self, map: &NetworkMap, confirmed: UnixSeconds) -> Result<(), StateError> {
        let file = MapFile {
            network: map.network.as_bytes().to_vec(),
            epoch: map.epoch.0,
            version: map.version.0,
            digest: map.digest().to_bytes().to_vec(),
            confirmed: confirmed.0,
            entries: map.entries().map(|e| e.encode()).collect(),
        };
        self.replace("map", &file.encode_to_vec())
    }

    /// Forgets mesh, map and keys: the node left for good.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn forget(&self) -> Result<(), StateError> {
        for name in [JOINING, "map", "preshared", "membership", "identity"] {
            self.remove(name)?;
        }
        self.sync_dir()
    }

    fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path, e)),
            _ => Ok(()),
        }
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let (path, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(content)?;
            file.sync_data()?;
            steps::before(format_args!("put {name} in place"));
            fs::rename(&new, &path)?;
            steps::after(format_args!("put {name} in place"));
            Ok(())
        };
        steps::before(format_args!("write {name}.new"));
        write().map_err(|source| io_error("write", &path, source))?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<(), StateError> {
        File::open(&self.0).and_then(|d| d.sync_all()).map_err(|e| io_error("sync", &self.0, e))
    }
}

fn decode_map(bytes: &[u8]) -> Result<(NetworkMap, UnixSeconds), String> {
    let file = MapFile::decode(bytes).map_err(|e| e.to_string())?;
    let network = NetworkId::from_bytes(file.network.as_slice().try_into().map_err(|_| "network id")?);
    let digest: [u8; 32] = file.digest.as_slice().try_into().map_err(|_| "digest")?;
    let entries: Result<Vec<Entry>, DecodeError> = file.entries.iter().map(|e| Entry::decode(e)).collect();
    let update = MapUpdate {
        network,
        epoch: Epoch(file.epoch),
        from: None,
        to: Version(file.version),
        upserts: entries.map_err(|e| e.to_string())?,
        removes: Vec::new(),
        digest: MapDigest::from_bytes(&digest),
        more: false,
    };
    let map = NetworkMap::empty(network).apply(&update).map_err(|e| e.to_string())?;
    Ok((map, UnixSeconds(file.confirmed)))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("read", path, source)),
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StateError {
    StateError::Io { action, path: path.display().to_string(), source }
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> StateError {
    StateError::Damaged { path: path.display().to_string(), why: why.to_string() }
}

fn key(path: &Path, bytes: &[u8]) -> Result<[u8; 32], StateError> {
    bytes.try_into().map_err(|_| damaged(path, "a key has not 32 bytes"))
}

#[cfg(test)]
mod tests;
