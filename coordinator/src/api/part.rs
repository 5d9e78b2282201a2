//! Parts of lists: `limit` and `offset`; `Link` (RFC 8288) leads to the next, `X-Total-Count` counts all.

use super::Problem;
use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Which part of a list.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Part {
    limit: Option<usize>,
    offset: usize,
}

/// What a list is asked for.
pub(super) type Asked = Result<Query<Part>, QueryRejection>;

impl Part {
    /// The part of `all`, in the order of the list at `path`.
    pub(super) fn of<T, V: Serialize>(self, path: &str, all: &[T], view: impl Fn(&T) -> V) -> Response {
        let limit = self.limit.unwrap_or(usize::MAX).max(1);
        let views: Vec<V> = all.iter().skip(self.offset).take(limit).map(view).collect();
        let end = self.offset.saturating_add(views.len());
        let mut response = Json(views).into_response();
        let headers = response.headers_mut();
        headers.insert("x-total-count", HeaderValue::from(all.len()));
        if end < all.len() {
            let next = format!("<{path}?limit={limit}&offset={end}>; rel=\"next\"");
            if let Ok(next) = HeaderValue::from_str(&next) {
                headers.insert(header::LINK, next);
            }
        }
        response
    }
}

/// The part that was asked for.
pub(super) fn asked(part: Asked) -> Result<Part, Problem> {
    let Query(part) = part?;
    Ok(part)
}
