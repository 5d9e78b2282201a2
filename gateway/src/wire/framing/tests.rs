use super::*;
use proptest::prelude::*;

const MOST: usize = 8192;

/// The bytes that pass, shown in pieces of `size`, and why the rest did not.
fn pass(bytes: &[u8], size: usize) -> (Vec<u8>, Option<Ambiguous>) {
    let mut framing = Framing::new(MOST);
    let (mut out, mut kept) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(size) {
        kept.extend_from_slice(piece);
        while !kept.is_empty() {
            match framing.advance(&kept) {
                Step::Release(count) => out.extend(kept.drain(..count)),
                Step::Wait => break,
                Step::Refuse(why) => return (out, Some(why)),
            }
        }
        assert!(kept.len() <= MOST + size);
    }
    (out, None)
}

#[test]
fn plain_messages_pass_as_they_are_in_any_pieces() {
    let stream = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nPOST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
        POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5;x=1\r\nhello\r\n0\r\nx-t: 1\r\n\r\n\r\nGET /d HTTP/1.0\r\n\r\n";
    for size in [1, 2, 3, 7, 50, 4096] {
        let (out, why) = pass(stream, size);
        assert_eq!(why, None, "{size}");
        assert_eq!(out, stream, "{size}");
    }
}

#[test]
fn what_two_servers_may_read_in_two_ways_is_refused() {
    let cases: [(&str, Ambiguous); 22] = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", Ambiguous::LengthAndCoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", Ambiguous::LengthAndCoding),
        ("Content-Length: 5\r\nContent-Length: 6", Ambiguous::Length),
        ("Content-Length: 5\r\nContent-Length: 5", Ambiguous::Length),
        ("Content-Length: 5, 5", Ambiguous::Length),
        ("Content-Length: +5", Ambiguous::Length),
        ("Content-Length: 0x5", Ambiguous::Length),
        ("Content-Length:", Ambiguous::Length),
        ("Content-Length: 99999999999999999999", Ambiguous::Length),
        ("Transfer-Encoding: xchunked", Ambiguous::Coding),
        ("Transfer-Encoding: chunked, identity", Ambiguous::Coding),
        ("Transfer-Encoding: gzip, chunked", Ambiguous::Coding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Ambiguous::Coding),
        ("Transfer-Encoding : chunked", Ambiguous::Line),
        (" Transfer-Encoding: chunked", Ambiguous::Line),
        ("X: a\r\n Transfer-Encoding: chunked", Ambiguous::Line),
        ("X: a\nTransfer-Encoding: chunked", Ambiguous::Line),
        ("X: a\rTransfer-Encoding: chunked", Ambiguous::Line),
        ("Transfer-Encoding: \x0bchunked", Ambiguous::Line),
        ("Transfer\0-Encoding: chunked", Ambiguous::Line),
        ("NoColon", Ambiguous::Line),
        ("Host: b", Ambiguous::Host),
    ];
    for (fields, expected) in cases {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        for size in [1, 10, 4096] {
            let (out, why) = pass(request.as_bytes(), size);
            assert_eq!(why, Some(expected), "{fields:?} {size}");
            assert!(out.is_empty(), "{fields:?}");
        }
    }
    for (head, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", Ambiguous::Host),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Ambiguous::Line),
        ("GET / HTTP/1.1\nHost: a\n\n", Ambiguous::Line),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Ambiguous::Coding),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: a, Upgrade\r\nContent-Length: 3\r\n\r\n",
            Ambiguous::LengthAndCoding,
        ),
    ] {
        assert_eq!(pass(head.as_bytes(), 4096).1, Some(expected), "{head:?}");
    }
}

#[test]
fn chunks_are_read_strictly() {
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX0\r\n\r\n",
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "5 \r\n",
        "0x5\r\n",
        "fffffffffffffffff\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "0\r\nA: b\n\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert_eq!(pass(request.as_bytes(), 3).1, Some(Ambiguous::Chunk), "{body:?}");
    }
}

#[test]
fn a_header_without_end_is_refused_at_its_limit() {
    let bomb = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(MOST * 2));
    assert_eq!(pass(bomb.as_bytes(), 1000), (Vec::new(), Some(Ambiguous::TooLong)));
}

#[test]
fn empty_lines_before_a_request_are_whole_and_few_however_they_are_cut() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (before, fine) in [
        ("", true),
        ("\r\n", true),
        ("\r\n\r\n\r\n\r\n", true),
        ("\n", false),
        ("\n\n", false),
        ("\r\r\n", false),
    ] {
        let stream = format!("{before}{request}");
        for size in [1, 2, 3, 4096] {
            let (out, why) = pass(stream.as_bytes(), size);
            assert_eq!(why, (!fine).then_some(Ambiguous::Line), "{before:?} in pieces of {size}");
            assert_eq!(out, if fine { stream.as_bytes() } else { b"" }, "{before:?} in pieces of {size}");
        }
    }
}

#[test]
fn behind_an_upgrade_everything_passes() {
    let stream =
        b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x00\n\n\r";
    assert_eq!(pass(stream, 5), (stream.to_vec(), None));
}

proptest! {
    #[test]
    fn any_bytes_pass_unchanged_or_not_at_all(bytes in proptest::collection::vec(any::<u8>(), 0..600), size in 1usize..64) {
        let whole: Vec<u8> = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".iter().copied().chain(bytes).collect();
        let (out, why) = pass(&whole, size);
        prop_assert!(whole.starts_with(&out));
        let (again, same) = pass(&whole, 4096);
        prop_assert_eq!(out, again);
        prop_assert_eq!(why, same);
    }
}
