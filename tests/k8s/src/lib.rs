//! What the Kubernetes tests share: nodes whose pods get their network from `meshd-cni`, and whole clusters with a
//! real control plane.
//!
//! Everything happens in network namespaces that a [`meshd_lab::Lab`] makes; nothing has a way outside.

mod cluster;
mod cni;

pub use cluster::{Cluster, ClusterSettings, Node, NodeSettings, PodNetwork, ProxyMode};
pub use cni::{Answer, CniNode};
