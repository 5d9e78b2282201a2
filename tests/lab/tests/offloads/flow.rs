//! Random packets, built from nothing: headers, options, extension headers and checksums by the RFCs.

use meshd_engine::data::SegmentKind;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const TCP: u8 = 6;
const UDP: u8 = 17;
const FROM4: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 2);
const TO4: Ipv4Addr = Ipv4Addr::new(10, 92, 0, 2);
const FROM6: Ipv6Addr = Ipv6Addr::new(0xfd91, 0, 0, 0, 0, 0, 0, 2);
const TO6: Ipv6Addr = Ipv6Addr::new(0xfd92, 0, 0, 0, 0, 0, 0, 2);

/// Whether a packet to `dst` is one of the test's.
pub(super) fn is_ours(dst: IpAddr) -> bool {
    dst == IpAddr::V4(TO4) || dst == IpAddr::V6(TO6)
}

/// Xorshift: random enough, and the same in every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        // The high half: low bits of xorshift are its poorest.
        (self.next() >> 32) as usize % end
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

/// A super-packet as a sender would describe it.
pub(super) struct Flow {
    v6: bool,
    tcp: bool,
    port: u16,
    id: u16,
    df: bool,
    class: u8,
    sequence: u32,
    flags: u8,
    options: usize,
    /// IPv4 options, or IPv6 extension headers: hop-by-hop, destination options, both.
    extended: usize,
    payload: Vec<u8>,
    pub(super) size: usize,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        let kind = if self.tcp { "TCP" } else { "UDP" };
        write!(
            f,
            "{kind} in {family}, {} bytes by {}, flags {:#04x}, {} bytes of options, extended {}",
            self.payload.len(),
            self.size,
            self.flags,
            self.options,
            self.extended
        )
    }
}

impl Flow {
    pub(super) fn choose(random: &mut Random) -> Self {
        let size = [1 + random.below(60), 536, 1200, 1 + random.below(1400), 1328][random.below(5)];
        let count = 1 + random.below(40);
        // Odd tails, full last segments, and packets too short to be cut.
        let tail = [0, 1, random.below(size)][random.below(3)];
        let len = (size * count - tail.min(size * count - 1)).min(60_000);
        let seed = random.next() as u8;
        let ack = 0x10;
        let flags = match random.below(6) {
            0 => ack | 0x08,
            1 => ack | 0x01,
            2 => ack | 0x80,
            3 => ack | 0x40 | 0x80 | 0x08,
            4 => random.next() as u8 & 0xf9,
            _ => ack,
        };
        Self {
            v6: random.chance(2),
            tcp: random.below(5) > 1,
            port: 5000 + random.below(3) as u16,
            id: random.next() as u16,
            df: random.chance(2),
            class: random.next() as u8,
            sequence: if random.chance(4) { u32::MAX - 700 } else { random.next() as u32 },
            flags,
            options: if random.chance(2) { 12 } else { 4 * random.below(11) },
            extended: if random.chance(4) { 1 + random.below(3) } else { 0 },
            payload: (0..len).map(|i| (i as u8).wrapping_mul(31) ^ seed ^ (i >> 8) as u8).collect(),
            size,
        }
    }

    pub(super) fn kind(&self) -> SegmentKind {
        match (self.tcp, self.v6) {
            (true, false) => SegmentKind::Tcp4,
            (true, true) => SegmentKind::Tcp6,
            (false, _) => SegmentKind::Udp,
        }
    }

    /// Whether there is nothing to cut. The kernel drops what claims to be more and is not.
    pub(super) fn is_one_segment(&self) -> bool {
        self.payload.len() <= self.size
    }

    fn addresses(&self) -> Vec<u8> {
        if self.v6 {
            [FROM6.octets(), TO6.octets()].concat()
        } else {
            [FROM4.octets(), TO4.octets()].concat()
        }
    }

    /// The super-packet, whose checksum holds the pseudo header's sum.
    pub(super) fn whole(&self) -> Vec<u8> {
        let protocol = if self.tcp { TCP } else { UDP };
        let mut upper = [7000u16.to_be_bytes(), self.port.to_be_bytes()].concat();
        if self.tcp {
            upper.extend(self.sequence.to_be_bytes());
            upper.extend([0, 0, 0, 1, (5 + self.options as u8 / 4) << 4, self.flags, 0x20, 0, 0, 0, 0, 0]);
            // No-operations, so that no kernel minds what they say.
            upper.extend(vec![1; self.options]);
        } else {
            upper.extend((self.payload.len() as u16 + 8).to_be_bytes());
            upper.extend([0; 2]);
        }
        upper.extend(&self.payload);
        let mut pseudo = self.addresses();
        pseudo.extend([0, protocol]);
        pseudo.extend((upper.len() as u16).to_be_bytes());
        let at = if self.tcp { 16 } else { 6 };
        upper[at..at + 2].copy_from_slice(&sum(&pseudo).to_be_bytes());
        self.in_ip(protocol, &upper, 0)
    }

    /// `fragment`: the field of IPv4 with flags and offset.
    fn in_ip(&self, protocol: u8, upper: &[u8], fragment: u16) -> Vec<u8> {
        let mut packet = Vec::new();
        if self.v6 {
            let mut chain = match self.extended {
                1 => vec![0],
                2 => vec![60],
                3 => vec![0, 60],
                _ => vec![],
            };
            chain.push(protocol);
            let more = chain[1..].iter().flat_map(|next| [*next, 0, 1, 4, 0, 0, 0, 0]).collect::<Vec<_>>();
            packet.extend([0x60 | self.class >> 4, self.class << 4, 0, 7]);
            packet.extend(((upper.len() + more.len()) as u16).to_be_bytes());
            packet.extend([chain[0], 64]);
            packet.extend(self.addresses());
            packet.extend(more);
        } else {
            let more = vec![1; 4 * self.extended];
            packet.extend([0x45 + self.extended as u8, self.class]);
            packet.extend(((upper.len() + more.len() + 20) as u16).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            let fragment = if fragment == 0 && self.df { 0x4000 } else { fragment };
            packet.extend(fragment.to_be_bytes());
            packet.extend([64, protocol, 0, 0]);
            packet.extend(self.addresses());
            packet.extend(more);
            let head = !sum(&packet);
            packet[10..12].copy_from_slice(&head.to_be_bytes());
        }
        packet.extend(upper);
        packet
    }

    /// Two fragments of an IPv4 packet; nothing for IPv6, whose fragments are extension headers.
    pub(super) fn fragments(&self) -> Vec<Vec<u8>> {
        if self.v6 {
            return vec![];
        }
        let piece = &self.payload[..self.payload.len().min(64)];
        let whole = [&[0x1b, 0x58, 0x13, 0x88, 0, 72, 0, 0], piece].concat();
        let cut = whole.len().min(32);
        let mut parts = vec![self.in_ip(UDP, &whole[..cut], 0x2000)];
        if cut == 32 && whole.len() > cut {
            parts.push(self.in_ip(UDP, &whole[cut..], 4));
        }
        parts
    }
}

/// What one hop does to a packet: one less to live, and the IPv4 header's checksum with it.
pub(super) fn hop(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[8] -= 1;
        let len = usize::from(packet[0] & 0x0f) * 4;
        packet[10..12].fill(0);
        let head = !sum(&packet[..len]);
        packet[10..12].copy_from_slice(&head.to_be_bytes());
    } else {
        packet[7] -= 1;
    }
    packet
}

/// Something that happens on the way: packets change places, are lost, come twice, or are damaged in their
/// payload.
pub(super) fn disturb(random: &mut Random, packets: &mut Vec<Vec<u8>>) {
    let (at, other) = (random.below(packets.len()), random.below(packets.len()));
    match random.below(4) {
        0 => packets.swap(at, other),
        1 if packets.len() > 1 => drop(packets.remove(at)),
        2 => packets.insert(other, packets[at].clone()),
        _ => {
            if let Some(last) = packets[at].last_mut() {
                *last ^= 0x55;
            }
        }
    }
}

/// RFC 1071, word by word.
fn sum(bytes: &[u8]) -> u16 {
    let word = |p: &[u8]| u64::from(u16::from_be_bytes([p[0], p.get(1).copied().unwrap_or(0)]));
    let mut sum: u64 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
