use super::*;
use crate::keys::SigningKey;
use crate::permit::Permit;
use crate::stun::{TransactionId, encode_request};
use crate::{NetworkId, UnixSeconds};
use proptest::prelude::*;

fn encoded(frame: Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn permit() -> SignedPermit {
    let key = SigningKey::from_bytes(&[5; 32]);
    let node = NodeSecret::from_bytes([1; 32]).public();
    Permit::issue(NetworkId::from_bytes([1; 16]), node, 7, &key, UnixSeconds(1_800_000_000))
}

fn endpoint(text: &str) -> Endpoint {
    Endpoint(text.parse().unwrap())
}

fn one_of_each() -> Vec<Frame<'static>> {
    let session = SessionToken(*b"session!");
    let node = NodeKey::from_bytes([0x11; 32]);
    let cookie = Cookie([0xcc; 24]);
    let peer = RelayAddr(*b"relayadr");
    vec![
        Frame::Hello { node, nonce: Nonce(*b"nonce123") },
        Frame::Challenge { nonce: Nonce(*b"nonce123"), cookie, relay: node },
        Frame::Attach { cookie, permit: permit(), proof: Proof([0xee; 16]) },
        Frame::Attached {
            proof: Proof([0xee; 16]),
            observed: endpoint("192.0.2.1:41820"),
            lifetime_secs: 3600,
        },
        Frame::Refused { reason: RefuseReason::Revoked, echo: [9; 8] },
        Frame::Ping { session, seq: 7 },
        Frame::Pong { session, seq: 7 },
        Frame::PeerGone { session, peer },
        Frame::Restarting { session },
        Frame::Data { peer, payload: b"ciphertext" },
    ]
}

#[test]
fn every_frame_is_read_back_as_written_even_with_bytes_of_a_newer_version_behind_it() {
    for frame in one_of_each() {
        let mut bytes = encoded(frame);
        assert_eq!(DatagramKind::of(&bytes), DatagramKind::Relay);
        assert_eq!(Frame::parse(&bytes), Ok(frame));
        if !matches!(frame, Frame::Data { .. }) {
            bytes.extend_from_slice(b"more");
            assert_eq!(Frame::parse(&bytes), Ok(frame));
        }
    }
}

#[test]
fn a_frame_that_ends_early_is_refused_and_never_read_past_its_end() {
    for frame in one_of_each() {
        let bytes = encoded(frame);
        let shortest = if matches!(frame, Frame::Data { .. }) { DATA_HEADER_LEN } else { bytes.len() };
        for end in 0..shortest {
            assert!(Frame::parse(&bytes[..end]).is_err(), "{frame:?} cut at {end}");
        }
    }
}

#[test]
fn the_frames_have_their_golden_bytes() {
    let golden: Vec<String> = one_of_each().into_iter().map(|f| hex(&encoded(f))).collect();
    let c = "cc".repeat(24);
    let expected = [
        format!("f66d7201{}{}{}", "11".repeat(32), "6e6f6e6365313233", "00".repeat(52)),
        format!("f66d72026e6f6e6365313233{c}{}", "11".repeat(32)),
        format!("f66d7203{c}{}{}", hex(permit().as_bytes()), "ee".repeat(16)),
        format!("f66d7204{}{}ffffc0000201{}{}", "ee".repeat(16), "00".repeat(10), "5ca3", "100e0000"),
        "f66d7205060909090909090909".to_owned(),
        "f66d720673657373696f6e2107000000".to_owned(),
        "f66d720773657373696f6e2107000000".to_owned(),
        "f66d720873657373696f6e2172656c6179616472".to_owned(),
        "f66d720973657373696f6e21".to_owned(),
        "f66d721072656c617961647263697068657274657874".to_owned(),
    ];
    assert_eq!(golden, expected);
    let key = NodeKey::from_bytes([0x11; 32]);
    assert_eq!(hex(RelayAddr::of(&key).as_bytes()), "8c84e6ab82f5981b");
}

#[test]
fn the_four_kinds_on_one_socket_are_told_apart_by_their_first_bytes() {
    for (first, kind) in [
        (&[1, 0, 0, 0][..], DatagramKind::Wireguard),
        (&[4, 0, 0, 0], DatagramKind::Wireguard),
        (&[5, 0, 0, 0], DatagramKind::Unknown),
        (&[0x64, 0x68, 0x73, 0x6d], DatagramKind::Probe),
        (&data_header(RelayAddr([0; 8])), DatagramKind::Relay),
        (&encode_request(TransactionId([0; 12])), DatagramKind::Stun),
        (&[0xf6, b'm'], DatagramKind::Unknown),
        (&[], DatagramKind::Unknown),
    ] {
        assert_eq!(DatagramKind::of(first), kind, "{first:?}");
    }
}

#[test]
fn answers_are_no_longer_than_what_they_answer() {
    let len = |f: &Frame<'_>| encoded(*f).len();
    let all = one_of_each();
    assert!(len(&all[1]) <= len(&all[0]), "Challenge ≤ Hello");
    assert!(len(&all[3]) <= len(&all[2]), "Attached ≤ Attach");
    assert!(len(&all[4]) <= len(&all[2]) && len(&all[4]) <= len(&all[5]), "Refused ≤ Attach, Ping");
    assert!(len(&all[6]) <= len(&all[5]), "Pong ≤ Ping");
    assert!(len(&all[7]) <= DATA_HEADER_LEN + MIN_PAYLOAD, "PeerGone ≤ Data");
    const { assert!(DATA_HEADER_LEN <= 16) };
}

#[test]
fn both_ends_derive_the_same_proofs_and_a_third_key_does_not() {
    let (node, relay) = (NodeSecret::from_bytes([1; 32]), NodeSecret::from_bytes([2; 32]));
    let cookie = Cookie::make(&[3; 32], endpoint("192.0.2.1:5"), &node.public(), 77);
    assert_eq!(cookie.made_ms(), 77);
    let at_node = AttachKeys::new(&node, &relay.public(), cookie).unwrap();
    let at_relay = AttachKeys::new(&relay, &node.public(), cookie).unwrap();
    assert!(at_node.node_proof(&permit()).matches(&at_relay.node_proof(&permit())));
    let seen = endpoint("192.0.2.1:5");
    assert!(at_node.relay_proof(seen, 60).matches(&at_relay.relay_proof(seen, 60)));
    assert!(!at_node.relay_proof(seen, 60).matches(&at_relay.relay_proof(seen, 61)));
    assert!(at_node.session().matches(&at_relay.session()));
    let thief = AttachKeys::new(&NodeSecret::from_bytes([9; 32]), &relay.public(), cookie).unwrap();
    assert!(!thief.node_proof(&permit()).matches(&at_relay.node_proof(&permit())));
    assert!(AttachKeys::new(&node, &NodeKey::from_bytes([0; 32]), cookie).is_none());
}

#[test]
fn a_cookie_is_bound_to_address_port_key_and_time() {
    let node = NodeKey::from_bytes([1; 32]);
    let make = |from: &str, node: &NodeKey, at| Cookie::make(&[3; 32], endpoint(from), node, at);
    let cookie = make("192.0.2.1:5", &node, 1);
    assert!(cookie.matches(&make("192.0.2.1:5", &node, 1)));
    assert!(!cookie.matches(&make("192.0.2.1:6", &node, 1)));
    assert!(!cookie.matches(&make("192.0.2.2:5", &node, 1)));
    assert!(!cookie.matches(&make("192.0.2.1:5", &node, 2)));
    assert!(!cookie.matches(&make("192.0.2.1:5", &NodeKey::from_bytes([2; 32]), 1)));
    assert!(!cookie.matches(&Cookie::make(&[4; 32], endpoint("192.0.2.1:5"), &node, 1)));
}

#[test]
fn a_forwarded_frame_carries_its_source_where_its_destination_stood() {
    let mut bytes = encoded(Frame::Data { peer: RelayAddr([1; 8]), payload: b"x" });
    readdress(&mut bytes, RelayAddr([2; 8]));
    assert_eq!(Frame::parse(&bytes), Ok(Frame::Data { peer: RelayAddr([2; 8]), payload: b"x" }));
}

proptest! {
    #[test]
    fn no_datagram_makes_the_parser_panic_and_what_parses_is_written_back(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..260), framed in any::<bool>(), kind in 0u8..20,
    ) {
        if framed && bytes.len() >= 4 {
            bytes[..3].copy_from_slice(&MAGIC);
            bytes[3] = kind;
        }
        if let Ok(frame) = Frame::parse(&bytes) {
            let again = encoded(frame);
            prop_assert_eq!(Frame::parse(&again), Ok(frame));
        }
    }
}
