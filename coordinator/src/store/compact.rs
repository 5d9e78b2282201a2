//! What the database forgets, so that it stays of a size that its mesh explains.
//!
//! - The change log keeps the newest versions. Nodes do not need the older ones: who is further behind gets
//!   the whole map.
//! - Of policy texts the newest stay.
//! - The audit log keeps its newest entries in the database. Older ones move, oldest first, to files
//!   `audit/FIRST-LAST.jsonl` in the state directory (mode 0600, on the disk before they leave the
//!   database), of which the newest stay. The hash of the last entry that moved is kept: there the chain
//!   of the rest begins. An entry of the log itself names that hash, so that it cannot be exchanged alone.

use super::audit::{self, AuditDraft, Base};
use super::{Store, StoreError, files, int};
use meshd_proto::UnixSeconds;
use sqlx::Connection;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How much the database keeps.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Versions of the change log.
    pub versions: u64,
    /// Policy texts.
    pub policies: u32,
    /// Audit entries in the database; an eighth more may gather before they are moved together.
    pub audit: u64,
    /// Files of older audit entries.
    pub audit_files: usize,
}

impl Bounds {
    /// What a coordinator keeps: about 40 MB of audit log in the database and 80 MB in files at most.
    pub const DEFAULT: Self = Self { versions: 10_000, policies: 100, audit: 100_000, audit_files: 16 };
}

impl Store {
    /// Forgets what is beyond the bounds. Cheap when there is nothing.
    ///
    /// # Errors
    /// When the database or a file cannot be written; nothing is lost then.
    pub async fn compact(&mut self, bounds: &Bounds, at: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.conn.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("DELETE FROM changes WHERE version <= (SELECT version FROM mesh WHERE id = 1) - ?")
            .bind(int(bounds.versions))
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "DELETE FROM policies WHERE version NOT IN (SELECT version FROM policies ORDER BY version DESC LIMIT ?)",
        )
        .bind(i64::from(bounds.policies))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        self.rotate_audit(bounds, at).await
    }

    async fn rotate_audit(&mut self, bounds: &Bounds, at: UnixSeconds) -> Result<(), StoreError> {
        let base = audit::base(&mut self.conn).await?;
        let newest = audit::newest(&mut self.conn).await?;
        if newest.saturating_sub(base.id) <= bounds.audit + bounds.audit / 8 {
            return Ok(());
        }
        let last = newest - bounds.audit;
        let dir = self.dir.path().join("audit");
        let path = dir.join(format!("{:012}-{last:012}.jsonl", base.id + 1));
        let hash = self.write_archive(&dir, &path, base.id, last).await?;
        let mut tx = self.conn.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("DELETE FROM audit WHERE id <= ?").bind(int(last)).execute(&mut *tx).await?;
        let base = Base { id: last, hash };
        audit::set_base(&mut tx, &base).await?;
        let draft = AuditDraft {
            actor: "coordinator".to_owned(),
            action: audit::ROTATE,
            subject: format!("entries up to {last}"),
            detail: base.to_text(),
        };
        audit::append(&mut tx, at, &draft).await?;
        tx.commit().await?;
        tracing::info!(file = %path.display(), "older entries of the audit log were moved to a file");
        forget_oldest(&dir, bounds.audit_files)
    }

    /// Writes the entries behind `after` up to `last` into a file; returns the hash of the last one.
    async fn write_archive(
        &mut self,
        dir: &Path,
        path: &Path,
        after: u64,
        last: u64,
    ) -> Result<[u8; 32], StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(files::failed("cannot make directory", dir))?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(path).map_err(files::failed("cannot make", path))?;
        let (mut at, mut hash) = (after, [0; 32]);
        while at < last {
            let page = audit::page(&mut self.conn, at, last).await?;
            let Some(end) = page.last() else { break };
            (at, hash) = (end.id, end.hash);
            let mut text = String::new();
            for entry in &page {
                text.push_str(&entry.to_json().to_string());
                text.push('\n');
            }
            file.write_all(text.as_bytes()).map_err(files::failed("cannot write", path))?;
        }
        drop(file);
        files::sync(path)?;
        files::sync(dir)?;
        Ok(hash)
    }
}

/// Removes the oldest files when there are more than `keep`. Their names sort by age.
fn forget_oldest(dir: &Path, keep: usize) -> Result<(), StoreError> {
    let list = fs::read_dir(dir).map_err(files::failed("cannot list", dir))?;
    let mut found: Vec<PathBuf> = list.filter_map(|e| Some(e.ok()?.path())).collect();
    found.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
    found.sort();
    for path in found.iter().take(found.len().saturating_sub(keep)) {
        fs::remove_file(path).map_err(files::failed("cannot remove", path))?;
    }
    Ok(())
}
