//! What a gateway reads of strangers before anything is known of them.

use meshd_gateway::wire::client_hello::{self, Hello};
use meshd_gateway::wire::framing::{Framing, Step};
use meshd_gateway::wire::proxy_v2::{self, Header};

/// The first byte says which parser, the second how the bytes are cut.
pub fn gateway_wire(data: &[u8]) {
    let [kind, size, rest @ ..] = data else { return };
    match kind % 3 {
        0 => hello(rest),
        1 => proxy(rest),
        _ => framing(rest, usize::from(*size).max(1)),
    }
}

/// A whole hello needs no more than was there, and less than it is no hello yet.
fn hello(bytes: &[u8]) {
    let Hello::Whole(found) = client_hello::parse(bytes) else { return };
    if let Some(name) = &found.server_name {
        assert!(name.len() <= 253 && name.is_ascii() && *name == name.to_ascii_lowercase());
    }
    let longer = [bytes, &[0; 32]].concat();
    assert_eq!(client_hello::parse(&longer), Hello::Whole(found));
}

/// What is read is written and read again as the same addresses.
fn proxy(bytes: &[u8]) {
    let Header::Whole { addresses, length } = proxy_v2::parse(bytes) else { return };
    assert!(length <= bytes.len() && length <= proxy_v2::MAX_HEADER);
    if let Some((from, to)) = addresses {
        let again = proxy_v2::encode(from, to, false);
        let Header::Whole { addresses: Some(same), .. } = proxy_v2::parse(&again) else {
            panic!("not read back")
        };
        assert_eq!(same, (from, to));
    }
}

/// However the bytes are cut, the same of them pass, unchanged and in order.
fn framing(bytes: &[u8], size: usize) {
    let (whole, reason) = pass(bytes, bytes.len().max(1));
    let (cut, same) = pass(bytes, size);
    assert!(bytes.starts_with(&whole));
    assert_eq!((whole, reason), (cut, same));
}

fn pass(bytes: &[u8], size: usize) -> (Vec<u8>, bool) {
    const MOST: usize = 1 << 16;
    let mut framing = Framing::new(MOST);
    let (mut out, mut kept) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(size) {
        kept.extend_from_slice(piece);
        while !kept.is_empty() {
            match framing.advance(&kept) {
                Step::Release(count) => out.extend(kept.drain(..count)),
                Step::Wait => break,
                Step::Refuse(_) => return (out, true),
            }
        }
        assert!(kept.len() <= MOST);
    }
    (out, false)
}
