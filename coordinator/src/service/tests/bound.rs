//! Names for some only: set, shown, explained, and written as a file.

use super::*;
use crate::service::{BoundText, Declared, RecordText};

const POLICY: &str = r#"{"groups":{"group:dev":["alice"]},
    "tagOwners":{"tag:web":[],"tag:db":[]},
    "acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}"#;

/// `machine-1` is alice's, 2 has tag:web, 3 tag:db.
async fn mesh() -> (TempDir, Arc<Service>) {
    let (dir, service) = fresh().await;
    let change = PolicyChange { text: POLICY, expected: None, force: true };
    service.set_policy(&ROOT, &change, NOW).await.unwrap();
    let of_alice = token(&service, |t| t.user = Some("alice".to_owned())).await;
    let web = token(&service, |t| t.tags = ["tag:web".parse().unwrap()].into()).await;
    let db = token(&service, |t| t.tags = ["tag:db".parse().unwrap()].into()).await;
    for (n, token) in [(1, &of_alice), (2, &web), (3, &db)] {
        service.register(&machine(n, Some(token)), NOW).await.unwrap();
    }
    (dir, service)
}

fn input(name: &str, value: &str) -> RecordInput {
    RecordInput { name: name.into(), kind: None, value: value.into(), ttl: None }
}

fn who(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

#[tokio::test]
async fn a_name_is_explained_as_each_of_three_nodes_and_as_a_user() {
    let (_dir, service) = mesh().await;
    for (to, value) in [("tag:web", "1.1.1.1"), ("tag:db", "1.1.1.2")] {
        service.add_record_for(&ROOT, &who(to), &input("app", value), NOW).await.unwrap();
    }
    let seen = async |node: &str| {
        let explained = service.explain_name(&ROOT, "app", None, node, NOW).await.unwrap();
        assert_eq!(explained.name, "app.home.internal");
        assert_eq!(explained.seen.len(), 1);
        explained.seen[0].clone()
    };
    let (web, db, alice) = (seen("machine-2").await, seen("machine-3").await, seen("alice").await);
    assert_eq!(web.outcome, "answered", "{web:?}");
    assert_eq!(web.bound, ["tag:web"]);
    assert!(web.records[0].ends_with("1.1.1.1"), "{web:?}");
    assert!(db.records[0].ends_with("1.1.1.2"), "{db:?}");
    assert_eq!((alice.outcome.as_str(), alice.records.len()), ("no such name", 0));
    assert_eq!((alice.nodes, alice.bound), (vec!["machine-1".to_owned()], vec![]));
    let nobody = service.explain_name(&ROOT, "app", None, "eve", NOW).await;
    assert!(matches!(nobody, Err(ServiceError::NotFound { .. })), "{nobody:?}");
}

#[tokio::test]
async fn what_is_bound_is_set_and_removed_apart_from_what_is_for_everybody() {
    let (_dir, service) = mesh().await;
    service.add_record(&ROOT, &input("app", "1.1.1.3"), NOW).await.unwrap();
    let dev = who(" group:dev ");
    service.add_record_for(&ROOT, &dev, &input("app", "1.1.1.1"), NOW).await.unwrap();
    service.add_record_for(&ROOT, &dev, &input("app", "1.1.1.2"), NOW).await.unwrap();
    let split = SplitText { domain: "corp.example".into(), upstreams: vec!["192.0.2.1".into()] };
    service.change_resolving_for(&ROOT, &dev, ResolvingChange::Split(split), NOW).await.unwrap();
    assert!(service.resolving(&ROOT).unwrap().split.is_empty(), "not for everybody");
    let bound = service.bound_names(&ROOT).unwrap();
    assert_eq!((bound.len(), bound[0].records[0].2.values.len()), (1, 2));
    assert_eq!(bound[0].resolving.split[0].domain, "corp.example");

    // The group goes: what is bound to it is for nobody, is said to be so, and can be taken away.
    let change = PolicyChange { text: "{}", expected: None, force: true };
    service.set_policy(&ROOT, &change, NOW).await.unwrap();
    assert!(service.bound_names(&ROOT).unwrap()[0].problem.contains("group:dev"));
    let seen = service.explain_name(&ROOT, "app", None, "alice", NOW).await.unwrap();
    assert!(seen.seen[0].records[0].ends_with("1.1.1.3"), "{seen:?}");
    let gone = service.remove_record_for(&ROOT, &dev, "app", None, None, NOW).await.unwrap();
    assert_eq!(gone, 2);
    let none = SplitText { domain: "corp.example".into(), upstreams: vec![] };
    service.change_resolving_for(&ROOT, &dev, ResolvingChange::Split(none), NOW).await.unwrap();
    assert!(service.bound_names(&ROOT).unwrap().is_empty(), "an audience without names is gone");
    assert!(service.add_record_for(&ROOT, &dev, &input("app", "1.1.1.1"), NOW).await.is_err());
    assert_eq!(service.model().records.len(), 1);
    let auditor =
        Actor::ApiToken { name: "a".into(), role: Role::Auditor, scopes: Scopes::ALL, cluster: None };
    let refused = service.add_record_for(&auditor, &who("tag:web"), &input("x", "1.1.1.1"), NOW).await;
    assert!(matches!(refused, Err(ServiceError::Forbidden { .. })));
    let log = service.audit(&ROOT, None, 20).await.unwrap();
    assert!(log.iter().any(|e| e.action == "record.add" && e.detail == "A 1.1.1.1 for group:dev"));
}

#[tokio::test]
async fn a_file_sets_all_names_whole_or_nothing_and_writes_the_same_back() {
    let (_dir, service) = mesh().await;
    service.add_record(&ROOT, &input("old", "1.1.1.9"), NOW).await.unwrap();
    service.add_record_for(&ROOT, &who("tag:db"), &input("old", "1.1.1.8"), NOW).await.unwrap();
    let record = |name: &str, values: &[&str]| RecordText {
        name: name.to_owned(),
        kind: None,
        values: values.iter().map(|v| (*v).to_owned()).collect(),
        ttl: None,
    };
    let file = Declared {
        search: vec!["corp.example".into()],
        nameservers: vec!["9.9.9.9".into()],
        split: vec![SplitText { domain: "corp.example".into(), upstreams: vec!["192.0.2.1".into()] }],
        records: Some(vec![
            record("nas", &["192.168.1.10", "192.168.1.11"]),
            record("suffix:internal.example", &["1.1.1.1"]),
        ]),
        bound: Some(vec![BoundText {
            who: vec!["tag:web".into(), "alice".into()],
            records: vec![record("nas", &["10.0.0.1"])],
            nameservers: vec!["9.9.9.10".into()],
            ..BoundText::default()
        }]),
    };
    let set = service.declare_names(&ROOT, file.clone(), NOW).await.unwrap();
    assert_eq!(service.model().records.len(), 2, "`old` is gone");
    assert_eq!(set.bound.as_ref().unwrap()[0].who, ["alice", "tag:web"]);
    assert_eq!(set.records.as_ref().unwrap()[0].name, "suffix:internal.example");
    let version = service.model().version;
    let again: Declared = serde_json::from_str(&serde_json::to_string(&set).unwrap()).unwrap();
    assert_eq!(service.declare_names(&ROOT, again, NOW).await.unwrap(), set);
    assert_eq!(service.model().version, version, "nothing changed");
    // A file that does not speak of records leaves them.
    let short = Declared { records: None, bound: None, ..file.clone() };
    assert_eq!(service.declare_names(&ROOT, short, NOW).await.unwrap(), set);

    let twice = record("nas", &["1.1.1.1"]);
    let wrong = [
        Declared { records: Some(vec![twice.clone(), twice.clone()]), ..file.clone() },
        Declared { records: Some(vec![record("nas", &[])]), ..file.clone() },
        Declared { records: Some(vec![record("nas", &["1.1.1.1", "fd00::1"])]), ..file.clone() },
        Declared { records: Some(vec![record("machine-1", &["1.1.1.1"])]), ..file.clone() },
        Declared {
            bound: Some(vec![BoundText { who: vec!["group:none".into()], ..BoundText::default() }]),
            ..file.clone()
        },
        Declared {
            bound: Some(vec![BoundText { who: vec!["tag:web".into()], ..BoundText::default() }]),
            ..file.clone()
        },
        Declared { nameservers: vec!["127.0.0.1".into()], ..file },
    ];
    for file in wrong {
        assert!(service.declare_names(&ROOT, file.clone(), NOW).await.is_err(), "{file:?}");
    }
    assert_eq!(service.declared_names(&ROOT).unwrap(), set, "nothing of a wrong file is taken");
}
