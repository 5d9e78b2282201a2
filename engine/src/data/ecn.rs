//! Congestion marks through the tunnel, RFC 6040: copied out, combined on the way in.
//!
//! The DSCP is not copied: the outer header says nothing about what is inside but its length.

use super::checksum::Sum;

/// The two ECN bits of an IP header (RFC 3168 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Ecn {
    /// Not ECN-capable.
    #[default]
    Not,
    /// ECN-capable, ECT(1).
    Ect1,
    /// ECN-capable, ECT(0).
    Ect0,
    /// Congestion was met.
    Ce,
}

/// A mark on a packet that cannot carry one (RFC 6040 §4.2): it stands for a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost;

impl Ecn {
    /// From the byte that holds DSCP and ECN.
    pub const fn of_tos(tos: u8) -> Self {
        match tos & 3 {
            0 => Self::Not,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// As it stands in a header.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Not => 0,
            Self::Ect1 => 1,
            Self::Ect0 => 2,
            Self::Ce => 3,
        }
    }

    /// Of an IP packet: what its outer header gets (RFC 6040 §4.1, normal mode).
    pub(super) fn of_packet(packet: &[u8]) -> Self {
        match packet {
            [first, second, ..] if first >> 4 == 4 => Self::of_tos(*second),
            [_, second, ..] => Self::of_tos(second >> 4),
            _ => Self::Not,
        }
    }
}

/// Puts the outer header's mark on the packet that was inside (RFC 6040 §4.2, figure 4).
pub(super) fn combine(packet: &mut [u8], outer: Ecn) -> Result<(), Lost> {
    let inner = Ecn::of_packet(packet);
    let mark = match (inner, outer) {
        (Ecn::Not, Ecn::Ce) => return Err(Lost),
        (Ecn::Ect0, Ecn::Ect1 | Ecn::Ce) | (Ecn::Ect1, Ecn::Ce) => outer,
        _ => return Ok(()),
    };
    match packet {
        [first, ..] if *first >> 4 == 4 => {
            let header_len = usize::from(*first & 0x0f) * 4;
            let Some(header) = packet.get_mut(..header_len.max(20)) else { return Ok(()) };
            header[1] = header[1] & !3 | mark.bits();
            header[10..12].fill(0);
            let sum = Sum::default().bytes(header).checksum();
            header[10..12].copy_from_slice(&sum);
        }
        [_, second, ..] => *second = *second & !0x30 | mark.bits() << 4,
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(ecn: Ecn) -> Vec<u8> {
        let mut p = vec![0x45, 0xb8 | ecn.bits(), 0, 20, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let sum = Sum::default().bytes(&p).checksum();
        p[10..12].copy_from_slice(&sum);
        p
    }

    fn v6(ecn: Ecn) -> Vec<u8> {
        let mut p = vec![0; 40];
        p[0] = 0x6b;
        p[1] = 0x80 | ecn.bits() << 4 | 5;
        p
    }

    #[test]
    fn marks_combine_as_rfc_6040_figure_4_says() {
        use Ecn::{Ce, Ect0, Ect1, Not};
        let table = [
            (Not, [Some(Not), Some(Not), Some(Not), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce); 4]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [Not, Ect0, Ect1, Ce].into_iter().zip(row) {
                for whole in [v4(inner), v6(inner)] {
                    let mut packet = whole.clone();
                    let got = combine(&mut packet, outer).ok().map(|()| Ecn::of_packet(&packet));
                    assert_eq!(got, expected, "{inner:?} in {outer:?}");
                    if packet[0] >> 4 == 4 {
                        assert!(Sum::default().bytes(&packet).is_right());
                        assert_eq!(packet[1] & !3, 0xb8, "the DSCP stays");
                    } else {
                        assert_eq!((packet[0], packet[1] & 0x8f), (0x6b, 0x85), "class and label stay");
                    }
                }
            }
        }
    }
}
