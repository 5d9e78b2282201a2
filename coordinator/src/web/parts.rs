//! Pieces that pages share.

use super::guard::Seat;
use crate::clock;
use crate::service::Actor;
use maud::{Markup, html};
use meshd_proto::UnixSeconds;

/// Rows of one page of a list.
pub(super) const PER_PAGE: usize = 50;

pub(super) fn display_name(actor: &Actor) -> &str {
    match actor {
        Actor::User { name, .. } => name,
        _ => "",
    }
}

/// A page's head: title, one line, actions.
pub(super) fn title(name: &str, about: &str, actions: Markup) -> Markup {
    html! {
        div.title {
            div { h1 { (name) } @if !about.is_empty() { p.about { (about) } } }
            div.actions { (actions) }
        }
    }
}

/// A state with its colour; the word says it all, the colour helps.
pub(super) fn badge(state: &str) -> Markup {
    let tone = match state {
        "online" | "direct" | "active" | "valid" | "allowed" | "enabled" | "ok" => "good",
        "waiting" | "pending" | "absent" => "warn",
        "expired" | "revoked" | "denied" | "disabled" => "bad",
        _ => "calm",
    };
    html! { span class={ "badge " (tone) } { (state) } }
}

pub(super) fn tags<T: std::fmt::Display>(tags: impl IntoIterator<Item = T>) -> Markup {
    html! { @for tag in tags { span.tag { (tag) } " " } }
}

/// A time: exact in the title, short for people.
pub(super) fn time(at: UnixSeconds, now: UnixSeconds) -> Markup {
    html! { time title=(clock::show(at)) { (distance(at, now)) } }
}

fn distance(at: UnixSeconds, now: UnixSeconds) -> String {
    let (span, past) = if at.0 <= now.0 { (now.0 - at.0, true) } else { (at.0 - now.0, false) };
    let text = match span {
        0..=59 => return if past { "just now".to_owned() } else { "in a minute".to_owned() },
        60..=3599 => format!("{} min", span / 60),
        3600..=86_399 => format!("{} h", span / 3600),
        86_400..=5_183_999 => format!("{} days", span / 86_400),
        _ => return clock::show(at).chars().take(10).collect(),
    };
    if past { format!("{text} ago") } else { format!("in {text}") }
}

/// A form of one button. `fields` are sent with it.
pub(super) fn act(seat: &Seat, path: &str, label: &str, style: &str, fields: &[(&str, &str)]) -> Markup {
    html! {
        form.inline method="post" action=(path) {
            input type="hidden" name="csrf" value=(seat.csrf());
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            button class=(style) type="submit" { (label) }
        }
    }
}

/// A button that asks once more: opens in place, without a script.
pub(super) fn act_after_asking(
    seat: &Seat,
    path: &str,
    label: &str,
    question: &str,
    fields: &[(&str, &str)],
) -> Markup {
    html! {
        details.ask {
            summary.button.danger-quiet { (label) }
            div.ask-box {
                p { (question) }
                (act(seat, path, label, "danger", fields))
            }
        }
    }
}

/// The token of this session's forms.
pub(super) fn csrf(seat: &Seat) -> Markup {
    html! { input type="hidden" name="csrf" value=(seat.csrf()); }
}

/// A list's search and filters: works by itself as one types, and by Enter without scripts.
pub(super) fn search(path: &str, query: &str, hint: &str, filters: Markup) -> Markup {
    html! {
        form.search method="get" action=(path) role="search" hx-get=(path) hx-trigger="input delay:200ms, change, submit"
            hx-target="#list" hx-select="#list" hx-swap="outerHTML" hx-push-url="true" {
            input type="search" name="q" value=(query) placeholder=(hint) aria-label=(hint) autocomplete="off";
            (filters)
            button.quiet type="submit" { "Search" }
        }
    }
}

/// A select box of a filter.
pub(super) fn filter(name: &str, label: &str, chosen: &str, options: &[(&str, &str)]) -> Markup {
    html! {
        select name=(name) aria-label=(label) {
            @for (value, text) in options {
                option value=(value) selected[*value == chosen] { (text) }
            }
        }
    }
}

/// Which part of a list is shown, and the way to the others.
pub(super) fn pager(path: &str, query: &str, page: usize, total: usize) -> Markup {
    let pages = total.div_ceil(PER_PAGE).max(1);
    let (first, last) = ((page - 1) * PER_PAGE + 1, (page * PER_PAGE).min(total));
    let link = |page: usize| {
        let join = if query.is_empty() { "" } else { "&" };
        format!("{path}?{query}{join}page={page}")
    };
    html! {
        nav.pager aria-label="Pages" {
            @if total == 0 { span { "Nothing found" } }
            @else { span { (first) "–" (last) " of " (total) } }
            @if pages > 1 {
                span.pager-links {
                    @if page > 1 { a.button.quiet href=(link(page - 1)) rel="prev" { "Previous" } }
                    span { "Page " (page) " of " (pages) }
                    @if page < pages { a.button.quiet href=(link(page + 1)) rel="next" { "Next" } }
                }
            }
        }
    }
}

/// What a list says while it is empty.
pub(super) fn empty(title: &str, text: &str) -> Markup {
    html! { div.empty { p.empty-title { (title) } p { (text) } } }
}

/// A secret that is shown once, with a button to copy it where scripts run.
pub(super) fn secret(label: &str, text: &str) -> Markup {
    html! {
        div.copy {
            code tabindex="0" aria-label=(label) data-copy="" { (text) }
            button.quiet type="button" data-copies="" hidden { "Copy" }
        }
    }
}

/// A text as QR code. Shapes only: no style, no script. `None`: it is too long for one.
pub(super) fn qr(text: &str, label: &str) -> Option<Markup> {
    let code = qrcode::QrCode::with_error_correction_level(text.as_bytes(), qrcode::EcLevel::L).ok()?;
    let (width, colors) = (code.width(), code.to_colors());
    let mut path = String::new();
    for (row, line) in colors.chunks(width).enumerate() {
        let mut at = 0;
        while at < width {
            let run = line[at..].iter().take_while(|c| **c == qrcode::Color::Dark).count();
            if run > 0 {
                path.push_str(&format!("M{} {}h{run}v1h-{run}z", at + 4, row + 4));
            }
            at += run.max(1);
        }
    }
    let side = width + 8;
    Some(html! {
        svg.qr viewBox={ "0 0 " (side) " " (side) } role="img" aria-label=(label) shape-rendering="crispEdges" {
            rect width=(side) height=(side) fill="#fff" {}
            path d=(path) fill="#000" {}
        }
    })
}

/// A page number from a query, counted from 1 and inside the list.
pub(super) fn page_of(text: &str, total: usize) -> usize {
    text.parse::<usize>().unwrap_or(1).clamp(1, total.div_ceil(PER_PAGE).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_stay_inside_the_list_and_times_are_short() {
        assert_eq!((page_of("0", 10), page_of("99", 101), page_of("x", 0)), (1, 3, 1));
        let now = UnixSeconds(1_800_000_000);
        let say = |at: u64| distance(UnixSeconds(at), now);
        assert_eq!(
            (say(now.0 - 5), say(now.0 - 120), say(now.0 + 7200)),
            ("just now".into(), "2 min ago".into(), "in 2 h".into())
        );
    }
}
