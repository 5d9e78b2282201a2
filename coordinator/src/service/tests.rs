//! The service over a real SQLite in a temporary directory.

use super::*;
use crate::model::Change;
use crate::store::StateDir;
use meshd_proto::netmap::{PeerKind, RecordType};
use meshd_proto::token::TokenSecret;
use meshd_proto::{Hostname, MachineKey, NodeKey, Prefix};
use std::collections::BTreeSet;
use tempfile::TempDir;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const ROOT: Actor = Actor::LocalRoot;

async fn open(dir: &TempDir) -> Arc<Service> {
    let mut store = Store::open(StateDir::open(dir.path()).unwrap(), NOW).await.unwrap();
    let loaded = match store.load().await.unwrap() {
        Some(loaded) => loaded,
        None => {
            let founding = Founding {
                name: "home".parse().unwrap(),
                prefix: None,
                in_use: Vec::new(),
                entropy: [[7; 32]; 5],
            };
            founding.run(&mut store, NOW).await.unwrap()
        }
    };
    let service = Arc::new(Service::new(store, loaded, NOW));
    service.set_reachability(&ROOT, &["192.0.2.1:443".to_owned()], None, None, NOW).await.unwrap();
    service
}

async fn fresh() -> (TempDir, Arc<Service>) {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir).await;
    (dir, service)
}

async fn token(service: &Service, edit: impl FnOnce(&mut TokenRequest)) -> TokenSecret {
    let mut request = TokenRequest::default();
    edit(&mut request);
    service.create_token(&ROOT, &request, NOW).await.unwrap().token.secret.clone()
}

fn machine(n: u16, token: Option<&TokenSecret>) -> RegisterRequest {
    let mut key = [0; 32];
    key[..2].copy_from_slice(&n.to_le_bytes());
    let mut node_key = key;
    node_key[31] = 1;
    let mut machine_id = key;
    machine_id[31] = 2;
    RegisterRequest {
        machine_key: MachineKey::from_bytes(key),
        node_key: NodeKey::from_bytes(node_key),
        token: token.cloned(),
        hostname: format!("machine-{n}"),
        machine_id_hash: Some(machine_id),
        advertised: BTreeSet::new(),
        exit: false,
        ephemeral: false,
        os: "linux".to_owned(),
        client_version: "0.1.0".to_owned(),
        remote: None,
    }
}

fn lan() -> Prefix {
    "192.168.1.0/24".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_racing_joins_on_a_one_off_token_exactly_one_wins() {
    let (dir, service) = fresh().await;
    let secret = token(&service, |t| t.uses = 1).await;
    let mut racing = tokio::task::JoinSet::new();
    for n in 0..64 {
        let (service, request) = (service.clone(), machine(n, Some(&secret)));
        racing.spawn(async move { service.register(&request, NOW).await });
    }
    let results = racing.join_all().await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    let used_up = |r: &&Result<_, _>| matches!(r, Err(RegisterError::TokenUsedUp));
    assert_eq!(results.iter().filter(used_up).count(), 63);
    assert_eq!(service.model().nodes.len(), 1);
    drop(service);
    let again = open(&dir).await;
    assert_eq!(again.model().nodes.len(), 1);
    assert_eq!(again.tokens(&ROOT).await.unwrap()[0].used, 1);
}

#[tokio::test]
async fn a_join_takes_a_token_and_a_return_takes_none() {
    let (dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    assert!(matches!(service.register(&machine(1, None), NOW).await, Err(RegisterError::TokenRequired)));
    let stranger = TokenSecret::from_bytes([0; 16]);
    let refused = service.register(&machine(1, Some(&stranger)), NOW).await;
    assert!(matches!(refused, Err(RegisterError::TokenUnknown)));

    let joined = service.register(&machine(1, Some(&secret)), NOW).await.unwrap();
    assert!(!joined.rejoined && joined.admitted);
    assert!(service.model().mesh.prefixes.v4.contains(&joined.addrs.v4));
    drop(service);

    let service = open(&dir).await;
    let version = service.model().version;
    let back = service.register(&machine(1, None), NOW).await.unwrap();
    assert!(back.rejoined);
    assert_eq!((back.node, back.addrs, &back.name), (joined.node, joined.addrs, &joined.name));
    assert_eq!(service.model().version, version, "a return that changes nothing makes no version");
    assert_eq!(service.tokens(&ROOT).await.unwrap()[0].used, 1);
}

#[tokio::test]
async fn expired_revoked_and_spent_tokens_are_told_apart() {
    let (_dir, service) = fresh().await;
    let late = UnixSeconds(NOW.0 + 3601);
    let secret = token(&service, |t| t.lifetime = 3600).await;
    let refused = service.register(&machine(1, Some(&secret)), late).await;
    assert!(matches!(refused, Err(RegisterError::TokenExpired(end)) if end.0 == NOW.0 + 3600));

    let secret = token(&service, |_| {}).await;
    let id = service.tokens(&ROOT).await.unwrap()[0].id;
    service.revoke_token(&ROOT, id, NOW).await.unwrap();
    assert!(matches!(
        service.register(&machine(1, Some(&secret)), NOW).await,
        Err(RegisterError::TokenRevoked)
    ));

    let secret = token(&service, |t| t.uses = 1).await;
    service.register(&machine(1, Some(&secret)), NOW).await.unwrap();
    assert!(matches!(
        service.register(&machine(2, Some(&secret)), NOW).await,
        Err(RegisterError::TokenUsedUp)
    ));
    assert!(service.model().nodes.len() == 1);
}

#[tokio::test]
async fn a_cloned_disk_is_refused_and_noted_once() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    service.register(&machine(1, Some(&secret)), NOW).await.unwrap();
    let clone = RegisterRequest { machine_id_hash: Some([99; 32]), ..machine(1, Some(&secret)) };
    for _ in 0..3 {
        let refused = service.register(&clone, NOW).await.unwrap_err();
        assert!(matches!(&refused, RegisterError::ClonedMachine(name) if name == "machine-1"));
        assert!(refused.to_string().contains("is this disk a clone?"), "{refused}");
    }
    let entries = service.audit(&ROOT, None, 100).await.unwrap();
    assert_eq!(entries.iter().filter(|e| e.action == "node.clone-refused").count(), 1);
    assert!(service.register(&machine(1, None), NOW).await.is_ok(), "the machine itself is not hurt");
}

#[tokio::test]
async fn one_node_key_belongs_to_one_node() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    service.register(&machine(1, Some(&secret)), NOW).await.unwrap();
    let thief = RegisterRequest { node_key: machine(1, None).node_key, ..machine(2, Some(&secret)) };
    assert!(
        matches!(service.register(&thief, NOW).await, Err(RegisterError::NodeKeyTaken(n)) if n == "machine-1")
    );
    // A new key of the same machine is a rotation.
    let rotated = RegisterRequest { node_key: NodeKey::from_bytes([77; 32]), ..machine(1, None) };
    let back = service.register(&rotated, NOW).await.unwrap();
    assert_eq!(service.model().nodes[&back.node].node_key, NodeKey::from_bytes([77; 32]));
}

#[tokio::test]
async fn names_are_unique_and_follow_the_machine_until_an_admin_gives_one() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    let pi = |n, token| RegisterRequest { hostname: "Pi.local".to_owned(), ..machine(n, token) };
    let names = |r: Registration| r.name.to_string();
    assert_eq!(names(service.register(&pi(1, Some(&secret)), NOW).await.unwrap()), "pi");
    assert_eq!(names(service.register(&pi(2, Some(&secret)), NOW).await.unwrap()), "pi-2");
    service.remove_node(&ROOT, "pi", NOW).await.unwrap();
    assert_eq!(names(service.register(&pi(2, None), NOW).await.unwrap()), "pi-2", "others know it as pi-2");
    service.rename_node(&ROOT, "pi-2", &"attic".parse().unwrap(), NOW).await.unwrap();
    assert_eq!(names(service.register(&pi(2, None), NOW).await.unwrap()), "attic");
    let clash = service.rename_node(&ROOT, "attic", &"attic".parse().unwrap(), NOW).await;
    assert!(clash.is_ok());
    service.register(&pi(3, Some(&secret)), NOW).await.unwrap();
    let clash = service.rename_node(&ROOT, "pi", &"attic".parse().unwrap(), NOW).await;
    assert!(matches!(clash, Err(ServiceError::Conflict(_))));
}

#[tokio::test]
async fn addresses_stay_with_the_node_and_ids_are_never_given_again() {
    let (dir, service) = fresh().await;
    let secret = token(&service, |t| t.uses = 20).await;
    let mut seen = BTreeSet::new();
    for n in 0..5 {
        let r = service.register(&machine(n, Some(&secret)), NOW).await.unwrap();
        assert!(seen.insert(r.node), "id {} again", r.node);
        assert!(service.model().mesh.prefixes.resolver().v4 != r.addrs.v4);
        service.remove_node(&ROOT, &r.name.to_string(), NOW).await.unwrap();
    }
    drop(service);
    let service = open(&dir).await;
    let r = service.register(&machine(9, Some(&secret)), NOW).await.unwrap();
    assert!(seen.insert(r.node));
    let addrs: BTreeSet<_> = service.model().nodes.values().map(|n| n.addrs).collect();
    assert_eq!(addrs.len(), service.model().nodes.len());
}

#[tokio::test]
async fn a_route_counts_only_when_advertised_and_approved() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    let pi =
        RegisterRequest { hostname: "pi".into(), advertised: [lan()].into(), ..machine(1, Some(&secret)) };
    let id = service.register(&pi, NOW).await.unwrap().node;
    let state = |s: &Service| {
        let n = s.model().nodes[&id].clone();
        (n.active_routes().collect::<Vec<_>>(), n.pending_routes().collect::<Vec<_>>())
    };
    assert_eq!(state(&service), (vec![], vec![lan()]));

    let other = "10.0.0.0/8".parse().unwrap();
    let refused = service.approve_routes(&ROOT, "pi", &[other], NOW).await.unwrap_err();
    assert!(refused.to_string().contains("it advertises 192.168.1.0/24"), "{refused}");
    let done = service.approve_routes(&ROOT, "pi", &[lan()], NOW).await.unwrap();
    assert!(done[0].approved && done[0].advertised);
    assert_eq!(state(&service), (vec![lan()], vec![]));

    service.advertise(id, &BTreeSet::new(), false, None, NOW).await.unwrap();
    assert_eq!(state(&service), (vec![], vec![]));
    service.advertise(id, &[lan()].into(), true, None, NOW).await.unwrap();
    assert_eq!(state(&service).0, [lan()], "an approval stays");
    assert_eq!(state(&service).1, [Prefix::DEFAULT_V4, Prefix::DEFAULT_V6]);
    service.approve_routes(&ROOT, "pi", &[], NOW).await.unwrap();
    assert_eq!(state(&service).0.len(), 3);
    service.unapprove_routes(&ROOT, "pi", &[lan()], NOW).await.unwrap();
    assert_eq!(state(&service).0, [Prefix::DEFAULT_V4, Prefix::DEFAULT_V6]);
}

#[tokio::test]
async fn routes_nobody_can_have_are_refused_with_the_reason() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    let mesh = Prefix::new(service.model().mesh.prefixes.v4.into()).unwrap();
    for bad in [mesh, "127.0.0.0/8".parse().unwrap(), "fe80::/64".parse().unwrap(), Prefix::DEFAULT_V4] {
        let request = RegisterRequest { advertised: [bad].into(), ..machine(1, Some(&secret)) };
        let refused = service.register(&request, NOW).await;
        assert!(matches!(refused, Err(RegisterError::BadRoute { prefix, .. }) if prefix == bad), "{bad}");
    }
    assert_eq!(service.tokens(&ROOT).await.unwrap()[0].used, 0, "a refusal takes no use");
}

#[tokio::test]
async fn a_member_with_a_bad_route_stays_a_member_without_that_route() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    let first = service.register(&machine(1, Some(&secret)), NOW).await.unwrap().node;
    let advertised = [lan(), "169.254.0.0/16".parse().unwrap()].into();
    let back = service.register(&RegisterRequest { advertised, ..machine(1, None) }, NOW).await.unwrap().node;
    assert_eq!(back, first);
    assert_eq!(service.model().nodes[&first].advertised, [lan()].into());
}

#[tokio::test]
async fn the_policy_approves_routes_by_itself_where_it_says_so() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |t| t.tags = ["tag:router".parse().unwrap()].into()).await;
    let request = RegisterRequest { advertised: [lan()].into(), ..machine(1, Some(&secret)) };
    let first = service.register(&request, NOW).await.unwrap().node;
    assert_eq!(service.model().nodes[&first].active_routes().count(), 0);
    let text = r#"{
        "tagOwners": { "tag:router": [] },
        "acls": [ { "action": "accept", "src": ["*"], "dst": ["*:*"] } ],
        "autoApprovers": { "routes": { "192.168.0.0/16": ["tag:router"] } },
    }"#;
    let before = service.model().version;
    service.set_policy(&ROOT, &change(text), NOW).await.unwrap();
    assert_eq!(service.model().version.0, before.0 + 1, "policy and approvals are one commit");
    assert_eq!(service.model().nodes[&first].active_routes().collect::<Vec<_>>(), [lan()]);
    let request = RegisterRequest { advertised: [lan()].into(), ..machine(2, Some(&secret)) };
    let second = service.register(&request, NOW).await.unwrap().node;
    assert_eq!(service.model().nodes[&second].active_routes().collect::<Vec<_>>(), [lan()]);
    let untagged = token(&service, |_| {}).await;
    let request = RegisterRequest { advertised: [lan()].into(), ..machine(3, Some(&untagged)) };
    let third = service.register(&request, NOW).await.unwrap().node;
    assert_eq!(service.model().nodes[&third].active_routes().count(), 0);
}

#[tokio::test]
async fn a_policy_with_an_error_or_a_failing_test_changes_nothing() {
    let (_dir, service) = fresh().await;
    let before = service.policy(&ROOT).unwrap();
    let refused = service.set_policy(&ROOT, &change("{\n  \"acls\": [ 7 ],\n}"), NOW).await.unwrap_err();
    let ServiceError::Policy(errors) = &refused else { panic!("{refused}") };
    assert!(errors[0].starts_with("line 2, column "), "{errors:?}");
    let failing = r#"{ "acls": [], "tests": [ { "src": "owner", "accept": ["192.168.1.1:80"] } ] }"#;
    let refused = service.set_policy(&ROOT, &change(failing), NOW).await;
    assert!(matches!(refused, Err(ServiceError::Policy(_))), "{refused:?}");
    assert_eq!(service.policy(&ROOT).unwrap(), before);

    let set = service
        .set_policy(
            &ROOT,
            &PolicyChange { expected: Some(before.version), ..change("{ \"acls\": [] }") },
            NOW,
        )
        .await
        .unwrap();
    assert!(set.version > before.version);
    let late = service
        .set_policy(&ROOT, &PolicyChange { expected: Some(before.version), ..change("{}") }, NOW)
        .await;
    assert!(matches!(late, Err(ServiceError::Conflict(_))), "somebody else was first");
    assert_eq!(service.policy_history(&ROOT, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn removing_a_node_publishes_at_once_and_takes_its_devices_along() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    let via = service.register(&machine(1, Some(&secret)), NOW).await.unwrap().node;
    let key = NodeKey::from_bytes([50; 32]);
    let phone: Hostname = "phone".parse().unwrap();
    let device = service.create_device(&Actor::Node(via), via, &phone, key, NOW).await.unwrap();
    let record = service.model().nodes[&device.node].clone();
    assert_eq!((record.kind, record.via), (PeerKind::PlainWireguard, Some(via)));
    assert_eq!(record.class, service.model().nodes[&via].class);
    let stranger = service.create_device(&Actor::Node(NodeId(99)), via, &phone, key, NOW).await;
    assert!(matches!(stranger, Err(ServiceError::Forbidden { .. })), "a node speaks for itself only");
    let again = service.create_device(&ROOT, via, &"tablet".parse().unwrap(), key, NOW).await;
    assert!(matches!(again, Err(ServiceError::Conflict(_))), "one key, one node");

    let mut published = service.subscribe();
    published.borrow_and_update();
    service.remove_node(&ROOT, "machine-1", NOW).await.unwrap();
    assert!(published.has_changed().unwrap());
    let now = published.borrow_and_update().clone();
    assert!(now.model.nodes.is_empty());
    let changes = &now.history.back().unwrap().changes;
    assert_eq!(changes, &[Change::NodeGone(device.node), Change::NodeGone(via)]);
    assert!(matches!(service.register(&machine(1, None), NOW).await, Err(RegisterError::TokenRequired)));
}

#[tokio::test]
async fn a_revoked_node_stays_out_even_with_a_token_and_an_expired_one_needs_one() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    service.register(&machine(1, Some(&secret)), NOW).await.unwrap();
    let two = service.register(&machine(2, Some(&secret)), NOW).await.unwrap();
    service.revoke_node(&ROOT, "machine-1", NOW).await.unwrap();
    assert!(matches!(
        service.register(&machine(1, Some(&secret)), NOW).await,
        Err(RegisterError::Revoked(_))
    ));
    service.expire_node(&ROOT, "machine-2", NOW).await.unwrap();
    assert!(!service.model().nodes[&two.node].is_live(NOW));
    assert!(matches!(service.register(&machine(2, None), NOW).await, Err(RegisterError::KeyExpired(_))));
    let back = service.register(&machine(2, Some(&secret)), NOW).await.unwrap();
    assert_eq!((back.node, back.addrs), (two.node, two.addrs));
    assert!(service.model().nodes[&two.node].is_live(NOW));
}

#[tokio::test]
async fn an_ended_key_is_renewed_only_by_a_token_that_would_make_the_same_node() {
    let (_dir, service) = fresh().await;
    let tagged = token(&service, |t| t.tags = ["tag:router".parse().unwrap()].into()).await;
    let guest = token(&service, |t| t.user = Some("guest".into())).await;
    let one = service.register(&machine(1, Some(&tagged)), NOW).await.unwrap().node;
    service.expire_node(&ROOT, "machine-1", NOW).await.unwrap();
    let refused = service.register(&machine(1, Some(&guest)), NOW).await.unwrap_err();
    assert!(matches!(&refused, RegisterError::TokenUnfit { name, .. } if name == "machine-1"), "{refused}");
    assert!(refused.to_string().contains("token create --tag tag:router"), "{refused}");
    assert!(!service.model().nodes[&one].is_live(NOW));
    assert!(service.tokens(&ROOT).await.unwrap().iter().all(|t| t.used <= 1), "a refusal takes no use");

    let waiting = token(&service, |t| {
        t.tags = ["tag:router".parse().unwrap()].into();
        t.pre_approved = false;
    })
    .await;
    let back = service.register(&machine(1, Some(&waiting)), NOW).await.unwrap();
    assert!(!back.admitted && back.node == one, "the token says who is let in at once");
    assert!(!service.model().nodes[&one].is_live(NOW));

    let two = service.register(&machine(2, Some(&guest)), NOW).await.unwrap().node;
    service.expire_node(&ROOT, "machine-2", NOW).await.unwrap();
    let refused = service.register(&machine(2, Some(&tagged)), NOW).await.unwrap_err();
    assert!(refused.to_string().contains("token create --user guest"), "{refused}");
    assert!(service.register(&machine(2, Some(&guest)), NOW).await.is_ok());
    assert!(service.model().nodes[&two].is_live(NOW));
}

#[tokio::test]
async fn a_node_that_is_not_pre_approved_waits_for_an_admin() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |t| t.pre_approved = false).await;
    let joined = service.register(&machine(1, Some(&secret)), NOW).await.unwrap();
    assert!(!joined.admitted);
    assert!(!service.model().nodes[&joined.node].is_live(NOW));
    service.approve_node(&ROOT, "machine-1", NOW).await.unwrap();
    assert!(service.register(&machine(1, None), NOW).await.unwrap().admitted);
}

#[tokio::test]
async fn an_ephemeral_node_is_forgotten_when_it_stays_away() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |t| t.ephemeral = true).await;
    let at = |s: u64| UnixSeconds(NOW.0 + s);
    let id = service.register(&machine(1, Some(&secret)), NOW).await.unwrap().node;
    let key = NodeKey::from_bytes([50; 32]);
    service.create_device(&Actor::Node(id), id, &"phone".parse().unwrap(), key, NOW).await.unwrap();
    service.session_opened(id, None, NOW);
    assert_eq!(service.sweep(at(10 * EPHEMERAL_GRACE)).await.unwrap(), 0, "it is here");
    service.session_closed(id, at(1000));
    assert_eq!(service.sweep(at(1000 + EPHEMERAL_GRACE - 1)).await.unwrap(), 0);
    assert_eq!(service.sweep(at(1000 + EPHEMERAL_GRACE)).await.unwrap(), 1);
    assert!(service.model().nodes.is_empty(), "its devices go with it");
}

#[tokio::test]
async fn nodes_with_the_same_owner_and_tags_are_one_class_for_ever() {
    let (dir, service) = fresh().await;
    let plain = token(&service, |_| {}).await;
    let alice = token(&service, |t| t.user = Some("alice".into())).await;
    let tagged = token(&service, |t| t.tags = ["tag:a".parse().unwrap()].into()).await;
    let mut classes = Vec::new();
    for (n, secret) in [(1, &plain), (2, &plain), (3, &alice), (4, &tagged), (5, &tagged)] {
        let id = service.register(&machine(n, Some(secret)), NOW).await.unwrap().node;
        classes.push(service.model().nodes[&id].class);
    }
    assert_eq!(classes[0], classes[1]);
    assert_eq!(classes[3], classes[4]);
    assert_eq!(BTreeSet::from_iter(&classes).len(), 3);
    for n in 1..=5 {
        service.remove_node(&ROOT, &format!("machine-{n}"), NOW).await.unwrap();
    }
    drop(service);
    let service = open(&dir).await;
    let id = service.register(&machine(9, Some(&tagged)), NOW).await.unwrap().node;
    assert_eq!(service.model().nodes[&id].class, classes[3]);
}

#[tokio::test]
async fn records_stay_in_the_zone_and_out_of_the_way_of_nodes() {
    let (_dir, service) = fresh().await;
    let add = async |name: &str, value: &str| {
        let input = RecordInput { name: name.into(), kind: None, value: value.into(), ttl: None };
        service
            .add_record(&ROOT, &input, NOW)
            .await
            .map(|(n, k, s)| format!("{n} {} {}", k.as_str(), s.values.len()))
    };
    assert_eq!(add("nas.home.internal", "192.168.1.10").await.unwrap(), "nas.home.internal A 1");
    assert_eq!(add("nas", "192.168.1.11").await.unwrap(), "nas.home.internal A 2");
    assert_eq!(add("nas", "fd00::10").await.unwrap(), "nas.home.internal AAAA 1");
    assert_eq!(add("www", "nas.home.internal").await.unwrap(), "www.home.internal CNAME 1");
    for (name, value) in [
        ("*", "192.0.2.1"),
        ("suffix:com", "192.0.2.1"),
        ("printer", "192.168.1.999"),
        ("printer", "fd00::1::2"),
        ("nas", "other.home.internal"),
        ("www", "10.0.0.1"),
        ("x", "a b"),
    ] {
        assert!(add(name, value).await.is_err(), "{name} {value}");
    }
    assert_eq!(add("nas.example.com", "192.0.2.1").await.unwrap(), "nas.example.com A 1", "outside the mesh");
    assert_eq!(
        add("*.apps", "192.0.2.1").await.unwrap(),
        "*.apps.home.internal A 1",
        "of the mesh, as `apps` is"
    );
    assert_eq!(add("*.apps.example.com", "192.0.2.1").await.unwrap(), "*.apps.example.com A 1");
    assert_eq!(add("suffix:apps.example.com", "192.0.2.1").await.unwrap(), "**.apps.example.com A 1");
    let secret = token(&service, |_| {}).await;
    let nas = RegisterRequest { hostname: "nas".into(), ..machine(1, Some(&secret)) };
    assert_eq!(service.register(&nas, NOW).await.unwrap().name.as_str(), "nas-2", "the record was first");
    let clash = add("nas-2", "10.0.0.1").await.unwrap_err();
    assert!(clash.to_string().contains("is the name of a node"), "{clash}");

    assert_eq!(service.remove_record(&ROOT, "nas", None, Some("192.168.1.11"), NOW).await.unwrap(), 1);
    assert_eq!(service.remove_record(&ROOT, "nas", Some(RecordType::Aaaa), None, NOW).await.unwrap(), 1);
    assert_eq!(service.remove_record(&ROOT, "nas", None, None, NOW).await.unwrap(), 1);
    assert!(matches!(
        service.remove_record(&ROOT, "nas", None, None, NOW).await,
        Err(ServiceError::NotFound { .. })
    ));
}

#[tokio::test]
async fn records_of_every_type_are_checked_before_they_are_kept() {
    let (_dir, service) = fresh().await;
    let add = async |kind, value: &str| {
        let input =
            RecordInput { name: "home.example".into(), kind: Some(kind), value: value.into(), ttl: None };
        service.add_record(&ROOT, &input, NOW).await
    };
    for (kind, value) in [
        (RecordType::Mx, "10 mail.home.example"),
        (RecordType::Srv, "0 5 443 host.home.example"),
        (RecordType::Caa, "0 issue \"letsencrypt.org\""),
        (RecordType::Https, "1 . alpn=h2"),
        (RecordType::Txt, "v=spf1 -all"),
    ] {
        add(kind, value).await.unwrap();
    }
    let error = add(RecordType::Mx, "mail.home.example").await.unwrap_err();
    assert!(error.to_string().contains("write it as 10 mail.example.com"), "{error}");
    assert!(add(RecordType::A, "fd00::1").await.is_err());
    assert_eq!(service.model().records.len(), 5);
}

#[tokio::test]
async fn questions_go_where_the_admin_says_and_never_in_a_circle() {
    let (_dir, service) = fresh().await;
    let change = async |change| service.change_resolving(&ROOT, change, NOW).await;
    let split = |domain: &str, upstreams: &[&str]| {
        ResolvingChange::Split(SplitText {
            domain: domain.into(),
            upstreams: upstreams.iter().map(|u| (*u).to_owned()).collect(),
        })
    };
    change(split("Corp.Example", &["192.168.1.1", "[fd00::1]:5353"])).await.unwrap();
    change(split("b.example", &["192.168.1.2"])).await.unwrap();
    change(ResolvingChange::Nameservers(vec!["9.9.9.9".into()])).await.unwrap();
    let all = change(ResolvingChange::Search(vec!["corp.example".into()])).await.unwrap();
    assert_eq!(all.split[1].upstreams, ["192.168.1.1", "[fd00::1]:5353"]);
    assert_eq!(service.resolving(&ROOT).unwrap(), all);
    assert_eq!(service.model().mesh.dns_config().split.len(), 2, "in every node's map");

    let version = service.model().version;
    assert_eq!(change(ResolvingChange::Whole(all.clone())).await.unwrap(), all);
    assert_eq!(service.model().version, version, "nothing changed");
    let own = service.model().mesh.prefixes.resolver().v4.to_string();
    for bad in [
        split("corp.example", &["127.0.0.1"]),
        split("corp.example", &["0.0.0.0"]),
        split("corp.example", &[&own]),
        split("corp.example", &["dns.example"]),
        split("x.home.internal", &["192.168.1.1"]),
        split("*.corp.example", &["192.168.1.1"]),
        split("never.example", &[]),
        split("corp.example", &["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4", "1.1.1.5"]),
        ResolvingChange::Nameservers(vec!["224.0.0.1".into()]),
        ResolvingChange::Search(vec!["a..b".into()]),
    ] {
        assert!(change(bad.clone()).await.is_err(), "{bad:?}");
    }
    assert_eq!(service.resolving(&ROOT).unwrap(), all);
    change(split("corp.example", &[])).await.unwrap();
    assert_eq!(change(ResolvingChange::Nameservers(vec![])).await.unwrap().split.len(), 1);
    let auditor =
        Actor::ApiToken { name: "a".into(), role: Role::Auditor, scopes: Scopes::ALL, cluster: None };
    let refused = service.change_resolving(&auditor, split("c.example", &["192.168.1.1"]), NOW).await;
    assert!(matches!(refused, Err(ServiceError::Forbidden { .. })));
}

#[tokio::test]
async fn what_a_role_may_not_do_is_refused_before_anything_happens() {
    let (_dir, service) = fresh().await;
    let version = service.model().version;
    let auditor =
        Actor::ApiToken { name: "a".into(), role: Role::Auditor, scopes: Scopes::ALL, cluster: None };
    let member = Actor::ApiToken { name: "m".into(), role: Role::Member, scopes: Scopes::ALL, cluster: None };
    let forbidden =
        |r: Result<(), ServiceError>| assert!(matches!(r, Err(ServiceError::Forbidden { .. })), "{r:?}");
    for actor in [&auditor, &member, &Actor::Node(NodeId(1))] {
        forbidden(service.remove_node(actor, "x", NOW).await.map(|_| ()));
        forbidden(service.create_token(actor, &TokenRequest::default(), NOW).await.map(|_| ()));
        forbidden(service.set_policy(actor, &change("{}"), NOW).await.map(|_| ()));
        forbidden(service.approve_routes(actor, "x", &[], NOW).await.map(|_| ()));
        forbidden(service.backup(actor, NOW).await.map(|_| ()));
    }
    forbidden(service.nodes(&member).map(|_| ()));
    assert!(service.nodes(&auditor).is_ok());
    let admin = Actor::ApiToken { name: "x".into(), role: Role::Admin, scopes: Scopes::ALL, cluster: None };
    let request = ApiTokenRequest {
        name: "more".into(),
        role: Role::Owner,
        scopes: Scopes::ALL,
        lifetime: 60,
        cluster: None,
    };
    forbidden(service.create_api_token(&admin, &request, NOW).await.map(|_| ()));
    assert_eq!(service.model().version, version);
}

#[tokio::test]
async fn an_api_token_opens_until_it_ends_or_is_revoked() {
    let (_dir, service) = fresh().await;
    let request = ApiTokenRequest {
        name: "ci".into(),
        role: Role::NetworkAdmin,
        scopes: Scopes::ALL,
        lifetime: 60,
        cluster: None,
    };
    let new = service.create_api_token(&ROOT, &request, NOW).await.unwrap();
    let expected =
        Actor::ApiToken { name: "ci".into(), role: Role::NetworkAdmin, scopes: Scopes::ALL, cluster: None };
    assert_eq!(service.authenticate(&new.secret, NOW).await.unwrap(), Some(expected));
    assert_eq!(service.authenticate(&new.secret, UnixSeconds(NOW.0 + 60)).await.unwrap(), None);
    assert_eq!(service.authenticate("meshapi_wrong", NOW).await.unwrap(), None);
    service.revoke_api_token(&ROOT, new.record.id, NOW).await.unwrap();
    assert_eq!(service.authenticate(&new.secret, NOW).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_caller_goes_away_is_published_or_never_happened() {
    let (dir, service) = fresh().await;
    let secret = token(&service, |t| t.uses = 1000).await;
    let recovery = {
        let service = service.clone();
        async move {
            loop {
                service.recover_interrupted().await;
            }
        }
    };
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(recovery);
    let mut acknowledged = 0;
    for n in 0..60u16 {
        let (service, request) = (service.clone(), machine(n, Some(&secret)));
        let joining = async move { service.register(&request, NOW).await };
        // Cut off after a growing time: before, within and after the commit.
        let limit = std::time::Duration::from_micros(u64::from(n) * 60);
        if let Ok(done) = tokio::time::timeout(limit, joining).await {
            done.unwrap();
            acknowledged += 1;
        }
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    tasks.shutdown().await;
    let published = service.model();
    assert!(published.nodes.len() >= acknowledged);
    drop(service);
    let again = open(&dir).await.model();
    assert_eq!(again.version, published.version);
    assert!(again.nodes.keys().eq(published.nodes.keys()));
}

#[tokio::test]
async fn every_change_is_in_an_unbroken_audit_log() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    service.register(&machine(1, Some(&secret)), NOW).await.unwrap();
    service.remove_node(&ROOT, "machine-1", NOW).await.unwrap();
    let actions: Vec<_> = service
        .audit(&ROOT, None, 100)
        .await
        .unwrap()
        .into_iter()
        .rev()
        .map(|e| (e.actor, e.action))
        .collect();
    let expected = [
        ("coordinator", "mesh.found"),
        ("root", "mesh.addresses"),
        ("root", "token.create"),
        ("node:1", "node.join"),
        ("root", "node.remove"),
    ];
    assert_eq!(actions, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    let state = service.verify_audit(&ROOT).await.unwrap();
    assert!(matches!(state, crate::store::audit::ChainState::Whole { entries: 5, .. }));
}

fn change(text: &str) -> PolicyChange<'_> {
    PolicyChange { text, expected: None, force: true }
}

mod accounts;
mod bound;
mod clusters;
#[tokio::test]
async fn a_stranger_without_a_token_never_waits_for_the_store() {
    let (_dir, service) = fresh().await;
    let _busy = service.writer.lock().await;
    let refused =
        tokio::time::timeout(std::time::Duration::from_secs(5), service.register(&machine(1, None), NOW))
            .await;
    assert!(matches!(refused, Ok(Err(RegisterError::TokenRequired))));
}

#[tokio::test]
async fn a_node_that_changes_its_offer_again_and_again_is_slowed_down() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    let node = service.register(&machine(1, Some(&secret)), NOW).await.unwrap().node;
    let offer = |i: u64| BTreeSet::from([format!("10.0.{i}.0/24").parse::<Prefix>().unwrap()]);
    let mut taken = 0;
    for i in 0..200 {
        match service.advertise(node, &offer(i), false, None, NOW).await {
            Ok(()) => taken += 1,
            Err(RegisterError::TooOften { wait }) => assert!(wait > 0),
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!(taken, pace::BURST);
    // The same by coming back with another name each time.
    let mut request = machine(1, None);
    request.hostname = "another".to_owned();
    assert!(matches!(service.register(&request, NOW).await, Err(RegisterError::TooOften { .. })));
    let last = service.model().nodes[&node].advertised.clone();
    service.advertise(node, &last, false, None, NOW).await.expect("no change, nothing counted");
    let later = UnixSeconds(NOW.0 + pace::INTERVAL);
    service.advertise(node, &offer(250), false, None, later).await.unwrap();
}

#[tokio::test]
async fn a_node_that_makes_and_removes_devices_again_and_again_is_slowed_down() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    let node = service.register(&machine(1, Some(&secret)), NOW).await.unwrap().node;
    let (me, phone): (_, Hostname) = (Actor::Node(node), "phone".parse().unwrap());
    let key = NodeKey::from_bytes([50; 32]);
    let mut taken = 0;
    loop {
        let result = match taken % 2 {
            0 => service.create_device(&me, node, &phone, key, NOW).await.map(|_| ()),
            _ => service.remove_device(&me, node, &phone, NOW).await,
        };
        match result {
            Ok(()) => taken += 1,
            Err(ServiceError::TooOften { wait }) => break assert!(wait > 0),
            Err(e) => panic!("{e}"),
        }
        assert!(taken <= pace::BURST, "nothing slows it down");
    }
    assert_eq!(taken, pace::BURST);
    service.create_device(&ROOT, node, &phone, key, NOW).await.expect("an admin is not counted");
}

#[tokio::test]
async fn what_a_returning_machine_says_of_itself_is_in_the_audit_log() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    service.register(&machine(1, Some(&secret)), NOW).await.unwrap();
    let newest = async |service: &Service| {
        let entry = service.audit(&ROOT, None, 1).await.unwrap().remove(0);
        (entry.action, entry.subject, entry.detail)
    };
    let said = |detail: &str| ("node.offer".to_owned(), "attic".to_owned(), detail.to_owned());
    let moved = RegisterRequest {
        hostname: "attic".into(),
        advertised: [lan()].into(),
        exit: true,
        client_version: "0.2.0".into(),
        ..machine(1, None)
    };
    service.register(&moved, NOW).await.unwrap();
    let text = "offers 192.168.1.0/24, exit node; was machine-1; runs meshd 0.2.0 on linux";
    assert_eq!(newest(&service).await, said(text));
    let entries = service.audit(&ROOT, None, 100).await.unwrap().len();
    service.register(&moved, NOW).await.unwrap();
    assert_eq!(service.audit(&ROOT, None, 100).await.unwrap().len(), entries, "no change, no entry");
    let silent = RegisterRequest { advertised: BTreeSet::new(), exit: false, ..moved };
    service.register(&silent, NOW).await.unwrap();
    assert_eq!(newest(&service).await, said("offers nothing"));
}

#[tokio::test]
async fn a_relay_of_its_own_is_in_the_map_and_survives_a_restart() {
    let (dir, service) = fresh().await;
    let input = |name: &str, key: u8, host: &str| RelayInput {
        name: name.to_owned(),
        hosts: vec![host.to_owned()],
        key: NodeKey::from_bytes([key; 32]),
        udp_port: 3478,
        stun_port: 0,
        tcp_port: 443,
    };
    let added = service.add_relay(&ROOT, &input("fra", 1, "relay.example.com"), NOW).await.unwrap();
    assert!(added.id != EMBEDDED_RELAY);
    for (name, key, host) in [
        ("fra", 2, "192.0.2.9"),
        ("other", 1, "192.0.2.9"),
        ("bad", 3, "host:3478"),
        ("bad", 3, ""),
        ("no good", 3, "192.0.2.9"),
    ] {
        assert!(service.add_relay(&ROOT, &input(name, key, host), NOW).await.is_err(), "{name} {key} {host}");
    }
    let member = Actor::Node(NodeId(1));
    assert!(service.add_relay(&member, &input("x", 4, "192.0.2.9"), NOW).await.is_err());
    let command = service.relay_command();
    assert!(command.contains(&service.model().network.to_string()), "{command}");
    assert!(command.contains(&service.public_keys().signing.to_string()), "{command}");
    drop(service);
    let service = open(&dir).await;
    assert_eq!(service.relays(&ROOT).unwrap(), [added]);
    service.remove_relay(&ROOT, "fra", NOW).await.unwrap();
    assert!(service.remove_relay(&ROOT, "fra", NOW).await.is_err());
    assert!(service.relays(&ROOT).unwrap().is_empty());
}
