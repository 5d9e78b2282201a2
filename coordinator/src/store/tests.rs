use super::audit::ChainState;
use super::*;
use crate::model::{ClassKey, NodeRecord, Owner};
use crate::service::Founding;
use crate::store::backup;
use meshd_proto::netmap::{PeerKind, RecordSet, RecordType, RecordValue, Relay};
use meshd_proto::{ClassId, Epoch, MachineKey, MeshAddrs, NodeKey, RelayId};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

async fn founded(dir: &Path) -> (Store, Loaded) {
    let mut store = Store::open(StateDir::open(dir).unwrap(), NOW).await.unwrap();
    let founding =
        Founding { name: "home".parse().unwrap(), prefix: None, in_use: Vec::new(), entropy: [[7; 32]; 5] };
    let loaded = founding.run(&mut store, NOW).await.unwrap();
    (store, loaded)
}

fn node(id: u64) -> NodeRecord {
    let byte = u8::try_from(id).unwrap();
    NodeRecord {
        id: NodeId(id),
        machine_key: Some(MachineKey::from_bytes([byte; 32])),
        node_key: NodeKey::from_bytes([byte + 100; 32]),
        name: format!("node-{id}").parse().unwrap(),
        renamed: id == 2,
        addrs: MeshAddrs { v4: [100, 64, 1, byte].into(), v6: u128::from(id).into() },
        owner: if id == 3 { Owner::Tagged } else { Owner::local("alice") },
        tags: if id == 3 { ["tag:x".parse().unwrap()].into() } else { BTreeSet::new() },
        class: ClassId(u32::from(byte.min(2))),
        advertised: ["192.168.1.0/24".parse().unwrap(), "fd00:9::/64".parse().unwrap()].into(),
        approved: ["192.168.1.0/24".parse().unwrap(), "10.9.0.0/16".parse().unwrap()].into(),
        exit_advertised: true,
        exit_approved: false,
        key_expires: (id == 2).then_some(NOW),
        ephemeral: id == 1,
        admitted: true,
        revoked: id == 3,
        machine_id_hash: (id == 1).then_some([9; 32]),
        os: "linux".to_owned(),
        client_version: "0.1".to_owned(),
        created: NOW,
        kind: if id == 3 { PeerKind::PlainWireguard } else { PeerKind::Meshd },
        via: (id == 3).then_some(NodeId(1)),
        publishing: crate::model::Publishing::default(),
        changed: Version(0),
    }
}

fn everything() -> Vec<Write> {
    let record = |kind, value| {
        let set = RecordSet { ttl: 60, values: vec![value] };
        Write::PutRecord("nas.home.internal".parse().unwrap(), kind, set)
    };
    vec![
        Write::PutClass(ClassId(1), ClassKey { owner: Owner::local("alice"), tags: BTreeSet::new() }),
        Write::PutClass(
            ClassId(2),
            ClassKey { owner: Owner::Tagged, tags: ["tag:x".parse().unwrap()].into() },
        ),
        Write::PutNode(node(1)),
        Write::PutNode(node(2)),
        Write::PutNode(node(3)),
        record(RecordType::A, RecordValue::Address("192.168.1.10".parse().unwrap())),
        record(RecordType::Txt, RecordValue::Text("a \"quoted\", text".to_owned())),
        Write::PutBound(crate::model::Audience::stored("group:dev,tag:x").unwrap(), bound()),
        Write::PutRelay(Relay {
            id: RelayId(1),
            name: "home".to_owned(),
            key: NodeKey::from_bytes([3; 32]),
            hosts: vec!["vpn.example.com".to_owned()],
            udp_port: 3478,
            alt_udp_port: 3479,
            tls_port: 0,
        }),
    ]
}

/// Of everything that can be bound, something.
fn bound() -> crate::model::Bound {
    let server = meshd_proto::Endpoint("10.0.0.2:5353".parse().unwrap());
    let set = RecordSet { ttl: 5, values: vec![RecordValue::Text("0 5 445 nas".to_owned())] };
    crate::model::Bound {
        records: [(("_smb._tcp.home.internal".parse().unwrap(), RecordType::Srv), set)].into(),
        split: vec![meshd_proto::netmap::SplitRoute {
            suffix: "corp.example".parse().unwrap(),
            upstreams: vec![server],
        }],
        nameservers: vec![server],
        search: vec!["corp.example".parse().unwrap()],
    }
}

/// Every part of a model that is stored, in a form that can be compared.
fn shown(model: &Model) -> String {
    let policy = model.policy.text().to_owned();
    format!("{:#?}\n{policy}", Model { policy: Arc::new(meshd_policy::Policy::deny_all()), ..model.clone() })
}

fn batch(writes: Vec<Write>) -> Batch {
    let entry =
        AuditDraft { actor: "root".into(), action: "test", subject: "x".into(), detail: String::new() };
    Batch { at: NOW, writes, audit: vec![entry], ..Batch::default() }
}

#[tokio::test]
async fn what_is_read_back_equals_the_model_that_the_writes_made() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, loaded) = founded(dir.path()).await;
    let mut model = loaded.model;
    let text = "{ \"acls\": [] }\n";
    let mut mesh = model.mesh.clone();
    mesh.addresses = vec!["vpn.example.com:443".to_owned()];
    mesh.nameservers = vec![meshd_proto::Endpoint("9.9.9.9:53".parse().unwrap())];
    mesh.split = vec![meshd_proto::netmap::SplitRoute {
        suffix: "corp.example".parse().unwrap(),
        upstreams: vec![meshd_proto::Endpoint("10.0.0.1:53".parse().unwrap())],
    }];
    let policy = Arc::new(meshd_policy::Policy::parse(text).unwrap());
    let mut changed = node(2);
    changed.advertised.clear();
    changed.name = "other".parse().unwrap();
    let commits = [
        everything(),
        vec![Write::PutMesh(mesh), Write::PutPolicy { text: text.to_owned(), policy }],
        vec![Write::PutNode(changed), Write::DeleteNode(NodeId(3))],
        vec![Write::DeleteRecord("nas.home.internal".parse().unwrap(), RecordType::Txt)],
    ];
    for writes in commits {
        let version = Version(model.version.0 + 1);
        store.commit(version, &batch(writes.clone())).await.unwrap();
        model = model.apply(version, &writes);
        let again = store.load().await.unwrap().unwrap();
        assert_eq!(shown(&again.model), shown(&model));
        assert_eq!(again.next_node, NodeId(4), "ids of removed nodes are not given again");
    }
    assert_eq!(model.policy_version, Version(3));
}

#[tokio::test]
async fn a_batch_is_done_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, loaded) = founded(dir.path()).await;
    let mut writes = everything();
    // The second node takes the key of the first: the last statement of the batch fails.
    writes.push(Write::PutNode(NodeRecord { id: NodeId(9), ..node(1) }));
    assert!(store.commit(Version(2), &batch(writes)).await.is_err());
    let again = store.load().await.unwrap().unwrap();
    assert_eq!(shown(&again.model), shown(&loaded.model));
    assert_eq!(store.audit(None, 10).await.unwrap().len(), 1);
    store.commit(Version(2), &batch(everything())).await.unwrap();
}

#[tokio::test]
async fn files_are_private_and_one_process_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (mut store, _) = founded(&path).await;
    store.commit(Version(2), &batch(everything())).await.unwrap();
    store.backup(&path.join("copy.db")).await.unwrap();
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let mut seen = 0;
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
            seen += 1;
        }
    }
    assert!(seen >= 4, "database, WAL, lock, copy: {seen}");
    assert!(matches!(StateDir::open(&path), Err(StoreError::Locked(_))));
    drop(store);
    assert!(StateDir::open(&path).is_ok());
}

#[tokio::test]
async fn a_restore_brings_back_everything_under_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("state"), dir.path().join("copy.db"));
    let (mut store, loaded) = founded(&path).await;
    store.commit(Version(2), &batch(everything())).await.unwrap();
    store.backup(&copy).await.unwrap();
    assert!(store.backup(&copy).await.is_err(), "a backup never overwrites a file");
    let at_backup = store.load().await.unwrap().unwrap();
    store.commit(Version(3), &batch(vec![Write::DeleteNode(NodeId(1))])).await.unwrap();
    drop(store);

    let state = StateDir::open(&path).unwrap();
    let restored = backup::restore(&state, &copy, NOW).await.unwrap();
    assert!(restored.previous.as_ref().is_some_and(|p| p.exists()));
    assert!(Epoch(restored.epoch) > loaded.model.epoch);
    let mut store = Store::open(state, NOW).await.unwrap();
    let again = store.load().await.unwrap().unwrap();
    let expected = Model { epoch: Epoch(restored.epoch), ..at_backup.model };
    assert_eq!(shown(&again.model), shown(&expected));
    assert_eq!(again.keys.control, at_backup.keys.control);
    assert_eq!(again.keys.relay, at_backup.keys.relay);
    assert_eq!(again.keys.signing.to_bytes(), at_backup.keys.signing.to_bytes());
}

#[tokio::test]
async fn a_file_that_is_no_backup_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, junk) = (dir.path().join("state"), dir.path().join("junk"));
    let (mut store, _) = founded(&path).await;
    store.commit(Version(2), &batch(everything())).await.unwrap();
    let before = shown(&store.load().await.unwrap().unwrap().model);
    drop(store);
    std::fs::write(&junk, "no database").unwrap();
    let state = StateDir::open(&path).unwrap();
    assert!(matches!(backup::restore(&state, &junk, NOW).await, Err(StoreError::NotABackup(_))));
    std::fs::write(&junk, "").unwrap();
    assert!(matches!(backup::restore(&state, &junk, NOW).await, Err(StoreError::NotABackup(_))));
    let mut store = Store::open(state, NOW).await.unwrap();
    assert_eq!(shown(&store.load().await.unwrap().unwrap().model), before);
}

#[tokio::test]
async fn a_database_of_a_later_release_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = founded(dir.path()).await;
    sqlx::raw_sql("PRAGMA user_version = 99").execute(&mut store.conn).await.unwrap();
    drop(store);
    let opened = Store::open(StateDir::open(dir.path()).unwrap(), NOW).await;
    assert!(matches!(opened, Err(StoreError::Newer { found: 99, known: 5 })));
}

#[tokio::test]
async fn the_audit_chain_notices_a_change_a_gap_and_an_insertion() {
    for (tamper, broken_at) in [
        ("UPDATE audit SET actor = 'somebody' WHERE id = 3", 3),
        ("DELETE FROM audit WHERE id = 2", 2),
        ("UPDATE audit SET id = id + 1 WHERE id >= 4", 4),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = founded(dir.path()).await;
        for _ in 0..3 {
            store.commit(Version(1), &batch(Vec::new())).await.unwrap();
        }
        let whole = store.verify_audit().await.unwrap();
        assert!(matches!(whole, ChainState::Whole { entries: 4, first: 1, head } if head != [0; 32]));
        sqlx::raw_sql(tamper).execute(&mut store.conn).await.unwrap();
        assert_eq!(store.verify_audit().await.unwrap(), ChainState::Broken { at: broken_at }, "{tamper}");
    }
}

#[tokio::test]
async fn commits_are_durable_by_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = founded(dir.path()).await;
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut store.conn).await.unwrap();
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut store.conn).await.unwrap();
    assert_eq!((journal.as_str(), synchronous), ("wal", 2), "WAL with synchronous=FULL");
}

fn entry(i: u64) -> AuditDraft {
    AuditDraft { actor: "me".to_owned(), action: "try", subject: i.to_string(), detail: String::new() }
}

async fn count(store: &mut Store, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&mut store.conn).await.unwrap()
}

#[tokio::test]
async fn logs_stay_within_their_bounds_and_the_audit_chain_holds() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, loaded) = founded(dir.path()).await;
    let bounds = compact::Bounds { versions: 20, policies: 3, audit: 40, audit_files: 2 };
    let policy = loaded.model.policy.clone();
    for i in 0..400 {
        let text = format!("{} // {i}", policy.text());
        let writes = vec![Write::PutPolicy { text, policy: policy.clone() }];
        let batch = Batch { at: NOW, writes, audit: vec![entry(i)], ..Batch::default() };
        store.commit(Version(loaded.model.version.0 + 1 + i), &batch).await.unwrap();
        if i % 20 == 0 {
            store.compact(&bounds, NOW).await.unwrap();
        }
    }
    store.compact(&bounds, NOW).await.unwrap();
    assert!(count(&mut store, "SELECT count(*) FROM changes").await <= 20);
    assert_eq!(count(&mut store, "SELECT count(*) FROM policies").await, 3);
    assert!(store.policies(1).await.unwrap()[0].text.ends_with("// 399"), "the newest stays");
    assert!(count(&mut store, "SELECT count(*) FROM audit").await <= 40 + 40 / 8 + 1);
    let state = store.verify_audit().await.unwrap();
    let ChainState::Whole { entries, first, .. } = state else { panic!("{state:?}") };
    assert!(entries > 400 && first > 300, "{entries} {first}");

    // What left the database is in files that go on where the ones before ended, the newest of them.
    let mut files: Vec<_> =
        std::fs::read_dir(dir.path().join("audit")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 2);
    let mut expected = None;
    for file in &files {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            let id = entry["id"].as_u64().unwrap();
            assert!(expected.is_none_or(|e| e == id));
            expected = Some(id + 1);
        }
    }
    assert_eq!(expected, Some(first));
    assert_eq!(store.load().await.unwrap().unwrap().model.version.0, loaded.model.version.0 + 400);
}

#[tokio::test]
async fn where_the_audit_chain_begins_cannot_be_moved() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = founded(dir.path()).await;
    let bounds = compact::Bounds { audit: 10, ..compact::Bounds::DEFAULT };
    for i in 0..40 {
        let batch = Batch { at: NOW, audit: vec![entry(i)], ..Batch::default() };
        store.commit(Version(1), &batch).await.unwrap();
    }
    store.compact(&bounds, NOW).await.unwrap();
    let ChainState::Whole { first, .. } = store.verify_audit().await.unwrap() else { panic!("broken") };
    // Somebody takes one more entry out and moves the beginning behind it.
    let page = audit::page(&mut store.conn, first - 1, first).await.unwrap();
    let forged = audit::Base { id: first, hash: page[0].hash };
    audit::set_base(&mut store.conn, &forged).await.unwrap();
    sqlx::query("DELETE FROM audit WHERE id <= ?").bind(int(first)).execute(&mut store.conn).await.unwrap();
    assert_eq!(store.verify_audit().await.unwrap(), ChainState::Broken { at: first + 1 });
}
