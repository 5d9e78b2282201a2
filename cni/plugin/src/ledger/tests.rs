use super::*;
use proptest::prelude::*;

fn ranges(texts: &[&str]) -> Ranges {
    Ranges::parse(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()).expect("good ranges")
}

fn pod(number: usize) -> Attachment {
    let json = serde_json::json!({ "container": format!("pod{number}"), "interface": "eth0" });
    serde_json::from_value(json).expect("a good attachment")
}

fn first(addresses: Result<Vec<IpAddr>, Exhausted>) -> String {
    addresses.expect("there is a free one")[0].to_string()
}

#[test]
fn a_pod_gets_one_address_of_each_family_and_keeps_it_when_asked_again() {
    let mut ledger = Ledger::default();
    let both = ranges(&["10.1.0.0/24", "fd00:1::/64"]);
    let given = ledger.reserve(&pod(1), &both).expect("free");
    assert_eq!(given.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.1", "fd00:1::1"]);
    assert_eq!(ledger.reserve(&pod(1), &both), Ok(given));
    assert_eq!(ledger.reservations().len(), 1);
}

#[test]
fn a_freed_address_comes_last() {
    let mut ledger = Ledger::default();
    let small = ranges(&["10.1.0.0/29"]);
    assert_eq!(first(ledger.reserve(&pod(1), &small)), "10.1.0.1");
    assert!(ledger.release(&pod(1)));
    let next: Vec<String> = (2..8).map(|n| first(ledger.reserve(&pod(n), &small))).collect();
    assert_eq!(next, ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.1"]);
}

#[test]
fn a_full_family_is_named_and_nothing_changes() {
    let mut ledger = Ledger::default();
    let one = ranges(&["10.1.0.0/24", "fd00:1::/128"]);
    ledger.reserve(&pod(1), &one).expect("free");
    let before = ledger.clone();
    assert_eq!(ledger.reserve(&pod(2), &one), Err(Exhausted(Family::V6)));
    assert_eq!(ledger, before);
    assert_eq!(ledger.exhausted(&one), Some(Exhausted(Family::V6)));
}

#[test]
fn several_ranges_are_used_in_turn_and_an_old_address_of_a_changed_range_is_replaced() {
    let mut ledger = Ledger::default();
    let two = ranges(&["10.1.0.0/31", "10.2.0.0/31"]);
    let given: Vec<String> = (1..5).map(|n| first(ledger.reserve(&pod(n), &two))).collect();
    assert_eq!(given, ["10.1.0.0", "10.1.0.1", "10.2.0.0", "10.2.0.1"]);
    let moved = ranges(&["10.3.0.0/31"]);
    assert_eq!(first(ledger.reserve(&pod(1), &moved)), "10.3.0.0");
    assert_eq!(ledger.reservations().len(), 4);
}

#[test]
fn a_ledger_that_gives_an_address_twice_is_refused() {
    let mut ledger = Ledger::default();
    ledger.reserve(&pod(1), &ranges(&["10.1.0.0/24"])).expect("free");
    assert_eq!(Ledger::parse(&ledger.to_bytes()), Ok(ledger.clone()));
    let mut twice = ledger.reservations[0].clone();
    twice.attachment = pod(2);
    ledger.reservations.push(twice);
    assert!(Ledger::parse(&ledger.to_bytes()).expect_err("twice").contains("two reservations"));
    assert!(Ledger::parse(b"{}").is_err() && Ledger::parse(b"").is_err());
    assert!(Ledger::parse(br#"{"format":2,"last4":null,"last6":null,"reservations":[]}"#).is_err());
}

proptest! {
    /// Whatever comes and goes: no address twice, all of them from the ranges, and full means full.
    #[test]
    fn no_address_is_given_twice(steps in prop::collection::vec((0_usize..12, any::<bool>()), 0..200)) {
        let small = ranges(&["10.1.0.0/29", "10.9.0.0/31", "fd00::/125"]);
        let mut ledger = Ledger::default();
        for (number, come) in steps {
            if come {
                let free = ledger.reservations().len() < 7 || ledger.reservation(&pod(number)).is_some();
                prop_assert_eq!(ledger.reserve(&pod(number), &small).is_ok(), free);
            } else {
                ledger.release(&pod(number));
            }
            let parsed = Ledger::parse(&ledger.to_bytes());
            prop_assert_eq!(parsed.as_ref(), Ok(&ledger));
            prop_assert!(ledger.reservations().iter().flat_map(|r| &r.addresses).all(|a| small.contain(*a)));
        }
    }
}
