use super::*;
use crate::expose::{ClaimKind, Transport};
use crate::netmap::{Entry, EntryKey};

fn position() -> MapPosition {
    MapPosition {
        network: NetworkId::from_bytes([4; 16]),
        epoch: Epoch(2),
        version: Version(77),
        digest: MapDigest::from_bytes(&[5; 32]),
    }
}

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        node_key: NodeKey::from_bytes([1; 32]),
        node_key_proof: [2; 32],
        token_secret: Some(Zeroizing::new(vec![3; 16])),
        hostname: "pi".parse().unwrap(),
        machine_id: [4; 32],
        client_version: "0.1.0".into(),
        os: "linux".into(),
        ephemeral: false,
        offer: Offer {
            routes: vec!["192.168.1.0/24".parse().unwrap()],
            exit_node: true,
            hostname: Some("pi".parse().unwrap()),
            exit: Some(ExitOffer {
                name: Some("exit.example".parse().unwrap()),
                addrs: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
                taken: vec![(Transport::Udp, 53)],
            }),
            claims: vec![Claim {
                id: 7,
                kind: ClaimKind::Web,
                name: Some("*.kl.example".parse().unwrap()),
                port: 443,
                target: 8443,
                plain_target: 8080,
                exit: Some("exit1".parse().unwrap()),
            }],
        },
        resume: Some(position()),
    }
}

#[test]
fn every_message_to_the_coordinator_survives_the_wire() {
    let device = Call::CreateDevice { name: "phone".parse().unwrap(), key: NodeKey::from_bytes([6; 32]) };
    for message in [
        ToCoordinator::Hello(Box::new(hello())),
        ToCoordinator::Applied(position()),
        ToCoordinator::NeedSnapshot,
        ToCoordinator::Advertise(hello().offer),
        ToCoordinator::Endpoints {
            endpoints: vec![
                Endpoint("203.0.113.9:41820".parse().unwrap()),
                Endpoint("[2001:db8::1]:1".parse().unwrap()),
            ],
            home_relay: Some(RelayId(1)),
        },
        ToCoordinator::Interest(vec![NodeId(1), NodeId(2)]),
        ToCoordinator::Paths(vec![
            PathReport {
                peer: NodeId(3),
                via: PathVia::Direct(Endpoint("203.0.113.9:41820".parse().unwrap())),
                rtt_us: Some(12_345),
            },
            PathReport { peer: NodeId(4), via: PathVia::Relay(RelayId(1)), rtt_us: None },
        ]),
        ToCoordinator::Paths(Vec::new()),
        ToCoordinator::Alive { nonce: 9 },
        ToCoordinator::Leave,
        ToCoordinator::Call { id: 1, call: device },
        ToCoordinator::Call { id: 2, call: Call::RemoveDevice { name: "phone".parse().unwrap() } },
    ] {
        assert_eq!(ToCoordinator::decode(&message.encode()).unwrap(), message);
    }
}

#[test]
fn every_message_to_a_node_survives_the_wire() {
    let update = MapUpdate {
        network: NetworkId::from_bytes([4; 16]),
        epoch: Epoch(1),
        from: Some(Version(1)),
        to: Version(2),
        upserts: vec![Entry::FilterPresent],
        removes: vec![EntryKey::Peer(NodeId(3)), EntryKey::Route("10.0.0.0/8".parse().unwrap(), NodeId(4))],
        digest: MapDigest::EMPTY,
        more: true,
    };
    let hint = Hint {
        node: NodeId(1),
        seq: 2,
        endpoints: vec![Endpoint("198.51.100.7:1".parse().unwrap())],
        home_relay: None,
        online: true,
    };
    let addrs = MeshAddrs { v4: [100, 64, 0, 1].into(), v6: "fd00::1".parse().unwrap() };
    for message in [
        ToNode::Welcome { node: NodeId(1), network: NetworkId::from_bytes([4; 16]), time: UnixSeconds(5) },
        ToNode::Refused(Refusal { code: RefusalCode::TokenExpired, message: "m".into(), hint: "h".into() }),
        ToNode::Map(update),
        ToNode::Hints(vec![hint]),
        ToNode::Keepalive { position: position(), time: UnixSeconds(1), nonce: 2 },
        ToNode::Permit(vec![1, 2]),
        ToNode::Revoked { reason: "removed".into() },
        ToNode::Reply { id: 1, answer: Answer::Device { node: NodeId(8), addrs } },
        ToNode::Reply { id: 1, answer: Answer::Done },
        ToNode::Reply { id: 1, answer: Answer::Failed { message: "m".into(), hint: "h".into() } },
    ] {
        assert_eq!(ToNode::decode(&message.encode()).unwrap(), message);
    }
}

#[test]
fn unknown_kinds_are_told_apart_from_broken_messages() {
    // Field 15, length-delimited, one byte: a message of a later version.
    assert_eq!(ToNode::decode(&[0x7a, 1, 0]), Err(DecodeError::UnknownKind));
    assert!(matches!(ToNode::decode(&[0xff]), Err(DecodeError::Protobuf(_))));
    assert!(matches!(ToCoordinator::decode(&vec![0; (1 << 20) + 1]), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn a_hello_never_prints_its_token() {
    assert!(!format!("{:?}", hello()).contains("3, 3, 3"));
}

#[test]
fn the_bytes_of_version_1_do_not_change() {
    let alive = ToCoordinator::Alive { nonce: 300 }.encode();
    assert_eq!(alive, [0x38, 0xac, 0x02]);
    let interest = ToCoordinator::Interest(vec![NodeId(1), NodeId(300)]).encode();
    assert_eq!(interest, [0x32, 5, 0x0a, 3, 1, 0xac, 0x02]);
    let paths = vec![PathReport { peer: NodeId(3), via: PathVia::Relay(RelayId(1)), rtt_us: Some(300) }];
    assert_eq!(ToCoordinator::Paths(paths).encode(), [0x52, 9, 0x0a, 7, 8, 3, 0x18, 1, 0x20, 0xac, 0x02]);
    let revoked = ToNode::Revoked { reason: "x".into() }.encode();
    assert_eq!(revoked, [0x3a, 1, b'x']);
}
