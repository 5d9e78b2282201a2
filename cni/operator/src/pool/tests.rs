use super::*;
use proptest::prelude::*;

fn pools(list: &[(&str, &[&str])], delegated: &[&str]) -> Pools {
    let range = |t: &&str| t.parse().unwrap();
    let pool = |(name, ranges): &(&str, &[&str])| Pool {
        name: (*name).to_owned(),
        ranges: ranges.iter().map(range).collect(),
        auto: true,
        ..Pool::default()
    };
    Pools {
        pools: list.iter().map(pool).collect(),
        delegated: delegated.iter().map(range).collect(),
        cluster: "k".to_owned(),
    }
}

fn request(name: &str) -> Request {
    Request {
        key: Key { namespace: "default".to_owned(), name: name.to_owned() },
        families: vec![true],
        ports: [(Transport::Tcp, 80)].into(),
        ..Request::default()
    }
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|t| t.parse().unwrap()).collect()
}

fn of<'a>(all: &'a Allocation, name: &str) -> &'a Result<Vec<IpAddr>, Refused> {
    &all[&request(name).key]
}

#[test]
fn the_older_service_is_served_first_and_the_pool_runs_dry() {
    let pools = pools(&[("p", &["10.98.0.1-10.98.0.2"])], &["10.98.0.0/24"]);
    let requests: Vec<Request> =
        [("c", 3), ("b", 2), ("a", 9)].map(|(name, created)| Request { created, ..request(name) }).to_vec();
    let all = pools.allocate(&requests);
    assert_eq!(of(&all, "b"), &Ok(ips(&["10.98.0.1"])));
    assert_eq!(of(&all, "c"), &Ok(ips(&["10.98.0.2"])));
    assert_eq!(of(&all, "a"), &Err(Refused::Exhausted("IPv4", "p".to_owned())));
    assert_eq!(pools.count(&pools.pools[0], &all), Count { v4: 2, v6: 0, assigned: 2 });
}

#[test]
fn a_holder_keeps_its_address_before_an_older_one_and_before_a_wish() {
    let pools = pools(&[("p", &["10.98.0.1-10.98.0.9"])], &["10.98.0.0/24"]);
    let held = Request { created: 9, held: ips(&["10.98.0.1"]), ..request("late") };
    let wish = Request { created: 1, fixed: ips(&["10.98.0.1"]), ..request("wish") };
    let all = pools.allocate(&[request("old"), wish, held]);
    assert_eq!(of(&all, "late"), &Ok(ips(&["10.98.0.1"])));
    assert_eq!(of(&all, "wish"), &Err(Refused::Taken(ips(&["10.98.0.1"])[0], request("late").key)));
    assert_eq!(of(&all, "old"), &Ok(ips(&["10.98.0.2"])));
}

#[test]
fn tcp_and_udp_53_share_an_address_and_the_same_port_twice_does_not() {
    let pools = pools(&[("p", &["10.98.0.53"])], &["10.98.0.0/24"]);
    let dns = |name: &str, transport, share: Option<&str>| Request {
        ports: [(transport, 53)].into(),
        share: share.map(str::to_owned),
        fixed: ips(&["10.98.0.53"]),
        ..request(name)
    };
    let both = [dns("tcp", Transport::Tcp, Some("dns")), dns("udp", Transport::Udp, Some("dns"))];
    let all = pools.allocate(&both);
    assert_eq!((of(&all, "tcp"), of(&all, "udp")), (&Ok(ips(&["10.98.0.53"])), &Ok(ips(&["10.98.0.53"]))));
    for second in [
        dns("udp", Transport::Tcp, Some("dns")),
        dns("udp", Transport::Udp, Some("other")),
        dns("udp", Transport::Udp, None),
    ] {
        let all = pools.allocate(&[both[0].clone(), second]);
        assert!(matches!(of(&all, "udp"), Err(Refused::Taken(..))));
    }
    let unwished = |r: &Request| Request { fixed: vec![], ..r.clone() };
    let all = pools.allocate(&[unwished(&both[0]), unwished(&both[1])]);
    assert!(all.values().all(|r| *r == Ok(ips(&["10.98.0.53"]))), "without a wish they meet, too");
}

#[test]
fn both_families_or_none_and_one_where_one_will_do() {
    let dual = |one_will_do| Request { families: vec![true, false], one_will_do, ..request("web") };
    let both = pools(&[("p", &["10.98.0.7", "fd98::7"])], &["10.98.0.0/24", "fd98::/64"]);
    assert_eq!(of(&both.allocate(&[dual(false)]), "web"), &Ok(ips(&["10.98.0.7", "fd98::7"])));
    let v4 = pools(&[("p", &["10.98.0.7"])], &["10.98.0.0/24", "fd98::/64"]);
    assert_eq!(of(&v4.allocate(&[dual(false)]), "web"), &Err(Refused::NoFamily("IPv6")));
    assert_eq!(of(&v4.allocate(&[dual(true)]), "web"), &Ok(ips(&["10.98.0.7"])));
    let grown = Request { held: ips(&["10.98.0.7"]), ..dual(true) };
    assert_eq!(of(&both.allocate(&[grown]), "web"), &Ok(ips(&["10.98.0.7", "fd98::7"])));
}

#[test]
fn a_pool_takes_only_whom_it_selects_and_only_what_was_delegated() {
    let mut pools = pools(&[("p", &["10.98.0.0/24", "10.99.0.0/24"])], &["10.98.0.128/25"]);
    assert_eq!(of(&pools.allocate(&[request("web")]), "web"), &Ok(ips(&["10.98.0.128"])));
    assert_eq!(pools.undelegated(&pools.pools[0]).len(), 2);
    let far = Request { fixed: ips(&["10.99.0.1"]), ..request("web") };
    assert!(matches!(of(&pools.allocate(&[far]), "web"), Err(Refused::NotDelegated(..))));
    let out = Request { fixed: ips(&["10.1.0.1"]), ..request("web") };
    assert!(matches!(of(&pools.allocate(&[out]), "web"), Err(Refused::Outside(_))));
    let six = Request { fixed: ips(&["fd98::1"]), ..request("web") };
    assert!(matches!(of(&pools.allocate(&[six]), "web"), Err(Refused::Family(_))));
    pools.pools[0].namespaces = ["prod".to_owned()].into();
    assert_eq!(of(&pools.allocate(&[request("web")]), "web"), &Err(Refused::NoPool));
    pools.pools[0].namespaces.clear();
    pools.pools[0].labels = [("tier".to_owned(), "edge".to_owned())].into();
    assert_eq!(of(&pools.allocate(&[request("web")]), "web"), &Err(Refused::NoPool));
    pools.pools[0].labels.clear();
    pools.pools[0].auto = false;
    assert_eq!(of(&pools.allocate(&[request("web")]), "web"), &Err(Refused::NoPool));
    let named = Request { pool: Some("p".to_owned()), ..request("web") };
    assert!(of(&pools.allocate(&[named]), "web").is_ok());
    let wrong = Request { pool: Some("q".to_owned()), ..request("web") };
    assert!(matches!(of(&pools.allocate(&[wrong]), "web"), Err(Refused::NoSuchPool(_))));
}

#[test]
fn pools_with_a_common_address_are_named() {
    let pools = pools(&[("a", &["10.98.0.0/24"]), ("b", &["10.98.0.9"]), ("c", &["10.97.0.0/24"])], &[]);
    assert_eq!(pools.conflicts(&pools.pools[0]), ["b"]);
    assert!(pools.conflicts(&pools.pools[2]).is_empty());
}

fn some_request() -> impl Strategy<Value = Request> {
    let ip = (0u8..12).prop_map(|n| IpAddr::from([10, 98, 0, n]));
    (
        0u8..14,
        0i64..4,
        proptest::collection::vec(ip.clone(), 0..2),
        proptest::collection::vec(ip, 0..2),
        proptest::option::of(0u8..2),
        proptest::collection::btree_set((prop::bool::ANY, 50u16..54), 1..3),
    )
        .prop_map(|(n, created, fixed, held, share, ports)| Request {
            created,
            fixed,
            held,
            share: share.map(|s| format!("key-{s}")),
            ports: ports
                .into_iter()
                .map(|(tcp, port)| (if tcp { Transport::Tcp } else { Transport::Udp }, port))
                .collect(),
            ..request(&format!("s{n}"))
        })
}

fn distinct(list: Vec<Request>) -> Vec<Request> {
    let mut seen = BTreeSet::new();
    list.into_iter().filter(|r| seen.insert(r.key.clone())).collect()
}

proptest! {
    #[test]
    fn nothing_is_assigned_twice_and_whoever_has_an_address_keeps_it(
        first in proptest::collection::vec(some_request(), 0..10),
        more in proptest::collection::vec(some_request(), 0..6),
    ) {
        let pools = pools(&[("p", &["10.98.0.2-10.98.0.9"])], &["10.98.0.0-10.98.0.7"]);
        let first = distinct(first);
        let all = pools.allocate(&first);
        let usable: AddressRange = "10.98.0.2-10.98.0.7".parse().unwrap();
        for (i, a) in first.iter().enumerate() {
            let Ok(own) = &all[&a.key] else { continue };
            prop_assert!(own.len() == 1 && own.iter().all(|ip| usable.contains(*ip)));
            prop_assert!(a.fixed.is_empty() || *own == a.fixed);
            for b in &first[i + 1..] {
                let Ok(theirs) = &all[&b.key] else { continue };
                if own == theirs {
                    prop_assert!(a.share.is_some() && a.share == b.share && a.ports.is_disjoint(&b.ports));
                }
            }
        }
        // Restarted: what each has comes from its status, and newcomers change nothing.
        let mut again: Vec<Request> = first.iter().cloned().map(|mut r| {
            r.held = all[&r.key].clone().unwrap_or_default();
            r
        }).collect();
        again.extend(more.into_iter().map(|r| Request { created: -1, held: vec![], ..r }));
        let again = distinct(again);
        let later = pools.allocate(&again);
        for (key, had) in all.iter().filter(|(_, had)| had.is_ok()) {
            prop_assert_eq!(had, &later[key]);
        }
        // An address is left over only where nobody waits for any.
        let used: BTreeSet<_> = later.values().flatten().flatten().collect();
        let waits = later.values().any(|r| matches!(r, Err(Refused::Exhausted(..))));
        prop_assert!(!waits || used.len() == 6);
    }
}
