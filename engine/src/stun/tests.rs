use super::*;
use crate::tests::start;

fn endpoint(text: &str) -> Endpoint {
    Endpoint(text.parse().unwrap())
}

fn answer(request: &[u8], seen: Endpoint) -> Vec<u8> {
    Binding::parse(request).unwrap().answer(seen).unwrap()
}

struct Bench {
    stun: Stun,
    entropy: Entropy,
    t: Instant,
}

fn bench() -> Bench {
    let (mut stun, t) = (Stun::default(), start());
    stun.set_relay(RelayId(1), &[endpoint("192.0.2.1:3478")], 0, t);
    Bench { stun, entropy: Entropy::new([1; 32]), t }
}

#[test]
fn an_answer_counts_only_from_the_server_that_was_asked_and_only_once() {
    let Bench { mut stun, mut entropy, t } = bench();
    let (server, seen) = (endpoint("192.0.2.1:3478"), endpoint("203.0.113.5:9"));
    let asked = stun.poll(&mut entropy, t);
    assert_eq!((asked.len(), asked[0].0), (1, server));
    let datagram = answer(&asked[0].1, seen);
    assert!(!stun.handle(endpoint("192.0.2.2:3478"), &datagram, t), "from elsewhere");
    let mut forged = datagram.clone();
    forged[10] ^= 1;
    assert!(!stun.handle(server, &forged, t), "another transaction");
    assert!(stun.mapped().is_empty());
    assert!(stun.handle(server, &datagram, t + Duration::from_millis(30)));
    assert_eq!((stun.mapped(), stun.relay(RelayId(1)).0), (vec![seen], Some(Duration::from_millis(30))));
    assert!(!stun.handle(server, &datagram, t), "a replay");
}

#[test]
fn a_silent_server_is_asked_three_times_a_round() {
    let Bench { mut stun, mut entropy, t } = bench();
    let (mut now, mut sent) = (t, 0);
    while let Some(next) = {
        sent += stun.poll(&mut entropy, now).len();
        stun.next()
    } {
        now = next;
    }
    assert_eq!(sent, 3);
    assert!(now - t <= Duration::from_secs(2));
    stun.refresh(now);
    assert_eq!(stun.next(), Some(now), "a new round after the time");
}

#[test]
fn a_relay_that_moved_or_left_is_forgotten() {
    let Bench { mut stun, mut entropy, t } = bench();
    let asked = stun.poll(&mut entropy, t);
    stun.handle(asked[0].0, &answer(&asked[0].1, endpoint("203.0.113.5:9")), t);
    stun.set_relay(RelayId(1), &[endpoint("192.0.2.7:3478")], 0, t);
    assert!(stun.mapped().is_empty());
    assert_eq!(stun.servers(), [endpoint("192.0.2.7:3478")]);
    stun.retain(|_| false);
    assert!(stun.servers().is_empty() && stun.next().is_none());
}

#[test]
fn two_ports_of_one_relay_tell_a_symmetric_nat_from_an_ordinary_one() {
    for (second_sees, mapping) in
        [("203.0.113.5:9", Mapping::Independent), ("203.0.113.5:10", Mapping::Dependent)]
    {
        let (mut stun, mut entropy, t) = (Stun::default(), Entropy::new([1; 32]), start());
        stun.set_relay(RelayId(1), &[endpoint("192.0.2.1:3478")], 3479, t);
        let asked = stun.poll(&mut entropy, t);
        assert_eq!(asked.len(), 2);
        for (server, request) in asked {
            let seen = if server.0.port() == 3478 { "203.0.113.5:9" } else { second_sees };
            stun.handle(server, &answer(&request, endpoint(seen)), t + Duration::from_millis(9));
        }
        assert_eq!(stun.mapping(false), mapping);
        assert_eq!(stun.mapping(true), Mapping::Unknown);
        assert_eq!(stun.mapped(), [endpoint("203.0.113.5:9")], "the second port tells nothing else");
    }
}
