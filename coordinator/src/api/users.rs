//! `/api/v1/users`, `/api/v1/invitations`, `/api/v1/admin-link`.

use super::views::{InvitationInput, InvitationView, LinkView, UserEdit, UserView};
use super::{Api, Asker, Problem};
use crate::clock;
use crate::service::Invited;
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;

pub(super) async fn list(State(api): State<Api>, actor: Asker) -> Result<Json<Vec<UserView>>, Problem> {
    Ok(Json(api.service.users(&actor).await?.iter().map(UserView::from).collect()))
}

pub(super) async fn edit(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
    body: Result<Json<UserEdit>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    crate::service::Service::require(&actor, crate::service::Permission::ManageUsers)?;
    let Json(edit) = body?;
    let now = clock::unix_now();
    if let Some(role) = edit.role {
        api.service.set_role(&actor, &name, role, now).await?;
    }
    if let Some(enabled) = edit.enabled {
        api.service.set_enabled(&actor, &name, enabled, now).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(
    State(api): State<Api>,
    actor: Asker,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    api.service.remove_user(&actor, &name, clock::unix_now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn invitations(
    State(api): State<Api>,
    actor: Asker,
) -> Result<Json<Vec<InvitationView>>, Problem> {
    let found = api.service.invitations(&actor, clock::unix_now()).await?;
    Ok(Json(found.iter().map(InvitationView::from).collect()))
}

pub(super) async fn invite(
    State(api): State<Api>,
    actor: Asker,
    body: Result<Json<InvitationInput>, JsonRejection>,
) -> Result<(StatusCode, Json<LinkView>), Problem> {
    crate::service::Service::require(&actor, crate::service::Permission::ManageUsers)?;
    let Json(input) = body?;
    let now = clock::unix_now();
    let made = api.service.invite(&actor, input.role, &input.name, input.lifetime, now).await?;
    Ok((StatusCode::CREATED, Json(link(&api, &made))))
}

pub(super) async fn uninvite(
    State(api): State<Api>,
    actor: Asker,
    Path(id): Path<u64>,
) -> Result<StatusCode, Problem> {
    api.service.withdraw_invitation(&actor, id, clock::unix_now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn admin_link(
    State(api): State<Api>,
    actor: Asker,
) -> Result<(StatusCode, Json<LinkView>), Problem> {
    let made = api.service.create_admin_link(&actor, clock::unix_now()).await?;
    Ok((StatusCode::CREATED, Json(link(&api, &made))))
}

fn link(api: &Api, made: &Invited) -> LinkView {
    let model = api.service.model();
    let url = |address: &String| format!("https://{address}/welcome/{}", made.secret.as_str());
    LinkView {
        urls: model.mesh.addresses.iter().map(url).collect(),
        certificate_sha256: api.certificates.to_compare(clock::unix_now()).to_owned(),
        stored: InvitationView::from(&made.record),
    }
}
