//! Datagrams of the underlay: STUN, probes, relay frames.

use meshd_engine::path::probe::{self, ProbeKey, SenderTag};
use meshd_proto::permit::Permit;
use meshd_proto::relay::{DATA_HEADER_LEN, DatagramKind, Frame, RelayAddr, readdress};
use meshd_proto::stun::{Binding, encode_success, is_stun};
use meshd_proto::{Endpoint, NetworkId, NodeSecret, SigningKey, UnixSeconds, VerifyingKey};
use meshd_relay::forwarder::{Local, RelayLimits, RelayServer};
use std::sync::LazyLock;
use std::time::Instant;

/// A STUN message, as server and as client.
pub fn stun(data: &[u8]) {
    let Ok(message) = Binding::parse(data) else { return };
    assert!(is_stun(data));
    assert_eq!(DatagramKind::of(data), DatagramKind::Stun);
    for source in ["192.0.2.1:40000", "[2001:db8::1]:40000"] {
        let source = Endpoint::canonical(source.parse().expect("an address"));
        if let Some(answer) = message.answer(source) {
            assert!(answer.len() <= data.len(), "an answer longer than its request");
            let Binding::Request { id, .. } = message else { panic!("an answer to what is no request") };
            assert_eq!(Binding::parse(&answer), Ok(Binding::Success { id, mapped: source }));
        }
    }
    if let Binding::Success { id, mapped } = message {
        assert_eq!(
            Binding::parse(&encode_success(id, mapped)),
            Ok(Binding::Success { id, mapped: Endpoint::canonical(mapped.0) })
        );
    }
}

/// First byte even: a datagram from nobody. Odd: the content of a probe of somebody who has the key.
pub fn probe(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let (key, sender) = probe_parties();
    if kind % 2 == 0 {
        let opened = probe::open(key, rest);
        if let Ok(opened) = opened {
            assert!(
                probe::sender(rest).is_ok() && DatagramKind::of(rest) == DatagramKind::Probe,
                "{opened:?}"
            );
        }
        return;
    }
    let Ok(content) = probe::decode(rest) else { return };
    let sealed = probe::seal(key, *sender, &[9; 24], &content);
    assert!(sealed.len() <= probe::MAX_PROBE && DatagramKind::of(&sealed) == DatagramKind::Probe);
    assert_eq!(probe::sender(&sealed), Ok(*sender));
    assert_eq!(probe::open(key, &sealed), Ok(content));
    let mut forged = sealed;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(probe::open(key, &forged).is_err());
}

/// The key and sender of the probes in the corpus.
pub fn probe_parties() -> &'static (ProbeKey, SenderTag) {
    static PARTIES: LazyLock<(ProbeKey, SenderTag)> = LazyLock::new(|| {
        let network = NetworkId::from_bytes([1; 16]);
        let (a, b) = (NodeSecret::from_bytes([2; 32]), NodeSecret::from_bytes([3; 32]));
        let shared = a.diffie_hellman(b.public().as_bytes()).expect("a good key");
        (ProbeKey::derive(&shared, &network, &a.public(), &b.public()), SenderTag::of(&network, &b.public()))
    });
    &PARTIES
}

/// A datagram to a relay, from a stranger.
pub fn relay_frame(data: &[u8]) {
    if let Ok(frame) = Frame::parse(data) {
        let mut written = Vec::new();
        frame.encode(&mut written);
        assert_eq!(Frame::parse(&written), Ok(frame));
        assert_eq!(DatagramKind::of(data), DatagramKind::Relay);
        if let Frame::Data { payload, .. } = frame {
            let mut moved = data.to_vec();
            readdress(&mut moved, RelayAddr::from_bytes([5; RelayAddr::LEN]));
            assert_eq!(&moved[DATA_HEADER_LEN..], payload);
        }
        if let Frame::Attach { permit, .. } = frame {
            let Permit { .. } = permit.unverified();
        }
    }
    let now = Instant::now();
    static SIGNING: LazyLock<VerifyingKey> =
        LazyLock::new(|| SigningKey::from_bytes(&[4; 32]).verifying_key());
    let secret = NodeSecret::from_bytes([5; 32]);
    let network = NetworkId::from_bytes([1; 16]);
    let mut relay = RelayServer::new(network, vec![*SIGNING], secret, RelayLimits::default(), [6; 32], now);
    let local = Local { socket: 0, ip: None };
    let from = Endpoint::canonical("192.0.2.1:40000".parse().expect("an address"));
    let mut datagram = data.to_vec();
    let forward = relay.handle_datagram(local, from, &mut datagram, UnixSeconds(1_800_000_000), now);
    assert!(forward.is_none(), "forwarded for somebody who is not attached");
    let answer = relay.poll_transmit();
    assert!(answer.is_none_or(|a| a.to == from && a.payload.len() <= data.len()), "amplified");
    assert!(relay.poll_transmit().is_none(), "two answers to one datagram");
}
