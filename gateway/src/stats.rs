//! Counters, and their page in the Prometheus text format (version 0.0.4).
//!
//! Routes carry their counters with them, so that counting is an addition without a lock or a lookup.

use crate::runtime::Active;
use crate::table::Table;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the latency histogram in milliseconds.
const BOUNDS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 500, 1000, 5000];

/// Counters of one route.
#[derive(Debug, Default)]
pub struct RouteStats {
    /// Answers by the first digit of their status, 1 to 5; connections of TCP, UDP and TLS count under 0.
    by_class: [AtomicU64; 6],
    /// Bytes of bodies from clients.
    pub up: AtomicU64,
    /// Bytes of bodies to clients.
    pub down: AtomicU64,
    /// Further tries.
    pub retries: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl RouteStats {
    /// An answer with `status` (0: a connection without HTTP) after `took`.
    pub fn answered(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).min(5);
        self.by_class[class].fetch_add(1, Relaxed);
        let ms = took.as_millis() as u64;
        let bucket = BOUNDS.iter().position(|bound| ms <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add(took.as_micros() as u64, Relaxed);
    }
}

/// Counters of the whole gateway.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections and sessions open now.
    pub open: AtomicU64,
    /// Connections closed at once because of a limit.
    pub over_limit: AtomicU64,
    /// Connections and requests refused for what they sent.
    pub refused: AtomicU64,
    /// Requests that no route fits.
    pub unrouted: AtomicU64,
    /// Configurations taken.
    pub applied: AtomicU64,
    /// Configurations refused.
    pub rejected: AtomicU64,
    /// Lines of the access log that found its queue full.
    pub log_lost: AtomicU64,
}

impl Stats {
    /// The page, for the routes, endpoints and certificates in use.
    pub fn page(&self, active: &Active, now: std::time::Instant) -> String {
        let table = &active.table;
        let mut out = String::new();
        let mut plain = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = write!(
                out,
                "# HELP meshd_gateway_{name} {help}\n# TYPE meshd_gateway_{name} {kind}\nmeshd_gateway_{name} {value}\n"
            );
        };
        plain("connections_accepted_total", "counter", "connections accepted", self.accepted.load(Relaxed));
        plain("connections_open", "gauge", "connections and sessions open", self.open.load(Relaxed));
        plain(
            "connections_over_limit_total",
            "counter",
            "closed because of a limit",
            self.over_limit.load(Relaxed),
        );
        plain("refused_total", "counter", "refused for what was sent", self.refused.load(Relaxed));
        plain(
            "unrouted_total",
            "counter",
            "requests and connections that no route fits",
            self.unrouted.load(Relaxed),
        );
        plain("config_applied_total", "counter", "configurations taken", self.applied.load(Relaxed));
        plain("config_rejected_total", "counter", "configurations refused", self.rejected.load(Relaxed));
        plain("config_generation", "gauge", "number of the configuration in use", table.generation);
        plain(
            "access_log_lost_total",
            "counter",
            "access log lines lost to a full queue",
            self.log_lost.load(Relaxed),
        );
        routes(&mut out, table);
        endpoints(&mut out, table, now);
        out.push_str("# HELP meshd_gateway_certificate_end_seconds when a certificate ends, since 1970\n# TYPE meshd_gateway_certificate_end_seconds gauge\n");
        for (name, end) in active.material.ends() {
            let _ = writeln!(
                out,
                "meshd_gateway_certificate_end_seconds{{certificate=\"{}\"}} {}",
                escaped(name),
                end.as_secs()
            );
        }
        out
    }
}

fn routes(out: &mut String, table: &Table) {
    out.push_str("# HELP meshd_gateway_answers_total answers by route and status class (0: connections)\n# TYPE meshd_gateway_answers_total counter\n");
    for (route, stats) in &table.stats {
        for (class, count) in
            stats.by_class.iter().enumerate().map(|(i, n)| (i, n.load(Relaxed))).filter(|(_, n)| *n > 0)
        {
            let _ = writeln!(
                out,
                "meshd_gateway_answers_total{{route=\"{}\",class=\"{class}xx\"}} {count}",
                escaped(route)
            );
        }
    }
    for (name, help, pick) in [
        ("bytes_up_total", "bytes from clients", 0),
        ("bytes_down_total", "bytes to clients", 1),
        ("retries_total", "further tries", 2),
    ] {
        let _ = write!(out, "# HELP meshd_gateway_{name} {help}\n# TYPE meshd_gateway_{name} counter\n");
        for (route, stats) in &table.stats {
            let value = [&stats.up, &stats.down, &stats.retries][pick].load(Relaxed);
            let _ = writeln!(out, "meshd_gateway_{name}{{route=\"{}\"}} {value}", escaped(route));
        }
    }
    out.push_str("# HELP meshd_gateway_seconds time to the end of the answer\n# TYPE meshd_gateway_seconds histogram\n");
    for (route, stats) in &table.stats {
        let route = escaped(route);
        let mut sum = 0;
        for (bound, bucket) in BOUNDS.iter().zip(&stats.buckets) {
            sum += bucket.load(Relaxed);
            let _ = writeln!(
                out,
                "meshd_gateway_seconds_bucket{{route=\"{route}\",le=\"{}\"}} {sum}",
                *bound as f64 / 1000.0
            );
        }
        sum += stats.buckets[BOUNDS.len()].load(Relaxed);
        let seconds = stats.micros.load(Relaxed) as f64 / 1e6;
        let _ = write!(
            out,
            "meshd_gateway_seconds_bucket{{route=\"{route}\",le=\"+Inf\"}} {sum}\nmeshd_gateway_seconds_sum{{route=\"{route}\"}} {seconds}\nmeshd_gateway_seconds_count{{route=\"{route}\"}} {sum}\n"
        );
    }
}

fn endpoints(out: &mut String, table: &Table, now: std::time::Instant) {
    out.push_str("# HELP meshd_gateway_endpoint_well whether an endpoint gets requests\n# TYPE meshd_gateway_endpoint_well gauge\n");
    let mut names: Vec<_> = table.backends.keys().collect();
    names.sort();
    for name in names {
        for endpoint in table.backends[name].endpoints() {
            let well = u8::from(endpoint.wellness.is_well(now));
            let _ = writeln!(
                out,
                "meshd_gateway_endpoint_well{{backend=\"{}\",endpoint=\"{}\"}} {well}",
                escaped(name),
                endpoint.addr
            );
        }
    }
}

/// A label value (Prometheus text format: backslash, quote and newline are escaped).
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
