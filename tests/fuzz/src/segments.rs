//! Splitting and joining segments: whatever a run of packets is, the host sees what a plain sender
//! would have sent, flow by flow in order and byte by byte.

use meshd_engine::data::{Coalescer, Offload, Offloads, SegmentKind, Split};
use meshd_engine::packet::{Packet, TCP, UDP, parse};
use std::collections::HashMap;

/// Packets that one input makes at most.
const MOST: usize = 96;
/// Bytes of payload that one input makes at most, below what one IP packet holds.
const LONGEST: usize = 60_000;

/// Bytes as a source of choices; zeros when there are no more.
struct Choices<'d>(&'d [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }
}

/// A super-packet as a sender would describe it, and how its segments are damaged.
#[derive(Clone, Debug)]
struct Flow {
    v6: bool,
    tcp: bool,
    port: u16,
    id: u16,
    df: bool,
    class: u8,
    sequence: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
    /// An IPv6 destination-options header, or IPv4 options.
    extended: bool,
    payload: Vec<u8>,
    size: usize,
}

impl Flow {
    fn choose(c: &mut Choices<'_>) -> Self {
        let shape = c.byte();
        let tcp = shape & 2 != 0;
        let len = usize::from(c.word()) % LONGEST;
        let size = 1 + usize::from(c.word()) % 2000;
        let seed = c.byte();
        Self {
            v6: shape & 1 != 0,
            tcp,
            port: u16::from(shape >> 6),
            id: c.word(),
            df: shape & 4 != 0,
            class: c.byte(),
            sequence: u32::from(c.word()) << 16 | u32::from(c.word()),
            flags: if shape & 8 != 0 { c.byte() } else { 0x10 },
            window: c.word(),
            options: if tcp { vec![1; 4 * usize::from(c.byte() % 11)] } else { Vec::new() },
            extended: shape & 48 == 48,
            payload: (0..len).map(|i| (i as u8).wrapping_mul(31) ^ seed ^ (i >> 8) as u8).collect(),
            // No more segments than an input may make.
            size: size.max(len / (MOST / 2) + 1),
        }
    }

    /// The `nth` packet that carries `payload`, built from nothing. `partial`: with the pseudo header's
    /// sum for a checksum, as a super-packet has it.
    fn packet(&self, nth: usize, first: bool, last: bool, payload: &[u8], partial: bool) -> Vec<u8> {
        let protocol = if self.tcp { TCP } else { UDP };
        let mut upper = [5000u16.to_be_bytes(), self.port.to_be_bytes()].concat();
        if self.tcp {
            let advanced = (nth * self.size) as u32;
            let mut flags = self.flags;
            if !last {
                flags &= !0x09;
            }
            if !first {
                flags &= !0x80;
            }
            upper.extend(self.sequence.wrapping_add(advanced).to_be_bytes());
            upper.extend([0, 0, 0, 1, (5 + self.options.len() as u8 / 4) << 4, flags]);
            upper.extend(self.window.to_be_bytes());
            upper.extend([0; 4]);
            upper.extend(&self.options);
        } else {
            upper.extend((payload.len() as u16 + 8).to_be_bytes());
            upper.extend([0; 2]);
        }
        upper.extend(payload);
        let addresses =
            if self.v6 { [[0xfd; 16], [0x20; 16]].concat() } else { vec![100, 71, 0, 1, 100, 71, 0, 2] };
        let mut pseudo = addresses.clone();
        pseudo.extend([0, protocol]);
        pseudo.extend((upper.len() as u16).to_be_bytes());
        if !partial {
            pseudo.extend(&upper);
        }
        let sum = if partial { sum(&pseudo) } else { !sum(&pseudo) };
        let sum = if !self.tcp && !partial && sum == 0 { 0xffff } else { sum };
        let at = if self.tcp { 16 } else { 6 };
        upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut packet = Vec::new();
        if self.v6 {
            let more: &[u8] = if self.extended { &[protocol, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
            packet.extend([0x60 | self.class >> 4, self.class << 4, 0, 7]);
            packet.extend(((upper.len() + more.len()) as u16).to_be_bytes());
            packet.extend([if self.extended { 60 } else { protocol }, 64]);
            packet.extend(addresses);
            packet.extend(more);
        } else {
            let more: &[u8] = if self.extended { &[1; 8] } else { &[] };
            packet.extend([0x45 + more.len() as u8 / 4, self.class]);
            packet.extend(((upper.len() + more.len() + 20) as u16).to_be_bytes());
            packet.extend(self.id.wrapping_add(nth as u16).to_be_bytes());
            packet.extend([if self.df { 0x40 } else { 0 }, 0, 64, protocol, 0, 0]);
            packet.extend(addresses);
            packet.extend(more);
            let head = !self::sum(&packet);
            packet[10..12].copy_from_slice(&head.to_be_bytes());
        }
        packet.extend(upper);
        packet
    }

    fn segments(&self) -> Vec<Vec<u8>> {
        let count = self.payload.len().div_ceil(self.size).max(1);
        let piece = |i: usize| &self.payload[i * self.size..((i + 1) * self.size).min(self.payload.len())];
        (0..count).map(|i| self.packet(i, i == 0, i + 1 == count, piece(i), false)).collect()
    }

    const fn kind(&self) -> SegmentKind {
        match (self.tcp, self.v6) {
            (true, false) => SegmentKind::Tcp4,
            (true, true) => SegmentKind::Tcp6,
            (false, _) => SegmentKind::Udp,
        }
    }
}

/// RFC 1071, word by word.
fn sum(bytes: &[u8]) -> u16 {
    let word = |p: &[u8]| u32::from(u16::from_be_bytes([p[0], p.get(1).copied().unwrap_or(0)]));
    let mut sum: u64 = bytes.chunks(2).map(|p| u64::from(word(p))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Cuts super-packets, damages, mixes and joins what comes out, and cuts it again.
pub fn segments(data: &[u8]) {
    let mut c = Choices(data);
    let accepts = Offloads { tcp: true, udp: c.byte() & 1 != 0 };
    let mut packets = Vec::new();
    while !c.0.is_empty() && packets.len() < MOST {
        let flow = Flow::choose(&mut c);
        let expected = flow.segments();
        assert_eq!(cut(&flow.packet(0, true, true, &flow.payload, true), flow.kind(), flow.size), expected);
        packets.extend(expected);
    }
    for _ in 0..c.byte() % 8 {
        damage(&mut c, &mut packets);
    }
    packets.retain(|p| parse(p).is_ok_and(|read| read.len == p.len()));
    compare(&packets, &join(accepts, &packets));
}

fn damage(c: &mut Choices<'_>, packets: &mut Vec<Vec<u8>>) {
    if packets.is_empty() {
        return;
    }
    let (at, other) = (usize::from(c.byte()) % packets.len(), usize::from(c.byte()) % packets.len());
    match c.byte() % 5 {
        0 => packets.swap(at, other),
        1 => drop(packets.remove(at)),
        2 => packets.insert(other, packets[at].clone()),
        3 => packets[at].push(c.byte()),
        _ => {
            let place = usize::from(c.word()) % packets[at].len();
            packets[at][place] ^= c.byte();
        }
    }
}

fn cut(whole: &[u8], kind: SegmentKind, size: usize) -> Vec<Vec<u8>> {
    let read = parse(whole).expect("a super-packet is a packet");
    let mut bytes = whole.to_vec();
    let mut split = Split::new(&mut bytes, &read, kind, size as u16).expect("it fits together");
    let mut all = Vec::new();
    while let Some(segment) = split.next_segment() {
        all.push(segment.to_vec());
    }
    all
}

fn join(accepts: Offloads, packets: &[Vec<u8>]) -> Vec<(Offload, Vec<u8>)> {
    let mut slab = packets.concat();
    let mut coalescer = Coalescer::new(accepts, packets.len());
    let mut at = 0;
    for packet in packets {
        coalescer.push(&slab, at, &parse(packet).expect("only packets are left"));
        at += packet.len();
    }
    let mut out = Vec::new();
    coalescer.drain(&mut slab, |offload, parts| out.push((offload, parts.concat_bytes())));
    out
}

trait ConcatBytes {
    fn concat_bytes(&self) -> Vec<u8>;
}

impl ConcatBytes for [std::io::IoSlice<'_>] {
    fn concat_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|part| part.to_vec()).collect()
    }
}

/// What went in and what the host gets are the same packets: in order within each flow, and what is of
/// no flow is overtaken by nothing.
fn compare(sent: &[Vec<u8>], joined: &[(Offload, Vec<u8>)]) {
    let mut got = Vec::new();
    for (offload, packet) in joined {
        match offload {
            Offload::Segments { kind, size, .. } => got.extend(cut(packet, *kind, usize::from(*size))),
            Offload::None | Offload::Verified => got.push(packet.clone()),
            Offload::Checksum { .. } => panic!("a checksum is left to do that was there"),
        }
    }
    assert_eq!(got.len(), sent.len());
    assert_eq!(by_flow(&got), by_flow(sent));
}

type Key = (std::net::IpAddr, std::net::IpAddr, u8, Option<meshd_engine::packet::Ports>);

fn by_flow(packets: &[Vec<u8>]) -> HashMap<Key, Vec<Vec<u8>>> {
    let mut flows: HashMap<Key, Vec<Vec<u8>>> = HashMap::new();
    for bytes in packets {
        let read: Packet = parse(bytes).expect("a packet");
        let mut bytes = bytes.clone();
        // With DF the identification means nothing (RFC 6864 §4.1), and equal ones may be counted up.
        if bytes[0] >> 4 == 4 && bytes[6] & 0x40 != 0 {
            bytes[4..6].fill(0);
            bytes[10..12].fill(0);
        }
        flows.entry((read.src, read.dst, read.protocol, read.ports())).or_default().push(bytes);
    }
    flows
}
