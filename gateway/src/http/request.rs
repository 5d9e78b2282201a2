//! From a request to its answer: who is asked for, which rule fits, what is written down.

use super::body::Body;
use super::filters::{Exchange, FilterLayer};
use super::forward::Forward;
use super::headers::{forwarded, host_of};
use crate::clock;
use crate::conn::Peer;
use crate::log::Entry;
use crate::table::{Bind, Listener, RequestLine};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tower::{Layer, Service};

/// Where HTTP-01 challenges lie (RFC 8555 §8.3).
const ACME_PATH: &str = "/.well-known/acme-challenge/";

/// Answers one request.
pub(super) async fn handle(peer: &Arc<Peer>, request: Request<Incoming>) -> Response<Body> {
    let mut entry = Box::new(Entry::new(peer, &request, clock::now()));
    // Behind such a request nobody watches the framing of what follows (`wire::framing`): unless the protocol
    // does change, nothing follows.
    let unwatched = request.version() < Version::HTTP_2
        && (request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE));
    let mut response = match admit(peer, &request) {
        Ok(host) => route(peer, request, host, &mut entry).await,
        Err((status, why)) => {
            peer.shared.stats.refused.fetch_add(1, Relaxed);
            answer(status, why)
        }
    };
    if unwatched && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    entry.status = response.status().as_u16();
    response.body_mut().finish_with(entry);
    response
}

/// A short answer of our own.
pub(super) fn answer(status: StatusCode, why: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::text(why));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

type Refusal = (StatusCode, &'static str);

/// The host that is asked for, or why the request is none that a gateway answers.
fn admit(peer: &Peer, request: &Request<Incoming>) -> Result<Option<String>, Refusal> {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    if request.method() == Method::CONNECT {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served: this is no forward proxy\n"));
    }
    let uri = request.uri();
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = fields
        .next()
        .map(|v| v.to_str().map_err(|_| (BAD, "the Host field cannot be read\n")))
        .transpose()?;
    if fields.next().is_some() {
        return Err((BAD, "there are two Host fields\n"));
    }
    if let Some(scheme) = uri.scheme_str()
        && scheme != "http"
        && scheme != "https"
    {
        return Err((BAD, "the target's scheme is neither http nor https\n"));
    }
    let authority = match (uri.authority().map(|a| a.as_str()), field) {
        (Some(target), Some(field)) if !target.eq_ignore_ascii_case(field) => {
            return Err((BAD, "target and Host field name different hosts\n"));
        }
        (Some(name), _) | (None, Some(name)) => Some(name),
        (None, None) => None,
    };
    let host = match authority {
        None | Some("") if request.version() < Version::HTTP_11 => None,
        None => return Err((BAD, "the request names no host\n")),
        Some(name) => Some(host_of(name).ok_or((BAD, "the host cannot be read\n"))?),
    };
    let path = uri.path();
    if !path.starts_with('/') {
        return Err((BAD, "the target is no path\n"));
    }
    if has_dot_segments(path) {
        return Err((BAD, "the path holds . or .. segments\n"));
    }
    if let Some(expect) = request.headers().get(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err((StatusCode::EXPECTATION_FAILED, "only 100-continue can be expected\n"));
    }
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length > peer.bind.limits.body_bytes.or(Some(u64::MAX)) {
        return Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than allowed here\n"));
    }
    Ok(host)
}

/// Whether a segment is `.` or `..`, plainly or as `%2e`: two programs may resolve it differently.
fn has_dot_segments(path: &str) -> bool {
    path.contains("/.") && path.split('/').any(|s| s == "." || s == "..")
        || path.contains('%')
            && path.split('/').any(|s| {
                let plain = s.replace("%2e", ".").replace("%2E", ".");
                plain == "." || plain == ".."
            })
}

async fn route(
    peer: &Arc<Peer>,
    mut request: Request<Incoming>,
    host: Option<String>,
    entry: &mut Entry,
) -> Response<Body> {
    let active = peer.shared.active.load_full();
    let host = host.as_deref();
    if let Some(token) = request.uri().path().strip_prefix(ACME_PATH)
        && let Some(proof) = peer.shared.challenges.http(host.unwrap_or_default(), token)
    {
        return Response::new(Body::text(proof));
    }
    let bind: &Arc<Bind> = active.table.binds.get(&peer.key).unwrap_or(&peer.bind);
    let unrouted = |why| {
        peer.shared.stats.unrouted.fetch_add(1, Relaxed);
        answer(StatusCode::NOT_FOUND, why)
    };
    let Some(listener) = bind.listener(host) else { return unrouted("no such host here\n") };
    if !may_serve(peer, bind, listener) {
        return answer(StatusCode::MISDIRECTED_REQUEST, "this connection was made for another host\n");
    }
    let line = RequestLine { method: request.method(), uri: request.uri(), headers: request.headers() };
    let Some(candidate) = listener.route(host, &line) else { return unrouted("no such page here\n") };
    entry.route = Some((Arc::clone(&candidate.action.route), Arc::clone(&candidate.action.stats)));
    let authority: String = match request.uri().authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => {
            request.headers().get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
        }
    };
    forwarded(request.headers_mut(), peer, &listener.trusted_proxies, &authority);
    let exchange = Exchange {
        action: Arc::clone(&candidate.action),
        prefix: candidate.prefix().to_owned(),
        authority,
        host: host.unwrap_or_default().to_owned(),
        port: listener.port,
        peer: Arc::clone(peer),
        request,
        upstream: None,
        up: Arc::clone(&entry.up),
    };
    let mut service = FilterLayer.layer(Forward);
    match service.call(exchange).await {
        Ok(done) => {
            entry.upstream = done.upstream;
            done.response
        }
        Err(never) => match never {},
    }
}

/// Over TLS a connection serves the listener that its server name chose (RFC 9110 §7.4).
fn may_serve(peer: &Peer, bind: &Bind, listener: &Arc<Listener>) -> bool {
    if !peer.tls {
        return true;
    }
    if listener.protocol != meshd_proto::gateway::ListenerProtocol::Https {
        return false;
    }
    match &peer.server_name {
        None => true,
        Some(name) => bind.listener(Some(name)).is_some_and(|chosen| chosen.name == listener.name),
    }
}

#[cfg(test)]
mod tests {
    use super::has_dot_segments;

    #[test]
    fn dot_segments_are_seen_in_every_spelling() {
        for path in ["/..", "/a/../b", "/a/./b", "/a/%2e%2E/b", "/.%2e", "/a/.."] {
            assert!(has_dot_segments(path), "{path}");
        }
        for path in ["/", "/...", "/a..b/.c", "/.well-known/x", "/%2e%2e%2e", "/a%2eb"] {
            assert!(!has_dot_segments(path), "{path}");
        }
    }
}
