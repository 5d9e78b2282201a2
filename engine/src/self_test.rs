//! Known answers of the three primitives of WireGuard, from their RFCs, computed by the very code that
//! the sessions run: for `meshd version --self-test`, which shows on a new kind of machine that the build
//! for it is sound. It says nothing about keys of this node and reads none.

use thiserror::Error;

/// A primitive computed something else than its RFC says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{primitive} is wrong on this machine ({source_text}): do not use this build; report machine and version"
)]
pub struct SelfTestFailed {
    primitive: &'static str,
    source_text: &'static str,
}

/// Whether a primitive gives the known answers.
type Check = fn() -> bool;

/// Computes all known answers; gives the names of what was right.
///
/// # Errors
/// The first primitive that is wrong.
pub fn run() -> Result<[&'static str; 3], SelfTestFailed> {
    let checks: [(&'static str, &'static str, Check); 3] = [
        ("ChaCha20-Poly1305", "RFC 8439, 2.8.2", chacha20_poly1305),
        ("X25519", "RFC 7748, 5.2", x25519),
        ("BLAKE2s", "RFC 7693, appendix B", blake2s),
    ];
    for (primitive, source_text, holds) in checks {
        if !holds() {
            return Err(SelfTestFailed { primitive, source_text });
        }
    }
    Ok(checks.map(|(name, _, _)| name))
}

fn chacha20_poly1305() -> bool {
    use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    const TEXT: &[u8] = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for \
        the future, sunscreen would be it.";
    const AAD: [u8; 12] = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
    const NONCE: [u8; 12] = [7, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47];
    // The tag covers every byte of the sealed text.
    const TAG: u128 = 0x1ae1_0b59_4f09_e26a_7e90_2ecb_d060_0691;
    let bytes: [u8; 32] = std::array::from_fn(|i| 0x80 + i as u8);
    let Ok(key) = UnboundKey::new(&CHACHA20_POLY1305, &bytes) else { return false };
    let key = LessSafeKey::new(key);
    let mut buffer = TEXT.to_vec();
    let nonce = || Nonce::assume_unique_for_key(NONCE);
    if key.seal_in_place_append_tag(nonce(), Aad::from(AAD), &mut buffer).is_err() {
        return false;
    }
    let sealed = buffer.ends_with(&TAG.to_be_bytes()) && buffer[..4] == [0xd3, 0x1a, 0x8d, 0x34];
    let mut forged = buffer.clone();
    forged[0] ^= 1;
    let refused = key.open_in_place(nonce(), Aad::from(AAD), &mut forged).is_err();
    let opened = key.open_in_place(nonce(), Aad::from(AAD), &mut buffer).is_ok_and(|text| text == TEXT);
    sealed && refused && opened
}

fn x25519() -> bool {
    const VECTORS: [[&str; 3]; 2] = [
        [
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ],
        [
            "0900000000000000000000000000000000000000000000000000000000000000",
            "0900000000000000000000000000000000000000000000000000000000000000",
            "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
        ],
    ];
    VECTORS.iter().all(|[scalar, point, result]| {
        x25519_dalek::x25519(bytes32(scalar), bytes32(point)) == bytes32(result)
    })
}

fn blake2s() -> bool {
    use blake2::Digest;
    let digest: [u8; 32] = blake2::Blake2s256::digest(b"abc").into();
    digest == bytes32("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982")
}

/// 64 hexadecimal digits of the tables above; a wrong table is a wrong answer.
fn bytes32(hex: &str) -> [u8; 32] {
    std::array::from_fn(|i| {
        hex.get(2 * i..2 * i + 2).and_then(|two| u8::from_str_radix(two, 16).ok()).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_primitive_gives_the_answers_of_its_rfc() {
        assert_eq!(run(), Ok(["ChaCha20-Poly1305", "X25519", "BLAKE2s"]));
    }

    #[test]
    fn a_failure_names_the_primitive_and_says_what_to_do() {
        let failed = SelfTestFailed { primitive: "X25519", source_text: "RFC 7748, 5.2" };
        let text = failed.to_string();
        assert!(text.contains("X25519") && text.contains("do not use"), "{text}");
    }
}
