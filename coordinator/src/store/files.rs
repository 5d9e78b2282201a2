//! The state directory: 0700, its files 0600, one process at a time.

use super::StoreError;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A state directory that this process has to itself.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
    /// The lock ends with the last clone, or with the process.
    _lock: Arc<File>,
}

impl StateDir {
    /// Makes the directory if needed and takes its lock.
    ///
    /// # Errors
    /// When it cannot be made, or another process has the lock.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        make_durable(path).map_err(failed("cannot make the state directory", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .map_err(failed("cannot make private", path))?;
        let lock_path = path.join("lock");
        create_private(&lock_path)?;
        let lock = File::open(&lock_path).map_err(failed("cannot open", &lock_path))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: Arc::new(lock) }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked(path.to_owned())),
            Err(e) => Err(failed("cannot lock", &lock_path)(e.into())),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.path.join("coordinator.db")
    }

    /// Where copies made before a migration or restore go.
    pub(super) fn backups(&self) -> Result<PathBuf, StoreError> {
        let path = self.path.join("backups");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(failed("cannot make directory", &path))?;
        give_to_directory_owner(&path).map_err(failed("cannot make directory", &path))?;
        Ok(path)
    }

    /// Reads a private file of the directory; `None` when it does not exist.
    ///
    /// # Errors
    /// When it exists and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("cannot read", &path)(e)),
        }
    }

    /// Writes a private file of the directory, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (path, temporary) = (self.path.join(name), self.path.join(format!(".{name}.new")));
        let attempt = || -> std::io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.path)?.sync_all()
        };
        attempt().map_err(failed("cannot write", &path))
    }
}

/// Makes a private directory with those above it; what is new is entered in its parent on the disk.
fn make_durable(path: &Path) -> std::io::Result<()> {
    let mut missing: Vec<&Path> =
        path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    while let Some(made) = missing.pop() {
        let parent = made.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Makes an empty file that only its owner can read, or makes an existing one so.
pub(super) fn create_private(path: &Path) -> Result<(), StoreError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o600)))
        .and_then(|()| give_to_directory_owner(path))
        .map_err(failed("cannot make", path))
}

/// Root may restore into the directory of the service's own user, who has to read the result.
fn give_to_directory_owner(path: &Path) -> std::io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let (dir, file) = (fs::metadata(parent)?, fs::metadata(path)?);
    if !rustix::process::geteuid().is_root() || dir.uid() == file.uid() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(dir.uid()), Some(dir.gid()))
}

/// Makes an empty private file where there must be none yet.
pub(super) fn create_new_private(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|file| give_to_directory_owner(path).map(|()| file))
        .map_err(failed("cannot make", path))
}

/// Puts a file and its directory entry on the disk.
pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    let attempt = || -> std::io::Result<()> {
        File::open(path)?.sync_all()?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()
    };
    attempt().map_err(failed("cannot put on the disk", path))
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |cause| StoreError::File { doing, path, cause }
}
