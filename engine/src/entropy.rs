//! Random bytes from a seed. Entropy is an argument of the engine; this spreads it.

use meshd_proto::keys::keyed_hash;
use zeroize::Zeroize;

/// A generator of random bytes: a chain of keyed BLAKE2s. The key is replaced after every block, so that
/// what was drawn cannot be found again from a later state.
#[derive(zeroize::ZeroizeOnDrop)]
pub(crate) struct Entropy {
    key: [u8; 32],
}

impl Entropy {
    /// Starts from a seed that the caller drew.
    pub(crate) fn new(mut seed: [u8; 32]) -> Self {
        let key = keyed_hash(&seed, "meshd engine entropy", &[]);
        seed.zeroize();
        Self { key }
    }

    /// `N` random bytes, at most 32.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let block = keyed_hash(&self.key, "out", &[]);
        self.key = keyed_hash(&self.key, "next", &[]);
        let mut out = [0; N];
        out.copy_from_slice(&block[..N]);
        out
    }

    /// A random number below `bound` (which is not 0), near enough to uniform for jitter and indexes.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        u64::from_le_bytes(self.bytes()) % bound
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy(redacted)")
    }
}
