//! Reading the audit log, and backups: what needs the store and changes nothing in the mesh.

use super::{Actor, Permission, Service, ServiceError, draft};
use crate::store::Batch;
use crate::store::audit::{AuditEntry, ChainState};
use meshd_proto::UnixSeconds;
use std::path::Path;

/// Most entries of one answer.
const MAX_ENTRIES: u32 = 1000;

impl Service {
    /// The newest audit entries before id `before`, newest first.
    ///
    /// # Errors
    /// When the actor may not, or the database fails.
    pub async fn audit(
        &self,
        actor: &Actor,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, ServiceError> {
        Self::require(actor, Permission::ReadAudit)?;
        Ok(self.lock().await?.writer.store.audit(before, limit.min(MAX_ENTRIES)).await?)
    }

    /// Whether the chain of the audit log holds.
    ///
    /// # Errors
    /// When the actor may not, or the database fails.
    pub async fn verify_audit(&self, actor: &Actor) -> Result<ChainState, ServiceError> {
        Self::require(actor, Permission::ReadAudit)?;
        Ok(self.lock().await?.writer.store.verify_audit().await?)
    }

    /// Writes a copy of the database, keys included, to a new file of mode 0600.
    ///
    /// # Errors
    /// When the actor may not, the file exists or cannot be written.
    pub async fn backup(&self, actor: &Actor, path: &Path, now: UnixSeconds) -> Result<(), ServiceError> {
        Self::require(actor, Permission::Backup)?;
        if !path.is_absolute() {
            return Err(ServiceError::Invalid("name the backup file with its whole path".to_owned()));
        }
        self.lock().await?.writer.store.backup(path).await?;
        let audit = vec![draft(actor, "backup", path.display(), "")];
        self.lock().await?.commit(Batch { at: now, audit, ..Batch::default() }).await?;
        Ok(())
    }
}
