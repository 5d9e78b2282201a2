//! Whether endpoints are well: by what happens to requests (passive), and by asking (active, optional).
//!
//! A passive fault ejects for a while that doubles, an active one until checks succeed again. When no
//! endpoint of a backend is well, all ready ones are used: a guess is better than a certain failure.

use crate::clock;
use crate::runtime::Shared;
use crate::table::{Backend, Endpoint};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Faults in a row until an endpoint is left alone.
const FAULTS: u32 = 5;
/// How long the first time; doubled each time, up to `LONGEST`.
const FIRST: Duration = Duration::from_secs(1);
/// At most this long.
const LONGEST: Duration = Duration::from_secs(60);

static START: LazyLock<Instant> = LazyLock::new(clock::now);

/// How an endpoint is.
#[derive(Debug, Default)]
pub struct Wellness {
    faults: AtomicU32,
    ejections: AtomicU32,
    /// Milliseconds after START.
    until: AtomicU64,
    /// By active checks.
    sick: AtomicBool,
}

impl Wellness {
    /// Whether it gets new requests.
    pub fn is_well(&self, now: Instant) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        !self.sick.load(Ordering::Relaxed) && (until == 0 || millis(now) >= until)
    }

    /// A request got through.
    pub fn succeeded(&self) {
        if self.faults.load(Ordering::Relaxed) != 0 {
            self.faults.store(0, Ordering::Relaxed);
            self.ejections.store(0, Ordering::Relaxed);
        }
    }

    /// A connection failed, broke, or the answer was 502, 503 or 504.
    pub fn failed(&self, now: Instant, connecting: bool) {
        // An endpoint that refuses connections is gone; one bad answer is not yet a pattern.
        let weight = if connecting { FAULTS.div_ceil(2) } else { 1 };
        let faults = self.faults.fetch_add(weight, Ordering::Relaxed) + weight;
        if faults >= FAULTS && self.is_well(now) {
            let times = self.ejections.fetch_add(1, Ordering::Relaxed).min(16);
            let pause = FIRST.saturating_mul(1 << times).min(LONGEST);
            self.until.store(millis(now + pause), Ordering::Relaxed);
            self.faults.store(FAULTS - 1, Ordering::Relaxed);
        }
    }

    fn checked(&self, well: bool) {
        self.sick.store(!well, Ordering::Relaxed);
        if well {
            self.until.store(0, Ordering::Relaxed);
            self.succeeded();
        }
    }
}

fn millis(at: Instant) -> u64 {
    at.saturating_duration_since(*START).as_millis() as u64 + 1
}

/// Asks the endpoints of `backend` in turn, until the table holds another backend of that name.
pub(crate) async fn watch(shared: Arc<Shared>, backend: Arc<Backend>) {
    let Some(health) = backend.config.health.clone() else { return };
    let mut counts: Vec<(u32, u32)> = vec![(0, 0); backend.endpoints().count()];
    loop {
        let current = shared.active.load();
        if !current.table.backends.get(&backend.config.name).is_some_and(|now| Arc::ptr_eq(now, &backend)) {
            return;
        }
        drop(current);
        for (endpoint, (good, bad)) in backend.endpoints().zip(&mut counts) {
            let limit = Duration::from_millis(health.timeout_ms);
            let one = ask(&shared, &backend, endpoint, health.path.as_deref());
            if tokio::time::timeout(limit, one).await.unwrap_or(false) {
                (*good, *bad) = (good.saturating_add(1), 0);
            } else {
                (*good, *bad) = (0, bad.saturating_add(1));
            }
            if *good >= health.healthy {
                endpoint.wellness.checked(true);
            } else if *bad >= health.unhealthy {
                endpoint.wellness.checked(false);
            }
        }
        tokio::time::sleep(Duration::from_millis(health.interval_ms)).await;
    }
}

async fn ask(shared: &Shared, backend: &Backend, endpoint: &Endpoint, path: Option<&str>) -> bool {
    let Ok(stream) = shared.connect(backend, endpoint, None).await else { return false };
    let Some(path) = path else { return true };
    let Ok((mut sender, connection)) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await
    else {
        return false;
    };
    let request = Request::get(path).header(HOST, endpoint.addr.socket_addr().to_string()).body(Empty::new());
    let Ok(request) = request else { return false };
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        response = sender.send_request(request) => {
            response.is_ok_and(|r| r.status().is_success() || r.status().is_redirection())
        }
        _ = &mut connection => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_in_a_row_eject_for_a_while_that_doubles() {
        let start = clock::now();
        let well = Wellness::default();
        for _ in 0..FAULTS - 1 {
            well.failed(start, false);
        }
        assert!(well.is_well(start));
        well.succeeded();
        for _ in 0..FAULTS {
            well.failed(start, false);
        }
        assert!(!well.is_well(start));
        let later = start + FIRST + Duration::from_millis(1);
        assert!(well.is_well(later));
        well.failed(later, false);
        assert!(!well.is_well(later + FIRST + Duration::from_millis(1)));
        assert!(well.is_well(later + FIRST * 2 + Duration::from_millis(1)));
    }

    #[test]
    fn refused_connections_eject_sooner_and_checks_overrule() {
        let now = clock::now();
        let well = Wellness::default();
        well.failed(now, true);
        well.failed(now, true);
        assert!(!well.is_well(now));
        well.checked(true);
        assert!(well.is_well(now));
        well.checked(false);
        assert!(!well.is_well(now + LONGEST));
    }
}
