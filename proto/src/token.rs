//! A join token: everything a machine needs to find a mesh and to trust it, in one line of text.
//!
//! `mesh_…` is base64url (RFC 4648 §5, no padding) of: version, total length, network id, a hash of the
//! coordinator's two public keys, the secret, its addresses, and a checksum over all before it.
//! The checksum finds slips of a copy, it protects nothing; the secret is what admits.
//!
//! Invariants: parsing is bounded by [`limits::MAX_TOKEN_TEXT`]; an error says what is wrong with the
//! copy and never repeats it; the secret is wiped on drop and never printed by `Debug`.

use crate::{CoordinatorKey, NetworkId, VerifyingKey, keys, limits};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use std::fmt;
use std::str::FromStr;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// What every token begins with.
const PREFIX: &str = "mesh_";
/// The layout this code writes and reads.
const VERSION: u8 = 1;
/// Most addresses in one token: it has to stay a line that a person can paste.
pub const MAX_ADDRESSES: usize = 8;
const SECRET_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;
/// version, length, network, hash, secret, number of addresses
const FIXED_BYTES: usize = 1 + 2 + 16 + 32 + SECRET_BYTES + 1;
/// What fits into the longest text.
const MAX_BYTES: usize = (limits::MAX_TOKEN_TEXT - PREFIX.len()) / 4 * 3;

/// A coordinator's public keys: what a node trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoordinatorKeys {
    /// Control channel.
    pub control: CoordinatorKey,
    /// Permits.
    pub signing: VerifyingKey,
}

impl CoordinatorKeys {
    /// What a token carries in place of the keys.
    pub fn hash(&self) -> KeysHash {
        KeysHash(keys::hash("meshd coordinator keys", &[self.control.as_bytes(), self.signing.as_bytes()]))
    }
}

/// A hash of a coordinator's two public keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeysHash([u8; 32]);

impl KeysHash {
    /// Wraps the 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    /// Whether `keys` are those that were hashed; in constant time.
    pub fn matches(&self, keys: &CoordinatorKeys) -> bool {
        keys::constant_time_eq(&self.0, keys.hash().as_bytes())
    }
}

impl fmt::Display for KeysHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for KeysHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeysHash({self})")
    }
}

/// What admits a machine. The coordinator stores only [`TokenSecret::fingerprint`].
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TokenSecret([u8; SECRET_BYTES]);

impl TokenSecret {
    /// Wraps 16 random bytes that the caller drew.
    pub const fn from_bytes(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }
    /// The 16 bytes, for the encoder of the control message.
    pub const fn as_bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }
    /// A one-way hash, by which the coordinator finds the token. The secret has 128 random bits, so
    /// nothing slower is needed against guessing.
    pub fn fingerprint(&self) -> [u8; 32] {
        keys::hash("meshd join token", &[&self.0])
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(redacted)")
    }
}

impl PartialEq for TokenSecret {
    fn eq(&self, other: &Self) -> bool {
        keys::constant_time_eq(&self.0, &other.0)
    }
}
impl Eq for TokenSecret {}

/// A join token, valid by construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    addresses: Vec<String>,
    /// Which mesh.
    pub network: NetworkId,
    /// Which keys its coordinator must show.
    pub keys_hash: KeysHash,
    /// What admits.
    pub secret: TokenSecret,
}

/// Why a text is not a join token, or why one cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing there.
    #[error("no token given: paste the `mesh_…` line that the coordinator printed")]
    Empty,
    /// Something else.
    #[error("this is not a join token: one begins with `mesh_`")]
    NotAToken,
    /// The end is missing.
    #[error("the token is cut off: copy the whole line, from `mesh_` to its last character")]
    Truncated,
    /// There is more than a token.
    #[error("there is more text behind the token: paste the token alone")]
    TooLong,
    /// A character that no token has.
    #[error("the token has `{bad}` at position {position}, which no token has: copy it again")]
    BadCharacter {
        /// The character.
        bad: char,
        /// Counted from 1, `mesh_` included.
        position: usize,
    },
    /// All there, but changed.
    #[error("the token has a typing mistake (its checksum is wrong): copy it again")]
    Mistyped,
    /// Written by a later release.
    #[error("the token was made by a newer release (format {0}): update meshd on this machine")]
    Newer(u8),
    /// No address to reach the coordinator.
    #[error("a token needs 1 to {MAX_ADDRESSES} coordinator addresses")]
    AddressCount,
    /// Addresses that together make a text nobody would read.
    #[error("the coordinator addresses are too long for a token: name fewer or shorter ones")]
    AddressesTooLong,
    /// An address that cannot be dialled.
    #[error("`{0}` is not a coordinator address: write name:port, 192.0.2.1:port or [2001:db8::1]:port")]
    BadAddress(String),
}

impl JoinToken {
    /// A token that leads to `addresses` (`host:port`, tried in order).
    ///
    /// # Errors
    /// When there is no address, there are too many, or one cannot be dialled.
    pub fn new(
        addresses: Vec<String>,
        network: NetworkId,
        keys_hash: KeysHash,
        secret: TokenSecret,
    ) -> Result<Self, TokenError> {
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(TokenError::AddressCount);
        }
        if let Some(bad) = addresses.iter().find(|a| !is_dialable(a)) {
            return Err(TokenError::BadAddress(bad.chars().filter(|c| !c.is_control()).take(80).collect()));
        }
        let token = Self { addresses, network, keys_hash, secret };
        if token.len() > MAX_BYTES { Err(TokenError::AddressesTooLong) } else { Ok(token) }
    }

    /// Where the coordinator is, as `host:port`, tried in order.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Bytes before base64.
    fn len(&self) -> usize {
        FIXED_BYTES + self.addresses.iter().map(|a| 1 + a.len()).sum::<usize>() + CHECKSUM_BYTES
    }

    /// The line to paste. It holds the secret: it goes to a terminal or a file of mode 0600 only.
    pub fn to_text(&self) -> Zeroizing<String> {
        let length = self.len();
        let mut raw = Zeroizing::new(Vec::with_capacity(length));
        raw.push(VERSION);
        raw.extend((length as u16).to_be_bytes());
        raw.extend(self.network.as_bytes());
        raw.extend(self.keys_hash.as_bytes());
        raw.extend(self.secret.as_bytes());
        raw.push(self.addresses.len() as u8);
        for address in &self.addresses {
            raw.push(address.len() as u8);
            raw.extend(address.as_bytes());
        }
        let sum = checksum(&raw);
        raw.extend(sum);
        Zeroizing::new(format!("{PREFIX}{}", BASE64URL.encode(&*raw)))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let raw = decode_text(text)?;
        let mut rest = Cursor(&raw);
        let version = rest.byte()?;
        if version != VERSION {
            // A mistyped first character is more likely than release 40 of the format.
            return Err(if version > VERSION && version < 40 {
                TokenError::Newer(version)
            } else {
                TokenError::Mistyped
            });
        }
        let length = usize::from(u16::from_be_bytes(rest.array()?));
        if !(FIXED_BYTES + CHECKSUM_BYTES..=limits::MAX_TOKEN_TEXT).contains(&length) {
            return Err(TokenError::Mistyped);
        }
        if raw.len() < length {
            return Err(TokenError::Truncated);
        }
        if raw.len() > length {
            return Err(TokenError::TooLong);
        }
        let (body, sum) = raw.split_at(length - CHECKSUM_BYTES);
        if checksum(body) != sum {
            return Err(TokenError::Mistyped);
        }
        let mut rest = Cursor(&body[3..]);
        let network = NetworkId::from_bytes(rest.array()?);
        let keys_hash = KeysHash(rest.array()?);
        let secret = TokenSecret(rest.array()?);
        let count = usize::from(rest.byte()?);
        if count > MAX_ADDRESSES {
            return Err(TokenError::AddressCount);
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let n = usize::from(rest.byte()?);
            let address = std::str::from_utf8(rest.take(n)?).map_err(|_| TokenError::Mistyped)?;
            addresses.push(address.to_owned());
        }
        if !rest.0.is_empty() {
            return Err(TokenError::Mistyped);
        }
        Self::new(addresses, network, keys_hash, secret)
    }
}

/// Takes the text apart: white space around the token and line breaks that a terminal or a mail put
/// into it are forgiven.
fn decode_text(text: &str) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(TokenError::Empty);
    }
    if text.len() > 2 * limits::MAX_TOKEN_TEXT {
        return Err(TokenError::TooLong);
    }
    let body = text.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
    let mut joined = Zeroizing::new(String::with_capacity(body.len()));
    for (i, c) in body.chars().enumerate() {
        match c {
            '\n' | '\r' => {}
            _ if c.is_ascii_alphanumeric() || c == '-' || c == '_' => joined.push(c),
            // The start of a second word: the line has more than the token.
            _ if c.is_whitespace() => return Err(TokenError::TooLong),
            bad => return Err(TokenError::BadCharacter { bad, position: PREFIX.len() + i + 1 }),
        }
    }
    if joined.len() > limits::MAX_TOKEN_TEXT {
        return Err(TokenError::TooLong);
    }
    // base64 refuses a length of 4n+1 and stray bits at the end; both mean that a piece is missing.
    BASE64URL.decode(joined.as_bytes()).map(Zeroizing::new).map_err(|_| TokenError::Truncated)
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = keys::hash("meshd join token checksum", &[body]);
    [hash[0], hash[1], hash[2], hash[3]]
}

/// Whether `address` is `name:port`, `ipv4:port` or `[ipv6]:port` with a port that exists.
fn is_dialable(address: &str) -> bool {
    if address.len() > 255 {
        return false;
    }
    if let Ok(socket) = address.parse::<std::net::SocketAddr>() {
        return socket.port() != 0;
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    // `1.2.3` and `1.2.3.400` are mistyped addresses, never names (no top-level domain is a number).
    let numeric = host.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    !numeric && host.parse::<crate::DnsName>().is_ok() && port.parse::<u16>().is_ok_and(|p| p != 0)
}

/// Reads from the front of a slice; running out means the text was cut.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], TokenError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(TokenError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        self.take(N)?.try_into().map_err(|_| TokenError::Truncated)
    }
    fn byte(&mut self) -> Result<u8, TokenError> {
        Ok(self.array::<1>()?[0])
    }
}

#[cfg(test)]
mod tests;
