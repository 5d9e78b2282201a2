//! Tokens for programs that use the REST API.

use super::form::Form;
use super::guard::{PageError, Seat, explain};
use super::parts::{self, act_after_asking, badge, time};
use crate::api::views::ApiTokenView;
use crate::clock;
use crate::service::{ApiTokenRequest, Permission, Role, Scopes, Service, ServiceError, UnknownRole};
use axum::extract::Path;
use axum::response::Response;
use maud::{Markup, html};

pub(super) async fn list(seat: Seat) -> Result<Response, PageError> {
    show(&seat, html! {}).await
}

async fn show(seat: &Seat, top: Markup) -> Result<Response, PageError> {
    let now = clock::unix_now();
    let all = seat.api.service.api_tokens(seat.actor()).await?;
    let all: Vec<ApiTokenView> = all.iter().map(|t| ApiTokenView::new(t, now)).collect();
    let roles = Role::ALL.into_iter().filter(|r| seat.actor().may_grant(*r));
    let body = html! {
        (parts::title("API tokens", "For programs; what each may is a role, and maybe only a part of it", html! {}))
        (top)
        section.card #new {
            h2 { "New token" }
            form.grid method="post" action="/api-tokens" {
                (parts::csrf(seat))
                label { "Name" input type="text" name="name" required maxlength="60" placeholder="ci, terraform, prometheus"; }
                label { "Role" select name="role" { @for role in roles { option value=(role) selected[role == Role::Auditor] { (role) } } } }
                label { "Good for"
                    select name="lifetime" {
                        option value="86400" { "1 day" } option value="2592000" { "30 days" }
                        option value="7776000" selected { "90 days" } option value="31536000" { "1 year" }
                    }
                }
                fieldset.boxes.scopes {
                    legend { "Only these scopes (none ticked: all that the role may)" }
                    @for scope in Permission::scopes() {
                        label.box title=(scope.about()) { input type="checkbox" name="scope" value=(scope); code { (scope) } }
                    }
                }
                div.grid-end { button.primary type="submit" { "Make token" } }
            }
        }
        div #list.card.flush {
            @if all.is_empty() { (parts::empty("No API token yet", "Make one above for a program that reads or changes the mesh.")) }
            @else {
                div.scroll tabindex="0" role="region" aria-label="API tokens" { table {
                    thead { tr { th { "No." } th { "Name" } th { "Role" } th { "Scopes" } th { "State" } th { "Ends" } th { "Made by" } th { "" } } }
                    tbody { @for t in &all {
                        tr {
                            td { (t.id) } td { span.strong { (t.name) } } td { (t.role) }
                            td { @if t.scopes.is_empty() { span.muted { "all of the role" } } @else { (parts::tags(&t.scopes)) } }
                            td { (badge(&t.state)) } td.when { (time(t.expires, now)) } td { (t.created_by) }
                            td.right { @if t.state == "valid" { (act_after_asking(seat, &format!("/api-tokens/{}/revoke", t.id), "Revoke", "Programs with it are refused from then on.", &[])) } }
                        }
                    } }
                } }
            }
        }
    };
    Ok(seat.page("API tokens", body))
}

pub(super) async fn create(seat: Seat, form: Form) -> Result<Response, PageError> {
    Service::require(seat.actor(), Permission::ManageApiTokens)?;
    let done = async {
        let wrong = |text: String| ServiceError::Invalid(text);
        let request = ApiTokenRequest {
            cluster: None,
            name: form.text("name").to_owned(),
            role: form.text("role").parse().map_err(|e: UnknownRole| wrong(e.to_string()))?,
            scopes: Scopes::parse(form.all("scope").iter().map(String::as_str))
                .map_err(|e| wrong(e.to_string()))?,
            lifetime: form.number("lifetime", "the time")?,
        };
        seat.api.service.create_api_token(seat.actor(), &request, clock::unix_now()).await
    };
    let top = match done.await {
        Ok(made) => html! {
            section.card.fresh role="status" {
                div {
                    h2 { "Token " (made.record.name) " is made" }
                    p { "Send it as " code { "Authorization: Bearer …" } ". It is shown this once." }
                    (parts::secret("API token", made.secret.as_str()))
                }
            }
        },
        Err(error @ ServiceError::Forbidden { .. }) => return Err(error.into()),
        Err(error) => html! { div.note.bad role="alert" { p { (explain(&error)) } } },
    };
    show(&seat, top).await
}

pub(super) async fn revoke(seat: Seat, Path(id): Path<u64>) -> Response {
    let done = seat.api.service.revoke_api_token(seat.actor(), id, clock::unix_now()).await;
    seat.done("/api-tokens", done.map(|()| format!("API token {id} is revoked")))
}
