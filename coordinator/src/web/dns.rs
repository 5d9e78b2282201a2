//! Names for hosts that are not nodes.

use super::form::{Form, escape};
use super::guard::{PageError, Seat};
use super::parts::{self, PER_PAGE, act_after_asking};
use crate::api::views::RecordView;
use crate::clock;
use crate::service::{Permission, RecordInput, ServiceError};
use axum::extract::Query;
use axum::response::Response;
use maud::{Markup, html};
use meshd_proto::netmap::RecordType;
use serde::Deserialize;

/// What the page is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    q: String,
    page: String,
    /// A name to explain, and for whom.
    name: String,
    #[serde(rename = "as")]
    who: String,
}

pub(super) async fn list(seat: Seat, Query(asked): Query<Wanted>) -> Result<Response, PageError> {
    let text = asked.q.trim().to_lowercase();
    let mut all = RecordView::all(&seat.api.service, seat.actor())?;
    all.retain(|r| {
        text.is_empty()
            || r.name.as_str().contains(&text)
            || r.kind.to_lowercase() == text
            || r.values.iter().chain(&r.who).any(|v| v.to_lowercase().contains(&text))
    });
    let page = parts::page_of(&asked.page, all.len());
    let rows: Vec<&RecordView> = all.iter().skip((page - 1) * PER_PAGE).take(PER_PAGE).collect();
    let manage = seat.may(Permission::ManageDns);
    let link = format!("q={}", escape(&asked.q));
    let domain = seat.api.service.model().mesh.domain.clone();
    let about = format!("Names under {domain} for hosts that are not nodes; nodes have theirs by themselves");
    let body = html! {
        (parts::title("DNS", &about, html! {}))
        @if manage {
            section.card {
                h2 { "New record" }
                form.grid method="post" action="/dns/add" {
                    (parts::csrf(&seat))
                    label { "Name" input type="text" name="name" required placeholder={ "nas or nas." (domain) } autocapitalize="none" spellcheck="false"; }
                    label { "Type"
                        select name="type" {
                            option value="" { "as the value tells" }
                            @for kind in RecordType::ALL { option { (kind.as_str()) } }
                        }
                    }
                    label { "Value" input type="text" name="value" required placeholder="192.168.1.10" autocapitalize="none" spellcheck="false"; }
                    label { "Seconds to cache" input type="number" name="ttl" min="0" max="604800" placeholder="60"; }
                    (for_whom())
                    div.grid-end { button.primary type="submit" { "Add" } }
                }
                p.muted {
                    code { "*.d" } " answers for every name below " code { "d" } ", not for " code { "d" }
                    " itself, and stops where another name exists, as in the DNS everywhere; " code { "suffix:d" }
                    " answers for " code { "d" } " and for all below it without a record of its own."
                }
            }
        }
        (parts::search("/dns", &asked.q, "Name, type or value", html! {}))
        div #list.card.flush {
            @if rows.is_empty() { (parts::empty("No record here", "Give a printer or a NAS behind a subnet router a name.")) }
            @else {
                div.scroll tabindex="0" role="region" aria-label="DNS records" { table {
                    thead { tr { th { "Name" } th { "Type" } th { "Values" } th { "For" } th.number { "Cache" } th { "" } } }
                    tbody { @for r in &rows {
                        tr {
                            td { span.strong { (r.name) } } td { code { (r.kind) } }
                            td { @for v in &r.values { code.wrap { (v) } " " } } td { (whom(&r.who)) } td.number { (r.ttl) " s" }
                            td.right { @if manage {
                                (act_after_asking(&seat, "/dns/remove", "Remove", "The name no longer answers.", &[("name", r.name.as_str()), ("type", &r.kind), ("for", &r.who.join(","))]))
                            } }
                        }
                    } }
                } }
                (parts::pager("/dns", &link, page, all.len()))
            }
        }
        (super::resolving::section(&seat)?)
        (explain(&seat, &asked).await)
    };
    Ok(seat.page("DNS", body))
}

/// What a name is for somebody.
async fn explain(seat: &Seat, asked: &Wanted) -> Markup {
    let answer = match asked.name.is_empty() || asked.who.is_empty() {
        true => None,
        false => {
            let (name, who, now) = (asked.name.as_str(), asked.who.trim(), clock::unix_now());
            Some(seat.api.service.explain_name(seat.actor(), name, None, who, now).await)
        }
    };
    html! {
        section.card id="explain" {
            h2 { "What does a name lead to, for whom" }
            form.grid method="get" action="/dns#explain" {
                label { "Name to look up" input type="text" name="name" required value=(asked.name) placeholder="nas" autocapitalize="none" spellcheck="false"; }
                label { "As node or user" input type="text" name="as" required value=(asked.who) placeholder="laptop" autocapitalize="none" spellcheck="false"; }
                div.grid-end { button type="submit" { "Explain" } }
            }
            @match answer {
                None => {}
                Some(Err(e)) => { div.note.calm role="status" { p { (e.to_string()) } } }
                Some(Ok(explained)) => { @for seen in &explained.seen {
                    p { code { (explained.name) } " for " (seen.nodes.join(", ")) ": " span.strong { (seen.outcome) } }
                    @for record in &seen.records { p { code.wrap { (record) } } }
                    ul { @for step in &seen.steps { li { (step) } } }
                    @if !seen.bound.is_empty() { p.muted { "Names that are bound to " (seen.bound.join(" and then to ")) " hold here." } }
                } }
            }
        }
    }
}

/// The field that says for whom something is set.
pub(super) fn for_whom() -> Markup {
    html! {
        label { "For, empty: everybody" input type="text" name="for" placeholder="tag:office, group:dev, alice" autocapitalize="none" spellcheck="false"; }
    }
}

/// Who something is for.
pub(super) fn whom(who: &[String]) -> Markup {
    html! { @if who.is_empty() { span.muted { "everybody" } } @else { @for who in who { code { (who) } " " } } }
}

fn kind_of(text: &str) -> Result<Option<RecordType>, ServiceError> {
    if text.is_empty() {
        return Ok(None);
    }
    RecordType::named(text)
        .map(Some)
        .ok_or_else(|| ServiceError::Invalid("this is no type of record".to_owned()))
}

pub(super) async fn add(seat: Seat, form: Form) -> Response {
    let done = async {
        let input = RecordInput {
            name: form.text("name").trim().to_owned(),
            kind: kind_of(form.text("type"))?,
            value: form.text("value").trim().to_owned(),
            ttl: match form.filled("ttl") {
                Some(_) => Some(u32::try_from(form.number("ttl", "the time to cache")?).unwrap_or(u32::MAX)),
                None => None,
            },
        };
        let (who, now) = ([form.text("for").to_owned()], clock::unix_now());
        let (name, kind, _) = seat.api.service.add_record_for(seat.actor(), &who, &input, now).await?;
        Ok(format!("{name} has a record of type {}", kind.as_str()))
    };
    seat.done("/dns", done.await)
}

pub(super) async fn remove(seat: Seat, form: Form) -> Response {
    let name = form.text("name");
    let done = async {
        let kind = kind_of(form.text("type"))?;
        let (who, now) = ([form.text("for").to_owned()], clock::unix_now());
        seat.api.service.remove_record_for(seat.actor(), &who, name, kind, None, now).await?;
        Ok(format!("{name} no longer answers"))
    };
    seat.done("/dns", done.await)
}
