use super::*;
use proptest::prelude::*;

fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut p = vec![0x45, 0, (len >> 8) as u8, len as u8, 0, 9, 0, 0, 64, protocol, 0, 0];
    p.extend_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    p.extend_from_slice(payload);
    p
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u16;
    let mut p = vec![0x60, 0, 0, 0, (len >> 8) as u8, len as u8, next, 64];
    p.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    p.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    p.extend_from_slice(payload);
    p
}

fn udp(src: u16, dst: u16) -> Vec<u8> {
    [src.to_be_bytes(), dst.to_be_bytes(), [0, 8], [0, 0]].concat()
}

fn tcp(src: u16, dst: u16, flags: u8) -> Vec<u8> {
    let mut p = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    p.extend_from_slice(&[0; 8]);
    p.extend_from_slice(&[0x50, flags, 0, 0, 0, 0, 0, 0]);
    p
}

#[test]
fn ports_and_flags_are_read_in_both_families() {
    let p = parse(&v4(UDP, &udp(1000, 53))).unwrap();
    assert_eq!(p.upper, Upper::Ports(Ports { src: 1000, dst: 53 }));
    assert_eq!((p.src.to_string().as_str(), p.len), ("10.0.0.1", 28));
    let p = parse(&v6(TCP, &tcp(1, 2, tcp_flag::SYN))).unwrap();
    assert_eq!(p.upper, Upper::Tcp { ports: Ports { src: 1, dst: 2 }, flags: tcp_flag::SYN });
    assert_eq!(p.len, 60);
}

#[test]
fn padding_behind_the_packet_is_ignored_and_a_cut_packet_is_refused() {
    let mut p = v4(UDP, &udp(1, 2));
    p.extend_from_slice(&[0; 4]);
    assert_eq!(parse(&p).unwrap().len, 28);
    assert_eq!(parse(&p[..27]), Err(PacketError::Truncated));
    assert_eq!(parse(&v6(UDP, &udp(1, 2))[..47]), Err(PacketError::Truncated));
    assert_eq!(parse(&[]), Err(PacketError::Truncated));
    assert_eq!(parse(&[0x55; 40]), Err(PacketError::Version));
}

#[test]
fn a_header_that_contradicts_itself_is_refused() {
    let mut p = v4(UDP, &udp(1, 2));
    p[0] = 0x44;
    assert_eq!(parse(&p), Err(PacketError::Inconsistent));
    p[0] = 0x4f;
    assert_eq!(parse(&p), Err(PacketError::Inconsistent));
}

#[test]
fn options_and_extension_headers_are_walked() {
    let mut p = v4(UDP, &[1, 1, 1, 0, 0x03, 0xe8, 0, 53, 0, 8, 0, 0]);
    p[0] = 0x46;
    assert_eq!(parse(&p).unwrap().ports(), Some(Ports { src: 1000, dst: 53 }));
    // Hop-by-hop (8 bytes), destination options (16 bytes), then UDP.
    let mut chain = vec![60, 0, 0, 0, 0, 0, 0, 0];
    chain.extend_from_slice(&[UDP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend_from_slice(&udp(7, 9));
    let p = parse(&v6(0, &chain)).unwrap();
    assert_eq!((p.protocol, p.ports()), (UDP, Some(Ports { src: 7, dst: 9 })));
}

#[test]
fn an_endless_chain_and_a_source_route_are_refused() {
    let chain = [[60, 0, 0, 0, 0, 0, 0, 0]; 20].concat();
    assert_eq!(parse(&v6(60, &chain)), Err(PacketError::Extensions));
    let mut route = vec![UDP, 0, 0, 1, 0, 0, 0, 0];
    route.extend_from_slice(&udp(1, 2));
    assert_eq!(parse(&v6(43, &route)), Err(PacketError::Extensions));
}

#[test]
fn a_fragment_that_could_hide_or_rewrite_the_ports_is_refused() {
    // RFC 1858 §3: the first fragment has 8 bytes of TCP, the flags come later.
    let mut tiny = v4(TCP, &tcp(1, 2, tcp_flag::SYN)[..8]);
    tiny[6] = 0x20;
    assert_eq!(parse(&tiny), Err(PacketError::Fragment));
    // RFC 3128: a later fragment that overlaps the header.
    let mut overlap = v4(TCP, &[0; 24]);
    overlap[7] = 1;
    assert_eq!(parse(&overlap), Err(PacketError::Fragment));
    let mut later = v4(TCP, &[0; 24]);
    later[7] = 100;
    let p = parse(&later).unwrap();
    assert_eq!((p.upper, p.fragment, p.ports()), (Upper::LaterFragment, Some(9), None));
}

#[test]
fn an_ipv6_fragment_is_seen_and_an_atomic_one_is_a_whole_packet() {
    let mut fragment = vec![UDP, 0, 0, 1, 0, 0, 0, 5];
    fragment.extend_from_slice(&udp(7, 9));
    let first = parse(&v6(44, &fragment)).unwrap();
    assert_eq!((first.fragment, first.ports()), (Some(5), Some(Ports { src: 7, dst: 9 })));
    fragment[3] = 0;
    assert_eq!(parse(&v6(44, &fragment)).unwrap().fragment, None);
    fragment[2] = 4;
    let later = parse(&v6(44, &fragment)).unwrap();
    assert_eq!((later.protocol, later.upper), (UDP, Upper::LaterFragment));
}

#[test]
fn an_icmp_error_names_the_packet_it_is_about() {
    let mut error = vec![3, 1, 0, 0, 0, 0, 0, 0];
    let mut quoted = v4(UDP, &udp(5000, 53));
    quoted[12..20].copy_from_slice(&[10, 0, 0, 2, 10, 9, 9, 9]);
    error.extend_from_slice(&quoted);
    let Upper::Error(about) = parse(&v4(ICMP, &error)).unwrap().upper else { panic!("no error") };
    assert_eq!((about.src.to_string().as_str(), about.dst.to_string().as_str()), ("10.0.0.2", "10.9.9.9"));
    assert_eq!((about.protocol, about.ports), (UDP, Ports { src: 5000, dst: 53 }));
    // Packet too big, quoting an IPv6 echo request.
    let mut big = vec![2, 0, 0, 0, 0, 0, 5, 0];
    big.extend_from_slice(&v6(ICMPV6, &[128, 0, 0, 0, 0, 77, 0, 1]));
    let Upper::Error(about) = parse(&v6(ICMPV6, &big)).unwrap().upper else { panic!("no error") };
    assert_eq!(about.ports, Ports { src: 77, dst: 77 });
}

#[test]
fn an_error_that_quotes_too_little_and_a_redirect_are_about_nothing() {
    let mut error = vec![3, 1, 0, 0, 0, 0, 0, 0];
    error.extend_from_slice(&v4(UDP, &udp(1, 2))[..24]);
    assert_eq!(parse(&v4(ICMP, &error)).unwrap().upper, Upper::Icmp { kind: 3 });
    let mut redirect = vec![5, 1, 0, 0, 10, 0, 0, 9];
    redirect.extend_from_slice(&v4(UDP, &udp(1, 2)));
    assert_eq!(parse(&v4(ICMP, &redirect)).unwrap().upper, Upper::Icmp { kind: 5 });
}

#[test]
fn echo_has_its_identifier_as_ports() {
    let p = parse(&v4(ICMP, &[8, 0, 0, 0, 0x12, 0x34, 0, 1])).unwrap();
    assert_eq!(p.upper, Upper::Echo { id: 0x1234, request: true });
    let p = parse(&v6(ICMPV6, &[129, 0, 0, 0, 0, 5, 0, 1])).unwrap();
    assert_eq!(p.upper, Upper::Echo { id: 5, request: false });
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic_or_read_too_far(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), six in any::<bool>()) {
        if let Some(first) = bytes.first_mut() {
            *first = if six { 0x60 } else { 0x40 | (*first & 0x0f) };
        }
        if let Ok(packet) = parse(&bytes) {
            prop_assert!(packet.len <= bytes.len());
            prop_assert_eq!(Some(packet.dst), destination(&bytes));
            // What lies behind the packet's own length changes nothing.
            prop_assert_eq!(parse(&bytes[..packet.len]), Ok(packet));
        }
    }
}
