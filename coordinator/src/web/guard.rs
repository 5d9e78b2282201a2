//! Who looks at a page: the session of a cookie. A change must carry the session's token and come from one
//! of our own pages; this is checked here for every form at once, so no page can forget it.

use super::{Note, layout};
use crate::api::{Api, front};
use crate::clock;
use crate::service::{Actor, Permission, ServiceError, Session};
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use maud::Markup;

/// Bound to this host, to TLS (browsers count loopback as such) and to all of its paths.
pub(super) const COOKIE: &str = "__Host-meshd";
/// Most bytes of a form; a policy text is the largest, and escaping can triple it.
const MAX_FORM: usize = 2 << 20;

pub(crate) async fn authenticate(State(api): State<Api>, request: Request, next: Next) -> Response {
    let found = match cookie(request.headers(), COOKIE) {
        Some(secret) => api.service.session(secret, clock::unix_now()).await,
        None => Ok(None),
    };
    let session = match found {
        Ok(Some(session)) => session,
        Ok(None) => return to_the_door(&request),
        Err(error) => return PageError::from(error).into_response(),
    };
    let mut request = match checked(&session, request).await {
        Ok(request) => request,
        Err(error) => return error.into_response(),
    };
    request.extensions_mut().insert(session);
    next.run(request).await
}

fn to_the_door(request: &Request) -> Response {
    if request.method() != Method::GET {
        let text = "Your session has ended. Sign in again; what you sent was not done.";
        return PageError::new(StatusCode::UNAUTHORIZED, text).into_response();
    }
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let next = super::form::escape(path);
    let place = if path == "/" { "/login".to_owned() } else { format!("/login?next={next}") };
    if request.headers().contains_key("hx-request") || path == "/events" {
        // A script asked: a page of another kind in its place would confuse it.
        return (StatusCode::UNAUTHORIZED, [("hx-redirect", place)]).into_response();
    }
    Redirect::to(&place).into_response()
}

/// A change is let through when it comes from our own page and carries the session's token.
async fn checked(session: &Session, request: Request) -> Result<Request, PageError> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(request);
    }
    if !front::is_same_origin(request.headers()) {
        return Err(PageError::new(
            StatusCode::FORBIDDEN,
            "This did not come from a page of this coordinator.",
        ));
    }
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, MAX_FORM)
        .await
        .map_err(|_| PageError::new(StatusCode::PAYLOAD_TOO_LARGE, "This is more than is taken at once."))?;
    let token = super::form::pairs(&bytes).find(|(name, _)| name == "csrf").map(|(_, value)| value);
    if !token.is_some_and(|t| same(t.as_bytes(), session.csrf.as_bytes())) {
        let text = "The form was too old or not ours. Load the page again and repeat it.";
        return Err(PageError::new(StatusCode::FORBIDDEN, text));
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

/// One of the cookies.
pub(super) fn cookie<'h>(headers: &'h HeaderMap, wanted: &str) -> Option<&'h str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let mut pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value)
}

/// A page's visitor: the session, and what a page is made with.
pub(super) struct Seat {
    pub(super) api: Api,
    pub(super) session: Session,
    pub(super) path: String,
}

impl FromRequestParts<Api> for Seat {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, PageError> {
        let session = parts.extensions.get::<Session>().cloned();
        match session {
            Some(session) => Ok(Self { api: api.clone(), session, path: parts.uri.path().to_owned() }),
            None => Err(PageError::new(StatusCode::UNAUTHORIZED, "Sign in first.")),
        }
    }
}

impl Seat {
    pub(super) fn actor(&self) -> &Actor {
        &self.session.actor
    }

    pub(super) fn may(&self, permission: Permission) -> bool {
        self.session.actor.may(permission)
    }

    pub(super) fn csrf(&self) -> &str {
        &self.session.csrf
    }

    /// A whole page.
    pub(super) fn page(&self, title: &str, body: Markup) -> Response {
        layout::page(self, title, body)
    }

    /// Goes back to a page and says there what was done, or why not.
    pub(super) fn done(&self, place: &str, done: Result<String, ServiceError>) -> Response {
        let note = match done {
            Ok(text) => Note { good: true, text },
            Err(ServiceError::Forbidden { .. }) => return forbidden().into_response(),
            Err(error) => Note { good: false, text: explain(&error) },
        };
        self.api.pages.leave(self.session.fingerprint, note);
        Redirect::to(place).into_response()
    }
}

/// A service's words, as a sentence.
pub(super) fn explain(error: &ServiceError) -> String {
    let text = match error {
        ServiceError::Policy(errors) => errors.join("\n"),
        other => other.to_string(),
    };
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if first.is_ascii_lowercase() => first.to_ascii_uppercase().to_string() + chars.as_str(),
        _ => text,
    }
}

fn forbidden() -> PageError {
    PageError::new(
        StatusCode::FORBIDDEN,
        "Your role does not allow this. Somebody with a stronger role can do it, or give you one.",
    )
}

/// An error as a page of its own.
#[derive(Debug)]
pub(crate) struct PageError {
    status: StatusCode,
    text: String,
}

impl PageError {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

impl From<ServiceError> for PageError {
    fn from(error: ServiceError) -> Self {
        let status = match &error {
            ServiceError::Forbidden { .. } => return forbidden(),
            ServiceError::NotFound { .. } => StatusCode::NOT_FOUND,
            ServiceError::Conflict(_) => StatusCode::CONFLICT,
            ServiceError::Invalid(_) | ServiceError::Policy(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ServiceError::TooOften { .. } => StatusCode::TOO_MANY_REQUESTS,
            ServiceError::Store(error) => {
                tracing::error!(%error, "a page failed on the database");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, explain(&error))
    }
}

impl From<crate::store::StoreError> for PageError {
    fn from(error: crate::store::StoreError) -> Self {
        ServiceError::from(error).into()
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        (self.status, layout::bare("Not done", layout::error_body(self.status, &self.text))).into_response()
    }
}
