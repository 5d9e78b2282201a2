use super::*;
use crate::view::Route;
use meshd_proto::netmap::{
    DnsConfig, Entry, Peer, PeerKind, RecordSet, RecordType as Kind, RecordValue, SelfNode, SplitRoute,
};
use meshd_proto::{ClassId, MeshAddrs, MeshPrefixes, NetworkId, NetworkMap, NodeId, NodeKey};

fn addrs(n: u8) -> MeshAddrs {
    MeshAddrs { v4: [100, 71, 0, n].into(), v6: format!("fd7a:1:2::{n:x}").parse().unwrap() }
}

fn peer(id: u8, name: &str) -> Entry {
    Entry::Peer(Peer {
        id: NodeId(u64::from(id)),
        key: NodeKey::from_bytes([id; 32]),
        name: name.parse().unwrap(),
        addrs: addrs(id),
        class: ClassId(1),
        tags: vec![],
        owner: String::new(),
        key_expires: None,
        kind: PeerKind::Meshd,
    })
}

fn record(name: &str, kind: Kind, value: RecordValue) -> Entry {
    Entry::Record(name.parse().unwrap(), kind, RecordSet { ttl: 60, values: vec![value] })
}

fn address(text: &str) -> RecordValue {
    RecordValue::Address(text.parse().unwrap())
}

fn alias(text: &str) -> RecordValue {
    RecordValue::Name(text.parse().unwrap())
}

/// The laptop's map: itself, a Pi, and what an admin wrote.
fn map(more: impl IntoIterator<Item = Entry>) -> NetworkMap {
    let mut map = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
    let prefixes =
        MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() };
    map.upsert(Entry::Me(SelfNode {
        id: NodeId(2),
        name: "laptop".parse().unwrap(),
        addrs: addrs(2),
        class: ClassId(1),
        tags: vec![],
        prefixes,
        approved_routes: vec![],
        pending_routes: vec![],
        key_expires: None,
        map_lease: 0,
    }));
    map.upsert(Entry::DnsConfig(DnsConfig {
        domain: "home.internal".parse().unwrap(),
        search: vec!["lan".parse().unwrap()],
        split: vec![SplitRoute { suffix: "corp.test".parse().unwrap(), upstreams: vec![] }],
        nameservers: vec![],
        ttl: 60,
    }));
    map.upsert(peer(1, "pi"));
    more.into_iter().for_each(|e| map.upsert(e));
    map
}

fn view(more: impl IntoIterator<Item = Entry>) -> View {
    View::from_map(&map(more))
}

fn decide(view: &View, name: &str, kind: RecordType) -> Decision {
    view.decide(&name.parse().unwrap(), kind, DNSClass::IN)
}

#[track_caller]
fn answer(view: &View, name: &str, kind: RecordType) -> Answer {
    match decide(view, name, kind) {
        Decision::Answer(answer) => answer,
        other => panic!("{name} {kind}: {other:?}"),
    }
}

/// `code: data, data` of an answer.
fn told(view: &View, name: &str, kind: RecordType) -> String {
    let answer = answer(view, name, kind);
    let data: Vec<String> = answer.records.iter().map(|r| format!("{} {}", r.name, r.data)).collect();
    format!("{}: {}", answer.code, data.join(", "))
}

fn forwarded(view: &View, name: &str, kind: RecordType) -> bool {
    matches!(decide(view, name, kind), Decision::Forward(Route::Host))
}

#[test]
fn nodes_have_addresses_and_names_both_ways() {
    let view = view([]);
    assert_eq!(told(&view, "pi.home.internal.", RecordType::A), "No Error: pi.home.internal. 100.71.0.1");
    assert_eq!(told(&view, "pi.home.internal.", RecordType::AAAA), "No Error: pi.home.internal. fd7a:1:2::1");
    assert_eq!(
        told(&view, "laptop.home.internal.", RecordType::A),
        "No Error: laptop.home.internal. 100.71.0.2"
    );
    assert_eq!(
        told(&view, "1.0.71.100.in-addr.arpa.", RecordType::PTR),
        "No Error: 1.0.71.100.in-addr.arpa. pi.home.internal."
    );
    let v6 = Name::from("fd7a:1:2::1".parse::<std::net::Ipv6Addr>().unwrap()).to_string();
    assert!(told(&view, &v6, RecordType::PTR).ends_with(" pi.home.internal."));
}

#[test]
fn the_resolver_has_a_name_both_ways_and_is_the_name_server() {
    let view = view([]);
    assert!(
        told(&view, "53.0.71.100.in-addr.arpa.", RecordType::PTR).ends_with(" resolver.meshd.home.internal.")
    );
    assert!(told(&view, "resolver.meshd.home.internal.", RecordType::AAAA).ends_with(" fd7a:1:2::53"));
    assert!(told(&view, "home.internal.", RecordType::NS).ends_with(" resolver.meshd.home.internal."));
    assert!(
        told(&view, "home.internal.", RecordType::SOA).contains(" resolver.meshd.home.internal. hostmaster.")
    );
}

#[test]
fn a_hidden_node_and_one_that_does_not_exist_give_the_same_answer() {
    let seen = view([peer(3, "vault")]);
    assert!(told(&seen, "vault.home.internal.", RecordType::A).ends_with("100.71.0.3"));
    let pruned = view([]);
    let (hidden, nobody) = ("vault.home.internal.", "xault.home.internal.");
    assert_eq!(answer(&pruned, hidden, RecordType::A), answer(&pruned, nobody, RecordType::A));
    assert_eq!(told(&pruned, "3.0.71.100.in-addr.arpa.", RecordType::PTR), "Non-Existent Domain: ");
}

#[test]
fn a_no_carries_the_soa_with_the_time_it_may_be_kept() {
    let view = view([]);
    for (name, kind) in [("nobody.home.internal.", RecordType::A), ("pi.home.internal.", RecordType::TXT)] {
        let answer = answer(&view, name, kind);
        assert!(answer.authoritative && answer.records.is_empty());
        assert_eq!(answer.authority.len(), 1);
        assert_eq!((answer.authority[0].record_type(), answer.authority[0].ttl), (RecordType::SOA, 10));
        assert_eq!(answer.authority[0].name.to_string(), "home.internal.");
    }
}

#[test]
fn a_record_for_a_host_behind_a_router_is_answered() {
    let view = view([record("nas.home.internal", Kind::A, address("192.168.1.10"))]);
    assert_eq!(told(&view, "nas.home.internal.", RecordType::A), "No Error: nas.home.internal. 192.168.1.10");
    assert_eq!(told(&view, "nas.home.internal.", RecordType::AAAA), "No Error: ", "no data, not no name");
}

#[test]
fn of_several_addresses_the_nearest_stand_first_and_those_out_of_reach_last() {
    let values = ["10.0.0.1", "10.0.0.2", "9.9.9.9", "10.0.0.3"].map(address).to_vec();
    let set = Entry::Record("app.home.internal".parse().unwrap(), Kind::A, RecordSet { ttl: 60, values });
    let view = view([set]);
    let order = |view: &View| {
        let answer = answer(view, "app.home.internal.", RecordType::A);
        answer.records.iter().map(|r| r.data.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(order(&view), ["10.0.0.1", "10.0.0.2", "9.9.9.9", "10.0.0.3"], "as it was written");
    let near = [("10.0.0.1", Nearness::GONE), ("10.0.0.2", 9), ("10.0.0.3", 3)];
    let near = near.into_iter().map(|(ip, rank)| (ip.parse().unwrap(), rank)).collect();
    let view = view.nearest_first(Arc::new(Nearness(near)));
    assert_eq!(order(&view), ["10.0.0.3", "10.0.0.2", "9.9.9.9", "10.0.0.1"]);
}

#[test]
fn a_record_cannot_take_a_nodes_name() {
    let view = view([
        record("pi.home.internal", Kind::A, address("10.6.6.6")),
        record("laptop.home.internal", Kind::Cname, alias("evil.test")),
        record("pi.home.internal", Kind::Txt, RecordValue::Text("by the door".into())),
    ]);
    assert!(told(&view, "pi.home.internal.", RecordType::A).ends_with(" 100.71.0.1"));
    assert!(told(&view, "laptop.home.internal.", RecordType::A).ends_with(" 100.71.0.2"));
    assert!(
        told(&view, "pi.home.internal.", RecordType::TXT).ends_with("by the door"),
        "text may stand there"
    );
}

#[test]
fn aliases_are_followed_across_names_of_ours() {
    let view = view([
        record("www.home.internal", Kind::Cname, alias("web.home.internal")),
        record("web.home.internal", Kind::Cname, alias("pi.home.internal")),
        record("gone.home.internal", Kind::Cname, alias("nobody.home.internal")),
        record("half.home.internal", Kind::Cname, alias("nas.home.internal")),
        record("nas.home.internal", Kind::A, address("192.168.1.10")),
    ]);
    assert_eq!(
        told(&view, "www.home.internal.", RecordType::A),
        "No Error: www.home.internal. web.home.internal., web.home.internal. pi.home.internal., \
         pi.home.internal. 100.71.0.1"
    );
    let gone = answer(&view, "gone.home.internal.", RecordType::A);
    assert_eq!(
        (gone.code, gone.records.len(), gone.authority.len()),
        (ResponseCode::NXDomain, 1, 1),
        "RFC 6604"
    );
    let half = answer(&view, "half.home.internal.", RecordType::AAAA);
    assert_eq!((half.code, half.records.len(), half.authority.len()), (ResponseCode::NoError, 1, 1));
}

#[test]
fn aliases_in_a_circle_are_a_server_failure() {
    let view = view([
        record("a.home.internal", Kind::Cname, alias("b.home.internal")),
        record("b.home.internal", Kind::Cname, alias("a.home.internal")),
    ]);
    assert_eq!(answer(&view, "a.home.internal.", RecordType::A).code, ResponseCode::ServFail);
}

#[test]
fn an_alias_that_leads_out_is_chased_at_the_upstreams_of_its_target() {
    let view = view([record("wiki.home.internal", Kind::Cname, alias("wiki.corp.test"))]);
    let Decision::Chase { records, target, route } = decide(&view, "wiki.home.internal.", RecordType::A)
    else {
        panic!("not chased")
    };
    assert_eq!((records.len(), target.to_string()), (1, "wiki.corp.test.".to_owned()));
    assert!(matches!(route, Route::Global(_) | Route::Split(_)));
}

#[test]
fn a_wildcard_record_answers_a_for_any_name_and_no_data_for_aaaa() {
    let view = view([record("*.apps.home.internal", Kind::A, address("192.168.1.20"))]);
    assert!(told(&view, "x.apps.home.internal.", RecordType::A).ends_with(" 192.168.1.20"));
    assert_eq!(told(&view, "x.apps.home.internal.", RecordType::AAAA), "No Error: ");
    assert_eq!(told(&view, "apps.home.internal.", RecordType::A), "No Error: ");
}

#[test]
fn a_record_outside_the_domain_answers_for_exactly_its_name() {
    let view = view([
        record("git.example.com", Kind::A, address("192.168.1.30")),
        record("*.dev.example.com", Kind::A, address("192.168.1.31")),
    ]);
    assert!(told(&view, "git.example.com.", RecordType::A).ends_with(" 192.168.1.30"));
    let aaaa = answer(&view, "git.example.com.", RecordType::AAAA);
    assert_eq!((aaaa.code, aaaa.records.len()), (ResponseCode::NoError, 0), "the public AAAA must not win");
    assert_eq!(aaaa.authority[0].name.to_string(), "git.example.com.");
    assert!(told(&view, "x.dev.example.com.", RecordType::A).ends_with(" 192.168.1.31"));
    for outside in ["example.com.", "www.example.com.", "dev.example.com.", "a.git.example.com.", "com.", "."]
    {
        assert!(forwarded(&view, outside, RecordType::A), "{outside}");
        assert!(forwarded(&view, outside, RecordType::NS), "{outside}");
    }
}

#[test]
fn a_bare_node_name_answers_for_addresses_only() {
    let view = view([
        peer(4, "com"),
        record("nas.home.internal", Kind::A, address("192.168.1.10")),
        record("www.home.internal", Kind::Cname, alias("pi.home.internal")),
    ]);
    assert_eq!(told(&view, "pi.", RecordType::A), "No Error: pi. 100.71.0.1");
    assert_eq!(told(&view, "pi.", RecordType::AAAA), "No Error: pi. fd7a:1:2::1");
    assert_eq!(told(&view, "nas.", RecordType::AAAA), "No Error: ", "a node-like name without IPv6");
    assert!(told(&view, "www.", RecordType::A).ends_with("pi.home.internal. 100.71.0.1"));
    assert!(forwarded(&view, "com.", RecordType::NS), "a node called com leaves the domain com alone");
    assert!(forwarded(&view, "printer.", RecordType::A), "unknown bare names go where they went before");
    assert!(forwarded(&view, "meshd.", RecordType::A));
}

#[test]
fn everything_else_is_forwarded_and_split_domains_to_their_own() {
    let view = view([]);
    for name in [
        "example.com.",
        "internal.",
        "other.internal.",
        "home.internal.example.",
        "1.1.168.192.in-addr.arpa.",
    ] {
        assert!(forwarded(&view, name, RecordType::A), "{name}");
    }
    assert!(matches!(decide(&view, "a.b.corp.test.", RecordType::A), Decision::Forward(Route::Split(_))));
    assert!(forwarded(&view, "xcorp.test.", RecordType::A), "a suffix ends at a label");
}

#[test]
fn a_host_that_tells_domains_apart_learns_which_are_ours() {
    let view = view([
        record("git.example.com", Kind::A, address("192.168.1.30")),
        record("*.dev.example.com", Kind::A, address("192.168.1.31")),
        record("nas.home.internal", Kind::A, address("192.168.1.10")),
    ]);
    let routing: Vec<_> = view.routing().iter().map(ToString::to_string).collect();
    assert_eq!(
        routing,
        [
            "2.0.0.0.1.0.0.0.a.7.d.f.ip6.arpa",
            "71.100.in-addr.arpa",
            "corp.test",
            "dev.example.com",
            "git.example.com"
        ]
    );
}

#[test]
fn transfers_and_other_classes_of_our_zones_are_refused() {
    let view = view([]);
    assert_eq!(answer(&view, "home.internal.", RecordType::AXFR).code, ResponseCode::Refused);
    let chaos = view.decide(&"pi.home.internal.".parse().unwrap(), RecordType::TXT, DNSClass::CH);
    assert_eq!(chaos, Decision::Answer(Answer::code(ResponseCode::Refused)));
}

#[test]
fn a_guest_sees_that_the_zone_exists_and_nothing_in_it() {
    let map = map([
        record("nas.home.internal", Kind::A, address("192.168.1.10")),
        record("git.example.com", Kind::A, address("192.168.1.30")),
    ]);
    let guest = View::guest(&map);
    for name in
        ["pi.home.internal.", "laptop.home.internal.", "nas.home.internal.", "1.0.71.100.in-addr.arpa."]
    {
        assert_eq!(answer(&guest, name, RecordType::ANY).code, ResponseCode::NXDomain, "{name}");
    }
    assert!(forwarded(&guest, "pi.", RecordType::A));
    assert!(forwarded(&guest, "git.example.com.", RecordType::A));
    assert!(forwarded(&guest, "a.corp.test.", RecordType::A), "nor the mesh's upstreams");
}

#[test]
fn before_the_first_map_everything_is_forwarded() {
    assert!(forwarded(&View::default(), "pi.home.internal.", RecordType::A));
    assert!(View::default().search().is_empty());
    assert_eq!(view([]).search().iter().map(DnsName::as_str).collect::<Vec<_>>(), ["home.internal", "lan"]);
}
