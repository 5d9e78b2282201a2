//! One's own account: password, recovery codes, sessions.

use super::entry::codes_body;
use super::form::Form;
use super::guard::{PageError, Seat};
use super::layout;
use super::parts::{self, act, act_after_asking, time};
use crate::clock;
use crate::service::{MIN_PASSWORD, ServiceError};
use axum::response::Response;
use maud::html;

pub(super) async fn show(seat: Seat) -> Result<Response, PageError> {
    let (service, now) = (&seat.api.service, clock::unix_now());
    let (user, left) = service.own_account(seat.actor()).await?;
    let sessions = service.own_sessions(seat.actor()).await?;
    let body = html! {
        (parts::title(&user.name, &format!("{}: {}", user.role, user.role.about()), html! {}))
        div.columns {
            section.card {
                h2 { "Password" }
                form.stack method="post" action="/account/password" {
                    (parts::csrf(&seat))
                    input.unseen type="text" name="username" value=(user.name) autocomplete="username" tabindex="-1" aria-hidden="true" readonly;
                    label { "Present password" input type="password" name="present" required autocomplete="current-password"; }
                    label { "New password" input type="password" name="next" required minlength=(MIN_PASSWORD) autocomplete="new-password"; }
                    label { "New password again" input type="password" name="again" required autocomplete="new-password"; }
                    button.primary type="submit" { "Change password" }
                    p.hint { "Your other sessions end." }
                }
            }
            section.card {
                h2 { "Recovery codes" }
                p { (left) " left. Each signs you in once when your phone is lost." }
                (act_after_asking(&seat, "/account/recovery", "Make new ones", "Those you have stop working.", &[]))
            }
        }
        section.card.flush {
            div.card-head.pad {
                h2 { "Sessions" }
                @if sessions.len() > 1 { (act(&seat, "/account/sessions/end", "End all others", "quiet small", &[])) }
            }
            div.scroll tabindex="0" role="region" aria-label="Sessions" { table {
                thead { tr { th { "From" } th { "Browser" } th { "Last used" } th { "Opened" } th { "" } } }
                tbody { @for s in &sessions {
                    tr {
                        td { code { (s.remote) } } td.wrap { (s.agent) } td.when { (time(s.seen, now)) } td.when { (time(s.created, now)) }
                        td { @if s.fingerprint == seat.session.fingerprint { span.muted { "this one" } } }
                    }
                } }
            } }
        }
    };
    Ok(seat.page("Account", body))
}

pub(super) async fn password(seat: Seat, form: Form) -> Response {
    let done = async {
        if form.text("next") != form.text("again") {
            return Err(ServiceError::Invalid("the two new passwords are not the same".to_owned()));
        }
        let (present, next) = (form.text("present"), form.text("next"));
        seat.api.service.change_password(&seat.session, present, next, clock::unix_now()).await?;
        Ok("Your password is changed, and your other sessions have ended".to_owned())
    };
    let done = done.await;
    seat.done("/account", done)
}

pub(super) async fn recovery(seat: Seat) -> Result<Response, PageError> {
    let codes = seat.api.service.renew_recovery_codes(seat.actor(), clock::unix_now()).await?;
    let codes: Vec<&str> = codes.iter().map(|c| c.as_str()).collect();
    Ok(layout::bare("Recovery codes", codes_body(&codes)))
}

pub(super) async fn end_others(seat: Seat) -> Response {
    let done = seat.api.service.end_other_sessions(&seat.session, clock::unix_now()).await;
    seat.done("/account", done.map(|()| "Your other sessions have ended".to_owned()))
}
