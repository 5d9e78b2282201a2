//! `/api/v1/dns`: records, and where other questions go.

use super::views::{RecordBody, RecordView, Removed};
use super::{Api, Asker, Problem};
use crate::clock;
use crate::service::{RecordInput, Resolving, ResolvingChange, ServiceError, SplitText};
use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use meshd_proto::netmap::RecordType;

pub(super) async fn list(State(api): State<Api>, actor: Asker) -> Result<Json<Vec<RecordView>>, Problem> {
    let records = api.service.records(&actor)?;
    Ok(Json(records.iter().map(|(name, kind, set)| RecordView::new(name, *kind, set)).collect()))
}

pub(super) async fn add(
    State(api): State<Api>,
    actor: Asker,
    body: Result<Json<RecordBody>, JsonRejection>,
) -> Result<Json<RecordView>, Problem> {
    let Json(body) = body?;
    let kind = body.kind.as_deref().map(record_type).transpose()?;
    let input = RecordInput { name: body.name, kind, value: body.value, ttl: body.ttl };
    let (name, kind, set) = api.service.add_record(&actor, &input, clock::unix_now()).await?;
    Ok(Json(RecordView::new(&name, kind, &set)))
}

/// Which of a name's records go; none of both: all.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    #[serde(rename = "type")]
    kind: Option<String>,
    value: Option<String>,
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
    let removed = api.service.remove_record(&actor, &name, kind, selection.value.as_deref(), now).await?;
    Ok(Json(Removed { removed }))
}

pub(super) async fn settings(State(api): State<Api>, actor: Asker) -> Result<Json<Resolving>, Problem> {
    Ok(Json(api.service.resolving(&actor)?))
}

async fn change(api: &Api, actor: &Asker, change: ResolvingChange) -> Result<Json<Resolving>, Problem> {
    Ok(Json(api.service.change_resolving(actor, change, clock::unix_now()).await?))
}

pub(super) async fn set_settings(
    State(api): State<Api>,
    actor: Asker,
    body: Result<Json<Resolving>, JsonRejection>,
) -> Result<Json<Resolving>, Problem> {
    let Json(all) = body?;
    change(&api, &actor, ResolvingChange::Whole(all)).await
}

pub(super) async fn set_split(
    State(api): State<Api>,
    actor: Asker,
    Path(domain): Path<String>,
    body: Result<Json<Vec<String>>, JsonRejection>,
) -> Result<Json<Resolving>, Problem> {
    let Json(upstreams) = body?;
    change(&api, &actor, ResolvingChange::Split(SplitText { domain, upstreams })).await
}

pub(super) async fn remove_split(
    State(api): State<Api>,
    actor: Asker,
    Path(domain): Path<String>,
) -> Result<Json<Resolving>, Problem> {
    change(&api, &actor, ResolvingChange::Split(SplitText { domain, upstreams: Vec::new() })).await
}

pub(super) async fn set_nameservers(
    State(api): State<Api>,
    actor: Asker,
    body: Result<Json<Vec<String>>, JsonRejection>,
) -> Result<Json<Resolving>, Problem> {
    let Json(list) = body?;
    change(&api, &actor, ResolvingChange::Nameservers(list)).await
}

pub(super) async fn set_search(
    State(api): State<Api>,
    actor: Asker,
    body: Result<Json<Vec<String>>, JsonRejection>,
) -> Result<Json<Resolving>, Problem> {
    let Json(list) = body?;
    change(&api, &actor, ResolvingChange::Search(list)).await
}

fn record_type(text: &str) -> Result<RecordType, Problem> {
    RecordType::named(text).ok_or_else(|| {
        let short: String = text.chars().take(20).collect();
        let known = RecordType::ALL.map(RecordType::as_str).join(", ");
        ServiceError::Invalid(format!("`{short}` is no record type that can be set: use one of {known}"))
            .into()
    })
}
