//! What a packet's sender leaves to the next one: a checksum to finish, a super-packet to cut.
//!
//! The values are those of the kernel's `virtio_net_hdr` (linux/virtio_net.h), which stands before every
//! packet of a TUN device with `IFF_VNET_HDR`. Here is only its meaning; nothing here touches a device.

/// Length of the header before each packet.
pub const VIRTIO_HEADER: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
/// A super-packet whose first segment carries CWR (RFC 3168 §6.1.2).
const GSO_ECN: u8 = 0x80;

/// What is left to do for a packet before it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Offload {
    /// Nothing: it is whole; nobody has looked at its checksum.
    #[default]
    None,
    /// Nothing, and its upper-layer checksum was found right.
    Verified,
    /// The upper-layer checksum holds the sum of the pseudo header only.
    Checksum {
        /// Where summing begins: the upper-layer header.
        start: u16,
        /// Where the checksum is, counted from `start`.
        field: u16,
    },
    /// A super-packet: many segments under one header, with a checksum as in [`Offload::Checksum`].
    Segments {
        /// What kind of segments.
        kind: SegmentKind,
        /// Payload bytes of each segment but the last.
        size: u16,
        /// Where the upper-layer header begins.
        start: u16,
    },
}

/// What can be sent as a super-packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP in IPv4.
    Tcp4,
    /// TCP in IPv6.
    Tcp6,
    /// UDP in either.
    Udp,
}

/// Which offloads the host's side takes. All `false`: whole packets only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Packets with [`Offload::Checksum`] and TCP super-packets.
    pub tcp: bool,
    /// UDP super-packets.
    pub udp: bool,
}

/// A header that this module does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an offload that was not asked for")]
pub struct UnknownOffload;

impl Offload {
    /// Reads the header before a packet.
    ///
    /// # Errors
    /// A kind of super-packet that nobody asked for.
    pub const fn from_virtio(header: &[u8; VIRTIO_HEADER]) -> Result<Self, UnknownOffload> {
        let size = u16::from_ne_bytes([header[4], header[5]]);
        let start = u16::from_ne_bytes([header[6], header[7]]);
        let field = u16::from_ne_bytes([header[8], header[9]]);
        let kind = match header[1] & !GSO_ECN {
            0 if header[0] & NEEDS_CHECKSUM != 0 => return Ok(Self::Checksum { start, field }),
            0 if header[0] & DATA_VALID != 0 => return Ok(Self::Verified),
            0 => return Ok(Self::None),
            GSO_TCP4 => SegmentKind::Tcp4,
            GSO_TCP6 => SegmentKind::Tcp6,
            GSO_UDP => SegmentKind::Udp,
            _ => return Err(UnknownOffload),
        };
        if header[0] & NEEDS_CHECKSUM == 0 {
            return Err(UnknownOffload);
        }
        Ok(Self::Segments { kind, size, start })
    }

    /// The header before a packet whose headers, down to the upper layer's, are `header_len` long.
    pub const fn to_virtio(self, header_len: u16) -> [u8; VIRTIO_HEADER] {
        match self {
            Self::None => [0; VIRTIO_HEADER],
            Self::Verified => [DATA_VALID, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Self::Checksum { start, field } => encode(0, 0, 0, start, field),
            Self::Segments { kind, size, start } => {
                let (gso, field) = match kind {
                    SegmentKind::Tcp4 => (GSO_TCP4, 16),
                    SegmentKind::Tcp6 => (GSO_TCP6, 16),
                    SegmentKind::Udp => (GSO_UDP, 6),
                };
                encode(gso, header_len, size, start, field)
            }
        }
    }
}

const fn encode(gso: u8, header_len: u16, size: u16, start: u16, field: u16) -> [u8; VIRTIO_HEADER] {
    let (h, z, s, f) =
        (header_len.to_ne_bytes(), size.to_ne_bytes(), start.to_ne_bytes(), field.to_ne_bytes());
    [NEEDS_CHECKSUM, gso, h[0], h[1], z[0], z[1], s[0], s[1], f[0], f[1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offload_survives_its_header_and_strange_ones_are_refused() {
        let udp = Offload::Segments { kind: SegmentKind::Udp, size: 1200, start: 40 };
        let tcp = Offload::Segments { kind: SegmentKind::Tcp4, size: 1328, start: 20 };
        for offload in
            [Offload::None, Offload::Verified, Offload::Checksum { start: 20, field: 16 }, udp, tcp]
        {
            assert_eq!(Offload::from_virtio(&offload.to_virtio(60)), Ok(offload));
        }
        // CWR is marked on the super-packet; UFO (3) was never asked for; cutting needs a checksum.
        let mut marked = tcp.to_virtio(52);
        marked[1] |= GSO_ECN;
        assert_eq!(Offload::from_virtio(&marked), Ok(tcp));
        assert!(Offload::from_virtio(&[1, 3, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(Offload::from_virtio(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
