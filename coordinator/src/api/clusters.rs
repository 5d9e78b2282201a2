//! `/api/v1/clusters`: what an admin delegates, and what operators publish.

use super::views::{ApiTokenView, ClusterInput, ClusterTokenInput, NewApiTokenView};
use super::{Api, Asker, Problem};
use crate::clock;
use crate::service::{Permission, Service, ServiceError};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshd_proto::cluster::{ClusterState, ServiceSet};

pub(super) async fn list(State(api): State<Api>, actor: Asker) -> Result<Json<Vec<ClusterState>>, Problem> {
    Ok(Json(api.service.clusters(&actor)?))
}

pub(super) async fn put(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
    body: Result<Json<ClusterInput>, JsonRejection>,
) -> Result<Json<ClusterState>, Problem> {
    Service::require(&actor, Permission::ManageMesh)?;
    let Json(body) = body?;
    Ok(Json(api.service.put_cluster(&actor, &name, &body.ranges, clock::unix_now()).await?))
}

pub(super) async fn remove(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    api.service.remove_cluster(&actor, &name, clock::unix_now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn create_token(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
    body: Result<Json<ClusterTokenInput>, JsonRejection>,
) -> Result<(StatusCode, Json<NewApiTokenView>), Problem> {
    Service::require(&actor, Permission::ManageApiTokens)?;
    let Json(body) = body?;
    let now = clock::unix_now();
    let new = api.service.create_cluster_token(&actor, &name, body.lifetime, now).await?;
    let view = NewApiTokenView {
        secret: new.secret.as_str().to_owned(),
        stored: ApiTokenView::new(&new.record, now),
    };
    Ok((StatusCode::CREATED, Json(view)))
}

pub(super) async fn services(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    Ok(tagged(api.service.cluster(&actor, &name)?))
}

pub(super) async fn publish(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<Json<ServiceSet>, JsonRejection>,
) -> Result<Response, Problem> {
    Service::require(&actor, Permission::PublishServices)?;
    let Json(set) = body?;
    let expected = headers.get(header::IF_MATCH).map(revision).transpose()?;
    let now = clock::unix_now();
    Ok(tagged(api.service.publish_services(&actor, &name, set, expected, now).await?))
}

/// The revision as entity tag (RFC 9110 §8.8.3).
fn tagged(state: ClusterState) -> Response {
    ([(header::ETAG, format!("\"{}\"", state.revision))], Json(state)).into_response()
}

fn revision(value: &axum::http::HeaderValue) -> Result<u64, Problem> {
    let text = value.to_str().unwrap_or_default().trim().trim_matches('"');
    text.parse().map_err(|_| {
        ServiceError::Invalid("If-Match is no revision: send the ETag of the last answer".to_owned()).into()
    })
}
