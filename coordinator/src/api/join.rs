//! `/api/v1/join-requests`: a machine asks without a token; somebody answers.

use super::views::{AskInput, AskView, JoinRequestView, PollInput, PollView};
use super::{Api, Asker, Problem, Visitor};
use crate::clock;
use crate::service::Outcome;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

pub(super) async fn list(
    State(api): State<Api>,
    actor: Asker,
) -> Result<Json<Vec<JoinRequestView>>, Problem> {
    let found = api.service.join_requests(&actor, clock::unix_now())?;
    Ok(Json(found.iter().map(JoinRequestView::from).collect()))
}

pub(super) async fn ask(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    body: Result<Json<AskInput>, JsonRejection>,
) -> Result<(StatusCode, Json<AskView>), Problem> {
    let Json(input) = body?;
    let asking = api.service.ask_to_join(&input.hostname, &input.os, visitor.0, clock::unix_now())?;
    let code = asking.request.code.clone();
    let view = AskView { code, secret: asking.secret.as_str().to_owned(), patience: asking.patience };
    Ok((StatusCode::CREATED, Json(view)))
}

pub(super) async fn poll(
    State(api): State<Api>,
    body: Result<Json<PollInput>, JsonRejection>,
) -> Result<Json<PollView>, Problem> {
    let Json(input) = body?;
    let (state, token) = match api.service.outcome_of(&input.secret, clock::unix_now()) {
        Outcome::Waiting => ("waiting", None),
        Outcome::Gone => ("gone", None),
        Outcome::Token(token) => ("approved", Some(token.as_str().to_owned())),
    };
    Ok(Json(PollView { state: state.to_owned(), token }))
}

pub(super) async fn approve(
    State(api): State<Api>,
    actor: Asker,
    Path(id): Path<u64>,
) -> Result<StatusCode, Problem> {
    api.service.approve_join(&actor, id, None, clock::unix_now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn refuse(
    State(api): State<Api>,
    actor: Asker,
    Path(id): Path<u64>,
) -> Result<StatusCode, Problem> {
    api.service.refuse_join(&actor, id, clock::unix_now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
