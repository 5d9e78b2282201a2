use super::*;
use hickory_proto::rr::rdata::{A, CNAME, TXT};
use std::net::Ipv4Addr;

fn name(text: &str) -> LowerName {
    text.parse().unwrap()
}

fn a(last: u8) -> RData {
    RData::A(A(Ipv4Addr::new(192, 0, 2, last)))
}

/// The zone of RFC 4592 §2.2.1, as far as our types go, and an alias.
fn zone() -> Zone {
    let mut zone = Zone::new(name("example."), &"ns.example.".parse().unwrap(), 7, 300, 10);
    for (owner, data) in [
        ("*.example.", RData::TXT(TXT::new(vec!["this is a wildcard".into()]))),
        ("*.example.", a(1)),
        ("sub.*.example.", RData::TXT(TXT::new(vec!["this is not".into()]))),
        ("host1.example.", a(2)),
        ("_telnet._tcp.host2.example.", a(3)),
        ("alias.example.", RData::CNAME(CNAME("host1.example.".parse().unwrap()))),
        ("*.out.example.", RData::CNAME(CNAME("elsewhere.test.".parse().unwrap()))),
    ] {
        assert!(zone.insert(name(owner), 300, data));
    }
    zone
}

fn ask(of: &str, kind: RecordType) -> Found {
    lookup(&zone(), &name(of), kind)
}

#[track_caller]
fn data(of: &str, kind: RecordType) -> Vec<Record> {
    match ask(of, kind) {
        Found::Data(records) => records,
        other => panic!("{of} {kind}: {other:?}"),
    }
}

#[test]
fn a_name_answers_its_own_type_and_no_data_for_another() {
    assert_eq!(data("host1.example.", RecordType::A)[0].data, a(2));
    assert_eq!(ask("host1.example.", RecordType::AAAA), Found::NoData);
}

#[test]
fn names_are_found_whatever_their_letter_case() {
    let upper = LowerName::from(Name::from_ascii("HOST1.Example.").unwrap());
    assert!(matches!(lookup(&zone(), &upper, RecordType::A), Found::Data(_)));
}

#[test]
fn a_wildcard_answers_under_the_name_that_was_asked() {
    let records = data("host3.example.", RecordType::TXT);
    assert_eq!(records[0].name, "host3.example.".parse().unwrap());
    assert!(matches!(ask("foo.bar.example.", RecordType::TXT), Found::Data(_)), "several labels deep");
}

#[test]
fn a_wildcard_without_the_type_is_no_data_and_not_no_name() {
    assert_eq!(ask("host3.example.", RecordType::AAAA), Found::NoData);
}

#[test]
fn a_wildcard_does_not_stand_in_for_names_that_exist() {
    assert_eq!(ask("host1.example.", RecordType::TXT), Found::NoData);
    assert_eq!(ask("host2.example.", RecordType::TXT), Found::Empty, "an empty non-terminal exists");
    assert_eq!(ask("_tcp.host2.example.", RecordType::TXT), Found::Empty);
}

#[test]
fn the_closest_encloser_decides_which_wildcard_counts() {
    assert_eq!(ask("telnet._tcp.host2.example.", RecordType::TXT), Found::NoName);
    assert_eq!(ask("x.host1.example.", RecordType::TXT), Found::NoName);
    assert_eq!(
        ask("ghost.*.example.", RecordType::TXT),
        Found::NoName,
        "`*` as an encloser has no `*` child"
    );
}

#[test]
fn the_asterisk_label_itself_can_be_asked() {
    assert!(matches!(ask("*.example.", RecordType::TXT), Found::Data(_)));
    assert!(matches!(ask("sub.*.example.", RecordType::TXT), Found::Data(_)));
}

#[test]
fn an_alias_is_followed_for_other_types_and_is_data_when_asked_for() {
    assert!(
        matches!(ask("alias.example.", RecordType::A), Found::Alias { target, .. } if target == name("host1.example."))
    );
    assert!(matches!(ask("alias.example.", RecordType::CNAME), Found::Data(_)));
    assert!(matches!(ask("alias.example.", RecordType::ANY), Found::Data(_)));
    let Found::Alias { record, target } = ask("x.out.example.", RecordType::A) else { panic!("no alias") };
    assert_eq!((record.name.to_string(), target), ("x.out.example.".to_owned(), name("elsewhere.test.")));
}

#[test]
fn nothing_stands_beside_an_alias() {
    let mut zone = zone();
    assert!(!zone.insert(name("alias.example."), 1, a(9)));
    assert!(!zone.insert(name("host1.example."), 1, RData::CNAME(CNAME("x.example.".parse().unwrap()))));
    assert!(
        !zone.insert(name("example."), 1, RData::CNAME(CNAME("x.example.".parse().unwrap()))),
        "nor at the top"
    );
    assert!(!zone.insert(name("other.test."), 1, a(9)), "and nothing outside the zone");
}

#[test]
fn the_top_of_a_zone_has_soa_and_ns() {
    assert_eq!(data("example.", RecordType::SOA).len(), 1);
    assert_eq!(data("example.", RecordType::NS).len(), 1);
    assert_eq!(ask("example.", RecordType::A), Found::NoData);
}
