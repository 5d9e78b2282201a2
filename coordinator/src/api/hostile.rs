//! Forms and JSON as strangers may write them, thrown at every route that takes a body: whatever comes, the
//! answer is no 5xx, nothing panics, and programs are told what is wrong in problem+json.
//!
//! Bodies are those of the committed corpus (`coordinator/corpus`) and a good one for each route, changed at
//! random: bits, cuts, pieces of others, and words that parsers trip over. The same seed makes the same bodies.
//! `HOSTILE_SECONDS` goes on for longer (`make fuzz-web`); a finding becomes a file of the corpus.

use super::matrix::{body, place, query};
use super::tests::{api, peer};
use super::*;
use crate::clock;
use crate::service::Role;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use std::path::Path;
use std::time::Duration;
use tower::ServiceExt;

/// Requests without [`SECONDS`].
const REQUESTS: u32 = 1500;
/// For how long instead.
const SECONDS: &str = "HOSTILE_SECONDS";
/// A session of a person is used for so many requests: some end it.
const SESSION: u32 = 40;
/// What parsers trip over.
const WORDS: [&str; 22] = [
    "%",
    "%00",
    "%u0041",
    "&",
    "=",
    "+",
    ";",
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "\"\\ud800\"",
    "[[[[",
    "{\"\":",
    "}",
    "]",
    "\u{0}",
    "\u{202e}",
    "..",
    "*.",
    "0.0.0.0/0",
];

/// xorshift: random enough, and the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % below.max(1)
    }

    fn change(&mut self, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len() + 1);
            match self.roll(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.roll(8),
                1 => bytes.truncate(at),
                2 => drop(bytes.splice(at..at, WORDS[self.roll(WORDS.len())].bytes())),
                3 => {
                    let end = (at + self.roll(16)).min(bytes.len());
                    bytes.drain(at..end);
                }
                4 => {
                    let other = &others[self.roll(others.len())];
                    let from = self.roll(other.len());
                    let piece = other[from..(from + self.roll(64)).min(other.len())].to_vec();
                    drop(bytes.splice(at..at, piece));
                }
                5 => {
                    let end = (at + self.roll(64)).min(bytes.len());
                    let piece = bytes[at..end].repeat(self.roll(20));
                    drop(bytes.splice(at..at, piece));
                }
                _ => bytes.insert(at, self.roll(256) as u8),
            }
        }
    }
}

fn corpus(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(folder);
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort_unstable();
    assert!(paths.len() >= 10, "{} is nearly empty", folder.display());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[tokio::test]
async fn no_form_and_no_json_makes_a_route_fail_or_panic() {
    let (_dir, service, router) = api().await;
    let (forms, jsons) = (corpus("form"), corpus("json"));
    let rows: Vec<_> = table().into_iter().filter(|row| row.method != Method::GET).collect();
    let seconds: Option<u64> = std::env::var(SECONDS).ok().map(|text| text.parse().unwrap());
    let until = seconds.map(|seconds| clock::now() + Duration::from_secs(seconds));
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut sent, mut refused) = (0_u32, 0_u32);
    let (mut cookie, mut csrf) = (String::new(), String::new());
    loop {
        match until {
            Some(until) if clock::now() >= until => break,
            None if sent >= REQUESTS => break,
            _ => {}
        }
        if sent.is_multiple_of(SESSION) {
            let now = clock::unix_now();
            let new = service.session_for_test("hostile", Role::Owner, now).await;
            csrf = service.session(&new.secret, now).await.unwrap().unwrap().csrf;
            cookie = format!("__Host-meshd={}", new.secret.as_str());
        }
        let row = &rows[dice.roll(rows.len())];
        let (kind, good) = body(row, &csrf);
        let is_form = row.face != Face::Api;
        let seeds = if is_form { &forms } else { &jsons };
        let mut bytes = match dice.roll(3) {
            // Past the check of its origin, the form itself is read.
            0 if is_form => [format!("csrf={csrf}&").as_bytes(), &seeds[dice.roll(seeds.len())]].concat(),
            0 => seeds[dice.roll(seeds.len())].clone(),
            _ => good.into_bytes(),
        };
        if sent as usize >= 2 * rows.len() {
            dice.change(&mut bytes, seeds);
        }
        let mut request = Request::builder()
            .method(row.method.clone())
            .uri(place(row) + query(row))
            .header(header::HOST, "192.0.2.1")
            .header(header::CONTENT_TYPE, kind);
        request = if is_form {
            request
                .header(header::ORIGIN, "https://192.0.2.1")
                .header(header::COOKIE, &cookie)
                .extension(Transport::Tls(peer("198.51.100.1")))
        } else {
            request.extension(Transport::Unix { uid: 0 })
        };
        let what = || format!("{} {} with {}", row.method, row.path, bytes.escape_ascii());
        let answer = router.clone().oneshot(request.body(Body::from(bytes.clone())).unwrap()).await.unwrap();
        let status = answer.status();
        assert!(!status.is_server_error(), "{status}: {}", what());
        let problem =
            answer.headers().get(header::CONTENT_TYPE).is_some_and(|t| t == "application/problem+json");
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        if status.is_client_error() && row.face == Face::Api {
            assert!(problem, "{status}: {}", what());
            let told: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert!(told["title"].is_string() || told["detail"].is_string(), "{told}: {}", what());
        }
        refused += u32::from(status.is_client_error());
        assert_ne!(status, StatusCode::NOT_IMPLEMENTED);
        sent += 1;
    }
    println!("{sent} bodies for {} routes, {refused} refused, no failure", rows.len());
    assert!(refused > sent / 10 && refused < sent, "{refused} of {sent} refused: it tries one thing only");
    assert!(service.public().await.is_ok(), "it does not answer any more");
}
