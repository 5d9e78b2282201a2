//! The router itself: who is let in on which transport, what errors look like, what is bounded.

use super::*;
use crate::clock;
use crate::service::{ApiTokenRequest, Founding, Role};
use crate::store::{StateDir, Store};
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use std::net::SocketAddr;
use tempfile::TempDir;
use tower::ServiceExt;

const ROOT: Transport = Transport::Unix { uid: 0 };

pub(super) async fn api() -> (TempDir, Arc<Service>, Router) {
    let dir = tempfile::tempdir().unwrap();
    let now = clock::unix_now();
    let mut store = Store::open(StateDir::open(dir.path()).unwrap(), now).await.unwrap();
    let founding =
        Founding { name: "home".parse().unwrap(), prefix: None, in_use: Vec::new(), entropy: [[7; 32]; 5] };
    let loaded = founding.run(&mut store, now).await.unwrap();
    let service = Arc::new(Service::new(store, loaded, now));
    let addresses = ["192.0.2.1:443".to_owned()];
    service.set_reachability(&Actor::System, &addresses, None, None, now).await.unwrap();
    let router = router(Api::new(service.clone()));
    (dir, service, router)
}

async fn ask(
    router: &Router,
    transport: Transport,
    method: Method,
    path: &str,
    bearer: Option<&str>,
    body: &str,
) -> (StatusCode, serde_json::Value) {
    let mut request =
        Request::builder().method(method).uri(path).header(header::HOST, "192.0.2.1").extension(transport);
    if let Some(secret) = bearer {
        request = request.header(header::AUTHORIZATION, format!("Bearer {secret}"));
    }
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let response = router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap().to_owned());
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    if status.is_client_error() || status.is_server_error() {
        assert_eq!(kind.as_deref(), Some("application/problem+json"), "{path}");
    }
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

pub(super) fn peer(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 1234)
}

#[tokio::test]
async fn plain_http_from_elsewhere_gets_nothing_even_with_a_good_token() {
    let (_dir, service, router) = api().await;
    let request = ApiTokenRequest {
        cluster: None,
        name: "ci".into(),
        role: Role::Auditor,
        lifetime: 600,
        scopes: crate::service::Scopes::ALL,
    };
    let secret =
        service.create_api_token(&Actor::LocalRoot, &request, clock::unix_now()).await.unwrap().secret;
    let get =
        async |transport, bearer| ask(&router, transport, Method::GET, "/api/v1/nodes", bearer, "").await.0;
    let outside = peer("198.51.100.1");
    assert_eq!(get(Transport::Plain(outside), Some(&**secret)).await, StatusCode::FORBIDDEN);
    assert_eq!(get(Transport::Tls(outside), Some(&**secret)).await, StatusCode::OK);
    assert_eq!(get(Transport::Plain(peer("127.0.0.1")), Some(&**secret)).await, StatusCode::OK);
    assert_eq!(get(Transport::Tls(outside), None).await, StatusCode::UNAUTHORIZED);
    assert_eq!(get(Transport::Tls(outside), Some("meshapi_guess")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(get(Transport::Plain(peer("::1")), None).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_unix_socket_is_roots_and_the_services_own() {
    let (_dir, _service, router) = api().await;
    let get =
        async |uid| ask(&router, Transport::Unix { uid }, Method::GET, "/api/v1/status", None, "").await.0;
    assert_eq!(get(0).await, StatusCode::OK);
    assert_eq!(get(rustix::process::geteuid().as_raw()).await, StatusCode::OK);
    assert_eq!(get(65_534).await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn every_page_of_the_api_asks_who_is_there() {
    let (_dir, _service, router) = api().await;
    let nobody = Transport::Tls(peer("198.51.100.1"));
    for (method, path) in [
        (Method::GET, "/api/v1/status"),
        (Method::GET, "/api/v1/nodes"),
        (Method::DELETE, "/api/v1/nodes/pi"),
        (Method::POST, "/api/v1/nodes/pi/routes/approve"),
        (Method::POST, "/api/v1/tokens"),
        (Method::POST, "/api/v1/api-tokens"),
        (Method::PUT, "/api/v1/dns/settings"),
        (Method::PUT, "/api/v1/dns/split/corp.example"),
        (Method::PUT, "/api/v1/policy"),
        (Method::GET, "/api/v1/audit"),
        (Method::POST, "/api/v1/backup"),
        (Method::GET, "/metrics"),
    ] {
        assert_eq!(ask(&router, nobody, method, path, None, "").await.0, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(ask(&router, nobody, Method::GET, "/healthz", None, "").await.0, StatusCode::OK);
}

#[tokio::test]
async fn errors_say_what_happened_and_what_to_do() {
    let (_dir, _service, router) = api().await;
    let (status, body) = ask(&router, ROOT, Method::GET, "/api/v1/nodes/pi", None, "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(body["detail"], "there is no node `pi`; `meshd-coordinator nodes list` shows them");
    let (status, body) = ask(&router, ROOT, Method::PUT, "/api/v1/policy", None, r#"{"text":"{\n 7"}"#).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body["errors"][0].as_str().unwrap().starts_with("line 2, column 2"), "{body}");
    let (status, body) = ask(&router, ROOT, Method::POST, "/api/v1/tokens", None, r#"{"usess":1}"#).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body["detail"].as_str().unwrap().contains("usess"), "{body}");
    let (status, body) = ask(&router, ROOT, Method::GET, "/api/v1/nothing", None, "").await;
    assert_eq!((status, &body["hint"]), (StatusCode::NOT_FOUND, &"the API is under /api/v1".into()));
    let (status, _) = ask(&router, ROOT, Method::POST, "/api/v1/status", None, "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let huge = format!("{{\"text\":\"{}\"}}", "x".repeat(MAX_BODY));
    let (status, _) = ask(&router, ROOT, Method::PUT, "/api/v1/policy", None, &huge).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_token_is_shown_once_and_never_listed() {
    let (_dir, service, router) = api().await;
    let (status, body) = ask(&router, ROOT, Method::POST, "/api/v1/tokens", None, r#"{"uses":3}"#).await;
    assert_eq!(status, StatusCode::CREATED);
    let token: meshd_proto::token::JoinToken = body["token"].as_str().unwrap().parse().unwrap();
    assert_eq!(token.addresses(), ["192.0.2.1:443"]);
    assert!(token.keys_hash.matches(&service.public_keys()));
    let (_, list) = ask(&router, ROOT, Method::GET, "/api/v1/tokens", None, "").await;
    assert_eq!((list[0]["uses"].as_u64(), list[0].get("token")), (Some(3), None));
    let (_, copy) = ask(&router, ROOT, Method::GET, "/api/v1/audit", None, "").await;
    assert!(!copy.to_string().contains("mesh_"));
}

#[tokio::test]
async fn a_backup_holds_keys_and_is_for_the_owner_alone() {
    let (_dir, service, router) = api().await;
    let request = ApiTokenRequest {
        cluster: None,
        name: "x".into(),
        role: Role::Admin,
        lifetime: 600,
        scopes: crate::service::Scopes::ALL,
    };
    let admin =
        service.create_api_token(&Actor::LocalRoot, &request, clock::unix_now()).await.unwrap().secret;
    let tls = Transport::Tls(peer("198.51.100.1"));
    let refused = ask(&router, tls, Method::POST, "/api/v1/backup", Some(&admin), "").await;
    assert_eq!(refused.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(&router, ROOT, Method::POST, "/api/v1/backup", None, "").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_foreign_name_an_oversize_body_and_a_foreign_page_are_refused() {
    let (_dir, service, router) = api().await;
    let now = clock::unix_now();
    let session = service.session_for_test("ada", Role::Owner, now).await;
    let cookie = format!("__Host-meshd={}", session.secret.as_str());
    let csrf = service.session(&session.secret, now).await.unwrap().unwrap().csrf;
    let send = async |method: Method, path: &str, headers: &[(&str, &str)], body: String| {
        let mut request =
            Request::builder().method(method).uri(path).extension(Transport::Tls(peer("198.51.100.1")));
        request = request.header(header::COOKIE, &cookie);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
    };
    let ours = ("host", "192.0.2.1");
    let same = ("origin", "https://192.0.2.1");
    let get =
        async |headers: &[(&str, &str)]| send(Method::GET, "/nodes", headers, String::new()).await.status();
    assert_eq!(get(&[ours]).await, StatusCode::OK);
    for foreign in ["evil.example", "192.0.2.1.evil.example", "", "home.internal"] {
        assert_eq!(get(&[("host", foreign)]).await, StatusCode::MISDIRECTED_REQUEST, "{foreign}");
    }
    assert_eq!(get(&[ours, ("host", "evil.example")]).await, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(get(&[("host", "coordinator.home.internal:443")]).await, StatusCode::OK);
    let form = format!("csrf={csrf}&name=printer&value=192.0.2.9");
    let post = async |headers: &[(&str, &str)], body: &str| {
        send(Method::POST, "/dns/add", headers, body.to_owned()).await.status()
    };
    let records = || service.records(&Actor::LocalRoot).unwrap().len();
    assert_eq!(post(&[ours], &form).await, StatusCode::FORBIDDEN, "no origin");
    assert_eq!(post(&[ours, ("origin", "https://evil.example")], &form).await, StatusCode::FORBIDDEN);
    assert_eq!(post(&[ours, ("origin", "null")], &form).await, StatusCode::FORBIDDEN);
    assert_eq!(post(&[ours, same, ("sec-fetch-site", "cross-site")], &form).await, StatusCode::FORBIDDEN);
    assert_eq!(post(&[ours, same], "name=printer&value=192.0.2.9").await, StatusCode::FORBIDDEN, "no token");
    assert_eq!(post(&[ours, same], &form.replace(&csrf, "AAAA")).await, StatusCode::FORBIDDEN, "wrong token");
    let large = format!("{form}&note={}", "x".repeat(3 << 20));
    assert_eq!(post(&[ours, same], &large).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(records(), 0);
    assert_eq!(post(&[ours, same], &form).await, StatusCode::SEE_OTHER);
    assert_eq!(records(), 1);
    let page = send(Method::GET, "/", &[ours], String::new()).await;
    let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
}

#[tokio::test]
async fn behind_a_trusted_proxy_who_guesses_slows_himself_down_and_nobody_else() {
    let (_dir, service, untrusting) = api().await;
    let proxies = TrustedProxies::new(&["127.0.0.1/32".parse().unwrap()]);
    let trusting = router(Api { proxies, ..Api::new(service.clone()) });
    let sign_in = async |router: &Router, visitor: &str| {
        let request = Request::builder().method(Method::POST).uri("/login");
        let request = request.header(header::HOST, "localhost").header(header::ORIGIN, "http://localhost");
        let request = request.header("x-forwarded-for", format!("203.0.113.77, {visitor}"));
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let request = request.extension(Transport::Plain(peer("127.0.0.1")));
        let body = Body::from("name=ada&password=wrong&code=000000");
        router.clone().oneshot(request.body(body).unwrap()).await.unwrap().status()
    };
    for _ in 0..6 {
        assert_eq!(sign_in(&trusting, "198.51.100.1").await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(sign_in(&trusting, "198.51.100.1").await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(sign_in(&trusting, "198.51.100.2").await, StatusCode::UNAUTHORIZED);
    let audit = service.audit(&Actor::LocalRoot, None, 1).await.unwrap();
    assert_eq!((audit[0].action.as_str(), audit[0].detail.as_str()), ("login.refused", "198.51.100.2"));
    // Nobody is trusted by default: then all of them are the proxy.
    for n in 0..6 {
        assert_eq!(sign_in(&untrusting, &format!("192.0.2.{n}")).await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(sign_in(&untrusting, "192.0.2.99").await, StatusCode::TOO_MANY_REQUESTS);
}

/// The secret that a page shows, and the value and the rest of the cookie that it sets.
async fn shown_secret(router: &Router, place: &str, cookie: &str) -> (String, String, String) {
    let request = Request::builder().uri(place).header(header::HOST, "192.0.2.1:8443");
    let request = request.header(header::COOKIE, cookie).extension(Transport::Tls(peer("198.51.100.1")));
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let set = response.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    let (kept, rest) = set.split_once("; ").unwrap();
    let page = response.into_body().collect().await.unwrap().to_bytes();
    let page = String::from_utf8(page.to_vec()).unwrap();
    let secret = page.split("id=\"totp-secret\">").nth(1).unwrap().split('<').next().unwrap().to_owned();
    (secret, kept.to_owned(), rest.to_owned())
}

#[tokio::test]
async fn a_link_shows_each_browser_a_secret_of_its_own_and_the_same_again() {
    let (_dir, service, router) = api().await;
    let link = service.create_admin_link(&Actor::LocalRoot, clock::unix_now()).await.unwrap().secret;
    let place = format!("/welcome/{}", link.as_str());
    let (first, cookie, rest) = shown_secret(&router, &place, "").await;
    assert!(rest.starts_with("Path=/welcome/; ") && rest.ends_with("Secure; HttpOnly; SameSite=Strict"));
    let (again, kept, _) = shown_secret(&router, &place, &format!("x=y; {cookie}")).await;
    assert_eq!((&again, &kept), (&first, &cookie), "a reload changes nothing");
    let (other, _, _) = shown_secret(&router, &place, "").await;
    assert_ne!(other, first);
    let odd = shown_secret(&router, &place, "__Secure-meshd-welcome=").await.0;
    assert!(odd != first && odd.len() == first.len());
}

#[tokio::test]
async fn pages_and_passwords_are_refused_over_plain_http_from_elsewhere() {
    let (_dir, service, router) = api().await;
    let link = service.create_admin_link(&Actor::LocalRoot, clock::unix_now()).await.unwrap().secret;
    let place = format!("/welcome/{}", link.as_str());
    let outside = Transport::Plain(peer("198.51.100.1"));
    let send = async |method: Method, path: &str, transport: Transport| {
        let request = Request::builder().method(method).uri(path).header(header::HOST, "192.0.2.1:8443");
        let request = request.header(header::ORIGIN, "http://192.0.2.1:8443").extension(transport);
        router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    };
    for (method, path) in
        [(Method::GET, "/login"), (Method::POST, "/login"), (Method::GET, &place), (Method::POST, &place)]
    {
        assert_eq!(send(method, path, outside).await.status(), StatusCode::FORBIDDEN, "{path}");
    }
    let to_tls = send(Method::GET, "/", outside).await;
    assert_eq!(to_tls.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(to_tls.headers()[header::LOCATION], "https://192.0.2.1:8443/");
    assert_eq!(
        send(Method::GET, &place, Transport::Tls(peer("198.51.100.1"))).await.status(),
        StatusCode::OK
    );
    assert_eq!(send(Method::GET, &place, Transport::Plain(peer("127.0.0.1"))).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_list_is_given_in_parts_that_lead_to_the_next() {
    let (_dir, service, router) = api().await;
    for n in 0..5 {
        let request = crate::service::TokenRequest { note: n.to_string(), ..Default::default() };
        service.create_token(&Actor::LocalRoot, &request, clock::unix_now()).await.unwrap();
    }
    let (mut place, mut notes, mut parts) = ("/api/v1/tokens?limit=2".to_owned(), Vec::new(), 0);
    loop {
        let request = Request::builder().uri(&place).header(header::HOST, "x").extension(ROOT);
        let answer = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.headers()["x-total-count"], "5");
        let next = answer.headers().get(header::LINK).map(|l| l.to_str().unwrap().to_owned());
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let list: Vec<serde_json::Value> = serde_json::from_slice(&bytes).unwrap();
        notes.extend(list.iter().map(|t| t["note"].as_str().unwrap().to_owned()));
        parts += 1;
        let Some(next) = next else { break };
        place = next.trim_start_matches('<').split_once('>').unwrap().0.to_owned();
    }
    notes.sort();
    assert_eq!((parts, notes), (3, ["0", "1", "2", "3", "4"].map(str::to_owned).to_vec()));
    for (path, status) in [
        ("/api/v1/routes?limit=x", StatusCode::BAD_REQUEST),
        ("/api/v1/access?lmit=1", StatusCode::BAD_REQUEST),
        ("/api/v1/dns/records?limit=0&offset=18446744073709551615", StatusCode::OK),
    ] {
        assert_eq!(ask(&router, ROOT, Method::GET, path, None, "").await.0, status, "{path}");
    }
}
