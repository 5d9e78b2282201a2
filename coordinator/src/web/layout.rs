//! The frame of every page: navigation, what a visitor may go to, the note of the last action.

use super::assets::PLACES;
use super::guard::Seat;
use crate::service::Permission as P;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// A place in the navigation: path, name, who may, drawing.
struct Place(&'static str, &'static str, P, &'static str);

const GROUPS: [(&str, &[Place]); 4] = [
    (
        "Mesh",
        &[
            Place("/", "Overview", P::ReadStatus, "M3 12l9-8 9 8M5 10v10h14V10M10 20v-6h4v6"),
            Place("/nodes", "Nodes", P::Read, "M4 5h16v6H4zM4 13h16v6H4zM7 8h.01M7 16h.01"),
            Place(
                "/approvals",
                "Approvals",
                P::Read,
                "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM8.5 12l2.5 2.5 4.5-5",
            ),
            Place(
                "/routes",
                "Routes and exits",
                P::Read,
                "M6 19a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM18 9a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM8 17h6a4 4 0 0 0 0-8h-4a0 0 0 0 1 0 0M16 7h-3",
            ),
            Place(
                "/relays",
                "Relays",
                P::Read,
                "M12 13a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3zM12 13v8M8 8a5.5 5.5 0 0 0 0 7M16 8a5.5 5.5 0 0 1 0 7M5 5a10 10 0 0 0 0 13M19 5a10 10 0 0 1 0 13",
            ),
        ],
    ),
    (
        "Access",
        &[
            Place("/policy", "Policy", P::Read, "M12 3l8 3v6c0 5-3.5 8-8 9-4.5-1-8-4-8-9V6z"),
            Place(
                "/access",
                "Access explorer",
                P::Read,
                "M5 8a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM19 8a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM12 20a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM7 6h10M6 8l5 8M18 8l-5 8",
            ),
            Place(
                "/dns",
                "DNS",
                P::Read,
                "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM3 12h18M12 3c3 3 3 15 0 18M12 3c-3 3-3 15 0 18",
            ),
        ],
    ),
    (
        "Keys and people",
        &[
            Place(
                "/tokens",
                "Join tokens",
                P::Read,
                "M15 9a4 4 0 1 1-3.9 5H8v3H5v-3H3v-3h8.1A4 4 0 0 1 15 9zM15.5 13h.01",
            ),
            Place("/api-tokens", "API tokens", P::ManageApiTokens, "M8 8l-4 4 4 4M16 8l4 4-4 4M13.5 6l-3 12"),
            Place(
                "/users",
                "Users and roles",
                P::ManageUsers,
                "M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM2.5 20a6.5 6.5 0 0 1 13 0M16 4.5a3.5 3.5 0 0 1 0 6.5M18 14.5a6.5 6.5 0 0 1 3.5 5.5",
            ),
        ],
    ),
    (
        "System",
        &[
            Place("/audit", "Audit log", P::ReadAudit, "M6 3h9l4 4v14H6zM14 3v5h5M9 12h7M9 16h7"),
            Place(
                "/settings",
                "Settings",
                P::Read,
                "M4 7h9M17 7h3M4 17h3M11 17h9M15 9a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM9 19a2 2 0 1 0 0-4 2 2 0 0 0 0 4z",
            ),
        ],
    ),
];

/// A drawing of lines, for decoration only.
pub(super) fn drawing(path: &str) -> Markup {
    html! {
        svg.icon viewBox="0 0 24 24" aria-hidden="true" focusable="false" { path d=(path) {} }
    }
}

fn head(title: &str) -> Markup {
    let [style, htmx, script] = &*PLACES;
    html! {
        meta charset="utf-8";
        meta name="viewport" content="width=device-width, initial-scale=1";
        meta name="color-scheme" content="light dark";
        meta name="htmx-config" content=r#"{"includeIndicatorStyles":false,"allowEval":false,"selfRequestsOnly":true,"historyCacheSize":0}"#;
        title { (title) }
        link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
        link rel="stylesheet" href=(style);
        script src=(htmx) defer {}
        script src=(script) defer {}
    }
}

/// A page of somebody who signed in.
pub(super) fn page(seat: &Seat, title: &str, body: Markup) -> Response {
    let model = seat.api.service.model();
    let note = seat.api.pages.take(&seat.session.fingerprint);
    let waiting = super::approvals::count(&seat.api.service, crate::clock::unix_now());
    let name = super::parts::display_name(seat.actor());
    let role = seat.actor().role().map(|r| r.as_str()).unwrap_or_default();
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head { (head(&format!("{title} · {} · meshd", model.mesh.name))) }
            body {
                a.skip href="#main" { "Skip to content" }
                div.shell {
                    header.side {
                        a.brand href="/" {
                            (logo())
                            span { span.brand-name { (model.mesh.name) } span.brand-domain { (model.mesh.domain) } }
                        }
                        input #menu-toggle.menu-toggle type="checkbox" aria-label="Show the menu";
                        label.menu-button for="menu-toggle" aria-hidden="true" { (drawing("M4 7h16M4 12h16M4 17h16")) }
                        nav.menu aria-label="Main" {
                            @for (group, places) in GROUPS {
                                @let shown: Vec<&Place> = places.iter().filter(|p| seat.may(p.2)).collect();
                                @if !shown.is_empty() {
                                    p.menu-group { (group) }
                                    ul {
                                        @for Place(path, name, _, art) in shown {
                                            li { (entry(seat, path, name, art, waiting)) }
                                        }
                                    }
                                }
                            }
                        }
                        div.me {
                            a.me-card href="/account" aria-current=[(seat.path == "/account").then_some("page")] {
                                span.avatar aria-hidden="true" { (initial(name)) }
                                span { span.me-name { (name) } span.me-role { (role) } }
                            }
                            form method="post" action="/logout" {
                                input type="hidden" name="csrf" value=(seat.csrf());
                                button.ghost type="submit" title="Sign out" aria-label="Sign out" {
                                    (drawing("M14 4h5v16h-5M10 8l-4 4 4 4M6 12h9"))
                                }
                            }
                        }
                    }
                    main #main tabindex="-1" {
                        @if let Some(note) = note {
                            div.note.good[note.good].bad[!note.good] role=(if note.good { "status" } else { "alert" }) {
                                @for line in note.text.lines() { p { (line) } }
                            }
                        }
                        (body)
                    }
                }
            }
        }
    };
    Html(markup.into_string()).into_response()
}

fn entry(seat: &Seat, path: &str, name: &str, art: &str, waiting: usize) -> Markup {
    let here = seat.path == path || (path != "/" && seat.path.starts_with(&format!("{path}/")));
    html! {
        a href=(path) aria-current=[here.then_some("page")] {
            (drawing(art)) span { (name) }
            @if path == "/approvals" && waiting > 0 {
                span.count data-live="waiting" aria-label={ (waiting) " waiting" } { (waiting) }
            }
        }
    }
}

fn initial(name: &str) -> String {
    name.chars().next().map(|c| c.to_uppercase().to_string()).unwrap_or_default()
}

fn logo() -> Markup {
    PreEscaped(include_str!("assets/icon.svg").replace("<svg ", "<svg class=\"logo\" aria-hidden=\"true\" "))
}

/// A page without navigation: the door, errors.
pub(super) fn bare(title: &str, body: Markup) -> Response {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head { (head(&format!("{title} · meshd"))) }
            body.bare {
                main #main.door {
                    div.door-brand { (logo()) span { "meshd" } }
                    (body)
                }
            }
        }
    };
    Html(markup.into_string()).into_response()
}

pub(super) fn error_body(status: StatusCode, text: &str) -> Markup {
    html! {
        div.card.door-card {
            h1 { (status.canonical_reason().unwrap_or("Not done")) }
            @for line in text.lines() { p { (line) } }
            p { a.button href="/" { "Back to the overview" } }
        }
    }
}
