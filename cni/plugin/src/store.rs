//! The ledger's file: one holder at a time, and never half a file.
//!
//! `<dataDir>/<network>/ledger.json` is replaced as a whole: written beside, synced, renamed, and the folder
//! synced. The lock is the kernel's (`flock`), so it is gone with a process that was killed.
//! Beside it lies `spare`, some room on the disk that only `DEL` and `GC` use: on a full disk pods can go.
//! Invariant: what [`Store::save`] has returned for survives the process and the machine.

use crate::failure::{Code, Failure};
use crate::ledger::Ledger;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often and how long a waiting call tries for the lock: half a minute.
const TRIES: u32 = 6000;
const PAUSE: Duration = Duration::from_millis(5);
/// Longest file that is read: some hundred thousand reservations.
const MAX_FILE: u64 = 64 << 20;

/// Room for the ledger of a thousand pods.
const SPARE: usize = 256 << 10;

/// The locked ledger of one network.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    _lock: File,
}

impl Store {
    /// Makes the folder when it is missing.
    pub(crate) fn open(data_dir: &Path, network: &str) -> Result<Self, Failure> {
        let folder = data_dir.join(network);
        if !folder.exists() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder
                .create(&folder)
                .and_then(|()| sync_folder(data_dir))
                .map_err(|e| Failure::io(format!("cannot make {}", folder.display()), &e))?;
        }
        Self::lock(folder)
    }

    /// `None` when nothing was ever reserved in this network.
    pub(crate) fn open_existing(data_dir: &Path, network: &str) -> Result<Option<Self>, Failure> {
        let folder = data_dir.join(network);
        if folder.exists() { Self::lock(folder).map(Some) } else { Ok(None) }
    }

    fn lock(folder: PathBuf) -> Result<Self, Failure> {
        let path = folder.join("lock");
        let failed = |e: &std::io::Error| Failure::io(format!("cannot lock {}", path.display()), e);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(|e| failed(&e))?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Self { folder, _lock: file }),
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(TryLockError::Error(e)) => return Err(failed(&e)),
            }
        }
        let details =
            format!("another meshd-cni has held {} for half a minute; see `fuser -v` on it", path.display());
        Err(Failure::new(Code::TryAgainLater, "the reservations are locked", details))
    }

    pub(crate) fn load(&self) -> Result<Ledger, Failure> {
        let path = self.ledger();
        let unreadable = |e: &std::io::Error| Failure::io(format!("cannot read {}", path.display()), e);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Ledger::default()),
            Err(e) => return Err(unreadable(&e)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).map_err(|e| unreadable(&e))?;
        Ledger::parse(&bytes).map_err(|why| {
            let path = path.display();
            let details = format!(
                "{path}: {why}; restore it, or stop the pods of this node and remove it: addresses that are in \
                 use would be given again"
            );
            Failure::new(Code::DamagedLedger, "the reservations cannot be read", details)
        })
    }

    /// With more in it than before. Refuses before the disk is so full that nothing could be freed.
    pub(crate) fn save(&self, ledger: &Ledger) -> Result<(), Failure> {
        self.keep_spare().and_then(|()| self.replace(ledger)).map_err(|e| self.unwritable(&e))
    }

    /// With less in it than before.
    pub(crate) fn save_freed(&self, ledger: &Ledger) -> Result<(), Failure> {
        let full = |e: &std::io::Error| matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        let saved = match self.replace(ledger) {
            Err(e) if full(&e) => {
                fs::remove_file(self.spare()).and_then(|()| self.replace(ledger)).map(|()| {
                    // The old file's room is free by now: for the next one. Without it this one has still gone.
                    let _ = self.keep_spare();
                })
            }
            saved => saved,
        };
        saved.map_err(|e| self.unwritable(&e))
    }

    fn replace(&self, ledger: &Ledger) -> std::io::Result<()> {
        let new = self.folder.join("ledger.json.new");
        write_synced(&new, &ledger.to_bytes())?;
        fs::rename(&new, self.ledger())?;
        sync_folder(&self.folder)
    }

    fn keep_spare(&self) -> std::io::Result<()> {
        let spare = self.spare();
        if fs::metadata(&spare).is_ok_and(|m| m.len() == SPARE as u64) {
            return Ok(());
        }
        let written = write_synced(&spare, &vec![b'-'; SPARE]);
        if written.is_err() {
            // Half of it would be in the way of others.
            let _ = fs::remove_file(&spare);
        }
        written
    }

    fn unwritable(&self, error: &std::io::Error) -> Failure {
        Failure::io(format!("cannot write {}", self.ledger().display()), error)
    }

    fn spare(&self) -> PathBuf {
        self.folder.join("spare")
    }

    fn ledger(&self) -> PathBuf {
        self.folder.join("ledger.json")
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::Ranges;
    use crate::request::Attachment;

    fn pod(number: usize) -> Attachment {
        let json = serde_json::json!({ "container": format!("pod{number}"), "interface": "eth0" });
        serde_json::from_value(json).expect("a good attachment")
    }

    #[test]
    fn fifty_at_once_get_fifty_addresses() {
        let folder = tempfile::tempdir().expect("a folder");
        let ranges = Ranges::parse(&["10.1.0.0/26".to_owned()]).expect("good");
        std::thread::scope(|scope| {
            for number in 0..50 {
                let (folder, ranges) = (folder.path(), &ranges);
                scope.spawn(move || {
                    let store = Store::open(folder, "pods").expect("a store");
                    let mut ledger = store.load().expect("a ledger");
                    ledger.reserve(&pod(number), ranges).expect("free");
                    store.save(&ledger).expect("written");
                });
            }
        });
        let store = Store::open(folder.path(), "pods").expect("a store");
        assert_eq!(store.load().expect("no address stands there twice").reservations().len(), 50);
    }

    #[test]
    fn half_a_file_beside_is_no_ledger_and_a_damaged_one_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(Store::open_existing(folder.path(), "pods").expect("fine").is_none());
        let store = Store::open(folder.path(), "pods").expect("a store");
        fs::write(folder.path().join("pods/ledger.json.new"), b"{\"form").expect("written");
        assert_eq!(store.load(), Ok(Ledger::default()), "a save that was killed has not happened");
        store.save(&Ledger::default()).expect("written over the half one");
        fs::write(folder.path().join("pods/ledger.json"), b"{\"form").expect("written");
        let error = store.load().expect_err("damaged");
        assert_eq!(error.code, Code::DamagedLedger);
        assert!(error.details.contains("ledger.json"), "{}", error.details);
    }
}
