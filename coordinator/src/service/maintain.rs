//! What happens without anybody asking: forgotten ephemeral nodes, commits whose caller went away.

use super::{Actor, Service, draft, nodes};
use crate::model::Model;
use crate::store::compact::Bounds;
use crate::store::{Batch, StoreError};
use meshd_proto::{NodeId, UnixSeconds};

/// Seconds that an ephemeral node may stay away before it is removed.
pub const EPHEMERAL_GRACE: u64 = 300;

impl Service {
    /// Waits until a commit was begun whose end nobody saw, then publishes what the database has.
    /// Call it in a loop beside the servers.
    pub async fn recover_interrupted(&self) {
        self.interrupted.notified().await;
        // Taking the turn reads the database again.
        if let Err(error) = self.lock().await {
            tracing::error!(%error, "cannot read the database after an interrupted commit; trying again");
            self.interrupted.notify_one();
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }

    /// Removes ephemeral nodes that stayed away too long, with the devices joined through them. Returns how
    /// many nodes.
    ///
    /// # Errors
    /// When the database fails; nothing was removed then.
    pub async fn sweep(&self, now: UnixSeconds) -> Result<usize, StoreError> {
        if self.overdue(&self.model(), now).is_empty() {
            return Ok(0);
        }
        let turn = self.lock().await?;
        let gone = self.overdue(&turn.model, now);
        let mut batch = Batch { at: now, ..Batch::default() };
        for id in &gone {
            if let Some(node) = turn.model.nodes.get(id) {
                batch.audit.push(draft(&Actor::System, "node.forget", &node.name, "ephemeral, stayed away"));
            }
            batch.writes.extend(nodes::removal(&turn.model, *id));
        }
        turn.commit(batch).await?;
        for id in &gone {
            self.presence.forget(*id);
            self.pace.forget(*id);
        }
        Ok(gone.len())
    }

    /// Forgets what the logs hold beyond their bounds.
    ///
    /// # Errors
    /// When the database or the state directory cannot be written.
    pub async fn compact(&self, now: UnixSeconds) -> Result<(), StoreError> {
        self.lock().await?.writer.store.compact(&Bounds::DEFAULT, now).await
    }

    fn overdue(&self, model: &Model, now: UnixSeconds) -> Vec<NodeId> {
        let ephemeral = model.nodes.values().filter(|n| n.ephemeral);
        ephemeral
            .filter(|node| {
                // Never seen by this process: away since it started, at the earliest since it joined.
                let away_since = match self.presence(node.id) {
                    Some(p) if p.online => return false,
                    Some(p) => p.since,
                    None => self.started.max(node.created),
                };
                now.0.saturating_sub(away_since.0) >= EPHEMERAL_GRACE
            })
            .map(|n| n.id)
            .collect()
    }
}
