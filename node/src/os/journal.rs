//! What must be undone after a crash, written to disk before it is done.
//!
//! One file in the state directory, one line per record: a checksum, a space, JSON. A record is on the
//! disk (`fdatasync`) before the change it speaks of is made; a torn last line therefore speaks of a
//! change that was never made and is skipped. The file is removed when everything is undone, last.

use super::OsError;
use super::assist::Hook;
use super::checksum::fnv1a;
use super::sysctl::SysctlChange;
use ipnet::IpNet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file's name in the state directory.
pub const FILE_NAME: &str = "host-undo.journal";
/// Largest journal we read; a real one has a few dozen lines.
const MAX_SIZE: u64 = 4 << 20;

/// One thing to undo.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Record {
    /// From here on the mesh interface, our table, our rules and our nft table may be ours to remove.
    Interface {
        /// Its name.
        name: String,
        /// Whether it was up.
        up: bool,
        /// Its MTU.
        mtu: u32,
        /// Its addresses.
        addresses: Vec<IpNet>,
    },
    /// A kernel setting.
    Sysctl(SysctlChange),
    /// Rules in another firewall's hook.
    Hook {
        /// Which hook.
        hook: Hook,
        /// The mesh interface in them.
        interface: String,
    },
    /// The record at this index was undone.
    Undone {
        /// Zero-based.
        index: usize,
    },
}

/// A record that was not undone yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its place in the journal.
    pub index: usize,
    /// What it says.
    pub record: Record,
}

/// The open journal of a running host.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Option<File>,
    records: Vec<Record>,
}

impl Journal {
    /// Reads what a crash left, or starts empty. Makes no file yet.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, OsError> {
        let path = state_dir.join(FILE_NAME);
        let records = read(&path)?;
        Ok(Self { path, file: None, records })
    }

    /// What is still to be undone, oldest first.
    pub(crate) fn pending(&self) -> Vec<Recorded> {
        let undone = |index| self.records.contains(&Record::Undone { index });
        let all = self.records.iter().enumerate();
        let open = all.filter(|(index, r)| !matches!(r, Record::Undone { .. }) && !undone(*index));
        open.map(|(index, record)| Recorded { index, record: record.clone() }).collect()
    }

    /// Whether a file is there.
    pub(crate) fn exists(&self) -> bool {
        self.file.is_some() || self.path.exists()
    }

    /// Puts a record on the disk. Returns only when it is there. A record that is already pending is
    /// not written twice.
    pub(crate) fn append(&mut self, record: Record) -> Result<(), OsError> {
        if !matches!(record, Record::Undone { .. }) && self.pending().iter().any(|r| r.record == record) {
            return Ok(());
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OsError::file("write the undo journal", &path, source)
        };
        let json = serde_json::to_string(&record).map_err(|e| failed(&self.path)(e.into()))?;
        let line = format!("{:016x} {json}\n", fnv1a(json.as_bytes()));
        let file = match self.file.take() {
            Some(file) => file,
            None => self.open_for_more()?,
        };
        let before = file.metadata().map_err(failed(&self.path))?.len();
        if let Err(source) = write_whole(&file, line.as_bytes()) {
            // What is on the disk now is not known: the next record looks at it anew, see `open_for_more`.
            let _ = file.set_len(before);
            return Err(failed(&self.path)(source));
        }
        self.file = Some(file);
        self.records.push(record);
        Ok(())
    }

    /// The file for further records, with what is in it in mind: records are counted as they lie there, and
    /// a torn one must not swallow the next.
    fn open_for_more(&mut self) -> Result<File, OsError> {
        let failed = |source| OsError::file("write the undo journal", &self.path, source);
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true).mode(0o600);
        let mut file = options.open(&self.path).map_err(failed)?;
        sync_parent(&self.path)?;
        self.records = read(&self.path)?;
        let ends_a_line = match file.seek(SeekFrom::End(-1)) {
            Ok(_) => {
                let mut last = [0];
                file.read_exact(&mut last).map_err(failed)?;
                last == *b"\n"
            }
            // Nothing is in it.
            Err(_) => true,
        };
        if !ends_a_line {
            write_whole(&file, b"\n").map_err(failed)?;
        }
        Ok(file)
    }

    /// Everything is undone: removes the file.
    pub(crate) fn remove(&mut self) -> Result<(), OsError> {
        self.file = None;
        self.records.clear();
        match fs::remove_file(&self.path) {
            Ok(()) => sync_parent(&self.path),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(source) => Err(OsError::file("remove the undo journal", &self.path, source)),
        }
    }
}

fn write_whole(mut file: &File, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all(bytes)?;
    file.sync_data()
}

fn sync_parent(path: &Path) -> Result<(), OsError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let synced = File::open(parent).and_then(|dir| dir.sync_all());
    synced.map_err(|source| OsError::file("sync", parent, source))
}

fn read(path: &Path) -> Result<Vec<Record>, OsError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(OsError::file("read the undo journal", path, source)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIZE)
        .read_to_end(&mut bytes)
        .map_err(|source| OsError::file("read the undo journal", path, source))?;
    Ok(parse(&bytes))
}

/// The records in the bytes of a journal; lines that are torn are left out.
pub(crate) fn parse(bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        match parse_line(line) {
            Some(record) => records.push(record),
            None => tracing::warn!(bytes = line.len(), "skipped a torn record in the undo journal"),
        }
    }
    records
}

fn parse_line(line: &[u8]) -> Option<Record> {
    let text = std::str::from_utf8(line).ok()?;
    let (sum, json) = text.split_once(' ')?;
    let sum = u64::from_str_radix(sum, 16).ok()?;
    (sum == fnv1a(json.as_bytes())).then(|| serde_json::from_str(json).ok()).flatten()
}

#[cfg(test)]
mod tests;
