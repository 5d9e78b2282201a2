//! The machines of the mesh, as a list and one by one.

use super::form::{Form, escape};
use super::guard::{PageError, Seat};
use super::parts::{self, PER_PAGE, act, act_after_asking, badge, tags, time};
use crate::api::views::{NodeView, PathsView, milliseconds};
use crate::clock;
use crate::service::{NodeQuery, Permission, ServiceError};
use axum::extract::{Path, Query};
use axum::response::Response;
use maud::{Markup, html};
use meshd_proto::{Hostname, Tag};
use std::collections::BTreeSet;

/// What a list is asked for.
#[derive(Debug, Default, serde::Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    pub(super) q: String,
    #[serde(default)]
    pub(super) state: String,
    #[serde(default)]
    pub(super) page: String,
}

/// Most paths that a page lists.
const MOST_PATHS: usize = 100;

const STATES: [(&str, &str); 7] = [
    ("", "All states"),
    ("online", "Online"),
    ("offline", "Offline"),
    ("waiting", "Waiting"),
    ("expired", "Expired"),
    ("revoked", "Revoked"),
    ("device", "WireGuard devices"),
];

pub(super) async fn list(seat: Seat, Query(asked): Query<Asked>) -> Result<Response, PageError> {
    let (service, now) = (&seat.api.service, clock::unix_now());
    let query = NodeQuery { text: asked.q.clone(), state: asked.state.clone() };
    let found = service.find_nodes(seat.actor(), &query, now)?;
    let page = parts::page_of(&asked.page, found.len());
    let model = service.model();
    let rows: Vec<NodeView> = found
        .iter()
        .skip((page - 1) * PER_PAGE)
        .take(PER_PAGE)
        .map(|n| NodeView::new(&model, n, service.presence(n.id), now))
        .collect();
    let link = format!("q={}&state={}", escape(&asked.q), escape(&asked.state));
    let here = format!("/nodes?{link}&page={page}");
    let body = html! {
        (parts::title("Nodes", "Every machine and device of the mesh", html! {
            @if seat.may(Permission::ManageTokens) { a.button.primary href="/tokens#new" { "Add a machine" } }
        }))
        (parts::search("/nodes", &asked.q, "Name, address, owner, tag or key", parts::filter("state", "State", &asked.state, &STATES)))
        div #list.card.flush hx-get=(here) hx-trigger="mesh-changed from:body" hx-select="#list" hx-swap="outerHTML" {
            @if rows.is_empty() {
                (parts::empty("No node here", "Make a join token and run its command on a machine, or change the search."))
            } @else {
                div.scroll tabindex="0" role="region" aria-label="Nodes" {
                    table {
                        thead { tr { th { "Name" } th { "State" } th { "Addresses" } th { "Owner or tags" } th { "Routes" } th { "System" } th { "Seen" } } }
                        tbody { @for node in &rows { (row(node, now)) } }
                    }
                }
                (parts::pager("/nodes", &link, page, found.len()))
            }
        }
    };
    Ok(seat.page("Nodes", body))
}

fn row(node: &NodeView, now: meshd_proto::UnixSeconds) -> Markup {
    html! {
        tr {
            td { a.strong href={ "/nodes/" (node.name) } { (node.name) } }
            td { (badge(&node.state)) }
            td { code { (node.v4) } }
            td { @if node.tags.is_empty() { (node.owner) } @else { (tags(&node.tags)) } }
            td {
                @for route in node.routes.iter().take(2) { code { (route) } " " }
                @if node.routes.len() > 2 { span.muted { "+" (node.routes.len() - 2) } }
                @if !node.pending_routes.is_empty() { (badge("pending")) }
            }
            td { span.muted { (node.os) " " (node.client_version) } }
            td.when { @if let Some(since) = node.since { (time(since, now)) } @else { span.muted { "—" } } }
        }
    }
}

pub(super) async fn show(seat: Seat, Path(name): Path<String>) -> Result<Response, PageError> {
    let (service, now) = (&seat.api.service, clock::unix_now());
    let record = service.node(seat.actor(), &name)?;
    let model = service.model();
    let node = NodeView::new(&model, &record, service.presence(record.id), now);
    let manage = seat.may(Permission::ManageNodes);
    let base = format!("/nodes/{}", node.name);
    let devices: Vec<_> = model.nodes.values().filter(|n| n.via == Some(record.id)).collect();
    let paths = PathsView::new(&model, &service.paths_of(seat.actor(), &name)?);
    let reach = service.reach_of(seat.actor(), record.id, now)?;
    let body = html! {
        p.crumbs { a href="/nodes" { "Nodes" } }
        (parts::title(node.name.as_str(), &node.fqdn, html! {
            (badge(&node.state))
            @if manage && node.state == "waiting" { (act(&seat, &format!("{base}/approve"), "Approve", "primary", &[])) }
        }))
        div.columns {
            section.card {
                h2 { "Identity" }
                dl.facts {
                    dt { "Addresses" } dd { code { (node.v4) } " " code { (node.v6) } }
                    dt { "Belongs to" } dd { @if node.tags.is_empty() { (node.owner) } @else { (tags(&node.tags)) } }
                    dt { "Key" } dd { code.wrap { (node.key) } }
                    dt { "Key ends" } dd { @match node.key_expires { Some(end) => (time(end, now)), None => "never" } }
                    @if let Some(via) = &node.via { dt { "Joined through" } dd { a href={ "/nodes/" (via) } { (via) } } }
                    dt { "Joined" } dd { (time(node.created, now)) }
                    @if node.ephemeral { dt { "Ephemeral" } dd { "forgotten when it stays away" } }
                }
            }
            section.card {
                h2 { "Now" }
                dl.facts {
                    dt { "State" } dd { (badge(&node.state)) @if let Some(since) = node.since { " since " (time(since, now)) } }
                    dt { "Control session from" } dd { @match &node.remote { Some(remote) => code { (remote) }, None => "—" } }
                    dt { "Map applied" } dd { @match node.applied_version { Some(v) => { "version " (v) " of " (model.version) }, None => "—" } }
                    dt { "System" } dd { (node.os) }
                    dt { "meshd" } dd { (node.client_version) }
                }
            }
        }
        section.card {
            h2 { "Routes" }
            @if node.routes.is_empty() && node.pending_routes.is_empty() { p.muted { "It advertises none." } }
            @else {
                table.plain {
                    thead { tr { th { "Prefix" } th { "State" } th { "" } } }
                    tbody {
                        @for route in &node.pending_routes {
                            tr { td { code { (route) } } td { (badge("pending")) } td.right { @if manage { (act(&seat, "/routes/approve", "Approve", "primary small", &[("node", node.name.as_str()), ("prefix", &route.to_string()), ("back", &base)])) } } }
                        }
                        @for route in &node.routes {
                            tr { td { code { (route) } } td { (badge("active")) } td.right { @if manage { (act_after_asking(&seat, "/routes/unapprove", "Take back", "Traffic to it stops at once.", &[("node", node.name.as_str()), ("prefix", &route.to_string()), ("back", &base)])) } } }
                        }
                    }
                }
            }
        }
        @if node.state != "device" { (paths_card(&paths, now)) }
        section.card {
            div.card-head { h2 { "Who reaches it, and why" } a href={ "/access?to=" (node.name) } { "Access explorer" } }
            @if reach.is_empty() { p.muted { "Nobody: no rule of the policy names it as destination." } }
            @else {
                table.plain {
                    thead { tr { th { "From" } th { "To" } th { "Ports" } th { "Rule" } } }
                    tbody {
                        @for edge in reach.iter().take(40) {
                            tr {
                                td { (edge.from) } td { (edge.to) } td { code { (edge.ports) } }
                                td { a href={ "/policy#line-" (edge.line) } { "line " (edge.line) } }
                            }
                        }
                    }
                }
            }
        }
        @if !devices.is_empty() {
            section.card {
                h2 { "WireGuard devices joined through it" }
                ul.plain-list { @for d in &devices { li { a href={ "/nodes/" (d.name) } { (d.name) } " " code { (d.addrs.v4) } } } }
            }
        }
        @if manage {
            section.card {
                h2 { "Change" }
                div.rows {
                    form.line method="post" action={ (base) "/rename" } {
                        (parts::csrf(&seat))
                        label { "Name" input type="text" name="name" value=(node.name) required maxlength="63" autocapitalize="none" spellcheck="false"; }
                        button type="submit" { "Rename" }
                    }
                    form.line method="post" action={ (base) "/tag" } {
                        (parts::csrf(&seat))
                        label { "Tags" input type="text" name="tags" value=(node.tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(" ")) placeholder="tag:server tag:lab" autocapitalize="none" spellcheck="false"; }
                        button type="submit" { "Set tags" }
                    }
                    div.line {
                        (act_after_asking(&seat, &format!("{base}/expire"), "End its key", "It has to join again with a token, and keeps name and addresses.", &[]))
                        (act_after_asking(&seat, &format!("{base}/revoke"), "Cut off", "It leaves the mesh at once and cannot come back by itself.", &[]))
                        (act_after_asking(&seat, &format!("{base}/remove"), "Remove", "Its record, its addresses and the devices behind it go.", &[]))
                    }
                }
            }
        }
    };
    Ok(seat.page(node.name.as_str(), body))
}

/// What the node says of the ways to its peers.
fn paths_card(told: &PathsView, now: meshd_proto::UnixSeconds) -> Markup {
    let relayed = told.paths.iter().filter(|p| p.path == "relay").count();
    html! {
        section.card {
            div.card-head {
                h2 { "Paths to its peers" }
                @if let Some(at) = told.told { span.muted { (told.paths.len() - relayed) " direct, " (relayed) " by relay, told " (time(at, now)) } }
            }
            @if told.told.is_none() { p.muted { "A node tells while it is online." } }
            @else if told.paths.is_empty() { p.muted { "It talks to nobody now." } }
            @else {
                div.scroll tabindex="0" role="region" aria-label="Paths to its peers" {
                    table.plain {
                        thead { tr { th { "Peer" } th { "Path" } th { "Via" } th.number { "Round trip" } } }
                        tbody {
                            @for path in told.paths.iter().take(MOST_PATHS) {
                                tr {
                                    td { a href={ "/nodes/" (path.peer) } { (path.peer) } }
                                    td { (badge(&path.path)) } td { code { (path.via) } } td.number { (milliseconds(path.rtt_us)) }
                                }
                            }
                        }
                    }
                }
                @if told.paths.len() > MOST_PATHS {
                    p.muted { (told.paths.len() - MOST_PATHS) " more: " code { "meshd-coordinator nodes paths" } }
                }
            }
        }
    }
}

pub(super) async fn rename(seat: Seat, Path(name): Path<String>, form: Form) -> Response {
    let done = async {
        let to: Hostname =
            form.text("name").trim().parse().map_err(|e| ServiceError::Invalid(format!("{e}")))?;
        seat.api.service.rename_node(seat.actor(), &name, &to, clock::unix_now()).await?;
        Ok(to)
    };
    match done.await {
        Ok(to) => seat.done(&format!("/nodes/{to}"), Ok(format!("{name} is now called {to}"))),
        Err(error) => seat.done(&format!("/nodes/{}", escape(&name)), Err(error)),
    }
}

pub(super) async fn tag(seat: Seat, Path(name): Path<String>, form: Form) -> Response {
    let done = async {
        let tags = parse_tags(form.text("tags"))?;
        seat.api.service.tag_node(seat.actor(), &name, &tags, clock::unix_now()).await?;
        Ok(format!("The tags of {name} are set"))
    };
    seat.done(&format!("/nodes/{}", escape(&name)), done.await)
}

/// Tags between spaces or commas, with or without `tag:`.
pub(super) fn parse_tags(text: &str) -> Result<BTreeSet<Tag>, ServiceError> {
    let words = text.split([' ', ',']).map(str::trim).filter(|t| !t.is_empty());
    let full = |word: &str| if word.starts_with("tag:") { word.to_owned() } else { format!("tag:{word}") };
    words.map(|w| full(w).parse().map_err(|e| ServiceError::Invalid(format!("{e}")))).collect()
}

pub(super) async fn approve(seat: Seat, Path(name): Path<String>, form: Form) -> Response {
    let done = seat.api.service.approve_node(seat.actor(), &name, clock::unix_now()).await;
    let back = form.filled("back").filter(|b| *b == "/approvals").map(str::to_owned);
    let back = back.unwrap_or_else(|| format!("/nodes/{}", escape(&name)));
    seat.done(&back, done.map(|()| format!("{name} may talk to others now")))
}

pub(super) async fn expire(seat: Seat, Path(name): Path<String>) -> Response {
    let done = seat.api.service.expire_node(seat.actor(), &name, clock::unix_now()).await;
    seat.done(&format!("/nodes/{}", escape(&name)), done.map(|()| format!("The key of {name} has ended")))
}

pub(super) async fn revoke(seat: Seat, Path(name): Path<String>) -> Response {
    let done = seat.api.service.revoke_node(seat.actor(), &name, clock::unix_now()).await;
    seat.done(&format!("/nodes/{}", escape(&name)), done.map(|()| format!("{name} is cut off")))
}

pub(super) async fn remove(seat: Seat, Path(name): Path<String>) -> Response {
    let done = seat.api.service.remove_node(seat.actor(), &name, clock::unix_now()).await;
    seat.done("/nodes", done.map(|_| format!("{name} is removed")))
}
