use super::*;
use proptest::prelude::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

const RFC5769_ID: TransactionId =
    TransactionId([0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);

/// RFC 5769 §2.1.
fn rfc5769_request() -> Vec<u8> {
    hex("00010058 2112a442 b7e7a701 bc34d686 fa87dfae
         80220010 5354554e 20746573 7420636c 69656e74
         00240004 6e0001ff 80290008 932ff9b1 51263b36
         00060009 6576746a 3a683676 59202020
         00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2
         80280004 e57a3bcf")
}

/// RFC 5769 §2.2.
fn rfc5769_v4() -> Vec<u8> {
    hex("0101003c 2112a442 b7e7a701 bc34d686 fa87dfae
         8022000b 74657374 20766563 746f7220
         00200008 0001a147 e112a643
         00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7
         80280004 c07d4c96")
}

/// RFC 5769 §2.3.
fn rfc5769_v6() -> Vec<u8> {
    hex("01010048 2112a442 b7e7a701 bc34d686 fa87dfae
         8022000b 74657374 20766563 746f7220
         00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9
         00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41
         80280004 c8fb0b4c")
}

#[test]
fn the_vectors_of_rfc_5769_are_read() {
    assert_eq!(
        Binding::parse(&rfc5769_request()),
        Ok(Binding::Request { id: RFC5769_ID, len: 108, unknown_required: true, change_port: false })
    );
    let v4 = Endpoint("192.0.2.1:32853".parse().unwrap());
    assert_eq!(Binding::parse(&rfc5769_v4()), Ok(Binding::Success { id: RFC5769_ID, mapped: v4 }));
    let v6 = Endpoint("[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap());
    assert_eq!(Binding::parse(&rfc5769_v6()), Ok(Binding::Success { id: RFC5769_ID, mapped: v6 }));
}

#[test]
fn a_flipped_bit_under_the_fingerprint_is_noticed() {
    let mut bytes = rfc5769_v4();
    bytes[30] ^= 1;
    assert_eq!(Binding::parse(&bytes), Err(StunError::BadFingerprint));
}

#[test]
fn our_request_has_its_golden_bytes_and_gets_an_answer_of_at_most_its_length() {
    let id = TransactionId(*b"abcdefghijkl");
    let request = encode_request(id);
    assert_eq!(
        request.to_vec(),
        hex("00010018 2112a442 61626364 65666768 696a6b6c
             ff6d0014 00000000 00000000 00000000 00000000 00000000")
    );
    for source in ["192.0.2.7:41820", "[2001:db8::7]:1", "[::ffff:192.0.2.7]:41820"] {
        let source = Endpoint(source.parse().unwrap());
        let answer = Binding::parse(&request).unwrap().answer(source).unwrap();
        assert!(answer.len() <= request.len());
        let mapped = Endpoint::canonical(source.0);
        assert_eq!(Binding::parse(&answer), Ok(Binding::Success { id, mapped }));
    }
}

#[test]
fn a_success_has_its_golden_bytes() {
    let answer = encode_success(RFC5769_ID, Endpoint("192.0.2.1:32853".parse().unwrap()));
    assert_eq!(answer, hex("0101000c 2112a442 b7e7a701 bc34d686 fa87dfae 00200008 0001a147 e112a643"));
}

#[test]
fn a_bare_request_of_another_make_is_not_answered_since_the_answer_would_be_longer() {
    let bare = hex("00010000 2112a442 61626364 65666768 696a6b6c");
    let parsed = Binding::parse(&bare).unwrap();
    assert_eq!(parsed.answer(Endpoint("192.0.2.1:9".parse().unwrap())), None);
}

#[test]
fn a_request_that_demands_what_we_do_not_know_is_not_answered() {
    let parsed = Binding::parse(&rfc5769_request()).unwrap();
    assert_eq!(parsed.answer(Endpoint("192.0.2.1:9".parse().unwrap())), None);
}

#[test]
fn a_mapped_address_is_read_where_the_xored_one_is_missing() {
    let old = hex("0101000c 2112a442 61626364 65666768 696a6b6c 00010008 00010d96 c0000201");
    let mapped = Endpoint("192.0.2.1:3478".parse().unwrap());
    assert_eq!(Binding::parse(&old), Ok(Binding::Success { id: TransactionId(*b"abcdefghijkl"), mapped }));
}

#[test]
fn an_error_response_says_its_code() {
    let error = hex("01110008 2112a442 61626364 65666768 696a6b6c 00090004 00000414");
    let id = TransactionId(*b"abcdefghijkl");
    assert_eq!(Binding::parse(&error), Ok(Binding::Error { id, code: 420 }));
}

#[test]
fn truncated_and_misshapen_messages_are_refused() {
    let whole = rfc5769_v6();
    for end in 0..whole.len() {
        assert!(Binding::parse(&whole[..end]).is_err(), "{end}");
    }
    assert_eq!(
        Binding::parse(&hex("01010008 2112a442 61626364 65666768 696a6b6c 00200008 00010000")),
        Err(StunError::BadAttribute(XOR_MAPPED_ADDRESS))
    );
    assert_eq!(
        Binding::parse(&hex("01010000 2112a442 61626364 65666768 696a6b6c")),
        Err(StunError::NoAddress)
    );
    assert_eq!(
        Binding::parse(&hex("00110000 2112a442 61626364 65666768 696a6b6c")),
        Err(StunError::Unsupported(0x0011))
    );
    assert!(!is_stun(&hex("01000000 2112a441 61626364 65666768 696a6b6c")));
}

proptest! {
    #[test]
    fn no_datagram_makes_the_parser_panic_or_the_answer_longer(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200), shape in any::<bool>(), kind in any::<bool>(),
    ) {
        if shape && bytes.len() >= 20 {
            bytes.truncate(20 + (bytes.len() - 20) / 4 * 4);
            let len = ((bytes.len() - 20) as u16).to_be_bytes();
            bytes[..2].copy_from_slice(if kind { &[0, 1] } else { &[1, 1] });
            bytes[2..4].copy_from_slice(&len);
            bytes[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        }
        if let Ok(message) = Binding::parse(&bytes) {
            let answer = message.answer(Endpoint("[2001:db8::1]:5".parse().unwrap()));
            prop_assert!(answer.is_none_or(|a| a.len() <= bytes.len()));
        }
    }
}

#[test]
fn a_request_for_the_other_port_is_as_long_as_the_ordinary_one_and_understood() {
    let id = TransactionId([5; 12]);
    let request = encode_change_port_request(id);
    assert_eq!(
        Binding::parse(&request),
        Ok(Binding::Request { id, len: REQUEST_LEN, unknown_required: false, change_port: true })
    );
    let mut other_address = request;
    other_address[27] = 4;
    assert!(matches!(Binding::parse(&other_address), Ok(Binding::Request { unknown_required: true, .. })));
}
