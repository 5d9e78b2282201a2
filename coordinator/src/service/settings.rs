//! Where the coordinator and its relay are reached: set at every start, published when it changed.

use super::{Actor, Permission, Service, ServiceError, draft};
use crate::model::Write;
use crate::store::Batch;
use meshd_proto::netmap::Relay;
use meshd_proto::{RelayId, UnixSeconds};

/// The relay inside the coordinator has this id; others count from 2.
pub const EMBEDDED_RELAY: RelayId = RelayId(1);

/// The setting that keeps `--public`.
const PUBLIC: &str = "public";

/// The setting that keeps the TCP port, which tokens and forwarded ports lead to.
const PORT: &str = "tcp-port";

impl Service {
    /// The TCP port that was served last.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_port(&self) -> Result<Option<u16>, ServiceError> {
        let saved = self.lock().await?.writer.store.setting(PORT).await?;
        Ok(saved.and_then(|text| text.parse().ok()))
    }

    /// Keeps the TCP port for the next start.
    ///
    /// # Errors
    /// When the actor may not, or the database fails.
    pub async fn keep_port(&self, actor: &Actor, port: u16, now: UnixSeconds) -> Result<(), ServiceError> {
        Self::require(actor, Permission::ManageMesh)?;
        if self.last_port().await? == Some(port) {
            return Ok(());
        }
        let settings = vec![(PORT, port.to_string())];
        self.lock().await?.commit(Batch { at: now, settings, ..Batch::default() }).await?;
        Ok(())
    }

    /// What an admin once said with `--public`; it holds until he says something else.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn public(&self) -> Result<Vec<String>, ServiceError> {
        let saved = self.lock().await?.writer.store.setting(PUBLIC).await?;
        Ok(saved.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    /// Sets the addresses in tokens and maps, what an admin said about them (`None`: nothing new), and the
    /// embedded relay (`None`: there is none). Nothing happens when they are the same.
    ///
    /// # Errors
    /// When the actor may not, or the database fails.
    pub async fn set_reachability(
        &self,
        actor: &Actor,
        addresses: &[String],
        public: Option<&[String]>,
        relay: Option<&Relay>,
        now: UnixSeconds,
    ) -> Result<(), ServiceError> {
        Self::require(actor, Permission::ManageMesh)?;
        let mut turn = self.lock().await?;
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
        let mut settings = Vec::new();
        if let Some(public) = public {
            let text = serde_json::Value::from(public).to_string();
            if turn.writer.store.setting(PUBLIC).await?.as_deref() != Some(&text) {
                settings.push((PUBLIC, text));
            }
        }
        if writes.is_empty() && settings.is_empty() {
            return Ok(());
        }
        let audit = vec![draft(actor, "mesh.addresses", &turn.model.mesh.name, addresses.join(", "))];
        turn.commit(Batch { at: now, writes, settings, audit, ..Batch::default() }).await?;
        Ok(())
    }
}
