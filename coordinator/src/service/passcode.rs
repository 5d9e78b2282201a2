//! Passwords, time-based codes and recovery codes: how they are made and checked.
//!
//! Passwords are kept as argon2id hashes; codes are RFC 6238 (SHA-1, 30 s, six digits: what every
//! authenticator app can do). Nothing here keeps state: which code was used already is the store's.

use crate::entropy;
use crate::store::accounts::TotpSecret;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use meshd_proto::{UnixSeconds, keys};
use ring::hmac;
use zeroize::Zeroizing;

/// Seconds of one code (RFC 6238 §5.2).
const STEP: u64 = 30;
/// A code of the step before or after is good, too: clocks differ.
const DRIFT: u64 = 1;
/// How many recovery codes an account gets.
const RECOVERY_CODES: usize = 10;
/// Letters of recovery codes: no two of them look alike.
const LETTERS: &[u8; 32] = b"23456789abcdefghjkmnpqrstuvwxyz-";

/// 19 MiB, two passes, one lane: what OWASP asks of argon2id.
fn argon2() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::default())
}

/// Takes tens of milliseconds: not for an async thread.
pub(super) fn hash_password(password: &str) -> Option<String> {
    let salt = SaltString::encode_b64(&entropy::random::<16>()).ok()?;
    argon2().hash_password(password.as_bytes(), &salt).ok().map(|hash| hash.to_string())
}

/// Takes as long for an account that is not there (`None`).
pub(super) fn password_fits(password: &str, stored: Option<&str>) -> bool {
    // A hash of nothing anybody knows, so that a wrong name takes as long as a wrong password.
    const NOBODY: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGlzIGhlcmU$0f0nJ1yVnJQ3o3T0gI6q0m0w5o5v0m7q9p1s2d3f4g4";
    let Ok(hash) = PasswordHash::new(stored.unwrap_or(NOBODY)) else { return false };
    argon2().verify_password(password.as_bytes(), &hash).is_ok() && stored.is_some()
}

/// The code of one time step (RFC 4226 §5.3).
pub(super) fn code_at(secret: &TotpSecret, step: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &secret.0);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let bytes = tag.as_ref();
    let offset = usize::from(bytes.last().copied().unwrap_or(0) & 0x0f);
    let word =
        bytes.get(offset..offset + 4).map_or(0, |w| u32::from_be_bytes([w[0] & 0x7f, w[1], w[2], w[3]]));
    format!("{:06}", word % 1_000_000)
}

/// The time step of a code that is good now and newer than `used`.
pub(super) fn step_of(secret: &TotpSecret, code: &str, used: u64, now: UnixSeconds) -> Option<u64> {
    let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    let current = now.0 / STEP;
    (current.saturating_sub(DRIFT)..=current + DRIFT)
        .filter(|step| *step > used)
        .find(|step| same(code_at(secret, *step).as_bytes(), code.as_bytes()))
}

/// In constant time for texts of one length.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

/// Recovery codes such as `7k2m-q9xw-4hdt`, and their hashes.
pub(super) fn recovery_codes() -> (Vec<Zeroizing<String>>, Vec<[u8; 32]>) {
    let make = || {
        // 12 letters of 31: rejecting one value keeps them equally likely.
        let mut letters = String::with_capacity(14);
        while letters.len() < 14 {
            for byte in entropy::random::<16>() {
                let letter = LETTERS[usize::from(byte & 31)];
                if letter != b'-' && letters.len() < 14 {
                    letters.push(char::from(letter));
                    if matches!(letters.len(), 4 | 9) {
                        letters.push('-');
                    }
                }
            }
        }
        Zeroizing::new(letters)
    };
    let codes: Vec<_> = (0..RECOVERY_CODES).map(|_| make()).collect();
    let hashes = codes.iter().map(|code| recovery_fingerprint(code)).collect();
    (codes, hashes)
}

/// As it is stored, whatever way the person wrote it.
pub(super) fn recovery_fingerprint(code: &str) -> [u8; 32] {
    let plain: Zeroizing<String> =
        Zeroizing::new(code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase());
    keys::hash("meshd recovery code", &[plain.as_bytes()])
}

/// A TOTP secret in base32 (RFC 4648 §6), as authenticator apps want it typed.
pub(super) fn base32(secret: &TotpSecret) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    // 20 bytes are 32 letters exactly: no padding.
    let mut out = String::with_capacity(32);
    for chunk in secret.0.chunks(5) {
        let word = chunk.iter().fold(0u64, |word, byte| (word << 8) | u64::from(*byte));
        for place in (0..8).rev() {
            out.push(char::from(ALPHABET[usize::try_from((word >> (place * 5)) & 31).unwrap_or(0)]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_rfc_6238() {
        // Appendix B, SHA-1, cut to six digits.
        let secret = TotpSecret(*b"12345678901234567890");
        for (time, code) in [(59, "287082"), (1_111_111_109, "081804"), (2_000_000_000, "279037")] {
            assert_eq!(code_at(&secret, time / STEP), code);
        }
        assert_eq!(base32(&secret), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
    }

    #[test]
    fn a_code_is_good_for_its_step_and_its_neighbours_and_once() {
        let secret = TotpSecret([7; 20]);
        let now = UnixSeconds(3000);
        let code = code_at(&secret, 100);
        assert_eq!(step_of(&secret, &code, 0, now), Some(100));
        assert_eq!(step_of(&secret, &format!("{} {}", &code[..3], &code[3..]), 99, now), Some(100));
        assert_eq!(step_of(&secret, &code, 100, now), None);
        assert_eq!(step_of(&secret, &code_at(&secret, 98), 0, now), None);
        assert_eq!(step_of(&secret, "", 0, now), None);
    }

    #[test]
    fn a_password_fits_its_own_hash_and_no_account_fits_nothing() {
        let hash = hash_password("correct horse battery").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(password_fits("correct horse battery", Some(&hash)));
        assert!(!password_fits("correct horse batterz", Some(&hash)));
        assert!(!password_fits("", None) && !password_fits("nobody is here", None));
    }

    #[test]
    fn recovery_codes_are_readable_and_their_spelling_does_not_matter() {
        let (codes, hashes) = recovery_codes();
        assert_eq!(codes.len(), 10);
        for (code, hash) in codes.iter().zip(&hashes) {
            assert_eq!((code.len(), code.matches('-').count()), (14, 2), "{}", **code);
            assert_eq!(recovery_fingerprint(&code.to_uppercase().replace('-', " ")), *hash);
        }
    }
}
