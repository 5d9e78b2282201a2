use super::*;
use crate::testnet::{Net, VIA, endpoint, permit_for, relay_at, sealed, secret};

fn data_to(n: u8) -> Vec<u8> {
    let mut out = Vec::new();
    encapsulate(RelayAddr::of(&secret(n).public()), &sealed(n), &mut out);
    out
}

fn attached(count: u8) -> Net {
    let mut net = Net::new(count);
    net.run(Duration::from_millis(1));
    let ups = net.take_events();
    assert!(ups.iter().all(|(_, e)| matches!(e, RelayEvent::Up { .. })), "{ups:?}");
    assert_eq!(ups.len(), usize::from(count));
    net
}

#[test]
fn it_attaches_in_two_round_trips_and_learns_its_outside_address() {
    let net = attached(1);
    assert_eq!(net.now - net.start, Duration::from_millis(1));
    assert_eq!(net.clients[0].1.observed(), Some(net.clients[0].0));
}

#[test]
fn an_idle_client_stays_attached_for_days_with_a_ping_every_fifteen_seconds() {
    let mut net = attached(1);
    net.run(Duration::from_secs(3 * 86_400));
    assert_eq!(net.server.counters().clients, 1);
    let events = net.take_events();
    assert!(events.iter().all(|(_, e)| matches!(e, RelayEvent::Up { .. })), "{events:?}");
    assert!(events.len() > 100, "attached again every half hour");
}

#[test]
fn an_idle_client_notices_a_dead_relay_within_keepalive_and_five_seconds_and_comes_back() {
    let mut net = attached(1);
    net.relay_alive = false;
    net.run(KEEPALIVE + DEAD_AFTER + Duration::from_millis(1));
    assert_eq!(net.take_events(), [(0, RelayEvent::Down { why: DownReason::Silent })]);
    net.run(Duration::from_secs(60));
    net.relay_alive = true;
    net.run(ATTEMPT_MAX * 2);
    assert!(matches!(net.take_events().last(), Some((0, RelayEvent::Up { .. }))));
}

#[test]
fn under_traffic_a_silent_relay_is_doubtful_in_little_more_than_a_second_and_dead_in_six() {
    let mut net = attached(2);
    net.run(Duration::from_secs(16));
    net.relay_alive = false;
    let now = net.now;
    net.clients[0].1.note_sent(now);
    net.run(TRAFFIC_PING + DOUBTFUL_AFTER + Duration::from_millis(1));
    assert_eq!(net.take_events(), [(0, RelayEvent::Doubtful)]);
    net.run(DEAD_AFTER);
    assert_eq!(net.take_events()[0], (0, RelayEvent::Down { why: DownReason::Silent }));
}

#[test]
fn a_doubtful_relay_that_answers_is_cleared() {
    let mut net = attached(1);
    let now = net.now;
    net.clients[0].1.note_sent(now);
    net.relay_alive = false;
    net.run(Duration::from_secs(2));
    net.relay_alive = true;
    net.run(Duration::from_secs(2));
    assert_eq!(net.take_events(), [(0, RelayEvent::Doubtful), (0, RelayEvent::Clear)]);
}

#[test]
fn payloads_that_arrive_keep_a_relay_alive_though_pongs_are_lost() {
    let mut net = attached(1);
    net.relay_alive = false;
    for _ in 0..100 {
        let now = net.now;
        net.clients[0].1.handle_datagram(relay_at(), &data_to(2), now);
        net.run(Duration::from_millis(500));
    }
    let events = net.take_events();
    assert!(!events.contains(&(0, RelayEvent::Down { why: DownReason::Silent })), "{events:?}");
}

#[test]
fn a_restarted_relay_costs_one_packet_and_one_attach() {
    let mut net = attached(2);
    net.run(Duration::from_secs(20));
    net.restart_relay();
    net.send(net.clients[0].0, data_to(2));
    net.send(net.clients[1].0, data_to(1));
    assert!(net.delivered.is_empty());
    net.run(Duration::from_millis(1));
    net.send(net.clients[0].0, data_to(2));
    assert_eq!(net.delivered.len(), 1);
}

#[test]
fn a_relay_that_stops_says_so_and_the_client_attaches_again_soon() {
    let mut net = attached(1);
    net.server.stop();
    let goodbye = net.server.poll_transmit().unwrap();
    assert_eq!(goodbye.from, VIA);
    let now = net.now;
    net.clients[0].1.handle_datagram(relay_at(), &goodbye.payload, now);
    net.restart_relay();
    net.run(Duration::from_secs(1));
    let events = net.take_events();
    assert_eq!(events[0], (0, RelayEvent::Down { why: DownReason::Restarting }));
    assert!(matches!(events[1], (0, RelayEvent::Up { .. })), "{events:?}");
}

#[test]
fn frames_of_other_addresses_or_without_the_session_token_change_nothing() {
    let mut net = attached(2);
    let now = net.now;
    let (stranger, client) = (endpoint("198.51.100.66:3478"), &mut net.clients[0].1);
    assert_eq!(client.handle_datagram(stranger, &data_to(2), now), None);
    let mut forged = Vec::new();
    let mut other = Net::new(0);
    other.add(2, permit_for(2));
    other.run(Duration::from_millis(1));
    other.server.stop();
    forged.extend(other.server.poll_transmit().unwrap().payload);
    client.handle_datagram(relay_at(), &forged, now);
    let mut refused = Vec::new();
    Frame::Refused { reason: RefuseReason::Revoked, echo: [0; 8] }.encode(&mut refused);
    client.handle_datagram(relay_at(), &refused, now);
    assert_eq!(client.poll_event(), None);
    assert_eq!(client.endpoint(), Some(relay_at()));
}

#[test]
fn a_flood_of_forged_refusals_starts_at_most_one_attach_a_second() {
    let mut net = attached(1);
    let mut refused = Vec::new();
    Frame::Refused { reason: RefuseReason::NotAttached, echo: [0; 8] }.encode(&mut refused);
    for _ in 0..1000 {
        let now = net.now;
        net.clients[0].1.handle_datagram(relay_at(), &refused, now);
        net.run(Duration::from_millis(10));
    }
    assert!(net.server.counters().attaches <= 11, "{}", net.server.counters().attaches);
    assert_eq!(net.clients[0].1.endpoint(), Some(relay_at()));
}

#[test]
fn a_relay_with_another_key_than_the_map_says_is_not_used() {
    let mut net = Net::new(0);
    let other = secret(99).public();
    let client = RelayClient::new(secret(1), other, permit_for(1), &[relay_at()], [1; 32], net.now);
    net.clients.push((endpoint("192.0.2.1:41820"), client));
    net.run(Duration::from_millis(1));
    assert_eq!(net.take_events(), [(0, RelayEvent::Down { why: DownReason::WrongRelay })]);
    assert_eq!(net.server.counters().clients, 0);
}

#[test]
fn a_relay_that_never_answers_is_reported_within_two_seconds_and_tried_on_without_end() {
    let mut net = Net::new(1);
    net.relay_alive = false;
    net.run(Duration::from_millis(2500));
    assert_eq!(net.take_events(), [(0, RelayEvent::Down { why: DownReason::Silent })]);
    net.run(Duration::from_secs(3600));
    assert_eq!(net.take_events(), []);
    net.relay_alive = true;
    net.run(ATTEMPT_MAX * 2);
    assert!(matches!(net.take_events()[..], [(0, RelayEvent::Up { .. })]));
}

#[test]
fn a_relay_that_delivers_is_not_doubtful_though_pongs_are_lost() {
    let mut net = attached(1);
    net.run(Duration::from_secs(3));
    net.relay_alive = false;
    let now = net.now;
    net.clients[0].1.note_sent(now);
    for _ in 0..20 {
        net.run(Duration::from_millis(200));
        let now = net.now;
        net.clients[0].1.note_received(now);
        net.clients[0].1.note_sent(now);
    }
    assert_eq!(net.take_events(), []);
    net.run(DOUBTFUL_AFTER + TRAFFIC_PING);
    assert_eq!(net.take_events(), [(0, RelayEvent::Doubtful)], "then it fell silent");
    net.run(DEAD_AFTER);
    assert_eq!(net.take_events()[0], (0, RelayEvent::Down { why: DownReason::Silent }));
}

#[test]
fn under_traffic_one_lost_ping_does_not_make_a_relay_doubtful() {
    let mut net = attached(1);
    net.run(Duration::from_secs(3));
    let now = net.now;
    net.clients[0].1.note_sent(now);
    net.relay_alive = false;
    net.run(Duration::from_millis(100));
    net.relay_alive = true;
    net.run(Duration::from_secs(2));
    assert_eq!(net.take_events(), []);
}
