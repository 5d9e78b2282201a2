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

fn dname(to: &str) -> RData {
    use hickory_proto::serialize::binary::BinEncodable;
    let target: Name = to.parse().unwrap();
    RData::Unknown { code: DNAME, rdata: hickory_proto::rr::rdata::NULL::with(target.to_bytes().unwrap()) }
}

fn ns(to: &str) -> RData {
    RData::NS(hickory_proto::rr::rdata::NS(to.parse().unwrap()))
}

/// A zone with a delegation, what may not be seen behind it, and a DNAME.
fn cut_zone() -> Zone {
    let mut zone = Zone::new(name("example."), &"ns.example.".parse().unwrap(), 7, 300, 10);
    for (owner, data) in [
        ("child.example.", ns("ns.child.example.")),
        ("child.example.", ns("ns.other.test.")),
        ("ns.child.example.", a(53)),
        ("www.child.example.", a(1)),
        ("old.example.", dname("new.example.")),
        ("old.example.", a(2)),
        ("hidden.old.example.", a(3)),
        ("www.new.example.", a(4)),
    ] {
        assert!(zone.insert(name(owner), 300, data), "{owner}");
    }
    zone
}

#[test]
fn below_a_cut_only_the_delegation_is_known() {
    let zone = cut_zone();
    for (of, kind) in [
        ("www.child.example.", RecordType::A),
        ("deep.www.child.example.", RecordType::A),
        ("child.example.", RecordType::A),
        ("child.example.", RecordType::NS),
        ("ns.child.example.", RecordType::A),
    ] {
        let Found::Delegation { servers, glue } = lookup(&zone, &name(of), kind) else {
            panic!("{of} {kind}")
        };
        assert_eq!((servers.len(), glue.len()), (2, 1));
        assert_eq!(glue[0].data, a(53));
    }
    // The parent has the word about DS (RFC 4035 §3.1.4.1).
    assert_eq!(lookup(&zone, &name("child.example."), RecordType::DS), Found::NoData);
}

#[test]
fn a_dname_renames_what_lies_below_it_and_not_itself() {
    let zone = cut_zone();
    let Found::Renamed { records: [dname, cname], target } =
        lookup(&zone, &name("a.www.old.example."), RecordType::A)
    else {
        panic!("not renamed")
    };
    assert_eq!(dname.name, "old.example.".parse().unwrap());
    assert_eq!((cname.name.to_string(), cname.ttl), ("a.www.old.example.".to_owned(), 300));
    assert_eq!(target, name("a.www.new.example."));
    let hidden = lookup(&zone, &name("hidden.old.example."), RecordType::A);
    assert!(matches!(hidden, Found::Renamed { .. }), "names below a DNAME are out of sight");
    assert!(matches!(lookup(&zone, &name("old.example."), RecordType::A), Found::Data(_)));
    assert!(matches!(lookup(&zone, &name("old.example."), DNAME), Found::Data(_)));
}

#[test]
fn a_dname_that_makes_a_name_too_long_says_so() {
    let mut zone = Zone::new(name("x."), &"ns.x.".parse().unwrap(), 7, 300, 10);
    let long = format!("{0}.{0}.{0}.", "l".repeat(60));
    assert!(zone.insert(name("x."), 300, dname(&long)));
    let of = format!("{0}.{0}.x.", "m".repeat(60));
    assert!(matches!(lookup(&zone, &name(&of), RecordType::A), Found::TooLong(_)));
}

#[test]
fn a_subtree_answers_for_its_top_and_for_all_that_nothing_else_is_said_about() {
    let mut zone = zone();
    assert!(zone.insert_subtree(name("apps.example."), 60, a(7)));
    assert!(zone.insert(name("own.apps.example."), 60, a(8)));
    assert!(zone.insert(name("deep.node.apps.example."), 60, a(9)));
    assert!(zone.insert(name("*.wild.apps.example."), 60, a(10)));
    let ask = |of: &str| match lookup(&zone, &name(of), RecordType::A) {
        Found::Data(records) => records[0].data.clone(),
        other => panic!("{of}: {other:?}"),
    };
    assert_eq!(ask("apps.example."), a(7), "the top, unlike with a wildcard");
    assert_eq!(ask("x.apps.example."), a(7));
    assert_eq!(ask("a.b.c.apps.example."), a(7));
    assert_eq!(ask("own.apps.example."), a(8), "its own records first");
    assert_eq!(ask("below.own.apps.example."), a(7), "where a wildcard would stop");
    assert_eq!(ask("node.apps.example."), a(7), "an empty name");
    assert_eq!(ask("x.wild.apps.example."), a(10), "the nearer one counts");
    assert_eq!(lookup(&zone, &name("own.apps.example."), RecordType::TXT), Found::NoData);
    assert_eq!(lookup(&zone, &name("x.apps.example."), RecordType::AAAA), Found::NoData);
    assert_eq!(ask("host9.example."), a(1), "beside it nothing changes");
}
