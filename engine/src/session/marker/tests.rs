use super::*;
use crate::tests::start;

fn secret(n: u8) -> NodeSecret {
    NodeSecret::from_bytes([n; 32])
}

fn session(me: u8, peer: u8, t: Instant) -> MarkerSession {
    Marker::new(secret(me), t).create(&secret(peer).public(), SessionIndex::new(me.into()), None, t)
}

fn pair(t: Instant) -> (MarkerSession, MarkerSession) {
    let (mut a, mut b) = (session(1, 2, t), session(2, 1, t));
    let mut replies = Vec::new();
    assert_eq!(b.handshake(&a.initiate(t).unwrap(), &mut replies, t), Ok(Handshake::Answered));
    assert!(!b.is_ready(t), "the answering side waits until it has heard");
    let mut keepalive = Vec::new();
    assert_eq!(a.handshake(&replies[0], &mut keepalive, t), Ok(Handshake::Completed));
    assert_eq!(b.open(&keepalive[0], &mut [0; 64], t), Ok(Opened::Keepalive));
    assert!(a.is_ready(t) && b.is_ready(t));
    (a, b)
}

fn seal(s: &mut MarkerSession, packet: &[u8], t: Instant) -> Vec<u8> {
    let mut out = vec![0; packet.len() + OVERHEAD];
    s.seal(packet, &mut out, t).unwrap();
    out
}

#[test]
fn data_passes_once_and_only_unchanged() {
    let t = start();
    let (mut a, mut b) = pair(t);
    let datagram = seal(&mut a, b"hello", t);
    let mut out = [0; 64];
    let mut changed = datagram.clone();
    changed[17] ^= 1;
    assert_eq!(b.open(&changed, &mut out, t), Err(OpenError::NotAuthentic));
    assert_eq!(b.open(&datagram, &mut out, t), Ok(Opened::Packet(5)));
    assert_eq!(&out[..5], b"hello");
    assert_eq!(b.open(&datagram, &mut out, t), Err(OpenError::Replayed));
}

#[test]
fn a_stranger_completes_no_handshake() {
    let t = start();
    let (mut a, mut c) = (session(1, 2, t), session(3, 2, t));
    let mut b = session(2, 1, t);
    assert_eq!(b.handshake(&c.initiate(t).unwrap(), &mut Vec::new(), t), Err(OpenError::NotAuthentic));
    let initiation = a.initiate(t).unwrap();
    assert_eq!(
        Marker::new(secret(2), t).identify(&initiation, Sender::Relayed(secret(1).public()), t),
        Initiation::From(secret(1).public())
    );
    assert_eq!(
        Marker::new(secret(3), t).identify(&initiation, Sender::Relayed(secret(1).public()), t),
        Initiation::Refused
    );
}

#[test]
fn key_pairs_are_renewed_and_end() {
    let t = start();
    let (mut a, _) = pair(t);
    seal(&mut a, b"data", t + Duration::from_secs(1));
    assert!(a.tick(t + Duration::from_secs(121)).transmit.is_some(), "the initiator rekeys");
    assert!(a.is_ready(t + Duration::from_secs(179)));
    assert!(!a.is_ready(t + Duration::from_secs(180)));
    assert_eq!(a.seal(b"x", &mut [0; 64], t + Duration::from_secs(181)), Err(SealError::NotReady));
}

#[test]
fn an_old_initiation_is_refused() {
    let t = start();
    let (mut a, mut b) = (session(1, 2, t), session(2, 1, t));
    let old = a.initiate(t).unwrap();
    let new = a.initiate(t + Duration::from_millis(1)).unwrap();
    assert_eq!(b.handshake(&new, &mut Vec::new(), t), Ok(Handshake::Answered));
    assert_eq!(b.handshake(&old, &mut Vec::new(), t), Err(OpenError::Replayed));
}
