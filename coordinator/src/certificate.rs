//! What TLS shows: the coordinator's own certificate, or one that an authority issued for a name.
//!
//! The own one (self-made, or an admin's files) is always there. An issued one stands before it for its names
//! only: whoever comes by address sees the own one, whose fingerprint was printed. It is swapped for new
//! connections; open ones stay as they are. One that has ended is not shown any more.
//!
//! Nothing is ordered, read or written here, and keys are never logged.

use crate::clock;
use meshd_proto::UnixSeconds;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The protocol name of a TLS-ALPN-01 check (RFC 8737 §3).
pub const ALPN_PROOF: &[u8] = b"acme-tls/1";

/// Where the own certificate is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Made here: a browser warns, and people compare its fingerprint.
    Here,
    /// An admin's files.
    Files,
}

/// One certificate of an authority.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The names that it is shown for.
    pub names: Vec<String>,
    /// The chain with its key.
    pub key: Arc<CertifiedKey>,
    /// When it ends.
    pub ends: UnixSeconds,
}

/// Why there is no newer certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// In words, with what to do.
    pub what: String,
    /// When it is tried again.
    pub again: UnixSeconds,
}

#[derive(Default)]
struct State {
    /// Names that an authority is to certify.
    wanted: Vec<String>,
    issued: Option<Issued>,
    trouble: Option<Trouble>,
    /// HTTP-01: answers by token.
    answers: HashMap<String, String>,
    /// TLS-ALPN-01: certificates by name.
    proofs: HashMap<String, Arc<CertifiedKey>>,
}

/// The certificates of this process.
pub struct Certificates {
    own: Option<Arc<CertifiedKey>>,
    fingerprint: String,
    made: Made,
    state: RwLock<State>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Certificates {
    /// With an own certificate and its SHA-256 fingerprint.
    pub fn new(own: Arc<CertifiedKey>, fingerprint: String, made: Made) -> Self {
        Self { own: Some(own), fingerprint, made, state: RwLock::default() }
    }

    /// Without any: nothing is served over TLS.
    pub fn none() -> Self {
        Self { own: None, fingerprint: String::new(), made: Made::Files, state: RwLock::default() }
    }

    /// SHA-256 of the own certificate; empty where there is none.
    pub fn own_fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The fingerprint that people have to compare where they come by name: none while that shows a
    /// certificate which browsers can check themselves.
    pub fn to_compare(&self, now: UnixSeconds) -> &str {
        if self.made == Made::Files || self.issued(now).is_some() { "" } else { &self.fingerprint }
    }

    /// Where the own certificate is from.
    pub fn made(&self) -> Made {
        self.made
    }

    /// The names that an authority is to certify, in order.
    pub fn wanted(&self) -> Vec<String> {
        self.read().wanted.clone()
    }

    /// The issued certificate, while it holds.
    pub fn issued(&self, now: UnixSeconds) -> Option<Issued> {
        self.read().issued.clone().filter(|issued| now < issued.ends)
    }

    /// What is in the way of a newer one.
    pub fn trouble(&self) -> Option<Trouble> {
        self.read().trouble.clone()
    }

    pub(crate) fn want(&self, names: &[String]) {
        self.write().wanted = names.to_vec();
    }

    /// Shows another certificate from now on.
    pub(crate) fn put(&self, issued: Issued) {
        let mut state = self.write();
        state.issued = Some(issued);
        state.trouble = None;
    }

    pub(crate) fn fail(&self, trouble: Trouble) {
        self.write().trouble = Some(trouble);
    }

    /// The answer to an HTTP-01 check, while one is expected.
    pub(crate) fn answer(&self, token: &str) -> Option<String> {
        self.read().answers.get(token).cloned()
    }

    pub(crate) fn expect_http(&self, token: &str, answer: &str) {
        self.write().answers.insert(token.to_owned(), answer.to_owned());
    }

    pub(crate) fn expect_tls(&self, name: &str, proof: Arc<CertifiedKey>) {
        self.write().proofs.insert(name.to_owned(), proof);
    }

    /// No check is expected any more.
    pub(crate) fn forget_proofs(&self) {
        let mut state = self.write();
        state.answers.clear();
        state.proofs.clear();
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let state = self.read();
        if hello.alpn().is_some_and(|mut offered| offered.any(|p| p == ALPN_PROOF)) {
            return state.proofs.get(&name?).cloned();
        }
        let issued = state.issued.as_ref().zip(name).filter(|(issued, name)| {
            issued.names.iter().any(|known| known == name) && clock::unix_now() < issued.ends
        });
        issued.map(|(issued, _)| Arc::clone(&issued.key)).or_else(|| self.own.clone())
    }
}
