use super::*;
use crate::netmap::{Entry, EntryKey};

pub(crate) fn sample_peer(id: u64) -> Peer {
    Peer {
        id: NodeId(id),
        key: crate::NodeSecret::from_bytes([id as u8; 32]).public(),
        name: format!("node-{id}").parse().unwrap(),
        addrs: MeshAddrs { v4: [100, 70, 0, id as u8].into(), v6: "fd00::1".parse().unwrap() },
        class: ClassId(1),
        tags: vec!["tag:router".parse().unwrap()],
        owner: String::new(),
        key_expires: Some(UnixSeconds(9)),
        kind: PeerKind::Meshd,
    }
}

pub(crate) fn sample_entries() -> Vec<Entry> {
    let prefix: Prefix = "192.168.1.0/24".parse().unwrap();
    let name: DnsName = "nas.home.internal".parse().unwrap();
    vec![
        Entry::Me(SelfNode {
            id: NodeId(1),
            name: "pi".parse().unwrap(),
            addrs: MeshAddrs { v4: [100, 70, 0, 1].into(), v6: "fd00::1".parse().unwrap() },
            class: ClassId(3),
            tags: vec![],
            prefixes: MeshPrefixes { v4: "100.70.0.0/16".parse().unwrap(), v6: "fd00::/48".parse().unwrap() },
            approved_routes: vec![prefix],
            pending_routes: vec!["10.0.0.0/8".parse().unwrap()],
            key_expires: None,
            map_lease: 100,
        }),
        Entry::Peer(sample_peer(2)),
        Entry::Route(Route { prefix, rank: 1, owner: NodeId(1) }),
        Entry::Route(Route { prefix, rank: 0, owner: NodeId(2) }),
        Entry::FilterPresent,
        Entry::Rule(
            RuleId(7),
            FilterRule {
                line: 12,
                srcs: vec![RuleSource::AnyNode, RuleSource::Class(ClassId(4)), RuleSource::Prefix(prefix)],
                dsts: vec![
                    RuleTarget::all(TargetAddr::Myself),
                    RuleTarget {
                        to: TargetAddr::Prefix(prefix),
                        protocol: Some(6),
                        first_port: 22,
                        last_port: 23,
                    },
                    RuleTarget::all(TargetAddr::Internet),
                ],
            },
        ),
        Entry::DnsConfig(DnsConfig {
            domain: "home.internal".parse().unwrap(),
            search: vec![],
            split: vec![SplitRoute {
                suffix: "corp".parse().unwrap(),
                upstreams: vec![Endpoint("[::1]:53".parse().unwrap())],
            }],
            nameservers: vec![Endpoint("9.9.9.9:53".parse().unwrap())],
            ttl: 60,
        }),
        Entry::Record(
            name.clone(),
            RecordType::A,
            RecordSet { ttl: 60, values: vec![RecordValue::Address("192.168.1.10".parse().unwrap())] },
        ),
        Entry::Record(
            name.clone(),
            RecordType::Txt,
            RecordSet { ttl: 1, values: vec![RecordValue::Text("x".into())] },
        ),
        Entry::Relay(Relay {
            id: RelayId(1),
            name: "built-in".into(),
            key: sample_peer(9).key,
            hosts: vec!["203.0.113.1".into()],
            udp_port: 3478,
            alt_udp_port: 3479,
            tls_port: 443,
        }),
        Entry::Service(Service {
            name,
            addrs: vec!["100.70.9.9".parse().unwrap()],
            ports: vec![(6, 443), (17, 53)],
        }),
        Entry::Forward(Forward {
            address: "10.98.0.7".parse().unwrap(),
            protocol: 17,
            port: 53,
            endpoints: vec!["10.42.0.5:5353".parse().unwrap()],
            sticky: true,
            sources: vec!["192.168.0.0/16".parse().unwrap()],
        }),
        Entry::Gateway("edge".into(), "{\"generation\":1}".into()),
        Entry::Coordinator(CoordinatorInfo {
            key: CoordinatorKey::from_bytes([1; 32]),
            signing_key: VerifyingKey::from_bytes([2; 32]),
            next_key: Some(CoordinatorKey::from_bytes([3; 32])),
            next_signing_key: None,
            addresses: vec!["vps.example:443".into()],
            mesh_name: "home".into(),
        }),
    ]
}

fn snapshot(entries: Vec<Entry>, to: u64) -> MapUpdate {
    let mut reference = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
    entries.iter().cloned().for_each(|e| reference.upsert(e));
    MapUpdate {
        network: reference.network,
        epoch: Epoch(1),
        from: None,
        to: Version(to),
        upserts: entries,
        removes: vec![],
        digest: reference.digest(),
        more: false,
    }
}

#[test]
fn every_kind_of_entry_survives_the_wire() {
    for entry in sample_entries() {
        assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
    }
}

#[test]
fn a_snapshot_fills_the_map_and_its_entries_come_back() {
    let empty = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
    let map = empty.apply(&snapshot(sample_entries(), 5)).unwrap();
    assert_eq!(map.len(), sample_entries().len());
    assert_eq!(map.owners("192.168.1.0/24".parse().unwrap()).collect::<Vec<_>>(), [NodeId(2), NodeId(1)]);
    let mut again = NetworkMap::empty(map.network);
    map.entries().for_each(|e| again.upsert(e));
    assert_eq!(again.digest(), map.digest());
}

#[test]
fn a_diff_changes_only_what_it_names_and_removing_everything_gives_the_empty_digest() {
    let map =
        NetworkMap::empty(NetworkId::from_bytes([1; 16])).apply(&snapshot(sample_entries(), 5)).unwrap();
    let mut renamed = sample_peer(2);
    renamed.name = "nas".parse().unwrap();
    let mut expected = map.clone();
    expected.upsert(Entry::Peer(renamed.clone()));
    expected.remove(&EntryKey::Rule(RuleId(7)));
    let diff = MapUpdate {
        network: map.network,
        epoch: Epoch(1),
        from: Some(Version(5)),
        to: Version(6),
        upserts: vec![Entry::Peer(renamed)],
        removes: vec![EntryKey::Rule(RuleId(7))],
        digest: expected.digest(),
        more: false,
    };
    let next = map.apply(&diff).unwrap();
    assert_eq!(next.filter().unwrap().len(), 0, "an empty filter stays present: deny");
    assert_eq!(next.peers[&NodeId(2)].name.as_str(), "nas");
    let mut all_gone = next.clone();
    next.entries().for_each(|e| all_gone.remove(&e.key()));
    assert_eq!((all_gone.digest(), all_gone.len()), (MapDigest::EMPTY, 0));
}

#[test]
fn a_gap_another_mesh_or_a_wrong_digest_leaves_the_map_as_it_was() {
    let map =
        NetworkMap::empty(NetworkId::from_bytes([1; 16])).apply(&snapshot(sample_entries(), 5)).unwrap();
    let good = snapshot(sample_entries(), 6);
    let gap = MapUpdate { from: Some(Version(4)), ..good.clone() };
    assert!(matches!(map.apply(&gap), Err(ApplyError::Gap { .. })));
    let other = MapUpdate { network: NetworkId::from_bytes([2; 16]), ..good.clone() };
    assert!(matches!(map.apply(&other), Err(ApplyError::OtherNetwork { .. })));
    let wrong = MapUpdate { digest: MapDigest::EMPTY, ..good };
    assert_eq!(map.apply(&wrong), Err(ApplyError::Diverged));
}
