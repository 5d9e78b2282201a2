//! `/api/v1/exits` and `/api/v1/exposures`.

use super::views::{ExitView, ExposureView, ExposuresRemoved};
use super::{Api, Asker, Problem};
use crate::clock;
use crate::service::{Permission, Service, ServiceError};
use axum::Json;
use axum::extract::{Path, State};

pub(super) async fn exits(State(api): State<Api>, actor: Asker) -> Result<Json<Vec<ExitView>>, Problem> {
    Ok(Json(api.service.exits(&actor)?.iter().map(ExitView::new).collect()))
}

pub(super) async fn list(State(api): State<Api>, actor: Asker) -> Result<Json<Vec<ExposureView>>, Problem> {
    Ok(Json(api.service.exposures(&actor)?.iter().map(ExposureView::new).collect()))
}

pub(super) async fn remove_all(
    State(api): State<Api>,
    actor: Asker,
    Path(node): Path<String>,
) -> Result<Json<ExposuresRemoved>, Problem> {
    let removed = api.service.remove_exposures(&actor, &node, None, clock::unix_now()).await?;
    Ok(Json(ExposuresRemoved { removed }))
}

pub(super) async fn remove(
    State(api): State<Api>,
    actor: Asker,
    Path((node, claim)): Path<(String, String)>,
) -> Result<Json<ExposuresRemoved>, Problem> {
    // Before the id is looked at: who may not remove learns nothing of what one looks like.
    Service::require(&actor, Permission::ManageNodes)?;
    let id = u64::from_str_radix(&claim, 16).map_err(|_| {
        ServiceError::Invalid("an exposure's id is what `meshd-coordinator exposures list` shows".to_owned())
    })?;
    let removed = api.service.remove_exposures(&actor, &node, Some(id), clock::unix_now()).await?;
    Ok(Json(ExposuresRemoved { removed }))
}
