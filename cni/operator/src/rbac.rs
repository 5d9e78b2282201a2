//! The least that the operator may in a cluster, as one list that `kubectl apply -f -` takes.
//!
//! It reads Services, EndpointSlices, Nodes and AddressPools; it writes their status, events and its own Lease.
//! It cannot read a Secret, and changes no object's spec.

use serde_json::{Value, json};

/// Account, roles and bindings for `namespace`.
pub(crate) fn manifests(namespace: &str) -> Value {
    let name = "meshd-operator";
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    let read = ["get", "list", "watch"];
    let subject = json!([{"kind": "ServiceAccount", "name": name, "namespace": namespace}]);
    let role = |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    let rbac = "rbac.authorization.k8s.io/v1";
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": name}, "rules": [
            rule(&[""], &["services", "nodes"], &read),
            rule(&["discovery.k8s.io"], &["endpointslices"], &read),
            rule(&["meshd.dev"], &["addresspools"], &read),
            rule(&[""], &["services/status"], &["patch"]),
            rule(&["meshd.dev"], &["addresspools/status"], &["patch"]),
            rule(&["events.k8s.io"], &["events"], &["create", "patch"]),
        ]},
        {"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": role("ClusterRole"), "subjects": subject},
        {"apiVersion": rbac, "kind": "Role", "metadata": {"name": name, "namespace": namespace}, "rules": [
            rule(&["coordination.k8s.io"], &["leases"], &["create"]),
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [super::lease::NAME],
                "verbs": ["get", "update"]},
        ]},
        {"apiVersion": rbac, "kind": "RoleBinding", "metadata": {"name": name, "namespace": namespace},
            "roleRef": role("Role"), "subjects": subject},
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_has_a_wildcard_a_secret_or_a_way_to_delete() {
        let text = manifests("meshd").to_string();
        for never in ["\"*\"", "secrets", "delete", "pods", "impersonate", "escalate"] {
            assert!(!text.contains(never), "{never}");
        }
    }
}
