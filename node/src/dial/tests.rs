//! Ways through what stands between a node and its coordinator, on loopback.

use super::*;
use meshd_relay::stream::upgrade::{CONTROL, Form, accept, websocket_accept};
use meshd_relay::stream::websocket::{Role, WebSocket};
use std::sync::Arc;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A name that only the proxy of a test knows.
const NAME: &str = "coordinator.invalid:443";

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["of-nobody-in-particular".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

async fn head(io: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap_or_default()
}

/// Serves TLS, and behind it WebSocket and nothing else, as some reverse proxies do.
async fn websocket_only(listener: TcpListener) {
    let (tls, mut tasks) = (acceptor(), JoinSet::new());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let tls = tls.clone();
        tasks.spawn(async move {
            let Ok(mut io) = tls.accept(stream).await else { return };
            let head = head(&mut io).await;
            let key = head.lines().find_map(|l| l.strip_prefix("Sec-WebSocket-Key: ")).map(str::to_owned);
            let Some(key) = key else {
                let _ = io.write_all(b"HTTP/1.1 426 Upgrade Required\r\n\r\n").await;
                return;
            };
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                websocket_accept(&key)
            );
            io.write_all(answer.as_bytes()).await.unwrap();
            greet(WebSocket::new(io, Role::Server, Vec::new())).await;
        });
    }
}

async fn greet(mut io: impl meshd_relay::stream::Io) {
    let _ = io.write_all(b"hello").await;
    let _ = io.flush().await;
    let _ = io.read_u8().await;
}

/// A plain server of the protocol, in both forms.
async fn plain(listener: TcpListener) {
    let mut tasks = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tasks.spawn(async move {
            if let Ok(io) = accept(stream, CONTROL).await {
                greet(io).await;
            }
        });
    }
}

/// Grants CONNECT to [`NAME`] for who has the password, and lets nothing else through. With `intercept` it
/// ends TLS itself and begins another one.
async fn proxy(listener: TcpListener, target: SocketAddr, intercept: bool, asked: Arc<Mutex<Vec<String>>>) {
    let (tls, mut tasks) = (acceptor(), JoinSet::new());
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (asked, tls) = (asked.clone(), tls.clone());
        tasks.spawn(async move {
            let head = head(&mut stream).await;
            asked.lock().unwrap().push(head.clone());
            if !head.contains("\r\nProxy-Authorization: Basic dTpw\r\n") {
                let _ = stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
                return;
            }
            if !head.starts_with(&format!("CONNECT {NAME} ")) {
                let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
                return;
            }
            let mut far = TcpStream::connect(target).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            if intercept {
                let Ok(mut near) = tls.accept(stream).await else { return };
                let mut far = tls::connect(Box::new(far), "coordinator.invalid").await.unwrap();
                let _ = copy_bidirectional(&mut near, &mut far).await;
            } else {
                let _ = copy_bidirectional(&mut stream, &mut far).await;
            }
        });
    }
}

async fn open(dialer: &mut Dialer, name: &str) -> Result<String, DialError> {
    let hear = |mut io: BoxIo, at: String| async move {
        let mut got = [0; 5];
        io.read_exact(&mut got).await.map_err(|source| DialError::Io { at, source })?;
        Ok(String::from_utf8_lossy(&got).into_owned())
    };
    let opened = timeout(Duration::from_secs(20), dialer.open(&[name.to_owned()], CONTROL, hear)).await;
    opened.expect("bounded").map(|(got, _)| got)
}

#[tokio::test]
async fn the_straight_way_is_taken_where_it_is_open() {
    let ((listener, at), mut tasks) = (listen().await, JoinSet::new());
    tasks.spawn(plain(listener));
    let mut dialer = Dialer::new(None, None, OutsideNames::of_host());
    assert_eq!(open(&mut dialer, &at.to_string()).await.unwrap(), "hello");
    assert_eq!(dialer.worked(), Some(&Way { tls: false, form: Form::Upgrade }));
}

#[tokio::test]
async fn a_reverse_proxy_that_passes_websocket_in_tls_only_is_passed_and_remembered() {
    let ((listener, at), mut tasks) = (listen().await, JoinSet::new());
    tasks.spawn(websocket_only(listener));
    let mut dialer = Dialer::new(None, None, OutsideNames::of_host());
    assert_eq!(open(&mut dialer, &at.to_string()).await.unwrap(), "hello");
    let way = Way { tls: true, form: Form::WebSocket };
    assert_eq!(dialer.worked(), Some(&way));
    let target = Target::direct(&at.to_string(), at);
    let order = plan::attempts(vec![target.clone()], dialer.worked.as_ref());
    assert_eq!(order[0], (target, way), "next time first");
    assert_eq!(order.len(), 4, "and not twice");
    assert_eq!(open(&mut dialer, &at.to_string()).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_proxy_is_used_with_its_password_and_resolves_the_name_itself() {
    for intercept in [false, true] {
        let (((server, at), (listener, proxy_at)), mut tasks) =
            ((listen().await, listen().await), JoinSet::new());
        let asked = Arc::new(Mutex::new(Vec::new()));
        tasks.spawn(websocket_only(server));
        tasks.spawn(proxy(listener, at, intercept, asked.clone()));
        // A proxy on loopback is none for loopback, but the name is not there.
        let settings = Proxy::parse(&format!("http://u:p@{proxy_at}"), "").unwrap();
        let mut dialer = Dialer::new(None, Some(settings), OutsideNames::of_host());
        assert_eq!(open(&mut dialer, NAME).await.unwrap(), "hello", "intercepted: {intercept}");
        assert!(!asked.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn when_nothing_works_the_most_telling_failure_is_told() {
    let (((server, at), (listener, proxy_at)), mut tasks) =
        ((listen().await, listen().await), JoinSet::new());
    tasks.spawn(plain(server));
    tasks.spawn(proxy(listener, at, false, Arc::default()));
    let settings = Proxy::parse(&format!("http://u:wrong@{proxy_at}"), "").unwrap();
    let mut dialer = Dialer::new(None, Some(settings), OutsideNames::of_host());
    let error = open(&mut dialer, NAME).await.unwrap_err().to_string();
    assert!(error.contains("407") && error.contains("through the proxy"), "{error}");
    assert!(!error.contains("wrong"), "{error}");
}

#[test]
fn every_way_is_tried_for_all_targets_before_the_next_way() {
    let targets = vec![Target::through_proxy("a:1"), Target::direct("a:1", ([192, 0, 2, 1], 1).into())];
    let order = plan::attempts(targets.clone(), None);
    assert_eq!(order.len(), 8);
    assert_eq!((&order[0].0, &order[1].0), (&targets[0], &targets[1]));
    assert!(order[0].1.tls && !order[1].1.tls);
    assert_eq!(targets[0].host(), "a");
    assert_eq!(Target::through_proxy("[2001:db8::1]:443").host(), "2001:db8::1");
}
