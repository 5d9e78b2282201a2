//! `/api/v1/policy`.

use super::views::{
    AccessEdge, PolicyBody, PolicyChecked, PolicyExplained, PolicyInput, PolicyVersion, RollbackInput,
};
use super::{Api, Asker, Problem, part};
use crate::clock;
use crate::service::{Permission, PolicyChange, PolicyView, Service};
use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshd_proto::Version;

pub(super) async fn show(State(api): State<Api>, actor: Asker) -> Result<Response, Problem> {
    let view = api.service.policy(&actor)?;
    let tag = format!("\"{}\"", view.version);
    Ok(([(header::ETAG, tag)], body(view)).into_response())
}

/// The version that `If-Match` names (RFC 9110 §13.1.1). `None`: it did not come, or is `*`.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).and_then(|t| t.parse().ok());
    let wrong = || {
        Problem::new(StatusCode::PRECONDITION_FAILED, "If-Match names another policy than the one in force")
            .hint("read it again: its ETag is the version")
    };
    number.map(Some).ok_or_else(wrong)
}

pub(super) async fn set(
    State(api): State<Api>,
    actor: Asker,
    headers: HeaderMap,
    input: Result<Json<PolicyInput>, JsonRejection>,
) -> Result<Json<PolicyBody>, Problem> {
    Service::require(&actor, Permission::ManagePolicy)?;
    let Json(input) = input?;
    let named = if_match(&headers)?;
    if let Some(named) = named.filter(|v| *v != api.service.model().policy_version.0) {
        let text = format!("If-Match names version {named}, another policy is in force");
        return Err(Problem::new(StatusCode::PRECONDITION_FAILED, text)
            .hint("read it again: its ETag is the version"));
    }
    let expected = input.expected_version.or(named).map(Version);
    let change = PolicyChange { text: &input.text, expected, force: input.force };
    Ok(body(api.service.set_policy(&actor, &change, clock::unix_now()).await?))
}

pub(super) async fn plan(
    State(api): State<Api>,
    actor: Asker,
    input: Result<Json<PolicyInput>, JsonRejection>,
) -> Result<Json<meshd_policy::Plan>, Problem> {
    let Json(input) = input?;
    Ok(Json(api.service.plan_policy(&actor, &input.text)?.plan))
}

pub(super) async fn rollback(
    State(api): State<Api>,
    actor: Asker,
    input: Result<Json<RollbackInput>, JsonRejection>,
) -> Result<Json<PolicyBody>, Problem> {
    let Json(input) = input?;
    let now = clock::unix_now();
    Ok(body(api.service.rollback_policy(&actor, Version(input.version), input.force, now).await?))
}

pub(super) async fn access(
    State(api): State<Api>,
    actor: Asker,
    part: part::Asked,
) -> Result<Response, Problem> {
    Ok(part::asked(part)?.of("/api/v1/access", &api.service.access(&actor)?.0, AccessEdge::clone))
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
