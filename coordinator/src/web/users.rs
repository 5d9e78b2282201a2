//! People with an account: who, with which role, and how more of them come.

use super::form::{Form, escape};
use super::guard::{PageError, Seat, explain};
use super::parts::{self, act, act_after_asking, badge, time};
use crate::clock;
use crate::service::{Permission, Role, Service, ServiceError};
use axum::extract::Path;
use axum::response::Response;
use maud::{Markup, html};

pub(super) async fn list(seat: Seat) -> Result<Response, PageError> {
    show(&seat, html! {}).await
}

async fn show(seat: &Seat, top: Markup) -> Result<Response, PageError> {
    let (service, now) = (&seat.api.service, clock::unix_now());
    let users = service.users(seat.actor()).await?;
    let invitations = service.invitations(seat.actor(), now).await?;
    let me = parts::display_name(seat.actor());
    let grantable: Vec<Role> = Role::ALL.into_iter().rev().filter(|r| seat.actor().may_grant(*r)).collect();
    let body = html! {
        (parts::title("Users and roles", "Who may sign in here", html! {}))
        (top)
        section.card.flush {
            div.scroll tabindex="0" role="region" aria-label="Users" { table {
                thead { tr { th { "Name" } th { "Role" } th { "State" } th { "Last sign-in" } th { "Since" } th { "" } } }
                tbody { @for user in &users {
                    @let base = format!("/users/{}", escape(&user.name));
                    @let mine = seat.actor().may_grant(user.role);
                    tr {
                        td { span.strong { (user.name) } @if user.name == me { " " span.muted { "you" } } }
                        td {
                            @if mine && user.name != me {
                                form.inline method="post" action={ (base) "/role" } {
                                    (parts::csrf(seat))
                                    select name="role" aria-label={ "Role of " (user.name) } {
                                        @for role in &grantable { option value=(role) selected[*role == user.role] { (role) } }
                                    }
                                    button.quiet.small type="submit" { "Set" }
                                }
                            } @else { (user.role) }
                        }
                        td { (badge(if user.disabled.is_some() { "disabled" } else { "enabled" })) }
                        td.when { @match user.last_login { Some(at) => (time(at, now)), None => "never" } }
                        td.when { (time(user.created, now)) }
                        td.right { @if mine && user.name != me {
                            @if user.disabled.is_some() { (act(seat, &format!("{base}/state"), "Switch on", "quiet small", &[("enabled", "yes")])) }
                            @else { (act_after_asking(seat, &format!("{base}/state"), "Switch off", "Open sessions end at once.", &[("enabled", "no")])) }
                            (act_after_asking(seat, &format!("{base}/remove"), "Remove", "The account goes; the person's nodes stay.", &[]))
                        } }
                    }
                } }
            } }
        }
        section.card {
            h2 { "Invite somebody" }
            form.grid method="post" action="/users/invite" {
                (parts::csrf(seat))
                label { "Name" input type="text" name="name" placeholder="the person chooses" maxlength="60" autocapitalize="none" spellcheck="false"; }
                label { "Role"
                    select name="role" { @for role in grantable.iter().rev() { option value=(role) title=(role.about()) { (role) } } }
                }
                label { "Good for"
                    select name="lifetime" {
                        option value="3600" { "1 hour" } option value="86400" selected { "1 day" } option value="604800" { "1 week" }
                    }
                }
                div.grid-end { button.primary type="submit" { "Make link" } }
            }
        }
        @if !invitations.is_empty() {
            section.card.flush {
                h2.pad { "Open invitations" }
                table {
                    thead { tr { th { "For" } th { "Role" } th { "Ends" } th { "Made by" } th { "" } } }
                    tbody { @for i in &invitations {
                        tr {
                            td { (if i.name.is_empty() { "anybody with the link" } else { &i.name }) } td { (i.role) }
                            td.when { (time(i.expires, now)) } td { (i.created_by) }
                            td.right { (act(seat, &format!("/users/invitations/{}/withdraw", i.id), "Take back", "quiet small", &[])) }
                        }
                    } }
                }
            }
        }
        section.card {
            h2 { "What each role may" }
            div.scroll tabindex="0" role="region" aria-label="Roles" { table.matrix {
                thead { tr { th { "" } @for role in Role::ALL { th.middle scope="col" { (role) } } } }
                tbody { @for permission in Permission::scopes() {
                    tr {
                        th scope="row" { (permission.about()) }
                        @for role in Role::ALL { td.middle { @if role.may(permission) { span.yes { "yes" } } @else { span.no { "–" } } } }
                    }
                } }
            } }
        }
    };
    Ok(seat.page("Users and roles", body))
}

fn role_of(form: &Form) -> Result<Role, ServiceError> {
    form.text("role").parse().map_err(|e: crate::service::UnknownRole| ServiceError::Invalid(e.to_string()))
}

pub(super) async fn invite(seat: Seat, form: Form) -> Result<Response, PageError> {
    Service::require(seat.actor(), Permission::ManageUsers)?;
    let done = async {
        let lifetime = form.number("lifetime", "the time")?;
        let role = role_of(&form)?;
        seat.api.service.invite(seat.actor(), role, form.text("name"), lifetime, clock::unix_now()).await
    };
    let top = match done.await {
        Ok(made) => {
            let model = seat.api.service.model();
            let links: Vec<String> = model
                .mesh
                .addresses
                .iter()
                .map(|a| format!("https://{a}/welcome/{}", made.secret.as_str()))
                .collect();
            let fingerprint = seat.api.certificates.to_compare(clock::unix_now());
            html! {
                section.card.fresh role="status" {
                    div {
                        h2 { "The link is made" }
                        p { "It makes one account with the role " strong { (made.record.role) } ", once. It is shown this once: send it on a way that only that person reads." }
                        @for link in links.iter().take(2) { (parts::secret("Invitation link", link)) }
                        @if !fingerprint.is_empty() {
                            p.hint { "Send the certificate's SHA-256 fingerprint along:" }
                            code.wrap { (fingerprint) }
                        }
                    }
                }
            }
        }
        Err(error @ ServiceError::Forbidden { .. }) => return Err(error.into()),
        Err(error) => html! { div.note.bad role="alert" { p { (explain(&error)) } } },
    };
    show(&seat, top).await
}

pub(super) async fn role(seat: Seat, Path(name): Path<String>, form: Form) -> Response {
    let done = async {
        Service::require(seat.actor(), Permission::ManageUsers)?;
        let role = role_of(&form)?;
        seat.api.service.set_role(seat.actor(), &name, role, clock::unix_now()).await?;
        Ok(format!("{name} is {role} now"))
    };
    seat.done("/users", done.await)
}

pub(super) async fn state(seat: Seat, Path(name): Path<String>, form: Form) -> Response {
    let on = form.text("enabled") == "yes";
    let done = seat.api.service.set_enabled(seat.actor(), &name, on, clock::unix_now()).await;
    let text = if on { format!("{name} may sign in again") } else { format!("{name} may no longer sign in") };
    seat.done("/users", done.map(|()| text))
}

pub(super) async fn remove(seat: Seat, Path(name): Path<String>) -> Response {
    let done = seat.api.service.remove_user(seat.actor(), &name, clock::unix_now()).await;
    seat.done("/users", done.map(|()| format!("{name} has no account any more")))
}

pub(super) async fn withdraw(seat: Seat, Path(id): Path<u64>) -> Response {
    let done = seat.api.service.withdraw_invitation(seat.actor(), id, clock::unix_now()).await;
    seat.done("/users", done.map(|()| "The link opens nothing any more".to_owned()))
}
