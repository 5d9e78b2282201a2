//! A request to an endpoint, and its response back; tried again elsewhere where that is safe.
//!
//! Safe is what was surely not acted on: no connection came about, nothing of the request was sent, or a
//! kept connection broke under a request that may be repeated (RFC 9110 §9.2.2) and has no body.

use super::body::{Body, Busy, RequestBody, Source, TooLong};
use super::filters::{Done, Exchange};
use super::headers::{join_cookies, strip_hop, upgrade};
use super::pool::{Connection, Failed, Http2};
use super::request::answer;
use crate::clock;
use crate::conn::Peer;
use crate::pump::pump;
use crate::runtime::Shared;
use crate::table::{Backend, Endpoint, RuleAction};
use futures_util::future::BoxFuture;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use meshd_proto::gateway::BackendProtocol;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::Service;

/// The innermost service of a rule: it forwards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forward;

impl Service<Exchange> for Forward {
    type Response = Done;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Done, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, exchange: Exchange) -> Self::Future {
        Box::pin(async move {
            let Some(limit) = exchange.action.request_timeout else { return Ok(forward(exchange).await) };
            let done = tokio::time::timeout(limit, Box::pin(forward(exchange))).await;
            Ok(done.unwrap_or_else(|_| Done {
                response: answer(StatusCode::GATEWAY_TIMEOUT, "the backend took too long\n"),
                upstream: None,
            }))
        })
    }
}

/// Why one try brought no response.
enum Fault {
    /// No connection.
    Connect(io::Error),
    /// The connection broke; the request, when it may be sent again.
    Broken(hyper::Error),
    /// The try took too long.
    TimedOut,
}

async fn forward(exchange: Exchange) -> Done {
    let Exchange { action, authority, peer, mut request, upstream, up, .. } = exchange;
    let alone = |response| Done { response, upstream: None };
    if action.targets.is_empty() {
        return alone(answer(StatusCode::INTERNAL_SERVER_ERROR, "this route has no backend\n"));
    }
    let Some(backend) = action.targets.pick() else {
        return alone(answer(
            StatusCode::INTERNAL_SERVER_ERROR,
            "all backends of this route have weight 0\n",
        ));
    };
    let switch = (request.version() == Version::HTTP_11).then(|| upgrade(request.headers())).flatten();
    let host = upstream.or_else(|| HeaderValue::from_str(&authority).ok());
    prepare(&mut request, backend, host.as_ref(), switch.as_ref());
    let waiting = switch.is_some().then(|| hyper::upgrade::on(&mut request));
    let limit = peer.bind.limits.body_bytes.unwrap_or(u64::MAX);
    let (parts, body) = request.into_parts();
    let body = if body.is_end_stream() {
        RequestBody::Empty
    } else {
        RequestBody::Streaming { body, left: limit, seen: up }
    };
    let mut next = Some(Request::from_parts(parts, body));
    let mut tried = Vec::new();
    let mut tries = 0;
    loop {
        let Some(endpoint) = backend.pick(peer.client.ip(), &tried, clock::now()) else {
            return alone(answer(
                StatusCode::SERVICE_UNAVAILABLE,
                "the backend has no endpoint that is ready\n",
            ));
        };
        let Some(request) = next.take() else { break };
        let one = Try { peer: &peer, backend, endpoint: &endpoint, fresh: tries > 0 };
        let spare = spare(&request);
        let result = match action.backend_timeout {
            None => Some(one.send(request, switch.is_some()).await),
            Some(limit) => {
                tokio::time::timeout(limit, Box::pin(one.send(request, switch.is_some()))).await.ok()
            }
        };
        let upstream = Some(endpoint.addr);
        let (fault, unsent) = match result {
            None => (Fault::TimedOut, None),
            Some(Ok(mut response)) => {
                judge(&endpoint, response.status());
                if let (Some(waiting), StatusCode::SWITCHING_PROTOCOLS) = (waiting, response.status()) {
                    switched(&peer, waiting, &mut response, &action);
                } else {
                    strip_hop(response.headers_mut());
                }
                *response.version_mut() = Version::HTTP_11;
                return Done { response, upstream };
            }
            Some(Err((fault, unsent))) => (fault, unsent),
        };
        let too_long = matches!(&fault, Fault::Broken(error) if caused_by_length(error));
        if too_long {
            let response = answer(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than allowed here\n");
            return Done { response, upstream };
        }
        endpoint.wellness.failed(clock::now(), matches!(fault, Fault::Connect(_)));
        tries += 1;
        // What is handed back was not sent; a copy exists only of what may be sent twice.
        next = unsent.or(if matches!(fault, Fault::Broken(_)) { spare } else { None });
        if next.is_none() || tries > action.retries {
            tracing::debug!(endpoint = %endpoint.addr, fault = %describe(&fault), "no response");
            let response = match fault {
                Fault::TimedOut => answer(StatusCode::GATEWAY_TIMEOUT, "the backend took too long\n"),
                Fault::Connect(_) => answer(StatusCode::BAD_GATEWAY, "the backend cannot be reached\n"),
                Fault::Broken(_) => answer(StatusCode::BAD_GATEWAY, "the backend broke the connection\n"),
            };
            return Done { response, upstream };
        }
        action.stats.retries.fetch_add(1, Relaxed);
        tried.push(endpoint.addr);
    }
    alone(answer(StatusCode::BAD_GATEWAY, "the backend cannot be reached\n"))
}

fn describe(fault: &Fault) -> String {
    match fault {
        Fault::Connect(error) => format!("connect: {error}"),
        Fault::Broken(error) => format!("broken: {error}"),
        Fault::TimedOut => "timed out".to_owned(),
    }
}

fn caused_by_length(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(one) = cause {
        if one.is::<TooLong>() {
            return true;
        }
        cause = one.source();
    }
    false
}

/// What the status says about the endpoint.
fn judge(endpoint: &Endpoint, status: StatusCode) {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            endpoint.wellness.failed(clock::now(), false);
        }
        _ => endpoint.wellness.succeeded(),
    }
}

/// A copy of a request that may be sent twice.
fn spare(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let repeatable = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    if !repeatable || !matches!(request.body(), RequestBody::Empty) {
        return None;
    }
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Makes the request of one hop that of the next.
fn prepare(
    request: &mut Request<Incoming>,
    backend: &Backend,
    host: Option<&HeaderValue>,
    switch: Option<&HeaderValue>,
) {
    let from_http2 = request.version() == Version::HTTP_2;
    let headers = request.headers_mut();
    strip_hop(headers);
    // Answered here: the body is asked for when the backend's connection takes it.
    headers.remove(header::EXPECT);
    if let Some(protocol) = switch {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    let path = request.uri().path_and_query().cloned();
    if backend.config.protocol == BackendProtocol::Http2 && switch.is_none() {
        request.headers_mut().remove(header::HOST);
        let scheme = if backend.config.tls.is_some() { "https" } else { "http" };
        let authority = host.and_then(|h| h.to_str().ok()).unwrap_or_default();
        let uri = Uri::builder().scheme(scheme).authority(authority);
        let uri = uri.path_and_query(path.map_or_else(|| "/".to_owned(), |p| p.to_string())).build();
        *request.uri_mut() = uri.unwrap_or_default();
        *request.version_mut() = Version::HTTP_2;
        return;
    }
    if let Some(host) = host {
        request.headers_mut().insert(header::HOST, host.clone());
    }
    if from_http2 {
        join_cookies(request.headers_mut());
    }
    *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
    *request.version_mut() = Version::HTTP_11;
}

/// One try with one endpoint.
struct Try<'a> {
    peer: &'a Arc<Peer>,
    backend: &'a Arc<Backend>,
    endpoint: &'a Arc<Endpoint>,
    /// No kept connection: the one before broke.
    fresh: bool,
}

type Tried = Result<Response<Body>, (Fault, Option<Request<RequestBody>>)>;

impl Try<'_> {
    async fn send(&self, request: Request<RequestBody>, switching: bool) -> Tried {
        let busy = Busy::at(self.endpoint);
        let shared = &self.peer.shared;
        if switching {
            return Box::pin(self.upgrade(shared, request, busy)).await;
        }
        if self.backend.config.protocol == BackendProtocol::Http2 {
            return Box::pin(self.http2(shared, request, busy)).await;
        }
        // A backend that is told the client by PROXY gets a connection for each client connection's request:
        // a kept one would name another client.
        let keep = !self.backend.config.send_proxy;
        let kept = (keep && !self.fresh).then(|| self.endpoint.pool.take()).flatten();
        let mut request = request;
        if let Some(connection) = kept {
            match connection.exchange(request, self.endpoint).await {
                Ok((response, upstream)) => {
                    return Ok(response.map(|()| Body::new(Source::Upstream(Box::new(upstream))).with(busy)));
                }
                // It was closed in the moment of sending: nothing was lost yet.
                Err(Failed { unsent: Some(unsent), .. }) => request = unsent,
                Err(Failed { error, unsent: None }) => return Err((Fault::Broken(error), None)),
            }
        }
        let stream = match shared.connect(self.backend, self.endpoint, Some(self.peer.addresses())).await {
            Ok(stream) => stream,
            Err(error) => return Err((Fault::Connect(error), Some(request))),
        };
        let connection = match Connection::new(stream).await {
            Ok(connection) => connection,
            Err(error) => return Err((Fault::Broken(error), Some(request))),
        };
        match connection.exchange(request, self.endpoint).await {
            Ok((response, mut upstream)) => {
                if !keep {
                    upstream.close_at_end();
                }
                Ok(response.map(|()| Body::new(Source::Upstream(Box::new(upstream))).with(busy)))
            }
            Err(Failed { error, unsent }) => Err((Fault::Broken(error), unsent)),
        }
    }

    async fn http2(&self, shared: &Arc<Shared>, request: Request<RequestBody>, busy: Busy) -> Tried {
        let asked = clock::now();
        let sender = {
            let mut held = self.endpoint.pool.shared.lock().await;
            if let Some((_, kind)) = held.failed.filter(|(at, _)| *at >= asked) {
                return Err((Fault::Connect(kind.into()), Some(request)));
            }
            match held.sender.as_ref().filter(|s| !s.is_closed() && !self.fresh) {
                Some(sender) => sender.clone(),
                None => {
                    let stream = match shared
                        .connect(self.backend, self.endpoint, Some(self.peer.addresses()))
                        .await
                    {
                        Ok(stream) => stream,
                        Err(error) => {
                            held.failed = Some((clock::now(), error.kind()));
                            return Err((Fault::Connect(error), Some(request)));
                        }
                    };
                    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
                    builder
                        .timer(hyper_util::rt::TokioTimer::new())
                        .initial_stream_window_size(256 * 1024)
                        .initial_connection_window_size(1024 * 1024)
                        .keep_alive_interval(Duration::from_secs(30))
                        .max_header_list_size(64 * 1024);
                    let (sender, connection) = match builder.handshake(TokioIo::new(stream)).await {
                        Ok(pair) => pair,
                        Err(error) => return Err((Fault::Broken(error), Some(request))),
                    };
                    shared.tasks.spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "an HTTP/2 connection to a backend ended");
                        }
                    });
                    *held = Http2 { sender: Some(sender.clone()), failed: None };
                    sender
                }
            }
        };
        let mut sender = sender;
        match sender.try_send_request(request).await {
            Ok(response) => Ok(response.map(|body| Body::new(Source::Stream(body)).with(busy))),
            Err(mut failed) => {
                let unsent = failed.take_message();
                Err((Fault::Broken(failed.into_error()), unsent))
            }
        }
    }

    /// A request to change the protocol has a connection of its own.
    async fn upgrade(&self, shared: &Arc<Shared>, request: Request<RequestBody>, busy: Busy) -> Tried {
        let stream = match shared.connect(self.backend, self.endpoint, Some(self.peer.addresses())).await {
            Ok(stream) => stream,
            Err(error) => return Err((Fault::Connect(error), Some(request))),
        };
        let (mut sender, connection) = match hyper::client::conn::http1::handshake(TokioIo::new(stream)).await
        {
            Ok(pair) => pair,
            Err(error) => return Err((Fault::Broken(error), Some(request))),
        };
        shared.tasks.spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        match sender.try_send_request(request).await {
            Ok(response) => Ok(response.map(|body| Body::new(Source::Stream(body)).with(busy))),
            Err(mut failed) => {
                let unsent = failed.take_message();
                Err((Fault::Broken(failed.into_error()), unsent))
            }
        }
    }
}

/// Both sides agreed on another protocol: bytes are carried from here on.
fn switched(
    peer: &Arc<Peer>,
    client: hyper::upgrade::OnUpgrade,
    response: &mut Response<Body>,
    action: &Arc<RuleAction>,
) {
    let backend = hyper::upgrade::on(&mut *response);
    let protocol = response.headers().get(header::UPGRADE).cloned();
    strip_hop(response.headers_mut());
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        response.headers_mut().insert(header::UPGRADE, protocol);
    }
    let busy = response.body_mut().take_busy();
    let idle = peer.bind.limits.idle_timeout;
    let stats = Arc::clone(&action.stats);
    peer.shared.tasks.spawn(async move {
        let (Ok(client), Ok(backend)) = tokio::join!(client, backend) else { return };
        let (carried, _) = pump(&mut TokioIo::new(client), &mut TokioIo::new(backend), idle).await;
        stats.up.fetch_add(carried.up, Relaxed);
        stats.down.fetch_add(carried.down, Relaxed);
        drop(busy);
    });
}
