use super::*;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use meshd_proto::gateway::{Match, PathMatch, ValueMatch};
use proptest::prelude::*;

fn build(json: &str) -> Result<Table, CompileError> {
    Table::build(&GatewayConfig::from_json(json)?, Reach::HostAndMesh, None)
}

/// A configuration with one route for each backend name `b0`, `b1`, …
fn web(routes: &[(Vec<&str>, Vec<Match>)]) -> Table {
    let mut config = GatewayConfig::from_json(
        r#"{"generation":1,"listeners":[{"name":"web","port":80,"protocol":"http"}]}"#,
    )
    .unwrap();
    for (i, (names, matches)) in routes.iter().enumerate() {
        let json = format!(r#"{{"name":"r{i}","listeners":["web"],"rules":[{{}}]}}"#);
        let mut route: meshd_proto::gateway::Route = serde_json::from_str(&json).unwrap();
        route.hostnames = names.iter().map(|n| n.parse().unwrap()).collect();
        route.rules[0].matches = matches.clone();
        config.routes.push(route);
    }
    Table::build(&config, Reach::HostAndMesh, None).unwrap()
}

fn asked<'a>(
    table: &'a Table,
    host: &str,
    method: &Method,
    target: &str,
    headers: &HeaderMap,
) -> Option<&'a str> {
    let uri: Uri = target.parse().unwrap();
    let line = RequestLine { method, uri: &uri, headers };
    let listener = table.listeners().next().unwrap();
    listener.route(Some(host), &line).map(|c| &*c.action.route)
}

/// The rules of Gateway API, one after the other, over all matches of all routes.
fn naive(
    routes: &[(Vec<&str>, Vec<Match>)],
    host: &str,
    method: &Method,
    target: &str,
    headers: &HeaderMap,
) -> Option<String> {
    let uri: Uri = target.parse().unwrap();
    let mut fitting = Vec::new();
    let mut order = 0;
    for (i, (names, matches)) in routes.iter().enumerate() {
        let hosts: Vec<(usize, usize)> = if names.is_empty() {
            vec![(0, 0)]
        } else {
            names
                .iter()
                .filter_map(|n| match n.strip_prefix('*') {
                    None => (*n == host).then_some((n.len(), n.len())),
                    Some(end) => (host.ends_with(end) && host.len() > end.len()).then_some((0, n.len())),
                })
                .collect()
        };
        let every = vec![Match::default()];
        for one in if matches.is_empty() { &every } else { matches } {
            order += 1;
            let Some(best) = hosts.iter().max() else { continue };
            let path = uri.path();
            let (exact, length) = match &one.path {
                None => (false, 0),
                Some(PathMatch::Exact(p)) if p == path => (true, p.len()),
                Some(PathMatch::Prefix(p)) => {
                    let p = p.trim_end_matches('/');
                    let below = path == p || path.starts_with(&format!("{p}/"));
                    if !below {
                        continue;
                    }
                    (false, p.len())
                }
                Some(PathMatch::Exact(_)) => continue,
            };
            let query: Vec<(&str, &str)> =
                uri.query().unwrap_or("").split('&').map(|p| p.split_once('=').unwrap_or((p, ""))).collect();
            let fits = one.method.as_ref().is_none_or(|m| m == method.as_str())
                && one.headers.iter().all(|h| headers.get_all(&h.name).iter().any(|v| v == &h.value))
                && one
                    .query
                    .iter()
                    .all(|q| query.iter().find(|(n, _)| *n == q.name).is_some_and(|(_, v)| *v == q.value));
            if fits {
                let rank = (*best, exact, length, one.method.is_some(), one.headers.len(), one.query.len());
                fitting.push((rank, std::cmp::Reverse(order), format!("r{i}")));
            }
        }
    }
    fitting.into_iter().max().map(|(_, _, name)| name)
}

fn any_match() -> impl Strategy<Value = Match> {
    let path = prop_oneof![
        Just(None),
        prop::sample::select(vec!["/", "/a", "/a/b", "/a/", "/ab"])
            .prop_map(|p| Some(PathMatch::Prefix(p.to_owned()))),
        prop::sample::select(vec!["/", "/a", "/a/b"]).prop_map(|p| Some(PathMatch::Exact(p.to_owned()))),
    ];
    let pair = |names: [&'static str; 2]| {
        prop::collection::vec(
            (prop::sample::select(names.to_vec()), prop::sample::select(vec!["1", "2"]))
                .prop_map(|(n, v)| ValueMatch { name: n.to_owned(), value: v.to_owned() }),
            0..3,
        )
    };
    let method = prop::option::of(prop::sample::select(vec!["GET", "POST"]).prop_map(str::to_owned));
    (path, method, pair(["x-a", "x-b"]), pair(["q", "p"])).prop_map(|(path, method, headers, query)| Match {
        path,
        method,
        headers,
        query,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn the_chosen_rule_is_the_one_that_a_naive_reading_of_gateway_api_chooses(
        routes in prop::collection::vec(
            (prop::sample::subsequence(vec!["a.example.com", "*.example.com", "*.com", "b.a.example.com", "*.a.example.com"], 0..4),
             prop::collection::vec(any_match(), 0..4)), 0..6),
        host in prop::sample::select(vec!["a.example.com", "b.a.example.com", "example.com", "x.com", "other.org"]),
        post in any::<bool>(),
        target in prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/a?q=1", "/a?q=1&p=2", "/a?q=2&q=1"]),
        fields in prop::collection::vec((prop::sample::select(vec!["x-a", "x-b"]), prop::sample::select(vec!["1", "2"])), 0..3),
    ) {
        let table = web(&routes);
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let method = if post { Method::POST } else { Method::GET };
        let expected = naive(&routes, host, &method, target, &headers);
        prop_assert_eq!(asked(&table, host, &method, target, &headers), expected.as_deref());
    }
}

#[test]
fn the_listener_with_the_best_name_serves_and_no_other() {
    let table = build(
        r#"{"generation":1,
        "listeners":[{"name":"any","port":80,"protocol":"http"},
                     {"name":"one","port":80,"protocol":"http","hostnames":["a.example"]}],
        "routes":[{"name":"r","listeners":["any"],"rules":[{}]}]}"#,
    )
    .unwrap();
    let bind = table.binds.values().next().unwrap();
    assert_eq!(&*bind.listener(Some("a.example")).unwrap().name, "one");
    assert_eq!(&*bind.listener(Some("b.example")).unwrap().name, "any");
    // The route of the other listener does not serve this one's name.
    let line = RequestLine { method: &Method::GET, uri: &Uri::from_static("/"), headers: &HeaderMap::new() };
    assert!(bind.listener(Some("a.example")).unwrap().route(Some("a.example"), &line).is_none());
}

#[test]
fn a_route_serves_the_names_that_it_shares_with_its_listener() {
    let table = build(
        r#"{"generation":1,
        "listeners":[{"name":"l","port":443,"protocol":"tls","hostnames":["*.example.com"]}],
        "routes":[{"name":"in","listeners":["l"],"hostnames":["a.example.com","other.org"],"rules":[{}]},
                  {"name":"out","listeners":["l"],"hostnames":["other.org"],"rules":[{}]}]}"#,
    )
    .unwrap();
    let listener = table.listeners().next().unwrap();
    assert_eq!(&*listener.stream(Some("a.example.com")).unwrap().route, "in");
    assert!(listener.stream(Some("b.example.com")).is_none());
    assert!(listener.stream(Some("other.org")).is_none());
    assert!(listener.stream(None).is_none());
    assert_eq!(table.warnings.len(), 1);
    assert!(table.warnings[0].contains("`out`"));
}

#[test]
fn an_exit_has_no_backend_outside_the_mesh() {
    let config = |endpoint: &str| {
        GatewayConfig::from_json(&format!(
            r#"{{"generation":1,"backends":[{{"name":"b","endpoints":[{endpoint}]}}]}}"#
        ))
        .unwrap()
    };
    let refused =
        |endpoint: &str| Table::build(&config(endpoint), Reach::MeshOnly, None).unwrap_err().to_string();
    assert!(
        refused(r#"{"address":"192.0.2.1","port":80}"#)
            .contains("backends[0].endpoints[0]: 192.0.2.1 is in the host's network")
    );
    assert!(refused(r#"{"address":"192.0.2.1","port":80,"network":"mesh"}"#).contains("no mesh address"));
    assert!(refused(r#"{"address":"127.0.0.1","port":80,"network":"mesh"}"#).contains("no mesh address"));
    assert!(
        refused(r#"{"address":"::ffff:127.0.0.1","port":80,"network":"mesh"}"#).contains("no mesh address")
    );
    let right = Table::build(
        &config(r#"{"address":"100.64.3.4","port":80,"network":"mesh"}"#),
        Reach::MeshOnly,
        None,
    )
    .unwrap();
    let addr = right.backends["b"].endpoints().next().unwrap().addr;
    assert!(matches!(addr, BackendAddr::Mesh(..)));
}

fn backend(balance: &str, endpoints: &[(&str, u16, bool)]) -> Arc<Backend> {
    let list: Vec<String> = endpoints
        .iter()
        .map(|(ip, weight, ready)| {
            format!(r#"{{"address":"{ip}","port":1,"weight":{weight},"ready":{ready}}}"#)
        })
        .collect();
    let json = format!(
        r#"{{"generation":1,"backends":[{{"name":"b","balance":"{balance}","endpoints":[{}]}}]}}"#,
        list.join(",")
    );
    Arc::clone(&build(&json).unwrap().backends["b"])
}

#[test]
fn shares_follow_weights_and_readiness() {
    let now = crate::clock::now();
    let client = "192.0.2.9".parse().unwrap();
    let backend =
        backend("round-robin", &[("10.0.0.1", 3, true), ("10.0.0.2", 1, true), ("10.0.0.3", 9, false)]);
    let mut counts = HashMap::new();
    for _ in 0..4000 {
        *counts.entry(backend.pick(client, &[], now).unwrap().addr.to_string()).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 2);
    assert!((2950..3050).contains(&counts["10.0.0.1:1"]), "{counts:?}");
    let first = backend.endpoints().next().unwrap().addr;
    assert_eq!(backend.pick(client, &[first], now).unwrap().addr.to_string(), "10.0.0.2:1");
}

#[test]
fn the_less_busy_endpoint_is_taken_and_an_unwell_one_left_alone() {
    let now = crate::clock::now();
    let client = "192.0.2.9".parse().unwrap();
    let backend = backend("least-request", &[("10.0.0.1", 1, true), ("10.0.0.2", 1, true)]);
    let busy = backend.endpoints().next().unwrap();
    busy.active.store(5, std::sync::atomic::Ordering::Relaxed);
    for _ in 0..50 {
        assert_eq!(backend.pick(client, &[], now).unwrap().addr.to_string(), "10.0.0.2:1");
    }
    let other = backend.endpoints().nth(1).unwrap();
    for _ in 0..10 {
        other.wellness.failed(now, true);
    }
    assert_eq!(backend.pick(client, &[], now).unwrap().addr.to_string(), "10.0.0.1:1");
    for _ in 0..10 {
        busy.wellness.failed(now, true);
    }
    assert!(backend.pick(client, &[], now).is_some(), "all are unwell: any is better than none");
}

#[test]
fn a_client_keeps_its_endpoint_and_only_those_of_a_gone_one_move() {
    let now = crate::clock::now();
    let all = backend("source-hash", &[("10.0.0.1", 1, true), ("10.0.0.2", 1, true), ("10.0.0.3", 1, true)]);
    let fewer =
        backend("source-hash", &[("10.0.0.1", 1, true), ("10.0.0.2", 1, true), ("10.0.0.3", 1, false)]);
    let mut by_endpoint = HashMap::new();
    for i in 0..600u32 {
        let client = IpAddr::from(std::net::Ipv4Addr::from(0x0a01_0000 + i));
        let before = all.pick(client, &[], now).unwrap().addr;
        assert_eq!(all.pick(client, &[], now).unwrap().addr, before);
        let after = fewer.pick(client, &[], now).unwrap().addr;
        if before.to_string() != "10.0.0.3:1" {
            assert_eq!(before, after);
        }
        *by_endpoint.entry(before.to_string()).or_insert(0) += 1;
    }
    assert!(by_endpoint.values().all(|n| (120..280).contains(n)), "{by_endpoint:?}");
}

#[test]
fn endpoints_counters_and_connections_outlive_a_change() {
    let json = r#"{"generation":1,"listeners":[{"name":"l","port":80,"protocol":"http"}],
        "routes":[{"name":"r","listeners":["l"],"rules":[{"backends":[{"backend":"b"}]}]}],
        "backends":[{"name":"b","endpoints":[{"address":"10.0.0.1","port":1}]}]}"#;
    let first = build(json).unwrap();
    let more = json.replace(r#""endpoints":["#, r#""endpoints":[{"address":"10.0.0.2","port":1},"#);
    let next =
        Table::build(&GatewayConfig::from_json(&more).unwrap(), Reach::HostAndMesh, Some(&first)).unwrap();
    let same = next.backends["b"].endpoints().find(|e| e.addr.to_string() == "10.0.0.1:1").unwrap();
    assert!(Arc::ptr_eq(same, first.backends["b"].endpoints().next().unwrap()));
    assert!(Arc::ptr_eq(&next.stats["r"], &first.stats["r"]));
    // Connections made with PROXY headers are not those made without.
    let other = more.replace(r#""name":"b","#, r#""name":"b","send_proxy":true,"#);
    let last =
        Table::build(&GatewayConfig::from_json(&other).unwrap(), Reach::HostAndMesh, Some(&next)).unwrap();
    assert!(!last.backends["b"].endpoints().any(|e| Arc::ptr_eq(e, same)));
}

#[test]
fn paths_are_rewritten_and_clients_redirected_as_gateway_api_says() {
    let prefix = |new: &str| PathEdit::Prefix(new.to_owned());
    for (edit, path, matched, expected) in [
        (prefix("/xyz"), "/foo/bar", "/foo", "/xyz/bar"),
        (prefix("/xyz/"), "/foo/bar", "/foo", "/xyz/bar"),
        (prefix("/"), "/foo/bar", "/foo", "/bar"),
        (prefix("/"), "/foo", "/foo", "/"),
        (prefix("/xyz"), "/foo", "/foo", "/xyz"),
        (PathEdit::Full("/x".into()), "/foo/bar", "/foo", "/x"),
    ] {
        assert_eq!(edit.apply(path, matched), expected);
    }
    let to = |scheme, port, hostname: Option<&str>| RedirectTo {
        scheme,
        hostname: hostname.map(str::to_owned),
        port,
        path: None,
        status: hyper::StatusCode::FOUND,
    };
    let at = |r: RedirectTo| r.location("http", "a.example", 8080, "/p", Some("q=1"), "");
    assert_eq!(at(to(Some("https"), None, None)), "https://a.example/p?q=1");
    assert_eq!(at(to(None, None, None)), "http://a.example:8080/p?q=1");
    assert_eq!(at(to(Some("https"), Some(8443), Some("b"))), "https://b:8443/p?q=1");
}
