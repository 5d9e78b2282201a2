//! Join tokens: what lets a machine in.

use super::form::{Form, escape};
use super::guard::{PageError, Seat, explain};
use super::nodes::{Asked, parse_tags};
use super::parts::{self, PER_PAGE, act_after_asking, badge, tags, time};
use crate::api::views::TokenView;
use crate::clock;
use crate::service::{Permission, ServiceError, TokenRequest};
use axum::extract::{Path, Query};
use axum::response::Response;
use maud::{Markup, html};

const STATES: [(&str, &str); 5] = [
    ("", "All states"),
    ("valid", "Valid"),
    ("used up", "Used up"),
    ("expired", "Expired"),
    ("revoked", "Revoked"),
];

pub(super) async fn list(seat: Seat, Query(asked): Query<Asked>) -> Result<Response, PageError> {
    show(&seat, &asked, html! {}).await
}

async fn show(seat: &Seat, asked: &Asked, top: Markup) -> Result<Response, PageError> {
    let now = clock::unix_now();
    let text = asked.q.trim().to_lowercase();
    let all = seat.api.service.tokens(seat.actor()).await?;
    let mut all: Vec<TokenView> = all.iter().map(|t| TokenView::new(t, now)).collect();
    all.retain(|t| {
        let words = || format!("{} {} {} {:?}", t.note, t.created_by, t.owner, t.tags).to_lowercase();
        (asked.state.is_empty() || t.state == asked.state) && (text.is_empty() || words().contains(&text))
    });
    let page = parts::page_of(&asked.page, all.len());
    let rows: Vec<&TokenView> = all.iter().skip((page - 1) * PER_PAGE).take(PER_PAGE).collect();
    let manage = seat.may(Permission::ManageTokens);
    let link = format!("q={}&state={}", escape(&asked.q), escape(&asked.state));
    let body = html! {
        (parts::title("Join tokens", "Each lets some machines in for some time; the secret is shown once", html! {}))
        (top)
        @if manage { (maker(seat)) }
        (parts::search("/tokens", &asked.q, "Note, maker, owner or tag", parts::filter("state", "State", &asked.state, &STATES)))
        div #list.card.flush {
            @if rows.is_empty() { (parts::empty("No token here", "Make one above; its command joins a machine.")) }
            @else {
                div.scroll tabindex="0" role="region" aria-label="Join tokens" { table {
                    thead { tr { th { "No." } th { "Note" } th { "State" } th.number { "Used" } th { "For" } th { "Ends" } th { "Made by" } th { "" } } }
                    tbody { @for t in &rows {
                        tr {
                            td { (t.id) } td { (t.note) @if t.note.is_empty() { span.muted { "—" } } } td { (badge(&t.state)) }
                            td.number { (t.used) " of " (t.uses) }
                            td {
                                @if t.tags.is_empty() { (t.owner) } @else { (tags(&t.tags)) }
                                " " @if t.ephemeral { span.tag { "ephemeral" } " " } @if !t.pre_approved { span.tag { "needs approval" } }
                            }
                            td.when { (time(t.expires, now)) } td { (t.created_by) }
                            td.right { @if manage && t.state == "valid" {
                                (act_after_asking(seat, &format!("/tokens/{}/revoke", t.id), "Revoke", "It admits nobody from then on. Machines that joined stay.", &[]))
                            } }
                        }
                    } }
                } }
                (parts::pager("/tokens", &link, page, all.len()))
            }
        }
    };
    Ok(seat.page("Join tokens", body))
}

fn maker(seat: &Seat) -> Markup {
    html! {
        section.card #new {
            h2 { "New token" }
            form.grid method="post" action="/tokens" {
                (parts::csrf(seat))
                label { "Note" input type="text" name="note" maxlength="200" placeholder="what it is for"; }
                label { "Machines" input type="number" name="uses" value="1" min="1" max="100000" required; }
                label { "Good for"
                    select name="lifetime" {
                        option value="3600" { "1 hour" }
                        option value="86400" selected { "1 day" }
                        option value="604800" { "1 week" }
                        option value="2592000" { "30 days" }
                        option value="31536000" { "1 year" }
                    }
                }
                label { "Tags" input type="text" name="tags" placeholder="none: they belong to a person" autocapitalize="none" spellcheck="false"; }
                label { "Belongs to" input type="text" name="user" placeholder="you" autocapitalize="none" spellcheck="false"; }
                div.boxes {
                    label.box { input type="checkbox" name="approve" checked; "Approved at once" }
                    label.box { input type="checkbox" name="ephemeral"; "Forgotten when away" }
                }
                div.grid-end { button.primary type="submit" { "Make token" } }
            }
        }
    }
}

pub(super) async fn create(seat: Seat, form: Form) -> Result<Response, PageError> {
    let now = clock::unix_now();
    let done = async {
        let tags = parse_tags(form.text("tags"))?;
        let own = Some(parts::display_name(seat.actor())).filter(|n| tags.is_empty() && !n.is_empty());
        let request = TokenRequest {
            uses: u32::try_from(form.number("uses", "the number of machines")?).unwrap_or(u32::MAX),
            lifetime: form.number("lifetime", "the time")?,
            user: form.filled("user").or(own).map(str::to_owned),
            tags,
            ephemeral: form.ticked("ephemeral"),
            pre_approved: form.ticked("approve"),
            note: form.text("note").to_owned(),
        };
        seat.api.service.create_token(seat.actor(), &request, now).await
    };
    let top = match done.await {
        Ok(made) => {
            let text = made.token.to_text();
            let command = zeroize::Zeroizing::new(format!("sudo meshd up {}", text.as_str()));
            html! {
                section.card.fresh role="status" {
                    div {
                        h2 { "Token " (made.record.id) " is made" }
                        p { "Run this on the machine. It is shown this once." }
                        (parts::secret("Command that joins a machine", &command))
                    }
                    @if let Some(picture) = parts::qr(&text, "The token as QR code") { (picture) }
                }
            }
        }
        Err(error @ ServiceError::Forbidden { .. }) => return Err(error.into()),
        Err(error) => html! { div.note.bad role="alert" { p { (explain(&error)) } } },
    };
    show(&seat, &Asked::default(), top).await
}

pub(super) async fn revoke(seat: Seat, Path(id): Path<u64>) -> Response {
    let done = seat.api.service.revoke_token(seat.actor(), id, clock::unix_now()).await;
    seat.done("/tokens", done.map(|()| format!("Token {id} is revoked")))
}
