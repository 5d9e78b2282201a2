//! Errors as `application/problem+json` (RFC 9457), with what to do in `hint`.

use crate::service::ServiceError;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

/// The body of an error.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProblemBody {
    /// Always `about:blank`: the status says the kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened and why.
    pub detail: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// Every single fault, when there are several (a policy's, with line and column).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// An error that is answered. Boxed: it travels in every handler's result.
#[derive(Debug)]
pub struct Problem(Box<ProblemBody>);

impl Problem {
    /// An error with that status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(Box::new(ProblemBody {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            hint: String::new(),
            errors: Vec::new(),
        }))
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = hint.into();
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let text = error.to_string();
        // The service's messages are `what: what to do`.
        let (detail, hint) = match text.split_once(": ") {
            Some((detail, hint)) if !matches!(error, ServiceError::Policy(_)) => {
                (detail.to_owned(), hint.to_owned())
            }
            _ => (text, String::new()),
        };
        match error {
            ServiceError::Forbidden { .. } => Self::new(StatusCode::FORBIDDEN, detail).hint(hint),
            ServiceError::NotFound { .. } => Self::new(StatusCode::NOT_FOUND, detail).hint(hint),
            ServiceError::Conflict(_) => Self::new(StatusCode::CONFLICT, detail).hint(hint),
            ServiceError::Invalid(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail).hint(hint),
            ServiceError::TooOften { .. } => Self::new(StatusCode::TOO_MANY_REQUESTS, detail).hint(hint),
            ServiceError::Policy(errors) => {
                let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
                    .hint("correct the text and try again; the policy in force has not changed");
                problem.0.errors = errors;
                problem
            }
            ServiceError::Store(error) => {
                tracing::error!(%error, "a request failed on the database");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
                    .hint("nothing was changed; look at the coordinator's log")
            }
        }
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

pub(super) async fn no_such_page(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(100).collect();
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}"))
        .hint("the API is under /api/v1")
}

pub(super) async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this method is not served here")
        .hint("the Allow header names those that are")
}
