//! REST under `/api/v1`, the same on the unix socket, on TLS and on loopback.
//!
//! A thin layer: who asks (`auth`), the request parsed into types, one call of the service, the answer
//! as JSON ([`views`]) or `application/problem+json` (`problem`). No rule and no permission lives here.
//!
//! Over plain HTTP from elsewhere than loopback nothing but `/healthz` is answered.

mod auth;
mod dns;
mod nodes;
mod policy;
mod problem;
mod routes;
mod status;
mod tokens;
pub mod views;

pub use auth::Transport;
pub use problem::{Problem, ProblemBody};

use crate::service::{Actor, Service};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post, put};
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::Arc;

/// Most bytes of a request body; a policy text is the largest.
const MAX_BODY: usize = 1 << 20;

/// What every handler has.
#[derive(Clone, Debug)]
pub struct Api {
    /// The rules.
    pub service: Arc<Service>,
    /// What `/metrics` renders; `None`: nobody collects.
    pub metrics: Option<PrometheusHandle>,
}

/// The whole API. Each request must carry a [`Transport`] extension: how it came in.
pub fn router(api: Api) -> Router {
    let v1 = Router::new()
        .route("/status", get(status::show))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{name}", get(nodes::show).delete(nodes::remove).patch(nodes::edit))
        .route("/nodes/{name}/approve", post(nodes::approve))
        .route("/nodes/{name}/expire", post(nodes::expire))
        .route("/nodes/{name}/revoke", post(nodes::revoke))
        .route("/nodes/{name}/routes/approve", post(routes::approve))
        .route("/nodes/{name}/routes/unapprove", post(routes::unapprove))
        .route("/nodes/{name}/devices", post(nodes::create_device))
        .route("/routes", get(routes::list))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{id}", delete(tokens::revoke))
        .route("/api-tokens", get(tokens::list_api).post(tokens::create_api))
        .route("/api-tokens/{id}", delete(tokens::revoke_api))
        .route("/dns/records", get(dns::list).post(dns::add))
        .route("/dns/records/{name}", delete(dns::remove))
        .route("/dns/settings", get(dns::settings).put(dns::set_settings))
        .route("/dns/split/{domain}", put(dns::set_split).delete(dns::remove_split))
        .route("/dns/nameservers", put(dns::set_nameservers))
        .route("/dns/search", put(dns::set_search))
        .route("/policy", get(policy::show).put(policy::set))
        .route("/policy/check", post(policy::check))
        .route("/policy/explain", get(policy::explain))
        .route("/policy/history", get(policy::history))
        .route("/audit", get(status::audit))
        .route("/audit/verify", get(status::verify_audit))
        .route("/backup", post(status::backup));
    Router::new()
        .nest("/api/v1", v1)
        .route("/metrics", get(status::metrics))
        .route_layer(axum::middleware::from_fn_with_state(api.clone(), auth::authenticate))
        .route("/healthz", get(status::healthz))
        .fallback(problem::no_such_page)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

/// Who asks, as [`auth::authenticate`] found.
type Asker = axum::Extension<Actor>;

#[cfg(test)]
mod tests;
