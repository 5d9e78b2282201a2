//! What must be undone, on disk before it is done.
//!
//! One file, 0600, replaced by writing a new one, `fsync`, `rename`, `fsync` of the directory. Whoever
//! changes the host or undoes a change holds [`lock`].

use super::files::{self, Content, named};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const FILE: &str = "host-dns.json";
const LOCK: &str = "host-dns.lock";
/// A journal holds a few small files at most.
const MAX_SIZE: u64 = 1 << 20;
const LOCK_TRIES: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What must be undone.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// Which run of the daemon did it.
    pub lease: String,
    /// Where the host's files are.
    pub root: PathBuf,
    /// The original of /etc/resolv.conf and what we put there.
    pub resolv_conf: Option<ReplacedFile>,
    /// A link that systemd-resolved was told about.
    pub link: Option<SetLink>,
    /// What openresolv was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openresolv: Option<ToldOpenresolv>,
}

/// An entry of ours in openresolv.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToldOpenresolv {
    /// Its program.
    pub program: PathBuf,
    /// The entry's name.
    pub entry: String,
}

/// A file that was replaced.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplacedFile {
    /// What was there.
    pub original: Content,
    /// What we put there.
    pub written: Content,
}

/// A link with settings of ours.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetLink {
    /// Its name: a number alone may belong to another link by now.
    pub interface: String,
    /// Its number.
    pub ifindex: u32,
}

impl Journal {
    /// Reads it; `None` where there is nothing to undo.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn load(state_dir: &Path) -> io::Result<Option<Self>> {
        let path = state_dir.join(FILE);
        match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(named(&path, "read", e)),
            Ok(meta) if meta.len() > MAX_SIZE => {
                return Err(named(&path, "read", io::Error::other("it is too large to be ours")));
            }
            Ok(_) => (),
        }
        let bytes = fs::read(&path).map_err(|e| named(&path, "read", e))?;
        let journal = serde_json::from_slice(&bytes).map_err(|e| named(&path, "understand", e.into()))?;
        Ok(Some(journal))
    }

    /// Makes this the journal, on disk when it returns.
    ///
    /// # Errors
    /// When the disk does not take it; the old one stays.
    pub fn store(&self, state_dir: &Path) -> io::Result<()> {
        make_dir(state_dir)?;
        let path = state_dir.join(FILE);
        let new = state_dir.join(format!("{FILE}.new"));
        let write = || -> io::Result<()> {
            let _ = fs::remove_file(&new);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            files::sync_dir(&path)
        };
        write().map_err(|e| named(&path, "write", e))
    }

    /// Removes it: nothing is left to undo.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn clear(state_dir: &Path) -> io::Result<()> {
        let path = state_dir.join(FILE);
        let _ = fs::remove_file(state_dir.join(format!("{FILE}.new")));
        match fs::remove_file(&path) {
            Ok(()) => files::sync_dir(&path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(named(&path, "remove", e)),
        }
    }
}

/// Waits for the lock over journal and changes; dropping it (or dying) gives it back.
///
/// # Errors
/// When somebody holds it for more than ten seconds.
pub(super) async fn lock(state_dir: &Path) -> io::Result<File> {
    make_dir(state_dir)?;
    let path = state_dir.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| named(&path, "open", e))?;
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(LOCK_PAUSE).await,
            Err(e) => return Err(named(&path, "lock", e.into())),
        }
    }
    Err(named(&path, "lock", io::ErrorKind::TimedOut.into()))
}

fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| named(dir, "make", e))
}
