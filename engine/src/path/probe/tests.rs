use super::*;
use meshd_proto::NodeSecret;
use proptest::prelude::*;

const NETWORK: NetworkId = NetworkId::from_bytes([1; 16]);
const STAMP: Stamp = Stamp { run: Run([8; 8]), number: 0x0102_0304 };

fn pair() -> (NodeSecret, NodeSecret, ProbeKey) {
    let (a, b) = (NodeSecret::from_bytes([1; 32]), NodeSecret::from_bytes([2; 32]));
    let shared = a.diffie_hellman(b.public().as_bytes()).unwrap();
    let key = ProbeKey::derive(&shared, &NETWORK, &a.public(), &b.public());
    (a, b, key)
}

fn endpoint(text: &str) -> Endpoint {
    Endpoint(text.parse().unwrap())
}

fn probe(content: Content) -> Probe {
    Probe { txid: TxId([7; 12]), stamp: STAMP, has_session: true, fitness: Fitness::Fit, content }
}

fn contents() -> [Content; 6] {
    [
        Content::Ping,
        Content::Pong { observed: None },
        Content::Pong { observed: Some(endpoint("192.0.2.1:5")) },
        Content::Candidates(Whereabouts::default()),
        Content::Candidates(Whereabouts {
            home_relay: Some(RelayId(3)),
            backup_relay: Some(RelayId(4)),
            mapping: Mapping::Dependent,
            mapped: Some(endpoint("192.0.2.9:5")),
            endpoints: vec![endpoint("192.0.2.1:5"), endpoint("[2001:db8::1]:6")],
        }),
        Content::Meet { round: 2 },
    ]
}

#[test]
fn both_sides_derive_the_same_key_and_read_each_other() {
    let (a, b, key) = pair();
    let shared = b.diffie_hellman(a.public().as_bytes()).unwrap();
    let theirs = ProbeKey::derive(&shared, &NETWORK, &b.public(), &a.public());
    for content in contents() {
        let sent = probe(content);
        let datagram = seal(&key, SenderTag::of(&NETWORK, &a.public()), &[9; 24], &sent);
        assert_eq!(sender(&datagram), Ok(SenderTag::of(&NETWORK, &a.public())));
        assert_eq!(open(&theirs, &datagram), Ok(sent));
    }
}

#[test]
fn a_probe_of_another_mesh_is_not_authentic() {
    let (a, b, key) = pair();
    let shared = a.diffie_hellman(b.public().as_bytes()).unwrap();
    let other = ProbeKey::derive(&shared, &NetworkId::from_bytes([2; 16]), &a.public(), &b.public());
    let datagram = seal(&key, SenderTag::of(&NETWORK, &a.public()), &[9; 24], &probe(Content::Ping));
    assert_eq!(open(&other, &datagram), Err(ProbeError::NotAuthentic));
}

#[test]
fn every_changed_byte_is_noticed() {
    let (a, _, key) = pair();
    let datagram = seal(&key, SenderTag::of(&NETWORK, &a.public()), &[9; 24], &probe(Content::Ping));
    for i in 0..datagram.len() {
        let mut changed = datagram.clone();
        changed[i] ^= 0x40;
        assert!(open(&key, &changed).is_err(), "byte {i}");
    }
}

#[test]
fn a_pong_is_never_longer_than_its_ping() {
    let (a, _, key) = pair();
    let len = |content| seal(&key, SenderTag::of(&NETWORK, &a.public()), &[9; 24], &probe(content)).len();
    let ping = len(Content::Ping);
    assert_eq!(ping, len(Content::Pong { observed: Some(endpoint("[2001:db8::1]:6")) }));
    assert!(len(Content::Pong { observed: None }) <= ping);
}

#[test]
fn the_wire_form_stays_what_it_is() {
    // Golden bytes of the opened content: version N-1 must read them.
    let content = Content::Candidates(Whereabouts {
        home_relay: Some(RelayId(3)),
        endpoints: vec![endpoint("192.0.2.1:258")],
        ..Whereabouts::default()
    });
    let mut golden = vec![3, 1];
    golden.extend_from_slice(&[7; 12]);
    golden.extend_from_slice(&[8; 8]);
    golden.extend_from_slice(&[4, 3, 2, 1, 0, 0, 0, 0]);
    golden.extend_from_slice(&[1, 3, 0, 0, 0, 1, 4, 2, 1, 192, 0, 2, 1]);
    golden.extend_from_slice(&[0; 12]);
    // What an older node sends: without a backup relay and all that follows it.
    assert_eq!(decode(&golden), Ok(probe(content.clone())));
    assert_eq!(encode(&probe(content.clone())), [golden.as_slice(), &[0; 25]].concat());
    golden.extend_from_slice(b"padding of a later version");
    assert_eq!(decode(&golden), Ok(probe(content)));
    assert_eq!(MAGIC.to_le_bytes(), *b"dhsm");
}

#[test]
fn every_probe_says_whether_its_sender_is_fit() {
    let (a, _, key) = pair();
    for fitness in [Fitness::Fit, Fitness::Draining, Fitness::LanDown] {
        let sent = Probe { fitness, ..probe(Content::Pong { observed: None }) };
        let datagram = seal(&key, SenderTag::of(&NETWORK, &a.public()), &[9; 24], &sent);
        assert_eq!(open(&key, &datagram), Ok(sent));
    }
}

#[test]
fn a_probe_is_neither_wireguard_nor_stun() {
    let (a, _, key) = pair();
    let datagram = seal(&key, SenderTag::of(&NETWORK, &a.public()), &[9; 24], &probe(Content::Ping));
    assert_eq!(crate::session::MessageKind::of(&datagram), crate::session::MessageKind::Other);
    assert!(!meshd_proto::stun::is_stun(&datagram));
    assert_eq!(meshd_proto::relay::DatagramKind::of(&datagram), meshd_proto::relay::DatagramKind::Probe);
}

#[test]
fn a_list_is_cut_where_it_is_sent_and_where_it_is_read() {
    let many = vec![endpoint("192.0.2.1:5"); 40];
    let bytes =
        encode(&probe(Content::Candidates(Whereabouts { endpoints: many, ..Whereabouts::default() })));
    let mut claims_more = bytes.clone();
    claims_more[35] = 255;
    for bytes in [bytes, claims_more] {
        let Content::Candidates(at) = decode(&bytes).unwrap().content else { panic!("kind") };
        assert_eq!(at.endpoints.len(), MAX_CANDIDATES);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
        let (_, _, key) = pair();
        let mut framed = MAGIC.to_le_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        prop_assert!(open(&key, &framed).is_err());
    }
}
