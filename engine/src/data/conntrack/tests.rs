use super::*;
use crate::packet::{self, tcp_flag::*};

const A: [u8; 4] = [100, 71, 0, 1];
const B: [u8; 4] = [100, 71, 0, 2];
const PEER: NodeId = NodeId(2);

fn packet(src: [u8; 4], dst: [u8; 4], protocol: u8, l4: &[u8]) -> Packet {
    let len = (20 + l4.len()) as u16;
    let mut p = vec![0x45, 0, (len >> 8) as u8, len as u8, 0, 1, 0, 0, 64, protocol, 0, 0];
    p.extend_from_slice(&src);
    p.extend_from_slice(&dst);
    p.extend_from_slice(l4);
    packet::parse(&p).unwrap()
}

fn udp(src: [u8; 4], dst: [u8; 4], ports: (u16, u16)) -> Packet {
    packet(src, dst, packet::UDP, &[ports.0.to_be_bytes(), ports.1.to_be_bytes(), [0, 8], [0, 0]].concat())
}

fn tcp(src: [u8; 4], dst: [u8; 4], ports: (u16, u16), flags: u8) -> Packet {
    let mut l4 = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    l4.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    packet(src, dst, TCP, &l4)
}

fn echo(src: [u8; 4], dst: [u8; 4], request: bool) -> Packet {
    packet(src, dst, ICMP, &[if request { 8 } else { 0 }, 0, 0, 0, 0, 9, 0, 1])
}

const fn at(generation: u64, stamp: u64) -> Judgement {
    Judgement { generation, stamp }
}

fn table() -> Conntrack {
    Conntrack::new([3; 16])
}

#[expect(clippy::unnecessary_wraps, reason = "it stands for the policy")]
const fn yes(_: &Flow) -> Option<RuleMark> {
    Some(RuleMark::NONE)
}

const fn no(_: &Flow) -> Option<RuleMark> {
    None
}

fn judge(
    t: &Conntrack,
    packet: &Packet,
    peer: NodeId,
    when: Judgement,
    allows: impl Fn(&Flow) -> Option<RuleMark>,
) -> Inbound {
    t.inbound(packet, peer, when, allows).outcome
}

fn to_peer(_: Option<NodeId>) -> Option<NodeId> {
    Some(PEER)
}

#[test]
fn a_reply_passes_where_the_policy_would_deny_it() {
    let t = table();
    for (out, back) in [
        (udp(A, B, (5000, 53)), udp(B, A, (53, 5000))),
        (tcp(A, B, (5000, 80), SYN), tcp(B, A, (80, 5000), SYN | ACK)),
        (echo(A, B, true), echo(B, A, false)),
    ] {
        assert_eq!(judge(&t, &back, PEER, at(1, 1), no), Inbound::Denied);
        assert_eq!(t.outbound(&out, at(1, 1), no, to_peer), Outbound::To(PEER));
        assert_eq!(judge(&t, &back, PEER, at(1, 2), no), Inbound::Pass, "{back:?}");
    }
    let other_port = udp(B, A, (54, 5000));
    assert_eq!(judge(&t, &other_port, PEER, at(1, 2), no), Inbound::Denied);
}

#[test]
fn a_syn_is_never_a_reply() {
    let t = table();
    t.outbound(&tcp(A, B, (5000, 80), SYN), at(1, 1), no, to_peer);
    assert_eq!(judge(&t, &tcp(B, A, (80, 5000), SYN), PEER, at(1, 2), no), Inbound::Denied);
    assert_eq!(judge(&t, &tcp(B, A, (80, 5000), ACK), PEER, at(1, 3), no), Inbound::Pass);
}

#[test]
fn a_flow_that_the_policy_no_longer_allows_is_cut_in_both_directions_and_stays_cut() {
    let t = table();
    let (ask, answer) = (udp(B, A, (5000, 53)), udp(A, B, (53, 5000)));
    assert_eq!(judge(&t, &ask, PEER, at(1, 1), yes), Inbound::Pass);
    assert_eq!(t.sweep(at(2, 2), |_, _| None), 1);
    assert_eq!(t.sweep(at(3, 2), |_, _| None), 0, "counted once");
    assert_eq!(t.outbound(&answer, at(3, 3), no, to_peer), Outbound::Cut);
    assert_eq!(judge(&t, &ask, PEER, at(3, 4), no), Inbound::Cut);
    assert_eq!(t.outbound(&answer, at(3, 5), no, to_peer), Outbound::Cut);
    // Allowed again: it lives.
    assert_eq!(judge(&t, &ask, PEER, at(4, 6), yes), Inbound::Pass);
    assert_eq!(t.outbound(&answer, at(4, 7), no, to_peer), Outbound::To(PEER));
}

#[test]
fn a_flow_is_judged_again_without_a_sweep_when_the_generation_is_new() {
    let t = table();
    let (ask, answer) = (udp(B, A, (5000, 53)), udp(A, B, (53, 5000)));
    assert_eq!(judge(&t, &ask, PEER, at(1, 1), yes), Inbound::Pass);
    assert_eq!(judge(&t, &ask, PEER, at(1, 2), no), Inbound::Pass, "same generation, no question asked");
    assert_eq!(t.outbound(&answer, at(2, 3), no, to_peer), Outbound::Cut);
}

#[test]
fn a_flow_sticks_to_its_owner_until_that_is_gone() {
    let t = table();
    let packet = udp(A, B, (5000, 53));
    let (one, two) = (NodeId(1), NodeId(2));
    assert_eq!(t.outbound(&packet, at(1, 1), no, |_| Some(two)), Outbound::To(two));
    assert_eq!(t.outbound(&packet, at(1, 2), no, |before| before.or(Some(one))), Outbound::To(two));
    assert_eq!(t.outbound(&packet, at(1, 3), no, |_| Some(one)), Outbound::To(one));
    assert_eq!(t.outbound(&packet, at(1, 4), no, |before| before), Outbound::To(one));
    assert_eq!(t.outbound(&packet, at(1, 5), no, |_| None), Outbound::NoOwner);
}

#[test]
fn an_icmp_error_passes_only_for_a_live_flow_and_its_sender() {
    let t = table();
    let error_about = |src: [u8; 4], dst: [u8; 4], to: [u8; 4], port: u16| {
        let mut l4 = vec![3, 1, 0, 0, 0, 0, 0, 0];
        l4.extend_from_slice(&[0x45, 0, 0, 28, 0, 1, 0, 0, 64, packet::UDP, 0, 0]);
        l4.extend_from_slice(&src);
        l4.extend_from_slice(&dst);
        l4.extend_from_slice(&[5000u16.to_be_bytes(), port.to_be_bytes(), [0, 8], [0, 0]].concat());
        packet([10, 9, 9, 9], to, ICMP, &l4)
    };
    assert_eq!(judge(&t, &error_about(A, B, A, 53), PEER, at(1, 1), yes), Inbound::Denied);
    t.outbound(&udp(A, B, (5000, 53)), at(1, 1), no, to_peer);
    assert_eq!(judge(&t, &error_about(A, B, A, 53), PEER, at(1, 2), no), Inbound::Pass);
    assert_eq!(judge(&t, &error_about(A, B, A, 54), PEER, at(1, 2), no), Inbound::Denied);
    assert_eq!(judge(&t, &error_about(A, B, [100, 71, 0, 9], 53), PEER, at(1, 2), no), Inbound::Denied);
}

#[test]
fn later_fragments_follow_their_first() {
    let t = table();
    let fragment = |first: bool| {
        let mut p = vec![
            0x45,
            0,
            0,
            44,
            0,
            7,
            if first { 0x20 } else { 0 },
            if first { 0 } else { 10 },
            64,
            17,
            0,
            0,
        ];
        p.extend_from_slice(&B);
        p.extend_from_slice(&A);
        p.extend_from_slice(&[0; 24]);
        packet::parse(&p).unwrap()
    };
    assert_eq!(judge(&t, &fragment(false), PEER, at(1, 1), yes), Inbound::Fragment);
    assert_eq!(judge(&t, &fragment(true), PEER, at(1, 2), no), Inbound::Denied);
    assert_eq!(judge(&t, &fragment(false), PEER, at(1, 3), yes), Inbound::Fragment);
    assert_eq!(judge(&t, &fragment(true), PEER, at(1, 4), yes), Inbound::Pass);
    assert_eq!(judge(&t, &fragment(false), PEER, at(1, 5), no), Inbound::Pass);
    assert_eq!(judge(&t, &fragment(false), NodeId(99), at(1, 6), yes), Inbound::Fragment, "another peer");
    assert_eq!(judge(&t, &fragment(false), PEER, at(2, 7), yes), Inbound::Fragment, "another policy");
}

#[test]
fn a_connection_that_was_there_before_the_table_is_taken_up_by_its_ports() {
    let t = table();
    // Our server's segment: the policy is asked about the client's connection.
    assert_eq!(t.outbound(&tcp(A, B, (22, 5000), ACK), at(1, 1), no, to_peer), Outbound::To(PEER));
    assert_eq!(judge(&t, &tcp(B, A, (5000, 22), ACK), PEER, at(1, 2), no), Inbound::Denied);
    // A port that the peer picked does not make its server's segment a client's.
    assert_eq!(t.outbound(&tcp(A, B, (8080, 2000), ACK), at(1, 3), no, to_peer), Outbound::To(PEER));
    assert_eq!(judge(&t, &tcp(B, A, (2000, 8080), ACK), PEER, at(1, 4), no), Inbound::Denied);
    // Our client's segment: what comes back is a reply.
    assert_eq!(t.outbound(&tcp(A, B, (50_000, 22), ACK), at(1, 3), no, to_peer), Outbound::To(PEER));
    assert_eq!(judge(&t, &tcp(B, A, (22, 50_000), ACK), PEER, at(1, 4), no), Inbound::Pass);
    // A reset and an answer to a SYN begin nothing.
    for flags in [RST | ACK, SYN | ACK] {
        assert_eq!(t.outbound(&tcp(A, B, (6000, 22), flags), at(1, 5), no, to_peer), Outbound::To(PEER));
        assert_eq!(judge(&t, &tcp(B, A, (22, 6000), ACK), PEER, at(1, 6), no), Inbound::Denied);
    }
}

#[test]
fn flows_end_by_their_own_idle_times() {
    let t = table();
    let ends = |out: &Packet, back: &Packet, idle: u64| {
        t.outbound(out, at(1, 1), no, to_peer);
        assert_eq!(judge(&t, back, PEER, at(1, idle), no), Inbound::Pass, "{back:?}");
        t.outbound(out, at(1, 10), no, to_peer);
        assert_eq!(judge(&t, back, PEER, at(1, idle + 12), no), Inbound::Denied, "{back:?}");
    };
    ends(&udp(A, B, (5000, 53)), &udp(B, A, (53, 5000)), idle::UDP);
    ends(&echo(A, B, true), &echo(B, A, false), idle::ICMP);
    let (out, back) = (tcp(A, B, (5000, 80), SYN), tcp(B, A, (80, 5000), ACK));
    t.outbound(&out, at(1, 1), no, to_peer);
    assert_eq!(
        judge(&t, &back, PEER, at(1, idle::TCP_UNANSWERED + 2), no),
        Inbound::Denied,
        "nobody answered"
    );
    t.outbound(&out, at(1, 1), no, to_peer);
    assert_eq!(judge(&t, &back, PEER, at(1, 2), no), Inbound::Pass);
    assert_eq!(judge(&t, &back, PEER, at(1, idle::TCP), no), Inbound::Pass);
    judge(&t, &tcp(B, A, (80, 5000), RST), PEER, at(1, idle::TCP), no);
    assert_eq!(judge(&t, &back, PEER, at(1, idle::TCP + idle::TCP_CLOSED + 1), no), Inbound::Denied);
}

#[test]
fn the_table_is_bounded_and_the_oldest_makes_room() {
    assert!(size_of::<Entry>() <= 104, "a million flows are {} MB", size_of::<Entry>());
    let t = Conntrack::with_limit([7; 16], 65_536);
    for i in 0..200_000u32 {
        let [a, b, c, d] = i.to_be_bytes();
        t.outbound(
            &udp(A, [10, b, c, d], (5000 + u16::from(a), 53)),
            at(1, u64::from(i) / 1000 + 1),
            no,
            to_peer,
        );
    }
    assert!(t.len() <= 65_536, "{}", t.len());
    assert!(t.len() > 60_000, "{}", t.len());
    let newest = 199_999u32.to_be_bytes();
    let back = udp([10, newest[1], newest[2], newest[3]], A, (53, 5000));
    assert_eq!(judge(&t, &back, PEER, at(1, 300), no), Inbound::Pass);
}

#[test]
fn flows_that_both_sides_use_find_room_up_to_twice_the_usual() {
    let t = Conntrack::with_limit([7; 16], 16_384);
    let ends = |i: u32| {
        let [_, b, c, d] = i.to_be_bytes();
        ([10, b, c, d], (5000, 443))
    };
    for i in 0..16_000 {
        let (other, ports) = ends(i);
        t.outbound(&tcp(A, other, ports, SYN), at(1, 1), no, to_peer);
        judge(&t, &tcp(other, A, (ports.1, ports.0), SYN | ACK), PEER, at(1, 1), no);
    }
    let kept = |i: &u32| {
        let (other, ports) = ends(*i);
        judge(&t, &tcp(other, A, (ports.1, ports.0), ACK), PEER, at(1, 2), no) == Inbound::Pass
    };
    let kept = (0..16_000).filter(kept).count();
    assert!(kept > 15_990, "{kept} of 16000 flows were kept");
    for i in 16_000..100_000 {
        let (other, ports) = ends(i);
        t.outbound(&tcp(A, other, ports, SYN), at(1, 3), no, to_peer);
        judge(&t, &tcp(other, A, (ports.1, ports.0), SYN | ACK), PEER, at(1, 3), no);
    }
    assert!(t.len() <= 2 * 16_384, "{}", t.len());
}

#[test]
fn a_redirect_and_neighbour_discovery_never_come_in_whatever_the_policy_allows() {
    let (table, when) = (table(), Judgement { generation: 1, stamp: 1 });
    let kinds = |protocol: u8, kinds: std::ops::RangeInclusive<u8>| {
        kinds
            .filter(|kind| {
                let upper = Upper::Icmp { kind: *kind };
                let packet = Packet { protocol, upper, ..echo([100, 71, 0, 2], [100, 71, 0, 1], true) };
                table.inbound(&packet, NodeId(2), when, yes).outcome == Inbound::Denied
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(ICMP, 0..=255), [5]);
    assert_eq!(kinds(ICMPV6, 0..=255), [133, 134, 135, 136, 137]);
}

#[test]
fn a_scan_and_a_flood_of_fragments_do_not_push_out_what_both_sides_use() {
    let t = Conntrack::with_limit([7; 16], 65_536);
    let (out, back) = (tcp(A, B, (50_000, 22), SYN), tcp(B, A, (22, 50_000), ACK));
    t.outbound(&out, at(1, 1), no, to_peer);
    assert_eq!(judge(&t, &back, PEER, at(1, 2), no), Inbound::Pass);
    for i in 0..300_000u32 {
        let [_, b, c, d] = i.to_be_bytes();
        judge(&t, &tcp([10, b, c, d], A, (5000, 22), SYN), PEER, at(1, 3), yes);
        t.note_fragment(
            Key { protocol: packet::UDP, fragment: Some(i), a: (B.into(), 0), b: (A.into(), 0) },
            PEER,
            Begun::Inbound,
            at(1, 3),
        );
    }
    assert_eq!(judge(&t, &back, PEER, at(1, 4), no), Inbound::Pass);
}
