use super::*;

fn secrets() -> (MachineSecret, CoordinatorSecret, NetworkId) {
    (
        MachineSecret::from_bytes([7; 32]),
        CoordinatorSecret::from_bytes([9; 32]),
        NetworkId::from_bytes([1; 16]),
    )
}

fn body(frame: &[u8]) -> Vec<u8> {
    let mut frames = Frames::handshake();
    frames.allow_transport();
    frames.push(frame);
    let body = frames.next_frame().unwrap().unwrap().to_vec();
    assert!(!frames.has_partial());
    body
}

/// Both ends, and the bytes of the client's two flights.
fn pair(first: &[u8]) -> (Channel, Channel, Vec<u8>, Vec<u8>) {
    let (machine, coordinator, network) = secrets();
    let (initiator, hello) = Initiator::new(&machine, &coordinator.public(), network).unwrap();
    let (unproven, answer) = Responder::accept(&coordinator, network, &body(&hello)).unwrap();
    let mut node = initiator.finish(&body(&answer)).unwrap();
    let mut sealed = Vec::new();
    node.sealer.seal(first, &mut sealed).unwrap();
    let (server, got) = unproven.prove(&body(&sealed)).unwrap();
    assert_eq!(got, first);
    (node, server, hello, sealed)
}

#[test]
fn both_sides_know_each_other_and_the_handshake() {
    let (machine, coordinator, _) = secrets();
    let (node, server, ..) = pair(b"hello");
    assert_eq!(server.machine(), machine.public());
    assert_eq!(node.remote, *coordinator.public().as_bytes());
    assert_eq!(node.handshake_hash, server.handshake_hash);
    let (other, ..) = pair(b"hello");
    assert_ne!(node.handshake_hash, other.handshake_hash);
}

#[test]
fn a_large_message_is_cut_and_joined_and_a_larger_one_is_refused() {
    let (mut node, mut server, ..) = pair(b"");
    let message: Vec<u8> = (0..limits::MAX_CONTROL_MESSAGE).map(|i| (i % 251) as u8).collect();
    let mut wire = Vec::new();
    server.sealer.seal(&message, &mut wire).unwrap();
    let mut frames = Frames::handshake();
    frames.allow_transport();
    let mut got = None;
    for piece in wire.chunks(10_007) {
        frames.push(piece);
        while let Some(frame) = frames.next_frame().unwrap() {
            assert!(got.is_none());
            got = node.opener.open(frame).unwrap();
        }
    }
    assert_eq!(got.unwrap(), message);
    let too_large = vec![0; limits::MAX_CONTROL_MESSAGE + 1];
    assert_eq!(server.sealer.seal(&too_large, &mut Vec::new()), Err(ChannelError::MessageTooLarge));
}

#[test]
fn reassembly_is_bounded_against_a_sender_that_never_ends() {
    let (node, mut server, ..) = pair(b"");
    let mut nonce = 1;
    let mut refused = false;
    for _ in 0..=limits::MAX_CONTROL_MESSAGE / MAX_PIECE {
        let plain = vec![0; MAX_PIECE + 1];
        let mut frame = vec![0; plain.len() + TAG_BYTES];
        node.sealer.state.write_message(next(&mut nonce).unwrap(), &plain, &mut frame).unwrap();
        match server.opener.open(&frame) {
            Ok(whole) => assert!(whole.is_none()),
            Err(e) => {
                assert_eq!(e, ChannelError::MessageTooLarge);
                refused = true;
            }
        }
    }
    assert!(refused);
}

#[test]
fn a_replayed_first_flight_proves_nothing() {
    let (_, coordinator, network) = secrets();
    let (_, _, hello, sealed) = pair(b"act on this");
    let (unproven, _) = Responder::accept(&coordinator, network, &body(&hello)).unwrap();
    assert_eq!(unproven.prove(&body(&sealed)).unwrap_err(), ChannelError::Damaged);
}

#[test]
fn another_key_or_another_mesh_does_not_fit() {
    let (machine, coordinator, network) = secrets();
    let other = CoordinatorSecret::from_bytes([10; 32]);
    let (_, hello) = Initiator::new(&machine, &coordinator.public(), network).unwrap();
    assert!(Responder::accept(&other, network, &body(&hello)).is_err());
    let elsewhere = NetworkId::from_bytes([2; 16]);
    assert!(Responder::accept(&coordinator, elsewhere, &body(&hello)).is_err());
    assert!(Responder::accept(&coordinator, network, &[0; 96]).is_err());
    assert!(Responder::accept(&coordinator, network, &[]).is_err());
}

#[test]
fn a_changed_reordered_or_repeated_frame_ends_the_channel() {
    let (mut node, mut server, ..) = pair(b"");
    let (mut one, mut two) = (Vec::new(), Vec::new());
    node.sealer.seal(b"one", &mut one).unwrap();
    node.sealer.seal(b"two", &mut two).unwrap();
    assert_eq!(server.opener.open(&body(&two)), Err(ChannelError::Damaged));
    let (mut node, mut server, ..) = pair(b"");
    let mut one = Vec::new();
    node.sealer.seal(b"one", &mut one).unwrap();
    let mut frame = body(&one);
    assert!(server.opener.open(&frame).unwrap().is_some());
    assert_eq!(server.opener.open(&frame), Err(ChannelError::Damaged));
    frame[0] ^= 1;
    assert_eq!(server.opener.open(&frame), Err(ChannelError::Damaged));
}

#[test]
fn a_stranger_cannot_make_us_buffer_a_large_frame() {
    let mut frames = Frames::handshake();
    frames.push(&[0xff, 0xff]);
    assert_eq!(frames.next_frame(), Err(ChannelError::FrameTooLarge(65_535)));
    let mut frames = Frames::handshake();
    frames.push(b"GET / HTTP/1.1\r\n");
    assert!(frames.next_frame().is_err());
}

#[test]
fn a_greeting_names_both_keys() {
    let greeting = Greeting(CoordinatorKeys {
        control: CoordinatorKey::from_bytes([1; 32]),
        signing: VerifyingKey::from_bytes([2; 32]),
    });
    let frame = greeting.to_frame();
    assert_eq!(Greeting::parse(&body(&frame)).unwrap(), greeting);
    assert!(Greeting::parse(b"HTTP/1.1 400").is_err());
    assert!(Greeting::parse(&body(&frame)[..71]).is_err());
}

#[test]
fn possession_is_bound_to_the_handshake_and_to_both_keys() {
    let (machine, coordinator, _) = secrets();
    let node = NodeSecret::from_bytes([5; 32]);
    let (a, ..) = pair(b"");
    let (b, ..) = pair(b"");
    let machine = machine.public();
    let proof = prove_possession(&node, &coordinator.public(), &machine, &a.handshake_hash).unwrap();
    let check = |node: &NodeKey, machine: &MachineKey, hash: &HandshakeHash| {
        check_possession(&coordinator, node, machine, hash, &proof)
    };
    assert!(check(&node.public(), &machine, &a.handshake_hash));
    assert!(!check(&node.public(), &machine, &b.handshake_hash));
    assert!(!check(&NodeSecret::from_bytes([6; 32]).public(), &machine, &a.handshake_hash));
    assert!(!check(&node.public(), &MachineKey::from_bytes([0; 32]), &a.handshake_hash));
    assert!(!check(&NodeKey::from_bytes([0; 32]), &machine, &a.handshake_hash));
}
