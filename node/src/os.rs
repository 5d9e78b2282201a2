//! Host integration on Linux: addresses, routes, rules, kernel settings and our nftables table.
//!
//! Planned as data, then executed: [`Desired`] is computed from the network map, [`actual::Actual`] is
//! read from the kernel, [`plan::plan`] says what to change, an executor does it. It never touches what
//! is not ours: own table 5200, own rules, own nft table `inet meshd`; with `--firewall=assist` also the
//! hooks that other firewalls offer. It never makes the TUN device.
//!
//! Invariants:
//! - what a crash would leave behind is in the undo journal, on disk, before it is made;
//! - applying twice changes nothing the second time;
//! - after [`Host::down`] or [`cleanup`] the host is as it was before, except where somebody else has
//!   changed the same thing since.

pub mod actual;
mod apply;
pub mod assist;
mod checksum;
mod command;
pub mod conflicts;
pub mod desired;
pub mod journal;
pub mod links;
mod netlink;
pub mod nft;
pub mod plan;
mod read;
pub mod sysctl;
pub mod uplink;

pub use desired::{BadIfName, Connected, Desired, ExitChoice, FWMARK, HostSettings, IfName, Overlap};

use apply::Executor;
use journal::Journal;
use netlink::Netlink;
use plan::{Change, plan};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// This host, opened for changes. Dropping it undoes nothing: that is for [`Host::down`], or for
/// [`cleanup`] after a crash.
#[derive(Debug)]
pub struct Host {
    netlink: Netlink,
    journal: Journal,
}

/// What [`Host::apply`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedReport {
    /// The changes that were made; empty if the host was as it should be.
    pub changes: Vec<Change>,
    /// Where an accepted route and a connected network overlap; each prints as a warning.
    pub overlaps: Vec<Overlap>,
}

/// Something the operating system refused.
#[derive(Debug, thiserror::Error)]
pub enum OsError {
    /// The kernel refused.
    #[error("cannot {operation}: {answer}{}", hint(answer))]
    Kernel {
        /// What was tried.
        operation: String,
        /// Its answer.
        answer: io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed: {answer}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        answer: String,
    },
    /// nft is not installed.
    #[error("the program `nft` was not found: install it with `apt install nftables`")]
    NftMissing,
    /// The TUN interface is missing.
    #[error("interface {0} does not exist: it was removed, or not made; restart meshd to make it again")]
    NoInterface(String),
    /// There is no TUN device node.
    #[error(
        "/dev/net/tun is missing: load the module with `modprobe tun`; in a container, pass the device in \
         (`--device /dev/net/tun`)"
    )]
    NoTunDevice,
    /// A file could not be read or written.
    #[error("cannot {operation} {}: {source}{}", path.display(), hint(source))]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Host {
    /// Opens the host. What a crashed predecessor left is undone first.
    ///
    /// # Errors
    /// When the kernel or the journal cannot be reached, or an undo fails.
    pub async fn open(state_dir: &Path) -> Result<Self, OsError> {
        let netlink = Netlink::open()?;
        let mut journal = Journal::open(state_dir)?;
        apply::undo(&netlink, &mut journal).await?;
        Ok(Self { netlink, journal })
    }

    /// Makes the host look as desired. Does nothing where it already does.
    ///
    /// # Errors
    /// Names the operation that failed and the kernel's answer; changes before it stay and are undone
    /// by [`Host::down`].
    pub async fn apply(&mut self, desired: &Desired) -> Result<AppliedReport, OsError> {
        if desired.is_nothing() {
            // Not in a mesh (any more): nothing of ours stays.
            self.down().await?;
            return Ok(AppliedReport { changes: vec![], overlaps: vec![] });
        }
        let changes = self.plan(desired).await?;
        self.execute(&desired.interface, &changes).await?;
        Ok(AppliedReport { changes, overlaps: desired.overlaps.clone() })
    }

    /// What [`Host::apply`] would change now.
    ///
    /// # Errors
    /// When the host cannot be read, or the mesh interface does not exist.
    pub async fn plan(&self, desired: &Desired) -> Result<Vec<Change>, OsError> {
        let actual = read::actual(&self.netlink, &self.journal, desired).await?;
        if actual.link.is_none() && !desired.addresses.is_empty() {
            return Err(OsError::NoInterface(desired.interface.to_string()));
        }
        Ok(plan(desired, &actual))
    }

    async fn execute(&mut self, interface: &IfName, changes: &[Change]) -> Result<(), OsError> {
        Executor::new(&self.netlink, &mut self.journal, interface).execute(changes).await
    }

    /// Undoes everything.
    ///
    /// # Errors
    /// When something cannot be undone; [`cleanup`] tries again.
    pub async fn down(&mut self) -> Result<(), OsError> {
        apply::undo(&self.netlink, &mut self.journal).await
    }
}

/// Undoes what a crashed daemon left, by its journal. Without a journal it does nothing.
///
/// # Errors
/// When something cannot be undone; may be repeated.
pub async fn cleanup(state_dir: &Path) -> Result<(), OsError> {
    Host::open(state_dir).await.map(drop)
}

/// Whether a TUN interface can be made here at all.
///
/// # Errors
/// When the device node is missing.
pub fn require_tun_device() -> Result<(), OsError> {
    let device = std::fs::metadata("/dev/net/tun");
    if device.is_ok_and(|m| m.file_type().is_char_device()) { Ok(()) } else { Err(OsError::NoTunDevice) }
}

impl OsError {
    fn kernel(operation: impl Into<String>, answer: io::Error) -> Self {
        Self::Kernel { operation: operation.into(), answer }
    }

    fn file(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { operation, path: path.to_owned(), source }
    }
}

fn hint(answer: &io::Error) -> &'static str {
    match answer.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; run it as root, or with CAP_NET_ADMIN",
        Some(libc::EROFS) => {
            "; the file system is read-only here: in a container, allow writes to /proc/sys/net"
        }
        Some(libc::EOPNOTSUPP) => "; the kernel lacks policy routing or this feature",
        _ => "",
    }
}

#[cfg(test)]
pub(crate) mod testmap;
#[cfg(test)]
mod tests;
