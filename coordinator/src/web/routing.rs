//! Prefixes behind nodes, and exit nodes.

use super::form::{Form, escape};
use super::guard::{PageError, Seat};
use super::nodes::Asked;
use super::parts::{self, PER_PAGE, act, act_after_asking, badge};
use crate::api::views::RouteBody;
use crate::clock;
use crate::service::{Permission, ServiceError};
use axum::extract::Query;
use axum::response::Response;
use maud::html;
use meshd_proto::Prefix;

const STATES: [(&str, &str); 4] =
    [("", "All states"), ("active", "Active"), ("pending", "Pending"), ("absent", "Not advertised now")];

pub(super) async fn list(seat: Seat, Query(asked): Query<Asked>) -> Result<Response, PageError> {
    let text = asked.q.trim().to_lowercase();
    let mut all: Vec<RouteBody> =
        seat.api.service.routes(seat.actor())?.into_iter().map(RouteBody::from).collect();
    all.retain(|r| {
        (asked.state.is_empty() || r.state == asked.state)
            && (text.is_empty() || r.node.as_str().contains(&text) || r.prefix.to_string().contains(&text))
    });
    let page = parts::page_of(&asked.page, all.len());
    let rows: Vec<&RouteBody> = all.iter().skip((page - 1) * PER_PAGE).take(PER_PAGE).collect();
    let manage = seat.may(Permission::ManageNodes);
    let link = format!("q={}&state={}", escape(&asked.q), escape(&asked.state));
    let here = format!("/routes?{link}&page={page}");
    let body = html! {
        (parts::title("Routes and exits", "Networks behind nodes, and nodes that lead to the internet", html! {}))
        (parts::search("/routes", &asked.q, "Prefix or node", parts::filter("state", "State", &asked.state, &STATES)))
        div #list.card.flush hx-get=(here) hx-trigger="mesh-changed from:body" hx-select="#list" hx-swap="outerHTML" {
            @if rows.is_empty() {
                (parts::empty("No route here", "A node offers one with `meshd set --advertise-routes=192.168.1.0/24`, an exit with `--advertise-exit-node`."))
            } @else {
                div.scroll tabindex="0" role="region" aria-label="Routes" { table {
                    thead { tr { th { "Prefix" } th { "Kind" } th { "Behind" } th { "State" } th { "" } } }
                    tbody { @for route in &rows {
                        tr {
                            td { code { (route.prefix) } }
                            td { (if route.prefix.is_default() { "exit node" } else { "subnet" }) }
                            td { a.strong href={ "/nodes/" (route.node) } { (route.node) } }
                            td { (badge(&route.state)) }
                            td.right { @if manage {
                                @let fields = [("node", route.node.as_str()), ("prefix", &route.prefix.to_string())];
                                @if route.state == "pending" { (act(&seat, "/routes/approve", "Approve", "primary small", &fields)) }
                                @else { (act_after_asking(&seat, "/routes/unapprove", "Take back", "Traffic to it stops at once.", &fields)) }
                            } }
                        }
                    } }
                } }
                (parts::pager("/routes", &link, page, all.len()))
            }
        }
    };
    Ok(seat.page("Routes and exits", body))
}

pub(super) async fn approve(seat: Seat, form: Form) -> Response {
    decide(seat, form, true).await
}

pub(super) async fn unapprove(seat: Seat, form: Form) -> Response {
    decide(seat, form, false).await
}

async fn decide(seat: Seat, form: Form, approve: bool) -> Response {
    let (node, service, now) = (form.text("node"), &seat.api.service, clock::unix_now());
    let done = async {
        let prefix: Prefix =
            form.text("prefix").parse().map_err(|e| ServiceError::Invalid(format!("{e}")))?;
        if approve {
            service.approve_routes(seat.actor(), node, &[prefix], now).await?;
            Ok(format!("{prefix} behind {node} counts now"))
        } else {
            service.unapprove_routes(seat.actor(), node, &[prefix], now).await?;
            Ok(format!("{prefix} behind {node} no longer counts"))
        }
    };
    let done = done.await;
    let back = match form.text("back") {
        "/approvals" => "/approvals".to_owned(),
        back if back.starts_with("/nodes/") => format!("/nodes/{}", escape(node)),
        _ => "/routes".to_owned(),
    };
    seat.done(&back, done)
}
