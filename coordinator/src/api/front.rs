//! What every request passes first: a private way, a host name that is ours, and headers on the answer
//! that keep browsers from doing harm.

use super::{Api, Problem, Transport};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;

/// No inline script or style, nothing from elsewhere, in nobody's frame.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Names that answers to browsers carry.
const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // Not `no-referrer`: browsers then send `Origin: null` with our own forms.
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

pub(super) async fn pass(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    if let Some(transport) = request.extensions().get::<Transport>() {
        let visitor = api.proxies.visitor(transport.remote(), request.headers());
        request.extensions_mut().insert(visitor);
    }
    let mut response = match check(&api, &request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => *refusal,
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn check(api: &Api, request: &Request) -> Result<(), Box<Response>> {
    let transport = request.extensions().get::<Transport>().copied();
    let Some(transport) = transport else {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return Err(Box::new(Problem::new(status, "no transport is known").into_response()));
    };
    let path = request.uri().path();
    if path == "/healthz" || super::acme::is_check(path) {
        return Ok(());
    }
    if !transport.is_private() {
        return Err(Box::new(refuse_plain(request.headers(), path)));
    }
    if let Transport::Unix { .. } = transport {
        return Ok(());
    }
    if is_ours(api, request.headers(), request.uri()) {
        return Ok(());
    }
    let refusal = Problem::new(StatusCode::MISDIRECTED_REQUEST, "this coordinator is not known by that name")
        .hint("use its address, or name it with `meshd-coordinator serve --public NAME`");
    Err(Box::new(refusal.into_response()))
}

/// Who only typed the name is sent to TLS; whoever sends more in plaintext hears why it was wrong.
fn refuse_plain(headers: &HeaderMap, path: &str) -> Response {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    if path == "/" && !host.is_empty() && host.chars().all(fits) {
        // One port serves both: the same place with TLS.
        let host = if host_and_port(host).1.is_none() { format!("{host}:80") } else { host.to_owned() };
        if let Ok(place) = HeaderValue::from_str(&format!("https://{host}/")) {
            return (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, place)]).into_response();
        }
    }
    Problem::new(StatusCode::FORBIDDEN, "API and pages are not served over plain HTTP")
        .hint("use https:// (the certificate's fingerprint is in the coordinator's log)")
        .into_response()
}

/// An address cannot be rebound; a name counts when it is one of ours (DNS rebinding: a page of somebody
/// else under a name that he points here).
fn is_ours(api: &Api, headers: &HeaderMap, uri: &Uri) -> bool {
    let named = headers.get(header::HOST).and_then(|h| h.to_str().ok()).or_else(|| uri.host());
    let Some(named) = named else { return false };
    if headers.get_all(header::HOST).iter().count() > 1 {
        return false;
    }
    let (host, _) = host_and_port(named);
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return true;
    }
    let model = api.service.model();
    model.mesh.addresses.iter().any(|known| host_and_port(known).0.eq_ignore_ascii_case(&host))
        || host == format!("coordinator.{}", model.mesh.domain)
}

/// `host` and `port` of `host:port`; an IPv6 address keeps its brackets.
pub(crate) fn host_and_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

/// Whether a change comes from one of our own pages: browsers say where a request was made.
pub(crate) fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    if let Some(site) = text(HeaderName::from_static("sec-fetch-site"))
        && site != "same-origin"
    {
        return false;
    }
    let Some(origin) = text(header::ORIGIN) else { return false };
    let Some(host) = text(header::HOST) else { return false };
    let bare = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    bare.is_some_and(|o| o.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_ports() {
        assert_eq!(host_and_port("a.example:443"), ("a.example", Some("443")));
        assert_eq!(host_and_port("a.example"), ("a.example", None));
        assert_eq!(host_and_port("[fd00::1]:443"), ("[fd00::1]", Some("443")));
        assert_eq!(host_and_port("[fd00::1]"), ("[fd00::1]", None));
        assert_eq!(host_and_port("192.0.2.1:8443"), ("192.0.2.1", Some("8443")));
    }

    #[test]
    fn only_our_own_pages_are_of_the_same_origin() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let headers: HeaderMap = pairs
                .iter()
                .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
                .collect();
            is_same_origin(&headers)
        };
        assert!(with(&[("origin", "https://m.example:8443"), ("host", "m.example:8443")]));
        assert!(!with(&[("origin", "https://evil.example"), ("host", "m.example:8443")]));
        assert!(!with(&[("origin", "null"), ("host", "m.example:8443")]));
        assert!(!with(&[("host", "m.example:8443")]));
        let cross = ("sec-fetch-site", "cross-site");
        assert!(!with(&[("origin", "https://m.example"), ("host", "m.example"), cross]));
    }
}
