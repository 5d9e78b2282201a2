//! Names that are bound to users, groups or tags: who gets them, and that nobody else hears of them.

use super::*;
use crate::model::{Audience, Bound};
use meshd_proto::Endpoint;
use meshd_proto::netmap::SplitRoute;

fn audience(who: &[&str]) -> Audience {
    Audience::stored(&who.join(",")).unwrap()
}

fn one(name: &str, ip: &str) -> ((DnsName, RecordType), RecordSet) {
    let values = vec![RecordValue::Address(ip.parse().unwrap())];
    ((name.parse().unwrap(), RecordType::A), RecordSet { ttl: 60, values })
}

fn server(ip: &str) -> Vec<Endpoint> {
    vec![Endpoint(format!("{ip}:53").parse().unwrap())]
}

/// Some audience has, or loses, some of what can be bound.
pub(super) fn random(model: &Model, a: u8, b: u8) -> Write {
    let who = [&["tag:t1"][..], &["tag:t2", "u2"], &["group:dev"], &["u1"], &["autogroup:tagged"]];
    let who = audience(who[usize::from(a) % who.len()]);
    let mut bound = model.bound.get(&who).map_or_else(Bound::default, |bound| (**bound).clone());
    match b % 6 {
        0 => bound = Bound::default(),
        1 => bound.nameservers = server(["192.0.2.1", "192.0.2.2"][usize::from(b / 6) % 2]),
        2 => {
            let suffix = ["a.example", "k.home.internal"][usize::from(b / 6) % 2].parse().unwrap();
            bound.split = vec![SplitRoute { suffix, upstreams: server("192.0.2.3") }];
        }
        3 => {
            let name = format!("r{}.home.internal", b / 6 % 4).parse().unwrap();
            match random_alias(name, a, b) {
                Write::PutRecord(name, kind, set) => drop(bound.records.insert((name, kind), set)),
                other => return other,
            }
        }
        _ => {
            let ips = ["10.1.2.3", "100.64.0.3", "1.1.1.1", "100.64.0.21"];
            let name = format!("r{}.home.internal", b / 6 % 4);
            bound.records.extend([one(&name, ips[usize::from(a / 5) % ips.len()])]);
        }
    }
    Write::PutBound(who, bound)
}

#[test]
fn two_tags_have_different_answers_for_one_name_and_a_third_has_none() {
    let mut world = World::new();
    world.put(1, tagged("tag:a"));
    world.put(2, tagged("tag:b"));
    world.put(3, tagged("tag:c"));
    let put = |world: &mut World, tag: &str, ip: &str| {
        let records = [one("app.home.internal", ip)].into();
        world.commit(vec![Write::PutBound(audience(&[tag]), Bound { records, ..Bound::default() })])
    };
    assert_eq!(put(&mut world, "tag:a", "1.1.1.1"), Concern::Nodes([NodeId(1)].into()), "nobody else hears");
    assert_eq!(put(&mut world, "tag:b", "1.1.1.2"), Concern::Nodes([NodeId(2)].into()));
    let answers = |world: &World, id| world.values(id, "app.home.internal", RecordType::A);
    assert_eq!(answers(&world, 1), ["1.1.1.1"]);
    assert_eq!(answers(&world, 2), ["1.1.1.2"]);
    assert_eq!(answers(&world, 3), Vec::<String>::new());
    assert!(!format!("{:?}", world.map(3)).contains("app.home"), "nothing of it is in the third one's map");
    // A node that gets the tag gets the name with it, and loses it with the tag.
    world.put(3, tagged("tag:a"));
    assert_eq!(answers(&world, 3), ["1.1.1.1"]);
    world.put(3, tagged("tag:c"));
    assert_eq!(answers(&world, 3), Vec::<String>::new());
    // What is for everybody is there for the others only.
    let records = [one("app.home.internal", "1.1.1.3")];
    for ((name, kind), set) in records {
        world.commit(vec![Write::PutRecord(name, kind, set)]);
    }
    assert_eq!(answers(&world, 1), ["1.1.1.1"]);
    assert_eq!(answers(&world, 3), ["1.1.1.3"]);
}

#[test]
fn what_is_bound_to_a_group_follows_the_policy() {
    let mut world = World::new();
    world.put(1, owned("u1"));
    world.put(2, owned("u2"));
    let bound = Bound {
        split: vec![SplitRoute { suffix: "corp.example".parse().unwrap(), upstreams: server("192.0.2.3") }],
        nameservers: server("192.0.2.1"),
        ..Bound::default()
    };
    world.commit(vec![Write::PutBound(audience(&["group:dev"]), bound)]);
    let told = |world: &World, id| world.map(id).dns.config.unwrap();
    assert!(told(&world, 1).split.is_empty(), "no such group yet");
    let allow = r#""acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]"#;
    let concern = world.policy(&format!(r#"{{"groups":{{"group:dev":["u1"]}},{allow}}}"#));
    assert_eq!(concern, Concern::Nodes([NodeId(1)].into()));
    assert_eq!(told(&world, 1).nameservers, server("192.0.2.1"));
    assert_eq!((told(&world, 1).split.len(), told(&world, 2).split.len()), (1, 0));
    assert!(told(&world, 2).nameservers.is_empty());
    let concern = world.policy(&format!(r#"{{"groups":{{"group:dev":["u2"]}},{allow}}}"#));
    assert_eq!(concern, Concern::Nodes([1, 2].map(NodeId).into()));
    assert_eq!((told(&world, 1).split.len(), told(&world, 2).split.len()), (0, 1));
}

#[test]
fn a_bound_record_is_hidden_from_those_whom_policy_hides_its_address() {
    let mut world = shielded();
    let records = [one("db.home.internal", "100.64.0.3")];
    for who in ["u1", "u2"] {
        let bound = Bound { records: records.clone().into(), ..Bound::default() };
        world.commit(vec![Write::PutBound(audience(&[who]), bound)]);
    }
    let answers = |world: &World, id| world.values(id, "db.home.internal", RecordType::A);
    assert_eq!(answers(&world, 1), ["100.64.0.3"]);
    assert_eq!(answers(&world, 4), Vec::<String>::new(), "u2 may not reach it");
    assert_eq!(
        answers(&world, 3),
        Vec::<String>::new(),
        "the address is its own, the name is not bound to it"
    );
}
