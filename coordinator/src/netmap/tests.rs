use super::*;
use crate::model::{Change, ClassKey, Cluster, MeshSettings, Owner, Write};
use meshd_policy::Policy;
use meshd_proto::cluster::{PortOwner, ServiceClaim, ServicePort, Transport};
use meshd_proto::netmap::{MapUpdate, RecordSet, RecordValue, Relay, RuleSource};
use meshd_proto::{
    ClassId, CoordinatorKey, Epoch, Hostname, MachineKey, MeshAddrs, MeshPrefixes, NetworkId, NetworkMap,
    NodeKey, Prefix, RelayId, Tag, UnixSeconds, VerifyingKey, Version,
};
use proptest::prelude::*;

mod bound;
mod exposed;

const NETWORK: NetworkId = NetworkId::from_bytes([1; 16]);
/// Node ids in random histories are 1..=NODES, devices above.
const NODES: u64 = 9;
const DEVICES: u64 = 3;

const POLICIES: [&str; 7] = [
    r#"{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}],
        "expose":[{"src":["u1","tag:t1"],"on":["tag:t2","u2"],"names":["*.k.example","*.home.internal"],
                   "ports":["tcp:443","tcp:20000-20002"]}]}"#,
    r#"{"expose":[{"src":["u1","u2","u3"],"on":["tag:t1"],"names":["*.k.example","*.home.internal"],
                   "ports":["tcp:443","udp:20000-20002","tcp:20000-20002"]}]}"#,
    r#"{}"#,
    r#"{"groups":{"group:dev":["u1","u2"]},
        "acls":[{"action":"accept","src":["group:dev"],"dst":["tag:t1:22","10.1.0.0/16:*"]},
                {"action":"accept","src":["autogroup:member"],"dst":["autogroup:self:*"]}]}"#,
    r#"{"hosts":{"three":"100.64.0.3","lan":"10.2.0.0/16"},
        "acls":[{"action":"accept","src":["tag:t1","lan"],"dst":["three:80","tag:t2:*"]},
                {"action":"accept","src":["u1"],"dst":["lan:443","autogroup:internet:*"]}]}"#,
    r#"{"acls":[{"action":"accept","src":["autogroup:tagged"],"dst":["autogroup:member:*","100.64.0.0/24:53"]},
                {"action":"accept","src":["tag:t2"],"dst":["tag:t2:*"]}]}"#,
    r#"{"acls":[{"action":"accept","src":["100.64.0.2","u2"],"dst":["tag:t1:*","100.64.0.5:*","10.1.2.0/24:*"]}]}"#,
];

fn prefixes() -> MeshPrefixes {
    MeshPrefixes { v4: "100.64.0.0/16".parse().unwrap(), v6: "fd00:1::/48".parse().unwrap() }
}

fn empty_model() -> Model {
    Model {
        network: NETWORK,
        epoch: Epoch(3),
        version: Version(0),
        mesh: MeshSettings {
            name: "home".parse().unwrap(),
            domain: "home.internal".parse().unwrap(),
            prefixes: prefixes(),
            map_lease: 86_400,
            addresses: vec!["c.example:443".to_owned()],
            key: CoordinatorKey::from_bytes([1; 32]),
            signing_key: VerifyingKey::from_bytes([2; 32]),
            next_key: None,
            next_signing_key: None,
            search: vec![],
            split: vec![],
            nameservers: vec![],
            dns_ttl: 60,
        },
        nodes: BTreeMap::new(),
        classes: BTreeMap::new(),
        policy: Arc::new(Policy::parse(POLICIES[0]).unwrap()),
        policy_version: Version(0),
        records: BTreeMap::new(),
        bound: BTreeMap::new(),
        relays: BTreeMap::new(),
        clusters: BTreeMap::new(),
    }
}

fn node(id: u64) -> NodeRecord {
    NodeRecord {
        id: NodeId(id),
        machine_key: Some(MachineKey::from_bytes([id as u8; 32])),
        node_key: NodeKey::from_bytes([id as u8; 32]),
        name: Hostname::sanitized(&format!("n{id}")),
        renamed: false,
        addrs: MeshAddrs {
            v4: [100, 64, 0, id as u8].into(),
            v6: format!("fd00:1::{id:x}").parse().unwrap(),
        },
        owner: Owner::Tagged,
        tags: BTreeSet::new(),
        class: ClassId(0),
        advertised: BTreeSet::new(),
        approved: BTreeSet::new(),
        exit_advertised: false,
        exit_approved: false,
        key_expires: None,
        ephemeral: false,
        admitted: true,
        revoked: false,
        machine_id_hash: None,
        os: "linux".to_owned(),
        client_version: "0.1.0".to_owned(),
        created: UnixSeconds(1),
        kind: PeerKind::Meshd,
        via: None,
        publishing: crate::model::Publishing::default(),
        changed: Version(0),
    }
}

/// A model, its view by steps, and the changes of the last step.
struct World {
    model: Arc<Model>,
    view: Arc<View>,
}

impl World {
    fn new() -> Self {
        let model = Arc::new(empty_model());
        Self { view: Arc::new(View::new(model.clone())), model }
    }

    fn commit(&mut self, mut writes: Vec<Write>) -> Concern {
        for write in writes.clone() {
            let Write::PutNode(mut node) = write else { continue };
            let key = node.class_key();
            let class = self.model.class_of(&key).unwrap_or_else(|| {
                let id = ClassId(self.model.classes.len() as u32 + 1);
                writes.insert(0, Write::PutClass(id, key.clone()));
                id
            });
            node.class = class;
            for w in &mut writes {
                if let Write::PutNode(n) = w
                    && n.id == node.id
                {
                    n.class = class;
                }
            }
        }
        let version = Version(self.model.version.0 + 1);
        self.model = Arc::new(self.model.apply(version, &writes));
        let changes: Vec<Change> = writes.iter().filter_map(Write::change).collect();
        let (view, concern) = self.view.next(self.model.clone(), &changes);
        self.view = Arc::new(view);
        concern
    }

    fn put(&mut self, id: u64, change: impl FnOnce(&mut NodeRecord)) -> Concern {
        let mut record = self.model.nodes.get(&NodeId(id)).map_or_else(|| node(id), |n| (**n).clone());
        change(&mut record);
        self.commit(vec![Write::PutNode(record)])
    }

    fn policy(&mut self, text: &str) -> Concern {
        let policy = Arc::new(Policy::parse(text).unwrap());
        self.commit(vec![Write::PutPolicy { text: text.to_owned(), policy }])
    }

    fn map(&self, id: u64) -> NetworkMap {
        snapshot(&self.view, NodeId(id)).unwrap()
    }
}

fn update(view: &View, delta: Delta, from: Option<Version>) -> MapUpdate {
    let model = view.model();
    MapUpdate {
        network: model.network,
        epoch: model.epoch,
        from,
        to: model.version,
        upserts: delta.upserts,
        removes: delta.removes,
        digest: delta.digest,
        more: false,
    }
}

fn snapshot(view: &View, id: NodeId) -> Option<NetworkMap> {
    let whole = update(view, view.snapshot(id)?, None);
    Some(NetworkMap::empty(NETWORK).apply(&whole).expect("the digest of a snapshot is that of its entries"))
}

/// One random write.
fn random_write(model: &Model, (kind, a, b): (u8, u8, u8)) -> Vec<Write> {
    let id = u64::from(a) % NODES + 1;
    let mut record = model.nodes.get(&NodeId(id)).map_or_else(|| node(id), |n| (**n).clone());
    let routes: Vec<Prefix> =
        ["10.1.0.0/16", "10.2.0.0/16", "10.1.2.0/24", "192.168.1.0/24"].map(|p| p.parse().unwrap()).to_vec();
    let pick = routes[usize::from(b) % routes.len()];
    match kind % 20 {
        0..=2 => {
            record.owner = Owner::local(["u1", "u2", "u3"][usize::from(b) % 3]);
            record.tags.clear();
        }
        3 | 4 => {
            record.owner = Owner::Tagged;
            record.tags = ["tag:t1", "tag:k8s-k", "tag:t2"][..usize::from(b) % 3 + 1]
                .iter()
                .map(|t| t.parse().unwrap())
                .collect();
        }
        5 => record.advertised.extend([pick]),
        6 => {
            record.advertised.insert(pick);
            record.approved.insert(pick);
        }
        7 => record.approved.retain(|p| *p != pick),
        8 => (record.exit_advertised, record.exit_approved) = (b & 1 == 0, b & 2 == 0),
        9 => (record.admitted, record.revoked) = (b % 4 != 0, b % 5 == 0),
        10 => record.name = Hostname::sanitized(&format!("n{id}-{}", b % 3)),
        11 => {
            return vec![Write::DeleteNode(NodeId(id))]
                .into_iter()
                .filter(|_| model.nodes.contains_key(&NodeId(id)))
                .collect();
        }
        12 => {
            let text = POLICIES[usize::from(b) % POLICIES.len()];
            return vec![Write::PutPolicy {
                text: text.to_owned(),
                policy: Arc::new(Policy::parse(text).unwrap()),
            }];
        }
        13 => {
            let name: DnsName = format!("r{}.home.internal", a % 4).parse().unwrap();
            if b % 5 == 0 {
                let kind = [RecordType::A, RecordType::Cname, RecordType::Srv][usize::from(b / 5) % 3];
                return vec![Write::DeleteRecord(name, kind)];
            }
            if b % 5 > 2 {
                return vec![random_alias(name, a, b)];
            }
            let ips = ["10.1.2.3", "100.64.0.3", "1.1.1.1", "192.168.1.10", "100.64.0.21"];
            let values = vec![RecordValue::Address(ips[usize::from(b) % ips.len()].parse().unwrap())];
            return vec![Write::PutRecord(name, RecordType::A, RecordSet { ttl: 60, values })];
        }
        14 => {
            if b % 4 == 0 {
                let mut mesh = model.mesh.clone();
                mesh.addresses.push(format!("c{b}.example:443"));
                return vec![Write::PutMesh(mesh)];
            }
            let relay = Relay {
                id: RelayId(u32::from(b % 3)),
                name: "r".to_owned(),
                key: NodeKey::from_bytes([a; 32]),
                hosts: vec!["192.0.2.1".to_owned()],
                udp_port: 3478,
                alt_udp_port: 0,
                tls_port: 0,
            };
            return vec![Write::PutRelay(relay)];
        }
        16 => exposed::offer(&mut record, b),
        17 => exposed::claim(&mut record, a, b),
        18 => return vec![random_cluster(a, b)],
        19 => return vec![bound::random(model, a, b)],
        _ => {
            let id = 20 + u64::from(b) % DEVICES;
            if b > 200 {
                return vec![Write::DeleteNode(NodeId(id))]
                    .into_iter()
                    .filter(|_| model.nodes.contains_key(&NodeId(id)))
                    .collect();
            }
            let mut device = node(id);
            device.kind = PeerKind::PlainWireguard;
            device.machine_key = None;
            device.via = Some(NodeId(u64::from(a) % NODES + 1));
            device.owner = Owner::local(["u1", "u2", "u3"][usize::from(a) % 3]);
            device.name = Hostname::sanitized(&format!("phone{id}-{}", b % 3));
            return vec![Write::PutNode(device)];
        }
    }
    vec![Write::PutNode(record)]
}

/// A cluster that publishes one or two services, from nodes that may carry its tag or not; or it goes.
fn random_cluster(a: u8, b: u8) -> Write {
    let name: Hostname = "k".parse().unwrap();
    if b.is_multiple_of(7) {
        return Write::DeleteCluster(name);
    }
    let service = |n: u8| {
        let owners = [a % 4, b % 5].map(|id| u64::from(id) + 1);
        let owners = owners.into_iter().collect::<BTreeSet<_>>().into_iter().map(|id| PortOwner {
            node: NodeId(id),
            endpoints: vec![format!("10.42.{id}.{}:8080", b % 3 + 1).parse().unwrap()],
        });
        let claim = ServiceClaim {
            namespace: "default".parse().unwrap(),
            name: format!("s{n}").parse().unwrap(),
            alias: b.is_multiple_of(2).then(|| format!("s{n}.k.home.internal").parse().unwrap()),
            addresses: vec![["10.1.2.3", "100.64.9.9"][usize::from(n % 2)].parse().unwrap()],
            ports: vec![ServicePort { protocol: Transport::Tcp, port: 80, owners: owners.collect() }],
            sticky: false,
            sources: vec![],
        };
        (claim.key(), Arc::new(claim))
    };
    Write::PutCluster(Cluster {
        name,
        ranges: vec![],
        services: (0..b % 3).map(service).collect(),
        created: UnixSeconds(1),
        changed: Version(0),
    })
}

/// A record that leads to a node, a device, another record, or a name outside. Rings come about.
fn random_alias(name: DnsName, a: u8, b: u8) -> Write {
    let to = |n: u8| match n % 8 {
        0..=2 => format!("n{}.home.internal", n / 8 % 9 + 1),
        3 => format!("phone{}-{}.home.internal", 20 + n / 8 % 3, n / 24 % 3),
        4 | 5 => format!("r{}.home.internal", n / 8 % 4),
        6 => "nobody.home.internal".to_owned(),
        _ => "outside.example".to_owned(),
    };
    if b % 5 == 3 {
        let values = vec![RecordValue::Name(to(a ^ b).parse().unwrap())];
        return Write::PutRecord(name, RecordType::Cname, RecordSet { ttl: 60, values });
    }
    let targets = BTreeSet::from([to(a ^ b), to(b / 5), to(a.wrapping_add(b))]);
    let values = targets.iter().map(|to| RecordValue::Text(format!("0 0 443 {to}"))).collect();
    Write::PutRecord(name, RecordType::Srv, RecordSet { ttl: 60, values })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    /// Nodes acknowledge when they like and lose sessions when they like; whatever happens, what they
    /// hold is what a fresh snapshot holds, and who is not concerned has no change.
    #[test]
    fn diffs_always_lead_to_what_a_fresh_snapshot_holds(
        steps in prop::collection::vec(
            (prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..4), any::<u16>()), 1..40),
    ) {
        let mut world = World::new();
        // What each node holds: its map, and the view that the next diff starts from.
        let mut held: BTreeMap<NodeId, (NetworkMap, Arc<View>)> = BTreeMap::new();
        for (writes, chance) in steps {
            let mut planned: Vec<Write> = Vec::new();
            for write in writes {
                planned.extend(random_write(&world.model, write));
            }
            let mut seen = BTreeSet::new();
            planned.retain(|w| match w {
                Write::PutNode(n) => seen.insert(n.id),
                Write::DeleteNode(id) => seen.insert(*id),
                _ => true,
            });
            if planned.is_empty() {
                continue;
            }
            let before = world.view.clone();
            let concern = world.commit(planned);
            let fresh = View::new(world.model.clone());
            for id in (1..=NODES).map(NodeId) {
                let now = snapshot(&world.view, id);
                prop_assert_eq!(&now, &snapshot(&fresh, id), "a view by steps is that of its model");
                if !concern.includes(id) {
                    let delta = |map: Option<NetworkMap>| map.map(|m| m.entries().collect::<Vec<_>>());
                    prop_assert_eq!(delta(snapshot(&before, id)), delta(now.clone()), "{} was left out", id);
                    // Not concerned: the base of its next diff moves on for nothing.
                    if let Some((_, base)) = held.get_mut(&id) && Arc::ptr_eq(base, &before) {
                        *base = world.view.clone();
                    }
                }
                let Some(now) = now else {
                    held.remove(&id);
                    continue;
                };
                if chance >> (id.0 % 16) & 1 == 0 {
                    continue;
                }
                let next = match held.remove(&id) {
                    None => now.clone(),
                    Some((map, base)) => {
                        let change = world.view.change_since(base);
                        let delta = world.view.diff(&change, id, map.digest()).unwrap();
                        let update = update(&world.view, delta, Some(map.version));
                        map.apply(&update).map_err(|e| TestCaseError::fail(e.to_string()))?
                    },
                };
                prop_assert_eq!(&next, &now);
                prop_assert_eq!(next.digest(), world.view.digest(id).unwrap());
                held.insert(id, (next, world.view.clone()));
            }
        }
    }
}

fn owned(by: &str) -> impl FnOnce(&mut NodeRecord) {
    move |n| n.owner = Owner::local(by)
}

fn tagged(tag: &str) -> impl FnOnce(&mut NodeRecord) {
    move |n| n.tags = BTreeSet::from([tag.parse::<Tag>().unwrap()])
}

#[test]
fn a_change_concerns_who_sees_the_node_and_nobody_else() {
    let mut world = World::new();
    world.policy(r#"{"acls":[{"action":"accept","src":["tag:a"],"dst":["tag:b:*"]}]}"#);
    for (id, tag) in [(1, "tag:a"), (2, "tag:a"), (3, "tag:b"), (4, "tag:c"), (5, "tag:c")] {
        world.put(id, tagged(tag));
    }
    let concern = world.put(3, |n| n.name = Hostname::sanitized("renamed"));
    assert_eq!(concern, Concern::Nodes([1, 2, 3].map(NodeId).into()));
    assert_eq!(world.map(1).peers.keys().copied().collect::<Vec<_>>(), [NodeId(3)]);
    assert!(world.map(4).peers.is_empty());
    assert!(world.view.are_peers(NodeId(1), NodeId(3)) && !world.view.are_peers(NodeId(1), NodeId(2)));
    // What others cannot see concerns the node alone.
    let concern = world.put(3, |n| n.advertised.extend(["10.0.0.0/8".parse::<Prefix>().unwrap()]));
    assert_eq!(concern, Concern::Nodes([3].map(NodeId).into()));
    assert_eq!(world.map(3).me.unwrap().pending_routes.len(), 1);
    // A policy that changes nothing for a class does not concern it.
    let text = r#"{"acls":[{"action":"accept","src":["tag:a"],"dst":["tag:b:22"]}]}"#;
    let concern = world.policy(text);
    assert!(concern.includes(NodeId(3)) && !concern.includes(NodeId(4)), "{concern:?}");
}

#[test]
fn a_route_is_seen_by_who_may_use_it_once_it_is_approved() {
    let mut world = World::new();
    world.policy(r#"{"acls":[{"action":"accept","src":["u1"],"dst":["10.1.0.0/16:443"]}]}"#);
    let lan: Prefix = "10.1.0.0/16".parse().unwrap();
    world.put(1, owned("u1"));
    world.put(2, owned("u2"));
    world.put(3, |n| {
        n.owner = Owner::local("u3");
        n.advertised.insert(lan);
    });
    assert!(world.map(1).peers.is_empty());
    world.put(3, |n| n.approved.extend([lan]));
    assert_eq!(world.map(1).owners(lan).collect::<Vec<_>>(), [NodeId(3)]);
    assert!(world.map(1).peers.contains_key(&NodeId(3)));
    assert!(world.map(2).routes.is_empty() && world.map(2).peers.is_empty());
    assert_eq!(world.map(3).owners(lan).collect::<Vec<_>>(), [NodeId(3)], "its own route");
    assert!(world.map(3).peers.contains_key(&NodeId(1)), "it must answer");
    // A name behind the route is shown to who may reach it.
    let name: DnsName = "nas.home.internal".parse().unwrap();
    let values = vec![RecordValue::Address("10.1.2.3".parse().unwrap())];
    let concern = world.commit(vec![Write::PutRecord(name, RecordType::A, RecordSet { ttl: 60, values })]);
    assert_eq!(concern, Concern::Nodes([1, 3].map(NodeId).into()));
    let names = |id| world.map(id).dns.records.len();
    assert_eq!((names(1), names(2), names(3)), (1, 0, 1));
}

impl World {
    fn record(&mut self, name: &str, kind: RecordType, values: &[&str]) -> Concern {
        let value = |text: &&str| match kind {
            RecordType::A => RecordValue::Address(text.parse().unwrap()),
            RecordType::Cname => RecordValue::Name(text.parse().unwrap()),
            _ => RecordValue::Text((*text).to_owned()),
        };
        let set = RecordSet { ttl: 60, values: values.iter().map(value).collect() };
        self.commit(vec![Write::PutRecord(name.parse().unwrap(), kind, set)])
    }

    /// What a node has under that name, as text.
    fn values(&self, id: u64, name: &str, kind: RecordType) -> Vec<String> {
        let map = self.map(id);
        let set = map.dns.records.get(&(name.parse().unwrap(), kind)).cloned();
        let text = |value: &RecordValue| crate::service::show_value(value);
        set.map(|set| set.values.iter().map(text).collect()).unwrap_or_default()
    }
}

/// 1 and 2 are u1's and see each other and node 3 (tag:t1); 4 is u2's, 5 is tag:t2 and sees nobody.
fn shielded() -> World {
    let mut world = World::new();
    world.policy(
        r#"{"acls":[{"action":"accept","src":["u1"],"dst":["u1:*","tag:t1:443"]},
                    {"action":"accept","src":["u2"],"dst":["u2:*"]}]}"#,
    );
    world.put(1, owned("u1"));
    world.put(2, owned("u1"));
    world.put(3, tagged("tag:t1"));
    world.put(4, owned("u2"));
    world.put(5, tagged("tag:t2"));
    world
}

#[test]
fn a_record_that_leads_to_a_hidden_node_is_hidden_too() {
    let mut world = shielded();
    let secret = "n3.home.internal";
    let concern = world.record("www.home.internal", RecordType::Cname, &[secret]);
    assert_eq!(concern, Concern::Nodes([1, 2, 3].map(NodeId).into()), "nobody else hears of it");
    world.record("_smb._tcp.home.internal", RecordType::Srv, &["0 5 445 n3.home.internal."]);
    world.record("home.internal", RecordType::Mx, &["10 n3.home.internal", "20 mail.example"]);
    world.record("www.corp.example", RecordType::Cname, &[secret]);
    world.record("3.0.64.100.in-addr.arpa", RecordType::Ptr, &[secret]);
    world.record("away.home.internal", RecordType::Cname, &["www.example"]);
    for (id, sees) in [(1, true), (2, true), (3, true), (4, false), (5, false)] {
        let text = format!("{:?}", world.map(id).dns.records);
        assert_eq!(text.contains(secret), sees, "node {id}: {text}");
        assert_eq!(world.values(id, "away.home.internal", RecordType::Cname), ["www.example"]);
    }
    let mail = |world: &World, id| world.values(id, "home.internal", RecordType::Mx);
    assert_eq!(mail(&world, 1), ["10 n3.home.internal", "20 mail.example"]);
    assert_eq!(mail(&world, 4), ["20 mail.example"], "the other value of the set stays");
    // What is open to all of a sudden shows them, and the name may go to another node.
    let concern = world.put(4, owned("u1"));
    assert!(!concern.includes(NodeId(5)), "{concern:?}");
    assert_eq!(mail(&world, 4).len(), 2);
    world.put(4, owned("u2"));
    world.put(3, |n| n.name = Hostname::sanitized("other"));
    assert_eq!(world.values(1, "www.home.internal", RecordType::Cname), Vec::<String>::new());
    world.put(4, |n| n.name = Hostname::sanitized("n3"));
    assert_eq!(world.values(4, "www.home.internal", RecordType::Cname), [secret]);
    assert_eq!(world.values(1, "www.home.internal", RecordType::Cname), Vec::<String>::new());
}

#[test]
fn what_stands_at_a_hidden_nodes_name_or_below_it_is_hidden_too() {
    let mut world = shielded();
    let records = [
        ("n3.home.internal", RecordType::Txt, "a note"),
        ("n3.home.internal", RecordType::Caa, "0 issue letsencrypt.org"),
        ("n3.home.internal", RecordType::Mx, "10 mail.example"),
        ("_http._tcp.n3.home.internal", RecordType::Txt, "path=/"),
        ("www.n3.home.internal", RecordType::Cname, "www.example"),
    ];
    for (name, kind, value) in records {
        world.record(name, kind, &[value]);
    }
    world.record("note.home.internal", RecordType::Txt, &["for everybody"]);
    for (id, sees) in [(1, true), (2, true), (3, true), (4, false), (5, false)] {
        for (name, kind, _) in records {
            assert_eq!(world.values(id, name, kind).len(), usize::from(sees), "{name} {kind:?} at node {id}");
        }
        assert_eq!(world.values(id, "note.home.internal", RecordType::Txt).len(), 1);
    }
    // A node that takes the name of what was open closes it to those who do not see the node; and back.
    world.put(3, |n| n.name = Hostname::sanitized("note"));
    assert_eq!(world.values(4, "note.home.internal", RecordType::Txt).len(), 0);
    assert_eq!(world.values(1, "note.home.internal", RecordType::Txt).len(), 1);
    assert_eq!(world.values(4, "n3.home.internal", RecordType::Txt).len(), 1, "nobody is called so any more");
    world.put(3, |n| n.name = Hostname::sanitized("n3"));
    assert_eq!(world.values(4, "note.home.internal", RecordType::Txt).len(), 1);
    assert_eq!(world.values(4, "n3.home.internal", RecordType::Txt).len(), 0);
}

#[test]
fn aliases_of_aliases_are_hidden_with_what_they_end_at_and_rings_are_nobodys() {
    let mut world = shielded();
    world.record("lan.home.internal", RecordType::A, &["100.64.0.3"]);
    let names = ["a.home.internal", "b.home.internal", "c.corp.example"];
    for (name, to) in [(names[0], names[1]), (names[1], names[2]), (names[2], "lan.home.internal")] {
        world.record(name, RecordType::Cname, &[to]);
    }
    for name in names {
        for (id, sees) in [(1, 1), (3, 1), (4, 0), (5, 0)] {
            assert_eq!(world.values(id, name, RecordType::Cname).len(), sees, "{name} at node {id}");
        }
    }
    // A wildcard for everybody does not answer for a node that is called so.
    world.record("*.home.internal", RecordType::A, &["192.0.2.1", "1.1.1.1"]);
    world.record("w.home.internal", RecordType::Cname, &["n3.home.internal"]);
    world.record("v.home.internal", RecordType::Cname, &["free.home.internal"]);
    assert_eq!(world.values(4, "w.home.internal", RecordType::Cname).len(), 0);
    assert_eq!(world.values(4, "v.home.internal", RecordType::Cname), ["free.home.internal"]);

    world.record("x.home.internal", RecordType::Cname, &["y.home.internal"]);
    world.record("y.home.internal", RecordType::Cname, &["x.home.internal"]);
    world.record("self.home.internal", RecordType::Cname, &["self.home.internal"]);
    for name in ["x.home.internal", "y.home.internal", "self.home.internal"] {
        assert_eq!(world.values(1, name, RecordType::Cname).len(), 0, "{name}");
    }
    // One that is left alone by everybody still sees what leads to itself, and of a set that value only.
    world.record("own.home.internal", RecordType::Srv, &["0 0 1 n5.home.internal", "0 0 1 n3.home.internal"]);
    world.record("alias.home.internal", RecordType::Cname, &["own.home.internal"]);
    assert_eq!(world.values(5, "own.home.internal", RecordType::Srv), ["0 0 1 n5.home.internal"]);
    assert_eq!(world.values(5, "alias.home.internal", RecordType::Cname).len(), 1);
    assert_eq!(world.values(1, "own.home.internal", RecordType::Srv), ["0 0 1 n3.home.internal"]);
    assert_eq!(world.values(4, "own.home.internal", RecordType::Srv), Vec::<String>::new());
}

#[test]
fn a_plain_device_is_a_peer_where_it_is_joined_and_a_host_route_elsewhere() {
    let mut world = World::new();
    world.policy(
        r#"{"acls":[{"action":"accept","src":["u1"],"dst":["u2:*"]},
                    {"action":"accept","src":["u2"],"dst":["u1:22"]}]}"#,
    );
    world.put(1, owned("gateway"));
    world.put(2, owned("u2"));
    world.put(3, owned("u3"));
    let mut phone = node(20);
    phone.kind = PeerKind::PlainWireguard;
    phone.machine_key = None;
    phone.via = Some(NodeId(1));
    phone.owner = Owner::local("u1");
    phone.name = Hostname::sanitized("phone");
    let addr = Prefix::host(phone.addrs.v4.into());
    world.commit(vec![Write::PutNode(phone)]);

    let at_gateway = world.map(1);
    assert_eq!(at_gateway.peers[&NodeId(20)].kind, PeerKind::PlainWireguard);
    assert!(at_gateway.routes.is_empty());
    let towards_phone = at_gateway.rules.values().flat_map(|r| &r.dsts);
    assert!(
        towards_phone
            .clone()
            .any(|d| d.to == meshd_proto::netmap::TargetAddr::Prefix(addr) && d.first_port == 22)
    );

    let other = world.map(2);
    assert!(!other.peers.contains_key(&NodeId(20)) && other.peers.contains_key(&NodeId(1)));
    assert_eq!(other.owners(addr).collect::<Vec<_>>(), [NodeId(1)]);
    assert!(other.dns.records.contains_key(&("phone.home.internal".parse().unwrap(), RecordType::A)));
    assert!(
        other.rules.values().any(|r| r.srcs.contains(&RuleSource::Prefix(addr))),
        "its packets count by address"
    );
    assert!(world.map(3).routes.is_empty() && world.map(3).peers.is_empty());
    assert!(world.view.snapshot(NodeId(20)).is_none(), "a device has no session and no map");
}

#[test]
fn who_is_revoked_or_waits_has_no_map_and_is_nobodys_peer() {
    let mut world = World::new();
    world.put(1, owned("u1"));
    world.put(2, owned("u2"));
    assert!(world.map(1).peers.contains_key(&NodeId(2)));
    let concern = world.put(2, |n| n.revoked = true);
    assert!(concern.includes(NodeId(1)) && concern.includes(NodeId(2)));
    assert!(world.map(1).peers.is_empty() && !world.view.has_map(NodeId(2)));
    world.put(2, |n| (n.revoked, n.admitted) = (false, false));
    assert!(!world.view.has_map(NodeId(2)) && world.map(1).peers.is_empty());
}

#[test]
fn an_empty_policy_denies_and_says_so() {
    let mut world = World::new();
    world.policy("{}");
    world.put(1, owned("u1"));
    world.put(2, owned("u1"));
    let map = world.map(1);
    assert!(map.filter_present && map.rules.is_empty() && map.peers.is_empty());
}

#[test]
fn class_keys_stay_with_their_ids() {
    let mut world = World::new();
    world.put(1, owned("u1"));
    let key = ClassKey { owner: Owner::local("u1"), tags: BTreeSet::new() };
    assert_eq!(world.model.class_of(&key), Some(world.map(1).me.unwrap().class));
}

#[test]
fn an_address_of_a_service_is_seen_by_whom_the_policy_lets_and_served_by_its_owners() {
    let mut world = World::new();
    for id in [1, 2] {
        world.put(id, tagged("tag:k8s-k"));
    }
    world.put(3, owned("u1"));
    world.put(4, owned("u2"));
    world.policy(
        r#"{"hosts":{"web":"10.98.0.7"},"acls":[{"action":"accept","src":["u1"],"dst":["web:80"]}]}"#,
    );
    let claim = |endpoint: &str| ServiceClaim {
        namespace: "default".parse().unwrap(),
        name: "web".parse().unwrap(),
        alias: None,
        addresses: vec!["10.98.0.7".parse().unwrap()],
        ports: vec![ServicePort {
            protocol: Transport::Tcp,
            port: 80,
            owners: [1, 2, 3]
                .map(|id| PortOwner { node: NodeId(id), endpoints: vec![endpoint.parse().unwrap()] })
                .to_vec(),
        }],
        sticky: false,
        sources: vec![],
    };
    let cluster = |endpoint: &str| {
        let claim = claim(endpoint);
        Write::PutCluster(Cluster {
            name: "k".parse().unwrap(),
            ranges: vec!["10.98.0.0/24".parse().unwrap()],
            services: [(claim.key(), Arc::new(claim))].into(),
            created: UnixSeconds(1),
            changed: Version(0),
        })
    };
    world.commit(vec![cluster("10.42.0.5:8080")]);
    let vip: Prefix = "10.98.0.7/32".parse().unwrap();
    let laptop = world.map(3);
    assert_eq!(laptop.owners(vip).collect::<Vec<_>>(), [NodeId(1), NodeId(2)], "node 3 has no tag");
    assert!(laptop.forwards.is_empty());
    let name: DnsName = "web.default.k.home.internal".parse().unwrap();
    assert!(laptop.dns.records.contains_key(&(name.clone(), RecordType::A)));
    let other = world.map(4);
    assert!(other.routes.is_empty() && other.peers.is_empty() && other.dns.records.is_empty(), "not granted");
    let owner = world.map(1);
    assert_eq!(owner.forwards.values().next().unwrap().endpoints, ["10.42.0.5:8080".parse().unwrap()]);
    assert!(
        owner
            .rules
            .values()
            .any(|r| r.dsts.iter().any(|t| t.to == meshd_proto::netmap::TargetAddr::Prefix(vip)))
    );

    let concern = world.commit(vec![cluster("10.42.0.6:8080")]);
    assert_eq!(
        concern,
        Concern::Nodes([NodeId(1), NodeId(2)].into()),
        "that a pod moved is for its nodes only"
    );
    let concern = world.commit(vec![Write::DeleteCluster("k".parse().unwrap())]);
    assert!(concern.includes(NodeId(3)) && !concern.includes(NodeId(4)));
    assert!(world.map(1).forwards.is_empty() && world.map(3).routes.is_empty());
}
