//! Keys as types. A public key prints as base64 (the form of `wg`), a secret never prints.
//!
//! Entropy is an argument: a secret is made from 32 bytes that the caller drew.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A key text that is not 32 bytes in base64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a key: expected 44 characters of base64 (32 bytes), as `wg pubkey` prints them")]
pub struct KeyError;

fn decode_key(text: &str) -> Result<[u8; 32], KeyError> {
    let mut out = [0u8; 33];
    let n = BASE64.decode_slice(text.trim(), &mut out).map_err(|_| KeyError)?;
    <[u8; 32]>::try_from(&out[..n]).map_err(|_| KeyError)
}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps the 32 bytes of the key.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
            /// The 32 bytes of the key.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
            /// The first eight characters of the base64 form: enough to recognise, for logs.
            pub fn short(&self) -> String {
                BASE64.encode(&self.0[..6])
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&BASE64.encode(self.0))
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }
        impl std::str::FromStr for $name {
            type Err = KeyError;
            fn from_str(text: &str) -> Result<Self, KeyError> {
                decode_key(text).map(Self)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! x25519_secret {
    ($(#[$doc:meta])* $name:ident => $public:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Makes the secret of 32 random bytes that the caller drew (clamped on use, RFC 7748 §5).
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
            /// The raw bytes, for the place that stores them (mode 0600) and for the crypto libraries.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
            /// The public half.
            pub fn public(&self) -> $public {
                let secret = x25519_dalek::StaticSecret::from(self.0);
                $public::from_bytes(x25519_dalek::PublicKey::from(&secret).to_bytes())
            }
            /// X25519 with somebody's public key; `None` when the result is all zero (a low-order key,
            /// RFC 7748 §6.1).
            pub fn diffie_hellman(&self, theirs: &[u8; 32]) -> Option<SharedSecret> {
                let secret = x25519_dalek::StaticSecret::from(self.0);
                let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*theirs));
                shared.was_contributory().then(|| SharedSecret(shared.to_bytes()))
            }
            /// Base64, the form of `wg`. For writing a configuration a person asked for, never for logs.
            pub fn to_base64(&self) -> String {
                BASE64.encode(self.0)
            }
            /// Reads the base64 form.
            ///
            /// # Errors
            /// When the text is not 32 bytes of base64.
            pub fn from_base64(text: &str) -> Result<Self, KeyError> {
                decode_key(text).map(Self)
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}(redacted)", stringify!($name))
            }
        }
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }
        impl Eq for $name {}
    };
}

public_key! {
    /// A node's WireGuard public key (X25519). It names the node to peers and relays.
    NodeKey
}
public_key! {
    /// A machine's public key on the control channel (X25519, the Noise static key).
    MachineKey
}
public_key! {
    /// The coordinator's public key on the control channel (X25519).
    CoordinatorKey
}
public_key! {
    /// The coordinator's public signing key (Ed25519): permits and map digests.
    VerifyingKey
}

x25519_secret! {
    /// The private half of a [`NodeKey`]. It never leaves the node.
    NodeSecret => NodeKey
}
x25519_secret! {
    /// The private half of a [`MachineKey`]. It never leaves the machine.
    MachineSecret => MachineKey
}
x25519_secret! {
    /// The private half of a [`CoordinatorKey`].
    CoordinatorSecret => CoordinatorKey
}

/// The result of a Diffie-Hellman. Compare and derive, never print.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SharedSecret([u8; 32]);

impl SharedSecret {
    /// The raw bytes, as input of a key derivation.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A keyed BLAKE2s-256 of `parts` under this secret with a domain-separating `label`.
    /// Parts are length-prefixed, so that no two lists of parts collide.
    pub fn mac(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        keyed_hash(&self.0, label, parts)
    }
}

impl std::fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedSecret(redacted)")
    }
}

/// Keyed BLAKE2s-256 (RFC 7693) over a label and length-prefixed parts.
pub fn keyed_hash(key: &[u8; 32], label: &str, parts: &[&[u8]]) -> [u8; 32] {
    use blake2::digest::{FixedOutput, KeyInit, Update};
    let mut mac = blake2::Blake2sMac::<blake2::digest::consts::U32>::new(key.into());
    mac.update(&(label.len() as u64).to_le_bytes());
    mac.update(label.as_bytes());
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac.finalize_fixed().into()
}

/// Unkeyed BLAKE2s-256 over a label and length-prefixed parts.
pub fn hash(label: &str, parts: &[&[u8]]) -> [u8; 32] {
    use blake2::Digest;
    let mut h = blake2::Blake2s256::new();
    Digest::update(&mut h, (label.len() as u64).to_le_bytes());
    Digest::update(&mut h, label.as_bytes());
    for part in parts {
        Digest::update(&mut h, (part.len() as u64).to_le_bytes());
        Digest::update(&mut h, part);
    }
    h.finalize().into()
}

/// Compares two byte strings in time that depends on their lengths only.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// The coordinator's Ed25519 signing key.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// Makes the key of 32 random bytes that the caller drew.
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }
    /// The 32 secret bytes, for the place that stores them.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }
    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey::from_bytes(self.0.verifying_key().to_bytes())
    }
    /// Signs `message` (Ed25519, RFC 8032).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer;
        self.0.sign(message).to_bytes()
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

impl VerifyingKey {
    /// Whether `signature` over `message` was made by the matching [`SigningKey`]
    /// (strict verification: no malleable or small-order forms).
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(&self.0) else {
            return false;
        };
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

#[cfg(test)]
mod tests;
