//! HTTP through a gateway on loopback: routes, versions, what is forwarded and what is refused.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod fixture;

use bytes::Bytes;
use fixture::{Backends, PATIENCE, gateway, get, loopback, port, talk};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Request;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

fn config(listen: u16, backend: &str, more: &str) -> String {
    format!(
        r#"{{"generation":1,"listeners":[{{"name":"web","address":"127.0.0.1","port":{listen},"protocol":"http"{more}}}],
        "routes":[{{"name":"app","listeners":["web"],"hostnames":["app.example"],"rules":[{{"backends":[{{"backend":"app"}}]}}]}}],
        "backends":[{backend}]}}"#
    )
}

fn one(port: u16, more: &str) -> String {
    format!(r#"{{"name":"app","endpoints":[{{"address":"127.0.0.1","port":{port}}}]{more}}}"#)
}

#[tokio::test]
async fn a_request_reaches_its_backend_and_says_who_asked() {
    let mut backends = Backends::default();
    let app = backends.echo("app", false).await;
    let listen = port();
    let _gateway = gateway(&config(listen, &one(app, ""), ""));
    let sent = "POST /p?q=1 HTTP/1.1\r\nHost: app.example\r\nX-Forwarded-For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nX-Real-IP: 9.9.9.9\r\n\
        Connection: close, X-Hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\nhello";
    let answer = talk(listen, sent.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for expected in [
        "app POST /p?q=1\n",
        "host: app.example\n",
        "x-forwarded-for: 127.0.0.1\n",
        "x-forwarded-proto: http\n",
        "x-forwarded-host: app.example\n",
        "body: 5\n",
    ] {
        assert!(answer.contains(expected), "{expected} in {answer}");
    }
    for never in ["9.9.9.9", "x-hop"] {
        assert!(!answer.contains(never), "{never} in {answer}");
    }
    assert!(get(listen, "other.example", "/").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_kept_and_extended() {
    let mut backends = Backends::default();
    let app = backends.echo("app", false).await;
    let listen = port();
    let _gateway = gateway(&config(listen, &one(app, ""), r#","trusted_proxies":["127.0.0.0/8"]"#));
    let sent = "GET / HTTP/1.1\r\nHost: app.example\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n";
    let answer = talk(listen, sent.as_bytes()).await;
    assert!(answer.contains("x-forwarded-for: 192.0.2.7, 127.0.0.1\n"), "{answer}");
    assert!(answer.contains("x-forwarded-proto: https\n"), "{answer}");
}

#[tokio::test]
async fn connections_to_backends_are_kept_and_a_closed_one_costs_no_request() {
    let mut backends = Backends::default();
    // A server that answers two requests on a connection and then closes it without a word.
    let opened = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = opened.clone();
    let app = backends
        .raw(move |mut stream| {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async move {
                let mut buffer = [0; 4096];
                for _ in 0..2 {
                    let Ok(1..) = stream.read(&mut buffer).await else { return };
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            }
        })
        .await;
    let listen = port();
    let _gateway = gateway(&config(listen, &one(app, ""), ""));
    for i in 0..20 {
        let answer = get(listen, "app.example", "/").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{i}: {answer}");
    }
    let opened = opened.load(std::sync::atomic::Ordering::SeqCst);
    assert!((10..=12).contains(&opened), "{opened} connections for 20 requests, 2 on each");
}

#[tokio::test]
async fn ambiguous_and_foreign_requests_are_refused_and_never_forwarded() {
    let mut backends = Backends::default();
    let app = backends.echo("app", false).await;
    let listen = port();
    let _gateway = gateway(&config(listen, &one(app, ""), ""));
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: app.example\r\n\r\n";
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked\r\n Folded: 1",
        "Transfer-Encoding: chunked\nX: y",
        "Transfer-Encoding:\x0bchunked",
        "Host: other.example",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: app.example\r\n{fields}\r\n\r\n{smuggled}");
        let answer = talk(listen, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{fields:?}: {answer}");
    }
    for (request, status) in [
        ("CONNECT app.example:443 HTTP/1.1\r\nHost: app.example:443\r\n\r\n", "405"),
        ("GET http://evil.example/ HTTP/1.1\r\nHost: app.example\r\n\r\n", "400"),
        ("GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", "404"),
        ("GET ftp://app.example/ HTTP/1.1\r\nHost: app.example\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET /a/../b HTTP/1.1\r\nHost: app.example\r\n\r\n", "400"),
        ("GET /%2e%2e/b HTTP/1.1\r\nHost: app.example\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: app.example@evil\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: app.example\r\nExpect: a-miracle\r\n\r\n", "417"),
    ] {
        let answer = talk(listen, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer}");
    }
    assert_eq!(backends.seen(), Vec::<String>::new());
    // The same target in absolute form is the host's own business, and is served.
    let absolute =
        talk(listen, b"GET http://app.example/x HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n")
            .await;
    assert!(absolute.contains("app GET /x\n"), "{absolute}");
}

#[tokio::test]
async fn a_header_bomb_and_a_slow_client_are_cut_off() {
    let mut backends = Backends::default();
    let app = backends.echo("app", false).await;
    let listen = port();
    let _gateway = gateway(&config(
        listen,
        &one(app, ""),
        r#","limits":{"header_bytes":4096,"header_timeout_ms":300,"body_bytes":100}"#,
    ));
    let bomb = format!("GET / HTTP/1.1\r\nHost: app.example\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    assert!(talk(listen, bomb.as_bytes()).await.starts_with("HTTP/1.1 4"));
    let many = format!("GET / HTTP/1.1\r\nHost: app.example\r\n{}\r\n", "a:\r\n".repeat(500));
    assert!(talk(listen, many.as_bytes()).await.starts_with("HTTP/1.1 4"));
    let mut slow = TcpStream::connect(loopback(listen)).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: app").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), slow.read_to_end(&mut rest)).await.unwrap().unwrap();
    let mut silent = TcpStream::connect(loopback(listen)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), silent.read_to_end(&mut rest)).await.unwrap().unwrap();
    let long =
        format!("POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 101\r\n\r\n{}", "a".repeat(101));
    assert!(talk(listen, long.as_bytes()).await.starts_with("HTTP/1.1 413"));
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n{}\r\n0\r\n\r\n",
        "a".repeat(101)
    );
    assert!(talk(listen, chunked.as_bytes()).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn a_failing_endpoint_costs_no_request_that_may_be_repeated() {
    let mut backends = Backends::default();
    let app = backends.echo("app", false).await;
    let broken = backends
        .raw(|mut stream| async move {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
        })
        .await;
    let gone = port();
    let listen = port();
    let list = format!(
        r#"{{"name":"app","endpoints":[{{"address":"127.0.0.1","port":{gone}}},{{"address":"127.0.0.1","port":{broken}}},{{"address":"127.0.0.1","port":{app}}}]}}"#
    );
    let gateway = gateway(&config(listen, &list, ""));
    for i in 0..30 {
        let answer = get(listen, "app.example", "/").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{i}: {answer}");
    }
    let page =
        gateway.shared().stats.page(&gateway.shared().active.load(), tokio::time::Instant::now().into_std());
    assert!(
        page.contains(&format!("endpoint=\"127.0.0.1:{gone}\"}} 0")),
        "the refused endpoint is left alone: {page}"
    );
}

#[tokio::test]
async fn a_request_that_was_sent_is_never_repeated() {
    let mut backends = Backends::default();
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = count.clone();
    let broken = backends
        .raw(move |mut stream| {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async move {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
            }
        })
        .await;
    let listen = port();
    let _gateway = gateway(&config(listen, &one(broken, ""), ""));
    let answer = talk(listen, b"POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 2\r\n\r\nhi").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn without_endpoints_or_in_time_the_status_says_what_is_wrong() {
    let mut backends = Backends::default();
    let app = backends.echo("app", false).await;
    let listen = port();
    let none = r#"{"name":"app","endpoints":[]}"#;
    let mut gateway = gateway(&config(listen, none, ""));
    assert!(get(listen, "app.example", "/").await.starts_with("HTTP/1.1 503"));
    let slow = config(listen, &one(app, ""), "")
        .replace(r#"{"backends":[{"#, r#"{"timeouts":{"request_ms":200},"backends":[{"#);
    fixture::apply(&mut gateway, &slow);
    assert!(get(listen, "app.example", "/slow").await.starts_with("HTTP/1.1 504"));
}

#[tokio::test]
async fn a_websocket_is_carried_both_ways() {
    let mut backends = Backends::default();
    let app = backends.raw(|mut stream| async move {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.unwrap();
        let asked = String::from_utf8_lossy(&buffer[..count]).to_lowercase();
        assert!(asked.contains("upgrade: websocket") && asked.contains("connection: upgrade"), "{asked}");
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello").await.unwrap();
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..count]).await.unwrap();
        }
    }).await;
    let listen = port();
    let _gateway = gateway(&config(listen, &one(app, ""), ""));
    let mut stream = TcpStream::connect(loopback(listen)).await.unwrap();
    stream.write_all(b"GET /ws HTTP/1.1\r\nHost: app.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
    let mut got = Vec::new();
    let mut buffer = [0; 1024];
    while !got.ends_with(b"hello") {
        let count = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buffer[..count]);
    }
    assert!(got.starts_with(b"HTTP/1.1 101"));
    stream.write_all(b"\x81\x02hi\r\n\n\0").await.unwrap();
    let mut back = [0; 8];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"\x81\x02hi\r\n\n\0");
}

/// An HTTP/2 client by prior knowledge.
async fn http2(
    listen: u16,
    tasks: &mut JoinSet<()>,
) -> hyper::client::conn::http2::SendRequest<http_body_util::combinators::BoxBody<Bytes, std::io::Error>> {
    let stream = TcpStream::connect(loopback(listen)).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tasks.spawn(async move {
        let _ = connection.await;
    });
    sender
}

#[tokio::test]
async fn grpc_streams_both_ways_with_its_trailers() {
    let mut backends = Backends::default();
    let app = backends.echo("app", true).await;
    let listen = port();
    let _gateway = gateway(&config(listen, &one(app, r#","protocol":"http2""#), ""));
    let mut tasks = JoinSet::new();
    let mut sender = http2(listen, &mut tasks).await;
    let (send, receive) = tokio::sync::mpsc::channel::<Bytes>(1);
    let body = StreamBody::new(futures_util::stream::unfold(receive, |mut receive| async {
        receive.recv().await.map(|bytes| (Ok::<_, std::io::Error>(Frame::data(bytes)), receive))
    }));
    let request = Request::post("http://app.example/svc/Method")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body.boxed())
        .unwrap();
    let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    // Each message comes back before the next one is sent: nothing is collected on the way.
    for i in 0..5u8 {
        send.send(Bytes::from(vec![i; 10])).await.unwrap();
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), vec![i; 10]);
    }
    drop(send);
    let end = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(end.into_trailers().unwrap()["grpc-status"], "0");
    let seen = backends.seen();
    assert!(seen[0].contains("te: trailers"), "{}", seen[0]);
    assert!(seen[0].starts_with("app POST http://app.example/svc/Method"), "{}", seen[0]);
}

#[tokio::test]
async fn both_versions_reach_a_backend_of_the_other_and_large_bodies_stream() {
    let mut backends = Backends::default();
    let old = backends.echo("old", false).await;
    let listen = port();
    let _gateway = gateway(&config(listen, &one(old, ""), ""));
    let mut tasks = JoinSet::new();
    let mut sender = http2(listen, &mut tasks).await;
    let size = 20 << 20;
    let request = Request::post("http://app.example/mirror")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::from(vec![7u8; size]).map_err(|never| match never {}).boxed())
        .unwrap();
    let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    let back =
        tokio::time::timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
    assert_eq!(back.len(), size);
    assert!(back.iter().all(|b| *b == 7));
    assert!(backends.seen()[0].contains("cookie: a=1; b=2\n"), "{}", backends.seen()[0]);
}

#[tokio::test]
async fn filters_change_what_they_say() {
    let mut backends = Backends::default();
    let app = backends.echo("app", false).await;
    let listen = port();
    let filters = r#""matches":[{"path":{"prefix":"/old"}}],"filters":[
        {"type":"rewrite","hostname":"inner.example","path":{"prefix":"/new"}},
        {"type":"request-headers","set":[{"name":"x-set","value":"1"}],"remove":["x-gone"]},
        {"type":"response-headers","add":[{"name":"x-answer","value":"2"}]}],"backends"#;
    let json = config(listen, &one(app, ""), "").replace(r#""rules":[{"backends"#, &format!(r#""rules":[{{"matches":[{{"path":{{"exact":"/moved"}}}}],"filters":[{{"type":"redirect","scheme":"https","status":301}}]}},{{{filters}"#));
    let _gateway = gateway(&json);
    let sent =
        "GET /old/x?y=z HTTP/1.1\r\nHost: app.example\r\nX-Gone: 1\r\nX-Set: 0\r\nConnection: close\r\n\r\n";
    let answer = talk(listen, sent.as_bytes()).await;
    for expected in [
        "app GET /new/x?y=z\n",
        "host: inner.example\n",
        "x-set: 1\n",
        "x-answer: 2\r\n",
        "x-forwarded-host: app.example\n",
    ] {
        assert!(answer.contains(expected), "{expected} in {answer}");
    }
    assert!(!answer.contains("x-gone"));
    let moved = get(listen, "app.example", "/moved?a=b").await;
    assert!(
        moved.starts_with("HTTP/1.1 301") && moved.contains("location: https://app.example/moved?a=b\r\n"),
        "{moved}"
    );
}
