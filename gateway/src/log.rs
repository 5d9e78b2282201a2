//! The access log: one line for each request or connection, JSON or text.
//!
//! Lines go through a bounded queue to one task that writes them; a full queue loses lines and counts them,
//! traffic never waits. Bodies, cookies, credentials and query strings are never written.

use crate::clock;
use crate::conn::Peer;
use crate::stats::{RouteStats, Stats};
use crate::table::BackendAddr;
use hyper::Request;
use hyper::body::Incoming;
use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use tokio::sync::mpsc;

/// Lines that may wait.
const QUEUE: usize = 8192;
/// Longest path that is written.
const MAX_PATH: usize = 512;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    Json,
    /// Words.
    Text,
}

/// Where lines go; nowhere by default.
#[derive(Clone, Debug, Default)]
pub struct AccessLog {
    queue: Option<(mpsc::Sender<String>, Format)>,
}

impl AccessLog {
    /// A log, and what its writing task reads.
    pub fn open(format: Format) -> (Self, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self { queue: Some((sender, format)) }, receiver)
    }

    fn write(&self, stats: &Stats, line: impl FnOnce(Format) -> String) {
        if let Some((queue, format)) = &self.queue {
            match queue.try_reserve() {
                Ok(place) => place.send(line(*format)),
                Err(_) => {
                    stats.log_lost.fetch_add(1, Relaxed);
                }
            }
        }
    }
}

/// Writes lines until the log is closed.
pub async fn writer(mut lines: mpsc::Receiver<String>, mut out: Box<dyn Write + Send>) {
    let mut batch = Vec::new();
    while lines.recv_many(&mut batch, 256).await > 0 {
        let text: String = batch.drain(..).collect();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

/// One request on its way to its line. Dropping it counts and writes it.
pub struct Entry {
    peer: Arc<Peer>,
    method: hyper::Method,
    host: Option<String>,
    path: Option<String>,
    started: Instant,
    pub(crate) route: Option<(Arc<str>, Arc<RouteStats>)>,
    pub(crate) upstream: Option<BackendAddr>,
    pub(crate) status: u16,
    pub(crate) up: Arc<AtomicU64>,
    pub(crate) down: u64,
    pub(crate) broken: bool,
}

impl Entry {
    pub(crate) fn new(peer: &Arc<Peer>, request: &Request<Incoming>, started: Instant) -> Self {
        let written = peer.shared.log.queue.is_some();
        let host = request.uri().host().or_else(|| request.headers().get(hyper::header::HOST)?.to_str().ok());
        Self {
            peer: Arc::clone(peer),
            method: request.method().clone(),
            host: host.filter(|_| written).map(|h| h.chars().take(253).collect()),
            path: written.then(|| request.uri().path().chars().take(MAX_PATH).collect()),
            started,
            route: None,
            upstream: None,
            status: 0,
            up: Arc::new(AtomicU64::new(0)),
            down: 0,
            broken: false,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let took = clock::now().saturating_duration_since(self.started);
        let up = self.up.load(Relaxed);
        if let Some((_, stats)) = &self.route {
            stats.answered(self.status, took);
            stats.up.fetch_add(up, Relaxed);
            stats.down.fetch_add(self.down, Relaxed);
        }
        let route = self.route.as_ref().map(|(name, _)| Arc::clone(name));
        self.peer.shared.log.write(&self.peer.shared.stats, |format| {
            Line {
                client: self.peer.client,
                method: Some(self.method.as_str()),
                host: self.host.as_deref(),
                path: self.path.as_deref(),
                status: self.status,
                route: route.as_deref(),
                upstream: self.upstream,
                up,
                down: self.down,
                micros: took.as_micros() as u64,
                broken: self.broken,
            }
            .text(format)
        });
    }
}

/// Counts and writes a connection without HTTP.
pub(crate) struct StreamEntry<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) route: (&'a Arc<str>, &'a RouteStats),
    pub(crate) upstream: Option<BackendAddr>,
    pub(crate) started: Instant,
    pub(crate) up: u64,
    pub(crate) down: u64,
    pub(crate) broken: bool,
}

impl StreamEntry<'_> {
    pub(crate) fn finish(self) {
        let took = clock::now().saturating_duration_since(self.started);
        let (route, stats) = self.route;
        stats.answered(0, took);
        stats.up.fetch_add(self.up, Relaxed);
        stats.down.fetch_add(self.down, Relaxed);
        self.peer.shared.log.write(&self.peer.shared.stats, |format| {
            Line {
                client: self.peer.client,
                method: None,
                host: self.peer.server_name.as_deref(),
                path: None,
                status: 0,
                route: Some(route),
                upstream: self.upstream,
                up: self.up,
                down: self.down,
                micros: took.as_micros() as u64,
                broken: self.broken,
            }
            .text(format)
        });
    }
}

struct Line<'a> {
    client: SocketAddr,
    method: Option<&'a str>,
    host: Option<&'a str>,
    path: Option<&'a str>,
    status: u16,
    route: Option<&'a str>,
    upstream: Option<BackendAddr>,
    up: u64,
    down: u64,
    micros: u64,
    broken: bool,
}

impl Line<'_> {
    fn text(&self, format: Format) -> String {
        let time = clock::wall().as_secs_f64();
        let upstream = self.upstream.map(|a| a.to_string());
        let (client, ms) = (self.client.ip().to_canonical(), self.micros as f64 / 1000.0);
        match format {
            Format::Json => {
                let line = serde_json::json!({
                    "time": time, "client": client.to_string(), "method": self.method, "host": self.host, "path": self.path,
                    "status": self.status, "route": self.route, "upstream": upstream,
                    "bytes_up": self.up, "bytes_down": self.down, "ms": ms, "broken": self.broken,
                });
                format!("{line}\n")
            }
            Format::Text => {
                let dash = |text: Option<&str>| {
                    text.map_or_else(|| "-".to_owned(), |t| t.escape_default().to_string())
                };
                let mut out = String::new();
                let _ = writeln!(
                    out,
                    "{time:.3} {client} {} {} {} {} route={} upstream={} up={} down={} ms={ms:.2}{}",
                    dash(self.method),
                    dash(self.host),
                    dash(self.path),
                    self.status,
                    dash(self.route),
                    dash(upstream.as_deref()),
                    self.up,
                    self.down,
                    if self.broken { " broken" } else { "" },
                );
                out
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_be_broken_by_what_a_client_sends() {
        let line = Line {
            client: "[::ffff:192.0.2.1]:5".parse().unwrap(),
            method: Some("GET"),
            host: Some("a\nb"),
            path: Some("/\"\u{1b}[31m"),
            status: 200,
            route: Some("r"),
            upstream: None,
            up: 1,
            down: 2,
            micros: 1500,
            broken: false,
        };
        let text = line.text(Format::Text);
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.contains('\u{1b}') && text.contains(" 192.0.2.1 GET "), "{text}");
        let json = line.text(Format::Json);
        assert_eq!(json.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["path"], "/\"\u{1b}[31m");
        assert_eq!(value["ms"], 1.5);
    }
}
