//! Who may attach: cookies and permits.
//!
//! The cookie is stateless: a keyed hash of source address, node key and time. Its secret is derived from
//! the seed for each hour of the relay's life, and a cookie is good for [`COOKIE_LIFETIME`].

use crate::rate::{Rate, TokenBucket};
use meshd_proto::keys::keyed_hash;
use meshd_proto::permit::{Permit, PermitError, SignedPermit};
use meshd_proto::relay::{Cookie, RefuseReason};
use meshd_proto::{Endpoint, NetworkId, NodeKey, UnixSeconds, VerifyingKey};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long a node has for its second round trip.
pub(super) const COOKIE_LIFETIME: Duration = Duration::from_secs(10);
const SECRET_LIFETIME_MS: u64 = 3_600_000;
/// Source networks share this many rate buckets by a keyed hash; fixed, so a flood costs no memory.
const SOURCE_BUCKETS: usize = 1024;

#[derive(Debug)]
pub(super) struct Admission {
    network: NetworkId,
    permit_keys: Vec<VerifyingKey>,
    seed: Seed,
    start: Instant,
    rate: Rate,
    sources: Vec<TokenBucket>,
}

struct Seed([u8; 32]);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(redacted)")
    }
}

impl Admission {
    pub(super) fn new(
        network: NetworkId,
        permit_keys: Vec<VerifyingKey>,
        rate: Rate,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let sources = vec![TokenBucket::full(rate, now); SOURCE_BUCKETS];
        Self { network, permit_keys, seed: Seed(seed), start: now, rate, sources }
    }

    pub(super) fn set_permit_keys(&mut self, keys: Vec<VerifyingKey>) {
        self.permit_keys = keys;
    }

    pub(super) fn cookie(&self, source: Endpoint, node: &NodeKey, now: Instant) -> Cookie {
        self.cookie_of(source, node, self.millis(now))
    }

    /// Proves the source address and charges its network for what an attach costs.
    pub(super) fn check_cookie(
        &mut self,
        cookie: Cookie,
        source: Endpoint,
        node: &NodeKey,
        now: Instant,
    ) -> Result<(), RefuseReason> {
        let (made, at) = (cookie.made_ms(), self.millis(now));
        let age = at.checked_sub(made).ok_or(RefuseReason::StaleCookie)?;
        let genuine = self.cookie_of(source, node, made).matches(&cookie);
        if !genuine || u128::from(age) > COOKIE_LIFETIME.as_millis() {
            return Err(RefuseReason::StaleCookie);
        }
        let bucket = self.bucket_of(source.0.ip());
        if self.sources[bucket].take(1, self.rate, now) { Ok(()) } else { Err(RefuseReason::Full) }
    }

    pub(super) fn check_permit(
        &self,
        permit: &SignedPermit,
        wall: UnixSeconds,
    ) -> Result<Permit, RefuseReason> {
        if permit.unverified().network != self.network {
            return Err(RefuseReason::BadPermit);
        }
        let mut refused = RefuseReason::BadPermit;
        for key in &self.permit_keys {
            match permit.verify(key, wall) {
                Ok(permit) => return Ok(permit),
                Err(PermitError::Expired(_)) => refused = RefuseReason::ExpiredPermit,
                Err(PermitError::Malformed | PermitError::BadSignature) => {}
            }
        }
        Err(refused)
    }

    fn cookie_of(&self, source: Endpoint, node: &NodeKey, made_ms: u64) -> Cookie {
        let hour = (made_ms / SECRET_LIFETIME_MS).to_le_bytes();
        let secret = keyed_hash(&self.seed.0, "meshd relay cookie secret v1", &[&hour]);
        Cookie::make(&secret, source, node, made_ms)
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// A source network is an IPv4 /24 or an IPv6 /48.
    fn bucket_of(&self, ip: IpAddr) -> usize {
        let mut net = [0; 6];
        match ip.to_canonical() {
            IpAddr::V4(v4) => net[..3].copy_from_slice(&v4.octets()[..3]),
            IpAddr::V6(v6) => net.copy_from_slice(&v6.octets()[..6]),
        }
        let hash = keyed_hash(&self.seed.0, "meshd relay source bucket v1", &[&net]);
        usize::from(u16::from_le_bytes([hash[0], hash[1]])) % SOURCE_BUCKETS
    }
}
