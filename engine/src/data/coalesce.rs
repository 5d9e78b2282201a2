//! Joins the packets of a run into super-packets for a host that takes them.
//!
//! The opposite of [`Split`](super::Split), under the kernel's own rules for GRO: only packets whose
//! joining the receiver cannot see. Segments of one flow, in order, with the same headers but for
//! length, identification, sequence number and checksum, all of one size but the last, which PSH or FIN
//! ends; each one's checksum was verified, so that the super-packet may claim it. Never joined: fragments,
//! IPv4 options, IPv6 extension headers, SYN, RST, URG, CWR, segments without payload, UDP without
//! checksum.
//!
//! Packets of one flow stay in their order; a packet that cannot be told to belong to a flow is not
//! overtaken by anything. Payload is not copied: a super-packet is a list of slices.

use super::checksum::Sum;
use super::split::addresses;
use super::{Offload, Offloads, SegmentKind};
use crate::packet::{Packet, TCP, UDP, Upper, tcp_flag};
use std::io::IoSlice;

/// Segments in a super-packet: as many as UDP GSO takes in all kernels.
pub const MAX_SEGMENTS: usize = 64;
/// Flows that are looked at to find a packet's own.
const OPEN: usize = 8;
/// The longest packet that IP has.
const MAX_LEN: usize = 65_535;
/// No part follows.
const END: u32 = u32::MAX;

/// Collects a run of packets that stand in one slab, and hands them out joined.
#[derive(Debug, Default)]
pub struct Coalescer {
    accepts: Offloads,
    groups: Vec<Group>,
    /// Payloads behind the first packet of each group.
    parts: Vec<Part>,
    /// The groups that may grow, the last used first.
    open: [Option<u32>; OPEN],
}

/// One packet, or those that were joined to it.
#[derive(Clone, Copy, Debug)]
struct Group {
    start: usize,
    len: usize,
    upper: usize,
    header_len: usize,
    /// What it may become part of; `None`: it stays alone.
    kind: Option<SegmentKind>,
    verified: bool,
    size: usize,
    count: usize,
    total: usize,
    next_sequence: u32,
    last_flags: u8,
    first_part: u32,
    last_part: u32,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    start: usize,
    len: usize,
    next: u32,
}

impl Coalescer {
    /// For a host that takes `accepts`. Room for `runs` packets is made at once.
    pub fn new(accepts: Offloads, runs: usize) -> Self {
        Self {
            accepts,
            groups: Vec::with_capacity(runs),
            parts: Vec::with_capacity(runs),
            open: [None; OPEN],
        }
    }

    /// Takes the packet at `start` of `slab`, which was read as `packet`.
    pub fn push(&mut self, slab: &[u8], start: usize, packet: &Packet) {
        let bytes = &slab[start..start + packet.len];
        let mut group = Group::alone(start, packet);
        match packet.upper {
            Upper::Tcp { .. } | Upper::Ports(_) if packet.fragment.is_none() && self.accepts.tcp => {
                group.verified = is_verified(bytes, packet);
            }
            Upper::Tcp { .. } | Upper::Ports(_) if packet.fragment.is_none() => {}
            _ => self.open = [None; OPEN],
        }
        let Some(found) = self.find(slab, bytes, packet) else {
            self.begin(group, bytes, packet);
            return;
        };
        let index = self.open[found];
        self.open[..=found].rotate_right(1);
        if let Some(index) = index {
            let head = &mut self.groups[index as usize];
            if group.verified && head.takes(slab, bytes, packet) {
                let payload = packet.len - head.header_len;
                let part = self.parts.len() as u32;
                self.parts.push(Part { start: start + head.header_len, len: payload, next: END });
                if head.first_part == END {
                    head.first_part = part;
                } else {
                    self.parts[head.last_part as usize].next = part;
                }
                head.last_part = part;
                if !head.join(bytes, payload) {
                    self.open[0] = None;
                }
                return;
            }
        }
        // The same flow, but it does not fit: what was open is complete.
        self.open[0] = None;
        self.begin(group, bytes, packet);
    }

    fn begin(&mut self, mut group: Group, bytes: &[u8], packet: &Packet) {
        let index = self.groups.len() as u32;
        group.kind = if group.verified { self.kind_of(bytes, packet) } else { None };
        if group.kind.is_some() && group.can_grow(bytes) {
            self.open.rotate_right(1);
            self.open[0] = Some(index);
        }
        self.groups.push(group);
    }

    /// Which open group has the packet's flow: a place in `open`.
    fn find(&self, slab: &[u8], bytes: &[u8], packet: &Packet) -> Option<usize> {
        let ports = bytes.get(packet.upper_at..packet.upper_at + 4)?;
        self.open.iter().position(|index| {
            let Some(group) = index.and_then(|i| self.groups.get(i as usize)) else { return false };
            let head = &slab[group.start..];
            head[0] >> 4 == bytes[0] >> 4
                && head.get(group.upper..group.upper + 4) == Some(ports)
                && addresses(head) == addresses(bytes)
                && (group.kind == Some(SegmentKind::Udp)) == (packet.protocol == UDP)
        })
    }

    /// What the packet may begin.
    fn kind_of(&self, bytes: &[u8], packet: &Packet) -> Option<SegmentKind> {
        let v4 = bytes[0] >> 4 == 4;
        // IPv4 options and IPv6 extension headers stay what they are.
        if packet.upper_at != if v4 { 20 } else { 40 } {
            return None;
        }
        match packet.protocol {
            TCP => Some(if v4 { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 }),
            UDP if self.accepts.udp => Some(SegmentKind::Udp),
            _ => None,
        }
    }

    /// Hands everything out in order and begins anew. `write` gets what is left to do for the packet,
    /// and its bytes in pieces.
    pub fn drain(&mut self, slab: &mut [u8], mut write: impl FnMut(Offload, &[IoSlice<'_>])) {
        for group in &self.groups {
            if group.count > 1 {
                group.finish(&mut slab[group.start..]);
            }
        }
        let slab = &*slab;
        for group in &self.groups {
            let mut slices = [IoSlice::new(&[]); MAX_SEGMENTS];
            slices[0] = IoSlice::new(&slab[group.start..group.start + group.len]);
            let (mut used, mut next) = (1, group.first_part);
            while let Some(part) = self.parts.get(next as usize) {
                slices[used] = IoSlice::new(&slab[part.start..part.start + part.len]);
                used += 1;
                next = part.next;
            }
            write(group.offload(), &slices[..used]);
        }
        self.groups.clear();
        self.parts.clear();
        self.open = [None; OPEN];
    }
}

impl Group {
    fn alone(start: usize, packet: &Packet) -> Self {
        Self {
            start,
            len: packet.len,
            upper: packet.upper_at,
            header_len: 0,
            kind: None,
            verified: false,
            size: 0,
            count: 1,
            total: packet.len,
            next_sequence: 0,
            last_flags: 0,
            first_part: END,
            last_part: END,
        }
    }

    /// Fills in what the first packet says; whether others may follow it.
    fn can_grow(&mut self, bytes: &[u8]) -> bool {
        let upper = &bytes[self.upper..];
        let own = if self.is_tcp() { usize::from(upper[12] >> 4) * 4 } else { 8 };
        self.header_len = self.upper + own;
        self.size = self.len.saturating_sub(self.header_len);
        if self.size == 0 {
            return false;
        }
        if self.is_tcp() {
            let sequence = u32::from_be_bytes([upper[4], upper[5], upper[6], upper[7]]);
            self.next_sequence = sequence.wrapping_add(self.size as u32);
            self.last_flags = upper[13];
            // Only ACK and ECE: what begins, ends or hurries stays alone.
            return upper[13] & !tcp_flag::ECE == tcp_flag::ACK;
        }
        true
    }

    /// Whether the packet continues this group. Both are verified and of one flow.
    fn takes(&self, slab: &[u8], bytes: &[u8], packet: &Packet) -> bool {
        let head = &slab[self.start..self.start + self.len];
        let payload = match packet.len.checked_sub(self.header_len) {
            Some(1..) if packet.upper_at == self.upper => packet.len - self.header_len,
            _ => return false,
        };
        if payload > self.size || self.count >= MAX_SEGMENTS || self.total + payload > MAX_LEN {
            return false;
        }
        same_ip(head, bytes, self.count) && (!self.is_tcp() || self.same_tcp(head, bytes))
    }

    fn same_tcp(&self, head: &[u8], bytes: &[u8]) -> bool {
        let (a, b) = (&head[self.upper..self.header_len], &bytes[self.upper..self.header_len]);
        let ends = tcp_flag::FIN | tcp_flag::PSH;
        b[4..8] == self.next_sequence.to_be_bytes()
            && a[8..13] == b[8..13]
            && a[13] == b[13] & !ends
            && a[14..16] == b[14..16]
            && a[18..] == b[18..]
    }

    /// Adds a packet that was taken; whether another may follow.
    fn join(&mut self, bytes: &[u8], payload: usize) -> bool {
        self.count += 1;
        self.total += payload;
        let mut ended = payload < self.size;
        if self.is_tcp() {
            self.next_sequence = self.next_sequence.wrapping_add(payload as u32);
            self.last_flags = bytes[self.upper + 13];
            ended |= self.last_flags & (tcp_flag::FIN | tcp_flag::PSH) != 0;
        }
        !ended
    }

    /// Turns the first packet's headers into the super-packet's.
    fn finish(&self, head: &mut [u8]) {
        let total = self.total as u16;
        if head[0] >> 4 == 4 {
            head[2..4].copy_from_slice(&total.to_be_bytes());
            head[10..12].fill(0);
            let sum = Sum::default().bytes(&head[..20]).checksum();
            head[10..12].copy_from_slice(&sum);
        } else {
            head[4..6].copy_from_slice(&(total - 40).to_be_bytes());
        }
        let len = total - self.upper as u16;
        let (protocol, field) = if self.is_tcp() { (TCP, 16) } else { (UDP, 6) };
        let sum = Sum::pseudo(addresses(head), protocol, len).folded();
        let upper = &mut head[self.upper..];
        upper[field..field + 2].copy_from_slice(&sum);
        if self.is_tcp() {
            upper[13] = self.last_flags;
        } else {
            upper[4..6].copy_from_slice(&len.to_be_bytes());
        }
    }

    const fn is_tcp(&self) -> bool {
        matches!(self.kind, Some(SegmentKind::Tcp4 | SegmentKind::Tcp6))
    }

    const fn offload(&self) -> Offload {
        match self.kind {
            Some(kind) if self.count > 1 => {
                Offload::Segments { kind, size: self.size as u16, start: self.upper as u16 }
            }
            _ if self.verified => Offload::Verified,
            _ => Offload::None,
        }
    }
}

/// Whether the IP headers differ in length and checksum only, and the identification as it does
/// within a run: the `nth` behind the first, or the same one where it means nothing (RFC 6864 §4.1).
fn same_ip(head: &[u8], bytes: &[u8], nth: usize) -> bool {
    if head[0] >> 4 != 4 {
        return head[..4] == bytes[..4] && head[6..40] == bytes[6..40];
    }
    let id = |p: &[u8]| u16::from_be_bytes([p[4], p[5]]);
    let counts = id(bytes) == id(head).wrapping_add(nth as u16);
    let atomic = head[6] & 0x40 != 0 && id(bytes) == id(head);
    (counts || atomic)
        && head[..2] == bytes[..2]
        && head[6..10] == bytes[6..10]
        && head[12..20] == bytes[12..20]
}

/// Whether the checksums of a TCP or UDP packet that is no fragment are right.
fn is_verified(bytes: &[u8], packet: &Packet) -> bool {
    if bytes[0] >> 4 == 4 {
        let header_len = usize::from(bytes[0] & 0x0f) * 4;
        if !Sum::default().bytes(&bytes[..header_len]).is_right() {
            return false;
        }
    }
    let upper = &bytes[packet.upper_at..];
    match packet.protocol {
        TCP => {
            let own = usize::from(upper[12] >> 4) * 4;
            if own < 20 || own > upper.len() {
                return false;
            }
        }
        // The kernel cuts a UDP packet to its own length; zero: there is no checksum to verify.
        UDP if usize::from(u16::from_be_bytes([upper[4], upper[5]])) != upper.len()
            || upper[6..8] == [0, 0] =>
        {
            return false;
        }
        UDP => {}
        _ => return false,
    }
    Sum::pseudo(addresses(bytes), packet.protocol, upper.len() as u16).bytes(upper).is_right()
}

#[cfg(test)]
mod tests;
