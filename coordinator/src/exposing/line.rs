//! What to tell a person whose claim is refused: the line that would allow it.

use super::{Exit, Refused};
use meshd_policy::ClassKey;
use meshd_proto::expose::Claim;

/// There is no exit, or not that one.
pub(super) fn no_exit(claim: &Claim) -> Refused {
    match &claim.exit {
        Some(name) => Refused {
            why: format!("there is no exit called {name} in this mesh"),
            hint: "see the exits with `meshd-coordinator exits`, or leave --exit away".to_owned(),
        },
        None => Refused {
            why: "this mesh has no public exit".to_owned(),
            hint: "on a machine with a public address: meshd-gateway --exit --token mesh_…".to_owned(),
        },
    }
}

/// No entry of the policy allows it.
pub(super) fn not_granted(claim: &Claim, port: u16, src: &ClassKey, exit: Option<&Exit<'_>>) -> Refused {
    let who = selector(src);
    let Some(exit) = exit else { return no_exit(claim) };
    let name = exit.names(claim).first().map(ToString::to_string).unwrap_or_default();
    let transport = claim.kind.transport();
    let ports = if port == 0 { format!("{transport}:20000-20999") } else { format!("{transport}:{port}") };
    let on = selector(&exit.class);
    Refused {
        why: format!(
            "the policy does not let {who} publish {name} ({ports}) on the exit {}",
            exit.record.name
        ),
        hint: format!(
            "an admin adds this to `expose` in the policy:\n  \
             {{\"src\": [\"{who}\"], \"names\": [\"{name}\"], \"ports\": [\"{ports}\"], \"on\": [\"{on}\"]}}"
        ),
    }
}

/// How a policy names nodes of a class.
fn selector(class: &ClassKey) -> String {
    let tag = class.tags.first().map(ToString::to_string);
    tag.or_else(|| class.user_name().map(str::to_owned)).unwrap_or_else(|| "*".to_owned())
}
