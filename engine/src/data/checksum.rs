//! The Internet checksum (RFC 1071).
//!
//! Sums are kept in the machine's byte order: a ones' complement sum is the same in either, as long as
//! words are loaded and the result is stored in one of them (RFC 1071 §2 B).

/// A ones' complement sum that is not folded yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes; all pieces but the last have an even length. At most 64 KiB in all.
    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        let mut lanes = [0u64; 8];
        let mut wide = bytes.chunks_exact(32);
        for chunk in &mut wide {
            // Eight independent sums of 32-bit words in 64 bits: no carry is lost below 2^32 words.
            for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<4>().0) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let mut sum = self.0 + lanes.iter().sum::<u64>();
        let (pairs, odd) = wide.remainder().as_chunks::<2>();
        for pair in pairs {
            sum += u64::from(u16::from_ne_bytes(*pair));
        }
        if let [last] = odd {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(sum)
    }

    /// Adds a number that stands in a packet in network order.
    pub(super) fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word.to_be()))
    }

    /// The pseudo header (RFC 9293 §3.1, RFC 8200 §8.1) of `len` bytes of `protocol`: `addresses` are
    /// source and destination as they stand in the packet.
    pub(super) fn pseudo(addresses: &[u8], protocol: u8, len: u16) -> Self {
        Self::default().bytes(addresses).word(u16::from(protocol)).word(len)
    }

    /// The sum in 16 bits, as its bytes stand in a packet.
    pub(super) const fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
        let sum = sum as u16;
        sum.to_ne_bytes()
    }

    /// The checksum: the complement, as its bytes stand in a packet.
    pub(super) const fn checksum(self) -> [u8; 2] {
        let [a, b] = self.folded();
        [!a, !b]
    }

    /// Whether bytes that hold their own checksum were summed, and it is right.
    pub(super) const fn is_right(self) -> bool {
        matches!(self.folded(), [0xff, 0xff])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 §4.1, word by word in network order.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn it_agrees_with_the_plain_way_at_every_length() {
        let bytes: Vec<u8> = (0..4000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for len in (0..200).chain([1340, 1341, 3999, 4000]) {
            let sum = Sum::default().bytes(&bytes[..len]);
            assert_eq!(u16::from_be_bytes(sum.checksum()), plain(&bytes[..len]), "{len} bytes");
            let cut = len / 4 * 2;
            let in_pieces = Sum::default().bytes(&bytes[..cut]).bytes(&bytes[cut..len]);
            assert_eq!(in_pieces.checksum(), sum.checksum(), "{len} bytes in two pieces");
        }
        let full = vec![0xff; 65_534];
        assert_eq!(u16::from_be_bytes(Sum::default().bytes(&full).checksum()), plain(&full));
    }

    #[test]
    fn rfc_1071_section_3_example() {
        let sum = Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), [0xdd, 0xf2]);
    }
}
