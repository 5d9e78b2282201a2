//! From one model to the next. The store makes rows of the same writes.

use super::{Audience, Bound, Change, ClassKey, Cluster, MeshSettings, Model, NodeRecord};
use meshd_policy::Policy;
use meshd_proto::netmap::{RecordSet, RecordType, Relay};
use meshd_proto::{ClassId, DnsName, Hostname, NodeId, RelayId, Version};
use std::sync::Arc;

/// One planned change of the model.
#[derive(Clone, Debug)]
pub enum Write {
    /// A node joins or changes; its `changed` becomes the commit's version.
    PutNode(NodeRecord),
    /// A node leaves.
    DeleteNode(NodeId),
    /// A class is met for the first time.
    PutClass(ClassId, ClassKey),
    /// A record set is made or replaced.
    PutRecord(DnsName, RecordType, RecordSet),
    /// A record set goes.
    DeleteRecord(DnsName, RecordType),
    /// What is bound to an audience changes; nothing bound: the audience goes.
    PutBound(Audience, Bound),
    /// Another policy comes into force.
    PutPolicy {
        /// As the admin wrote it.
        text: String,
        /// The same, parsed.
        policy: Arc<Policy>,
    },
    /// Mesh settings change.
    PutMesh(MeshSettings),
    /// A relay is made or changed.
    PutRelay(Relay),
    /// A relay goes.
    DeleteRelay(RelayId),
    /// A cluster is made, or another is published by it; its `changed` becomes the commit's version.
    PutCluster(Cluster),
    /// A cluster goes, with all that it publishes.
    DeleteCluster(Hostname),
}

impl Write {
    /// What the change log says of it; a new class alone touches nobody.
    pub fn change(&self) -> Option<Change> {
        Some(match self {
            Self::PutNode(node) => Change::Node(node.id),
            Self::DeleteNode(id) => Change::NodeGone(*id),
            Self::PutClass(..) => return None,
            Self::PutRecord(name, kind, _) | Self::DeleteRecord(name, kind) => {
                Change::Record(name.clone(), *kind)
            }
            Self::PutBound(who, _) => Change::Bound(who.clone()),
            Self::PutPolicy { .. } => Change::Policy,
            Self::PutMesh(_) => Change::Mesh,
            Self::PutRelay(relay) => Change::Relay(relay.id),
            Self::DeleteRelay(id) => Change::Relay(*id),
            Self::PutCluster(cluster) => Change::Cluster(cluster.name.clone()),
            Self::DeleteCluster(name) => Change::Cluster(name.clone()),
        })
    }
}

impl Model {
    /// The model after one commit with `writes`, at `version`.
    #[must_use]
    pub fn apply(&self, version: Version, writes: &[Write]) -> Self {
        let mut next = self.clone();
        next.version = version;
        for write in writes {
            match write {
                Write::PutNode(node) => {
                    let node = NodeRecord { changed: version, ..node.clone() };
                    next.nodes.insert(node.id, Arc::new(node));
                }
                Write::DeleteNode(id) => {
                    next.nodes.remove(id);
                }
                Write::PutClass(id, key) => {
                    next.classes.insert(*id, key.clone());
                }
                Write::PutRecord(name, kind, set) => {
                    next.records.insert((name.clone(), *kind), set.clone());
                }
                Write::DeleteRecord(name, kind) => {
                    next.records.remove(&(name.clone(), *kind));
                }
                Write::PutBound(who, bound) if bound.is_empty() => {
                    next.bound.remove(who);
                }
                Write::PutBound(who, bound) => {
                    next.bound.insert(who.clone(), Arc::new(bound.clone()));
                }
                Write::PutPolicy { policy, .. } => {
                    next.policy = policy.clone();
                    next.policy_version = version;
                }
                Write::PutMesh(mesh) => next.mesh = mesh.clone(),
                Write::PutRelay(relay) => {
                    next.relays.insert(relay.id, relay.clone());
                }
                Write::DeleteRelay(id) => {
                    next.relays.remove(id);
                }
                Write::PutCluster(cluster) => {
                    let cluster = Cluster { changed: version, ..cluster.clone() };
                    next.clusters.insert(cluster.name.clone(), Arc::new(cluster));
                }
                Write::DeleteCluster(name) => {
                    next.clusters.remove(name);
                }
            }
        }
        next
    }
}
