use super::*;
use meshd_proto::cluster::Transport;
use serde_json::{Value, json};

fn object<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn service(name: &str, edit: impl FnOnce(&mut Value)) -> Arc<Service> {
    let mut value = json!({
        "metadata": {"namespace": "default", "name": name, "annotations": {}, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "meshd.dev/mesh",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        },
    });
    edit(&mut value);
    object(value)
}

fn slice(service: &str, endpoints: &[(&str, &str, bool)]) -> Arc<EndpointSlice> {
    let one = |(ip, node, ready): &(&str, &str, bool)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": ready, "serving": ready}});
    object(json!({
        "metadata": {"namespace": "default", "name": format!("{service}-x"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": endpoints.iter().map(one).collect::<Vec<_>>(),
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }))
}

fn input(services: Vec<Arc<Service>>, slices: Vec<Arc<EndpointSlice>>) -> Input {
    let node = |name: &str, ip: &str| {
        object(
            json!({"metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": ip}]}}),
        )
    };
    let pool = json!({"metadata": {"name": "p"}, "spec": {"addresses": ["10.98.0.0/28", "fd98::/124"]}});
    Input {
        services,
        slices,
        nodes: vec![node("a", "100.71.0.1"), node("b", "192.168.1.9"), node("c", "192.168.1.10")],
        pools: vec![object({
            let mut pool = pool;
            pool["apiVersion"] = "meshd.dev/v1alpha1".into();
            pool["kind"] = "AddressPool".into();
            pool
        })],
        state: serde_json::from_value(json!({
            "name": "k", "tag": "tag:k8s-k", "domain": "k.home.internal", "ranges": ["10.98.0.0/24", "fd98::/64"],
            "revision": 7, "services": [],
            "nodes": [
                {"id": 1, "name": "one", "v4": "100.71.0.1", "v6": "fd00::1"},
                {"id": 2, "name": "b", "v4": "100.71.0.2", "v6": "fd00::2"},
            ],
        }))
        .unwrap(),
        default_class: false,
    }
}

fn key(name: &str) -> Key {
    Key { namespace: "default".to_owned(), name: name.to_owned() }
}

fn reason(plan: &Plan, name: &str) -> &'static str {
    plan.services[&key(name)].condition().unwrap().reason
}

#[test]
fn ready_endpoints_on_members_own_the_address_and_others_do_not() {
    let web = service("web", |_| {});
    let ends = slice(
        "web",
        &[
            ("10.42.1.5", "a", true),
            ("10.42.2.5", "b", true),
            ("10.42.2.6", "b", false),
            ("10.42.3.5", "c", true),
        ],
    );
    let plan = Plan::new(&input(vec![web], vec![ends]));
    let claim = &plan.set.services[0];
    assert_eq!(claim.addresses, ["10.98.0.0".parse::<IpAddr>().unwrap()]);
    assert_eq!(claim.ports[0].protocol, Transport::Tcp);
    let owners: Vec<_> = claim.ports[0].owners.iter().map(|o| (o.node.0, o.endpoints.clone())).collect();
    assert_eq!(
        owners,
        [(1, vec!["10.42.1.5:8080".parse().unwrap()]), (2, vec!["10.42.2.5:8080".parse().unwrap()])]
    );
    let condition = plan.services[&key("web")].condition().unwrap();
    assert!(condition.holds && condition.message.contains("served by one, b"), "{}", condition.message);
}

#[test]
fn nobody_who_serves_is_said_with_what_to_do() {
    let web = service("web", |_| {});
    let none = Plan::new(&input(vec![web.clone()], vec![]));
    assert_eq!(reason(&none, "web"), "NoEndpoints");
    let outside = Plan::new(&input(vec![web], vec![slice("web", &[("10.42.3.5", "c", true)])]));
    assert_eq!(reason(&outside, "web"), "NoMeshNode");
    let text = outside.services[&key("web")].condition().unwrap().message;
    assert!(text.contains("on c only") && text.contains("meshd.dev/node"), "{text}");
    assert_eq!(outside.set.services.len(), 1, "the address is held all the same");
}

#[test]
fn only_our_class_is_ours_and_the_default_only_when_asked() {
    let other = service("other", |s| s["spec"]["loadBalancerClass"] = "example.com/lb".into());
    let none = service("none", |s| drop(s["spec"].as_object_mut().unwrap().remove("loadBalancerClass")));
    let lan = service("lan", |s| s["spec"]["loadBalancerClass"] = "meshd.dev/lan".into());
    let cluster_ip = service("inner", |s| s["spec"]["type"] = "ClusterIP".into());
    let mut all = input(vec![other, none, lan, cluster_ip], vec![]);
    let plan = Plan::new(&all);
    assert_eq!(plan.services.keys().map(|k| k.name.as_str()).collect::<Vec<_>>(), ["lan"]);
    assert!(plan.services[&key("lan")].condition().is_none(), "another's status is not touched");
    all.default_class = true;
    assert!(Plan::new(&all).services.contains_key(&key("none")));
}

#[test]
fn a_service_that_is_ours_no_more_gives_its_address_back() {
    let ours = json!([{"manager": "meshd-operator", "operation": "Apply", "subresource": "status",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {"f:loadBalancer": {"f:ingress": {}}}}}]);
    let was = service("was", |s| {
        s["spec"]["type"] = "ClusterIP".into();
        s["metadata"]["managedFields"] = ours.clone();
        s["status"] = json!({"loadBalancer": {"ingress": [{"ip": "10.98.0.3", "ipMode": "VIP"}]}});
    });
    let plan = Plan::new(&input(vec![was.clone()], vec![]));
    assert_eq!(plan.services[&key("was")], Verdict::Release);
    let document = service_status(&was, &key("was"), &Verdict::Release, "now").unwrap();
    assert_eq!(document["status"], json!({}), "applied as ours, it takes back what was ours");
    assert!(plan.set.services.is_empty());

    let still = service("was", |s| {
        s["metadata"]["managedFields"] = ours;
        s["status"] = json!({"loadBalancer": {"ingress": [{"ip": "10.98.0.3", "ipMode": "VIP"}]}});
    });
    let plan = Plan::new(&input(vec![still], vec![]));
    assert_eq!(plan.set.services[0].addresses, ["10.98.0.3".parse::<IpAddr>().unwrap()]);
}

#[test]
fn what_was_published_before_the_status_was_written_is_kept() {
    let mut input = input(vec![service("a", |_| {}), service("web", |_| {})], vec![]);
    input.state.services =
        Plan::new(&input).set.services.into_iter().filter(|s| s.name.as_str() == "web").collect();
    let before = input.state.services[0].addresses.clone();
    let plan = Plan::new(&input);
    let web = plan.set.services.iter().find(|s| s.name.as_str() == "web").unwrap();
    assert_eq!(web.addresses, before);
}

#[test]
fn annotations_of_metallb_and_of_ours_are_read() {
    for (place, shared) in [
        ("meshd.dev/addresses", "meshd.dev/allow-shared-ip"),
        ("metallb.io/loadBalancerIPs", "metallb.io/allow-shared-ip"),
        ("metallb.universe.tf/loadBalancerIPs", "metallb.universe.tf/allow-shared-ip"),
    ] {
        let dns = |name: &str, protocol: &str| {
            service(name, |s| {
                s["metadata"]["annotations"] = json!({place: "10.98.0.5", shared: "dns"});
                s["spec"]["ports"] = json!([{"name": "dns", "protocol": protocol, "port": 53}]);
            })
        };
        let plan = Plan::new(&input(vec![dns("t", "TCP"), dns("u", "UDP")], vec![]));
        let all: Vec<_> = plan.set.services.iter().flat_map(|s| s.addresses.clone()).collect();
        assert_eq!(all, ["10.98.0.5".parse::<IpAddr>().unwrap(); 2], "{place}");
    }
}

#[test]
fn affinity_sources_a_name_and_both_families_come_along() {
    let web = service("web", |s| {
        s["metadata"]["annotations"] = json!({"meshd.dev/name": "blog"});
        s["spec"]["sessionAffinity"] = "ClientIP".into();
        s["spec"]["loadBalancerSourceRanges"] = json!([" 10.0.0.7/24 ", "100.71.0.0/16"]);
        s["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"]);
        s["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
    });
    let plan = Plan::new(&input(vec![web], vec![]));
    let claim = &plan.set.services[0];
    assert!(claim.sticky);
    assert_eq!(
        claim.sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/24", "100.71.0.0/16"]
    );
    assert_eq!(claim.alias.as_ref().unwrap().as_str(), "blog.k.home.internal");
    assert_eq!(claim.addresses.iter().map(|ip| ip.is_ipv4()).collect::<Vec<_>>(), [false, true]);

    let wrong = service("web", |s| s["spec"]["loadBalancerSourceRanges"] = json!(["everybody"]));
    let plan = Plan::new(&input(vec![wrong], vec![]));
    assert!(!plan.set.services[0].sources.is_empty(), "a mistake lets nobody in rather than everybody");
    assert!(plan.services[&key("web")].condition().unwrap().message.contains("lets nobody in"));
}

#[test]
fn a_status_is_written_once_and_keeps_the_time_of_its_change() {
    let web = service("web", |_| {});
    let plan = Plan::new(&input(vec![web.clone()], vec![slice("web", &[("10.42.1.5", "a", true)])]));
    let verdict = &plan.services[&key("web")];
    let document = service_status(&web, &key("web"), verdict, "2026-01-01T00:00:00Z").unwrap();
    assert_eq!(document["status"]["loadBalancer"]["ingress"], json!([{"ip": "10.98.0.0", "ipMode": "VIP"}]));
    let written = service("web", |s| s["status"] = document["status"].clone());
    assert!(service_status(&written, &key("web"), verdict, "2026-02-02T00:00:00Z").is_none());
    let other = Verdict::Refused { reason: "PoolExhausted", message: "no".to_owned() };
    let next = service_status(&written, &key("web"), &other, "2026-02-02T00:00:00Z").unwrap();
    assert!(next["status"].get("loadBalancer").is_none(), "an address that is not published is not shown");
    assert_eq!(next["status"]["conditions"][0]["lastTransitionTime"], "2026-02-02T00:00:00Z");
}

#[test]
fn what_the_coordinator_refused_shows_no_address() {
    let mut plan = Plan::new(&input(vec![service("web", |_| {})], vec![]));
    let refusal = serde_json::from_value(
        json!({"namespace": "default", "name": "web", "reason": "cluster `b` has it"}),
    );
    plan.refuse(&[refusal.unwrap()]);
    assert_eq!(reason(&plan, "web"), "CoordinatorRefused");
}
