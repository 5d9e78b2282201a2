//! Orders: which certificates are due, how names are proved, and what happens when it fails.

use super::Store;
use super::client::Client;
use crate::clock;
use crate::runtime::Shared;
use crate::tls;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder,
    OrderStatus, RetryPolicy,
};
use meshd_proto::gateway::{Acme, AcmeChallenge, Certificate, GatewayConfig};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often due dates are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// After the first failure; doubled with each, up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// For the authority to check a proof, and to issue.
const PATIENCE: Duration = Duration::from_secs(120);

/// A way to show that a name is ours. DNS-01 joins with the public zone.
pub trait Proof: Send + Sync {
    /// Shows `answer` (RFC 8555 §8.1) for `token` of `name`; `digest` is its SHA-256.
    ///
    /// # Errors
    /// When it cannot be shown.
    fn show(&self, name: &str, token: &str, answer: &str, digest: &[u8]) -> Result<(), String>;
    /// Takes back what was shown for `name`.
    fn clear(&self, name: &str);
    /// How the authority calls it.
    fn kind(&self) -> ChallengeType;
}

/// The task that orders and renews.
#[derive(Debug)]
pub struct Orders {
    config: watch::Sender<GatewayConfig>,
}

impl Orders {
    /// Starts with `config`.
    pub fn start(
        config: &GatewayConfig,
        store: &Store,
        shared: &Arc<Shared>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let (sender, receiver) = watch::channel(config.clone());
        tasks.spawn(run(receiver, store.clone(), Arc::clone(shared)));
        Self { config: sender }
    }

    /// Goes on with `config`.
    pub fn follow(&self, config: &GatewayConfig) {
        self.config.send_replace(config.clone());
    }
}

async fn run(mut configs: watch::Receiver<GatewayConfig>, store: Store, shared: Arc<Shared>) {
    // Failures in a row and when to try again, by certificate.
    let mut pauses: HashMap<String, (u32, Duration)> = HashMap::new();
    loop {
        let config = configs.borrow_and_update().clone();
        if let Some(acme) = &config.acme {
            for certificate in config.certificates.iter().filter(|c| c.acme) {
                let now = clock::wall();
                let waiting = pauses.get(&certificate.name).is_some_and(|(_, until)| now < *until);
                if waiting || store.due(certificate).is_some_and(|due| now < due) {
                    continue;
                }
                tracing::info!(certificate = certificate.name, "ordering a certificate");
                match order(acme, certificate, &store, &shared).await {
                    Ok(()) => {
                        tracing::info!(certificate = certificate.name, "certificate issued");
                        pauses.remove(&certificate.name);
                    }
                    Err(why) => {
                        let times = pauses.get(&certificate.name).map_or(0, |(times, _)| times + 1);
                        let pause = FIRST.saturating_mul(1 << times.min(16)).min(LONGEST);
                        tracing::warn!(
                            certificate = certificate.name,
                            seconds = pause.as_secs(),
                            "no certificate: {why}; trying again later"
                        );
                        pauses.insert(certificate.name.clone(), (times, clock::wall() + pause));
                    }
                }
            }
        }
        tokio::select! {
            changed = configs.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn order(
    acme: &Acme,
    certificate: &Certificate,
    store: &Store,
    shared: &Arc<Shared>,
) -> Result<(), String> {
    let proof: Box<dyn Proof> = match acme.challenge {
        AcmeChallenge::Http01 => Box::new(Http01(Arc::clone(shared))),
        AcmeChallenge::TlsAlpn01 => Box::new(TlsAlpn01(Arc::clone(shared))),
    };
    let result = Box::pin(place(acme, certificate, store, &*proof)).await;
    for name in &certificate.hostnames {
        proof.clear(name.as_str());
    }
    result
}

async fn place(
    acme: &Acme,
    certificate: &Certificate,
    store: &Store,
    proof: &dyn Proof,
) -> Result<(), String> {
    let account = account(acme, store).await?;
    let names: Vec<String> = certificate.hostnames.iter().map(|n| n.as_str().to_owned()).collect();
    let identifiers: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(said)?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(said)?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            other => return Err(format!("an authorization is {other:?}")),
        }
        let mut challenge = authorization
            .challenge(proof.kind())
            .ok_or_else(|| "the authority does not offer this kind of proof".to_owned())?;
        let answer = challenge.key_authorization();
        let name = challenge.identifier().to_string();
        proof.show(&name, &challenge.token, answer.as_str(), answer.digest().as_ref())?;
        challenge.set_ready().await.map_err(said)?;
    }
    let patience = RetryPolicy::new().timeout(PATIENCE);
    let status = order.poll_ready(&patience).await.map_err(said)?;
    if status != OrderStatus::Ready {
        return Err(format!(
            "the authority could not verify the names ({status:?}): do they resolve to this gateway, and is its port reachable?"
        ));
    }
    let key = KeyPair::generate().map_err(|e| e.to_string())?;
    let mut params = CertificateParams::new(names).map_err(|e| e.to_string())?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(|e| e.to_string())?;
    order.finalize_csr(request.der()).await.map_err(said)?;
    let chain = order.poll_certificate(&patience).await.map_err(said)?;
    let key = key.serialize_pem();
    tls::certified(chain.as_bytes(), key.as_bytes())?;
    store.keep(&certificate.name, &chain, &key).map_err(|e| format!("cannot keep the certificate: {e}"))
}

fn said(error: instant_acme::Error) -> String {
    error.to_string()
}

/// The account at the authority, made at the first order.
async fn account(acme: &Acme, store: &Store) -> Result<Account, String> {
    let trust = tls::trust(acme.ca_file.as_deref())?;
    let builder = Account::builder_with_http(Box::new(Client::new(trust)));
    if let Some(kept) = store.account(&acme.directory)
        && let Ok(credentials) = serde_json::from_slice::<AccountCredentials>(&kept)
    {
        return builder.from_credentials(credentials).await.map_err(said);
    }
    let contact: Vec<String> = acme.contact.iter().map(|c| format!("mailto:{c}")).collect();
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder.create(&new, acme.directory.clone(), None).await.map_err(said)?;
    let text = serde_json::to_vec(&credentials).map_err(|e| e.to_string())?;
    store.keep_account(&acme.directory, &text).map_err(|e| format!("cannot keep the account: {e}"))?;
    Ok(account)
}

struct Http01(Arc<Shared>);

impl Proof for Http01 {
    fn show(&self, name: &str, token: &str, answer: &str, _: &[u8]) -> Result<(), String> {
        self.0.challenges.expect_http(name, token, answer);
        Ok(())
    }

    fn clear(&self, name: &str) {
        self.0.challenges.forget(name);
    }

    fn kind(&self) -> ChallengeType {
        ChallengeType::Http01
    }
}

struct TlsAlpn01(Arc<Shared>);

impl Proof for TlsAlpn01 {
    fn show(&self, name: &str, _: &str, _: &str, digest: &[u8]) -> Result<(), String> {
        let key = KeyPair::generate().map_err(|e| e.to_string())?;
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(|e| e.to_string())?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let made = params.self_signed(&key).map_err(|e| e.to_string())?;
        // Its extension is critical and known to authorities only (RFC 8737 §3): it is shown unchecked.
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
        let signer = any_supported_type(&key).map_err(|e| e.to_string())?;
        let pair = Arc::new(CertifiedKey::new(vec![made.der().clone()], signer));
        self.0.challenges.expect_tls(name, tls::server_config(Arc::new(Only(pair)), &[b"acme-tls/1"]));
        Ok(())
    }

    fn clear(&self, name: &str) {
        self.0.challenges.forget(name);
    }

    fn kind(&self) -> ChallengeType {
        ChallengeType::TlsAlpn01
    }
}

#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
