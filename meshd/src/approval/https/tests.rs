//! A server on loopback that shows a self-made certificate and says what a test wants it to say.

use super::*;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivateKeyDer;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream as Tcp};
use std::thread::{self, JoinHandle};

const BODY: &[u8] = br#"{"secret":"s3cret"}"#;
/// More than a test needs on any machine.
const PATIENCE: Duration = Duration::from_secs(10);

type Stream = StreamOwned<ServerConnection, Tcp>;

/// Whom to ask, and what the server will have heard when all is over.
struct Server {
    place: Place,
    heard: JoinHandle<String>,
}

impl Server {
    /// Listens for one client, hears its question and goes on with `speak`.
    fn start(speak: impl FnOnce(&mut Stream) + Send + 'static) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let fingerprint = Sha256::digest(&certificate).into();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let (listener, place) = listen(Some(fingerprint));
        let heard = thread::spawn(move || {
            let tcp = listener.accept().unwrap().0;
            tcp.set_read_timeout(Some(PATIENCE)).unwrap();
            tcp.set_write_timeout(Some(PATIENCE)).unwrap();
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), tcp);
            let question = hear(&mut stream);
            if !question.is_empty() {
                speak(&mut stream);
            }
            listener.set_nonblocking(true).unwrap();
            assert!(listener.accept().is_err(), "one connection for a question");
            question
        });
        Self { place, heard }
    }

    /// Says `answer` and takes leave as TLS wants it.
    fn answers(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |stream| {
            // The client may have heard enough before all is said.
            let _ = stream.write_all(&answer);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        })
    }

    /// Says `answer` and is gone without a farewell.
    fn cut_off(answer: &'static str) -> Self {
        Self::start(|stream| stream.write_all(answer.as_bytes()).unwrap())
    }

    fn post(self) -> Result<(u16, String), HttpsError> {
        self.post_and_hear().0
    }

    fn post_and_hear(self) -> (Result<(u16, String), HttpsError>, String) {
        let answer = post(&self.place, "/api/v1/join-requests", BODY);
        let answer = answer.map(|(status, body)| (status, String::from_utf8(body.to_vec()).unwrap()));
        (answer, self.heard.join().unwrap())
    }
}

fn listen(fingerprint: Option<[u8; 32]>) -> (TcpListener, Place) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, Place { host: "127.0.0.1".to_owned(), port, fingerprint })
}

/// The whole question; nothing when the client went away instead.
fn hear(stream: &mut Stream) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(BODY) {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => heard.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8(heard).unwrap()
}

fn ok(body: &str) -> Option<(u16, String)> {
    Some((200, body.to_owned()))
}

#[test]
fn the_question_is_sent_whole_to_the_server_with_the_named_certificate() {
    let server = Server::answers("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nset-cookie: a=b\r\n\r\n{}");
    let authority = server.place.authority();
    let (answer, heard) = server.post_and_hear();
    assert_eq!(answer.ok(), ok("{}"));
    let (head, body) = heard.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.as_bytes(), BODY);
    let mut lines: Vec<String> = head.lines().map(str::to_ascii_lowercase).collect();
    lines[1..].sort();
    assert_eq!(
        lines,
        [
            "post /api/v1/join-requests http/1.1".to_owned(),
            "accept: application/json".to_owned(),
            "connection: close".to_owned(),
            format!("content-length: {}", BODY.len()),
            "content-type: application/json".to_owned(),
            format!("host: {authority}"),
        ]
    );
}

#[test]
fn answers_are_read_with_a_length_in_chunks_or_to_the_end() {
    for (answer, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd", "abcd"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", "abcd"),
        ("HTTP/1.1 200 OK\r\n\r\nabcd", "abcd"),
        ("HTTP/1.0 200 OK\r\n\r\nabcd", "abcd"),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", ""),
    ] {
        assert_eq!(Server::answers(answer).post().ok(), ok(body), "{answer}");
    }
    let whole = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd";
    assert_eq!(Server::cut_off(whole).post().ok(), ok("abcd"), "its length says that it is whole");
}

#[test]
fn a_redirect_is_an_answer_as_any_other() {
    let answer = "HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(Server::answers(answer).post().ok(), Some((307, String::new())));
}

#[test]
fn the_largest_answer_is_taken_and_a_larger_one_is_not() {
    let with_length = |n: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {n}\r\n\r\n{}", "x".repeat(n));
    let to_the_end = |n: usize| format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(n));
    let in_chunks = |n: usize| {
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            "4\r\nxxxx\r\n".repeat(n / 4)
        )
    };
    for answer in [with_length, to_the_end, in_chunks] as [fn(usize) -> String; 3] {
        let (_, body) = Server::answers(answer(MAX_ANSWER)).post().unwrap();
        assert_eq!(body.len(), MAX_ANSWER);
        let refused = Server::answers(answer(MAX_ANSWER + 4)).post();
        assert!(matches!(refused, Err(HttpsError::NotHttp)), "{refused:?}");
    }
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(2 * MAX_ANSWER));
    let refused = Server::answers(head).post();
    assert!(matches!(refused, Err(HttpsError::NotHttp)), "{refused:?}");
}

#[test]
fn an_answer_that_was_cut_off_is_a_lost_connection() {
    for half in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        for server in [Server::answers(half), Server::cut_off(half)] {
            let lost = server.post();
            assert!(matches!(lost, Err(HttpsError::Lost(_))), "{half}: {lost:?}");
        }
    }
    // Nobody can tell where this one should have ended: RFC 9112 §9.8.
    let lost = Server::cut_off("HTTP/1.1 200 OK\r\n\r\nabc").post();
    assert!(matches!(lost, Err(HttpsError::Lost(_))), "{lost:?}");
}

#[test]
fn a_server_that_says_something_else_does_not_speak_http() {
    for other in [
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\nabc",
    ] {
        let refused = Server::answers(other).post();
        assert!(matches!(refused, Err(HttpsError::NotHttp)), "{other}: {refused:?}");
    }
}

#[test]
fn a_server_without_tls_and_one_that_is_not_there_are_told_apart() {
    let (listener, place) = listen(None);
    let server = thread::spawn(move || {
        let mut tcp = listener.accept().unwrap().0;
        tcp.write_all(b"SSH-2.0-x\r\n").unwrap();
        // It listens on, so that what it said arrives before any end.
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = tcp.read_to_end(&mut Vec::new());
    });
    let lost = post(&place, "/", BODY).map(|(status, _)| status);
    assert!(matches!(lost, Err(HttpsError::Lost(_))), "{lost:?}");
    server.join().unwrap();
    let away = post(&place, "/", BODY).map(|(status, _)| status);
    assert!(matches!(away, Err(HttpsError::Connect(_))), "{away:?}");
}

#[test]
fn another_certificate_than_the_named_one_is_told_by_its_fingerprint_and_gets_no_question() {
    for named in [Some([7; 32]), None] {
        let mut server = Server::answers("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        let shown = std::mem::replace(&mut server.place.fingerprint, named).unwrap();
        let place = server.place.clone();
        let (answer, heard) = server.post_and_hear();
        assert_eq!(heard, "", "nothing was sent");
        let error = answer.unwrap_err();
        assert!(matches!(&error, HttpsError::Untrusted { seen, .. } if *seen == shown), "{error:?}");
        let told = error.into_cli(&place);
        assert!(told.hint.contains(&hex(&shown)), "{}", told.hint);
        let expected = if named.is_some() { "shows another certificate" } else { "cannot be trusted" };
        assert!(told.message.contains(expected), "{}", told.message);
    }
}

#[test]
fn a_server_that_falls_silent_costs_no_more_than_the_time_limit() {
    let server = Server::start(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").unwrap();
        let _ = stream.read(&mut [0]);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = Duration::from_secs(1);
    let silent = runtime.block_on(post_within(limit, &server.place, "/", BODY)).map(|(status, _)| status);
    assert!(
        matches!(&silent, Err(HttpsError::Lost(e)) if e.to_string() == "no answer within 1 s"),
        "{silent:?}"
    );
    // The connection goes with its runtime, and the server sees it.
    drop(runtime);
    server.heard.join().unwrap();
}
