use super::*;

pub(in crate::model) fn model(version: u64) -> Model {
    let keys = (CoordinatorKey::from_bytes([1; 32]), VerifyingKey::from_bytes([2; 32]));
    Model {
        network: NetworkId::from_bytes([0; 16]),
        epoch: Epoch(1),
        version: Version(version),
        mesh: MeshSettings {
            name: "home".parse().unwrap(),
            domain: "home.internal".parse().unwrap(),
            prefixes: MeshPrefixes { v4: "100.64.0.0/16".parse().unwrap(), v6: "fd00::/48".parse().unwrap() },
            map_lease: 1,
            addresses: Vec::new(),
            key: keys.0,
            signing_key: keys.1,
            next_key: None,
            next_signing_key: None,
            search: Vec::new(),
            split: Vec::new(),
            nameservers: Vec::new(),
            dns_ttl: 30,
        },
        nodes: BTreeMap::new(),
        classes: BTreeMap::new(),
        policy: Arc::new(Policy::deny_all()),
        policy_version: Version(1),
        records: BTreeMap::new(),
        bound: BTreeMap::new(),
        relays: BTreeMap::new(),
        clusters: BTreeMap::new(),
    }
}

fn after(published: &Published, n: u64) -> Published {
    (0..n).fold(published.clone(), |p, _| {
        let version = Version(p.model.version.0 + 1);
        let step = Step {
            version,
            model: Arc::new(p.model.apply(version, &[])),
            changes: vec![Change::NodeGone(NodeId(version.0))],
        };
        p.next(step)
    })
}

#[test]
fn the_history_has_no_gaps_and_an_end() {
    let start = Published::starting(Arc::new(model(7)));
    assert_eq!(start.changes_after(Version(7)).unwrap().count(), 0);
    assert!(start.changes_after(Version(6)).is_none(), "older than what is in memory");
    assert!(start.changes_after(Version(8)).is_none(), "of the future");

    let some = after(&start, 3);
    let seen: Vec<_> = some.changes_after(Version(8)).unwrap().cloned().collect();
    assert_eq!(seen, [Change::NodeGone(NodeId(9)), Change::NodeGone(NodeId(10))]);
    for version in 7..=10 {
        assert_eq!(some.at(Version(version)).unwrap().version, Version(version));
    }
    assert!(some.at(Version(6)).is_none() && some.at(Version(11)).is_none());

    let full = after(&start, HISTORY as u64 + 5);
    assert_eq!(full.history.len(), HISTORY);
    assert_eq!(full.base.version, Version(12));
    assert!(full.changes_after(Version(11)).is_none());
    assert_eq!(full.changes_after(Version(12)).unwrap().count(), HISTORY);
}

#[test]
fn an_owner_is_an_identity_and_not_a_display_name() {
    let alice = |display: &str| Owner::User {
        issuer: "https://id.example".to_owned(),
        subject: "42".to_owned(),
        display: display.to_owned(),
    };
    assert_eq!(alice("Alice"), alice("Alice B."));
    assert_ne!(alice("owner"), Owner::local("owner"));
    assert_eq!(alice("Alice").policy_name().unwrap(), "42@https://id.example");
    assert_eq!(Owner::local("bob").policy_name().unwrap(), "bob");
    assert_eq!(Owner::Tagged.policy_name(), None);
}
