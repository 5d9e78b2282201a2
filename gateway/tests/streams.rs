//! TCP, UDP, TLS by server name and PROXY v2 through a gateway on loopback.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod fixture;

use fixture::{Backends, PATIENCE, certificate, client, gateway, loopback, port, quoted, talk};
use meshd_gateway::wire::proxy_v2;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;

fn stream_config(listen: u16, protocol: &str, more: &str, backend: u16, backend_more: &str) -> String {
    format!(
        r#"{{"generation":1,"listeners":[{{"name":"l","address":"127.0.0.1","port":{listen},"protocol":"{protocol}"{more}}}],
        "routes":[{{"name":"r","listeners":["l"],"rules":[{{"backends":[{{"backend":"b"}}]}}]}}],
        "backends":[{{"name":"b","endpoints":[{{"address":"127.0.0.1","port":{backend}}}]{backend_more}}}]}}"#
    )
}

/// Answers what it got, with the number of bytes, when the client has ended its half.
async fn count(mut stream: TcpStream) {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    let head = String::from_utf8_lossy(&all[..all.len().min(5)]).into_owned();
    let _ = stream.write_all(format!("{} bytes, {head}", all.len()).as_bytes()).await;
}

#[tokio::test]
async fn tcp_is_carried_whole_and_a_half_can_be_closed() {
    let mut backends = Backends::default();
    let backend = backends.raw(count).await;
    let listen = port();
    let gateway = gateway(&stream_config(listen, "tcp", "", backend, ""));
    let mut stream = TcpStream::connect(loopback(listen)).await.unwrap();
    stream.write_all(&vec![b'x'; 3_000_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "3000000 bytes, xxxxx");
    assert!(gateway.drain(PATIENCE).await);
}

#[tokio::test]
async fn an_idle_connection_and_too_many_of_one_source_end() {
    let mut backends = Backends::default();
    let backend = backends.raw(count).await;
    let listen = port();
    let limits = r#","limits":{"idle_timeout_ms":200,"connections_per_source":2}"#;
    let _gateway = gateway(&stream_config(listen, "tcp", limits, backend, ""));
    let mut first = TcpStream::connect(loopback(listen)).await.unwrap();
    let _second = TcpStream::connect(loopback(listen)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut third = TcpStream::connect(loopback(listen)).await.unwrap();
    let mut end = Vec::new();
    let refused = tokio::time::timeout(PATIENCE, third.read_to_end(&mut end)).await.unwrap();
    assert!(refused.is_err() || end.is_empty());
    let idle = tokio::time::timeout(PATIENCE, first.read_to_end(&mut end)).await.unwrap();
    assert!(idle.is_err() || end.is_empty(), "{end:?}");
}

#[tokio::test]
async fn proxy_headers_name_the_client_on_both_sides() {
    let mut backends = Backends::default();
    let backend = backends
        .raw(|mut stream| async move {
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all).await;
            let text = match proxy_v2::parse(&all) {
                proxy_v2::Header::Whole { addresses: Some((from, to)), length } => {
                    format!("{from} {to} {}", String::from_utf8_lossy(&all[length..]))
                }
                other => format!("{other:?}"),
            };
            let _ = stream.write_all(text.as_bytes()).await;
        })
        .await;
    let listen = port();
    let _gateway = gateway(&stream_config(
        listen,
        "tcp",
        r#","proxy_from":["127.0.0.1/32"]"#,
        backend,
        r#","send_proxy":true"#,
    ));
    let ask = async |bytes: Vec<u8>| {
        let mut stream = TcpStream::connect(loopback(listen)).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().map(|_| answer)
    };
    let mut sent =
        proxy_v2::encode("192.0.2.7:4000".parse().unwrap(), "198.51.100.1:443".parse().unwrap(), false);
    sent.extend(b"hello");
    assert_eq!(ask(sent).await.unwrap(), "192.0.2.7:4000 198.51.100.1:443 hello");
    // Without the header nothing is forwarded.
    assert_eq!(ask(b"hello, world".to_vec()).await.unwrap_or_default(), "");
}

#[tokio::test]
async fn udp_sessions_are_their_clients_own() {
    let mut backends = Backends::default();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let backend = socket.local_addr().unwrap().port();
    backends.spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let text = format!("{} via {}", String::from_utf8_lossy(&buffer[..length]), from.port());
            let _ = socket.send_to(text.as_bytes(), from).await;
        }
    });
    let listen = port();
    let _gateway =
        gateway(&stream_config(listen, "udp", r#","limits":{"connections_per_source":2}"#, backend, ""));
    let ask = async |socket: &UdpSocket, text: &str| {
        let mut buffer = [0; 2048];
        socket.send_to(text.as_bytes(), loopback(listen)).await.unwrap();
        let (length, _) =
            tokio::time::timeout(Duration::from_secs(3), socket.recv_from(&mut buffer)).await.ok()?.unwrap();
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let (a, b, c) = (
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
    );
    let first = ask(&a, "one").await.unwrap();
    let other = ask(&b, "two").await.unwrap();
    assert!(first.starts_with("one via ") && other.starts_with("two via "));
    assert_ne!(first[8..], other[8..]);
    assert_eq!(ask(&a, "one").await.unwrap(), first, "the session is kept");
    assert_eq!(ask(&c, "three").await, None, "a third session of one source is over its limit");
}

/// A TLS server that answers with its name.
async fn tls_backend(backends: &mut Backends, name: &'static str, certificate: &(String, String)) -> u16 {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let config = rustls::ServerConfig::builder_with_provider(meshd_gateway::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.0.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(certificate.1.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
    backends
        .raw(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 4096];
                let Ok(1..) = stream.read(&mut buffer).await else { return };
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        })
        .await
}

async fn over_tls(listen: u16, sni: &str, root: &str, request: &str) -> std::io::Result<String> {
    let stream = TcpStream::connect(loopback(listen)).await?;
    let name = rustls::pki_types::ServerName::try_from(sni.to_owned()).unwrap();
    let mut stream = tokio::time::timeout(PATIENCE, client(&[root], &[b"http/1.1"]).connect(name, stream))
        .await
        .unwrap()?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn one_port_passes_tls_through_by_name_and_ends_it_for_another() {
    let mut backends = Backends::default();
    let (home, own, wild) =
        (certificate(&["a.home.example"]), certificate(&["own.example"]), certificate(&["*.wild.example"]));
    let passed = tls_backend(&mut backends, "home", &home).await;
    let app = backends.echo("app", false).await;
    let listen = port();
    let json = format!(
        r#"{{"generation":1,"listeners":[
        {{"name":"pass","address":"127.0.0.1","port":{listen},"protocol":"tls","hostnames":["*.home.example"]}},
        {{"name":"end","address":"127.0.0.1","port":{listen},"protocol":"https","hostnames":["own.example","*.wild.example"],"tls":{{"certificates":["own","wild"]}}}}],
        "routes":[{{"name":"home","listeners":["pass"],"rules":[{{"backends":[{{"backend":"home"}}]}}]}},
                  {{"name":"app","listeners":["end"],"rules":[{{"backends":[{{"backend":"app"}}]}}]}}],
        "backends":[{{"name":"home","endpoints":[{{"address":"127.0.0.1","port":{passed}}}]}},
                    {{"name":"app","endpoints":[{{"address":"127.0.0.1","port":{app}}}]}}],
        "certificates":[{{"name":"own","chain_pem":{},"key_pem":{}}},{{"name":"wild","chain_pem":{},"key_pem":{}}}]}}"#,
        quoted(&own.0),
        quoted(&own.1),
        quoted(&wild.0),
        quoted(&wild.1)
    );
    let _gateway = gateway(&json);
    // Passed through: the certificate is the backend's own.
    assert!(
        over_tls(listen, "a.home.example", &home.0, &get("a.home.example")).await.unwrap().ends_with("home")
    );
    let ended = over_tls(listen, "own.example", &own.0, &get("own.example")).await.unwrap();
    assert!(ended.contains("app GET /\n") && ended.contains("x-forwarded-proto: https\n"), "{ended}");
    assert!(
        over_tls(listen, "x.wild.example", &wild.0, &get("x.wild.example"))
            .await
            .unwrap()
            .contains("app GET")
    );
    // The name of the connection decides, whatever the request says.
    assert!(
        over_tls(listen, "own.example", &own.0, &get("a.home.example"))
            .await
            .unwrap()
            .starts_with("HTTP/1.1 421")
    );
    assert!(
        over_tls(listen, "own.example", &own.0, &get("unknown.example"))
            .await
            .unwrap()
            .starts_with("HTTP/1.1 404")
    );
    // By address: the default certificate, and the page by Host.
    let stream = TcpStream::connect(loopback(listen)).await.unwrap();
    let address = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let refused = client(&[&own.0], &[]).connect(address, stream).await.unwrap_err();
    assert!(refused.to_string().contains("not valid for name"), "a certificate was shown: {refused}");
    // What is no TLS, or stops within the hello, is closed.
    assert_eq!(talk(listen, b"GET / HTTP/1.1\r\nHost: own.example\r\n\r\n").await, "");
    assert_eq!(talk(listen, &[22, 3, 1, 0, 0]).await, "");
}

#[tokio::test]
async fn a_port_that_only_passes_through_closes_on_unknown_names() {
    let mut backends = Backends::default();
    let home = certificate(&["home.example"]);
    let passed = tls_backend(&mut backends, "home", &home).await;
    let listen = port();
    let _gateway = gateway(&stream_config(listen, "tls", r#","hostnames":["home.example"]"#, passed, ""));
    assert!(over_tls(listen, "home.example", &home.0, &get("home.example")).await.unwrap().ends_with("home"));
    assert!(over_tls(listen, "other.example", &home.0, &get("home.example")).await.is_err());
}

#[tokio::test]
async fn tls_to_a_backend_is_verified_against_its_own_authority() {
    let mut backends = Backends::default();
    let (right, wrong) = (certificate(&["inner.example"]), certificate(&["inner.example"]));
    let backend = tls_backend(&mut backends, "inner", &right).await;
    let config = |listen: u16, name: &str, ca: &str| {
        stream_config(
            listen,
            "http",
            "",
            backend,
            &format!(r#","tls":{{"server_name":"{name}","ca_pem":{}}}"#, quoted(ca)),
        )
    };
    for (name, ca, expected) in [
        ("inner.example", &right.0, "HTTP/1.1 200"),
        ("inner.example", &wrong.0, "HTTP/1.1 502"),
        ("other.example", &right.0, "HTTP/1.1 502"),
    ] {
        let listen = port();
        let _gateway = gateway(&config(listen, name, ca));
        let answer = talk(listen, get("a.example").as_bytes()).await;
        assert!(answer.starts_with(expected), "{name}: {answer}");
    }
}
