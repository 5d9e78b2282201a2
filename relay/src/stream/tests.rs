use super::upgrade::{CONTROL, Form, RELAY, accept, connect, request};
use super::websocket::{Role, WebSocket};
use super::*;
use tokio::io::duplex;

async fn round_trip(form: Form) {
    let (near, far) = duplex(700);
    let server = async {
        let mut io = accept(far, RELAY).await.unwrap();
        let mut all = vec![0; 200_000];
        io.read_exact(&mut all).await.unwrap();
        all.reverse();
        io.write_all(&all).await.unwrap();
        io.shutdown().await.unwrap();
    };
    let client = async {
        let io = request(near, "relay.example:443", RELAY, form).await.unwrap();
        let sent: Vec<u8> = (0..200_000u32).map(|i| (i * 7) as u8).collect();
        let (mut reader, mut writer) = tokio::io::split(io);
        let write = async {
            writer.write_all(&sent).await.unwrap();
            writer.flush().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(write, reader.read_to_end(&mut got));
        read.unwrap();
        got.reverse();
        assert!(got == sent);
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn bytes_pass_both_ways_through_an_upgrade_and_through_a_websocket() {
    round_trip(Form::Upgrade).await;
    round_trip(Form::WebSocket).await;
}

#[tokio::test]
async fn another_path_or_another_protocol_is_refused() {
    let (near, far) = duplex(4096);
    let (asked, answered) = tokio::join!(request(near, "h", CONTROL, Form::Upgrade), accept(far, RELAY));
    assert!(answered.is_err());
    let Err(error) = asked else { panic!("accepted") };
    assert!(error.to_string().contains("404"), "{error}");
}

#[test]
fn the_answer_to_a_websocket_key_is_that_of_the_rfc() {
    // RFC 6455 §1.3.
    let answer = upgrade::websocket_accept("dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[tokio::test]
async fn a_proxy_opens_a_tunnel_or_says_why_not() {
    let proxy = |answer: &'static str| async move {
        let (near, mut far) = duplex(4096);
        let serve = async {
            let mut head = vec![0; 1024];
            let n = far.read(&mut head).await.unwrap();
            far.write_all(answer.as_bytes()).await.unwrap();
            (String::from_utf8(head[..n].to_vec()).unwrap(), far)
        };
        let (asked, (head, _far)) = tokio::join!(connect(near, "vpn.example:443", Some("Basic eA==")), serve);
        assert!(head.starts_with("CONNECT vpn.example:443 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nProxy-Authorization: Basic eA==\r\n"), "{head}");
        match asked {
            Ok(mut io) => {
                let mut early = [0; 5];
                io.read_exact(&mut early).await.unwrap();
                String::from_utf8(early.to_vec()).unwrap()
            }
            Err(e) => e.to_string(),
        }
    };
    assert_eq!(proxy("HTTP/1.1 200 Connection established\r\n\r\nearly").await, "early");
    let refused = proxy("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    assert!(refused.contains("407"), "{refused}");
    assert!(proxy("\u{15}\u{3}\u{1}").await.contains("does not speak HTTP"));
}

/// What a WebSocket makes of raw bytes.
async fn reads(role: Role, bytes: &[u8]) -> (io::Result<Vec<u8>>, Vec<u8>) {
    let (near, mut far) = duplex(64 * 1024);
    far.write_all(bytes).await.unwrap();
    let mut socket = WebSocket::new(near, role, Vec::new());
    far.shutdown().await.unwrap();
    let mut got = Vec::new();
    let result = socket.read_to_end(&mut got).await.map(|_| got);
    drop(socket);
    let mut answered = Vec::new();
    far.read_to_end(&mut answered).await.unwrap();
    (result, answered)
}

#[tokio::test]
async fn fragments_join_pings_are_answered_and_a_close_is_returned() {
    let stream = [
        &[0x02, 3][..],
        b"abc", // a binary message begins
        &[0x89, 2],
        b"hi", // a ping in the midst of it
        &[0x80, 2],
        b"de",                  // its last fragment
        &[0x82, 0],             // an empty message
        &[0x88, 2, 0x03, 0xe8], // goodbye
        &[0x82, 1],
        b"x", // nobody listens any more
    ]
    .concat();
    let (got, answered) = reads(Role::Client, &stream).await;
    assert_eq!(got.unwrap(), b"abcde");
    assert_eq!((answered[0], answered[1]), (0x8a, 0x80 | 2), "a masked pong");
    let unmasked: Vec<u8> = answered[6..8].iter().zip(&answered[2..6]).map(|(a, b)| a ^ b).collect();
    assert_eq!(unmasked, b"hi");
    assert_eq!(answered[8], 0x88);
}

#[tokio::test]
async fn what_no_websocket_may_send_ends_the_stream() {
    for (role, bytes, what) in [
        (Role::Client, &[0x81, 1, b'x'][..], "text"),
        (Role::Client, &[0xc2, 1, b'x'], "a reserved bit"),
        (Role::Client, &[0x82, 0x81, 0, 0, 0, 0, b'x'], "a masked frame from a server"),
        (Role::Server, &[0x82, 1, b'x'], "an unmasked frame from a client"),
        (Role::Client, &[0x89, 126, 0, 200], "a long ping"),
        (Role::Client, &[0x09, 0], "a ping in fragments"),
    ] {
        assert!(reads(role, bytes).await.0.is_err(), "{what}");
    }
    let huge = [&[0x82, 127][..], &u64::MAX.to_be_bytes(), b"abc"].concat();
    assert_eq!(reads(Role::Client, &huge).await.0.unwrap(), b"abc", "a length costs nothing");
}

#[test]
fn frames_are_cut_out_wherever_the_stream_is_cut() {
    let frames: Vec<Vec<u8>> = vec![vec![1; 3], vec![], vec![2; MAX_FRAME], vec![3; 100]];
    let mut bytes = Vec::new();
    frames.iter().for_each(|f| put_frame(f, &mut bytes));
    for step in [1, 2, 7, 5000] {
        let (mut reader, mut got) = (FrameReader::default(), Vec::new());
        for piece in bytes.chunks(step) {
            reader.push(piece);
            while let Some(frame) = reader.next_frame().unwrap() {
                got.push(frame.to_vec());
            }
        }
        assert_eq!(got, frames);
    }
    let mut reader = FrameReader::default();
    reader.push(&[0xff, 0xff]);
    assert!(reader.next_frame().is_err());
}
