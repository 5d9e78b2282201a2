//! The authorization matrix of the command line: every command that clap knows × whoever may run it.
//!
//! A command either asks routes of the table, which `api/matrix` tries with every kind of credential, or says
//! why nobody is asked. Each one is really run, against the real router on a socket, as root and as another
//! user; what it asked is compared with its row. A command without a row fails here.

use super::*;
use crate::api::{self, Api, Transport};
use crate::clock;
use crate::service::{Actor, Founding, Service};
use crate::store::{StateDir, Store};
use axum::http::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tower::ServiceExt;

/// What a command does.
enum Way {
    /// It asks the running coordinator these routes, in order.
    Asks(&'static [&'static str]),
    /// It asks nobody; what keeps others from it.
    AsksNobody(&'static str),
}

use Way::{Asks, AsksNobody};

/// Command, the arguments it is tried with (`FILE`, `POLICY`, `NAMES`, `CODE` stand for what is made for it), what it does.
const ROWS: &[(&str, &str, Way)] = &[
    (
        "serve",
        "",
        AsksNobody("it is the coordinator: whoever may read its state directory and bind its port"),
    ),
    ("restore", "", AsksNobody("it writes the state directory, which only its owner may enter")),
    ("completions", "", AsksNobody("it prints what it knows itself")),
    ("man", "", AsksNobody("it prints what it knows itself")),
    ("version", "", AsksNobody("it prints what it knows itself")),
    ("status", "", Asks(&["GET /api/v1/status"])),
    ("token create", "", Asks(&["POST /api/v1/tokens"])),
    ("token list", "", Asks(&["GET /api/v1/tokens"])),
    ("token revoke", "1", Asks(&["DELETE /api/v1/tokens/{id}"])),
    ("join list", "", Asks(&["GET /api/v1/join-requests"])),
    ("join approve", "CODE", Asks(&["GET /api/v1/join-requests", "POST /api/v1/join-requests/{id}/approve"])),
    ("join refuse", "CODE", Asks(&["GET /api/v1/join-requests", "POST /api/v1/join-requests/{id}/refuse"])),
    ("nodes list", "", Asks(&["GET /api/v1/nodes"])),
    ("nodes show", "pi", Asks(&["GET /api/v1/nodes/{name}"])),
    ("nodes paths", "pi", Asks(&["GET /api/v1/nodes/{name}/paths"])),
    ("nodes remove", "pi", Asks(&["DELETE /api/v1/nodes/{name}"])),
    ("nodes rename", "pi pie", Asks(&["PATCH /api/v1/nodes/{name}"])),
    ("nodes approve", "pi", Asks(&["POST /api/v1/nodes/{name}/approve"])),
    ("nodes expire", "pi", Asks(&["POST /api/v1/nodes/{name}/expire"])),
    ("nodes revoke", "pi", Asks(&["POST /api/v1/nodes/{name}/revoke"])),
    ("nodes tag", "pi tag:a", Asks(&["PATCH /api/v1/nodes/{name}"])),
    ("routes list", "", Asks(&["GET /api/v1/routes"])),
    ("routes approve", "pi 10.1.0.0/16", Asks(&["POST /api/v1/nodes/{name}/routes/approve"])),
    ("routes unapprove", "pi 10.1.0.0/16", Asks(&["POST /api/v1/nodes/{name}/routes/unapprove"])),
    ("exits", "", Asks(&["GET /api/v1/exits"])),
    ("exposures list", "", Asks(&["GET /api/v1/exposures"])),
    ("exposures remove", "pi", Asks(&["DELETE /api/v1/exposures/{name}"])),
    ("exposures remove", "pi 7", Asks(&["DELETE /api/v1/exposures/{name}/{id}"])),
    ("relays list", "", Asks(&["GET /api/v1/relays"])),
    (
        "relays add",
        "r2 --host 192.0.2.7 --key AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        Asks(&["POST /api/v1/relays"]),
    ),
    ("relays remove", "r2", Asks(&["DELETE /api/v1/relays/{name}"])),
    ("clusters add", "prod --range 10.99.0.0/24", Asks(&["PUT /api/v1/clusters/{name}"])),
    ("clusters list", "", Asks(&["GET /api/v1/clusters"])),
    ("clusters services", "prod", Asks(&["GET /api/v1/clusters/{name}/services"])),
    ("clusters token", "prod", Asks(&["POST /api/v1/clusters/{name}/token"])),
    ("clusters remove", "prod", Asks(&["DELETE /api/v1/clusters/{name}"])),
    ("dns add", "printer 192.0.2.9", Asks(&["POST /api/v1/dns/records"])),
    ("dns remove", "printer", Asks(&["DELETE /api/v1/dns/records/{name}"])),
    ("dns list", "", Asks(&["GET /api/v1/dns/records"])),
    ("dns explain", "printer --as pi", Asks(&["GET /api/v1/dns/explain"])),
    ("dns settings", "", Asks(&["GET /api/v1/dns/declared"])),
    ("dns export", "", Asks(&["GET /api/v1/dns/declared"])),
    ("dns split add", "corp.example 192.0.2.53", Asks(&["PUT /api/v1/dns/split/{domain}"])),
    ("dns split remove", "corp.example", Asks(&["DELETE /api/v1/dns/split/{domain}"])),
    ("dns nameservers", "9.9.9.9", Asks(&["PUT /api/v1/dns/nameservers"])),
    ("dns search", "corp.example", Asks(&["PUT /api/v1/dns/search"])),
    ("dns apply", "NAMES", Asks(&["PUT /api/v1/dns/declared"])),
    ("policy show", "", Asks(&["GET /api/v1/policy"])),
    ("policy set", "POLICY", Asks(&["PUT /api/v1/policy"])),
    ("policy plan", "POLICY", Asks(&["POST /api/v1/policy/plan"])),
    ("policy rollback", "1", Asks(&["POST /api/v1/policy/rollback"])),
    ("policy check", "POLICY", Asks(&["POST /api/v1/policy/check"])),
    ("policy explain", "192.0.2.1 192.0.2.2:80", Asks(&["GET /api/v1/policy/explain"])),
    ("policy history", "", Asks(&["GET /api/v1/policy/history"])),
    ("api-token create", "ci", Asks(&["POST /api/v1/api-tokens"])),
    ("api-token list", "", Asks(&["GET /api/v1/api-tokens"])),
    ("api-token revoke", "1", Asks(&["DELETE /api/v1/api-tokens/{id}"])),
    ("users list", "", Asks(&["GET /api/v1/users"])),
    ("users invite", "", Asks(&["POST /api/v1/invitations"])),
    ("users role", "ada auditor", Asks(&["PATCH /api/v1/users/{name}"])),
    ("users disable", "ada", Asks(&["PATCH /api/v1/users/{name}"])),
    ("users enable", "ada", Asks(&["PATCH /api/v1/users/{name}"])),
    ("users remove", "ada", Asks(&["DELETE /api/v1/users/{name}"])),
    ("admin-link", "", Asks(&["POST /api/v1/admin-link"])),
    ("audit list", "", Asks(&["GET /api/v1/audit"])),
    ("audit verify", "", Asks(&["GET /api/v1/audit/verify"])),
    ("backup", "FILE", Asks(&["POST /api/v1/backup"])),
];

/// The commands that clap knows, down to those that do something.
fn commands(of: &clap::Command, before: &str, found: &mut BTreeSet<String>) {
    for command in of.get_subcommands() {
        let words = format!("{before} {}", command.get_name()).trim().to_owned();
        if command.has_subcommands() {
            commands(command, &words, found);
        } else {
            found.insert(words);
        }
    }
}

#[test]
fn every_command_has_a_row_and_every_row_a_command() {
    let mut known = BTreeSet::new();
    commands(&Cli::command(), "", &mut known);
    let rows: BTreeSet<String> = ROWS.iter().map(|(words, ..)| (*words).to_owned()).collect();
    let without: Vec<_> = known.difference(&rows).collect();
    assert!(
        without.is_empty(),
        "these commands have no row in cli/matrix.rs, say what they ask: {without:?}"
    );
    let stale: Vec<_> = rows.difference(&known).collect();
    assert!(stale.is_empty(), "there are no such commands: {stale:?}");
    let routes: BTreeSet<String> =
        api::table().iter().map(|row| format!("{} {}", row.method, row.path)).collect();
    for (words, _, way) in ROWS {
        match way {
            Asks(asked) => assert!(asked.iter().all(|a| routes.contains(*a)), "{words}: {asked:?}"),
            AsksNobody(why) => assert!(!why.is_empty(), "{words} does not say what keeps others from it"),
        }
    }
}

/// The route of the table that a request is for.
fn route(method: &Method, path: &str) -> String {
    let fits = |template: &str| {
        let (a, b): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        a.len() == b.len() && a.iter().zip(&b).all(|(t, p)| t == p || t.starts_with('{'))
    };
    let mut found: Vec<_> = api::table().into_iter().filter(|r| r.method == method && fits(r.path)).collect();
    // The one with the fewest parameters is what the router takes.
    found.sort_by_key(|r| r.path.matches('{').count());
    found.first().map_or_else(|| format!("{method} {path} is no route"), |r| format!("{method} {}", r.path))
}

/// A coordinator on a socket whose callers are all of one user; notes what it was asked and how it answered.
struct Counter {
    asked: Arc<Mutex<Vec<(String, StatusCode)>>>,
    _tasks: JoinSet<()>,
}

fn listen(socket: &Path, service: Arc<Service>, uid: u32) -> Counter {
    let (router, listener) = (api::router(Api::new(service)), UnixListener::bind(socket).unwrap());
    let asked: Arc<Mutex<Vec<(String, StatusCode)>>> = Arc::default();
    let (note, mut tasks) = (asked.clone(), JoinSet::new());
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| {
                let (router, note) = (router.clone(), note.clone());
                async move {
                    let route = route(request.method(), request.uri().path());
                    let mut request = request.map(axum::body::Body::new);
                    request.extensions_mut().insert(Transport::Unix { uid });
                    let answer = router.oneshot(request).await.unwrap();
                    note.lock().unwrap().push((route, answer.status()));
                    Ok::<_, Infallible>(answer)
                }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        }
    });
    Counter { asked, _tasks: tasks }
}

async fn mesh(dir: &Path) -> Arc<Service> {
    let now = clock::unix_now();
    let mut store = Store::open(StateDir::open(dir).unwrap(), now).await.unwrap();
    let founding =
        Founding { name: "home".parse().unwrap(), prefix: None, in_use: Vec::new(), entropy: [[7; 32]; 5] };
    let loaded = founding.run(&mut store, now).await.unwrap();
    let service = Arc::new(Service::new(store, loaded, now));
    let addresses = ["192.0.2.1:443".to_owned()];
    service.set_reachability(&Actor::System, &addresses, None, None, now).await.unwrap();
    service
}

/// A machine asks without a token; the code that its screen shows.
async fn waiting(service: &Arc<Service>) -> String {
    let body = serde_json::json!({ "hostname": "tv", "os": "linux" });
    let request = axum::http::Request::builder()
        .method(Method::POST)
        .uri("/api/v1/join-requests")
        .header(header::HOST, "192.0.2.1")
        .header(header::CONTENT_TYPE, "application/json")
        .extension(Transport::Tls("198.51.100.1:1".parse().unwrap()))
        .body(axum::body::Body::from(body.to_string()))
        .unwrap();
    let answer = api::router(Api::new(service.clone())).oneshot(request).await.unwrap();
    let bytes = axum::body::to_bytes(answer.into_body(), 65_536).await.unwrap();
    let told: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    told["code"].as_str().unwrap_or_else(|| panic!("{told}")).to_owned()
}

#[tokio::test]
async fn every_command_asks_what_its_row_says_and_another_user_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let service = mesh(&dir.path().join("state")).await;
    std::fs::write(dir.path().join("policy"), meshd_policy::DEFAULT_POLICY).unwrap();
    std::fs::write(dir.path().join("names"), r#"{"search":["corp.example"],"split":[],"nameservers":[]}"#)
        .unwrap();
    let mut tried = BTreeMap::new();
    for uid in [65_534, 0] {
        let socket = dir.path().join(format!("{uid}.sock"));
        let counter = listen(&socket, service.clone(), uid);
        for (words, args, way) in ROWS {
            let Asks(expected) = way else { continue };
            let code = if args.contains("CODE") { waiting(&service).await } else { String::new() };
            let place = |name: &str| dir.path().join(name).display().to_string();
            let made = [
                ("FILE", place("backup.db")),
                ("POLICY", place("policy")),
                ("NAMES", place("names")),
                ("CODE", code),
            ];
            let args: Vec<String> = format!("{words} {args}")
                .split_whitespace()
                .map(|word| made.iter().find(|(k, _)| *k == word).map_or(word, |(_, v)| v).to_owned())
                .collect();
            let line = [
                vec!["meshd-coordinator".to_owned(), "--socket".to_owned(), socket.display().to_string()],
                args,
            ]
            .concat();
            let cli = Cli::try_parse_from(&line).unwrap_or_else(|e| panic!("{words}: {e}"));
            let done = Box::pin(run(cli)).await;
            let asked = std::mem::take(&mut *counter.asked.lock().unwrap());
            let routes: Vec<&str> = asked.iter().map(|(route, _)| route.as_str()).collect();
            if uid == 0 {
                assert_eq!(routes, *expected, "{words}");
                for (route, status) in &asked {
                    let let_in = ![StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(status);
                    assert!(let_in && !status.is_server_error(), "{words}: {route} answered {status}");
                    let good = status.is_success()
                        || *status == StatusCode::NOT_FOUND
                        || *status == StatusCode::CONFLICT;
                    assert!(good, "{words}: {route} did not understand what it was asked: {status}");
                }
            } else {
                // Refused at the first question, and said so.
                assert_eq!(routes, expected[..1], "{words}");
                assert_eq!(asked[0].1, StatusCode::FORBIDDEN, "{words}");
                assert!(done.is_err(), "{words} did not tell that it was refused");
            }
            *tried.entry(uid).or_insert(0) += 1;
        }
    }
    assert!(tried[&0] > 50 && tried[&0] == tried[&65_534], "{tried:?}");
}
