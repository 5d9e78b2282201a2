//! `/api/v1/tokens` and `/api/v1/api-tokens`.

use super::views::{ApiTokenInput, ApiTokenView, NewApiTokenView, NewTokenView, TokenInput, TokenView};
use super::{Api, Asker, Problem, part};
use crate::clock;
use crate::service::{ApiTokenRequest, Scopes, ServiceError, TokenRequest};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

pub(super) async fn list(
    State(api): State<Api>,
    actor: Asker,
    part: part::Asked,
) -> Result<Response, Problem> {
    let (part, now) = (part::asked(part)?, clock::unix_now());
    Ok(part.of("/api/v1/tokens", &api.service.tokens(&actor).await?, |t| TokenView::new(t, now)))
}

pub(super) async fn create(
    State(api): State<Api>,
    actor: Asker,
    body: Result<Json<TokenInput>, JsonRejection>,
) -> Result<(StatusCode, Json<NewTokenView>), Problem> {
    let Json(input) = body?;
    let request = TokenRequest {
        uses: input.uses,
        lifetime: input.lifetime,
        tags: input.tags.into_iter().collect(),
        ephemeral: input.ephemeral,
        pre_approved: input.pre_approved,
        user: input.user,
        note: input.note,
    };
    let now = clock::unix_now();
    let new = api.service.create_token(&actor, &request, now).await?;
    let view = NewTokenView {
        token: new.token.to_text().as_str().to_owned(),
        stored: TokenView::new(&new.record, now),
    };
    Ok((StatusCode::CREATED, Json(view)))
}

pub(super) async fn revoke(
    State(api): State<Api>,
    actor: Asker,
    Path(id): Path<u64>,
) -> Result<StatusCode, Problem> {
    api.service.revoke_token(&actor, id, clock::unix_now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn list_api(
    State(api): State<Api>,
    actor: Asker,
) -> Result<Json<Vec<ApiTokenView>>, Problem> {
    let now = clock::unix_now();
    Ok(Json(api.service.api_tokens(&actor).await?.iter().map(|t| ApiTokenView::new(t, now)).collect()))
}

pub(super) async fn create_api(
    State(api): State<Api>,
    actor: Asker,
    body: Result<Json<ApiTokenInput>, JsonRejection>,
) -> Result<(StatusCode, Json<NewApiTokenView>), Problem> {
    let Json(input) = body?;
    let scopes = Scopes::parse(input.scopes.iter().map(String::as_str))
        .map_err(|e| ServiceError::Invalid(e.to_string()))?;
    let request = ApiTokenRequest {
        name: input.name,
        role: input.role,
        scopes,
        lifetime: input.lifetime,
        cluster: None,
    };
    let now = clock::unix_now();
    let new = api.service.create_api_token(&actor, &request, now).await?;
    let view = NewApiTokenView {
        secret: new.secret.as_str().to_owned(),
        stored: ApiTokenView::new(&new.record, now),
    };
    Ok((StatusCode::CREATED, Json(view)))
}

pub(super) async fn revoke_api(
    State(api): State<Api>,
    actor: Asker,
    Path(id): Path<u64>,
) -> Result<StatusCode, Problem> {
    api.service.revoke_api_token(&actor, id, clock::unix_now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
