//! What a pod's status says. Written when it changes.

use serde_json::{Value, json};

use crate::container::Exit;
use crate::environment::text;
use crate::pod::{Kind, Slot, Stage};
use crate::{Kubelet, clock};

/// The whole status, without times of conditions; [`stamped`] adds them.
pub(crate) fn of(
    kubelet: &Kubelet,
    pod: &Value,
    slots: &[Slot],
    stage: Stage,
    addresses: &[String],
    started: &str,
) -> Value {
    let main = || slots.iter().filter(|slot| slot.kind == Kind::Main);
    let initialized = slots.iter().all(|slot| match slot.kind {
        Kind::Init => slot.is_completed(),
        Kind::Sidecar => slot.has_started(),
        Kind::Main => true,
    });
    let ready = main().chain(slots.iter().filter(|slot| slot.kind == Kind::Sidecar)).all(Slot::is_ready)
        && stage == Stage::Running;
    let phase = match stage {
        Stage::Succeeded => "Succeeded",
        Stage::Failed => "Failed",
        Stage::Running if main().any(|slot| slot.run.is_some() || slot.last.is_some()) => "Running",
        Stage::Waiting | Stage::Running => "Pending",
    };
    let condition = |kind: &str, holds: bool| {
        let reason = match (holds, stage) {
            (false, Stage::Succeeded) => "PodCompleted",
            (false, _) => "ContainersNotReady",
            (true, _) => "",
        };
        json!({ "type": kind, "status": if holds { "True" } else { "False" }, "reason": reason })
    };
    let gates = pod["spec"]["readinessGates"].as_array().cloned().unwrap_or_default();
    let open = |gate: &Value| {
        let all = pod["status"]["conditions"].as_array();
        all.is_some_and(|all| all.iter().any(|c| c["type"] == gate["conditionType"] && c["status"] == "True"))
    };
    let list = |kinds: &[Kind]| -> Vec<Value> {
        slots.iter().filter(|slot| kinds.contains(&slot.kind)).map(container).collect()
    };
    let mut status = json!({
        "phase": phase,
        "startTime": started,
        "hostIP": kubelet.args.address[0],
        "hostIPs": kubelet.args.address.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
        "qosClass": pod["status"]["qosClass"].as_str().unwrap_or("BestEffort"),
        "conditions": [
            condition("PodReadyToStartContainers", !addresses.is_empty()),
            condition("Initialized", initialized),
            condition("ContainersReady", ready),
            condition("Ready", ready && gates.iter().all(open)),
        ],
        "initContainerStatuses": list(&[Kind::Init, Kind::Sidecar]),
        "containerStatuses": list(&[Kind::Main]),
    });
    if let Some(first) = addresses.first() {
        status["podIP"] = json!(first);
        status["podIPs"] = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    }
    status
}

/// The same with the time at which each condition has become what it is.
pub(crate) fn stamped(mut status: Value, before: &Value) -> Value {
    let now = clock::rfc3339();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        let old = before["conditions"]
            .as_array()
            .and_then(|all| all.iter().find(|old| old["type"] == condition["type"]));
        let same = old.filter(|old| old["status"] == condition["status"]);
        condition["lastTransitionTime"] = same.map_or(json!(now), |old| old["lastTransitionTime"].clone());
    }
    status
}

fn container(slot: &Slot) -> Value {
    let terminated = |exit: &Exit| {
        json!({ "terminated": { "exitCode": exit.code, "reason": if exit.code == 0 { "Completed" } else { "Error" },
            "startedAt": exit.started_at, "finishedAt": exit.finished_at } })
    };
    let state = match (&slot.run, &slot.last, &slot.waiting) {
        (Some(run), _, _) => json!({ "running": { "startedAt": run.started_at } }),
        (None, _, Some((reason, message))) => json!({ "waiting": { "reason": reason, "message": message } }),
        (None, Some(exit), None) => terminated(exit),
        (None, None, None) => json!({ "waiting": { "reason": "PodInitializing" } }),
    };
    let mut status = json!({
        "name": slot.spec["name"],
        "image": slot.spec["image"],
        "imageID": format!("mini://{}", text(&slot.spec["image"])),
        "containerID": format!("mini://{}-{}", text(&slot.spec["name"]), slot.restarts),
        "restartCount": slot.restarts,
        "ready": slot.is_ready(),
        "started": slot.has_started(),
        "state": state,
    });
    if slot.run.is_some()
        && let Some(exit) = &slot.last
    {
        status["lastState"] = terminated(exit);
    }
    status
}
