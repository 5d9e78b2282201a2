//! An incremental digest of a set of map entries.
//!
//! Each entry hashes to 256 bits; the digest of a set is the lane-wise sum (mod 2^64) of its entries'
//! hashes, so adding and removing one entry costs one hash whatever the set's size. It proves
//! convergence between an honest coordinator and its nodes (DESIGN §4.4); it is not a commitment
//! against somebody who may choose the entries.

/// The digest of a set of encoded map entries.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct MapDigest([u64; 4]);

impl MapDigest {
    /// The digest of the empty set.
    pub const EMPTY: Self = Self([0; 4]);

    /// The digest of the set with this one encoded entry.
    pub fn of(entry: &[u8]) -> Self {
        Self(lanes(entry))
    }

    /// Adds the entries of another set, which shares none with this one.
    pub fn join(&mut self, other: Self) {
        for (lane, h) in self.0.iter_mut().zip(other.0) {
            *lane = lane.wrapping_add(h);
        }
    }

    /// Removes the entries of another set, all of which this one holds.
    pub fn part(&mut self, other: Self) {
        for (lane, h) in self.0.iter_mut().zip(other.0) {
            *lane = lane.wrapping_sub(h);
        }
    }

    /// Adds one encoded entry to the set.
    pub fn add(&mut self, entry: &[u8]) {
        self.join(Self::of(entry));
    }

    /// Removes one encoded entry from the set.
    pub fn remove(&mut self, entry: &[u8]) {
        self.part(Self::of(entry));
    }

    /// The 32 bytes on the wire: four little-endian lanes.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut out = [0; 32];
        for (chunk, lane) in out.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_le_bytes());
        }
        out
    }

    /// Reads the 32 bytes of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(split(bytes))
    }
}

impl std::fmt::Debug for MapDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MapDigest({:016x}…)", self.0[0])
    }
}

fn lanes(entry: &[u8]) -> [u64; 4] {
    split(&crate::keys::hash("meshd map entry", &[entry]))
}

fn split(bytes: &[u8; 32]) -> [u64; 4] {
    let mut out = [0; 4];
    for (lane, chunk) in out.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        *lane = u64::from_le_bytes(word);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_depends_on_the_set_and_not_on_the_order() {
        let (mut a, mut b) = (MapDigest::EMPTY, MapDigest::EMPTY);
        a.add(b"one");
        a.add(b"two");
        b.add(b"two");
        b.add(b"three");
        b.add(b"one");
        assert_ne!(a, b);
        b.remove(b"three");
        assert_eq!(a, b);
        assert_eq!(MapDigest::from_bytes(&a.to_bytes()), a);
        a.remove(b"one");
        a.remove(b"two");
        assert_eq!(a, MapDigest::EMPTY);
    }
}
