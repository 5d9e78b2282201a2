//! Who did what, and whether the log was tampered with.

use super::form::escape;
use super::guard::{PageError, Seat};
use super::parts::{self, PER_PAGE, time};
use crate::api::views::hex;
use crate::clock;
use crate::service::ServiceError;
use crate::store::audit::ChainState;
use axum::extract::Query;
use axum::response::Response;
use maud::html;

#[derive(Debug, Default, serde::Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    q: String,
    before: Option<u64>,
}

pub(super) async fn list(seat: Seat, Query(asked): Query<Asked>) -> Result<Response, PageError> {
    let now = clock::unix_now();
    let count = u32::try_from(PER_PAGE).unwrap_or(50);
    let entries = seat.api.service.find_audit(seat.actor(), &asked.q, asked.before, count).await?;
    let older = entries.last().filter(|e| entries.len() == PER_PAGE && e.id > 1).map(|e| e.id);
    let body = html! {
        (parts::title("Audit log", "Every change, chained: an entry that is altered or taken out is noticed", html! {
            (parts::act(&seat, "/audit/verify", "Verify the chain", "quiet", &[]))
        }))
        (parts::search("/audit", &asked.q, "Who, action, subject or detail", html! {}))
        div #list.card.flush {
            @if entries.is_empty() { (parts::empty("Nothing found", "Change the search.")) }
            @else {
                div.scroll tabindex="0" role="region" aria-label="Audit log" { table {
                    thead { tr { th.number { "No." } th { "When" } th { "Who" } th { "Action" } th { "Subject" } th { "Detail" } th { "Hash" } } }
                    tbody { @for e in &entries {
                        tr {
                            td.number { (e.id) } td.when { (time(e.at, now)) } td { (e.actor) } td { code { (e.action) } }
                            td { (e.subject) } td.wrap { (e.detail) } td { code.muted title=(hex(&e.hash)) { (&hex(&e.hash)[..10]) } }
                        }
                    } }
                } }
                nav.pager aria-label="Pages" {
                    span { "Newest first" }
                    span.pager-links {
                        @if asked.before.is_some() { a.button.quiet href={ "/audit?q=" (escape(&asked.q)) } { "Newest" } }
                        @if let Some(before) = older { a.button.quiet href={ "/audit?q=" (escape(&asked.q)) "&before=" (before) } rel="next" { "Older" } }
                    }
                }
            }
        }
    };
    Ok(seat.page("Audit log", body))
}

pub(super) async fn verify(seat: Seat) -> Response {
    let done = match seat.api.service.verify_audit(seat.actor()).await {
        Ok(ChainState::Whole { entries, head, .. }) => Ok(format!(
            "The chain is whole: {entries} entries. Newest hash, to be noted elsewhere: {}",
            hex(&head)
        )),
        Ok(ChainState::Broken { at }) => Err(ServiceError::Conflict(format!(
            "the chain is broken from entry {at} on: somebody changed the log outside of the coordinator"
        ))),
        Err(error) => Err(error),
    };
    seat.done("/audit", done)
}
