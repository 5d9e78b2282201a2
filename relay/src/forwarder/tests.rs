use super::*;
use crate::client::{DownReason, RelayEvent, encapsulate};
use crate::testnet::{NETWORK, Net, START, VIA, endpoint, permit_for, relay_at, sealed, secret, signer};
use meshd_proto::keys::SigningKey;
use meshd_proto::permit::Permit;
use meshd_proto::relay::Nonce;
use meshd_proto::stun::{TransactionId, encode_request};
use proptest::prelude::*;

fn data_to(n: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encapsulate(RelayAddr::of(&secret(n).public()), payload, &mut out);
    out
}

fn up(net: &mut Net) {
    net.run(Duration::from_millis(1));
    assert!(net.clients.iter().all(|(_, c)| c.endpoint() == Some(relay_at())), "{:?}", net.events);
    net.take_events();
}

fn refusal(net: &mut Net) -> RefuseReason {
    net.run(Duration::from_millis(1));
    let mut events = net.take_events();
    match events.pop() {
        Some((_, RelayEvent::Down { why: DownReason::Refused(reason) })) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// Cookie and proof of node `n` at `from`, as an honest node would send them.
fn honest_attach(net: &mut Net, n: u8, from: Endpoint) -> Vec<u8> {
    let mut hello = Vec::new();
    Frame::Hello { node: secret(n).public(), nonce: Nonce([n; 8]) }.encode(&mut hello);
    assert_eq!(net.server.handle_datagram(VIA, from, &mut hello, START, net.now), None);
    let challenge = net.server.poll_transmit().unwrap().payload;
    let Ok(Frame::Challenge { cookie, relay, .. }) = Frame::parse(&challenge) else { panic!("no challenge") };
    let keys = AttachKeys::new(&secret(n), &relay, cookie).unwrap();
    let permit = permit_for(n);
    let mut out = Vec::new();
    Frame::Attach { cookie, permit, proof: keys.node_proof(&permit) }.encode(&mut out);
    out
}

fn answer_to(net: &mut Net, from: Endpoint, mut datagram: Vec<u8>) -> Option<Vec<u8>> {
    let wall = net.wall();
    assert_eq!(net.server.handle_datagram(VIA, from, &mut datagram, wall, net.now), None);
    net.server.poll_transmit().map(|t| t.payload)
}

fn refused_with(answer: Option<Vec<u8>>) -> RefuseReason {
    match Frame::parse(&answer.expect("an answer")) {
        Ok(Frame::Refused { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn two_nodes_reach_each_other_through_the_relay_with_their_payload_untouched() {
    let mut net = Net::new(2);
    up(&mut net);
    net.send(net.clients[0].0, data_to(2, &sealed(1)));
    net.send(net.clients[1].0, data_to(1, &sealed(2)));
    let (a, b) = (RelayAddr::of(&secret(1).public()), RelayAddr::of(&secret(2).public()));
    assert_eq!(net.delivered, [(1, a, sealed(1)), (0, b, sealed(2))]);
    let counters = net.server.counters();
    assert_eq!((counters.clients, counters.forwarded_packets, counters.forwarded_bytes), (2, 2, 160));
}

#[test]
fn only_wireguard_and_probes_are_forwarded() {
    let mut net = Net::new(2);
    up(&mut net);
    let probe = {
        let mut p = meshd_proto::relay::PROBE_MAGIC.to_le_bytes().to_vec();
        p.resize(64, 0);
        p
    };
    let plain = b"GET / HTTP/1.1\r\nHost: somewhere.example\r\n\r\n";
    for (payload, passes) in [(&probe[..], true), (&plain[..], false), (&sealed(1)[..31], false)] {
        let before = net.delivered.len();
        net.send(net.clients[0].0, data_to(2, payload));
        assert_eq!(net.delivered.len() > before, passes);
    }
    net.send(net.clients[0].0, data_to(1, &sealed(1)));
    assert_eq!(net.server.counters().dropped(DropReason::NotCiphertext), 3);
}

#[test]
fn a_permit_signed_by_somebody_else_is_refused() {
    let mut net = Net::new(0);
    let forger = SigningKey::from_bytes(&[0x66; 32]);
    net.add(1, Permit::issue(NETWORK, secret(1).public(), 1, &forger, START));
    assert_eq!(refusal(&mut net), RefuseReason::BadPermit);
}

#[test]
fn a_permit_of_another_network_is_refused() {
    let mut net = Net::new(0);
    let other = NetworkId::from_bytes([8; 16]);
    net.add(1, Permit::issue(other, secret(1).public(), 1, &signer(), START));
    assert_eq!(refusal(&mut net), RefuseReason::BadPermit);
}

#[test]
fn an_expired_permit_is_refused_and_a_renewed_one_accepted_at_once() {
    let mut net = Net::new(0);
    let old = UnixSeconds(START.0 - 8 * 86_400);
    net.add(1, Permit::issue(NETWORK, secret(1).public(), 1, &signer(), old));
    assert_eq!(refusal(&mut net), RefuseReason::ExpiredPermit);
    let now = net.now;
    net.clients[0].1.set_permit(permit_for(1), now);
    up(&mut net);
}

#[test]
fn a_permit_that_ends_soon_attaches_for_no_longer_than_that() {
    let mut net = Net::new(0);
    let nearly_over = UnixSeconds(START.0 - 7 * 86_400 + 30);
    net.add(1, Permit::issue(NETWORK, secret(1).public(), 1, &signer(), nearly_over));
    up(&mut net);
    assert!(net.server.is_attached(&secret(1).public()));
    net.run(Duration::from_secs(40));
    assert!(!net.server.is_attached(&secret(1).public()));
}

#[test]
fn a_stolen_permit_without_its_node_key_is_refused() {
    let mut net = Net::new(0);
    let from = endpoint("192.0.2.66:6");
    let honest = honest_attach(&mut net, 1, from);
    let Ok(Frame::Attach { cookie, permit, .. }) = Frame::parse(&honest) else { panic!("no attach") };
    let thief = AttachKeys::new(&secret(66), &net.server.public_key(), cookie).unwrap();
    let mut forged = Vec::new();
    Frame::Attach { cookie, permit, proof: thief.node_proof(&permit) }.encode(&mut forged);
    let answer = answer_to(&mut net, from, forged);
    assert_eq!(refused_with(answer), RefuseReason::BadProof);
    assert_eq!(net.server.counters().clients, 0);
}

#[test]
fn a_replayed_attach_is_refused_from_another_address_later_and_after_a_newer_one() {
    let mut net = Net::new(0);
    let (home, roamed) = (endpoint("192.0.2.1:41820"), endpoint("198.51.100.9:41820"));
    let first = honest_attach(&mut net, 1, home);
    let elsewhere = answer_to(&mut net, roamed, first.clone());
    assert_eq!(refused_with(elsewhere), RefuseReason::StaleCookie);
    assert!(matches!(
        Frame::parse(&answer_to(&mut net, home, first.clone()).unwrap()),
        Ok(Frame::Attached { .. })
    ));
    // The node moves; whoever recorded its first attach cannot move it back.
    net.now += Duration::from_millis(5);
    let second = honest_attach(&mut net, 1, roamed);
    assert!(matches!(
        Frame::parse(&answer_to(&mut net, roamed, second).unwrap()),
        Ok(Frame::Attached { .. })
    ));
    assert_eq!(refused_with(answer_to(&mut net, home, first.clone())), RefuseReason::StaleCookie);
    assert_eq!(net.server.counters().clients, 1);
    // And long after, when the relay has forgotten the node.
    net.run(Duration::from_secs(100));
    assert_eq!(net.server.counters().clients, 0);
    assert_eq!(refused_with(answer_to(&mut net, home, first)), RefuseReason::StaleCookie);
}

#[test]
fn a_revoked_node_is_cut_at_once_and_not_admitted_again() {
    let mut net = Net::new(2);
    up(&mut net);
    let wall = net.wall();
    net.server.revoke(secret(1).public(), wall);
    net.send(net.clients[0].0, data_to(2, &sealed(1)));
    assert_eq!(net.delivered, []);
    net.run(Duration::from_secs(30));
    assert!(net.events.contains(&(0, RelayEvent::Down { why: DownReason::Refused(RefuseReason::Revoked) })));
    assert_eq!(net.server.counters().clients, 1);
    net.server.reinstate(secret(1).public());
    net.run(Duration::from_secs(70));
    assert_eq!(net.server.counters().clients, 2);
}

#[test]
fn a_relay_that_knows_the_members_admits_nobody_else_whatever_their_permit() {
    let mut net = Net::new(2);
    up(&mut net);
    net.server.set_members([secret(2).public()].into());
    assert_eq!(net.server.counters().clients, 1);
    net.run(Duration::from_secs(30));
    assert_eq!(net.server.counters().clients, 1);
    net.server.reinstate(secret(1).public());
    net.run(Duration::from_secs(90));
    assert_eq!(net.server.counters().clients, 2);
    let wall = net.wall();
    net.server.revoke(secret(1).public(), wall);
    assert_eq!(net.server.counters().clients, 1);
}

#[test]
fn a_sender_whose_peer_is_gone_is_told_but_not_for_every_packet() {
    let mut net = Net::new(1);
    up(&mut net);
    for _ in 0..100 {
        net.send(net.clients[0].0, data_to(9, &sealed(1)));
    }
    net.settle();
    let gone = RelayEvent::PeerGone(RelayAddr::of(&secret(9).public()));
    assert_eq!(net.take_events(), [(0, gone)]);
    assert_eq!(net.server.counters().dropped(DropReason::PeerGone), 100);
}

#[test]
fn a_node_is_limited_in_bytes_and_the_others_are_not() {
    let limits =
        RelayLimits { client_bytes: Rate { per_second: 1000, burst: 1000 }, ..RelayLimits::default() };
    let mut net = Net::with_limits(2, limits);
    up(&mut net);
    for _ in 0..50 {
        net.send(net.clients[0].0, data_to(2, &sealed(1)));
    }
    assert_eq!(net.delivered.len(), 10, "1000 bytes hold ten frames of 92");
    net.send(net.clients[1].0, data_to(1, &sealed(1)));
    assert_eq!(net.delivered.len(), 11);
    assert_eq!(net.server.counters().dropped(DropReason::RateLimited), 40);
}

#[test]
fn a_full_relay_keeps_its_clients_and_refuses_new_ones() {
    let mut net = Net::with_limits(2, RelayLimits { max_clients: 2, ..RelayLimits::default() });
    up(&mut net);
    net.add(3, permit_for(3));
    assert_eq!(refusal(&mut net), RefuseReason::Full);
    assert_eq!(net.server.counters().clients, 2);
}

#[test]
fn attaches_of_one_network_are_limited_and_another_network_still_gets_in() {
    let limits = RelayLimits { source_attaches: Rate { per_second: 1, burst: 3 }, ..RelayLimits::default() };
    let mut net = Net::with_limits(0, limits);
    for n in 1..=5u8 {
        let from = endpoint(&format!("192.0.2.{n}:7"));
        let attach = honest_attach(&mut net, n, from);
        let answer = answer_to(&mut net, from, attach).unwrap();
        let attached = matches!(Frame::parse(&answer), Ok(Frame::Attached { .. }));
        assert_eq!(attached, n <= 3, "{n}");
    }
    let from = endpoint("198.51.100.1:7");
    let attach = honest_attach(&mut net, 6, from);
    assert!(matches!(Frame::parse(&answer_to(&mut net, from, attach).unwrap()), Ok(Frame::Attached { .. })));
}

#[test]
fn data_from_an_unknown_address_is_refused_so_that_a_moved_node_attaches_again() {
    let mut net = Net::new(2);
    up(&mut net);
    let stray = answer_to(&mut net, endpoint("198.51.100.7:9"), data_to(2, &sealed(1)));
    assert_eq!(refused_with(stray), RefuseReason::NotAttached);
    // The NAT of node 1 gives it another port.
    net.now += Duration::from_secs(2);
    net.clients[0].0 = endpoint("192.0.2.1:50000");
    net.send(net.clients[0].0, data_to(2, &sealed(1)));
    net.run(Duration::from_millis(1));
    net.send(net.clients[1].0, data_to(1, &sealed(2)));
    assert_eq!(net.delivered.last().map(|(i, _, p)| (*i, p.clone())), Some((0, sealed(2))));
}

#[test]
fn stun_answers_say_the_source_and_bare_requests_get_none() {
    let mut net = Net::new(0);
    let from = endpoint("192.0.2.1:5");
    let id = TransactionId([1; 12]);
    let answer = answer_to(&mut net, from, encode_request(id).to_vec()).unwrap();
    assert_eq!(Binding::parse(&answer), Ok(Binding::Success { id, mapped: from }));
    let mut bare = encode_request(id)[..20].to_vec();
    bare[2..4].fill(0);
    assert_eq!(answer_to(&mut net, from, bare), None);
    assert_eq!(net.server.counters().stun_answers, 1);
}

#[test]
fn a_source_that_cannot_be_answered_is_dropped_unseen() {
    let mut net = Net::new(0);
    for from in ["192.0.2.1:0", "0.0.0.0:7", "224.0.0.1:7", "255.255.255.255:7"] {
        assert_eq!(
            answer_to(&mut net, endpoint(from), encode_request(TransactionId([1; 12])).to_vec()),
            None
        );
    }
    assert_eq!(net.server.counters().dropped(DropReason::BadSource), 4);
}

#[test]
fn silent_clients_are_forgotten() {
    let mut net = Net::new(2);
    up(&mut net);
    net.clients.truncate(1);
    net.run(Duration::from_secs(90));
    assert_eq!(net.server.counters().clients, 1, "the one that still pings stays");
}

proptest! {
    #[test]
    fn no_datagram_of_a_stranger_gets_more_out_than_it_put_in(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300), shape in 0u8..4, kind in 0u8..20,
    ) {
        let mut net = Net::new(1);
        up(&mut net);
        match shape {
            1 | 2 if bytes.len() > 4 => bytes[..4].copy_from_slice(&[0xf6, b'm', b'r', kind]),
            3 if bytes.len() >= 20 => {
                bytes.truncate(bytes.len() / 4 * 4);
                bytes[..2].copy_from_slice(&[0, 1]);
                let len = (bytes.len() as u16 - 20).to_be_bytes();
                bytes[2..4].copy_from_slice(&len);
                bytes[4..8].copy_from_slice(&meshd_proto::stun::MAGIC_COOKIE.to_be_bytes());
            }
            _ => {}
        }
        // `send` asserts: at most one answer, to the sender, not longer than the datagram.
        net.send(endpoint("[2001:db8::99]:7"), bytes.clone());
        let attached = net.clients[0].0;
        net.send(attached, bytes);
        prop_assert_eq!(net.delivered.len(), 0);
    }
}
