//! Certificates by ACME (RFC 8555): answers to challenges.

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
}
