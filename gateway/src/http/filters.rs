//! The filters of a rule as a `tower` layer around what forwards: redirect, header changes, rewriting.

use super::body::{Body, Source};
use crate::conn::Peer;
use crate::table::{BackendAddr, RuleAction};
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, LOCATION};
use hyper::{Request, Response, StatusCode, Uri};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use tower::{Layer, Service};

/// A request with the rule that it fits.
pub(super) struct Exchange {
    pub(super) action: Arc<RuleAction>,
    /// The prefix that matched.
    pub(super) prefix: String,
    /// `host[:port]` as asked.
    pub(super) authority: String,
    /// The host alone.
    pub(super) host: String,
    /// The listener's port.
    pub(super) port: u16,
    pub(super) peer: Arc<Peer>,
    pub(super) request: Request<Incoming>,
    /// The host towards the backend, where a filter changes it.
    pub(super) upstream: Option<HeaderValue>,
    /// Counts the bytes of the request's body.
    pub(super) up: Arc<AtomicU64>,
}

/// A response, and who gave it.
pub(super) struct Done {
    pub(super) response: Response<Body>,
    pub(super) upstream: Option<BackendAddr>,
}

/// Puts a rule's filters around a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct FilterLayer;

impl<S> Layer<S> for FilterLayer {
    type Service = Filtered<S>;

    fn layer(&self, inner: S) -> Filtered<S> {
        Filtered { inner }
    }
}

/// A service with a rule's filters around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filtered<S> {
    inner: S,
}

impl<S> Service<Exchange> for Filtered<S>
where
    S: Service<
            Exchange,
            Response = Done,
            Error = Infallible,
            Future = BoxFuture<'static, Result<Done, Infallible>>,
        > + Copy
        + Send
        + 'static,
{
    type Response = Done;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Done, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut exchange: Exchange) -> Self::Future {
        let mut inner = *self;
        let action = Arc::clone(&exchange.action);
        if action.edits.redirect.is_none() && !action.edits.touches() {
            return inner.inner.call(exchange);
        }
        Box::pin(async move {
            let edits = &action.edits;
            if let Some(redirect) = redirect(&exchange) {
                return Ok(Done { response: redirect, upstream: None });
            }
            edits.request.apply(exchange.request.headers_mut());
            exchange.upstream = edits.hostname.clone();
            if let Some(path) = &edits.path {
                let path = path.apply(exchange.request.uri().path(), &exchange.prefix);
                rewrite(exchange.request.uri_mut(), &path);
            }
            let mut done = inner.inner.call(exchange).await?;
            edits.response.apply(done.response.headers_mut());
            Ok(done)
        })
    }
}

fn redirect(exchange: &Exchange) -> Option<Response<Body>> {
    let to = exchange.action.edits.redirect.as_ref()?;
    let uri = exchange.request.uri();
    let host =
        if exchange.host.contains(':') { format!("[{}]", exchange.host) } else { exchange.host.clone() };
    let location =
        to.location(exchange.peer.scheme(), &host, exchange.port, uri.path(), uri.query(), &exchange.prefix);
    let mut response = Response::new(Body::new(Source::Empty));
    match HeaderValue::from_str(&location) {
        Ok(value) => {
            *response.status_mut() = to.status;
            response.headers_mut().insert(LOCATION, value);
            exchange.action.edits.response.apply(response.headers_mut());
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Some(response)
}

/// Puts another path into `uri`; the query stays.
fn rewrite(uri: &mut Uri, path: &str) {
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = std::mem::take(uri).into_parts();
    if let Ok(target) = target.parse() {
        parts.path_and_query = Some(target);
    }
    *uri = Uri::from_parts(parts).unwrap_or_default();
}
