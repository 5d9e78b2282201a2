//! The door: signing in, and a link that makes an account.

use super::form::{Form, escape};
use super::guard::{self, COOKIE, PageError, Seat, explain};
use super::{layout, parts};
use crate::api::{Api, Visitor, front};
use crate::clock;
use crate::service::{
    Attempt, BROWSER_LIFETIME, LinkView, LoginError, MIN_PASSWORD, NewAccount, NewSession, ServiceError,
    SetUp,
};
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Redirect, Response};
use maud::{Markup, html};
use meshd_proto::UnixSeconds;

/// Tells a browser that signed somebody in before from a stranger's who tries the same name.
const BROWSER_COOKIE: &str = "__Host-meshd-browser";
/// Keeps what makes the second factor of whoever opened a link in this browser. Sent to those pages only.
const VIEW_COOKIE: &str = "__Secure-meshd-welcome";
/// What somebody reads whose browser did not send it.
const NO_COOKIE: &str = "the browser did not keep this page's cookie, and the secret on it is another one now: \
     remove the old entry from the app, scan again, and allow cookies of this page";

#[derive(Debug, Default, serde::Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

pub(super) async fn login_page(
    State(api): State<Api>,
    Query(next): Query<Next>,
) -> Result<Response, PageError> {
    let empty = api.service.has_no_account().await?;
    Ok(layout::bare("Sign in", login_body(&api, "", &next.next, None, empty)))
}

fn login_body(api: &Api, name: &str, next: &str, error: Option<&str>, no_account: bool) -> Markup {
    let mesh = api.service.model().mesh.clone();
    html! {
        div.card.door-card {
            h1 { "Sign in to " (mesh.name) }
            @if no_account {
                div.note.calm role="status" {
                    p { "Nobody has an account yet. On the coordinator's own machine, run" }
                    p { code { "sudo meshd-coordinator admin-link" } }
                    p { "and open the link that it prints." }
                }
            }
            @if let Some(error) = error { div.note.bad role="alert" { p { (error) } } }
            form.stack method="post" action="/login" {
                input type="hidden" name="next" value=(next);
                label { "Name" input type="text" name="name" value=(name) required autocomplete="username" autofocus[name.is_empty()] autocapitalize="none" spellcheck="false"; }
                label { "Password" input type="password" name="password" required autocomplete="current-password" autofocus[!name.is_empty()]; }
                label {
                    "Code"
                    input type="text" name="code" required inputmode="numeric" autocomplete="one-time-code" maxlength="20" spellcheck="false" aria-describedby="code-hint";
                    span.hint #code-hint { "Six digits from your authenticator app, or a recovery code" }
                }
                button.primary type="submit" { "Sign in" }
            }
        }
    }
}

pub(super) async fn login(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    form: Form,
) -> Result<Response, PageError> {
    refuse_foreign(&headers)?;
    let from = (visitor.0, agent(&headers));
    let name = form.text("name");
    let attempt = Attempt {
        name,
        password: form.text("password"),
        code: form.text("code"),
        browser: guard::cookie(&headers, BROWSER_COOKIE),
    };
    let done = api.service.login(&attempt, from, clock::unix_now()).await;
    match done {
        Ok(session) => Ok(enter(&session, inner_path(form.text("next")))),
        Err(error) => {
            let status = match &error {
                LoginError::Wrong => StatusCode::UNAUTHORIZED,
                LoginError::Wait(_) => StatusCode::TOO_MANY_REQUESTS,
                LoginError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let text = sentence(&error.to_string());
            let body = login_body(&api, name, form.text("next"), Some(&text), false);
            let mut response = (status, layout::bare("Sign in", body)).into_response();
            if let LoginError::Wait(seconds) = error {
                response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            Ok(response)
        }
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// Only a place of our own: anything else would send a visitor to a stranger.
fn inner_path(text: &str) -> &str {
    let fits = text.starts_with('/') && !text.starts_with("//") && !text.contains('\\') && text.len() < 2000;
    if fits && !text.contains(|c: char| c.is_control()) { text } else { "/" }
}

/// Forms before there is a session have no token: where they come from is looked at all the same, so
/// that nobody is signed in by a foreign page.
fn refuse_foreign(headers: &HeaderMap) -> Result<(), PageError> {
    if front::is_same_origin(headers) {
        return Ok(());
    }
    Err(PageError::new(StatusCode::FORBIDDEN, "This did not come from a page of this coordinator."))
}

fn agent(headers: &HeaderMap) -> &str {
    headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

fn enter(session: &NewSession, place: &str) -> Response {
    (AppendHeaders(entered(session)), Redirect::to(place)).into_response()
}

/// The session, and what tells this browser from strangers the next time.
fn entered(session: &NewSession) -> [(HeaderName, String); 2] {
    let browser = format!(
        "{BROWSER_COOKIE}={}; Path=/; Max-Age={BROWSER_LIFETIME}; Secure; HttpOnly; SameSite=Strict",
        session.browser.as_str()
    );
    [(header::SET_COOKIE, cookie(session.secret.as_str(), "")), (header::SET_COOKIE, browser)]
}

fn cookie(secret: &str, more: &str) -> String {
    format!("{COOKIE}={secret}; Path=/; Secure; HttpOnly; SameSite=Strict{more}")
}

pub(super) async fn logout(seat: Seat) -> Result<Response, PageError> {
    seat.api.service.logout(&seat.session, clock::unix_now()).await?;
    let gone = [(header::SET_COOKIE, cookie("", "; Max-Age=0"))];
    Ok((AppendHeaders(gone), Redirect::to("/login")).into_response())
}

fn view_of(headers: &HeaderMap) -> Option<LinkView> {
    guard::cookie(headers, VIEW_COOKIE).and_then(LinkView::read)
}

/// `lifetime` in seconds; 0 takes it away.
fn view_cookie(view: &LinkView, lifetime: u64) -> String {
    let value = view.cookie();
    format!(
        "{VIEW_COOKIE}={}; Path=/welcome/; Max-Age={lifetime}; Secure; HttpOnly; SameSite=Strict",
        value.as_str()
    )
}

/// The page of a link that is good, with what the browser has to keep of it.
fn welcoming(
    api: &Api,
    link: &str,
    (found, view): (&SetUp, &LinkView),
    name: &str,
    error: Option<&str>,
    now: UnixSeconds,
) -> Response {
    let lifetime = found.record.expires.0.saturating_sub(now.0);
    let kept = [(header::SET_COOKIE, view_cookie(view, lifetime))];
    (AppendHeaders(kept), layout::bare("Welcome", welcome_body(api, link, found, name, error)))
        .into_response()
}

pub(super) async fn welcome_page(
    State(api): State<Api>,
    Path(link): Path<String>,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let (view, now) = (view_of(&headers).unwrap_or_else(LinkView::fresh), clock::unix_now());
    match api.service.behind_link(&link, &view, now).await? {
        Some(found) => Ok(welcoming(&api, &link, (&found, &view), "", None, now)),
        None => Ok((StatusCode::GONE, layout::bare("Link", gone_body())).into_response()),
    }
}

fn gone_body() -> Markup {
    html! {
        div.card.door-card {
            h1 { "This link opens nothing" }
            p { "It was used, taken back, or is too old." }
            p { "Ask for a new one. An owner's link is made on the coordinator's machine with" }
            p { code { "sudo meshd-coordinator admin-link" } }
            p { a.button href="/login" { "Sign in" } }
        }
    }
}

fn welcome_body(api: &Api, link: &str, found: &SetUp, name: &str, error: Option<&str>) -> Markup {
    let mesh = api.service.model().mesh.clone();
    let name = if found.record.name.is_empty() { name } else { &found.record.name };
    let fixed = !found.record.name.is_empty();
    let fingerprint = api.certificates.to_compare(clock::unix_now());
    let label = format!("meshd {}", mesh.name);
    let account = if name.is_empty() { found.record.role.as_str() } else { name };
    let uri = format!(
        "otpauth://totp/{}:{}?secret={}&issuer={}",
        escape(&label),
        escape(account),
        found.totp_text.as_str(),
        escape(&label)
    );
    let grouped: String = found
        .totp_text
        .as_bytes()
        .chunks(4)
        .map(|c| String::from_utf8_lossy(c))
        .collect::<Vec<_>>()
        .join(" ");
    html! {
        div.card.door-card.wide {
            h1 { "Welcome to " (mesh.name) }
            p.about { "You become " strong { (found.record.role) } ": " (found.record.role.about()) "." }
            @if let Some(error) = error { div.note.bad role="alert" { p { (error) } } }
            form.welcome method="post" action={ "/welcome/" (link) } {
                div.stack {
                    label {
                        "Name"
                        input type="text" name="name" value=(name) readonly[fixed] required autocomplete="username" autocapitalize="none" spellcheck="false" maxlength="60" autofocus[!fixed];
                    }
                    label {
                        "Password"
                        input type="password" name="password" required minlength=(MIN_PASSWORD) autocomplete="new-password" aria-describedby="password-hint";
                        span.hint #password-hint { "At least " (MIN_PASSWORD) " characters; several words are easy to remember" }
                    }
                    label { "Password again" input type="password" name="again" required autocomplete="new-password"; }
                    label {
                        "Code"
                        input type="text" name="code" required inputmode="numeric" autocomplete="one-time-code" maxlength="10" spellcheck="false" aria-describedby="totp-hint";
                        span.hint #totp-hint { "The six digits that the app shows for this account" }
                    }
                    button.primary type="submit" { "Make the account" }
                }
                div.totp {
                    p { "Scan this with an authenticator app:" }
                    @if let Some(picture) = parts::qr(&uri, "QR code for an authenticator app") { (picture) }
                    p.hint { "Or type this secret into it:" }
                    code.totp-secret #totp-secret { (grouped) }
                }
            }
            @if !fingerprint.is_empty() {
                details.fingerprint {
                    summary { "Your browser warned about the certificate?" }
                    p { "It is self-made. What the browser shows as its SHA-256 fingerprint must be the same as printed beside the link:" }
                    code { (fingerprint) }
                }
            }
        }
    }
}

pub(super) async fn welcome(
    State(api): State<Api>,
    Path(link): Path<String>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    form: Form,
) -> Result<Response, PageError> {
    refuse_foreign(&headers)?;
    let now = clock::unix_now();
    let (name, password) = (form.text("name"), form.text("password"));
    let known = view_of(&headers);
    let is_known = known.is_some();
    let view = known.unwrap_or_else(LinkView::fresh);
    let new = NewAccount { link: &link, view: &view, name, password, code: form.text("code") };
    let done = if !is_known {
        Err(ServiceError::Invalid(NO_COOKIE.to_owned()))
    } else if password == form.text("again") {
        api.service.accept_link(&new, (visitor.0, agent(&headers)), now).await
    } else {
        Err(ServiceError::Invalid("the two passwords are not the same".to_owned()))
    };
    match done {
        Ok((session, codes)) => {
            let cookies = AppendHeaders(entered(&session));
            let used = AppendHeaders([(header::SET_COOKIE, view_cookie(&view, 0))]);
            let codes: Vec<&str> = codes.iter().map(|c| c.as_str()).collect();
            Ok((cookies, used, layout::bare("Recovery codes", codes_body(&codes))).into_response())
        }
        Err(error) => {
            let Some(found) = api.service.behind_link(&link, &view, now).await? else {
                return Ok((StatusCode::GONE, layout::bare("Link", gone_body())).into_response());
            };
            let page = welcoming(&api, &link, (&found, &view), name, Some(&explain(&error)), now);
            Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response())
        }
    }
}

/// Recovery codes, this once.
pub(super) fn codes_body(codes: &[&str]) -> Markup {
    html! {
        div.card.door-card {
            h1 { "Keep these recovery codes" }
            p { "Each signs you in once in place of a code, when the phone is lost. They are shown this once: print them or put them where your passwords are." }
            ul.codes { @for code in codes { li { code { (code) } } } }
            p { a.button.primary href="/" { "I have kept them" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_signing_in_one_goes_to_our_own_places_only() {
        for good in ["/", "/nodes?q=a&page=2"] {
            assert_eq!(inner_path(good), good);
        }
        for bad in ["", "//evil.example", "https://evil.example", "/\\evil.example", "/a\r\nSet-Cookie: x"] {
            assert_eq!(inner_path(bad), "/");
        }
    }
}
