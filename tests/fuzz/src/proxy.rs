//! What clients say to the proxies of userspace mode.
//!
//! The parsers are pure files of `meshd-node`; they are built here by themselves, so that a fuzzer need
//! not carry the rest of that crate.

#[path = "../../../node/src/proxy/http.rs"]
#[expect(unreachable_pub, dead_code, reason = "public in its own crate, used by that as a whole")]
mod http;
#[path = "../../../node/src/proxy/socks5.rs"]
#[expect(unreachable_pub, dead_code, reason = "public in its own crate, used by that as a whole")]
mod socks5;
#[path = "../../../node/src/userspace/target.rs"]
#[expect(unreachable_pub, reason = "public in its own crate")]
mod target;

use socks5::Parsed;
use target::{Host, Target};

/// First byte: which message. What is accepted ends inside the input, does not depend on what follows
/// it, and nothing shorter is accepted.
pub fn socks5(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 4 {
        0 => settles(bytes, socks5::greeting),
        1 => settles(bytes, socks5::password),
        2 => settles(bytes, socks5::request),
        _ => settles(bytes, socks5::datagram),
    }
    if let Ok(Parsed::Done(request, _)) = socks5::request(bytes) {
        named(&request.target);
    }
}

fn settles<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<Parsed<T>, socks5::SocksError>,
) {
    let Ok(Parsed::Done(message, len)) = parse(bytes) else { return };
    assert!(len <= bytes.len() && len <= socks5::LONGEST);
    assert_eq!(parse(&bytes[..len]), Ok(Parsed::Done(message, len)));
    for end in 0..len {
        assert_eq!(parse(&bytes[..end]), Ok(Parsed::More), "a message of {len} bytes was taken at {end}");
    }
}

/// The head of a request: what is accepted ends inside the input, and what goes to the other end is one
/// head without anything that was for us.
pub fn http_proxy(data: &[u8]) {
    let Ok(Some(head)) = http::head(data) else { return };
    assert!(head.len <= data.len() && head.len <= http::MAX_HEAD);
    assert_eq!(http::head(&data[..head.len]).as_ref(), Ok(&Some(head.clone())));
    named(&head.target);
    let Some(sent) = head.rewritten else { return };
    assert_eq!(sent.windows(4).filter(|four| four == b"\r\n\r\n").count(), 1);
    assert!(sent.ends_with(b"\r\n\r\n"));
    let lower = sent.to_ascii_lowercase();
    let lines: Vec<&[u8]> = lower.split(|b| *b == b'\n').skip(1).collect();
    assert!(
        !lines.iter().any(|line| line.starts_with(b"proxy-authorization:")),
        "a password goes to the other end"
    );
    assert_eq!(lines.iter().filter(|line| line.starts_with(b"connection:")).count(), 1);
}

/// A target is printed so that it reads as the same one.
fn named(target: &Target) {
    if let Host::Name(name) = &target.host {
        assert!(!name.is_empty() && name.len() <= 254);
        assert_eq!(target::host_of(name.as_bytes()), Some(target.host.clone()));
    }
    assert!(target.to_string().ends_with(&format!(":{}", target.port)));
}
