//! Access explorer: who can reach what and why, as a table, as a graph, and for one flow with its proof.

use super::form::escape;
use super::guard::{PageError, Seat, explain};
use super::parts::{self, PER_PAGE};
use crate::api::views::AccessEdge;
use axum::extract::Query;
use axum::response::Response;
use maud::{Markup, html};
use std::collections::BTreeSet;

/// Most ends of a graph that can be read.
const MAX_ENDS: usize = 24;

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    q: String,
    page: String,
    from: String,
    to: String,
    protocol: String,
}

pub(super) async fn show(seat: Seat, Query(asked): Query<Asked>) -> Result<Response, PageError> {
    let service = &seat.api.service;
    let (all, cut) = service.access(seat.actor())?;
    let text = asked.q.trim().to_lowercase();
    let fits = |e: &&AccessEdge| {
        let words = || format!("{} {} {} {} {}", e.from, e.to, e.ports, e.source, e.destination);
        text.is_empty() || words().to_lowercase().contains(&text)
    };
    let found: Vec<&AccessEdge> = all.iter().filter(fits).collect();
    let page = parts::page_of(&asked.page, found.len());
    let link = format!("q={}", escape(&asked.q));
    let answer = if asked.from.is_empty() || !asked.to.contains(':') && asked.protocol.is_empty() {
        html! {}
    } else {
        answer(&seat, &asked)
    };
    let body = html! {
        (parts::title("Access explorer", "Who can reach what, read off the rules that nodes enforce", html! { a.button href="/policy" { "Policy" } }))
        section.card {
            h2 { "May it pass?" }
            form.grid method="get" action="/access" {
                label { "From" input type="text" name="from" value=(asked.from) required placeholder="laptop, alice's address" autocapitalize="none" spellcheck="false"; }
                label { "To, with port" input type="text" name="to" value=(asked.to) required placeholder="nas:443" autocapitalize="none" spellcheck="false"; }
                label { "Protocol" (parts::filter("protocol", "Protocol", &asked.protocol, &[("tcp", "TCP"), ("udp", "UDP"), ("icmp", "ICMP")])) }
                div.grid-end { button.primary type="submit" { "Explain" } }
            }
            (answer)
        }
        (parts::search("/access", &asked.q, "Owner, tag, node, prefix or port", html! {}))
        div #list {
            @if cut { p.muted { "The mesh has more kinds of nodes than are shown; the first " (meshd_policy::MAX_GROUPS) " are." } }
            @if let Some(picture) = graph(&found) { section.card.graph-card { h2 { "Graph" } div.graph-view tabindex="0" role="region" aria-label="Graph" { (picture) } } }
            div.card.flush {
                @if found.is_empty() { (parts::empty("Nobody reaches anything here", "The policy allows nothing that fits, or there are no nodes yet.")) }
                @else {
                    div.scroll tabindex="0" role="region" aria-label="Access" { table {
                        thead { tr { th { "From" } th { "To" } th { "Ports" } th { "Rule" } th { "Because" } } }
                        tbody { @for e in found.iter().skip((page - 1) * PER_PAGE).take(PER_PAGE) {
                            tr {
                                td { span.strong { (e.from) } @if e.from_nodes > 1 { " " span.muted { (e.from_nodes) " nodes" } } }
                                td { span.strong { (e.to) } @if e.to_nodes > 1 { " " span.muted { (e.to_nodes) " nodes" } } }
                                td { code { (e.ports) } }
                                td { a href={ "/policy#line-" (e.line) } { "line " (e.line) } }
                                td.wrap { span.muted { "from " } (e.source) span.muted { " to " } (e.destination) }
                            }
                        } }
                    } }
                    (parts::pager("/access", &link, page, found.len()))
                }
            }
        }
    };
    Ok(seat.page("Access explorer", body))
}

fn answer(seat: &Seat, asked: &Asked) -> Markup {
    let protocol = if asked.protocol.is_empty() { "tcp" } else { &asked.protocol };
    match seat.api.service.explain_policy(seat.actor(), asked.from.trim(), asked.to.trim(), protocol) {
        Ok(found) => html! {
            div.note.good[found.is_allowed()].bad[!found.is_allowed()] role="status" {
                p { strong { (if found.is_allowed() { "Allowed" } else { "Denied" }) } @if let Some(node) = &found.receiver { ", decided at " (node) } }
                ol.proof { @for step in &found.steps { li { (step) } } }
            }
        },
        Err(error) => html! { div.note.bad role="alert" { p { (explain(&error)) } } },
    }
}

/// Sources left, destinations right, a line for each pair. `None`: nothing to draw, or too much to read.
fn graph(edges: &[&AccessEdge]) -> Option<Markup> {
    let from: Vec<&str> =
        edges.iter().map(|e| e.from.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    let to: Vec<&str> = edges.iter().map(|e| e.to.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    if edges.is_empty() || from.len() > MAX_ENDS || to.len() > MAX_ENDS {
        return None;
    }
    let pairs: BTreeSet<(&str, &str)> = edges.iter().map(|e| (e.from.as_str(), e.to.as_str())).collect();
    let rows = from.len().max(to.len());
    let height = rows * 34 + 12;
    let top = |count: usize, place: usize| (rows - count) * 17 + place * 34 + 23;
    let at = |list: &[&str], name: &str| list.iter().position(|n| *n == name).unwrap_or(0);
    Some(html! {
        svg.graph viewBox={ "0 0 820 " (height) } role="img" aria-label={ "Graph of " (pairs.len()) " connections; the table below says the same" } {
            @for (a, b) in &pairs {
                @let (y1, y2) = (top(from.len(), at(&from, a)), top(to.len(), at(&to, b)));
                path.edge d={ "M262 " (y1) " C 400 " (y1) ", 420 " (y2) ", 558 " (y2) } {
                    title { (a) " reaches " (b) }
                }
            }
            @for (place, name) in from.iter().enumerate() { (end(10, top(from.len(), place), name)) }
            @for (place, name) in to.iter().enumerate() { (end(558, top(to.len(), place), name)) }
        }
    })
}

fn end(x: usize, y: usize, name: &str) -> Markup {
    let short: String = if name.chars().count() > 34 {
        name.chars().take(33).chain(['…']).collect()
    } else {
        name.to_owned()
    };
    html! {
        rect.end x=(x) y=(y - 13) width="252" height="26" rx="6" {}
        text.end-name x=(x + 12) y=(y + 4) { title { (name) } (short) }
    }
}
