//! Cuts a super-packet into the packets that a sender without offload would have sent.
//!
//! In place: before each segment's payload its header is written over the end of the segment before it,
//! which the caller has consumed by then. No payload byte is copied or moved.
//!
//! TCP (RFC 9293): sequence numbers advance, FIN and PSH stay with the last segment, CWR with the first
//! (RFC 3168 §6.1.2). IPv4: identifications count up. Everything else is the super-packet's.

use super::SegmentKind;
use super::checksum::Sum;
use crate::packet::{Packet, TCP, UDP, tcp_flag};

/// The longest headers of a super-packet: IPv6 with some extension headers, and TCP with all options.
const MAX_HEADERS: usize = 160;

/// A super-packet that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the super-packet contradicts itself")]
pub struct BadSuperPacket;

/// A super-packet on its way to become segments.
#[derive(Debug)]
pub struct Split<'p> {
    bytes: &'p mut [u8],
    headers: [u8; MAX_HEADERS],
    header_len: usize,
    upper: usize,
    tcp: bool,
    size: usize,
    /// Where the next segment's payload begins.
    at: usize,
    index: u16,
}

impl<'p> Split<'p> {
    /// Begins to cut `bytes`, which were read as `packet`, into segments with `size` bytes of payload.
    ///
    /// # Errors
    /// When kind, size and headers do not fit each other.
    pub fn new(
        bytes: &'p mut [u8],
        packet: &Packet,
        kind: SegmentKind,
        size: u16,
    ) -> Result<Self, BadSuperPacket> {
        let bytes = bytes.get_mut(..packet.len).ok_or(BadSuperPacket)?;
        let v4 = bytes.first().is_some_and(|b| b >> 4 == 4);
        let tcp = match (kind, packet.protocol) {
            (SegmentKind::Tcp4, TCP) if v4 => true,
            (SegmentKind::Tcp6, TCP) if !v4 => true,
            (SegmentKind::Udp, UDP) => false,
            _ => return Err(BadSuperPacket),
        };
        let upper = packet.upper_at;
        let own = if tcp { usize::from(bytes.get(upper + 12).ok_or(BadSuperPacket)? >> 4) * 4 } else { 8 };
        let header_len = upper + own;
        if size == 0
            || packet.fragment.is_some()
            || (tcp && own < 20)
            || header_len > MAX_HEADERS
            || header_len > bytes.len()
        {
            return Err(BadSuperPacket);
        }
        let mut headers = [0; MAX_HEADERS];
        headers[..header_len].copy_from_slice(&bytes[..header_len]);
        let size = usize::from(size);
        Ok(Self { bytes, headers, header_len, upper, tcp, size, at: header_len, index: 0 })
    }

    /// How many segments there will be.
    pub fn count(&self) -> usize {
        (self.bytes.len() - self.header_len).div_ceil(self.size).max(1)
    }

    /// The next segment, whole and with its checksums. It is gone with the call after this one.
    pub fn next_segment(&mut self) -> Option<&[u8]> {
        let first = self.index == 0;
        if self.at >= self.bytes.len() && !first {
            return None;
        }
        let begin = self.at - self.header_len;
        let end = (self.at + self.size).min(self.bytes.len());
        let last = end == self.bytes.len();
        let segment = &mut self.bytes[begin..end];
        segment[..self.header_len].copy_from_slice(&self.headers[..self.header_len]);
        if self.tcp {
            let upper = &mut segment[self.upper..];
            let advanced = (self.at - self.header_len) as u32;
            let sequence = u32::from_be_bytes([upper[4], upper[5], upper[6], upper[7]]);
            upper[4..8].copy_from_slice(&sequence.wrapping_add(advanced).to_be_bytes());
            if !last {
                upper[13] &= !(tcp_flag::FIN | tcp_flag::PSH);
            }
            if !first {
                upper[13] &= !tcp_flag::CWR;
            }
        }
        finish_ip(segment, self.index);
        finish_upper(segment, self.upper, if self.tcp { TCP } else { UDP });
        self.at = end;
        self.index = self.index.wrapping_add(1);
        Some(segment)
    }
}

/// Sets length, identification (`index` behind the one that is there) and IPv4 checksum.
fn finish_ip(segment: &mut [u8], index: u16) {
    let len = segment.len() as u16;
    if segment[0] >> 4 == 4 {
        let header_len = usize::from(segment[0] & 0x0f) * 4;
        let id = u16::from_be_bytes([segment[4], segment[5]]).wrapping_add(index);
        segment[2..4].copy_from_slice(&len.to_be_bytes());
        segment[4..6].copy_from_slice(&id.to_be_bytes());
        segment[10..12].fill(0);
        let sum = Sum::default().bytes(&segment[..header_len]).checksum();
        segment[10..12].copy_from_slice(&sum);
    } else {
        segment[4..6].copy_from_slice(&(len - 40).to_be_bytes());
    }
}

/// Sets the checksum, and for UDP the length.
fn finish_upper(segment: &mut [u8], upper: usize, protocol: u8) {
    let len = (segment.len() - upper) as u16;
    let field = upper + if protocol == TCP { 16 } else { 6 };
    if protocol == UDP {
        segment[upper + 4..upper + 6].copy_from_slice(&len.to_be_bytes());
    }
    segment[field..field + 2].fill(0);
    let sum = Sum::pseudo(addresses(segment), protocol, len).bytes(&segment[upper..]).checksum();
    // RFC 768: a sum of zero is sent as all ones.
    let sum = if protocol == UDP && sum == [0, 0] { [0xff; 2] } else { sum };
    segment[field..field + 2].copy_from_slice(&sum);
}

/// Source and destination as they stand in an IP header of either version that was parsed before.
pub(super) fn addresses(packet: &[u8]) -> &[u8] {
    if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] }
}

/// Finishes a checksum that holds the pseudo header's sum: the one at `start + field` over everything
/// from `start` on.
///
/// # Errors
/// When the field is not inside the packet.
pub fn finish_checksum(packet: &mut [u8], start: u16, field: u16) -> Result<(), BadSuperPacket> {
    let covered = packet.get_mut(usize::from(start)..).ok_or(BadSuperPacket)?;
    let field = usize::from(field);
    if covered.len() < field + 2 {
        return Err(BadSuperPacket);
    }
    let sum = Sum::default().bytes(covered).checksum();
    // All ones and zero are the same sum, and zero means "none" for UDP (RFC 768).
    let sum = if sum == [0, 0] { [0xff; 2] } else { sum };
    covered[field..field + 2].copy_from_slice(&sum);
    Ok(())
}
