//! `/api/v1/dns`: records, and where other questions go.

use super::views::{RecordBody, RecordView, Removed};
use super::{Api, Asker, Problem, part};
use crate::clock;
use crate::service::{
    Declared, NameExplained, RecordInput, Resolving, ResolvingChange, ServiceError, SplitText,
};
use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use meshd_proto::netmap::RecordType;

pub(super) async fn list(
    State(api): State<Api>,
    actor: Asker,
    part: part::Asked,
) -> Result<Response, Problem> {
    let (part, all) = (part::asked(part)?, RecordView::all(&api.service, &actor)?);
    Ok(part.of("/api/v1/dns/records", &all, RecordView::clone))
}

pub(super) async fn add(
    State(api): State<Api>,
    actor: Asker,
    body: Result<Json<RecordBody>, JsonRejection>,
) -> Result<Json<RecordView>, Problem> {
    let Json(body) = body?;
    let kind = body.kind.as_deref().map(record_type).transpose()?;
    let input = RecordInput { name: body.name, kind, value: body.value, ttl: body.ttl };
    let now = clock::unix_now();
    let (name, kind, set) = api.service.add_record_for(&actor, &body.who, &input, now).await?;
    Ok(Json(RecordView { who: body.who, ..RecordView::new(&name, kind, &set) }))
}

/// Which of a name's records go; none of both: all.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    #[serde(rename = "type")]
    kind: Option<String>,
    value: Option<String>,
    #[serde(default, rename = "for")]
    who: String,
}

/// For whom something is set: users, groups and tags, with commas between them; none: for everybody.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct For {
    #[serde(default, rename = "for")]
    who: String,
}

/// What a name is for whom.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    name: String,
    #[serde(rename = "as")]
    who: String,
    #[serde(rename = "type")]
    kind: Option<String>,
}

pub(super) async fn remove(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
    selection: Result<Query<Selection>, QueryRejection>,
) -> Result<Json<Removed>, Problem> {
    let Query(selection) = selection?;
    let kind = selection.kind.as_deref().map(record_type).transpose()?;
    let now = clock::unix_now();
    let (who, value) = ([selection.who], selection.value.as_deref());
    let removed = api.service.remove_record_for(&actor, &who, &name, kind, value, now).await?;
    Ok(Json(Removed { removed }))
}

pub(super) async fn settings(State(api): State<Api>, actor: Asker) -> Result<Json<Resolving>, Problem> {
    Ok(Json(api.service.resolving(&actor)?))
}

pub(super) async fn explain(
    State(api): State<Api>,
    actor: Asker,
    question: Result<Query<Question>, QueryRejection>,
) -> Result<Json<NameExplained>, Problem> {
    let Query(question) = question?;
    let kind = question.kind.as_deref().map(record_type).transpose()?;
    let now = clock::unix_now();
    Ok(Json(api.service.explain_name(&actor, &question.name, kind, &question.who, now).await?))
}

pub(super) async fn declared(State(api): State<Api>, actor: Asker) -> Result<Json<Declared>, Problem> {
    Ok(Json(api.service.declared_names(&actor)?))
}

pub(super) async fn declare(
    State(api): State<Api>,
    actor: Asker,
    body: Result<Json<Declared>, JsonRejection>,
) -> Result<Json<Declared>, Problem> {
    let Json(file) = body?;
    Ok(Json(api.service.declare_names(&actor, file, clock::unix_now()).await?))
}

async fn change(
    api: &Api,
    actor: &Asker,
    who: Result<Query<For>, QueryRejection>,
    change: ResolvingChange,
) -> Result<Json<Resolving>, Problem> {
    let Query(For { who }) = who?;
    Ok(Json(api.service.change_resolving_for(actor, &[who], change, clock::unix_now()).await?))
}

pub(super) async fn set_settings(
    State(api): State<Api>,
    actor: Asker,
    body: Result<Json<Resolving>, JsonRejection>,
) -> Result<Json<Resolving>, Problem> {
    let Json(all) = body?;
    let everybody = Ok(Query(For { who: String::new() }));
    change(&api, &actor, everybody, ResolvingChange::Whole(all)).await
}

pub(super) async fn set_split(
    State(api): State<Api>,
    actor: Asker,
    Path(domain): Path<String>,
    who: Result<Query<For>, QueryRejection>,
    body: Result<Json<Vec<String>>, JsonRejection>,
) -> Result<Json<Resolving>, Problem> {
    let Json(upstreams) = body?;
    change(&api, &actor, who, ResolvingChange::Split(SplitText { domain, upstreams })).await
}

pub(super) async fn remove_split(
    State(api): State<Api>,
    actor: Asker,
    Path(domain): Path<String>,
    who: Result<Query<For>, QueryRejection>,
) -> Result<Json<Resolving>, Problem> {
    change(&api, &actor, who, ResolvingChange::Split(SplitText { domain, upstreams: Vec::new() })).await
}

pub(super) async fn set_nameservers(
    State(api): State<Api>,
    actor: Asker,
    who: Result<Query<For>, QueryRejection>,
    body: Result<Json<Vec<String>>, JsonRejection>,
) -> Result<Json<Resolving>, Problem> {
    let Json(list) = body?;
    change(&api, &actor, who, ResolvingChange::Nameservers(list)).await
}

pub(super) async fn set_search(
    State(api): State<Api>,
    actor: Asker,
    who: Result<Query<For>, QueryRejection>,
    body: Result<Json<Vec<String>>, JsonRejection>,
) -> Result<Json<Resolving>, Problem> {
    let Json(list) = body?;
    change(&api, &actor, who, ResolvingChange::Search(list)).await
}

fn record_type(text: &str) -> Result<RecordType, Problem> {
    RecordType::named(text).ok_or_else(|| {
        let short: String = text.chars().take(20).collect();
        let known = RecordType::ALL.map(RecordType::as_str).join(", ");
        ServiceError::Invalid(format!("`{short}` is no record type that can be set: use one of {known}"))
            .into()
    })
}
