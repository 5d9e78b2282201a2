use super::*;
use crate::model::tests::model;
use crate::model::{NodeRecord, Owner};
use meshd_proto::cluster::{PortOwner, ServicePort};
use meshd_proto::netmap::PeerKind;
use meshd_proto::{ClassId, MeshAddrs, NodeKey};

fn node(id: u8) -> NodeRecord {
    NodeRecord {
        id: NodeId(id.into()),
        machine_key: None,
        node_key: NodeKey::from_bytes([id; 32]),
        name: format!("n{id}").parse().unwrap(),
        renamed: false,
        addrs: MeshAddrs { v4: [100, 64, 1, id].into(), v6: format!("fd00::{id:x}").parse().unwrap() },
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
        os: String::new(),
        client_version: String::new(),
        created: UnixSeconds(1),
        kind: PeerKind::Meshd,
        via: None,
        publishing: crate::model::Publishing::default(),
        changed: Version(0),
    }
}

fn claim(name: &str, address: &str, ports: &[(u16, &[u64])]) -> ServiceClaim {
    let owner = |id: &u64| PortOwner {
        node: NodeId(*id),
        endpoints: vec![format!("10.42.{id}.5:8080").parse().unwrap()],
    };
    ServiceClaim {
        namespace: "default".parse().unwrap(),
        name: name.parse().unwrap(),
        alias: Some(format!("{name}.k.home.internal").parse().unwrap()),
        addresses: vec![address.parse().unwrap()],
        ports: ports
            .iter()
            .map(|(port, owners)| ServicePort {
                protocol: Transport::Tcp,
                port: *port,
                owners: owners.iter().map(owner).collect(),
            })
            .collect(),
        sticky: false,
        sources: vec![],
    }
}

fn with(claims: Vec<ServiceClaim>, tagged: &[u8]) -> Model {
    let mut model = model(5);
    for id in tagged {
        let mut node = node(*id);
        node.tags.insert("tag:k8s-k".parse().unwrap());
        model.nodes.insert(node.id, Arc::new(node));
    }
    let cluster = Cluster {
        name: "k".parse().unwrap(),
        ranges: vec!["10.98.0.0/24".parse().unwrap()],
        services: claims.into_iter().map(|c| (c.key(), Arc::new(c))).collect(),
        created: UnixSeconds(1),
        changed: Version(5),
    };
    model.clusters.insert(cluster.name.clone(), Arc::new(cluster));
    model
}

fn owners(serving: &Serving, ip: &str) -> Vec<u64> {
    let prefix = Prefix::host(ip.parse().unwrap());
    serving.nodes.iter().filter(|(_, s)| s.prefixes.contains(&prefix)).map(|(id, _)| id.0).collect()
}

#[test]
fn an_address_belongs_to_the_nodes_that_serve_most_of_its_ports() {
    let all = with(vec![claim("web", "10.98.0.7", &[(80, &[1, 2]), (443, &[2])])], &[1, 2]);
    assert_eq!(owners(&Serving::of(&all), "10.98.0.7"), [2], "node 1 would not answer 443");
    let apart = with(vec![claim("web", "10.98.0.7", &[(80, &[1]), (443, &[2])])], &[1, 2]);
    assert_eq!(owners(&Serving::of(&apart), "10.98.0.7"), [1, 2]);
    let shared = with(
        vec![claim("tcp", "10.98.0.7", &[(53, &[1, 2])]), claim("udp", "10.98.0.7", &[(54, &[1, 2])])],
        &[1, 2],
    );
    let serving = Serving::of(&shared);
    assert_eq!(owners(&serving, "10.98.0.7"), [1, 2]);
    assert_eq!(serving.by(NodeId(1)).unwrap().forwards.len(), 2);
}

#[test]
fn a_node_without_the_clusters_tag_serves_nothing() {
    let model = with(vec![claim("web", "10.98.0.7", &[(80, &[1, 2])])], &[2]);
    assert_eq!(owners(&Serving::of(&model), "10.98.0.7"), [2]);
}

#[test]
fn a_service_whose_sources_are_of_the_other_family_only_is_served_to_nobody() {
    let mut web = claim("web", "10.98.0.7", &[(80, &[1])]);
    web.sources = vec!["fd00::/8".parse().unwrap()];
    assert!(Serving::of(&with(vec![web], &[1])).is_empty());
}

#[test]
fn a_service_has_its_own_name_and_the_chosen_one() {
    let model = with(vec![claim("web", "10.98.0.7", &[(80, &[1])])], &[1]);
    let domain: DnsName = "home.internal".parse().unwrap();
    let cluster = model.clusters.values().next().unwrap();
    let names: Vec<String> = cluster.records(&domain, 60).map(|((n, _), _)| n.to_string()).collect();
    assert_eq!(names, ["web.default.k.home.internal", "web.k.home.internal"]);
}
