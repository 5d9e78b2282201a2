//! REST under `/api/v1`, the same on the unix socket, on TLS and on loopback.
//!
//! A thin layer: who asks (`auth`), the request parsed into types, one call of the service, the answer
//! as JSON ([`views`]) or `application/problem+json` (`problem`). No rule and no permission lives here.
//!
//! Over plain HTTP from elsewhere than loopback nothing but `/healthz` and the checks of a certificate
//! authority is answered.

mod acme;
mod auth;
mod clusters;
mod dns;
pub(crate) mod front;
mod join;
mod nodes;
mod openapi;
mod part;
mod policy;
mod problem;
mod publish;
mod relays;
mod routes;
mod status;
pub mod table;
mod tokens;
mod users;
pub mod views;
mod visitor;

pub use auth::Transport;
pub use problem::{Problem, ProblemBody};
pub(crate) use status::status as status_of;
pub use table::{Face, Need, Row};
pub use visitor::TrustedProxies;
pub(crate) use visitor::Visitor;

use crate::certificate::Certificates;
use crate::service::{Actor, Service};
use crate::web;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::Arc;
use table::Routes;
use tokio_util::sync::CancellationToken;

/// Most bytes of a request body; a policy text is the largest.
const MAX_BODY: usize = 1 << 20;

/// What every handler has.
#[derive(Clone, Debug)]
pub struct Api {
    /// The rules.
    pub service: Arc<Service>,
    /// What `/metrics` renders; `None`: nobody collects.
    pub metrics: Option<PrometheusHandle>,
    /// What TLS shows: fingerprints stand beside links.
    pub certificates: Arc<Certificates>,
    /// Reverse proxies that say where visitors are.
    pub proxies: TrustedProxies,
    /// What pages keep in memory.
    pub pages: Arc<web::Pages>,
    /// Ends event streams.
    pub stop: CancellationToken,
}

impl Api {
    /// The API over that service, without metrics and certificate.
    pub fn new(service: Arc<Service>) -> Self {
        Self {
            service,
            metrics: None,
            certificates: Arc::new(Certificates::none()),
            proxies: TrustedProxies::default(),
            pages: Arc::default(),
            stop: CancellationToken::new(),
        }
    }
}

/// Everything that is answered, pages included. Each request must carry a [`Transport`] extension: how it
/// came in.
pub fn router(api: Api) -> Router {
    let (programs, pages) = (programs(), web::routes());
    let programs =
        programs.router.route_layer(axum::middleware::from_fn_with_state(api.clone(), auth::authenticate));
    let pages =
        pages.router.route_layer(axum::middleware::from_fn_with_state(api.clone(), web::guard::authenticate));
    programs
        .merge(pages)
        .merge(open().router)
        .fallback(problem::no_such_page)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn_with_state(api.clone(), front::pass))
        .with_state(api)
}

/// The table of everything that is answered.
pub fn table() -> Vec<Row> {
    [programs().rows, web::routes().rows, open().rows].concat()
}

fn programs() -> Routes {
    use crate::service::Permission as P;
    let read = Need::May(P::Read);
    let nodes = Need::May(P::ManageNodes);
    Routes::new(Face::Api)
        .get("/api/v1/status", Need::May(P::ReadStatus), "The mesh at a glance", status::show)
        .get("/api/v1/nodes", read, "List nodes", nodes::list)
        .get("/api/v1/nodes/{name}", read, "Show a node", nodes::show)
        .get("/api/v1/nodes/{name}/paths", read, "Which ways a node's data goes", nodes::paths)
        .delete("/api/v1/nodes/{name}", nodes, "Remove a node", nodes::remove)
        .patch("/api/v1/nodes/{name}", nodes, "Rename or tag a node", nodes::edit)
        .post("/api/v1/nodes/{name}/approve", nodes, "Let a waiting node in", nodes::approve)
        .post("/api/v1/nodes/{name}/expire", nodes, "End a node's key", nodes::expire)
        .post("/api/v1/nodes/{name}/revoke", nodes, "Cut a node off", nodes::revoke)
        .post("/api/v1/nodes/{name}/routes/approve", nodes, "Approve routes of a node", routes::approve)
        .post("/api/v1/nodes/{name}/routes/unapprove", nodes, "Take approvals back", routes::unapprove)
        .post("/api/v1/nodes/{name}/devices", nodes, "Join a WireGuard device", nodes::create_device)
        .get("/api/v1/routes", read, "List routes", routes::list)
        .get("/api/v1/exits", read, "List public exits", publish::exits)
        .get("/api/v1/exposures", read, "List what nodes publish on public exits", publish::list)
        .delete(
            "/api/v1/exposures/{name}",
            Need::May(P::ManageNodes),
            "Take all that a node publishes off the exits",
            publish::remove_all,
        )
        .delete(
            "/api/v1/exposures/{name}/{id}",
            Need::May(P::ManageNodes),
            "Take one thing that a node publishes off the exits",
            publish::remove,
        )
        .get("/api/v1/relays", read, "List relays", relays::list)
        .post("/api/v1/relays", Need::May(P::ManageMesh), "Add a relay", relays::add)
        .delete("/api/v1/relays/{name}", Need::May(P::ManageMesh), "Remove a relay", relays::remove)
        .get("/api/v1/clusters", read, "List clusters", clusters::list)
        .put(
            "/api/v1/clusters/{name}",
            Need::May(P::ManageMesh),
            "Delegate addresses to a cluster",
            clusters::put,
        )
        .delete("/api/v1/clusters/{name}", Need::May(P::ManageMesh), "Forget a cluster", clusters::remove)
        .post(
            "/api/v1/clusters/{name}/token",
            Need::May(P::ManageApiTokens),
            "Make the credential of a cluster's operator",
            clusters::create_token,
        )
        .get(
            "/api/v1/clusters/{name}/services",
            Need::May(P::PublishServices),
            "Show a cluster and what it publishes",
            clusters::services,
        )
        .put(
            "/api/v1/clusters/{name}/services",
            Need::May(P::PublishServices),
            "Publish the whole set of a cluster's services",
            clusters::publish,
        )
        .get("/api/v1/tokens", read, "List join tokens", tokens::list)
        .post("/api/v1/tokens", Need::May(P::ManageTokens), "Make a join token", tokens::create)
        .delete("/api/v1/tokens/{id}", Need::May(P::ManageTokens), "Revoke a join token", tokens::revoke)
        .get("/api/v1/api-tokens", Need::May(P::ManageApiTokens), "List API tokens", tokens::list_api)
        .post("/api/v1/api-tokens", Need::May(P::ManageApiTokens), "Make an API token", tokens::create_api)
        .delete(
            "/api/v1/api-tokens/{id}",
            Need::May(P::ManageApiTokens),
            "Revoke an API token",
            tokens::revoke_api,
        )
        .get("/api/v1/users", Need::May(P::ManageUsers), "List people", users::list)
        .patch(
            "/api/v1/users/{name}",
            Need::May(P::ManageUsers),
            "Change a person's role or state",
            users::edit,
        )
        .delete("/api/v1/users/{name}", Need::May(P::ManageUsers), "Remove a person", users::remove)
        .get("/api/v1/invitations", Need::May(P::ManageUsers), "List invitations", users::invitations)
        .post("/api/v1/invitations", Need::May(P::ManageUsers), "Invite a person", users::invite)
        .delete(
            "/api/v1/invitations/{id}",
            Need::May(P::ManageUsers),
            "Take an invitation back",
            users::uninvite,
        )
        .post(
            "/api/v1/admin-link",
            Need::May(P::IssueAdminLink),
            "Make a link for an owner",
            users::admin_link,
        )
        .get("/api/v1/join-requests", read, "List machines that ask", join::list)
        .post(
            "/api/v1/join-requests/{id}/approve",
            Need::May(P::ManageTokens),
            "Let a machine in",
            join::approve,
        )
        .post(
            "/api/v1/join-requests/{id}/refuse",
            Need::May(P::ManageTokens),
            "Turn a machine away",
            join::refuse,
        )
        .get("/api/v1/dns/records", read, "List DNS records", dns::list)
        .post("/api/v1/dns/records", Need::May(P::ManageDns), "Add a DNS record", dns::add)
        .delete("/api/v1/dns/records/{name}", Need::May(P::ManageDns), "Remove DNS records", dns::remove)
        .get("/api/v1/dns/explain", read, "What a name is for a node or user", dns::explain)
        .get("/api/v1/dns/declared", read, "Show all names as one file", dns::declared)
        .put("/api/v1/dns/declared", Need::May(P::ManageDns), "Set all names by one file", dns::declare)
        .get("/api/v1/dns/settings", read, "Show how names are resolved", dns::settings)
        .put("/api/v1/dns/settings", Need::May(P::ManageDns), "Set how names are resolved", dns::set_settings)
        .put(
            "/api/v1/dns/split/{domain}",
            Need::May(P::ManageDns),
            "Give a domain its own resolvers",
            dns::set_split,
        )
        .delete(
            "/api/v1/dns/split/{domain}",
            Need::May(P::ManageDns),
            "Take a domain's resolvers away",
            dns::remove_split,
        )
        .put(
            "/api/v1/dns/nameservers",
            Need::May(P::ManageDns),
            "Set the global nameservers",
            dns::set_nameservers,
        )
        .put("/api/v1/dns/search", Need::May(P::ManageDns), "Set the search domains", dns::set_search)
        .get("/api/v1/policy", read, "Show the policy", policy::show)
        .put("/api/v1/policy", Need::May(P::ManagePolicy), "Set the policy", policy::set)
        .post("/api/v1/policy/check", read, "Check a policy", policy::check)
        .get("/api/v1/policy/explain", read, "Explain a flow", policy::explain)
        .get("/api/v1/policy/history", read, "List past policies", policy::history)
        .post("/api/v1/policy/plan", read, "What a policy would change", policy::plan)
        .post(
            "/api/v1/policy/rollback",
            Need::May(P::ManagePolicy),
            "Put a past policy back",
            policy::rollback,
        )
        .get("/api/v1/access", read, "Everything that the policy allows", policy::access)
        .get("/api/v1/audit", Need::May(P::ReadAudit), "Read the audit log", status::audit)
        .get("/api/v1/audit/verify", Need::May(P::ReadAudit), "Verify the audit log", status::verify_audit)
        .post("/api/v1/backup", Need::May(P::Backup), "Download a backup", status::backup)
        .get("/api/v1/openapi.json", Need::May(P::ReadStatus), "This description", openapi::show)
        .get("/metrics", Need::May(P::ReadStatus), "Prometheus metrics", status::metrics)
}

fn open() -> Routes {
    let routes = Routes::new(Face::Open).get("/healthz", Need::Nothing, "Whether it runs", status::healthz);
    let routes = routes
        .post("/api/v1/join-requests", Need::Nothing, "Ask to be let in, without a token", join::ask)
        .post("/api/v1/join-requests/poll", Need::Nothing, "Hear what became of it", join::poll);
    let routes =
        routes.get(acme::PATH, Need::Nothing, "Answer a certificate authority's check", acme::answer);
    web::open_routes(routes)
}

/// Who asks, as [`auth::authenticate`] found.
type Asker = axum::Extension<Actor>;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod tests;
