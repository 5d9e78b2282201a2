//! One order: account, proofs of the names, key, certificate.

use super::client::Client;
use super::{Acme, Challenge, folder};
use crate::certificate::{Certificates, Issued};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use std::sync::Arc;
use std::time::Duration;

/// For the authority to check a proof, and to issue.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The authority was not reached: soon again.
    #[error("{0}")]
    Silence(String),
    /// It said no, or what it said cannot be used: again later.
    #[error("{0}")]
    Refusal(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Other(why) => Self::Silence(format!("the authority cannot be reached: {why}")),
            Error::Timeout(_) => Self::Silence("the authority took too long".to_owned()),
            said => Self::Refusal(format!("the authority says: {said}")),
        }
    }
}

fn unusable(what: &str, why: impl std::fmt::Display) -> Failure {
    Failure::Refusal(format!("{what}: {why}"))
}

pub(super) async fn place(acme: &Acme, certificates: &Certificates) -> Result<Issued, Failure> {
    let account = account(acme).await?;
    let names = acme.texts();
    let identifiers: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    prove(acme, &mut order, certificates).await?;
    let patience = RetryPolicy::new().timeout(PATIENCE);
    let status = order.poll_ready(&patience).await?;
    if status != OrderStatus::Ready {
        let port = if acme.challenge == Challenge::TlsAlpn01 { 443 } else { 80 };
        return Err(Failure::Refusal(format!(
            "the authority could not verify {}: does the name lead to this machine, and is its port {port} open to the internet?",
            names.join(", ")
        )));
    }
    let key = KeyPair::generate().map_err(|e| unusable("cannot make a key", e))?;
    let mut params = CertificateParams::new(names).map_err(|e| unusable("a name cannot be certified", e))?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(|e| unusable("cannot make the request", e))?;
    order.finalize_csr(request.der()).await?;
    let chain = order.poll_certificate(&patience).await?;
    let key = key.serialize_pem();
    let issued = folder::issued(format!("{chain}\n{key}").as_bytes())
        .map_err(|why| unusable("what the authority issued cannot be used", why))?;
    acme.folder.keep(&chain, &key).map_err(|e| unusable("cannot keep the certificate", e))?;
    Ok(issued)
}

async fn prove(
    acme: &Acme,
    order: &mut instant_acme::Order,
    certificates: &Certificates,
) -> Result<(), Failure> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            other => return Err(Failure::Refusal(format!("an authorization is {other:?}"))),
        }
        let kind = match acme.challenge {
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Challenge::Http01 => ChallengeType::Http01,
        };
        let mut challenge = authorization
            .challenge(kind)
            .ok_or_else(|| Failure::Refusal(format!("the authority does not offer {}", acme.challenge)))?;
        let answer = challenge.key_authorization();
        match acme.challenge {
            Challenge::Http01 => certificates.expect_http(&challenge.token, answer.as_str()),
            Challenge::TlsAlpn01 => {
                let name = challenge.identifier().to_string();
                let proof = tls_proof(&name, answer.digest().as_ref())
                    .map_err(|why| unusable("cannot make the proof", why))?;
                certificates.expect_tls(&name, Arc::new(proof));
            }
        }
        challenge.set_ready().await?;
    }
    Ok(())
}

/// A self-made certificate with the digest inside (RFC 8737 §3).
fn tls_proof(name: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let key = KeyPair::generate().map_err(|e| e.to_string())?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(|e| e.to_string())?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let made = params.self_signed(&key).map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
    let signer = any_supported_type(&key).map_err(|e| e.to_string())?;
    Ok(CertifiedKey::new(vec![made.der().clone()], signer))
}

/// The account at the authority, made at the first order.
async fn account(acme: &Acme) -> Result<Account, Failure> {
    let client = Client::new(acme.ca.as_deref()).map_err(|why| unusable("no authority is trusted", why))?;
    let builder = Account::builder_with_http(Box::new(client));
    if let Some(kept) = acme.folder.account(&acme.directory)
        && let Ok(credentials) = serde_json::from_slice::<AccountCredentials>(&kept)
    {
        return Ok(builder.from_credentials(credentials).await?);
    }
    let contact: Vec<String> = acme.contact.iter().map(|c| format!("mailto:{c}")).collect();
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder.create(&new, acme.directory.clone(), None).await?;
    let text = serde_json::to_vec(&credentials).map_err(|e| unusable("cannot keep the account", e))?;
    acme.folder.keep_account(&acme.directory, &text).map_err(|e| unusable("cannot keep the account", e))?;
    Ok(account)
}
