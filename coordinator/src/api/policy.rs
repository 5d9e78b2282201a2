//! `/api/v1/policy`.

use super::views::{PolicyBody, PolicyChecked, PolicyExplained, PolicyInput, PolicyVersion};
use super::{Api, Asker, Problem};
use crate::clock;
use crate::service::PolicyView;
use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use meshd_proto::Version;

pub(super) async fn show(State(api): State<Api>, actor: Asker) -> Result<Json<PolicyBody>, Problem> {
    Ok(body(api.service.policy(&actor)?))
}

pub(super) async fn set(
    State(api): State<Api>,
    actor: Asker,
    input: Result<Json<PolicyInput>, JsonRejection>,
) -> Result<Json<PolicyBody>, Problem> {
    let Json(input) = input?;
    let expected = input.expected_version.map(Version);
    Ok(body(api.service.set_policy(&actor, &input.text, expected, clock::unix_now()).await?))
}

pub(super) async fn check(
    State(api): State<Api>,
    actor: Asker,
    input: Result<Json<PolicyInput>, JsonRejection>,
) -> Result<Json<PolicyChecked>, Problem> {
    let Json(input) = input?;
    Ok(Json(PolicyChecked { warnings: api.service.check_policy(&actor, &input.text)? }))
}

/// A flow as a person names it.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlowQuery {
    from: String,
    to: String,
    #[serde(default)]
    protocol: Option<String>,
}

pub(super) async fn explain(
    State(api): State<Api>,
    actor: Asker,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Result<Json<PolicyExplained>, Problem> {
    let Query(flow) = query?;
    let protocol = flow.protocol.as_deref().unwrap_or("tcp");
    let explanation = api.service.explain_policy(&actor, &flow.from, &flow.to, protocol)?;
    Ok(Json(PolicyExplained {
        allowed: explanation.is_allowed(),
        receiver: explanation.receiver,
        steps: explanation.steps,
    }))
}

pub(super) async fn history(
    State(api): State<Api>,
    actor: Asker,
) -> Result<Json<Vec<PolicyVersion>>, Problem> {
    let texts = api.service.policy_history(&actor, 100).await?;
    let view = |t: crate::store::tokens::PolicyText| PolicyVersion {
        version: t.version,
        set_by: t.set_by,
        at: t.at,
        text: t.text,
    };
    Ok(Json(texts.into_iter().map(view).collect()))
}

fn body(view: PolicyView) -> Json<PolicyBody> {
    Json(PolicyBody { text: view.text, version: view.version.0, warnings: view.warnings })
}
