//! A small file as a value with everything that must come back: bytes, mode, owner, or where a link
//! leads. Writing is atomic where the file can be replaced, in place where it cannot (a bind mount, as
//! in containers).

use super::resolv_conf::MAX_SIZE;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What is at a path.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Nothing.
    Absent,
    /// A regular file.
    File {
        /// Its bytes.
        #[serde(with = "bytes_or_text")]
        bytes: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads, as written.
        target: PathBuf,
    },
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("Absent"),
            Self::File { bytes, mode, uid, gid } => {
                writeln!(f, "File {mode:04o} {uid}:{gid}")?;
                f.write_str(String::from_utf8_lossy(bytes).trim_end())
            }
            Self::Symlink { target } => write!(f, "Symlink to {}", target.display()),
        }
    }
}

impl Content {
    /// A file like this one, or like what a root user makes, with other bytes.
    #[must_use]
    pub fn with_bytes(&self, bytes: Vec<u8>) -> Self {
        match self {
            Self::File { mode, uid, gid, .. } => Self::File { bytes, mode: *mode, uid: *uid, gid: *gid },
            Self::Absent | Self::Symlink { .. } => Self::File { bytes, mode: 0o644, uid: 0, gid: 0 },
        }
    }

    /// The bytes of a file.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::File { bytes, .. } => Some(bytes),
            Self::Absent | Self::Symlink { .. } => None,
        }
    }
}

/// Reads what is at `path`.
///
/// # Errors
/// When it is there and cannot be read, is too large, or is neither file nor link.
pub(super) fn read(path: &Path) -> io::Result<Content> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Content::Absent);
        }
        Err(e) => return Err(named(path, "read", e)),
    };
    if meta.is_symlink() {
        return Ok(Content::Symlink { target: fs::read_link(path).map_err(|e| named(path, "read", e))? });
    }
    if !meta.is_file() || meta.len() > MAX_SIZE as u64 {
        return Err(named(path, "read", io::Error::other("this is not a resolv.conf")));
    }
    let mut bytes = Vec::new();
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = open.map_err(|e| named(path, "read", e))?;
    file.take(MAX_SIZE as u64).read_to_end(&mut bytes).map_err(|e| named(path, "read", e))?;
    Ok(Content::File { bytes, mode: meta.permissions().mode() & 0o7777, uid: meta.uid(), gid: meta.gid() })
}

/// Makes `path` be `content`. A link is only ever made anew, never written through.
///
/// # Errors
/// When neither replacing nor writing in place works.
pub(super) fn write(path: &Path, content: &Content) -> io::Result<()> {
    match content {
        Content::Absent => match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(named(path, "remove", e)),
            _ => sync_dir(path),
        },
        Content::Symlink { target } => {
            let new = beside(path);
            remove_leftover(path)?;
            std::os::unix::fs::symlink(target, &new).map_err(|e| named(&new, "make", e))?;
            fs::rename(&new, path).map_err(|e| named(path, "replace", e))?;
            sync_dir(path)
        }
        Content::File { bytes, mode, uid, gid } => match replace(path, bytes, *mode, *uid, *gid) {
            Ok(()) => Ok(()),
            // What is there stays whole where there is no room, or the disk fails.
            Err(replacing) if !cannot_be_replaced(&replacing) => {
                remove_leftover(path)?;
                Err(named(path, "replace", replacing))
            }
            Err(replacing) => {
                remove_leftover(path)?;
                in_place(path, bytes).map_err(|_| named(path, "replace", replacing))
            }
        },
    }
}

/// The name under which a new file is prepared; a kill may leave it behind.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.meshd-new"))
}

/// Removes what a killed [`write`] may have left.
///
/// # Errors
/// When it is there and cannot be removed.
pub(super) fn remove_leftover(path: &Path) -> io::Result<()> {
    let new = beside(path);
    match fs::remove_file(&new) {
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(named(&new, "remove", e))
        }
        _ => Ok(()),
    }
}

fn replace(path: &Path, bytes: &[u8], mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    let new = beside(path);
    remove_leftover(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    if (uid, gid) != (file.metadata()?.uid(), file.metadata()?.gid()) {
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
    }
    // After the owner: changing that clears bits.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_dir(path)
}

/// Whether only the way of replacing was refused: a mount point, another file system, a directory that is
/// read-only or not ours, an owner that cannot be given.
fn cannot_be_replaced(error: &io::Error) -> bool {
    use libc::{EACCES, EBUSY, EINVAL, EPERM, EROFS, EXDEV};
    matches!(error.raw_os_error(), Some(EACCES | EBUSY | EINVAL | EPERM | EROFS | EXDEV))
}

/// Over what is there, then cut: a small file keeps its blocks, so that no disk is too full for that.
fn in_place(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

/// Makes a rename or removal in a file's directory last.
///
/// # Errors
/// As the system says.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// The error with the path and what was tried.
pub(super) fn named(path: &Path, action: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {action} {}: {error}", path.display()))
}

/// Bytes as text where they are text, so that a person can read the journal.
mod bytes_or_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(bytes) {
            Ok(text) => s.serialize_str(text),
            Err(_) => Either::Bytes(bytes.to_vec()).serialize(s),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        Ok(match Either::deserialize(d)? {
            Either::Text(text) => text.into_bytes(),
            Either::Bytes(bytes) => bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refused_replacement_is_written_in_place_and_never_on_a_full_disk() {
        for code in [libc::EBUSY, libc::EXDEV, libc::EROFS, libc::EACCES, libc::EPERM] {
            assert!(cannot_be_replaced(&io::Error::from_raw_os_error(code)), "{code}");
        }
        for code in [libc::ENOSPC, libc::EDQUOT, libc::EIO, libc::ENOENT] {
            assert!(!cannot_be_replaced(&io::Error::from_raw_os_error(code)), "{code}");
        }
    }

    #[test]
    fn what_is_written_in_place_leaves_nothing_of_a_longer_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        for text in
            ["nameserver 192.0.2.53\noptions edns0\n", "nameserver 192.0.2.1\n", "# none at all, this time\n"]
        {
            fs::write(&path, "x".repeat(30)).unwrap();
            in_place(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
