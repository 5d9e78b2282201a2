//! `AddressPool`, our custom resource: addresses for Services of type LoadBalancer.
//!
//! What a program can check by itself the API server checks when a pool is written (lengths, characters, CEL);
//! whether addresses were delegated, run out or overlap is said in the pool's condition.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Group and version of our resources.
pub(crate) const API_VERSION: &str = "meshd.dev/v1alpha1";

/// Addresses that Services of type LoadBalancer get.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "meshd.dev",
    version = "v1alpha1",
    kind = "AddressPool",
    shortname = "apool",
    status = "AddressPoolStatus",
    printcolumn = r#"{"name":"Addresses","type":"string","jsonPath":".spec.addresses"}"#,
    printcolumn = r#"{"name":"Assigned","type":"integer","jsonPath":".status.assigned"}"#,
    printcolumn = r#"{"name":"Total","type":"integer","jsonPath":".status.total"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.addresses.all(a, a.matches('^[0-9a-fA-F:.]+(/[0-9]{1,3}|-[0-9a-fA-F:.]+)?$'))")
    .message("each address is a CIDR (10.98.0.0/24), a run (10.98.0.50-10.98.0.99) or one address"))]
pub(crate) struct AddressPoolSpec {
    /// CIDRs (`10.98.0.0/24`), runs (`10.98.0.50-10.98.0.99`) or single addresses, of either family.
    #[schemars(length(min = 1, max = 32), inner(length(min = 2, max = 90)))]
    pub(crate) addresses: Vec<String>,
    /// Whether Services that do not name the pool get addresses of it.
    #[serde(default = "yes")]
    pub(crate) auto_assign: bool,
    /// Namespaces whose Services may use it; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 63)))]
    pub(crate) namespaces: Vec<String>,
    /// Labels that a Service must have to use it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) service_selector: BTreeMap<String, String>,
}

/// How a pool is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AddressPoolStatus {
    /// Addresses that can be used: those that were also delegated to the cluster.
    #[serde(default)]
    pub(crate) total: i64,
    /// Of these, those that Services have.
    #[serde(default)]
    pub(crate) assigned: i64,
    /// `Ready`.
    #[serde(default)]
    pub(crate) conditions: Vec<Condition>,
}

const fn yes() -> bool {
    true
}

/// All our definitions, as one list that `kubectl apply -f -` takes.
pub(crate) fn definitions() -> serde_json::Value {
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [AddressPool::crd()]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_carries_bounds_and_a_rule() {
        let text = definitions().to_string();
        for part in
            ["x-kubernetes-validations", "addresspools.meshd.dev", "\"maxItems\":32", "\"maxLength\":90"]
        {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert_eq!(text, definitions().to_string());
    }
}
