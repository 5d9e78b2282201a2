use super::*;
use crate::event::Destination;
use crate::tests::start;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn endpoint(n: u8) -> Endpoint {
    Endpoint(format!("192.0.2.{n}:41820").parse().unwrap())
}

fn paths() -> Paths {
    Paths::new(NodeKey::from_bytes([1; 32]))
}

/// Pings a candidate and answers after `rtt`.
fn prove(paths: &mut Paths, n: u8, rtt: Duration, now: Instant) -> Option<PathReason> {
    let (to, txid) = (Destination::Udp(endpoint(n)), TxId([n; 12]));
    paths.add(endpoint(n), Origin::Hint, now);
    paths.pinged(to, txid, now);
    assert_eq!(paths.ponged(to, txid, now + rtt), Some(rtt));
    paths.select(endpoint(n), now + rtt)
}

fn sending(at: Instant) -> Activity {
    Activity { sent: Some(at), ..Activity::default() }
}

#[test]
fn a_pong_without_its_ping_proves_nothing() {
    let (mut p, t) = (paths(), start());
    p.add(endpoint(1), Origin::Hint, t);
    p.pinged(Destination::Udp(endpoint(1)), TxId([1; 12]), t);
    assert_eq!(p.ponged(Destination::Udp(endpoint(1)), TxId([2; 12]), t), None);
    assert_eq!(p.ponged(Destination::Udp(endpoint(2)), TxId([1; 12]), t), None, "from another endpoint");
    assert_eq!(p.select(endpoint(1), t), None);
    assert_eq!(p.choice(), PathChoice::default());
}

#[test]
fn a_faster_path_is_taken_only_if_it_is_faster_by_more_than_noise() {
    let (mut p, t) = (paths(), start());
    assert_eq!(prove(&mut p, 1, ms(50), t), Some(PathReason::First));
    assert_eq!(prove(&mut p, 2, ms(45), t), None);
    assert_eq!(prove(&mut p, 3, ms(39), t), Some(PathReason::Better));
    assert_eq!(p.selected(), Some(endpoint(3)));
    assert!(!is_better(ms(1), Duration::from_micros(1500)), "a LAN's jitter");
    assert!(is_better(ms(1), ms(9)), "a LAN against a hairpin");
    assert!(is_better(ms(189), ms(200)), "10 ms");
}

#[test]
fn a_path_that_its_own_traffic_makes_slow_is_not_left_for_one_that_was_measured_empty() {
    let (mut p, t) = (paths(), start());
    prove(&mut p, 1, ms(1), t);
    prove(&mut p, 2, ms(1), t);
    let (mut now, used) = (t, p.selected().unwrap());
    let (used, other) = if used == endpoint(1) { (1, 2) } else { (2, 1) };
    // Minutes of bulk traffic, with the queue that belongs to it.
    for _ in 0..20 {
        now += Duration::from_secs(5);
        assert_eq!(prove(&mut p, used, ms(30), now), None);
        assert_eq!(prove(&mut p, other, ms(1), now + ms(100)), None);
    }
    // What is slow for much longer is slow by itself.
    for _ in 0..60 {
        now += Duration::from_secs(5);
        prove(&mut p, used, ms(30), now);
        prove(&mut p, other, ms(1), now + ms(100));
    }
    assert_eq!(p.selected(), Some(endpoint(other)));
}

#[test]
fn silence_makes_a_path_doubtful_then_dead_and_the_relay_takes_over() {
    let (mut p, t) = (paths(), start());
    p.set_relay(Some(RelayId(1)), None);
    prove(&mut p, 1, ms(20), t);
    let relay = p.over_relay();
    let mut now = t + ms(100);
    let (mut doubtful, mut dead) = (None, None);
    while dead.is_none() {
        let look = p.look(sending(now), now);
        for e in look.ping {
            p.pinged(Destination::Udp(e), TxId([9; 12]), now);
        }
        match look.change {
            Some(PathReason::Doubtful) => {
                doubtful = Some(now);
                assert_eq!(p.choice(), PathChoice { to: Some(Destination::Udp(endpoint(1))), also: relay });
            }
            Some(PathReason::Dead) => dead = Some(now),
            _ => {}
        }
        now = now.max(look.next.unwrap_or(now + ms(100)));
        assert!(now < t + Duration::from_secs(10), "it never died");
    }
    let (doubtful, dead) = (doubtful.expect("doubt first") - t, dead.unwrap() - t);
    assert!(doubtful >= ms(300) && doubtful <= ms(700), "{doubtful:?}");
    assert!(dead >= ms(3000) && dead <= ms(3800), "{dead:?}");
    assert_eq!(p.choice(), PathChoice { to: relay, also: None });
}

#[test]
fn one_way_traffic_with_answered_pings_is_never_in_doubt() {
    let (mut p, t) = (paths(), start());
    p.set_relay(Some(RelayId(1)), None);
    prove(&mut p, 1, ms(20), t);
    let mut now = t + ms(100);
    let mut pings = 0u32;
    while now < t + Duration::from_secs(20) {
        let look = p.look(sending(now), now);
        assert_eq!(look.change, None, "after {:?}", now - t);
        for e in look.ping {
            pings += 1;
            let txid = TxId([pings as u8; 12]);
            p.pinged(Destination::Udp(e), txid, now);
            p.ponged(Destination::Udp(e), txid, now + ms(20));
        }
        now += ms(100);
    }
    assert!(pings <= 120, "{pings} pings in 20 s");
}

#[test]
fn without_a_relay_a_dead_path_is_kept_and_tried() {
    let (mut p, t) = (paths(), start());
    prove(&mut p, 1, ms(20), t);
    let mut now = t + ms(100);
    let mut pings = 0;
    while now < t + Duration::from_secs(8) {
        let look = p.look(sending(now), now);
        for e in look.ping {
            pings += 1;
            p.pinged(Destination::Udp(e), TxId([9; 12]), now);
        }
        now += ms(100);
    }
    assert_eq!(p.choice().to, Some(Destination::Udp(endpoint(1))));
    assert!((10..60).contains(&pings), "{pings}");
}

#[test]
fn a_list_is_bounded_per_family_and_learned_endpoints_do_not_push_it_out() {
    let (mut p, t) = (paths(), start());
    let list: Vec<_> = (1..=40).map(endpoint).collect();
    p.set_list(Origin::Hint, &list, t);
    assert_eq!(p.candidates.len(), MAX_PER_FAMILY);
    for n in 100..200 {
        p.hear(endpoint(n), t);
    }
    assert_eq!(p.candidates.len(), 2 * MAX_PER_FAMILY);
    assert!(p.candidates.iter().any(|c| c.endpoint == endpoint(199)), "the newest learned one is there");
    p.set_list(Origin::Exchanged, &[endpoint(60)], t);
    assert_eq!(p.candidates.len(), 2 * MAX_PER_FAMILY, "both lists share the room");
    assert!(p.candidates.iter().any(|c| c.endpoint == endpoint(60)), "the peer's own list goes first");
    p.set_list(Origin::Hint, &[endpoint(50)], t);
    assert_eq!(p.candidates.iter().filter(|c| c.origin == Origin::Hint).count(), 1);
}

#[test]
fn a_silent_candidate_is_left_alone_after_its_tries() {
    let (mut p, t) = (paths(), start());
    p.add(endpoint(1), Origin::Hint, t);
    let (mut now, mut pings) = (t, 0);
    while let Some(next) = {
        let look = p.look(Activity::default(), now);
        for e in look.ping {
            pings += 1;
            p.pinged(Destination::Udp(e), TxId([1; 12]), now);
        }
        p.next_look(Activity::default(), now)
    } {
        now = next.max(now + ms(1));
    }
    assert_eq!(pings, candidate::TRIES.len() + 1);
    assert!(now - t < Duration::from_secs(10));
}

#[test]
fn an_idle_path_asks_for_nothing_and_is_doubted_before_it_is_used_again() {
    let (mut p, t) = (paths(), start());
    p.set_relay(Some(RelayId(1)), None);
    prove(&mut p, 1, ms(20), t);
    let used = Activity { sent: Some(t), received: Some(t), received_direct: Some(t), heard: Some(t) };
    let later = t + ms(20) + RECENT;
    let look = p.look(used, later);
    assert_eq!((look.change, look.next), (Some(PathReason::Idle), None));
    assert!(p.choice().also.is_some(), "the next packet goes both ways");
    let again = p.look(sending(later + ms(10)), later + ms(10));
    assert!(again.next.is_some());
}

#[test]
fn what_a_peer_names_is_not_used_where_it_could_do_harm() {
    let mesh =
        meshd_proto::MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd71::/48".parse().unwrap() };
    let advertised = ["192.168.1.0/24".parse().unwrap()];
    let servers = vec![Endpoint("198.51.100.1:3478".parse().unwrap())];
    let rules =
        candidate::Rules { mesh: Some(mesh), advertised: &advertised, servers, allow_loopback: false };
    let e = |text: &str| Endpoint(text.parse().unwrap());
    for bad in [
        "127.0.0.1:1",
        "[::1]:1",
        "0.0.0.0:1",
        "255.255.255.255:1",
        "224.0.0.1:1",
        "[ff02::1]:1",
        "192.0.2.1:0",
        "100.71.3.4:1",
        "[fd71::9]:1",
    ] {
        assert!(!rules.allow_listed(e(bad)) && !rules.allow_learned(e(bad)), "{bad}");
    }
    for own in ["192.168.1.7:41820", "198.51.100.1:3478"] {
        assert!(!rules.allow_listed(e(own)) && rules.allow_learned(e(own)), "{own}");
    }
    assert!(rules.allow_listed(e("192.168.2.7:41820")) && rules.allow_listed(e("203.0.113.7:1")));
}

#[test]
fn after_a_link_change_only_what_is_heard_since_then_makes_a_path_good_again() {
    let (mut p, t) = (paths(), start());
    p.set_relay(Some(RelayId(1)), None);
    prove(&mut p, 1, ms(20), t);
    // The last datum was received.
    let heard = Activity {
        sent: Some(t + ms(50)),
        received: Some(t + ms(60)),
        received_direct: Some(t + ms(60)),
        heard: Some(t + ms(60)),
    };
    let change = t + ms(100);
    assert_eq!(p.link_changed(change), Some(PathReason::Doubtful));
    let mut now = change;
    while now < change + ms(2500) {
        now += ms(100);
        let look = p.look(heard, now);
        assert_eq!(look.change, None, "{:?} after the change", now - change);
        look.ping.iter().for_each(|e| p.pinged(Destination::Udp(*e), TxId([9; 12]), now));
        assert!(p.choice().also.is_some(), "data goes both ways");
    }
    // Heard again, but deaf: the peer does not answer.
    let since = |at| Activity { received_direct: Some(at), heard: Some(at), ..heard };
    assert_eq!(p.look(since(now), now + ms(1)).change, None);
    // The next change, and something is heard at once.
    p.link_changed(now);
    assert_eq!(p.look(since(now + ms(30)), now + ms(31)).change, Some(PathReason::Recovered));
}

/// Traffic both ways on a selected path whose pings are answered as `answered` says; returns the changes.
fn two_way_traffic(answered: impl Fn(u32) -> bool, time: Duration) -> Vec<(Duration, PathReason)> {
    let (mut p, t) = (paths(), start());
    p.set_relay(Some(RelayId(1)), None);
    prove(&mut p, 1, ms(20), t);
    let (mut now, mut pings, mut changes) = (t + ms(20), 0_u32, Vec::new());
    while now < t + time {
        now += ms(100);
        let both = Some(now);
        let activity = Activity { sent: both, received: both, received_direct: both, heard: both };
        let look = p.look(activity, now);
        changes.extend(look.change.map(|why| (now - t, why)));
        for e in look.ping {
            pings += 1;
            let mut txid = TxId([0; 12]);
            txid.0[..4].copy_from_slice(&pings.to_le_bytes());
            p.pinged(Destination::Udp(e), txid, now);
            if answered(pings) {
                p.ponged(Destination::Udp(e), txid, now + ms(20));
            }
        }
    }
    assert!(pings < 12 * time.as_secs() as u32, "{pings} pings");
    changes
}

#[test]
fn a_path_that_carries_one_way_only_is_doubtful_within_about_a_second_though_the_peer_is_heard() {
    let changes = two_way_traffic(|_| false, Duration::from_secs(5));
    let kinds: Vec<_> = changes.iter().map(|(_, why)| *why).collect();
    assert_eq!(kinds[..2], [PathReason::Doubtful, PathReason::Dead], "{changes:?}");
    assert!(changes[0].0 <= ms(1300), "{changes:?}");
    assert!(changes[1].0 >= DEAD_AFTER && changes[1].0 <= DEAD_AFTER + ms(1000), "{changes:?}");
}

#[test]
fn two_lost_pings_of_three_are_no_reason_to_doubt_a_path_that_is_heard() {
    assert_eq!(two_way_traffic(|n| n % 3 == 0, Duration::from_secs(30)), []);
}
