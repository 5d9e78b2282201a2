//! `/api/v1/relays`.

use super::views::{RelayAdded, RelayBody, RelayView};
use super::{Api, Asker, Problem};
use crate::clock;
use crate::service::{Permission, RelayInput, Service, ServiceError};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;

pub(super) async fn list(State(api): State<Api>, actor: Asker) -> Result<Json<Vec<RelayView>>, Problem> {
    Ok(Json(api.service.relays(&actor)?.iter().map(RelayView::new).collect()))
}

pub(super) async fn add(
    State(api): State<Api>,
    actor: Asker,
    body: Result<Json<RelayBody>, JsonRejection>,
) -> Result<Json<RelayAdded>, Problem> {
    // Before the key is looked at: who may not add a relay learns nothing of what one looks like.
    Service::require(&actor, Permission::ManageMesh)?;
    let Json(body) = body?;
    let key = body.key.parse().map_err(|e| ServiceError::Invalid(format!("the relay's key: {e}")))?;
    let input = RelayInput {
        name: body.name,
        hosts: body.hosts,
        key,
        udp_port: body.udp_port,
        stun_port: body.stun_port,
        tcp_port: body.tcp_port,
    };
    let relay = api.service.add_relay(&actor, &input, clock::unix_now()).await?;
    Ok(Json(RelayAdded { relay: RelayView::new(&relay), command: api.service.relay_command() }))
}

pub(super) async fn remove(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    api.service.remove_relay(&actor, &name, clock::unix_now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
