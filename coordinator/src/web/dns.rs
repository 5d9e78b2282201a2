//! Names for hosts that are not nodes.

use super::form::{Form, escape};
use super::guard::{PageError, Seat};
use super::nodes::Asked;
use super::parts::{self, PER_PAGE, act_after_asking};
use crate::api::views::RecordView;
use crate::clock;
use crate::service::{Permission, RecordInput, ServiceError};
use axum::extract::Query;
use axum::response::Response;
use maud::html;
use meshd_proto::netmap::RecordType;

pub(super) async fn list(seat: Seat, Query(asked): Query<Asked>) -> Result<Response, PageError> {
    let text = asked.q.trim().to_lowercase();
    let all = seat.api.service.records(seat.actor())?;
    let mut all: Vec<RecordView> = all.iter().map(|(n, k, s)| RecordView::new(n, *k, s)).collect();
    all.retain(|r| {
        text.is_empty()
            || r.name.as_str().contains(&text)
            || r.kind.to_lowercase() == text
            || r.values.iter().any(|v| v.to_lowercase().contains(&text))
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
                    div.grid-end { button.primary type="submit" { "Add" } }
                }
            }
        }
        (parts::search("/dns", &asked.q, "Name, type or value", html! {}))
        div #list.card.flush {
            @if rows.is_empty() { (parts::empty("No record here", "Give a printer or a NAS behind a subnet router a name.")) }
            @else {
                div.scroll tabindex="0" role="region" aria-label="DNS records" { table {
                    thead { tr { th { "Name" } th { "Type" } th { "Values" } th.number { "Cache" } th { "" } } }
                    tbody { @for r in &rows {
                        tr {
                            td { span.strong { (r.name) } } td { code { (r.kind) } }
                            td { @for v in &r.values { code.wrap { (v) } " " } } td.number { (r.ttl) " s" }
                            td.right { @if manage {
                                (act_after_asking(&seat, "/dns/remove", "Remove", "The name no longer answers.", &[("name", r.name.as_str()), ("type", &r.kind)]))
                            } }
                        }
                    } }
                } }
                (parts::pager("/dns", &link, page, all.len()))
            }
        }
        (super::resolving::section(&seat)?)
    };
    Ok(seat.page("DNS", body))
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
        let (name, kind, _) = seat.api.service.add_record(seat.actor(), &input, clock::unix_now()).await?;
        Ok(format!("{name} has a record of type {}", kind.as_str()))
    };
    seat.done("/dns", done.await)
}

pub(super) async fn remove(seat: Seat, form: Form) -> Response {
    let name = form.text("name");
    let done = async {
        let kind = kind_of(form.text("type"))?;
        seat.api.service.remove_record(seat.actor(), name, kind, None, clock::unix_now()).await?;
        Ok(format!("{name} no longer answers"))
    };
    seat.done("/dns", done.await)
}
