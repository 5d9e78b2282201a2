//! Reading the audit log, and backups: what needs the store and changes nothing in the mesh.

use super::{Actor, Permission, Service, ServiceError, draft};
use crate::store::Batch;
use crate::store::audit::{AuditEntry, ChainState};
use meshd_proto::UnixSeconds;

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

    /// Like [`Self::audit`], but only entries with `text` in one of their fields.
    ///
    /// # Errors
    /// When the actor may not, or the database fails.
    pub async fn find_audit(
        &self,
        actor: &Actor,
        text: &str,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, ServiceError> {
        Self::require(actor, Permission::ReadAudit)?;
        let text: String = text.trim().chars().take(100).collect();
        let mut turn = self.lock().await?;
        Ok(turn.writer.store.find_audit(&text, before, limit.min(MAX_ENTRIES)).await?)
    }

    /// Whether the chain of the audit log holds.
    ///
    /// # Errors
    /// When the actor may not, or the database fails.
    pub async fn verify_audit(&self, actor: &Actor) -> Result<ChainState, ServiceError> {
        Self::require(actor, Permission::ReadAudit)?;
        Ok(self.lock().await?.writer.store.verify_audit().await?)
    }

    /// A copy of the database, keys included.
    ///
    /// # Errors
    /// When the actor may not, or the state directory cannot be written.
    pub async fn backup(&self, actor: &Actor, now: UnixSeconds) -> Result<Vec<u8>, ServiceError> {
        Self::require(actor, Permission::Backup)?;
        let mut turn = self.lock().await?;
        let bytes = turn.writer.store.backup_bytes().await?;
        let audit = vec![draft(actor, "backup", "", format_args!("{} bytes", bytes.len()))];
        turn.commit(Batch { at: now, audit, ..Batch::default() }).await?;
        Ok(bytes)
    }
}
