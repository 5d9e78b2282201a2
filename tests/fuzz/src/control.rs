//! The control channel, before and behind its handshake, the local API and the map.

use meshd_proto::channel::{Frames, Greeting, Responder};
use meshd_proto::control::{ToCoordinator, ToNode};
use meshd_proto::gateway::GatewayConfig;
use meshd_proto::localapi::{Request, Response};
use meshd_proto::netmap::Entry;
use meshd_proto::permit::SignedPermit;
use meshd_proto::{CoordinatorSecret, MapDigest, NetworkId, NetworkMap, limits};
use prost::Message;

/// The first byte says what the rest is.
pub fn control_frame(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 8 {
        0 => to_coordinator(rest),
        1 => to_node(rest),
        2 => entries(rest),
        3 => frames(rest),
        4 => handshake(rest),
        5 => local_api(rest),
        6 => {
            if let Ok(permit) = SignedPermit::from_bytes(rest) {
                permit.unverified();
            }
        }
        _ => {
            let Ok(text) = std::str::from_utf8(rest) else { return };
            if let Ok(config) = GatewayConfig::from_json(text) {
                assert!(config.listeners.iter().all(|l| l.port != 0));
            }
        }
    }
}

fn to_coordinator(bytes: &[u8]) {
    if let Ok(message) = ToCoordinator::decode(bytes) {
        let written = message.encode();
        assert_eq!(ToCoordinator::decode(&written).ok().as_ref(), Some(&message));
    }
}

fn to_node(bytes: &[u8]) {
    let Ok(message) = ToNode::decode(bytes) else { return };
    let written = message.encode();
    assert_eq!(ToNode::decode(&written).ok().as_ref(), Some(&message));
    if let ToNode::Map(update) = message {
        let map = NetworkMap::empty(update.network);
        if let Ok(next) = map.apply(&update) {
            assert_eq!(next.digest(), update.digest);
            assert!(next.len() <= limits::MAX_MAP_ENTRIES);
        }
    }
}

/// Length-prefixed entries, put into a map and taken out again.
fn entries(bytes: &[u8]) {
    let mut map = NetworkMap::empty(NetworkId::from_bytes([0; 16]));
    let mut keys = Vec::new();
    let mut rest = bytes;
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let (body, after) = tail.split_at(tail.len().min(u16::from_be_bytes(*head).into()));
        rest = after;
        let Ok(entry) = Entry::decode(body) else { continue };
        assert_eq!(Entry::decode(&entry.encode()).ok().as_ref(), Some(&entry));
        keys.push(entry.key());
        map.upsert(entry);
    }
    let mut expected = MapDigest::EMPTY;
    map.entries().for_each(|entry| expected.add(&entry.encode()));
    assert_eq!(map.digest(), expected);
    assert_eq!(map.entries().count(), map.len());
    keys.iter().for_each(|key| map.remove(key));
    assert!(map.is_empty() && map.digest() == MapDigest::EMPTY);
}

/// A byte stream in uneven pieces.
fn frames(bytes: &[u8]) {
    let mut frames = Frames::handshake();
    let mut total = 0;
    for (turn, piece) in bytes.chunks(61).enumerate() {
        frames.push(piece);
        loop {
            match frames.next_frame() {
                Ok(Some(body)) => total += body.len() + 2,
                Ok(None) => break,
                Err(_) => return,
            }
        }
        if turn == 3 {
            frames.allow_transport();
        }
    }
    assert!(total <= bytes.len());
    assert_eq!(frames.has_partial(), total < bytes.len());
}

fn handshake(bytes: &[u8]) {
    let _ = Greeting::parse(bytes);
    let secret = CoordinatorSecret::from_bytes([7; 32]);
    // Nobody but the holder of a machine key can make a first message.
    if let Ok((unproven, answer)) = Responder::accept(&secret, NetworkId::from_bytes([1; 16]), bytes) {
        assert!(answer.len() <= bytes.len() + 2);
        assert!(unproven.prove(bytes).is_err());
    }
}

fn local_api(bytes: &[u8]) {
    if let Ok(request) = Request::decode(bytes) {
        assert_eq!(Request::decode(request.encode_to_vec().as_slice()).ok().as_ref(), Some(&request));
    }
    if let Ok(response) = Response::decode(bytes) {
        assert!(Response::decode(response.encode_to_vec().as_slice()).is_ok());
    }
}
