//! Plain WireGuard devices, joined through a node of ours. The coordinator sees their public key only.

use super::{Actor, Permission, Service, ServiceError, Turn, allocate, draft, nodes};
use crate::model::{NodeRecord, Write};
use crate::store::Batch;
use meshd_proto::netmap::PeerKind;
use meshd_proto::{Hostname, MeshAddrs, NodeId, NodeKey, UnixSeconds, Version};
use std::collections::BTreeSet;

/// Most devices joined through one node.
const MAX_DEVICES_PER_NODE: usize = 250;

/// A device that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: Hostname,
    /// Its addresses.
    pub addrs: MeshAddrs,
    /// The node it is joined through.
    pub via: NodeId,
}

impl Service {
    /// Joins a device through node `via`. It belongs to whom that node belongs to. A node may do this for
    /// itself; an admin for every node.
    ///
    /// # Errors
    /// When the actor may not, the name or key is taken, or the database fails.
    pub async fn create_device(
        &self,
        actor: &Actor,
        via: NodeId,
        name: &Hostname,
        key: NodeKey,
        now: UnixSeconds,
    ) -> Result<Device, ServiceError> {
        require_own(actor, via)?;
        let turn = self.lock().await?;
        let router = router(&turn, via)?;
        nodes::refuse_taken(&turn.model, name, None)?;
        if let Some(holder) = turn.model.node_by_key(&key) {
            return Err(ServiceError::Conflict(format!(
                "this key already belongs to `{}`: make a new key pair for the device",
                holder.name
            )));
        }
        if turn.model.nodes.values().filter(|n| n.via == Some(via)).count() >= MAX_DEVICES_PER_NODE {
            return Err(ServiceError::Conflict(format!(
                "`{}` already carries {MAX_DEVICES_PER_NODE} devices: remove some, or join this one through another node",
                router.name
            )));
        }
        self.pace_device(actor, now)?;
        let id = turn.next_node();
        let addrs = allocate::addresses(&turn.model, id).ok_or_else(|| {
            ServiceError::Conflict(format!("no mesh address is left in {}", turn.model.mesh.prefixes.v4))
        })?;
        let device = NodeRecord {
            id,
            machine_key: None,
            node_key: key,
            name: name.clone(),
            renamed: true,
            addrs,
            owner: router.owner.clone(),
            tags: router.tags.clone(),
            class: router.class,
            advertised: BTreeSet::new(),
            approved: BTreeSet::new(),
            exit_advertised: false,
            exit_approved: false,
            key_expires: None,
            ephemeral: false,
            admitted: true,
            revoked: false,
            machine_id_hash: None,
            os: String::new(),
            client_version: "WireGuard".to_owned(),
            created: now,
            kind: PeerKind::PlainWireguard,
            via: Some(via),
            publishing: crate::model::Publishing::default(),
            changed: Version(0),
        };
        let audit = vec![draft(actor, "device.create", name, format_args!("through {}", router.name))];
        let writes = vec![Write::PutNode(device)];
        turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        Ok(Device { node: id, name: name.clone(), addrs, via })
    }

    /// Removes a device that was joined through node `via`.
    ///
    /// # Errors
    /// When the actor may not, there is no such device there, or the database fails.
    pub async fn remove_device(
        &self,
        actor: &Actor,
        via: NodeId,
        name: &Hostname,
        now: UnixSeconds,
    ) -> Result<(), ServiceError> {
        require_own(actor, via)?;
        let turn = self.lock().await?;
        let device = turn.model.node_by_name(name.as_str()).filter(|n| n.via == Some(via));
        let device = device.map(|d| d.id).ok_or_else(|| ServiceError::NotFound {
            what: "device",
            name: name.to_string(),
            hint: " joined through this node".to_owned(),
        })?;
        self.pace_device(actor, now)?;
        let audit = vec![draft(actor, "device.remove", name, "")];
        let writes = vec![Write::DeleteNode(device)];
        turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        Ok(())
    }

    /// A node's own changes are counted; an admin's are not.
    fn pace_device(&self, actor: &Actor, now: UnixSeconds) -> Result<(), ServiceError> {
        match actor {
            Actor::Node(me) => self.pace.take(*me, now).map_err(|wait| ServiceError::TooOften { wait }),
            _ => Ok(()),
        }
    }
}

fn require_own(actor: &Actor, via: NodeId) -> Result<(), ServiceError> {
    match actor {
        Actor::Node(me) if *me == via => Ok(()),
        other => Service::require(other, Permission::ManageNodes),
    }
}

fn router(turn: &Turn<'_>, via: NodeId) -> Result<NodeRecord, ServiceError> {
    let node = turn.model.nodes.get(&via).ok_or_else(|| ServiceError::NotFound {
        what: "node",
        name: via.to_string(),
        hint: String::new(),
    })?;
    if node.kind != PeerKind::Meshd || node.revoked || !node.admitted {
        return Err(ServiceError::Conflict(format!(
            "`{}` cannot carry devices: it is no active node",
            node.name
        )));
    }
    Ok((**node).clone())
}
