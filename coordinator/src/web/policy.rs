//! The policy: its text with what is wrong in it, what a change would change, past policies.

use super::form::Form;
use super::guard::{PageError, Seat, explain};
use super::parts::{self, act_after_asking, time};
use crate::clock;
use crate::service::{Permission, PolicyChange, PolicyPlan, Service, ServiceError};
use axum::response::Response;
use maud::{Markup, html};
use meshd_policy::Difference;
use meshd_proto::Version;

/// Most differences shown of each kind.
const SHOWN: usize = 200;

pub(super) async fn edit(seat: Seat) -> Result<Response, PageError> {
    let policy = seat.api.service.policy(seat.actor())?;
    let warnings = html! {
        @if !policy.warnings.is_empty() {
            div.note.calm { p { "Parts of the text have no effect here:" } (remarks(&policy.warnings)) }
        }
    };
    Ok(seat.page("Policy", editor(&seat, &policy.text, policy.version.0, warnings)))
}

fn editor(seat: &Seat, text: &str, version: u64, found: Markup) -> Markup {
    let manage = seat.may(Permission::ManagePolicy);
    html! {
        (parts::title("Policy", "Who may reach what. What no rule allows is denied.", html! {
            a.button href="/policy/history" { "History" }
            a.button href="/access" { "Access explorer" }
        }))
        div #found aria-live="polite" { (found) }
        form method="post" action="/policy/review" {
            (parts::csrf(seat))
            input type="hidden" name="version" value=(version);
            div.card.flush.editor data-editor="" {
                div.editor-lines aria-hidden="true" { @for n in 1..=text.lines().count().max(1) { span id={ "line-" (n) } { (n) } } }
                textarea name="text" aria-label="Policy text" spellcheck="false" autocapitalize="none" autocomplete="off" wrap="off" rows="28" readonly[!manage] { "\n" (text) }
            }
            div.actions.under {
                @if manage { button.primary type="submit" { "Review the change" } }
                @else { p.muted { "Your role may read it." } }
                span.muted { "version " (version) }
            }
        }
    }
}

/// Remarks, each leading to its line.
fn remarks(list: &[String]) -> Markup {
    html! {
        ul.remarks {
            @for remark in list {
                li {
                    @if let Some((line, column, rest)) = place(remark) {
                        button.link type="button" data-line=(line) data-column=(column) { "line " (line) ", column " (column) } ": " (rest)
                    } @else { (remark) }
                }
            }
        }
    }
}

/// `line 3, column 7: error: text`, taken apart.
fn place(remark: &str) -> Option<(u32, u32, &str)> {
    let (line, rest) = remark.strip_prefix("line ")?.split_once(", column ")?;
    let (column, rest) = rest.split_once(": ")?;
    Some((line.parse().ok()?, column.parse().ok()?, rest))
}

pub(super) async fn review(seat: Seat, form: Form) -> Result<Response, PageError> {
    Service::require(seat.actor(), Permission::Read)?;
    // Browsers send line ends as CRLF (HTML §4.10.22.4).
    let text = form.text("text").replace("\r\n", "\n");
    let version = form.number("version", "the version")?;
    let now = seat.api.service.policy(seat.actor())?;
    let body = match seat.api.service.plan_policy(seat.actor(), &text) {
        Err(ServiceError::Policy(errors)) => {
            let found = html! {
                div.note.bad role="alert" { p { "This text is not accepted. The policy in force has not changed." } (remarks(&errors)) }
            };
            editor(&seat, &text, version, found)
        }
        Err(error @ ServiceError::Invalid(_)) => {
            editor(&seat, &text, version, html! { div.note.bad role="alert" { p { (explain(&error)) } } })
        }
        Err(error) => return Err(error.into()),
        Ok(_) if text == now.text => editor(
            &seat,
            &text,
            version,
            html! { div.note.good role="status" { p { "The text is good and is the one in force." } } },
        ),
        Ok(plan) => editor(&seat, &text, version, difference(&seat, &plan, &text, version)),
    };
    Ok(seat.page("Policy", body))
}

fn difference(seat: &Seat, plan: &PolicyPlan, text: &str, version: u64) -> Markup {
    let (gained, lost) = (&plan.plan.gained, &plan.plan.lost);
    html! {
        section.card.review role="status" {
            h2 { "What this change does" }
            @if !plan.warnings.is_empty() { (remarks(&plan.warnings)) }
            @if gained.is_empty() && lost.is_empty() { p { "Nobody gains or loses access: it says the same in other words, or about nodes that are not here yet. Its tests pass." } }
            @else {
                p { "Its tests pass. " strong { (plan.plan.pairs_after) } " pairs of nodes are connected then, " (plan.plan.pairs_before) " now." }
                div.columns {
                    (differences("Gained", "gained", gained))
                    (differences("Lost", "lost", lost))
                }
            }
            @if plan.plan.cut { p.muted { "The mesh has more kinds of nodes than are compared here; the first " (meshd_policy::MAX_GROUPS) " are." } }
            @if let Some(danger) = &plan.danger { div.note.bad { p { strong { "Careful: " } (danger) "." } } }
            @if seat.may(Permission::ManagePolicy) {
                form method="post" action="/policy" {
                    (parts::csrf(seat))
                    input type="hidden" name="version" value=(version);
                    textarea.unseen name="text" aria-hidden="true" tabindex="-1" readonly { "\n" (text) }
                    @if plan.danger.is_some() {
                        label.box { input type="checkbox" name="force" required; "I have read this and want it all the same" }
                        button.danger type="submit" { "Put it into force anyway" }
                    } @else { button.primary type="submit" { "Put it into force" } }
                }
            }
        }
    }
}

fn differences(name: &str, style: &str, list: &[Difference]) -> Markup {
    html! {
        div {
            h3 { (name) " " span.count { (list.len()) } }
            @if list.is_empty() { p.muted { "Nothing." } }
            @else {
                table class={ "plain " (style) } {
                    thead { tr { th { "From" } th { "To" } th { "Ports" } th { "Line" } } }
                    tbody { @for d in list.iter().take(SHOWN) { tr { td { (d.from) } td { (d.to) } td { code { (d.ports) } } td { (d.line) } } } }
                }
                @if list.len() > SHOWN { p.muted { "and " (list.len() - SHOWN) " more" } }
            }
        }
    }
}

pub(super) async fn save(seat: Seat, form: Form) -> Result<Response, PageError> {
    Service::require(seat.actor(), Permission::ManagePolicy)?;
    let text = form.text("text").replace("\r\n", "\n");
    let expected = Some(Version(form.number("version", "the version")?));
    let change = PolicyChange { text: &text, expected, force: form.ticked("force") };
    let done = seat.api.service.set_policy(seat.actor(), &change, clock::unix_now()).await;
    Ok(match done {
        // What was typed is not lost.
        Err(error @ (ServiceError::Policy(_) | ServiceError::Conflict(_) | ServiceError::Invalid(_))) => {
            let found = html! { div.note.bad role="alert" { p { (explain(&error)) } } };
            seat.page("Policy", editor(&seat, &text, seat.api.service.policy(seat.actor())?.version.0, found))
        }
        done => seat.done("/policy", done.map(|p| format!("The policy is in force (version {})", p.version))),
    })
}

pub(super) async fn history(seat: Seat) -> Result<Response, PageError> {
    let now = clock::unix_now();
    let past = seat.api.service.policy_history(seat.actor(), 100).await?;
    let manage = seat.may(Permission::ManagePolicy);
    let body = html! {
        p.crumbs { a href="/policy" { "Policy" } }
        (parts::title("Past policies", "The newest is in force", html! {}))
        @for (place, policy) in past.iter().enumerate() {
            section.card {
                div.card-head {
                    h2 { "Version " (policy.version) @if place == 0 { " " (parts::badge("active")) } }
                    span.muted { (policy.set_by) ", " (time(policy.at, now)) }
                }
                details {
                    summary { (policy.text.lines().count()) " lines" }
                    pre tabindex="0" { (policy.text) }
                }
                @if manage && place > 0 {
                    (act_after_asking(&seat, "/policy/rollback", "Put back into force", "It comes into force at once, if its tests pass and it cuts neither your machines nor most of the mesh off.", &[("version", &policy.version.to_string())]))
                }
            }
        }
    };
    Ok(seat.page("Past policies", body))
}

pub(super) async fn rollback(seat: Seat, form: Form) -> Response {
    let done = async {
        Service::require(seat.actor(), Permission::ManagePolicy)?;
        let version = Version(form.number("version", "the version")?);
        let done = seat.api.service.rollback_policy(seat.actor(), version, false, clock::unix_now()).await?;
        Ok(format!("The policy of version {version} is in force again, as version {}", done.version))
    };
    seat.done("/policy/history", done.await)
}
