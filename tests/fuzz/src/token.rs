//! Join tokens, as text and as the addresses in them.

use meshd_proto::NetworkId;
use meshd_proto::token::{JoinToken, KeysHash, TokenSecret};

/// First byte even: a text, as somebody pastes it. Odd: addresses, one on each line, of a token that is
/// made, so that the checksum does not keep the fuzzer out.
pub fn token(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    if kind % 2 == 0 {
        match text.parse::<JoinToken>() {
            Ok(token) => read_again(&token),
            Err(error) => assert!(error.to_string().len() < 1000, "{error}"),
        }
        return;
    }
    let addresses = text.lines().map(str::to_owned).collect();
    let (network, keys, secret) =
        (NetworkId::from_bytes([1; 16]), KeysHash::from_bytes([2; 32]), TokenSecret::from_bytes([3; 16]));
    match JoinToken::new(addresses, network, keys, secret) {
        Ok(token) => read_again(&token),
        Err(error) => assert!(error.to_string().len() < 1000, "{error}"),
    }
}

fn read_again(token: &JoinToken) {
    assert!(!token.addresses().is_empty());
    let text = token.to_text();
    assert_eq!(text.parse::<JoinToken>().as_ref(), Ok(token));
    // A token cut off anywhere, or with one character changed, is refused.
    let cut = text.len() / 2;
    assert!(text[..cut].parse::<JoinToken>().is_err());
    let changed: String = text.chars().enumerate().map(|(i, c)| if i == cut { next(c) } else { c }).collect();
    assert!(changed.parse::<JoinToken>().is_err());
}

fn next(c: char) -> char {
    if c == 'A' { 'B' } else { 'A' }
}
