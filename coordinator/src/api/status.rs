//! Status, audit, backup, metrics, health.

use super::views::{AuditChain, AuditView, CertificateView, StatusView, hex};
use super::{Api, Asker, Problem};
use crate::certificate::Certificates;
use crate::clock;
use crate::service::{Permission, Service};
use crate::store::audit::ChainState;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn show(State(api): State<Api>, actor: Asker) -> Result<Json<StatusView>, Problem> {
    Service::require(&actor, Permission::ReadStatus)?;
    Ok(Json(status(&api)))
}

/// The mesh at a glance.
pub(crate) fn status(api: &Api) -> StatusView {
    let service = &api.service;
    let model = service.model();
    let mesh = &model.mesh;
    StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mesh: mesh.name.clone(),
        domain: mesh.domain.clone(),
        network: model.network.to_string(),
        prefix_v4: mesh.prefixes.v4.to_string(),
        prefix_v6: mesh.prefixes.v6.to_string(),
        epoch: model.epoch.0,
        map_version: model.version.0,
        nodes: model.nodes.len(),
        online: service.online_count(),
        waiting: model.nodes.values().filter(|n| !n.admitted).count(),
        pending_routes: model.nodes.values().map(|n| n.pending_routes().count()).sum(),
        addresses: mesh.addresses.clone(),
        key: mesh.key.to_string(),
        started: service.started(),
        map_lease: mesh.map_lease,
        certificate: certificate(&api.certificates),
    }
}

fn certificate(certificates: &Certificates) -> Option<CertificateView> {
    let (names, trouble) = (certificates.wanted(), certificates.trouble());
    (!names.is_empty()).then(|| CertificateView {
        names,
        ends: certificates.issued(clock::unix_now()).map(|issued| issued.ends),
        again: trouble.as_ref().map(|t| t.again),
        trouble: trouble.map(|t| t.what),
    })
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    before: Option<u64>,
    limit: Option<u32>,
}

pub(super) async fn audit(
    State(api): State<Api>,
    actor: Asker,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Vec<AuditView>>, Problem> {
    let Query(page) = page?;
    let entries = api.service.audit(&actor, page.before, page.limit.unwrap_or(100)).await?;
    Ok(Json(entries.into_iter().map(AuditView::from).collect()))
}

pub(super) async fn verify_audit(State(api): State<Api>, actor: Asker) -> Result<Json<AuditChain>, Problem> {
    Ok(Json(match api.service.verify_audit(&actor).await? {
        ChainState::Whole { entries, first, head } => {
            AuditChain { whole: true, entries, first, head: hex(&head) }
        }
        ChainState::Broken { at } => {
            AuditChain { whole: false, entries: at - 1, first: 0, head: String::new() }
        }
    }))
}

pub(super) async fn backup(State(api): State<Api>, actor: Asker) -> Result<impl IntoResponse, Problem> {
    let bytes = api.service.backup(&actor, clock::unix_now()).await?;
    Ok(([(header::CONTENT_TYPE, "application/vnd.sqlite3"), (header::CACHE_CONTROL, "no-store")], bytes))
}

pub(super) async fn metrics(State(api): State<Api>, actor: Asker) -> Result<impl IntoResponse, Problem> {
    Service::require(&actor, Permission::ReadStatus)?;
    let Some(handle) = &api.metrics else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "nobody collects metrics in this process"));
    };
    let status = status(&api);
    if let Some(ends) = status.certificate.as_ref().and_then(|c| c.ends) {
        metrics::gauge!("meshd_coordinator_certificate_ends").set(ends.0 as f64);
    }
    let gauges = [
        ("meshd_coordinator_nodes", status.nodes),
        ("meshd_coordinator_nodes_online", status.online),
        ("meshd_coordinator_nodes_waiting", status.waiting),
        ("meshd_coordinator_routes_pending", status.pending_routes),
    ];
    for (name, value) in gauges {
        metrics::gauge!(name).set(f64::from(u32::try_from(value).unwrap_or(u32::MAX)));
    }
    metrics::gauge!("meshd_coordinator_map_version").set(status.map_version as f64);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()))
}
