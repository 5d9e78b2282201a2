//! The authorization matrix: every row of the table × every kind of credential. The rows come from the
//! router itself, so a route that is not tried here does not exist.

use super::tests::{api, peer};
use super::*;
use crate::clock;
use crate::service::{ApiTokenRequest, Permission, Role, Scopes};
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use std::collections::BTreeSet;
use tower::ServiceExt;

/// Who knocks.
struct Caller {
    what: String,
    credential: Credential,
    /// What is expected to be allowed; `None`: nobody is recognised.
    actor: Option<Actor>,
}

enum Credential {
    Nothing,
    Bearer(String),
    Cookie(String),
    Socket(u32),
    /// A fresh session for each try: some routes end it.
    Person(Role),
}

/// Values for the parameters of paths: nothing has this name.
pub(super) fn place(row: &Row) -> String {
    row.path
        .replace("{name}", "nobody")
        .replace("{id}", "999999")
        .replace("{domain}", "corp.example")
        .replace("{link}", "none")
        .replace("{file}", "style.css")
}

/// A body that is read without fault, so that only the permission can refuse.
pub(super) fn body(row: &Row, csrf: &str) -> (&'static str, String) {
    if row.face != Face::Api {
        let fields = "name=x&to=y&tags=&uses=1&lifetime=60&approve=on&role=member&version=1&text=%7B%7D&force=on&prefix=10.0.0.0%2F8&node=x&value=192.0.2.9&present=a&next=bbbbbbbbbbbb&again=c";
        return ("application/x-www-form-urlencoded", format!("csrf={csrf}&{fields}"));
    }
    let policy = || format!(r#"{{"text": {}}}"#, serde_json::Value::from(meshd_policy::DEFAULT_POLICY));
    let json = match (&row.method, row.path) {
        (&Method::POST, "/api/v1/nodes/{name}/devices") => {
            let key = meshd_proto::NodeSecret::from_bytes([5; 32]).public();
            format!(r#"{{"name":"x","key":"{key}"}}"#)
        }
        (&Method::POST, "/api/v1/api-tokens") => {
            r#"{"name":"x","role":"member","scopes":["api-tokens:write"],"lifetime":60}"#.to_owned()
        }
        (&Method::POST, "/api/v1/invitations") => r#"{"role":"member"}"#.to_owned(),
        (&Method::PATCH, "/api/v1/nodes/{name}") => r#"{"tags":[]}"#.to_owned(),
        (&Method::PATCH, "/api/v1/users/{name}") => r#"{"enabled":true}"#.to_owned(),
        (&Method::POST, "/api/v1/dns/records") => r#"{"name":"printer","value":"192.0.2.9"}"#.to_owned(),
        (&Method::POST, "/api/v1/policy/rollback") => r#"{"version":1}"#.to_owned(),
        (&Method::PUT, "/api/v1/dns/split/{domain}") => r#"["192.0.2.53"]"#.to_owned(),
        (&Method::PUT, "/api/v1/dns/nameservers" | "/api/v1/dns/search") => "[]".to_owned(),
        (&Method::PUT, "/api/v1/clusters/{name}/services") => r#"{"services":[]}"#.to_owned(),
        (_, path) if path.starts_with("/api/v1/policy") => policy(),
        _ => "{}".to_owned(),
    };
    ("application/json", json)
}

pub(super) fn query(row: &Row) -> &'static str {
    match row.path {
        "/api/v1/dns/explain" => "?name=nas&as=nobody",
        "/api/v1/policy/explain" => "?from=192.0.2.1&to=192.0.2.2:80",
        _ => "",
    }
}

async fn callers(service: &Arc<Service>) -> Vec<Caller> {
    let now = clock::unix_now();
    let root = Actor::LocalRoot;
    let token = async |role: Role, scopes: Scopes, lifetime: u64, at: meshd_proto::UnixSeconds| {
        let request = ApiTokenRequest { name: "t".to_owned(), role, scopes, lifetime, cluster: None };
        service.create_api_token(&root, &request, at).await.unwrap()
    };
    let bearer = |what: String, secret: &str, actor| Caller {
        what,
        credential: Credential::Bearer(secret.to_owned()),
        actor,
    };
    let mut all = vec![
        Caller { what: "anonymous".to_owned(), credential: Credential::Nothing, actor: None },
        Caller {
            what: "root's socket".to_owned(),
            credential: Credential::Socket(0),
            actor: Some(root.clone()),
        },
        Caller {
            what: "another uid's socket".to_owned(),
            credential: Credential::Socket(65_534),
            actor: None,
        },
        bearer("guessed token".to_owned(), "meshapi_guess", None),
    ];
    let old = meshd_proto::UnixSeconds(now.0 - 1000);
    let expired = token(Role::Owner, Scopes::ALL, 10, old).await;
    all.push(bearer("expired token".to_owned(), &expired.secret, None));
    let revoked = token(Role::Owner, Scopes::ALL, 1000, now).await;
    service.revoke_api_token(&root, revoked.record.id, now).await.unwrap();
    all.push(bearer("revoked token".to_owned(), &revoked.secret, None));
    let join = service.create_token(&root, &crate::service::TokenRequest::default(), now).await.unwrap();
    all.push(bearer("join token as bearer".to_owned(), &join.token.to_text(), None));
    let node = meshd_proto::NodeSecret::from_bytes([9; 32]).public().to_string();
    all.push(bearer("node key as bearer".to_owned(), &node, None));
    for role in Role::ALL {
        let made = token(role, Scopes::ALL, 1000, now).await;
        let actor = service.authenticate(&made.secret, now).await.unwrap();
        all.push(bearer(format!("token of {role}"), &made.secret, actor));
        all.push(Caller {
            what: format!("session of {role}"),
            credential: Credential::Person(role),
            actor: Some(Actor::User { id: 0, name: role.to_string(), role }),
        });
    }
    for scope in Permission::scopes() {
        let made = token(Role::Owner, Scopes::parse([scope.as_str()]).unwrap(), 1000, now).await;
        let actor = service.authenticate(&made.secret, now).await.unwrap();
        all.push(bearer(format!("token with scope {scope}"), &made.secret, actor));
    }
    let cookie = |what: &str, secret: &str| Caller {
        what: what.to_owned(),
        credential: Credential::Cookie(secret.to_owned()),
        actor: None,
    };
    let long_ago = meshd_proto::UnixSeconds(now.0 - 4 * 24 * 3600);
    let old = service.session_for_test("idler", Role::Owner, long_ago).await;
    all.push(cookie("expired session", &old.secret));
    let ended = service.session_for_test("leaver", Role::Owner, now).await;
    let session = service.session(&ended.secret, now).await.unwrap().unwrap();
    service.logout(&session, now).await.unwrap();
    all.push(cookie("ended session", &ended.secret));
    let off = service.session_for_test("fired", Role::Admin, now).await;
    service.set_enabled(&root, "fired", false, now).await.unwrap();
    all.push(cookie("session of a switched-off account", &off.secret));
    all.push(cookie("node key as cookie", &node));
    all
}

async fn try_it(service: &Arc<Service>, router: &Router, row: &Row, caller: &Caller) -> StatusCode {
    let outside = Transport::Tls(peer("198.51.100.1"));
    let mut request = Request::builder()
        .method(row.method.clone())
        .uri(place(row) + query(row))
        .header(header::HOST, "192.0.2.1")
        .header(header::ORIGIN, "https://192.0.2.1");
    let mut csrf = String::new();
    let mut transport = outside;
    match &caller.credential {
        Credential::Nothing => {}
        Credential::Bearer(secret) => {
            request = request.header(header::AUTHORIZATION, format!("Bearer {secret}"));
        }
        Credential::Cookie(secret) => {
            request = request.header(header::COOKIE, format!("__Host-meshd={secret}"));
        }
        Credential::Socket(uid) => transport = Transport::Unix { uid: *uid },
        Credential::Person(role) => {
            let now = clock::unix_now();
            let new = service.session_for_test(role.as_str(), *role, now).await;
            csrf = service.session(&new.secret, now).await.unwrap().unwrap().csrf;
            request = request.header(header::COOKIE, format!("__Host-meshd={}", new.secret.as_str()));
        }
    }
    let (kind, text) = if row.method == Method::GET { ("", String::new()) } else { body(row, &csrf) };
    let request = request.header(header::CONTENT_TYPE, kind).extension(transport);
    router.clone().oneshot(request.body(Body::from(text)).unwrap()).await.unwrap().status()
}

#[tokio::test]
async fn every_route_answers_exactly_those_whom_its_row_names() {
    let (_dir, service, router) = api().await;
    let (rows, callers) = (table(), callers(&service).await);
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|row| row.face != Face::Open) {
        for caller in &callers {
            let fits = matches!(
                (row.face, &caller.credential),
                (Face::Api, Credential::Bearer(_) | Credential::Socket(_))
                    | (Face::Page, Credential::Cookie(_) | Credential::Person(_))
            );
            let known = caller.actor.as_ref().filter(|_| fits);
            let status = try_it(&service, &router, row, caller).await;
            let good = match (known, row.need) {
                // Nobody is there: the door, for pages; for programs, a refusal.
                (None, _) if row.face == Face::Page => {
                    matches!(status, StatusCode::SEE_OTHER | StatusCode::UNAUTHORIZED)
                }
                (None, _) => matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
                (Some(actor), Need::May(permission)) if !actor.may(permission) => {
                    status == StatusCode::FORBIDDEN
                }
                (Some(_), _) => {
                    !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
                        && !status.is_server_error()
                }
            };
            if !good {
                wrong.push(format!("{} {} by {}: {status}", row.method, row.path, caller.what));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len() * callers.len(), wrong.join("\n"));
    assert!(rows.len() > 80 && callers.len() > 25, "{} rows, {} callers", rows.len(), callers.len());
}

#[test]
fn each_route_has_one_row_and_none_is_added_past_the_table() {
    let rows = table();
    let distinct: BTreeSet<_> = rows.iter().map(|r| (r.method.as_str(), r.path)).collect();
    assert_eq!(distinct.len(), rows.len());
    let mut files = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs")
            && !path.ends_with("api/table.rs")
            && !path.ends_with("api/matrix.rs")
        {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains(".route("), "{} adds a route past the table", path.display());
        }
    }
}
