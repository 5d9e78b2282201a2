//! The mesh at a glance.

use super::guard::{PageError, Seat};
use super::parts::{self, badge, time};
use crate::api::status_of;
use crate::clock;
use crate::model::Model;
use crate::service::{Permission, Service};
use axum::response::Response;
use maud::{Markup, html};
use std::collections::BTreeMap;

pub(super) async fn show(seat: Seat) -> Result<Response, PageError> {
    Service::require(seat.actor(), Permission::ReadStatus)?;
    let (service, now) = (&seat.api.service, clock::unix_now());
    let (model, status) = (service.model(), status_of(&seat.api));
    let recent = if seat.may(Permission::ReadAudit) {
        service.audit(seat.actor(), None, 8).await?
    } else {
        Vec::new()
    };
    let read = seat.may(Permission::Read);
    let behind = behind(service, &model);
    let offline = status.nodes.saturating_sub(status.online + devices(&model));
    let body = html! {
        (parts::title("Overview", "", html! {
            @if seat.may(Permission::ManageTokens) { a.button.primary href="/tokens#new" { "Add a machine" } }
        }))
        div #live hx-get="/" hx-trigger="mesh-changed from:body" hx-select="#live" hx-swap="outerHTML" {
            div.figures {
                (figure("Online", status.online, &format!("of {} nodes", status.nodes), "good", read.then_some("/nodes?state=online")))
                (figure("Offline", offline, "no session now", if offline > 0 { "calm" } else { "good" }, read.then_some("/nodes?state=offline")))
                (figure("Waiting", status.waiting + status.pending_routes, "nodes and routes to approve", if status.waiting + status.pending_routes > 0 { "warn" } else { "good" }, read.then_some("/approvals")))
                (figure("Not converged", behind, "online, map not confirmed yet", if behind > 0 { "warn" } else { "good" }, None))
            }
            @if let Some((names, trouble)) = status.certificate.as_ref().and_then(|c| Some((&c.names, c.trouble.as_ref()?))) {
                div.note.bad role="status" {
                    p { strong { "No certificate for " (names.join(", ")) ". " } (trouble) }
                    p.muted { "The pages stay with the certificate that they had. It is tried again"
                        @if let Some(again) = status.certificate.as_ref().and_then(|c| c.again) { " " (time(again, now)) } "." }
                }
            }
            @if status.nodes == 0 && read {
                div.card.first {
                    h2 { "Join the first machine" }
                    ol.steps {
                        li { "Install " code { "meshd" } " on it." }
                        li { a href="/tokens#new" { "Make a join token" } " and copy its command." }
                        li { "Run the command there. The machine shows up here." }
                    }
                }
            }
            div.columns {
                section.card {
                    h2 { "Mesh" }
                    dl.facts {
                        dt { "Domain" } dd { code { (status.domain) } }
                        dt { "Ranges" } dd { code { (status.prefix_v4) } " " code { (status.prefix_v6) } }
                        dt { "Reached at" } dd { @for a in &status.addresses { code { (a) } " " } }
                        dt { "Policy" } dd { (model.policy.rule_count()) " rules, version " (model.policy_version) }
                        dt { "Map" } dd { "version " (status.map_version) ", epoch " (status.epoch) }
                        dt { "Coordinator" } dd { "meshd " (status.version) ", running since " (time(status.started, now)) }
                    }
                }
                section.card {
                    h2 { "Versions" }
                    (versions(&model))
                }
            }
        }
        @if !recent.is_empty() {
            section.card {
                div.card-head { h2 { "Lately" } a href="/audit" { "Audit log" } }
                table.plain {
                    caption.unseen { "The newest entries of the audit log" }
                    thead.unseen { tr { th { "When" } th { "Who" } th { "What" } th { "To what" } } }
                    tbody {
                        @for entry in &recent {
                            tr { td.when { (time(entry.at, now)) } td { (entry.actor) } td { code { (entry.action) } } td { (entry.subject) " " span.muted { (entry.detail) } } }
                        }
                    }
                }
            }
        }
    };
    Ok(seat.page("Overview", body))
}

fn figure(name: &str, value: usize, about: &str, tone: &str, link: Option<&str>) -> Markup {
    let inside = html! {
        span.figure-name { (name) }
        span.figure-value { (value) }
        span.figure-about { (about) }
    };
    html! {
        @if let Some(place) = link { a class={ "figure " (tone) } href=(place) { (inside) } }
        @else { div class={ "figure " (tone) } { (inside) } }
    }
}

fn devices(model: &Model) -> usize {
    model.nodes.values().filter(|n| n.machine_key.is_none()).count()
}

/// Nodes with a session that have not confirmed any map in it yet.
fn behind(service: &Service, model: &Model) -> usize {
    let unconfirmed = |id| service.presence(id).is_some_and(|p| p.online && p.applied.0 == 0);
    model.nodes.keys().filter(|id| unconfirmed(**id)).count()
}

fn versions(model: &Model) -> Markup {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for node in model.nodes.values().filter(|n| n.machine_key.is_some()) {
        *count.entry(&node.client_version).or_default() += 1;
    }
    let own = env!("CARGO_PKG_VERSION");
    html! {
        @if count.is_empty() { p.muted { "No machine yet." } }
        @else {
            table.plain {
                caption.unseen { "How many nodes run which version" }
                thead { tr { th { "meshd" } th.number { "Nodes" } th { "" } } }
                tbody {
                    @for (version, nodes) in count.iter().rev().take(8) {
                        tr {
                            td { code { (if version.is_empty() { "unknown" } else { version }) } }
                            td.number { (nodes) }
                            td { @if *version != own { (badge("other than the coordinator")) } }
                        }
                    }
                }
            }
        }
    }
}
