//! `/api/v1/nodes`.

use super::views::{DeviceInput, NodeEdit, NodeView};
use super::{Api, Asker, Problem};
use crate::clock;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use std::collections::BTreeSet;

pub(super) async fn list(State(api): State<Api>, actor: Asker) -> Result<Json<Vec<NodeView>>, Problem> {
    let nodes = api.service.nodes(&actor)?;
    let (model, now) = (api.service.model(), clock::unix_now());
    let view = |n: &std::sync::Arc<crate::model::NodeRecord>| {
        NodeView::new(&model, n, api.service.presence(n.id), now)
    };
    Ok(Json(nodes.iter().map(view).collect()))
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
    show(State(api), actor, Path(name)).await
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
    let Json(input) = body?;
    let via = api.service.node(&actor, &via)?.id;
    let device = api.service.create_device(&actor, via, &input.name, input.key, clock::unix_now()).await?;
    let view = show(State(api), actor, Path(device.name.as_str().to_owned())).await?;
    Ok((StatusCode::CREATED, view))
}
