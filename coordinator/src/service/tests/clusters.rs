//! Clusters: what may be delegated, who may publish, and who keeps an address.

use super::*;
use meshd_proto::cluster::{AddressRange, ServiceClaim, ServiceSet};

fn ranges(list: &[&str]) -> Vec<AddressRange> {
    list.iter().map(|r| r.parse().unwrap()).collect()
}

fn claim(name: &str, address: &str, port: u16) -> ServiceClaim {
    serde_json::from_value(serde_json::json!({
        "namespace": "default", "name": name, "addresses": [address],
        "ports": [{"protocol": "tcp", "port": port, "owners": [{"node": 1, "endpoints": ["10.42.0.5:80"]}]}],
    }))
    .unwrap()
}

fn set(services: &[ServiceClaim]) -> ServiceSet {
    ServiceSet { services: services.to_vec() }
}

/// Two clusters, each with its operator.
async fn two(service: &Service) -> [Actor; 2] {
    let mut actors = Vec::new();
    for (name, range) in [("a", "10.98.0.0/24"), ("b", "10.98.1.0/24")] {
        service.put_cluster(&ROOT, name, &ranges(&[range]), NOW).await.unwrap();
        let token = service.create_cluster_token(&ROOT, name, 3600, NOW).await.unwrap();
        actors.push(service.authenticate(&token.secret, NOW).await.unwrap().unwrap());
    }
    actors.try_into().unwrap()
}

#[tokio::test]
async fn an_operators_credential_publishes_for_its_own_cluster_and_does_nothing_else() {
    let (dir, service) = fresh().await;
    let [a, b] = two(&service).await;
    let web = set(&[claim("web", "10.98.0.7", 80)]);
    let state = service.publish_services(&a, "a", web.clone(), None, NOW).await.unwrap();
    assert!(state.refused.is_empty() && state.services == web.services);
    for (actor, cluster) in [(&b, "a"), (&a, "b")] {
        let refused = service.publish_services(actor, cluster, ServiceSet::default(), None, NOW).await;
        assert!(matches!(refused, Err(ServiceError::Forbidden { .. })), "{cluster}");
        assert!(matches!(service.cluster(actor, cluster), Err(ServiceError::Forbidden { .. })));
    }
    assert!(service.clusters(&a).is_err() && service.records(&a).is_err());
    assert!(service.put_cluster(&a, "a", &ranges(&["10.0.0.0/8"]), NOW).await.is_err());
    assert!(service.create_cluster_token(&a, "a", 60, NOW).await.is_err());
    drop(service);

    let again = open(&dir).await;
    assert_eq!(again.cluster(&ROOT, "a").unwrap().services, web.services, "it is on the disk");
    let token = again.create_cluster_token(&ROOT, "a", 3600, NOW).await.unwrap();
    again.remove_cluster(&ROOT, "a", NOW).await.unwrap();
    assert!(again.authenticate(&token.secret, NOW).await.unwrap().is_none(), "its operator is out");
    assert!(again.cluster(&ROOT, "a").is_err());
}

#[tokio::test]
async fn what_cannot_be_published_is_named_and_the_rest_is_published() {
    let (_dir, service) = fresh().await;
    let [a, _] = two(&service).await;
    let secret = token(&service, |_| {}).await;
    let node = service.register(&machine(1, Some(&secret)), NOW).await.unwrap();
    let mut named = claim("named", "10.98.0.9", 80);
    named.alias = Some("pi.home.internal".parse().unwrap());
    let mut taken_name = claim("thief", "10.98.0.10", 80);
    taken_name.alias = Some("web.shop.a.home.internal".parse().unwrap());
    let mut own_name = claim("own", "10.98.0.11", 80);
    own_name.alias = Some("www.default.a.home.internal".parse().unwrap());
    let all = [
        taken_name,
        own_name,
        claim("web", "10.98.0.7", 80),
        claim("other-port", "10.98.0.7", 443),
        claim("z-same-port", "10.98.0.7", 80),
        claim("outside", "10.98.9.7", 80),
        claim("of-a-node", &node.addrs.v4.to_string(), 80),
        claim("loop", "127.0.0.1", 80),
        named,
    ];
    let state = service.publish_services(&a, "a", set(&all), None, NOW).await.unwrap();
    let taken: Vec<_> = state.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(taken, ["other-port", "own", "web"]);
    let refused: Vec<_> = state.refused.iter().map(|r| r.service.name.as_str()).collect();
    assert_eq!(refused, ["loop", "named", "of-a-node", "outside", "thief", "z-same-port"]);
    let why = &state.refused.iter().find(|r| r.service.name.as_str() == "outside").unwrap().reason;
    assert!(why.contains("clusters add a --range"), "{why}");
}

#[tokio::test]
async fn the_first_holder_of_an_address_keeps_it() {
    let (_dir, service) = fresh().await;
    let [a, _] = two(&service).await;
    let late = claim("later", "10.98.0.7", 80);
    service.publish_services(&a, "a", set(std::slice::from_ref(&late)), None, NOW).await.unwrap();
    // `early` comes first by name, and second in time.
    let both = set(&[claim("early", "10.98.0.7", 80), late.clone()]);
    let state = service.publish_services(&a, "a", both.clone(), None, NOW).await.unwrap();
    assert_eq!(state.services, [late]);
    assert!(state.refused[0].reason.contains("default/later has 10.98.0.7"), "{}", state.refused[0].reason);
    let version = service.model().version;
    service.publish_services(&a, "a", both, None, NOW).await.unwrap();
    assert_eq!(service.model().version, version, "the same set again changes nothing");
    let moved = service.put_cluster(&ROOT, "b", &ranges(&["10.98.0.0/25"]), NOW).await;
    assert!(moved.unwrap_err().to_string().contains("cluster `a` has 10.98.0.0/24"));
    let shrunk = service.put_cluster(&ROOT, "a", &ranges(&["10.98.0.128/25"]), NOW).await;
    assert!(shrunk.unwrap_err().to_string().contains("default/later"), "a held address stays inside");
}

#[tokio::test]
async fn an_older_revision_is_refused() {
    let (_dir, service) = fresh().await;
    let [a, _] = two(&service).await;
    let first = service.cluster(&a, "a").unwrap().revision;
    let web = set(&[claim("web", "10.98.0.7", 80)]);
    service.publish_services(&a, "a", web, Some(first), NOW).await.unwrap();
    let stale = service.publish_services(&a, "a", ServiceSet::default(), Some(first), NOW).await;
    assert!(matches!(stale, Err(ServiceError::Conflict(_))));
    assert_eq!(service.cluster(&a, "a").unwrap().services.len(), 1);
}

#[tokio::test]
async fn ranges_that_belong_to_nodes_links_or_nobody_are_not_delegated() {
    let (_dir, service) = fresh().await;
    let secret = token(&service, |_| {}).await;
    let node = service.register(&machine(1, Some(&secret)), NOW).await.unwrap();
    let mesh = service.model().mesh.prefixes;
    let host = |n: u32| std::net::Ipv4Addr::from(u32::from(mesh.v4.network()) + n).to_string();
    let inside = format!("{}-{}", host(1000), host(1099));
    for bad in [
        "127.0.0.0/8".to_owned(),
        "169.254.1.0/24".to_owned(),
        "224.0.0.0/8".to_owned(),
        "::/0".to_owned(),
        "0.0.0.0/0".to_owned(),
        node.addrs.v4.to_string(),
        mesh.v4.to_string(),
        mesh.v6.to_string(),
        mesh.resolver().v4.to_string(),
    ] {
        assert!(service.put_cluster(&ROOT, "k", &ranges(&[&bad]), NOW).await.is_err(), "{bad}");
    }
    assert!(service.put_cluster(&ROOT, "k", &ranges(&["10.0.0.0/24", "10.0.0.7"]), NOW).await.is_err());
    assert!(service.put_cluster(&ROOT, "not a label", &ranges(&["10.0.0.0/24"]), NOW).await.is_err());
    service.put_cluster(&ROOT, "k", &ranges(&[&inside, "fd98::/112"]), NOW).await.unwrap();
}
