//! `/api/v1/routes` and the decisions on them.

use super::views::{RouteBody, RoutesInput};
use super::{Api, Asker, Problem};
use crate::clock;
use crate::service::RouteView;
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};

pub(super) async fn list(State(api): State<Api>, actor: Asker) -> Result<Json<Vec<RouteBody>>, Problem> {
    Ok(bodies(api.service.routes(&actor)?))
}

pub(super) async fn approve(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
    body: Result<Json<RoutesInput>, JsonRejection>,
) -> Result<Json<Vec<RouteBody>>, Problem> {
    let Json(input) = body?;
    Ok(bodies(api.service.approve_routes(&actor, &name, &input.prefixes, clock::unix_now()).await?))
}

pub(super) async fn unapprove(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
    body: Result<Json<RoutesInput>, JsonRejection>,
) -> Result<Json<Vec<RouteBody>>, Problem> {
    let Json(input) = body?;
    Ok(bodies(api.service.unapprove_routes(&actor, &name, &input.prefixes, clock::unix_now()).await?))
}

fn bodies(routes: Vec<RouteView>) -> Json<Vec<RouteBody>> {
    Json(routes.into_iter().map(RouteBody::from).collect())
}
