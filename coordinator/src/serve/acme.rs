//! A certificate from an authority by ACME (RFC 8555), where a name is given: ordered, kept, renewed.
//!
//! The name is proved on the coordinator's own port by TLS-ALPN-01 where machines outside reach that as 443,
//! else by HTTP-01 on port 80, which is open for as long as a check may come. Account and certificate lie in
//! the state directory with mode 0600 and never leave it. It is ordered again after two thirds of its life;
//! what is shown changes for new connections only.
//!
//! Nothing of the mesh waits for it: without an answer of the authority the own certificate stays, the log
//! warns, and the status says why and when it is tried again.

mod client;
mod folder;
mod options;
mod order;

pub use options::{AcmeOptions, Challenge};

use super::connection::Shared;
use super::listen;
use super::outside::Outside;
use crate::certificate::{Certificates, Trouble};
use crate::clock;
use anyhow::Result;
use folder::Folder;
use meshd_proto::{DnsName, UnixSeconds};
use order::Failure;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often the due date is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// A whole order.
const PATIENCE: Duration = Duration::from_secs(300);
/// Until the next try, doubled with each failure: authorities that refuse count how often they are asked.
const AFTER_SILENCE: u64 = 10;
const AFTER_REFUSAL: u64 = 300;
const LONGEST: u64 = 6 * 3600;

/// What is ordered, where, and how the names are proved.
pub(super) struct Acme {
    names: Vec<DnsName>,
    directory: String,
    contact: Vec<String>,
    ca: Option<std::path::PathBuf>,
    challenge: Challenge,
    http: Option<SocketAddr>,
    folder: Folder,
}

impl Acme {
    /// As an admin asked for; `None`: no name was given. A kept certificate is shown at once.
    pub(super) fn prepare(
        options: &AcmeOptions,
        state_dir: &Path,
        outside: &Outside,
        certificates: &Certificates,
    ) -> Result<Option<Self>> {
        if options.acme.is_empty() {
            return Ok(None);
        }
        let acme = Self {
            names: options.acme.clone(),
            directory: options.directory()?,
            contact: options.acme_contact.clone(),
            ca: options.acme_ca.clone(),
            challenge: options.acme_challenge.unwrap_or_else(|| fitting(&options.acme, outside)),
            http: options.acme_http,
            folder: Folder::new(state_dir)?,
        };
        certificates.want(&acme.texts());
        if let Some(kept) = acme.folder.certificate(&acme.texts()) {
            certificates.put(kept);
        }
        Ok(Some(acme))
    }

    /// How the names are proved.
    pub(super) fn challenge(&self) -> Challenge {
        self.challenge
    }

    fn texts(&self) -> Vec<String> {
        self.names.iter().map(ToString::to_string).collect()
    }

    /// Orders and renews until the shutdown.
    pub(super) async fn run(self, shared: Arc<Shared>) {
        let (certificates, mut failures, mut not_before) = (&shared.certificates, 0_u32, UnixSeconds(0));
        loop {
            let now = clock::unix_now();
            if now >= not_before && self.folder.due(&self.texts()).is_none_or(|due| now >= due) {
                tracing::info!(names = %self.texts().join(" "), proof = %self.challenge, "ordering a certificate");
                match self.attempt(&shared).await {
                    Ok(()) => failures = 0,
                    Err(failure) => {
                        let pause = failure.pause(failures);
                        failures += 1;
                        not_before = UnixSeconds(clock::unix_now().0 + pause);
                        let stands = if certificates.issued(now).is_some() { "the last" } else { "the own" };
                        tracing::warn!(
                            "no certificate from the authority: {failure}; {stands} one stays, trying again in {pause} s"
                        );
                        certificates.fail(Trouble { what: failure.to_string(), again: not_before });
                    }
                }
            }
            if shared.stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                return;
            }
        }
    }

    async fn attempt(&self, shared: &Arc<Shared>) -> Result<(), Failure> {
        let order = tokio::time::timeout(PATIENCE, order::place(self, &shared.certificates));
        let done = tokio::select! {
            () = shared.stop.cancelled() => return Ok(()),
            done = order => done.unwrap_or(Err(Failure::Silence("the order took too long".to_owned()))),
            () = self.open_http(shared) => return Ok(()),
        };
        shared.certificates.forget_proofs();
        let issued = done?;
        tracing::info!(names = %issued.names.join(" "), until = %clock::show(issued.ends), "certificate issued");
        shared.certificates.put(issued);
        Ok(())
    }

    /// Listens where an authority looks for HTTP-01, with the coordinator's own plain HTTP. Ends with the shutdown.
    async fn open_http(&self, shared: &Arc<Shared>) {
        if self.challenge == Challenge::Http01 {
            match listen::for_checks(self.http) {
                Ok(listener) => return listen::accept_loop(listener, shared.clone()).await,
                Err(error) => tracing::info!(
                    %error,
                    "cannot listen for the authority's check: what listens there has to pass /.well-known/acme-challenge/ on to this coordinator"
                ),
            }
        }
        shared.stop.cancelled().await;
    }
}

/// TLS-ALPN-01 goes to port 443 and nowhere else (RFC 8737 §3).
fn fitting(names: &[DnsName], outside: &Outside) -> Challenge {
    let reached = |name: &DnsName| outside.addresses.iter().any(|a| *a == format!("{name}:443"));
    if names.iter().all(reached) { Challenge::TlsAlpn01 } else { Challenge::Http01 }
}

impl Failure {
    fn pause(&self, failures: u32) -> u64 {
        let first = match self {
            Self::Silence(_) => AFTER_SILENCE,
            Self::Refusal(_) => AFTER_REFUSAL,
        };
        first.saturating_mul(1 << failures.min(16)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::outside;

    #[test]
    fn the_proof_fits_the_port_that_machines_outside_use() {
        let mesh = meshd_proto::MeshPrefixes {
            v4: "100.71.0.0/16".parse().unwrap(),
            v6: "fd7a:1:2::/48".parse().unwrap(),
        };
        let kind = |public: &str| {
            let found = outside::find(&[public.to_owned()], 443, &mesh).unwrap();
            fitting(&["vpn.example.com".parse().unwrap()], &found)
        };
        assert_eq!(kind("vpn.example.com"), Challenge::TlsAlpn01);
        assert_eq!(kind("vpn.example.com:8443"), Challenge::Http01);
        assert_eq!(kind("other.example.com"), Challenge::Http01);
    }

    #[test]
    fn an_authority_that_refuses_is_asked_less_often_than_one_that_is_away() {
        let (away, refused) = (Failure::Silence(String::new()), Failure::Refusal(String::new()));
        assert_eq!([away.pause(0), away.pause(1), away.pause(40)], [10, 20, 6 * 3600]);
        assert_eq!([refused.pause(0), refused.pause(1), refused.pause(40)], [300, 600, 6 * 3600]);
    }
}
