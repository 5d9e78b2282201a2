//! What Services and AddressPools should say, as server-side-apply documents.

use crate::crd::{API_VERSION, AddressPool};
use crate::pool::{Allocation, Key, Pools};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::{Value, json};
use std::net::IpAddr;

/// What a Service's condition is called.
pub(crate) const ANNOUNCED: &str = "meshd.dev/Announced";

/// What became of a Service that concerns us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has addresses on the mesh.
    Announced {
        /// Which.
        addresses: Vec<IpAddr>,
        /// Members that serve it.
        served_by: Vec<String>,
        /// Why nobody does.
        missing: Option<(&'static str, String)>,
        /// What else there is to say.
        notes: Vec<String>,
    },
    /// It has none.
    Refused {
        /// A short name.
        reason: &'static str,
        /// Why, and what to do.
        message: String,
    },
    /// It is ours no more: what we wrote is taken back.
    Release,
    /// Its class is not served; what to say once.
    Unserved(String),
}

/// A condition, without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// `True` or `False`.
    pub(crate) holds: bool,
    /// A short name.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
}

impl Verdict {
    /// What it says as condition; `None`: nothing is written to the status.
    pub(crate) fn condition(&self) -> Option<Condition> {
        Some(match self {
            Self::Announced { addresses, served_by, missing, notes } => {
                let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let (holds, reason, mut message) = match missing {
                    None => (true, "Announced", format!("{list} is served by {}", served_by.join(", "))),
                    Some((reason, why)) => (false, *reason, format!("{list}: {why}")),
                };
                for note in notes {
                    message.push_str("; ");
                    message.push_str(note);
                }
                Condition { holds, reason, message: message.chars().take(2000).collect() }
            }
            Self::Refused { reason, message } => Condition { holds: false, reason, message: message.clone() },
            Self::Release | Self::Unserved(_) => return None,
        })
    }

    fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Announced { addresses, .. } => addresses,
            Self::Refused { .. } | Self::Release | Self::Unserved(_) => &[],
        }
    }
}

/// The document that makes a Service say so; `None`: it says so already. What is not in it and was ours goes.
pub(crate) fn service_status(service: &Service, key: &Key, verdict: &Verdict, now: &str) -> Option<Value> {
    if matches!(verdict, Verdict::Unserved(_)) {
        return None;
    }
    let wanted: Vec<Value> =
        verdict.addresses().iter().map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"})).collect();
    let status = service.status.as_ref();
    let current: Vec<Value> = status
        .and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref())
        .into_iter()
        .flatten()
        .map(|i| json!({"ip": i.ip, "ipMode": i.ip_mode}))
        .collect();
    let known = status.and_then(|s| s.conditions.as_ref()?.iter().find(|c| c.type_ == ANNOUNCED));
    let condition = verdict.condition();
    let generation = service.metadata.generation;
    if let (Some(condition), Some(known)) = (&condition, known)
        && same(known, condition)
        && wanted == current
    {
        return None;
    }
    let mut body = json!({});
    if !wanted.is_empty() {
        body["loadBalancer"] = json!({ "ingress": wanted });
    }
    if let Some(condition) = &condition {
        body["conditions"] = json!([shown(ANNOUNCED, condition, known, generation, now)]);
    }
    Some(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": key.namespace, "name": key.name},
        "status": body,
    }))
}

/// The document that makes a pool say how it is; `None`: it says so already.
pub(crate) fn pool_status(
    object: &AddressPool,
    pools: &Pools,
    allocation: &Allocation,
    now: &str,
) -> Option<Value> {
    let name = object.metadata.name.as_deref()?;
    let pool = pools.pools.iter().find(|p| p.name == name)?;
    let count = pools.count(pool, allocation);
    let total = count.v4.saturating_add(count.v6);
    let unread: Vec<&str> = object
        .spec
        .addresses
        .iter()
        .filter(|text| text.parse::<meshd_proto::cluster::AddressRange>().is_err())
        .map(String::as_str)
        .collect();
    let (undelegated, conflicts) = (pools.undelegated(pool), pools.conflicts(pool));
    let ready = match () {
        () if !unread.is_empty() => {
            let message = format!("cannot be read as a range: {}", unread.join(", "));
            Condition { holds: false, reason: "BadRange", message }
        }
        () if !undelegated.is_empty() => {
            let list = undelegated.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let message = format!(
                "{list}: not, or not wholly, delegated to this cluster; ask an admin of the mesh for \
                 `meshd-coordinator clusters add {} --range …`",
                pools.cluster
            );
            Condition { holds: false, reason: "NotDelegated", message }
        }
        () if !conflicts.is_empty() => {
            let message =
                format!("shares addresses with {}: each is given once, from either", conflicts.join(", "));
            Condition { holds: false, reason: "Overlap", message }
        }
        () if total > 0 && count.assigned >= total => {
            let message = "every address is in use: add a range".to_owned();
            Condition { holds: false, reason: "Exhausted", message }
        }
        () => {
            let message = format!("{} of {total} addresses are in use", count.assigned);
            Condition { holds: true, reason: "Ready", message }
        }
    };
    let status = object.status.as_ref();
    let known = status.and_then(|s| s.conditions.iter().find(|c| c.type_ == "Ready"));
    let counted =
        |s: &crate::crd::AddressPoolStatus| (s.total, s.assigned) == (clip(total), clip(count.assigned));
    if status.is_some_and(counted) && known.is_some_and(|known| same(known, &ready)) {
        return None;
    }
    let condition = shown("Ready", &ready, known, object.metadata.generation, now);
    Some(json!({
        "apiVersion": API_VERSION,
        "kind": "AddressPool",
        "metadata": {"name": name},
        "status": {"total": clip(total), "assigned": clip(count.assigned), "conditions": [condition]},
    }))
}

/// JSON numbers of the API are at most 2^53.
fn clip(number: u64) -> i64 {
    i64::try_from(number.min(1 << 53)).unwrap_or(i64::MAX)
}

fn same(known: &meta::Condition, wanted: &Condition) -> bool {
    (known.status == "True") == wanted.holds
        && known.reason == wanted.reason
        && known.message == wanted.message
}

fn shown(
    kind: &str,
    condition: &Condition,
    known: Option<&meta::Condition>,
    generation: Option<i64>,
    now: &str,
) -> Value {
    let kept = known.filter(|k| (k.status == "True") == condition.holds);
    let since = kept.and_then(|k| serde_json::to_value(&k.last_transition_time).ok());
    let mut out = json!({
        "type": kind,
        "status": if condition.holds { "True" } else { "False" },
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": since.unwrap_or_else(|| now.into()),
    });
    if let Some(generation) = generation {
        out["observedGeneration"] = generation.into();
    }
    out
}
