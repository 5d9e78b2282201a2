use super::*;

#[expect(clippy::disallowed_methods, reason = "boringtun reads the clock itself")]
fn now() -> Instant {
    Instant::now()
}

fn secret(n: u8) -> NodeSecret {
    NodeSecret::from_bytes([n; 32])
}

fn session(me: u8, peer: u8) -> WireGuardSession {
    WireGuard::new(&secret(me)).create(&secret(peer).public(), SessionIndex::new(me.into()), None, now())
}

fn ip_packet(len: u8) -> Vec<u8> {
    let mut p = vec![0; len.into()];
    p[0] = 0x45;
    p[3] = len;
    p
}

#[test]
fn the_trait_holds_what_it_promises() {
    let (mut a, mut b) = (session(1, 2), session(2, 1));
    let mut out = [0; 256];
    assert_eq!(a.seal(&ip_packet(40), &mut out, now()), Err(SealError::NotReady));
    let initiation = a.initiate(now()).unwrap();
    let mut replies = Vec::new();
    assert_eq!(b.handshake(&initiation, &mut replies, now()), Ok(Handshake::Answered));
    assert_eq!(b.handshake(&initiation, &mut Vec::new(), now()), Err(OpenError::Replayed));
    assert!(!b.is_ready(now()), "the answering side waits until it has heard");
    let mut keepalive = Vec::new();
    assert_eq!(a.handshake(&replies[0], &mut keepalive, now()), Ok(Handshake::Completed));
    assert_eq!(b.open(&keepalive[0], &mut out, now()), Ok(Opened::Keepalive));
    assert!(a.is_ready(now()) && b.is_ready(now()));
    assert!(b.last_handshake(now()).is_some());
    assert_eq!(a.seal(&ip_packet(40), &mut out[..71], now()), Err(SealError::NoRoom));
    let len = a.seal(&ip_packet(40), &mut out[..72], now()).unwrap();
    let datagram = out[..len].to_vec();
    assert_eq!(
        super::super::receiver_index(&datagram).map(SessionIndex::of_receiver),
        Some(SessionIndex::new(2))
    );
    assert_eq!(b.open(&datagram, &mut [0; 10], now()), Err(OpenError::NoRoom));
    assert_eq!(b.open(&datagram, &mut out, now()), Ok(Opened::Packet(40)));
    assert_eq!(b.open(&datagram, &mut out, now()), Err(OpenError::Replayed));
    assert_eq!(b.open(&[4, 0, 0, 0], &mut out, now()), Err(OpenError::Malformed));
}

#[test]
fn a_packet_behind_more_successors_than_the_window_holds_is_too_late_and_not_a_replay() {
    let (mut a, mut b) = (session(1, 2), session(2, 1));
    let (mut replies, mut keepalive, mut out) = (Vec::new(), Vec::new(), [0; 256]);
    let initiation = a.initiate(now()).unwrap();
    b.handshake(&initiation, &mut replies, now()).unwrap();
    a.handshake(&replies[0], &mut keepalive, now()).unwrap();
    b.open(&keepalive[0], &mut out, now()).unwrap();
    let mut sealed = || {
        let mut datagram = vec![0; 72];
        a.seal(&ip_packet(40), &mut datagram, now()).unwrap();
        datagram
    };
    let (late, reordered) = (sealed(), sealed());
    for _ in 0..1023 {
        b.open(&sealed(), &mut out, now()).unwrap();
    }
    assert_eq!(b.open(&late, &mut out, now()), Err(OpenError::TooLate));
    assert_eq!(
        b.open(&reordered, &mut out, now()),
        Ok(Opened::Packet(40)),
        "among the last 1024 it is told from a replay"
    );
}

#[test]
fn an_initiation_is_identified_before_anything_is_believed() {
    let mut a = session(1, 2);
    let initiation = a.initiate(now()).unwrap();
    let mut factory = WireGuard::new(&secret(2));
    let from = Sender::Relayed(secret(1).public());
    assert_eq!(factory.identify(&initiation, from, now()), Initiation::From(secret(1).public()));
    assert_eq!(WireGuard::new(&secret(3)).identify(&initiation, from, now()), Initiation::Refused);
    let other = Sender::Relayed(secret(4).public());
    assert_eq!(
        factory.identify(&initiation, other, now()),
        Initiation::Refused,
        "it came as somebody else's"
    );
    let mut changed = initiation;
    changed[50] ^= 1;
    assert_eq!(factory.identify(&changed, from, now()), Initiation::Refused);
    assert_eq!(factory.identify(&[1, 0, 0, 0], from, now()), Initiation::Refused);
}

#[test]
fn a_flood_gets_cookies_over_udp_and_does_not_shut_out_relayed_peers() {
    let initiation = session(1, 2).initiate(now()).unwrap();
    let mut factory = WireGuard::new(&secret(2));
    let from = Sender::Udp("192.0.2.1".parse().unwrap());
    let mut cookies = 0;
    for _ in 0..INITIATIONS_PER_SECOND * 2 {
        if let Initiation::Cookie(cookie) = factory.identify(&initiation, from, now()) {
            assert!(cookie.len() <= initiation.len(), "an answer is never larger than its request");
            cookies += 1;
        }
    }
    assert!(cookies > 0);
    let relayed = Sender::Relayed(secret(1).public());
    assert_eq!(factory.identify(&initiation, relayed, now()), Initiation::From(secret(1).public()));
}

#[test]
fn a_peer_that_floods_a_relay_is_refused_alone_and_for_a_second() {
    let flooding = session(1, 2).initiate(now()).unwrap();
    let other = session(3, 2).initiate(now()).unwrap();
    let mut factory = WireGuard::new(&secret(2));
    let (one, three) = (Sender::Relayed(secret(1).public()), Sender::Relayed(secret(3).public()));
    let start = now();
    let answered =
        (0..1000).filter(|_| factory.identify(&flooding, one, start) != Initiation::Refused).count();
    assert_eq!(answered, RELAYED_PER_SECOND as usize);
    assert_eq!(factory.identify(&other, three, start), Initiation::From(secret(3).public()));
    let later = start + Duration::from_secs(1);
    assert_eq!(factory.identify(&flooding, one, later), Initiation::From(secret(1).public()));
    // What is counted is bounded, whoever a relay claims to speak for.
    for n in 0..5 * COUNTED_PEERS {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&n.to_le_bytes());
        let at = later + Duration::from_millis(10 * n as u64);
        factory.identify(&[1, 0, 0, 0], Sender::Relayed(NodeKey::from_bytes(key)), at);
    }
    assert!(factory.relayed.len() <= COUNTED_PEERS);
}

#[test]
fn both_sides_initiating_at_once_end_with_sessions_that_fit() {
    let (mut a, mut b) = (session(1, 2), session(2, 1));
    let (from_a, from_b) = (a.initiate(now()).unwrap(), b.initiate(now()).unwrap());
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    b.handshake(&from_a, &mut to_a, now()).unwrap();
    a.handshake(&from_b, &mut to_b, now()).unwrap();
    let mut late = Vec::new();
    a.handshake(&to_a[0], &mut late, now()).unwrap();
    b.handshake(&to_b[0], &mut late, now()).unwrap();
    let mut out = [0; 256];
    for (one, other) in [(true, 0), (false, 1)] {
        let (s, r) = if one { (&mut a, &mut b) } else { (&mut b, &mut a) };
        let len = s.seal(&ip_packet(40), &mut out, now()).unwrap();
        let datagram = out[..len].to_vec();
        assert_eq!(r.open(&datagram, &mut out, now()), Ok(Opened::Packet(40)), "direction {other}");
    }
}
