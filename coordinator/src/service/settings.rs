//! Where the coordinator and its relay are reached: set at every start, published when it changed.

use super::{Actor, Permission, Service, ServiceError, draft};
use crate::model::Write;
use crate::store::Batch;
use meshd_proto::netmap::Relay;
use meshd_proto::{RelayId, UnixSeconds};

/// The relay inside the coordinator has this id; others count from 2.
pub const EMBEDDED_RELAY: RelayId = RelayId(1);

impl Service {
    /// Sets the addresses in tokens and maps, and the embedded relay (`None`: there is none). Nothing happens when they are the same.
    ///
    /// # Errors
    /// When the actor may not, or the database fails.
    pub async fn set_reachability(
        &self,
        actor: &Actor,
        addresses: &[String],
        relay: Option<&Relay>,
        now: UnixSeconds,
    ) -> Result<(), ServiceError> {
        Self::require(actor, Permission::ManageMesh)?;
        let turn = self.lock().await?;
        let mut writes = Vec::new();
        if turn.model.mesh.addresses != addresses {
            let mut mesh = turn.model.mesh.clone();
            mesh.addresses = addresses.to_vec();
            writes.push(Write::PutMesh(mesh));
        }
        match relay {
            Some(relay) if turn.model.relays.get(&relay.id) != Some(relay) => {
                writes.push(Write::PutRelay(relay.clone()));
            }
            None if turn.model.relays.contains_key(&EMBEDDED_RELAY) => {
                writes.push(Write::DeleteRelay(EMBEDDED_RELAY));
            }
            _ => {}
        }
        if writes.is_empty() {
            return Ok(());
        }
        let audit = vec![draft(actor, "mesh.addresses", &turn.model.mesh.name, addresses.join(", "))];
        turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        Ok(())
    }
}
