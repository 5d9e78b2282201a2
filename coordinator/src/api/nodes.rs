//! `/api/v1/nodes`.

use super::views::{DeviceInput, NodeEdit, NodeView, PathsView};
use super::{Api, Asker, Problem};
use crate::client::segment;
use crate::clock;
use crate::service::{NodeQuery, Permission};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshd_proto::{NodeId, UnixSeconds};
use std::collections::BTreeSet;

/// Which nodes, and how many at once.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    q: String,
    state: String,
    limit: Option<usize>,
    after: Option<String>,
}

/// Sorted by name. With a limit, `Link` (RFC 8288) leads to the next part; `X-Total-Count` counts all.
pub(super) async fn list(
    State(api): State<Api>,
    actor: Asker,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(asked) = asked?;
    let now = clock::unix_now();
    let query = NodeQuery { text: asked.q.clone(), state: asked.state.clone() };
    let found = api.service.find_nodes(&actor, &query, now)?;
    let from = asked.after.as_deref().map_or(0, |after| found.partition_point(|n| n.name.as_str() <= after));
    let limit = asked.limit.unwrap_or(usize::MAX).max(1);
    let model = api.service.model();
    let views: Vec<NodeView> = found
        .iter()
        .skip(from)
        .take(limit)
        .map(|n| NodeView::new(&model, n, api.service.presence(n.id), now))
        .collect();
    let more = from.saturating_add(views.len()) < found.len();
    let next = views.last().filter(|_| more).map(|last| {
        let (q, state) = (segment(&asked.q), segment(&asked.state));
        let after = segment(last.name.as_str());
        format!("</api/v1/nodes?q={q}&state={state}&limit={limit}&after={after}>; rel=\"next\"")
    });
    let mut response = Json(views).into_response();
    let headers = response.headers_mut();
    headers.insert("x-total-count", HeaderValue::from(found.len()));
    if let Some(next) = next.and_then(|n| HeaderValue::from_str(&n).ok()) {
        headers.insert(header::LINK, next);
    }
    Ok(response)
}

pub(super) async fn show(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
) -> Result<Json<NodeView>, Problem> {
    let node = api.service.node(&actor, &name)?;
    let view = NodeView::new(&api.service.model(), &node, api.service.presence(node.id), clock::unix_now());
    Ok(Json(view))
}

pub(super) async fn paths(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
) -> Result<Json<PathsView>, Problem> {
    let told = api.service.paths_of(&actor, &name)?;
    Ok(Json(PathsView::new(&api.service.model(), &told)))
}

pub(super) async fn remove(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    api.service.remove_node(&actor, &name, clock::unix_now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn edit(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
    body: Result<Json<NodeEdit>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<NodeView>, Problem> {
    let Json(edit) = body?;
    let now = clock::unix_now();
    if let Some(tags) = edit.tags {
        let tags: BTreeSet<_> = tags.into_iter().collect();
        api.service.tag_node(&actor, &name, &tags, now).await?;
    }
    let name = match edit.name {
        Some(to) => {
            api.service.rename_node(&actor, &name, &to, now).await?;
            to.as_str().to_owned()
        }
        None => name,
    };
    Ok(Json(view_of(&api, api.service.node_for(&actor, Permission::ManageNodes, &name)?.id, now)?))
}

/// A node as it is now, for somebody who has just changed it and may not be allowed to read others.
fn view_of(api: &Api, id: NodeId, now: UnixSeconds) -> Result<NodeView, Problem> {
    let model = api.service.model();
    let node = model.nodes.get(&id);
    let node = node.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "the node is gone again"))?;
    Ok(NodeView::new(&model, node, api.service.presence(id), now))
}

pub(super) async fn approve(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    api.service.approve_node(&actor, &name, clock::unix_now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn expire(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    api.service.expire_node(&actor, &name, clock::unix_now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn revoke(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    api.service.revoke_node(&actor, &name, clock::unix_now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn create_device(
    State(api): State<Api>,
    actor: Asker,
    Path(via): Path<String>,
    body: Result<Json<DeviceInput>, axum::extract::rejection::JsonRejection>,
) -> Result<(StatusCode, Json<NodeView>), Problem> {
    let via = api.service.node_for(&actor, Permission::ManageNodes, &via)?.id;
    let Json(input) = body?;
    let now = clock::unix_now();
    let device = api.service.create_device(&actor, via, &input.name, input.key, now).await?;
    Ok((StatusCode::CREATED, Json(view_of(&api, device.node, now)?)))
}
