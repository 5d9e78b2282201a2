//! The relay permit: the coordinator's signed word that a node may use the relays of its network.
//!
//! A permit names a node key, so it is worth nothing to who does not hold that key: a relay asks for a
//! proof of it as well ([`crate::relay`]). It is not secret. It is short-lived and renewed daily; a
//! revocation reaches the relay by itself and does not wait for the end.
//!
//! Layout (one form only, so that the signed bytes are the sent bytes; integers little-endian):
//! version 1 (1 byte) · network (16) · node key (32) · not after (8) · serial (8) · Ed25519 signature (64).
//! The signature covers the text `meshd relay permit v1` and everything before it.

use crate::keys::{SigningKey, VerifyingKey};
use crate::{NetworkId, NodeKey, UnixSeconds};

/// How long a permit is good for, in seconds: 7 days.
pub const PERMIT_LIFETIME: u64 = 7 * 24 * 3600;
/// How often a node gets a new one, in seconds: daily.
pub const PERMIT_RENEWAL: u64 = 24 * 3600;
/// Length of a signed permit.
pub const PERMIT_LEN: usize = BODY_LEN + 64;

const BODY_LEN: usize = 1 + 16 + 32 + 8 + 8;
const VERSION: u8 = 1;
const LABEL: &[u8] = b"meshd relay permit v1";

/// What a permit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Relays of this network only.
    pub network: NetworkId,
    /// Who may use them.
    pub node: NodeKey,
    /// Last second it is good for.
    pub not_after: UnixSeconds,
    /// The coordinator's number of it, for its audit log.
    pub serial: u64,
}

/// A permit with its signature, as it travels. Not yet checked: see [`SignedPermit::verify`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SignedPermit([u8; PERMIT_LEN]);

/// Why a permit is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PermitError {
    /// Wrong length or version.
    #[error("the relay permit is not in a known form; update the older of the two programs")]
    Malformed,
    /// Signed by somebody else, or changed.
    #[error("the relay permit is not signed by this network's coordinator")]
    BadSignature,
    /// Too old.
    #[error(
        "the relay permit ended at {0} (seconds since 1970); the node gets a new one from its coordinator"
    )]
    Expired(UnixSeconds),
}

impl Permit {
    /// Makes and signs a permit that ends [`PERMIT_LIFETIME`] after `now`.
    pub fn issue(
        network: NetworkId,
        node: NodeKey,
        serial: u64,
        key: &SigningKey,
        now: UnixSeconds,
    ) -> SignedPermit {
        let not_after = UnixSeconds(now.0.saturating_add(PERMIT_LIFETIME));
        Self { network, node, not_after, serial }.sign(key)
    }

    /// Signs a permit as it stands.
    pub fn sign(&self, key: &SigningKey) -> SignedPermit {
        let mut out = [0; PERMIT_LEN];
        out[0] = VERSION;
        out[1..17].copy_from_slice(self.network.as_bytes());
        out[17..49].copy_from_slice(self.node.as_bytes());
        out[49..57].copy_from_slice(&self.not_after.0.to_le_bytes());
        out[57..65].copy_from_slice(&self.serial.to_le_bytes());
        let signature = key.sign(&signed_bytes(&out));
        out[BODY_LEN..].copy_from_slice(&signature);
        SignedPermit(out)
    }
}

impl SignedPermit {
    /// Reads the bytes of a permit without checking what it says.
    ///
    /// # Errors
    /// When length or version is unknown.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PermitError> {
        let fixed = <[u8; PERMIT_LEN]>::try_from(bytes).map_err(|_| PermitError::Malformed)?;
        if fixed[0] == VERSION { Ok(Self(fixed)) } else { Err(PermitError::Malformed) }
    }

    /// The bytes that travel.
    pub const fn as_bytes(&self) -> &[u8; PERMIT_LEN] {
        &self.0
    }

    /// What it says about itself; nobody has checked the signature.
    pub fn unverified(&self) -> Permit {
        let (mut network, mut node, mut not_after, mut serial) = ([0; 16], [0; 32], [0; 8], [0; 8]);
        network.copy_from_slice(&self.0[1..17]);
        node.copy_from_slice(&self.0[17..49]);
        not_after.copy_from_slice(&self.0[49..57]);
        serial.copy_from_slice(&self.0[57..65]);
        Permit {
            network: NetworkId::from_bytes(network),
            node: NodeKey::from_bytes(node),
            not_after: UnixSeconds(u64::from_le_bytes(not_after)),
            serial: u64::from_le_bytes(serial),
        }
    }

    /// Checks signature and time.
    ///
    /// # Errors
    /// When `key` did not sign it or it has ended.
    pub fn verify(&self, key: &VerifyingKey, now: UnixSeconds) -> Result<Permit, PermitError> {
        let mut signature = [0; 64];
        signature.copy_from_slice(&self.0[BODY_LEN..]);
        if !key.verify(&signed_bytes(&self.0), &signature) {
            return Err(PermitError::BadSignature);
        }
        let permit = self.unverified();
        if now > permit.not_after {
            return Err(PermitError::Expired(permit.not_after));
        }
        Ok(permit)
    }
}

impl std::fmt::Debug for SignedPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SignedPermit").field(&self.unverified()).finish()
    }
}

fn signed_bytes(permit: &[u8; PERMIT_LEN]) -> [u8; LABEL.len() + BODY_LEN] {
    let mut out = [0; LABEL.len() + BODY_LEN];
    out[..LABEL.len()].copy_from_slice(LABEL);
    out[LABEL.len()..].copy_from_slice(&permit[..BODY_LEN]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn issued() -> (SigningKey, SignedPermit) {
        let key = SigningKey::from_bytes(&[5; 32]);
        let permit =
            Permit::issue(NetworkId::from_bytes([1; 16]), NodeKey::from_bytes([2; 32]), 7, &key, NOW);
        (key, permit)
    }

    #[test]
    fn a_permit_is_good_for_seven_days_and_says_whom_it_names() {
        let (key, signed) = issued();
        let permit = signed.verify(&key.verifying_key(), NOW).unwrap();
        assert_eq!(permit.node, NodeKey::from_bytes([2; 32]));
        assert_eq!((permit.network, permit.serial), (NetworkId::from_bytes([1; 16]), 7));
        let end = UnixSeconds(NOW.0 + 7 * 86_400);
        assert!(signed.verify(&key.verifying_key(), end).is_ok());
        let late = UnixSeconds(end.0 + 1);
        assert_eq!(signed.verify(&key.verifying_key(), late), Err(PermitError::Expired(end)));
    }

    #[test]
    fn every_changed_byte_and_another_signer_are_refused() {
        let (key, signed) = issued();
        let other = SigningKey::from_bytes(&[6; 32]).verifying_key();
        assert_eq!(signed.verify(&other, NOW), Err(PermitError::BadSignature));
        for i in 0..PERMIT_LEN {
            let mut bytes = *signed.as_bytes();
            bytes[i] ^= 1;
            let refused = SignedPermit::from_bytes(&bytes).and_then(|p| p.verify(&key.verifying_key(), NOW));
            assert!(refused.is_err(), "byte {i}");
        }
        assert_eq!(SignedPermit::from_bytes(&signed.as_bytes()[1..]), Err(PermitError::Malformed));
    }

    #[test]
    fn the_encoding_has_its_golden_bytes() {
        let (_, signed) = issued();
        let body: String = signed.as_bytes()[..BODY_LEN].iter().map(|b| format!("{b:02x}")).collect();
        let expected = format!("01{}{}800c536b000000000700000000000000", "01".repeat(16), "02".repeat(32));
        assert_eq!(body, expected);
    }
}
