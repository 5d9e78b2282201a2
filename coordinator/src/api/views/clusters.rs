//! Clusters as the API takes them. What it shows of them is [`meshd_proto::cluster::ClusterState`].

use super::*;
use meshd_proto::cluster::AddressRange;

/// What a cluster may announce.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterInput {
    /// Ranges: `10.98.0.0/24`, `10.98.0.50-10.98.0.99` or one address.
    pub ranges: Vec<AddressRange>,
}

/// How long the credential of an operator is good for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterTokenInput {
    /// Seconds until it ends.
    pub lifetime: u64,
}

impl Default for ClusterTokenInput {
    fn default() -> Self {
        Self { lifetime: 365 * 24 * 3600 }
    }
}
