//! `/api/v1/dns/records`.

use super::views::{RecordBody, RecordView, Removed};
use super::{Api, Asker, Problem};
use crate::clock;
use crate::service::{RecordInput, ServiceError};
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

fn record_type(text: &str) -> Result<RecordType, Problem> {
    let all = [RecordType::A, RecordType::Aaaa, RecordType::Cname, RecordType::Txt];
    let found = all.into_iter().find(|t| t.as_str().eq_ignore_ascii_case(text));
    found.ok_or_else(|| {
        let short: String = text.chars().take(20).collect();
        ServiceError::Invalid(format!(
            "`{short}` is no record type that can be set: use A, AAAA, CNAME or TXT"
        ))
        .into()
    })
}
