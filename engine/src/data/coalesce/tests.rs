//! Splitting and joining against a plain reference that builds every packet from nothing.

use super::*;
use crate::data::{Split, finish_checksum};
use crate::packet::parse;

const ALL: Offloads = Offloads { tcp: true, udp: true };
const ACK: u8 = tcp_flag::ACK;
const LAST: u8 = tcp_flag::ACK | tcp_flag::PSH;

/// What a test sends: everything that a header says, and the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spec {
    v6: bool,
    tcp: bool,
    port: u16,
    id: u16,
    df: bool,
    tos: u8,
    sequence: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

fn spec(v6: bool, tcp: bool, len: usize) -> Spec {
    let options = if tcp { vec![1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 7] } else { Vec::new() };
    let payload = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
    Spec {
        v6,
        tcp,
        port: 443,
        id: 0xfffe,
        df: true,
        tos: 2,
        sequence: u32::MAX - 2000,
        flags: LAST,
        window: 512,
        options,
        payload,
    }
}

/// RFC 1071 word by word.
fn plain_sum(pieces: &[&[u8]]) -> u16 {
    let bytes = pieces.concat();
    let mut sum: u64 =
        bytes.chunks(2).map(|p| u64::from(u16::from_be_bytes([p[0], *p.get(1).unwrap_or(&0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Spec {
    fn upper(&self) -> Vec<u8> {
        let mut upper = [40_000u16.to_be_bytes(), self.port.to_be_bytes()].concat();
        if self.tcp {
            upper.extend(self.sequence.to_be_bytes());
            upper.extend(77u32.to_be_bytes());
            upper.extend([(5 + self.options.len() as u8 / 4) << 4, self.flags]);
            upper.extend(self.window.to_be_bytes());
            upper.extend([0; 4]);
            upper.extend(&self.options);
        } else {
            upper.extend(((self.payload.len() + 8) as u16).to_be_bytes());
            upper.extend([0; 2]);
        }
        upper.extend(&self.payload);
        upper
    }

    fn addresses(&self) -> Vec<u8> {
        if self.v6 { [[0xfd; 16], [0xfc; 16]].concat() } else { vec![100, 71, 0, 2, 100, 71, 0, 1] }
    }

    /// The whole packet. `partial`: the checksum holds the pseudo header's sum only.
    fn build(&self, partial: bool) -> Vec<u8> {
        let mut upper = self.upper();
        let protocol = if self.tcp { TCP } else { UDP };
        let pseudo = [&self.addresses()[..], &[0, protocol], &(upper.len() as u16).to_be_bytes()].concat();
        let sum = if partial { plain_sum(&[&pseudo]) } else { !plain_sum(&[&pseudo, &upper]) };
        let sum = if !self.tcp && !partial && sum == 0 { 0xffff } else { sum };
        let at = if self.tcp { 16 } else { 6 };
        upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut packet = Vec::new();
        if self.v6 {
            packet.extend([0x60 | self.tos >> 4, self.tos << 4 | 3, 0x12, 0x34]);
            packet.extend((upper.len() as u16).to_be_bytes());
            packet.extend([protocol, 60]);
            packet.extend(self.addresses());
        } else {
            packet.extend([0x45, self.tos]);
            packet.extend((upper.len() as u16 + 20).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend([if self.df { 0x40 } else { 0 }, 0, 60, protocol, 0, 0]);
            packet.extend(self.addresses());
            let sum = !plain_sum(&[&packet]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet.extend(upper);
        packet
    }

    /// The packets of a sender without offload.
    fn segments(&self, size: usize) -> Vec<Vec<u8>> {
        let count = self.payload.len().div_ceil(size).max(1);
        let one = |i: usize| {
            let mut s = self.clone();
            s.payload = self.payload.iter().skip(i * size).take(size).copied().collect();
            s.id = self.id.wrapping_add(i as u16);
            s.sequence = self.sequence.wrapping_add((i * size) as u32);
            if i > 0 {
                s.flags &= !tcp_flag::CWR;
            }
            if i + 1 < count {
                s.flags &= !(tcp_flag::FIN | tcp_flag::PSH);
            }
            s.build(false)
        };
        (0..count).map(one).collect()
    }

    const fn kind(&self) -> SegmentKind {
        match (self.tcp, self.v6) {
            (true, false) => SegmentKind::Tcp4,
            (true, true) => SegmentKind::Tcp6,
            (false, _) => SegmentKind::Udp,
        }
    }
}

fn split(whole: &[u8], kind: SegmentKind, size: usize) -> Vec<Vec<u8>> {
    let mut bytes = whole.to_vec();
    let packet = parse(whole).unwrap();
    let mut split = Split::new(&mut bytes, &packet, kind, size as u16).unwrap();
    let count = split.count();
    let mut all = Vec::new();
    while let Some(segment) = split.next_segment() {
        all.push(segment.to_vec());
    }
    assert_eq!(all.len(), count);
    all
}

fn join(accepts: Offloads, packets: &[Vec<u8>]) -> Vec<(Offload, Vec<u8>)> {
    let mut slab = packets.concat();
    let mut coalescer = Coalescer::new(accepts, packets.len());
    let mut at = 0;
    for packet in packets {
        coalescer.push(&slab, at, &parse(packet).unwrap());
        at += packet.len();
    }
    let mut out = Vec::new();
    coalescer.drain(&mut slab, |offload, parts| {
        out.push((offload, parts.iter().flat_map(|p| p.to_vec()).collect()));
    });
    out
}

/// The packets that the host sees in the end.
fn expand(joined: &[(Offload, Vec<u8>)]) -> Vec<Vec<u8>> {
    let each = joined.iter().flat_map(|(offload, packet)| match offload {
        Offload::Segments { kind, size, .. } => split(packet, *kind, usize::from(*size)),
        _ => vec![packet.clone()],
    });
    each.collect()
}

#[test]
fn a_super_packet_becomes_what_a_sender_without_offload_sends() {
    let all = LAST | tcp_flag::FIN | tcp_flag::CWR | tcp_flag::ECE;
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        for (len, size) in
            [(1, 1328), (1328, 1328), (1329, 1328), (60_001, 1328), (999, 1), (4000, 536), (77, 30)]
        {
            for flags in [ACK, LAST, all] {
                let s = Spec { flags, ..spec(v6, tcp, len) };
                assert_eq!(
                    split(&s.build(true), s.kind(), size),
                    s.segments(size),
                    "{len} by {size}, {flags:x}"
                );
            }
        }
    }
}

#[test]
fn a_checksum_that_was_left_is_finished() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        for len in [0, 1, 100, 1301] {
            let s = spec(v6, tcp, len);
            let mut packet = s.build(true);
            let start = if v6 { 40 } else { 20 };
            finish_checksum(&mut packet, start, if tcp { 16 } else { 6 }).unwrap();
            assert_eq!(packet, s.build(false));
        }
    }
    assert!(finish_checksum(&mut [0; 40], 20, 19).is_err());
    assert!(finish_checksum(&mut [0; 40], 50, 0).is_err());
}

#[test]
fn super_packets_that_contradict_themselves_are_refused() {
    let s = spec(false, true, 3000);
    let whole = s.build(true);
    let packet = parse(&whole).unwrap();
    let refused = |bytes: &[u8], packet: &Packet, kind, size| {
        Split::new(&mut bytes.to_vec(), packet, kind, size).is_err()
    };
    assert!(refused(&whole, &packet, SegmentKind::Tcp4, 0));
    assert!(refused(&whole, &packet, SegmentKind::Tcp6, 1000));
    assert!(refused(&whole, &packet, SegmentKind::Udp, 1000));
    assert!(refused(&whole[..100], &packet, SegmentKind::Tcp4, 1000));
    let mut lying = whole.clone();
    lying[32] = 0x10;
    assert!(refused(&lying, &packet, SegmentKind::Tcp4, 1000), "a TCP header of 4 bytes");
}

#[test]
fn what_was_split_is_joined_to_the_same_super_packet() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        for flags in [ACK, LAST, LAST | tcp_flag::FIN, ACK | tcp_flag::ECE] {
            let s = Spec { flags, ..spec(v6, tcp, 40 * 1300 + 77) };
            let joined = join(ALL, &s.segments(1300));
            let start = if v6 { 40 } else { 20 };
            let offload = Offload::Segments { kind: s.kind(), size: 1300, start };
            assert_eq!(joined, [(offload, s.build(true))], "v6 {v6}, tcp {tcp}, {flags:x}");
        }
    }
}

#[test]
fn a_host_without_offload_gets_every_packet_as_it_was() {
    let segments = spec(false, true, 5000).segments(1300);
    let joined = join(Offloads::default(), &segments);
    assert!(joined.iter().all(|(offload, _)| *offload == Offload::None));
    assert_eq!(expand(&joined), segments);
    let udp = spec(true, false, 5000).segments(1300);
    let joined = join(Offloads { tcp: true, udp: false }, &udp);
    assert!(joined.iter().all(|(offload, _)| *offload == Offload::Verified));
    assert_eq!(expand(&joined), udp);
}

#[test]
fn only_what_the_receiver_cannot_tell_apart_is_joined() {
    let head = Spec { flags: ACK, sequence: 1000, id: 5, ..spec(false, true, 1000) };
    let next = Spec { sequence: 2000, id: 6, ..head.clone() };
    let joined =
        |first: &Spec, second: &Spec| join(ALL, &[first.build(false), second.build(false)]).len() == 1;
    assert!(joined(&head, &next));
    assert!(joined(&head, &Spec { flags: LAST, ..next.clone() }), "PSH ends a run");
    assert!(joined(&head, &Spec { id: 5, ..next.clone() }), "DF: the identification means nothing");
    let fresh = |change: &dyn Fn(&mut Spec)| {
        let mut s = next.clone();
        change(&mut s);
        s
    };
    let strangers: [(&str, Spec); 13] = [
        ("a gap", fresh(&|s| s.sequence += 1)),
        ("another port", fresh(&|s| s.port = 80)),
        ("SYN", fresh(&|s| s.flags |= tcp_flag::SYN)),
        ("RST", fresh(&|s| s.flags |= tcp_flag::RST)),
        ("URG", fresh(&|s| s.flags |= 0x20)),
        ("CWR", fresh(&|s| s.flags |= tcp_flag::CWR)),
        ("ECE", fresh(&|s| s.flags |= tcp_flag::ECE)),
        ("another window", fresh(&|s| s.window = 9)),
        ("other options", fresh(&|s| s.options[7] = 1)),
        ("fewer options", fresh(&|s| s.options.clear())),
        ("another class", fresh(&|s| s.tos = 0)),
        ("another identification", fresh(&|s| s.id = 9)),
        ("nothing inside", fresh(&|s| s.payload.clear())),
    ];
    for (what, second) in strangers {
        assert!(!joined(&head, &second), "{what} was joined");
        let both = [head.build(false), second.build(false)];
        assert_eq!(expand(&join(ALL, &both)), both, "{what}");
    }
    assert!(!joined(&Spec { df: false, ..head.clone() }, &Spec { df: false, id: 5, ..next.clone() }));
    assert!(!joined(&Spec { flags: LAST, ..head.clone() }, &next), "PSH ended it");
    assert!(!joined(&head, &Spec { payload: vec![1; 1001], ..next.clone() }), "longer than the first");
    let short = Spec { payload: vec![1; 999], ..next.clone() };
    let third = Spec { sequence: 2999, id: 7, ..head.clone() };
    let three = [head.build(false), short.build(false), third.build(false)];
    assert_eq!(join(ALL, &three).len(), 2, "a short one ends a run");
}

#[test]
fn a_wrong_checksum_reaches_the_host_as_it_came() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut segments = spec(v6, tcp, 5000).segments(1000);
        *segments[2].last_mut().unwrap() ^= 1;
        let joined = join(ALL, &segments);
        assert_eq!(joined.len(), 3, "two before, it, two behind");
        assert_eq!(joined[1], (Offload::None, segments[2].clone()));
        assert_eq!(expand(&joined), segments);
    }
    let mut bad_ip = spec(false, true, 2000).segments(1000);
    bad_ip[1][8] ^= 1;
    assert_eq!(expand(&join(ALL, &bad_ip)), bad_ip);
    let mut none = spec(false, false, 2000).segments(1000);
    none.iter_mut().for_each(|p| p[26..28].fill(0));
    assert_eq!(join(ALL, &none).len(), 2, "UDP without a checksum claims nothing");
}

#[test]
fn flows_that_alternate_are_joined_and_each_keeps_its_order() {
    let flows: Vec<Vec<Vec<u8>>> =
        (0..5).map(|port| Spec { port, ..spec(port % 2 == 0, port != 3, 12_000) }.segments(1000)).collect();
    let mixed: Vec<Vec<u8>> = (0..12).flat_map(|i| flows.iter().map(move |f| f[i].clone())).collect();
    let joined = join(ALL, &mixed);
    assert_eq!(joined.len(), flows.len());
    assert_eq!(expand(&joined), flows.concat());
}

#[test]
fn nothing_overtakes_a_fragment_and_headers_of_a_kind_stay_alone() {
    let s = spec(false, false, 3000);
    let mut packets = s.segments(1000);
    let mut fragment = packets[1].clone();
    fragment[6] = 0x20;
    fragment[10..12].fill(0);
    let sum = !plain_sum(&[&fragment[..20]]);
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    packets[1] = fragment;
    assert_eq!(expand(&join(ALL, &packets)), packets);
    assert_eq!(join(ALL, &packets).len(), 3);
    // IPv6 with an extension header (destination options, padding only).
    let extended: Vec<Vec<u8>> = spec(true, true, 2000)
        .segments(1000)
        .iter()
        .map(|p| {
            let mut q = [&p[..40], &[TCP, 0, 1, 4, 0, 0, 0, 0], &p[40..]].concat();
            q[6] = 60;
            q[4..6].copy_from_slice(&((p.len() - 40 + 8) as u16).to_be_bytes());
            q
        })
        .collect();
    let joined = join(ALL, &extended);
    assert_eq!(joined.len(), 2);
    assert_eq!(expand(&joined), extended);
}
