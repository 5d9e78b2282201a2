//! Certificates by ACME (RFC 8555): proofs, keys on disk, orders and renewal.
//!
//! Keys are made here, kept under the state folder with mode 0600, and never leave the machine. A listener
//! whose certificate is not there yet shows a stand-in made on the spot. DNS-01, and with it wildcards, comes
//! with the public zone: [`Proof`] is the seam.

mod client;
mod order;
mod store;

pub use order::{Orders, Proof};
pub use store::{StandIn, Store};

use rustls::ServerConfig;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What is answered to a certificate authority that asks whether a name is ours.
#[derive(Default)]
pub struct Challenges {
    inner: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    /// HTTP-01: by host and token.
    http: HashMap<(String, String), String>,
    /// TLS-ALPN-01: by host.
    tls: HashMap<String, Arc<ServerConfig>>,
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").finish_non_exhaustive()
    }
}

impl Challenges {
    /// The answer for `token` at `host`, while one is expected.
    pub fn http(&self, host: &str, token: &str) -> Option<String> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.http.is_empty() {
            return None;
        }
        inner.http.get(&(host.to_owned(), token.to_owned())).cloned()
    }

    /// The certificate for `host` that a TLS-ALPN-01 check is to see.
    pub fn tls(&self, host: &str) -> Option<Arc<ServerConfig>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).tls.get(host).cloned()
    }

    fn expect_http(&self, host: &str, token: &str, answer: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.http.insert((host.to_owned(), token.to_owned()), answer.to_owned());
    }

    fn expect_tls(&self, host: &str, config: Arc<ServerConfig>) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).tls.insert(host.to_owned(), config);
    }

    fn forget(&self, host: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.http.retain(|(name, _), _| name != host);
        inner.tls.remove(host);
    }
}
