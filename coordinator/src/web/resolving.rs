//! Where nodes send questions about names that the mesh does not answer itself.

use super::dns::{for_whom, whom};
use super::form::Form;
use super::guard::{PageError, Seat};
use super::parts::{self, act_after_asking};
use crate::clock;
use crate::service::{Permission, Resolving, ResolvingChange, Service, ServiceError, SplitText};
use axum::response::Response;
use maud::{Markup, html};

/// The part of the DNS page below the records.
pub(super) fn section(seat: &Seat) -> Result<Markup, PageError> {
    let now = seat.api.service.resolving(seat.actor())?;
    let bound = seat.api.service.bound_names(seat.actor())?;
    let manage = seat.may(Permission::ManageDns);
    let everybody = (&[][..], &now);
    let all: Vec<(&[String], &Resolving)> =
        [everybody].into_iter().chain(bound.iter().map(|b| (&b.who[..], &b.resolving))).collect();
    Ok(html! {
        @for problem in bound.iter().map(|b| &b.problem).filter(|p| !p.is_empty()) {
            div.note.calm { p { (problem) } }
        }
        section.card.flush {
            div.pad {
                h2 { "Who is asked about other names" }
                p.muted { "A resolver may lie behind a subnet router. When the resolvers for everything else are silent, each host's own are asked. What is for some counts before what is for everybody." }
            }
            div.scroll tabindex="0" role="region" aria-label="Resolvers" { table {
                thead { tr { th { "Names" } th { "Asked of" } th { "For" } th { "" } } }
                tbody { @for (who, set) in &all { (rows(seat, who, set, manage)) } }
            } }
        }
        @if manage {
            section.card {
                h2 { "A domain with resolvers of its own" }
                form.grid method="post" action="/dns/split" {
                    (parts::csrf(seat))
                    label { "Domain" input type="text" name="domain" required placeholder="corp.example" autocapitalize="none" spellcheck="false"; }
                    label { "Resolvers" input type="text" name="resolvers" required placeholder="192.168.1.1, 192.168.1.2" autocapitalize="none" spellcheck="false"; }
                    (for_whom())
                    div.grid-end { button.primary type="submit" { "Set" } }
                }
            }
            section.card {
                h2 { "Everything else" }
                form.grid method="post" action="/dns/resolving" {
                    (parts::csrf(seat))
                    label { "Resolvers, none: each host's own" input type="text" name="nameservers" value=(now.nameservers.join(", ")) placeholder="9.9.9.9, 192.168.1.1" autocapitalize="none" spellcheck="false"; }
                    label { "Search domains beside the mesh's own" input type="text" name="search" value=(now.search.join(", ")) placeholder="corp.example" autocapitalize="none" spellcheck="false"; }
                    (for_whom())
                    div.grid-end { button.primary type="submit" { "Save" } }
                }
            }
        }
    })
}

/// The rows of those for whom something is set.
fn rows(seat: &Seat, who: &[String], set: &Resolving, manage: bool) -> Markup {
    let everybody = who.is_empty();
    html! {
        @for split in &set.split {
            tr {
                td { span.strong { (split.domain) } " and below" } td { code.wrap { (split.upstreams.join(", ")) } } td { (whom(who)) }
                td.right { @if manage {
                    (act_after_asking(seat, "/dns/split/remove", "Remove", "Its names are looked up like any others again.", &[("domain", &split.domain), ("for", &who.join(","))]))
                } }
            }
        }
        @if !set.nameservers.is_empty() {
            tr { td { "everything else" } td { code.wrap { (set.nameservers.join(", ")) } } td { (whom(who)) } td {} }
        } @else if everybody {
            tr { td { "everything else" } td { "each host's own" } td { (whom(who)) } td {} }
        }
        @if !set.search.is_empty() {
            tr { td { "bare names, also searched in" } td { (set.search.join(", ")) } td { (whom(who)) } td {} }
        }
    }
}

/// A list as people write it: commas, spaces or both.
fn list(text: &str) -> Vec<String> {
    text.split([',', ' ', '\t']).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

pub(super) async fn split(seat: Seat, form: Form) -> Result<Response, PageError> {
    Service::require(seat.actor(), Permission::ManageDns)?;
    let text =
        SplitText { domain: form.text("domain").trim().to_owned(), upstreams: list(form.text("resolvers")) };
    let said = format!("{} and below: asked of {}", text.domain, text.upstreams.join(", "));
    let done = if text.upstreams.is_empty() {
        Err(ServiceError::Invalid("name at least one resolver".to_owned()))
    } else {
        let (change, who) = (ResolvingChange::Split(text), [form.text("for").to_owned()]);
        let (service, now) = (&seat.api.service, clock::unix_now());
        service.change_resolving_for(seat.actor(), &who, change, now).await.map(|_| said)
    };
    Ok(seat.done("/dns", done))
}

pub(super) async fn remove_split(seat: Seat, form: Form) -> Response {
    let text = SplitText { domain: form.text("domain").trim().to_owned(), upstreams: Vec::new() };
    let said = format!("{} is looked up like any other domain", text.domain);
    let (change, who) = (ResolvingChange::Split(text), [form.text("for").to_owned()]);
    let done = seat.api.service.change_resolving_for(seat.actor(), &who, change, clock::unix_now()).await;
    seat.done("/dns", done.map(|_| said))
}

pub(super) async fn everything_else(seat: Seat, form: Form) -> Response {
    let done = async {
        let (service, actor, now) = (&seat.api.service, seat.actor(), clock::unix_now());
        let who = [form.text("for").to_owned()];
        let change = ResolvingChange::Rest {
            nameservers: list(form.text("nameservers")),
            search: list(form.text("search")),
        };
        service.change_resolving_for(actor, &who, change, now).await
    };
    let done = done.await;
    seat.done("/dns", done.map(|_| "Nodes ask as it says here".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn a_list_is_read_with_commas_spaces_or_both() {
        assert_eq!(list(" 9.9.9.9,1.1.1.1  [fd00::1]:53 ,"), ["9.9.9.9", "1.1.1.1", "[fd00::1]:53"]);
        assert!(list(" , ").is_empty());
    }
}
