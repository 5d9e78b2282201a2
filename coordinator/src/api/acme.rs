//! HTTP-01 (RFC 8555 §8.3): what an authority asks for over plain HTTP, while a check is expected.

use super::Api;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Where answers lie.
pub(super) const PATH: &str = "/.well-known/acme-challenge/{token}";

/// Whether the path is that of a check: it comes without TLS, under whatever name is proved.
pub(super) fn is_check(path: &str) -> bool {
    path.starts_with("/.well-known/acme-challenge/")
}

pub(super) async fn answer(State(api): State<Api>, Path(token): Path<String>) -> Response {
    match api.certificates.answer(&token) {
        Some(answer) => ([(header::CONTENT_TYPE, "application/octet-stream")], answer).into_response(),
        None => (StatusCode::NOT_FOUND, "no such check is expected\n").into_response(),
    }
}
