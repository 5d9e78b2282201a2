//! Relays beside the embedded one: which there are, and what they need to know to admit this mesh's nodes.

use super::settings::EMBEDDED_RELAY;
use super::{Actor, Permission, Service, ServiceError, draft};
use crate::model::Write;
use crate::store::Batch;
use meshd_proto::netmap::Relay;
use meshd_proto::{DnsName, Hostname, NodeKey, RelayId, UnixSeconds};
use std::net::IpAddr;

/// Most relays of one mesh: each node looks at all of them.
const MAX_RELAYS: usize = 32;
/// Most names and addresses of one relay.
const MAX_HOSTS: usize = 8;

/// A relay to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayInput {
    /// How people call it; unique.
    pub name: String,
    /// Names or addresses where nodes reach it.
    pub hosts: Vec<String>,
    /// Its key, as `meshd-relay --show-key` prints it.
    pub key: NodeKey,
    /// UDP port of relay and STUN.
    pub udp_port: u16,
    /// UDP port that answers STUN only; 0: none.
    pub stun_port: u16,
    /// TCP port for TLS and WebSocket; 0: none.
    pub tcp_port: u16,
}

impl Service {
    /// The relays, the embedded one first.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn relays(&self, actor: &Actor) -> Result<Vec<Relay>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        Ok(self.model().relays.values().cloned().collect())
    }

    /// Adds a relay to every node's map.
    ///
    /// # Errors
    /// When the actor may not, the name or key is taken, or something in it makes no sense.
    pub async fn add_relay(
        &self,
        actor: &Actor,
        input: &RelayInput,
        now: UnixSeconds,
    ) -> Result<Relay, ServiceError> {
        Self::require(actor, Permission::ManageMesh)?;
        let name: Hostname = input
            .name
            .parse()
            .map_err(|e| ServiceError::Invalid(format!("the relay's name cannot be used: {e}")))?;
        if input.hosts.is_empty() || input.hosts.len() > MAX_HOSTS {
            return Err(ServiceError::Invalid(format!(
                "a relay has between 1 and {MAX_HOSTS} names or addresses where nodes reach it"
            )));
        }
        let hosts = input.hosts.iter().map(|h| host(h)).collect::<Result<Vec<_>, _>>()?;
        if input.udp_port == 0 {
            return Err(ServiceError::Invalid("a relay needs its UDP port".to_owned()));
        }
        let turn = self.lock().await?;
        let relays = &turn.model.relays;
        if let Some(known) = relays.values().find(|r| r.name == name.as_str() || r.key == input.key) {
            return Err(ServiceError::Conflict(format!(
                "relay `{}` has that name or key already: remove it first, or give another one",
                known.name
            )));
        }
        if relays.len() >= MAX_RELAYS {
            return Err(ServiceError::Conflict(format!("a mesh has at most {MAX_RELAYS} relays")));
        }
        let free = (EMBEDDED_RELAY.0 + 1..).find(|id| !relays.contains_key(&RelayId(*id)));
        let relay = Relay {
            id: RelayId(free.unwrap_or(u32::MAX)),
            name: name.to_string(),
            key: input.key,
            hosts,
            udp_port: input.udp_port,
            alt_udp_port: input.stun_port,
            tls_port: input.tcp_port,
        };
        let audit = vec![draft(actor, "relay.add", &relay.name, relay.hosts.join(", "))];
        let writes = vec![Write::PutRelay(relay.clone())];
        turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        Ok(relay)
    }

    /// Takes a relay out of every node's map.
    ///
    /// # Errors
    /// When the actor may not, or there is no such relay, or it is the embedded one.
    pub async fn remove_relay(
        &self,
        actor: &Actor,
        name: &str,
        now: UnixSeconds,
    ) -> Result<(), ServiceError> {
        Self::require(actor, Permission::ManageMesh)?;
        let turn = self.lock().await?;
        let found = turn.model.relays.values().find(|r| r.name == name).cloned();
        let relay = found.ok_or_else(|| ServiceError::NotFound {
            what: "relay",
            name: name.chars().take(64).collect(),
            hint: "; `meshd-coordinator relays list` shows them".to_owned(),
        })?;
        if relay.id == EMBEDDED_RELAY {
            return Err(ServiceError::Conflict(
                "this relay is the coordinator's own: start `serve` with --no-relay to do without".to_owned(),
            ));
        }
        let audit = vec![draft(actor, "relay.remove", &relay.name, "")];
        let writes = vec![Write::DeleteRelay(relay.id)];
        turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        Ok(())
    }

    /// What a relay needs to admit this mesh's nodes: the command to start it with.
    pub fn relay_command(&self) -> String {
        let model = self.model();
        let keys = std::iter::once(model.mesh.signing_key).chain(model.mesh.next_signing_key);
        let keys: Vec<String> = keys.map(|k| format!("--permit-key {k}")).collect();
        format!("meshd-relay --network {} {}", model.network, keys.join(" "))
    }
}

/// A name or an address, as nodes resolve it.
fn host(text: &str) -> Result<String, ServiceError> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(ip.to_string());
    }
    let name: Result<DnsName, _> = text.parse();
    name.map(|n| n.to_string()).map_err(|e| {
        ServiceError::Invalid(format!("a relay's host is a name or an address without a port: {e}"))
    })
}
