//! Puts the host's DNS back, from the journal alone: after a clean end, by the supervisor, by
//! `meshd cleanup`, at the next start. Doing it twice is doing it once.

use super::detect::RESOLV_CONF;
use super::files::{self, Content};
use super::journal::{Journal, ReplacedFile, SetLink, lock};
use super::openresolv::{OpenresolvError, take_back};
use super::resolv_conf::is_ours;
use super::resolved::{ResolvedError, revert_link};
use crate::steps;
use std::io;
use std::path::Path;

/// What putting back did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// /etc/resolv.conf is as it was before us.
    pub resolv_conf: bool,
    /// Somebody wrote /etc/resolv.conf after us: their file stays.
    pub left_alone: bool,
    /// systemd-resolved has forgotten our settings.
    pub link: bool,
    /// openresolv has forgotten our entry.
    pub openresolv: bool,
}

/// The host's DNS could not be put back; the journal stays for the next attempt.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A file.
    #[error(
        "the host's DNS could not be put back: {0}. What it was is in host-dns.json in meshd's state directory"
    )]
    File(#[from] io::Error),
    /// systemd-resolved.
    #[error("the host's DNS could not be put back: {0}. Try `resolvectl revert <mesh interface>`")]
    Resolved(#[from] ResolvedError),
    /// openresolv.
    #[error(
        "the host's DNS could not be put back: {0}. Try `resolvconf -f -d <mesh interface>.meshd` (Debian's: `resolvconf -d lo.meshd`)"
    )]
    Openresolv(#[from] OpenresolvError),
}

/// Puts everything back that the journal in `state_dir` names.
///
/// # Errors
/// See [`RestoreError`].
pub async fn restore(state_dir: &Path) -> Result<Restored, RestoreError> {
    restore_if(state_dir, |_| true).await
}

/// Like [`restore`], but only what the run called `lease` did.
///
/// # Errors
/// See [`RestoreError`].
pub async fn restore_lease(state_dir: &Path, lease: &str) -> Result<Restored, RestoreError> {
    restore_if(state_dir, |journal| journal.lease == lease).await
}

async fn restore_if(state_dir: &Path, wanted: impl Fn(&Journal) -> bool) -> Result<Restored, RestoreError> {
    if !state_dir.is_dir() {
        return Ok(Restored::default());
    }
    let _lock = lock(state_dir).await?;
    match Journal::load(state_dir)? {
        Some(journal) if wanted(&journal) => {
            steps::before("give the host's DNS back");
            let restored = undo(&journal).await?;
            steps::after("give the host's DNS back");
            Journal::clear(state_dir)?;
            Ok(restored)
        }
        _ => Ok(Restored::default()),
    }
}

/// Undoes what `journal` names. The caller holds the lock and clears the journal.
pub(super) async fn undo(journal: &Journal) -> Result<Restored, RestoreError> {
    let mut restored = Restored::default();
    // The file first: it needs nobody's help.
    if let Some(replaced) = &journal.resolv_conf {
        restored.resolv_conf = undo_file(&journal.root, replaced)?;
        restored.left_alone = !restored.resolv_conf;
    }
    if let Some(told) = &journal.openresolv {
        take_back(&told.program, &told.entry).await?;
        restored.openresolv = true;
    }
    if let Some(link) = &journal.link {
        undo_link(&journal.root, link).await?;
        restored.link = true;
    }
    Ok(restored)
}

/// `false`: somebody else wrote the file since, and it stays.
pub(super) fn undo_file(root: &Path, replaced: &ReplacedFile) -> io::Result<bool> {
    let path = root.join(RESOLV_CONF);
    files::remove_leftover(&path)?;
    let current = files::read(&path)?;
    let ours = match &current {
        Content::File { bytes, .. } => {
            is_ours(bytes) || is_torn(bytes, &replaced.written) || is_torn(bytes, &replaced.original)
        }
        // Nobody resolves anything without the file: better what was there before.
        Content::Absent => true,
        Content::Symlink { .. } => false,
    };
    if ours && current != replaced.original {
        files::write(&path, &replaced.original)?;
    }
    Ok(ours || current == replaced.original)
}

pub(super) async fn undo_link(root: &Path, link: &SetLink) -> Result<(), ResolvedError> {
    // The number may be another link's by now; where the name is gone, systemd-resolved has forgotten.
    let index = root.join("sys/class/net").join(&link.interface).join("ifindex");
    let now = std::fs::read_to_string(index).ok().and_then(|text| text.trim().parse::<u32>().ok());
    match now {
        Some(now) if now != link.ifindex => Ok(()),
        _ => revert_link(root, link.ifindex).await,
    }
}

/// A write in place that a kill cut short.
fn is_torn(bytes: &[u8], whole: &Content) -> bool {
    whole.bytes().is_some_and(|whole| bytes.len() < whole.len() && whole.starts_with(bytes))
}
