//! A configuration changes while requests, streams and connections are under way.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod fixture;

use fixture::{Backends, PATIENCE, apply, certificate, client, gateway, loopback, port, quoted};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Ten seconds, or what `GATEWAY_SWAP_SECONDS` says.
fn length() -> Duration {
    let given = std::env::var("GATEWAY_SWAP_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(given.unwrap_or(10))
}

fn config(generation: u64, listen: u16, other: u16, app: u16, spare: u16) -> String {
    // Every part changes: endpoints, weights, routes, filters, another listener that comes and goes.
    let second = if generation.is_multiple_of(2) {
        format!(r#",{{"name":"other","address":"127.0.0.1","port":{other},"protocol":"http"}}"#)
    } else {
        String::new()
    };
    let endpoints = if generation.is_multiple_of(3) {
        format!(
            r#"{{"address":"127.0.0.1","port":{app}}},{{"address":"127.0.0.1","port":{spare},"weight":{}}}"#,
            1 + generation % 7
        )
    } else {
        format!(r#"{{"address":"127.0.0.1","port":{spare}}}"#)
    };
    format!(
        r#"{{"generation":{generation},"listeners":[{{"name":"web","address":"127.0.0.1","port":{listen},"protocol":"http"}}{second}],
        "routes":[{{"name":"r{}","listeners":["web"],"rules":[
            {{"filters":[{{"type":"request-headers","set":[{{"name":"x-generation","value":"{generation}"}}]}}],"backends":[{{"backend":"b"}}]}}]}}],
        "backends":[{{"name":"b","endpoints":[{endpoints}]}}]}}"#,
        generation % 4,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_every_100_ms_under_load_fails_no_request() {
    let mut backends = Backends::default();
    let (app, spare) = (backends.echo("app", false).await, backends.echo("spare", false).await);
    let (listen, other) = (port(), port());
    let mut gateway = gateway(&config(1, listen, other, app, spare));
    let stop = Arc::new(AtomicBool::new(false));
    let (good, bad) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for i in 0..8 {
        let (stop, good, bad) = (stop.clone(), good.clone(), bad.clone());
        clients.spawn(async move {
            let mut drivers = JoinSet::new();
            while !stop.load(Ordering::Relaxed) {
                let stream = TcpStream::connect(loopback(listen)).await.unwrap();
                let (mut sender, driver) =
                    hyper::client::conn::http1::handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(stream))
                        .await
                        .unwrap();
                drivers.spawn(async move {
                    let _ = driver.await;
                });
                // Some clients keep their connection for the whole run, others make new ones.
                let requests = if i % 2 == 0 { usize::MAX } else { 20 };
                for _ in 0..requests {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let request = Request::get("/").header("host", "a.example").body(Empty::new()).unwrap();
                    let whole = async {
                        let response = sender.send_request(request).await.ok()?;
                        let status = response.status();
                        let body = response.into_body().collect().await.ok()?.to_bytes();
                        (status == 200 && body.ends_with(b"body: 0\n")).then_some(())
                    };
                    match tokio::time::timeout(PATIENCE, whole).await {
                        Ok(Some(())) => good.fetch_add(1, Ordering::Relaxed),
                        _ => bad.fetch_add(1, Ordering::Relaxed),
                    };
                    if sender.ready().await.is_err() {
                        break;
                    }
                }
            }
        });
    }
    let started = Instant::now();
    let mut generation = 1;
    while started.elapsed() < length() {
        generation += 1;
        apply(&mut gateway, &config(generation, listen, other, app, spare));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    while clients.join_next().await.is_some() {}
    let (good, bad) = (good.load(Ordering::Relaxed), bad.load(Ordering::Relaxed));
    println!("{generation} configurations, {good} requests, {bad} failed");
    assert!(generation > 20 && good > 200);
    assert_eq!(bad, 0, "of {}", good + bad);
}

#[tokio::test]
async fn a_removed_listener_refuses_new_connections_and_lets_running_ones_end() {
    let mut backends = Backends::default();
    let echo = backends
        .raw(|mut stream| async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
        .await;
    let (listen, web) = (port(), port());
    let with = format!(
        r#"{{"generation":1,"listeners":[{{"name":"l","address":"127.0.0.1","port":{listen},"protocol":"tcp"}}],
        "routes":[{{"name":"r","listeners":["l"],"rules":[{{"backends":[{{"backend":"b"}}]}}]}}],
        "backends":[{{"name":"b","endpoints":[{{"address":"127.0.0.1","port":{echo}}}]}}]}}"#
    );
    let mut gateway = gateway(&with);
    let mut running = TcpStream::connect(loopback(listen)).await.unwrap();
    let mut buffer = [0; 4];
    running.write_all(b"ping").await.unwrap();
    tokio::time::timeout(PATIENCE, running.read_exact(&mut buffer)).await.unwrap().unwrap();
    apply(
        &mut gateway,
        &format!(
            r#"{{"generation":2,"listeners":[{{"name":"w","address":"127.0.0.1","port":{web},"protocol":"http"}}]}}"#
        ),
    );
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(TcpStream::connect(loopback(listen)).await.is_err(), "the port is closed");
    running.write_all(b"pong").await.unwrap();
    tokio::time::timeout(PATIENCE, running.read_exact(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer, b"pong");
    assert!(!gateway.drain(Duration::from_millis(300)).await, "a connection is still open");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_changes_nothing() {
    let mut backends = Backends::default();
    let app = backends.echo("app", false).await;
    let (listen, other) = (port(), port());
    let mut gateway = gateway(&config(1, listen, other, app, app));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let occupied = config(2, listen, taken.local_addr().unwrap().port(), app, app);
    let parsed = meshd_gateway::GatewayConfig::from_json(&occupied).unwrap();
    let error = gateway.apply(&parsed, &meshd_gateway::tls::NoneIssued).unwrap_err().to_string();
    assert!(error.contains("cannot listen on 127.0.0.1:"), "{error}");
    assert_eq!(gateway.shared().active.load().table.generation, 1);
    assert!(fixture::get(listen, "a.example", "/").await.contains("x-generation: 1\n"));
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_open_connections_stay() {
    let mut backends = Backends::default();
    let app = backends.echo("app", false).await;
    let (old, new) = (certificate(&["a.example"]), certificate(&["a.example"]));
    let listen = port();
    let with = |generation: u64, pair: &(String, String)| {
        format!(
            r#"{{"generation":{generation},"listeners":[{{"name":"l","address":"127.0.0.1","port":{listen},"protocol":"https","tls":{{"certificates":["c"]}}}}],
            "routes":[{{"name":"r","listeners":["l"],"rules":[{{"backends":[{{"backend":"b"}}]}}]}}],
            "backends":[{{"name":"b","endpoints":[{{"address":"127.0.0.1","port":{app}}}]}}],
            "certificates":[{{"name":"c","chain_pem":{},"key_pem":{}}}]}}"#,
            quoted(&pair.0),
            quoted(&pair.1)
        )
    };
    let mut gateway = gateway(&with(1, &old));
    let connect = async |root: &str| {
        let stream = TcpStream::connect(loopback(listen)).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("a.example").unwrap();
        client(&[root], &[b"http/1.1"]).connect(name, stream).await
    };
    let mut standing = connect(&old.0).await.unwrap();
    apply(&mut gateway, &with(2, &new));
    assert!(connect(&new.0).await.is_ok());
    assert!(connect(&old.0).await.is_err());
    standing.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, standing.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}
