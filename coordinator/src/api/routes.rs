//! `/api/v1/routes` and the decisions on them.

use super::views::{RouteBody, RoutesInput};
use super::{Api, Asker, Problem, part};
use crate::clock;
use crate::service::RouteView;
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::response::Response;

pub(super) async fn list(
    State(api): State<Api>,
    actor: Asker,
    part: part::Asked,
) -> Result<Response, Problem> {
    let (part, all) = (part::asked(part)?, api.service.routes(&actor)?);
    Ok(part.of("/api/v1/routes", &all, |route| RouteBody::from(route.clone())))
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
