//! What waits for somebody to say yes: machines and routes.

use super::guard::{PageError, Seat};
use super::parts::{self, act, act_after_asking, tags, time};
use crate::clock;
use crate::service::{Permission, Service};
use axum::extract::Path;
use axum::response::Response;
use maud::html;
use meshd_proto::UnixSeconds;

/// How much waits.
pub(super) fn count(service: &Service, now: UnixSeconds) -> usize {
    let waiting = |n: &crate::model::NodeRecord| !n.admitted && !n.revoked;
    let model = service.model();
    let known: usize =
        model.nodes.values().map(|n| usize::from(waiting(n)) + n.pending_routes().count()).sum();
    known + service.asking_count(now)
}

pub(super) async fn show(seat: Seat) -> Result<Response, PageError> {
    let (service, now) = (&seat.api.service, clock::unix_now());
    let nodes = service.nodes(seat.actor())?;
    let waiting: Vec<_> = nodes.iter().filter(|n| !n.admitted && !n.revoked).take(200).collect();
    let routed: Vec<_> = nodes.iter().filter(|n| n.pending_routes().next().is_some()).take(200).collect();
    let manage = seat.may(Permission::ManageNodes);
    let admit = seat.may(Permission::ManageTokens);
    let asking = service.join_requests(seat.actor(), now)?;
    let body = html! {
        (parts::title("Approvals", "Machines and routes that wait for a yes", html! {}))
        div #live hx-get="/approvals" hx-trigger="mesh-changed from:body" hx-select="#live" hx-swap="outerHTML" {
            @if !asking.is_empty() {
                section.card.flush {
                    h2.pad { "Machines that ask" }
                    table {
                        thead { tr { th { "Code" } th { "Name" } th { "System" } th { "From" } th { "Asked" } th { "" } } }
                        tbody { @for r in &asking {
                            tr {
                                td { code.code { (r.code) } } td.strong { (r.hostname) } td { (r.os) } td { code { (r.remote) } } td.when { (time(r.created, now)) }
                                td.right { @if admit {
                                    (act_after_asking(&seat, &format!("/approvals/{}/approve", r.id), "Approve", "The machine shows the same code? It will belong to you.", &[]))
                                    (act_after_asking(&seat, &format!("/approvals/{}/refuse", r.id), "Refuse", "It is told so, and may ask again.", &[]))
                                } }
                            }
                        } }
                    }
                }
            }
            section.card.flush {
                h2.pad { "Machines" }
                @if waiting.is_empty() { (parts::empty("No machine waits", "Machines that join with a token that is not pre-approved wait here.")) }
                @else {
                    table {
                        thead { tr { th { "Name" } th { "System" } th { "Belongs to" } th { "Key" } th { "Joined" } th { "" } } }
                        tbody { @for n in &waiting {
                            tr {
                                td { a.strong href={ "/nodes/" (n.name) } { (n.name) } }
                                td { (n.os) } td { (n.owner.display()) (tags(&n.tags)) }
                                td { code { (n.node_key.short()) } } td.when { (time(n.created, now)) }
                                td.right { @if manage {
                                    (act(&seat, &format!("/nodes/{}/approve", n.name), "Approve", "primary small", &[("back", "/approvals")]))
                                    (act_after_asking(&seat, &format!("/nodes/{}/remove", n.name), "Refuse", "Its record goes; it can join again with another token.", &[]))
                                } }
                            }
                        } }
                    }
                }
            }
            section.card.flush {
                h2.pad { "Routes" }
                @if routed.is_empty() { (parts::empty("No route waits", "A node offers one with `meshd set --advertise-routes=192.168.1.0/24`.")) }
                @else {
                    table {
                        thead { tr { th { "Prefix" } th { "Behind" } th { "Owner or tags" } th { "" } } }
                        tbody { @for n in &routed { @for route in n.pending_routes() {
                            tr {
                                td { code { (route) } @if route.is_default() { " " span.muted { "exit node" } } }
                                td { a.strong href={ "/nodes/" (n.name) } { (n.name) } }
                                td { (n.owner.display()) (tags(&n.tags)) }
                                td.right { @if manage { (act(&seat, "/routes/approve", "Approve", "primary small", &[("node", n.name.as_str()), ("prefix", &route.to_string()), ("back", "/approvals")])) } }
                            }
                        } } }
                    }
                }
            }
        }
    };
    Ok(seat.page("Approvals", body))
}

pub(super) async fn approve(seat: Seat, Path(id): Path<u64>) -> Response {
    let done = seat.api.service.approve_join(seat.actor(), id, None, clock::unix_now()).await;
    seat.done("/approvals", done.map(|r| format!("{} may come in; it does so by itself", r.hostname)))
}

pub(super) async fn refuse(seat: Seat, Path(id): Path<u64>) -> Response {
    let done = seat.api.service.refuse_join(seat.actor(), id, clock::unix_now()).await;
    seat.done("/approvals", done.map(|()| "The machine is turned away".to_owned()))
}
